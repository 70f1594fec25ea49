"""What a dry run writes to."""

from __future__ import annotations

from bfrepo.storage.base import ObjectInfo, ObjectKind
from bfrepo.storage.discard import DiscardingBackend
from bfrepo.storage.memory import MemoryBackend
from tests.storage.conformance import PACK, name_of, stored


def test_changes_vanish() -> None:
    """Whatever would change the storage is accepted and leaves it as it was."""
    inner = MemoryBackend()
    name = stored(inner, PACK, b"content")
    backend = DiscardingBackend(inner)
    backend.create()
    backend.save(ObjectKind.CONFIG, "config", b"x")
    upload = backend.upload(PACK)
    upload.write(b"more")
    upload.commit(name_of(b"more"))
    upload.abort()
    backend.delete(PACK, name)
    assert {kind: list(inner.list(kind)) for kind in ObjectKind} == {
        kind: [ObjectInfo(name, 7)] if kind is PACK else [] for kind in ObjectKind
    }


def test_reads_pass_through() -> None:
    """What is stored already can be read."""
    inner = MemoryBackend()
    name = stored(inner, PACK, b"content")
    assert DiscardingBackend(inner).load(PACK, name) == b"content"
