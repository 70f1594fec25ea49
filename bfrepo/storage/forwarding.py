"""What wrappers of backends have in common: what is not their concern goes on to what they wrap."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from bfrepo.core.protocols import Buffer
from bfrepo.storage.abilities import delete_limit, delete_many, extend_lock, locks, present, send, take, takes
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind, Upload
from bfrepo.storage.spool import Spool
from bfrepo.storage.warming import Archive, archive_of


class ForwardingBackend:
    """Passes every call on to `inner`, abilities beyond the contract included: see `Backend`, `abilities`, `warming`.

    Thread rule and errors are those of `inner`.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    @property
    def location(self) -> str:
        """Where the inner backend is."""
        return self._inner.location

    @property
    def connections(self) -> int:
        """As many as the inner backend's."""
        return self._inner.connections

    def create(self) -> None:
        """See `Backend.create`."""
        self._inner.create()

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        """See `Backend.list`."""
        return self._inner.list(kind)

    def size(self, kind: ObjectKind, name: str) -> int:
        """See `Backend.size`."""
        return self._inner.size(kind, name)

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """See `Backend.load`."""
        return self._inner.load(kind, name)

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        """See `Backend.read`."""
        return self._inner.read(kind, name, offset, length)

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        """See `Backend.read_into`."""
        self._inner.read_into(kind, name, offset, buffer)

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        """See `Backend.save`."""
        self._inner.save(kind, name, data)

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        """See `Backend.upload`."""
        return self._inner.upload(kind, cold=cold)

    def delete(self, kind: ObjectKind, name: str) -> None:
        """See `Backend.delete`."""
        self._inner.delete(kind, name)

    def close(self) -> None:
        """Closes the inner backend."""
        self._inner.close()

    @property
    def delete_limit(self) -> int:
        """See `BatchDeleter`."""
        return delete_limit(self._inner)

    def delete_many(self, kind: ObjectKind, names: Sequence[str]) -> None:
        """See `BatchDeleter`."""
        delete_many(self._inner, kind, names)

    def send(self, kind: ObjectKind, name: str, spool: Spool, *, cold: bool) -> None:
        """See `SpoolSender`."""
        send(self._inner, kind, name, spool, cold=cold)

    @property
    def locks(self) -> bool:
        """See `Locker`."""
        return locks(self._inner)

    def extend_lock(self, kind: ObjectKind, name: str) -> None:
        """See `Locker`."""
        extend_lock(self._inner, kind, name)

    def present(self, kind: ObjectKind, names: Collection[str]) -> set[str]:
        """See `Prober`."""
        return present(self._inner, kind, names)

    @property
    def takes(self) -> bool:
        """See `Taker`."""
        return takes(self._inner)

    def take(self, kind: ObjectKind, name: str) -> bool:
        """See `Taker`."""
        return take(self._inner, kind, name)

    @property
    def archive(self) -> Archive | None:
        """See `Archiver`."""
        return archive_of(self._inner)
