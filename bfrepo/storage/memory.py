"""Objects in a dictionary: for tests, and as the plainest picture of what a backend does."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from bfrepo.core.errors import DamagedObject, RepositoryExists, StorageObjectExists, StorageObjectMissing
from bfrepo.core.protocols import Buffer
from bfrepo.storage.base import CONFIG_NAME, ObjectInfo, ObjectKind, Upload
from bfrepo.storage.layout import describe, object_path


class MemoryBackend:
    """A backend that lives as long as the object does. Thread rule and errors are those of `Backend`."""

    location = "memory:"
    connections = 2

    def __init__(self) -> None:
        self._objects: dict[tuple[ObjectKind, str], bytes] = {}
        self._lock = threading.Lock()

    def create(self) -> None:
        """Raises RepositoryExists if it holds any object."""
        with self._lock:
            if self._objects:
                raise RepositoryExists(f"{self.location} is not empty")

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        """See `Backend.list`."""
        with self._lock:
            found = [ObjectInfo(name, len(data)) for (each, name), data in self._objects.items() if each is kind]
        return iter(found)

    def size(self, kind: ObjectKind, name: str) -> int:
        """See `Backend.size`."""
        return len(self.load(kind, name))

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """See `Backend.load`."""
        object_path(kind, name)  # refuses what is no name
        with self._lock:
            data = self._objects.get((kind, name))
        if data is None:
            raise StorageObjectMissing(f"{describe(kind, name)} is missing in {self.location}")
        return data

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        """See `Backend.read`."""
        return bytes(self._range(kind, name, offset, length))

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        """See `Backend.read_into`."""
        buffer.cast("B")[:] = self._range(kind, name, offset, buffer.nbytes)

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        """See `Backend.save`."""
        object_path(kind, name)
        kept = bytes(data)
        with self._lock:
            if kind is ObjectKind.CONFIG and (kind, CONFIG_NAME) in self._objects:
                raise StorageObjectExists(f"{self.location} holds a repository already")
            self._objects[kind, name] = kept

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        """See `Backend.upload`."""
        if kind is ObjectKind.CONFIG:
            raise ValueError("config is saved whole, never uploaded")
        return _MemoryUpload(self, kind)

    def delete(self, kind: ObjectKind, name: str) -> None:
        """See `Backend.delete`."""
        object_path(kind, name)
        with self._lock:
            self._objects.pop((kind, name), None)

    def close(self) -> None:
        """Nothing to let go of."""

    def _range(self, kind: ObjectKind, name: str, offset: int, length: int) -> memoryview:
        data = self.load(kind, name)
        if offset + length > len(data):
            raise DamagedObject(
                f"{describe(kind, name)} in {self.location} is too short: it ends at byte {len(data)}, "
                f"before the {length} bytes at {offset}"
            )
        return memoryview(data)[offset : offset + length]


class _MemoryUpload:
    """Collects the bytes and saves them as one object."""

    __slots__ = ("_backend", "_data", "_kind")

    def __init__(self, backend: MemoryBackend, kind: ObjectKind) -> None:
        self._backend = backend
        self._kind = kind
        self._data: bytearray | None = bytearray()

    def write(self, data: Buffer) -> None:
        self._open_data().extend(data)

    def commit(self, name: str) -> None:
        data = self._open_data()
        self.abort()
        self._backend.save(self._kind, name, data)

    def abort(self) -> None:
        self._data = None

    def _open_data(self) -> bytearray:
        if self._data is None:
            raise ValueError("the upload has ended")
        return self._data
