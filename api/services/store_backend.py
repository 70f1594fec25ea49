"""A store of the data plane, opened where it lies: the objects that clients send, for work on the server itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Final

from api.services.store_files import JOB_PREFIX, StoreFolder
from bfrepo.core.errors import RepositoryExists, RepositoryNotFound, StorageDenied
from bfrepo.core.protocols import Buffer
from bfrepo.storage.base import ObjectKind, Upload
from bfrepo.storage.local import LocalBackend

_FOLDERS: Final = MappingProxyType({ObjectKind.PACK: "data", ObjectKind.CLAIM: "locks"})
"""What restic's protocol calls otherwise than we do."""


class StoreBackend(LocalBackend):
    """The folder of a store. Messages name the store, and nothing of the server's disk.

    Of an `append_only` one nothing is deleted but claims, as clients of the data plane may delete nothing else.
    """

    def __init__(
        self, root: Path, name: str, *, append_only: bool, take_room: Callable[[int], None] | None = None
    ) -> None:
        """`take_room` is called with the size of whatever is about to be written, and raises StorageFull."""
        super().__init__(root, folders=_FOLDERS)
        self._take_room = take_room
        self._folder = root
        self._name = name
        self._append_only = append_only

    @property
    def location(self) -> str:
        """The store as its owner names it."""
        return f"store:{self._name}"

    def create(self) -> None:
        """See `Backend.create`. A store that clients have made but not filled is fine."""
        folder = StoreFolder(self._folder)
        folder.create()
        if any(next(iter(self.list(kind)), None) for kind in ObjectKind):
            raise RepositoryExists(f"{self.location} is not empty", hint="choose another name")

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """See `Backend.load`. A store that is not there has no repository."""
        if kind is ObjectKind.CONFIG and not self._folder.is_dir():
            raise RepositoryNotFound(f"there is no {self.location}", hint='to make it, send "create": true')
        return super().load(kind, name)

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        """See `Backend.save`."""
        if self._take_room is not None:
            self._take_room(memoryview(data).nbytes)
        super().save(kind, name, data)

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        """See `Backend.upload`."""
        upload = super().upload(kind, cold=cold)
        return upload if self._take_room is None else _MeteredUpload(upload, self._take_room)

    def new_temporary(self) -> Path:
        """See `LocalBackend.new_temporary`. Its name tells those who count the store that a job writes to it."""
        path = super().new_temporary()
        return path.with_name(JOB_PREFIX + path.name)

    def delete(self, kind: ObjectKind, name: str) -> None:
        """See `Backend.delete`."""
        if kind is not ObjectKind.CLAIM and self._append_only:
            raise StorageDenied(f"{self.location} is append-only: nothing in it can be deleted")
        super().delete(kind, name)


class _MeteredUpload:
    """An upload that asks for room before it grows. An Upload."""

    __slots__ = ("_take_room", "_upload")

    def __init__(self, upload: Upload, take_room: Callable[[int], None]) -> None:
        self._upload = upload
        self._take_room = take_room

    def write(self, data: Buffer) -> None:
        self._take_room(memoryview(data).nbytes)
        self._upload.write(data)

    def commit(self, name: str) -> None:
        self._upload.commit(name)

    def abort(self) -> None:
        self._upload.abort()
