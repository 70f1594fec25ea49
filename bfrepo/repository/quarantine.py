"""A local directory for what a repair takes out of a repository: nothing is deleted that was not copied here first.

An object lies there as `<kind>-<name>`, byte for byte as it was stored, such as `index-3f2a...`. Copying it back to
its place in the repository undoes its removal.
"""

from __future__ import annotations

from itertools import chain, count
from pathlib import Path

from bfrepo.core.errors import BackupForgeError, StorageObjectMissing
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.durable import open_private, sync, sync_directory, write_all
from bfrepo.storage.layout import describe

_HINT = "choose another directory with --quarantine"


class Quarantine:
    """Takes objects out of one repository. `folder` is made when the first one comes. Used by one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept: list[Path] = []
        """The files that were written so far."""

    def remove(self, backend: Backend, kind: ObjectKind, name: str) -> None:
        """Copy an object here, durably, and delete it from the repository. One that is gone by now is left at that.

        Raises StorageError, and BackupForgeError when the copy cannot be written; then nothing is deleted.
        """
        try:
            data = backend.load(kind, name)
        except StorageObjectMissing:
            return
        try:
            self.kept.append(self._write(f"{kind.value.removesuffix('s')}-{name}", data))
        except OSError as error:
            raise BackupForgeError(
                f"cannot keep a copy of {describe(kind, name)} in {self.folder}: {error.strerror}, so it stays",
                hint=_HINT,
            ) from error
        backend.delete(kind, name)

    def _write(self, name: str, data: bytes) -> Path:
        """The file that holds `data`: `name`, with a number behind it where other bytes have that name already."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in (self.folder / f"{name}{suffix}" for suffix in chain([""], (f".{number}" for number in count(2)))):
            if not path.exists():
                break
            if path.read_bytes() == data:
                return path  # from a run that was interrupted before it could delete the object
        partial = path.with_name(f"{path.name}.part")
        partial.unlink(missing_ok=True)
        with open(partial, "xb", buffering=0, opener=open_private) as file:
            write_all(file, data)
            sync(file.fileno())
        partial.replace(path)
        sync_directory(self.folder)
        return path
