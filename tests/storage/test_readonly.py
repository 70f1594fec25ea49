from __future__ import annotations

from collections.abc import Callable

import pytest

from bfrepo.core.errors import StorageDenied
from bfrepo.storage.base import ObjectInfo, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from bfrepo.storage.readonly import ReadOnlyBackend
from tests.storage.conformance import PACK, name_of, stored


def test_reads_pass_through() -> None:
    """Everything that only looks works as on the backend inside."""
    inner = MemoryBackend()
    name = stored(inner, PACK, b"content")
    backend = ReadOnlyBackend(inner)
    buffer = bytearray(3)
    backend.read_into(PACK, name, 4, memoryview(buffer))
    assert list(backend.list(PACK)) == [ObjectInfo(name, 7)]
    assert (backend.size(PACK, name), backend.load(PACK, name)) == (7, b"content")
    assert (backend.read(PACK, name, 1, 2), bytes(buffer)) == (b"on", b"ent")
    assert (backend.location, backend.connections) == (inner.location, inner.connections)


def test_changes_are_refused() -> None:
    """Whatever would change the storage raises StorageDenied and changes nothing."""
    inner = MemoryBackend()
    name = stored(inner, PACK, b"content")
    backend = ReadOnlyBackend(inner)
    calls: list[Callable[[], object]] = [
        backend.create,
        lambda: backend.save(ObjectKind.CONFIG, "config", b"x"),
        lambda: backend.save(PACK, name_of(b"x"), b"x"),
        lambda: backend.upload(PACK),
        lambda: backend.delete(PACK, name),
    ]
    for call in calls:
        with pytest.raises(StorageDenied, match="reading only"):
            call()
    assert {kind: [info.name for info in inner.list(kind)] for kind in ObjectKind} == {
        kind: [name] if kind is PACK else [] for kind in ObjectKind
    }
