"""What some storages can do beyond the contract, and what is done instead with those that cannot.

A backend that has such an ability has its methods. A wrapper has them too, and calls the functions here for what it
wraps, so that the ability of one is not lost in the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Protocol, runtime_checkable

from bfrepo.core.units import MIB
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.spool import Spool

_PIECE: Final = MIB
_A_DISK_LIKES: Final = 2
"""Calls at once: one waits for the disk while the other copies."""


@runtime_checkable
class BatchDeleter(Protocol):
    """A backend that removes many objects with one request. Thread rule and errors are those of `Backend`."""

    @property
    def delete_limit(self) -> int:
        """How many objects one request removes."""

    def delete_many(self, kind: ObjectKind, names: Sequence[str]) -> None:
        """As `Backend.delete` for each of `names`, no more than `delete_limit`. An error leaves it open which went."""


@runtime_checkable
class Locker(Protocol):
    """A backend that locks objects against deletion for a time. Thread rule and errors are those of `Backend`."""

    @property
    def locks(self) -> bool:
        """Whether it was told to."""

    def extend_lock(self, kind: ObjectKind, name: str) -> None:
        """Lock an object for the whole time again, from now on. Does nothing where `locks` is False.

        Raises StorageObjectMissing, StorageDenied, StorageError.
        """


@runtime_checkable
class SpoolSender(Protocol):
    """A backend that takes a whole object from where it waits, rather than collect it once more for itself."""

    def send(self, kind: ObjectKind, name: str, spool: Spool, *, cold: bool) -> None:
        """As an upload of what is in `spool`, which stays as it is. Any kind but CONFIG. Raises what `save` raises."""


@runtime_checkable
class Prober(Protocol):
    """A backend that looks for a few objects with less work than it lists all. Errors are those of `Backend.list`."""

    def present(self, kind: ObjectKind, names: Collection[str]) -> set[str]:
        """Those of `names` that are there, each looked at after the call began."""


@runtime_checkable
class Taker(Protocol):
    """A backend whose deletions tell whether there was anything."""

    @property
    def takes(self) -> bool:
        """Whether that is so."""

    def take(self, kind: ObjectKind, name: str) -> bool:
        """As `Backend.delete`; whether the object was there. A second try may say no of what the first removed."""


@runtime_checkable
class PlaceRemover(Protocol):
    """A backend whose `create` makes directories, and that can remove them again."""

    def remove_place(self) -> None:
        """Undo `create` as far as nothing is in what it made. What cannot be removed stays."""


def is_far(backend: Backend) -> bool:
    """Whether a call takes long enough that it is worth saving, or making beside others: it likes more than a disk."""
    return backend.connections > _A_DISK_LIKES


def delete_limit(backend: Backend) -> int:
    """How many objects the backend removes at a time: 1 where it cannot do more."""
    return backend.delete_limit if isinstance(backend, BatchDeleter) else 1


def delete_many(backend: Backend, kind: ObjectKind, names: Sequence[str]) -> None:
    """Remove objects, with one request where the backend can. What one call takes is for `delete_limit` to say."""
    if isinstance(backend, BatchDeleter):
        backend.delete_many(kind, names)
        return
    for name in names:
        backend.delete(kind, name)


def locks(backend: Backend) -> bool:
    """Whether the backend locks what it stores, so that `extend_lock` has something to do."""
    return isinstance(backend, Locker) and backend.locks


def extend_lock(backend: Backend, kind: ObjectKind, name: str) -> None:
    """Lock an object for the whole time again. Nothing is done where the backend has no locks."""
    if isinstance(backend, Locker):
        backend.extend_lock(kind, name)


def present(backend: Backend, kind: ObjectKind, names: Collection[str]) -> set[str]:
    """Those of `names` that are there, by a listing where the backend knows nothing better."""
    if isinstance(backend, Prober):
        return backend.present(kind, names)
    return {info.name for info in backend.list(kind)}.intersection(names)


def takes(backend: Backend) -> bool:
    """Whether `take` tells anything by itself."""
    return isinstance(backend, Taker) and backend.takes


def take(backend: Backend, kind: ObjectKind, name: str) -> bool:
    """Remove an object; whether it was there. Only for a backend that `takes`."""
    if not isinstance(backend, Taker):
        raise TypeError(f"{type(backend).__name__} does not tell what it deletes")
    return backend.take(kind, name)


def send(backend: Backend, kind: ObjectKind, name: str, spool: Spool, *, cold: bool) -> None:
    """Store what is in a spool, by an upload where the backend cannot do better."""
    if isinstance(backend, SpoolSender):
        backend.send(kind, name, spool, cold=cold)
    else:
        send_by_upload(backend, kind, name, spool, cold=cold)


def send_by_upload(backend: Backend, kind: ObjectKind, name: str, spool: Spool, *, cold: bool) -> None:
    """Store what is in a spool, a piece at a time."""
    upload = backend.upload(kind, cold=cold)
    try:
        for offset in range(0, spool.size, _PIECE):
            upload.write(spool.read(offset, _PIECE))
        upload.commit(name)
    finally:
        upload.abort()


def remove_place(backend: Backend) -> None:
    """Undo `create` where that has left anything. What cannot be removed stays."""
    if isinstance(backend, PlaceRemover):
        backend.remove_place()
