"""A backend that cannot be written to: whatever a dry run tries, the repository stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from bfrepo.core.errors import StorageDenied
from bfrepo.core.protocols import Buffer
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind, Upload


class ReadOnlyBackend:
    """Reads from `inner`; refuses every change with StorageDenied. Thread rule and errors are those of `inner`."""

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
        """Refuses."""
        self._refuse()

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
        """Refuses."""
        self._refuse()

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        """Refuses."""
        self._refuse()

    def delete(self, kind: ObjectKind, name: str) -> None:
        """Refuses."""
        self._refuse()

    def close(self) -> None:
        """Closes the inner backend."""
        self._inner.close()

    def _refuse(self) -> NoReturn:
        raise StorageDenied(f"{self.location} is open for reading only, and nothing in it may change")
