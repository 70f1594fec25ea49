"""A repository that is open: the facade over its objects, index, blobs and snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from bfrepo.core.clock import Clock
from bfrepo.core.errors import (
    BackupForgeError,
    DamagedObject,
    ObjectNotFound,
    RepositoryNotFound,
    StorageFull,
    StorageObjectMissing,
    UsageError,
    WrongPassword,
)
from bfrepo.core.ids import BlobKind, resolve_prefix
from bfrepo.crypto.hashing import make_blob_hasher, object_name
from bfrepo.crypto.keys import Keys, SlotInfo, make_slot, open_slot, slot_info
from bfrepo.index.cache import IndexCache
from bfrepo.index.format import IndexContent, decode_index
from bfrepo.index.index import Index
from bfrepo.repository.config import Config, ConfigHead, decode_config, decode_head, encode_config
from bfrepo.repository.loader import Loader
from bfrepo.repository.objects import ObjectStore
from bfrepo.repository.saver import Saver, SaverOptions
from bfrepo.repository.usual_slot import UsualSlot
from bfrepo.storage.abilities import is_far
from bfrepo.storage.ahead import AheadBackend
from bfrepo.storage.base import CONFIG_NAME, Backend, ObjectKind
from bfrepo.storage.cache import ObjectCache
from bfrepo.storage.caching import CachingBackend
from bfrepo.storage.hotcold import HOT_MARK

KdfProfile = Literal["default", "strong"]


class Repository:
    """One repository, opened with its keys. Thread-safe but for `refresh_index` and key changes.

    Made by `open_repository` or `init_repository`; `close` it, or use it as a context manager.
    """

    def __init__(self, backend: Backend, config: Config, keys: Keys, clock: Clock, cache_dir: Path | None) -> None:
        self.backend = backend
        self.config = config
        self.keys = keys
        self.clock = clock
        self.opened_by: str | None = None
        """The name of the key slot that opened it; None where nothing is encrypted, and when it was just made."""
        self._read_slots: dict[str, bytes] = {}
        """Key slots by name, as they were read to open it: they never change."""
        self.head: tuple[ConfigHead, bytes] | None = None
        """What of the config is readable without a key, and its bytes, as it was opened; None when it was just made."""
        self.id = config.repository_id
        self.objects = ObjectStore(backend, keys.object_sealer(), self.id)
        self.blob_hash = make_blob_hasher(keys.blob_id_key)
        self.cache_folder = cache_dir / self.id.hex() if cache_dir else None
        """Where this machine keeps what it knows of the repository; None where it is to keep nothing."""
        self._cache = (
            IndexCache(self.cache_folder, keys.cache_sealer(), self.id, backend.location) if self.cache_folder else None
        )
        self.index = Index(self._cache)
        self._loader: Loader | None = None

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def location(self) -> str:
        """Where it is, for messages."""
        return self.backend.location

    def close(self) -> None:
        """Let go of the storage. Idempotent."""
        self.backend.close()

    # --- index and blobs

    def refresh_index(self) -> Index:
        """Read the index objects that are not known yet. Raises DamagedObject with a hint how to mend it."""
        with _hint_at_repair():
            self.index.refresh(self.index_names, self.read_index)
        return self.index

    def forget_index(self) -> None:
        """Drop what is known of the index; the next refresh reads it as the storage has it."""
        self.index = Index(self._cache)

    def fresh_index(self) -> Index:
        """The index as the storage has it now, independent of what was known before."""
        index = Index(self._cache)
        with _hint_at_repair():
            index.refresh(self.index_names, self.read_index)
        return index

    def index_names(self) -> set[str]:
        """The names of all index objects."""
        return {info.name for info in self.backend.list(ObjectKind.INDEX)}

    def read_index(self, names: Iterable[str]) -> Iterator[tuple[str, IndexContent]]:
        """Index objects by name. Raises the first error, StorageObjectMissing for one that is gone."""
        for name, content in self.objects.load_many(ObjectKind.INDEX, names):
            if isinstance(content, BackupForgeError):
                raise content
            yield name, decode_index(content, name=name)

    @property
    def loader(self) -> Loader:
        """Gives blobs back; it reads by the index as it is when a blob is asked for.

        What a prune moves meanwhile it finds again.
        """
        if self._loader is None or self._loader.table is not self.index.table:
            self._loader = self._make_lasting_loader(self.index)
        return self._loader

    def make_loader(self, index: Index) -> Loader:
        """A loader that reads by this index alone, as it is, for whoever has to know what it says."""
        return Loader(self._backend_for(index), index.table, self.blob_hash, self.keys.pack_key, self.id)

    def doubt_cache(self) -> None:
        """Believe nothing that this machine keeps of the storage's objects: for whoever wants to know how those are."""
        if isinstance(self.backend, CachingBackend):
            self.backend.doubt()

    def fetch_trees(self, index: Index, cancelled: Callable[[], bool]) -> None:
        """Bring all trees to this machine, for who is about to read them, if it keeps objects of the storage at all.

        Raises Interrupted.
        """
        if isinstance(self.backend, CachingBackend):
            packs = (pack for pack in index.table.packs() if pack.kind is BlobKind.TREE and pack.blobs)
            self.backend.fetch({pack.id.hex(): pack.size for pack in packs}, cancelled)

    def _backend_for(self, index: Index) -> Backend:
        """The storage for somebody who reads blobs by this index."""
        if not isinstance(self.backend, CachingBackend):
            return self.backend

        def size_of_trees(name: str) -> int | None:
            pack = index.table.pack(bytes.fromhex(name))
            return pack.size if pack is not None and pack.kind is BlobKind.TREE else None

        return self.backend.knowing(size_of_trees)

    def _make_lasting_loader(self, index: Index) -> Loader:
        def successor() -> Loader | None:
            if self.index_names() == index.objects:
                return None
            now = Index(self._cache)
            now.refresh(self.index_names, self.read_index, remember=False)
            return self._make_lasting_loader(now)

        backend = self._backend_for(index)
        return Loader(backend, index.table, self.blob_hash, self.keys.pack_key, self.id, successor)

    def make_saver(self, options: SaverOptions, *, backend: Backend | None = None) -> Saver:
        """Takes blobs in; `backend` replaces the repository's own for a dry run."""
        target = backend or self.backend
        objects = ObjectStore(target, self.keys.object_sealer(), self.id)
        return Saver(
            target, self.index.table, objects, self.blob_hash, self.keys.pack_key, self.id, self.clock, options
        )

    # --- key slots

    def slots(self) -> Iterator[tuple[str, SlotInfo | BackupForgeError]]:
        """Every key slot by name, with what it says about itself or what is wrong with it."""
        for info in self.backend.list(ObjectKind.KEY):
            try:
                data = self._read_slots.get(info.name) or load_named(self.backend, ObjectKind.KEY, info.name)
                yield info.name, slot_info(data, self.keys, self.id, name=info.name)
            except BackupForgeError as error:
                yield info.name, error

    def add_slot(self, password: bytes, *, label: str, host: str, kdf: KdfProfile = "default") -> str:
        """Make one more password that opens the repository; the slot's name."""
        info = SlotInfo(label=label, host=host, created=self.clock.now().isoformat())
        data = make_slot(self.keys, password, info, self.id, kdf=kdf)
        name = object_name(data)
        self.backend.save(ObjectKind.KEY, name, data)
        return name

    def remove_slot(self, prefix: str) -> str:
        """Remove a slot by the start of its ID; its name. Refuses the last one that works."""
        names = {bytes.fromhex(info.name): info.name for info in self.backend.list(ObjectKind.KEY)}
        name = names[resolve_prefix(prefix, names, what="key")]
        others = [other for other, about in self.slots() if other != name and isinstance(about, SlotInfo)]
        if not others:
            raise BackupForgeError(
                f"key {name[:8]} is the last one that opens {self.location}", hint="add another password first"
            )
        self.backend.delete(ObjectKind.KEY, name)
        return name


@contextmanager
def _hint_at_repair() -> Iterator[None]:
    """Say with a damaged index object what to do about it."""
    try:
        yield
    except DamagedObject as error:
        error.hint = error.hint or "'backupforge repair index' makes it again from the packs"
        raise


def init_repository(
    backend: Backend,
    config: Config,
    clock: Clock,
    *,
    password: bytes | None,
    label: str = "",
    host: str = "",
    kdf: KdfProfile = "default",
    cache_dir: Path | None = None,
) -> Repository:
    """Make a new repository; `password` is None exactly when the configuration says no encryption.

    `config` is written last, so that an interrupted init leaves no repository. Raises RepositoryExists.
    """
    keys = Keys.generate(encrypted=config.encryption != "none")
    backend.create()
    repository = Repository(backend, config, keys, clock, cache_dir)
    slot = repository.add_slot(password, label=label, host=host, kdf=kdf) if password is not None else None
    try:
        backend.save(ObjectKind.CONFIG, CONFIG_NAME, encode_config(config, keys))
    except StorageFull:
        if slot is not None:
            backend.delete(ObjectKind.KEY, slot)  # so that the place is empty for the next init
        raise
    if slot is not None and is_far(backend):
        UsualSlot(repository.cache_folder).remember(slot, backend.location)
    return repository


def open_repository(
    backend: Backend,
    clock: Clock,
    password: Callable[[], bytes],
    *,
    cache_dir: Path | None = None,
    keep_objects: bool = False,
    ahead: Sequence[ObjectKind] = (),
) -> Repository:
    """Open a repository. `password` is asked only when it is encrypted.

    With `keep_objects` there is also a cache of what is read again and again, as storage that is far away deserves.
    `ahead` are kinds that the caller is going to list, in this order, before he changes anything: storage that is far
    away is asked for them while the password is tried, which takes as long as some round trips; and for the objects
    themselves where nothing is known here of the repository.
    Raises RepositoryNotFound, WrongPassword, DamagedObject or UnsupportedFormat.
    """
    head, data = read_head_and_bytes(backend)
    keys, slot, read_slots = Keys(None), None, dict[str, bytes]()
    if head.encryption != "none":
        usual = UsualSlot(cache_dir / head.repository_id.hex() if cache_dir is not None and is_far(backend) else None)
        listing = AheadBackend(backend, ahead if is_far(backend) else (), objects=usual.name is None)
        secret = password()
        listing.start()
        keys, slot = _open_keys(backend, secret, head.repository_id, usual, read_slots)
        backend = listing
    config = decode_config(head, keys, location=backend.location)
    if cache_dir is not None and keep_objects:
        backend = CachingBackend(backend, ObjectCache(cache_dir / config.repository_id.hex(), clock))
    repository = Repository(backend, config, keys, clock, cache_dir)
    repository.opened_by, repository.head, repository._read_slots = slot, (head, data), read_slots
    return repository


def read_head(backend: Backend) -> ConfigHead:
    """What is readable without a key. Raises RepositoryNotFound, UsageError, DamagedObject or UnsupportedFormat."""
    return read_head_and_bytes(backend)[0]


def read_head_and_bytes(backend: Backend) -> tuple[ConfigHead, bytes]:
    """As `read_head`, and what it was read from."""
    try:
        data = backend.load(ObjectKind.CONFIG, CONFIG_NAME)
    except StorageObjectMissing as error:
        raise RepositoryNotFound(
            f"there is no repository in {backend.location}", hint="make one with 'backupforge init', or check the path"
        ) from error
    if data.startswith(HOT_MARK):
        raise UsageError(
            f"{backend.location} is the hot part of a repository, which is elsewhere",
            hint="name the repository with --repository, and this with --repository-hot",
        )
    return decode_head(data, location=backend.location), data


def load_named(backend: Backend, kind: ObjectKind, name: str) -> bytes:
    """A small object whose bytes hash to its name. Raises DamagedObject when they do not."""
    data = backend.load(kind, name)
    if object_name(data) != name:
        raise DamagedObject(
            f"{kind.name.lower()} {name[:8]} in {backend.location}: its bytes are not those that were written"
        )
    return data


def _open_keys(
    backend: Backend,
    password: bytes,
    repository_id: bytes,
    usual: UsualSlot,
    read_slots: dict[str, bytes],
) -> tuple[Keys, str]:
    """The keys, and the name of their slot. Every slot is tried; a damaged one is reported only if no other opens.

    What was read is put into `read_slots`.
    """
    damaged: BackupForgeError | None = None
    count = 0
    for name in _slots_to_try(backend, usual):
        try:
            data = read_slots[name] = load_named(backend, ObjectKind.KEY, name)
            count += 1
            keys = open_slot(data, password, repository_id, name=name)
        except BackupForgeError as error:
            if not (isinstance(error, StorageObjectMissing) and name == usual.name):  # that was removed
                damaged = error
            continue
        if keys is not None:
            usual.remember(name, backend.location)
            return keys, name
    if damaged is not None:
        raise damaged
    if not count:
        raise ObjectNotFound(f"the repository in {backend.location} has no key slots, so nothing can open it")
    raise WrongPassword(f"wrong password for the repository in {backend.location}: none of its {count} key slots opens")


def _slots_to_try(backend: Backend, usual: UsualSlot) -> Iterator[str]:
    """All key slots, the one that mostly fits first: then the others need not even be listed."""
    if usual.name is not None:
        yield usual.name
    yield from (info.name for info in backend.list(ObjectKind.KEY) if info.name != usual.name)
