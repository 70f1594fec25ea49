"""One repository in two places: all of it where keeping is cheap, and a copy of what is read often where reading is.

    cold    the repository, complete: config, keys, index, snapshots, claims and all packs
    hot     a copy of everything but the packs of file data; it can be lost, and made again from the cold part

The cold part alone says what there is: listings and sizes come from it. An object that goes to both is written to the
hot part first, and deleted from it last. So, whatever crash comes between the two, all that the cold part lists is in
the hot part as well, and what is only in the hot part counts for nothing: `repair hot` sweeps it. To everybody else a
call is done when the cold part has done it, in the order in which it would be done without a hot part, so all that the
cold part promises (storage/base.py) holds for both, and so do INV-1 and INV-2.

Reading goes to the hot part first, and to the cold one for what is missing or damaged there. Nothing of that can be
stale, because no object ever changes (INV-3); `load` compares with the name before it believes the hot part.

`config` differs: the cold part decides which of several is the one. The hot part has it behind a line of its own, so
that nobody takes the hot part for a repository, nor that of another repository for the hot part of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from blake3 import blake3

from bfrepo.core.errors import (
    BackupForgeError,
    DamagedObject,
    StorageFull,
    StorageObjectArchived,
    StorageObjectExists,
    StorageObjectMissing,
)
from bfrepo.core.protocols import Buffer
from bfrepo.storage import abilities
from bfrepo.storage.base import CONFIG_NAME, Backend, ObjectInfo, ObjectKind, Upload
from bfrepo.storage.layout import describe
from bfrepo.storage.warming import Archive, Warmth, archive_of

T = TypeVar("T")

HOT_MARK: Final = b"This is the hot part of a repository, of no use alone.\n"
"""Stands in front of the hot part's copy of `config`."""

_ELSEWHERE: Final = (StorageObjectMissing, DamagedObject)
"""Why an object is read from the cold part although the hot one should have it."""


class HotPartUnusable(BackupForgeError):
    """What was given as the hot part is none, or that of another repository."""

    code = "hot-part-unusable"


class HotColdBackend:
    """Thread rule and errors are those of `hot` and `cold`."""

    def __init__(self, hot: Backend, cold: Backend) -> None:
        self.hot = hot
        self.cold = cold
        self._hot_packs: set[str] | None = None

    @property
    def location(self) -> str:
        """Where the cold part is: it is the repository."""
        return self.cold.location

    @property
    def connections(self) -> int:
        """As many as the faster of the two likes."""
        return max(self.hot.connections, self.cold.connections)

    def create(self) -> None:
        """See `Backend.create`. Both have to be empty."""
        self.hot.create()
        self.cold.create()

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        """See `Backend.list`."""
        return self.cold.list(kind)

    def size(self, kind: ObjectKind, name: str) -> int:
        """See `Backend.size`."""
        return self.cold.size(kind, name)

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """See `Backend.load`. Raises HotPartUnusable."""
        if kind is ObjectKind.CONFIG:
            return self._load_config()
        return self._from_either(kind, name, lambda part: self._load(part, kind, name))

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        """See `Backend.read`."""
        return self._from_either(kind, name, lambda part: part.read(kind, name, offset, length))

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        """See `Backend.read_into`."""
        self._from_either(kind, name, lambda part: part.read_into(kind, name, offset, buffer))

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        """See `Backend.save`."""
        if kind is ObjectKind.CONFIG:
            self._save_config(data)
            return
        self.hot.save(kind, name, data)
        self.cold.save(kind, name, data)
        self.note_hot(kind, name)

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        """See `Backend.upload`. What may be cold goes to the cold part alone."""
        if kind is ObjectKind.PACK and cold:
            return self.cold.upload(kind, cold=True)
        return _DoubleUpload(self, kind)

    def delete(self, kind: ObjectKind, name: str) -> None:
        """See `Backend.delete`."""
        self.cold.delete(kind, name)
        self.hot.delete(kind, name)

    def close(self) -> None:
        """Closes both parts."""
        self.hot.close()
        self.cold.close()

    # --- abilities (storage/abilities.py, storage/warming.py)

    @property
    def delete_limit(self) -> int:
        """See `BatchDeleter`."""
        return abilities.delete_limit(self.cold)

    def delete_many(self, kind: ObjectKind, names: Sequence[str]) -> None:
        """See `BatchDeleter`."""
        abilities.delete_many(self.cold, kind, names)
        step = abilities.delete_limit(self.hot)
        for start in range(0, len(names), step):
            abilities.delete_many(self.hot, kind, names[start : start + step])

    @property
    def locks(self) -> bool:
        """See `Locker`. It is the cold part that must not be lost."""
        return abilities.locks(self.cold)

    def extend_lock(self, kind: ObjectKind, name: str) -> None:
        """See `Locker`."""
        abilities.extend_lock(self.cold, kind, name)

    @property
    def archive(self) -> Archive | None:
        """The archive of the cold part. What the hot part has is ready."""
        archive = archive_of(self.cold)
        return _ColdArchive(self, archive) if archive is not None else None

    # --- which part

    def is_hot(self, kind: ObjectKind, name: str) -> bool:
        """Whether the hot part should have an object. Its packs are listed once, when this is first asked of one."""
        if kind is not ObjectKind.PACK:
            return True
        if self._hot_packs is None:
            self._hot_packs = {info.name for info in self.hot.list(kind)}
        return name in self._hot_packs

    def note_hot(self, kind: ObjectKind, name: str) -> None:
        """The hot part has an object from now on."""
        if kind is ObjectKind.PACK and self._hot_packs is not None:
            self._hot_packs.add(name)

    def _from_either(self, kind: ObjectKind, name: str, read: Callable[[Backend], T]) -> T:
        if self.is_hot(kind, name):
            try:
                return read(self.hot)
            except _ELSEWHERE:
                return read(self.cold)
        try:
            return read(self.cold)
        except StorageObjectArchived as error:
            try:  # another client may have written the pack since the hot part was listed
                result = read(self.hot)
            except _ELSEWHERE:
                raise error from None
        self.note_hot(kind, name)
        return result

    def _load(self, part: Backend, kind: ObjectKind, name: str) -> bytes:
        data = part.load(kind, name)
        if part is self.hot and blake3(data).hexdigest() != name:
            raise DamagedObject(f"{describe(kind, name)} in {part.location}: its bytes are not those that were written")
        return data

    # --- config

    def _load_config(self) -> bytes:
        try:
            config = self.cold.load(ObjectKind.CONFIG, CONFIG_NAME)
        except StorageObjectArchived:
            return self._load_hot_config().removeprefix(HOT_MARK)
        marked = self._load_hot_config()
        if marked != HOT_MARK + config:
            whose = "the hot part of another repository" if marked.startswith(HOT_MARK) else "a repository of its own"
            raise HotPartUnusable(
                f"{self.hot.location} is {whose}, not the hot part of {self.cold.location}",
                hint="check both locations",
            )
        return config

    def _load_hot_config(self) -> bytes:
        try:
            return self.hot.load(ObjectKind.CONFIG, CONFIG_NAME)
        except StorageObjectMissing as error:
            raise HotPartUnusable(
                f"there is no hot part in {self.hot.location}",
                hint="'backupforge repair hot' makes it; the repository can be read without it as well",
            ) from error

    def _save_config(self, data: Buffer) -> None:
        """A repository without a hot part is whole, and `repair hot` makes one: the cold part comes first."""
        self.cold.save(ObjectKind.CONFIG, CONFIG_NAME, data)
        try:
            self.hot.save(ObjectKind.CONFIG, CONFIG_NAME, HOT_MARK + bytes(data))
        except (StorageObjectExists, StorageFull) as error:
            raise HotPartUnusable(
                f"the repository in {self.cold.location} was made, but its hot part was not: {error}",
                hint="'backupforge repair hot' makes it",
            ) from error


class _DoubleUpload:
    """An object that goes to both parts, and is there when the cold part has it."""

    __slots__ = ("_backend", "_cold", "_hot", "_kind")

    def __init__(self, backend: HotColdBackend, kind: ObjectKind) -> None:
        self._backend = backend
        self._kind = kind
        self._hot = backend.hot.upload(kind)
        try:
            self._cold = backend.cold.upload(kind)
        except BaseException:
            self._hot.abort()
            raise

    def write(self, data: Buffer) -> None:
        self._hot.write(data)
        self._cold.write(data)

    def commit(self, name: str) -> None:
        try:
            self._hot.commit(name)
            self._cold.commit(name)
            self._backend.note_hot(self._kind, name)
        finally:
            self.abort()

    def abort(self) -> None:
        self._hot.abort()
        self._cold.abort()


class _ColdArchive:
    """The archive of a cold part, but for what the hot part has as well."""

    def __init__(self, backend: HotColdBackend, archive: Archive) -> None:
        self._backend = backend
        self._archive = archive

    def holds_any(self) -> bool:
        return self._archive.holds_any()

    def warmth(self, name: str) -> Warmth:
        return Warmth.READY if self._backend.is_hot(ObjectKind.PACK, name) else self._archive.warmth(name)

    def request(self, name: str) -> None:
        if not self._backend.is_hot(ObjectKind.PACK, name):
            self._archive.request(name)
