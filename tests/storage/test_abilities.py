"""What is done with storages that can do no more than the contract asks, and with those that can."""

from __future__ import annotations

from collections.abc import Sequence

from bfrepo.storage.abilities import delete_limit, delete_many, extend_lock, locks
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.storage.conformance import PACK, name_of, names, stored


class Able(MemoryBackend):
    """A backend with every ability."""

    delete_limit = 7
    locks = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[object] = []

    def delete_many(self, kind: ObjectKind, names: Sequence[str]) -> None:
        self.asked.append((kind, list(names)))

    def extend_lock(self, kind: ObjectKind, name: str) -> None:
        self.asked.append((kind, name))


def test_without_abilities() -> None:
    """A plain backend deletes one by one, and has no locks to extend."""
    backend = MemoryBackend()
    gone = [stored(backend, PACK, data) for data in (b"one", b"two")]
    kept = stored(backend, PACK, b"three")
    delete_many(backend, PACK, [*gone, name_of(b"never there")])
    extend_lock(backend, PACK, kept)
    assert names(backend, PACK) == {kept}
    assert (delete_limit(backend), locks(backend)) == (1, False)


def test_with_abilities() -> None:
    """A backend that can do more is asked to."""
    backend = Able()
    delete_many(backend, PACK, ["a", "b"])
    extend_lock(backend, PACK, "c")
    assert backend.asked == [(PACK, ["a", "b"]), (PACK, "c")]
    assert (delete_limit(backend), locks(backend)) == (7, True)
