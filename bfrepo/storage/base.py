"""The contract between BackupForge and whatever stores its objects.

A backend keeps whole objects under names and never looks inside them. Everything above it (packs, index, snapshots, the
protocol that lets backups and prunes run side by side without locks) rests on the promises below, so they stand here
once, and `tests/storage/conformance.py` holds every implementation to them.

Promises
    Durable    When `save`, `Upload.commit`, `delete` or `create` returns, a power cut no longer undoes it. The order of
               such calls is the safety of the repository (INV-1, INV-2): pack, then index, then snapshot.
    Atomic     An object is seen whole or not at all. Whatever goes wrong, a reader never meets a part of one. (Others
               may see an object a moment before it is durable; when the call has returned everybody sees it.)
    Unchanging No object is ever altered (INV-3). All but `config` are named by the hash of their bytes, so writing one
               twice is harmless and either copy may stay; a second `config` is refused with StorageObjectExists.
    Listed     `list` yields every object whose write returned before the first item was asked for and that nobody
               deletes meanwhile; what is written or deleted during the listing may be in it or not.
    Repeatable Every call but `create` and the save of `config` may be made again after a failure, and ends as if it had
               been made once.

Errors
    Permanent, a retry will not help:     StorageObjectMissing, StorageObjectExists, StorageDenied, StorageFull,
                                          RepositoryExists, and DamagedObject (which is no StorageError).
    Possibly temporary, may be retried:   StorageError itself: the network, the disk, a volume that is not mounted.
    StorageObjectMissing says that the storage works and the object is not in it; a storage that is gone altogether is a
    StorageError. A ValueError is a mistake of the caller: what is no name, `upload` of a `config`, use after `abort`.

Threads
    All methods of a Backend may be called from any thread, several at once. An Upload belongs to one thread at a time;
    any number of uploads may be open.

Memory
    A backend keeps no reference to a buffer after the call that got it, so the caller may use it again at once.

What some backends can do besides stands in storage/abilities.py (and storage/warming.py): nobody has to.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from bfrepo.core.protocols import Buffer

CONFIG_NAME = "config"
"""The name of the one object that is not named by its hash."""


class ObjectKind(enum.Enum):
    """What a stored object is. The value is its directory below the repository's root (for CONFIG, its path)."""

    CONFIG = "config"
    KEY = "keys"
    PACK = "packs"
    INDEX = "index"
    SNAPSHOT = "snapshots"
    CLAIM = "claims"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One line of a listing: `name` is 64 hex digits ("config" for CONFIG), `size` is in bytes."""

    name: str
    size: int


class Upload(Protocol):
    """An object on its way, whose name (the BLAKE3 hash of its bytes) is known only at its end.

    Nothing of it is visible before `commit`. After an error in `write` or `commit` nothing can be done with it but
    `abort`. Whoever starts an upload ends it with `commit` or `abort`; a crash amounts to `abort`.
    """

    def write(self, data: Buffer) -> None:
        """Append `data`. Raises StorageFull, StorageDenied or StorageError; ValueError once the upload has ended."""

    def commit(self, name: str) -> None:
        """Make the object durable and visible under `name`, at once. Called once.

        After an error the object is not there, or there whole. Raises what `write` raises.
        """

    def abort(self) -> None:
        """Drop what was written. Never raises; may be called again, and after `commit`, where it does nothing."""


class Backend(Protocol):
    """A place that keeps the objects of one repository. The promises, errors and thread rule stand above."""

    @property
    def location(self) -> str:
        """Where it is, for messages. Never holds a password."""

    @property
    def connections(self) -> int:
        """How many calls are worth making at once."""

    def create(self) -> None:
        """Make the place ready for a new repository.

        Raises RepositoryExists if anything is there but the empty frame that an interrupted `create` left.
        """

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        """Every object of `kind`, in no order. Names that do not look like ours are skipped.

        An error is never an empty or shorter listing: it raises StorageDenied or StorageError, at the call or at any
        step of the iteration. A place that has vanished is such an error.
        """

    def size(self, kind: ObjectKind, name: str) -> int:
        """The object's size in bytes. Raises StorageObjectMissing."""

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """A whole object, meant for small ones. Raises StorageObjectMissing."""

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        """Exactly the `length` bytes at `offset`, neither of them negative.

        Raises StorageObjectMissing, and DamagedObject when the object ends before the range does; that is found out
        before memory is taken for it. Bytes of an object that somebody deletes meanwhile may still be returned.
        """

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        """Like `read`, but fills `buffer` (contiguous, writable), because fresh memory is dear."""

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        """Store a whole object, durable and visible when this returns.

        Raises StorageObjectExists if `kind` is CONFIG and there is one; of several that save one at once exactly one
        succeeds. Raises StorageFull, StorageDenied, StorageError; then the object is not there, or there whole.
        """

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        """Begin an object whose name is known at its end; any kind but CONFIG. Raises what `save` raises.

        `cold` tells that it is read only to restore files and to copy packs, as packs of file data are: it may go to
        where keeping is cheap and reading is dear or slow. Whoever reads it need not know.
        """

    def delete(self, kind: ObjectKind, name: str) -> None:
        """Remove an object for good. One that is not there is no error. Raises StorageDenied, StorageError."""

    def close(self) -> None:
        """Let go of files and connections. May be called again; no other call may follow."""
