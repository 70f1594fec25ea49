"""What is done with storages that can do no more than the contract asks, and with those that can."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest

from bfrepo.storage.abilities import delete_limit, delete_many, extend_lock, locks, present, take, takes
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.cache import ObjectCache
from bfrepo.storage.caching import CachingBackend
from bfrepo.storage.limit import LimitedBackend, Limits
from bfrepo.storage.memory import MemoryBackend
from bfrepo.storage.retry import RetryingBackend, RetryPolicy
from tests.storage.conformance import PACK, name_of, names, stored
from tests.support.repositories import FakeClock


class Able(MemoryBackend):
    """A backend with every ability."""

    delete_limit = 7
    locks = True
    takes = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[object] = []

    def delete_many(self, kind: ObjectKind, names: Sequence[str]) -> None:
        self.asked.append((kind, list(names)))

    def extend_lock(self, kind: ObjectKind, name: str) -> None:
        self.asked.append((kind, name))

    def present(self, kind: ObjectKind, names: Collection[str]) -> set[str]:
        self.asked.append((kind, set(names)))
        return set(names)

    def take(self, kind: ObjectKind, name: str) -> bool:
        self.asked.append(("take", kind, name))
        return True


WRAPPERS: dict[str, Callable[[Backend, Path], Backend]] = {
    "nothing": lambda backend, folder: backend,
    "retry": lambda backend, folder: RetryingBackend(backend, RetryPolicy()),
    "limit": lambda backend, folder: LimitedBackend(backend, Limits(None, None)),
    "cache": lambda backend, folder: CachingBackend(backend, ObjectCache(folder, FakeClock())),
    "all": lambda backend, folder: WRAPPERS["cache"](WRAPPERS["retry"](backend, folder), folder),
}


def test_without_abilities() -> None:
    """A plain backend deletes one by one, and has no locks to extend."""
    backend = MemoryBackend()
    gone = [stored(backend, PACK, data) for data in (b"one", b"two")]
    kept = stored(backend, PACK, b"three")
    delete_many(backend, PACK, [*gone, name_of(b"never there")])
    extend_lock(backend, PACK, kept)
    assert names(backend, PACK) == {kept}
    assert (delete_limit(backend), locks(backend)) == (1, False)
    assert present(backend, PACK, [kept, *gone]) == {kept}
    assert not takes(backend)
    with pytest.raises(TypeError, match="does not tell"):
        take(backend, PACK, kept)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_with_abilities(wrap: Callable[[Backend, Path], Backend], tmp_path: Path) -> None:
    """A backend that can do more is asked to, whatever it is wrapped in."""
    able = Able()
    backend = wrap(able, tmp_path)
    delete_many(backend, PACK, ["a", "b"])
    extend_lock(backend, PACK, "c")
    assert present(backend, PACK, ["d"]) == {"d"}
    assert take(backend, PACK, "e")
    assert able.asked == [(PACK, ["a", "b"]), (PACK, "c"), (PACK, {"d"}), ("take", PACK, "e")]
    assert (delete_limit(backend), locks(backend), takes(backend)) == (7, True, True)
