"""A restic repository, read and never written: formats 1 and 2, in any place that a repository of ours can be in.

    config keys/ snapshots/ index/ data/<2 hex>/     every file but config is named by the SHA-256 of its bytes
    config, snapshots, index    sealed JSON; in format 2 the last two begin with the byte 2, and zstd follows
    data/                       packs: sealed blobs, one after the other; the index says where

What is read is checked: the name of a file, the MAC of a blob, and that its plaintext hashes to its ID. Nothing is
locked. Snapshots are listed before the index is read, so that all that a snapshot needs is in it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec
import zstandard

from bfrepo.core.concurrency import map_at_once
from bfrepo.core.errors import (
    MALFORMED,
    DamagedBlob,
    DamagedObject,
    MissingBlob,
    RepositoryNotFound,
    StorageObjectMissing,
    UnsupportedFormat,
    WrongPassword,
)
from bfrepo.core.ids import short_id
from bfrepo.core.units import MIB
from bfrepo.restic.index import BlobIndex, Copy
from bfrepo.restic.records import (
    ConfigRecord,
    SnapshotRecord,
    TreeRecord,
    decode_config,
    decode_index,
    decode_snapshot,
    decode_tree,
)
from bfrepo.restic.sealing import MasterKey, Opener, open_key_file
from bfrepo.storage.base import CONFIG_NAME, Backend, ObjectKind

_VERSIONS: Final = (1, 2)
_MOST_PLAIN: Final = 1 << 30
"""Bytes that a tree or an index may have; a chunk of a file has 8 MiB at most."""
_MOST_KEYS: Final = 64
_RUN: Final = 4 * MIB
"""Bytes that are read at a time, and bytes of plaintext that come of it; a single blob may be more."""
_GAP: Final = 64 * 1024
"""What is not needed between two blobs is read rather than asked around."""
_TREE_PACKS: Final = 64 * MIB
"""Bytes of packs of trees that are kept: the trees of a snapshot lie together."""
_LARGEST_KEPT: Final = 32 * MIB


class ResticRepository:
    """An open repository. `load_index` must be called before blobs are read; then any thread may read."""

    def __init__(self, backend: Backend, key: MasterKey, config: ConfigRecord) -> None:
        self.backend = backend
        self.id = config.id
        self.index = BlobIndex()
        self._key = key
        self._own = threading.local()
        self._packs: OrderedDict[int, bytes] = OrderedDict()
        self._kept = 0

    @property
    def location(self) -> str:
        """Where it is, for messages."""
        return self.backend.location

    def close(self) -> None:
        """Let go of the storage."""
        self.backend.close()

    def snapshots(self) -> Iterator[tuple[bytes, SnapshotRecord | DamagedObject]]:
        """Every snapshot by its ID, or what is wrong with it."""
        for name, content in self._load_all(ObjectKind.SNAPSHOT):
            try:
                if isinstance(content, DamagedObject):
                    raise content
                yield bytes.fromhex(name), decode_snapshot(content)
            except (msgspec.MsgspecError, *MALFORMED) as error:
                yield bytes.fromhex(name), DamagedObject(f"snapshot {name[:8]} does not decode: {error}")
            except DamagedObject as error:
                yield bytes.fromhex(name), error

    def load_index(self) -> None:
        """Read all index files. Raises DamagedObject: what is in one that cannot be read would seem to be missing."""
        self.index = BlobIndex()
        for name, content in self._load_all(ObjectKind.INDEX):
            if isinstance(content, DamagedObject):
                raise content
            try:
                self.index.add(decode_index(content))
            except (msgspec.MsgspecError, *MALFORMED) as error:
                raise DamagedObject(f"index {name[:8]} in {self.location} does not decode: {error}") from error

    def load_tree(self, tree_id: bytes) -> TreeRecord:
        """A tree. Raises MissingBlob, DamagedObject. Used by one thread."""
        number = self.index.find(tree_id)
        if number is None or not self.index.is_tree(number):
            raise MissingBlob(f"tree {short_id(tree_id)} is not in the index of {self.location}")
        for copy in self.index.copies(number):
            plain = self._open_blob(tree_id, copy, self._tree_bytes(copy))
            if plain is not None:
                try:
                    return decode_tree(plain)
                except (msgspec.MsgspecError, *MALFORMED) as error:
                    raise DamagedObject(f"tree {short_id(tree_id)} does not decode: {error}") from error
        raise DamagedBlob(f"tree {short_id(tree_id)} in {self.location} cannot be read: no copy of it is intact")

    def runs(self, numbers: Iterable[int]) -> Iterator[list[int]]:
        """Copies of blobs, by number, in groups that are read together."""
        index = self.index
        run: list[int] = []
        plain = 0
        start = end = -1
        for number in sorted(numbers, key=index.place):
            place, copy = index.place(number), index.copy(number)
            length = copy.length
            is_far = place >> 32 != end >> 32 or place - end > _GAP or place + length - start > _RUN
            if run and (is_far or plain + copy.plain > _RUN):
                yield run
                run, plain = [], 0
            if not run:
                start = place
            run.append(number)
            plain += copy.plain
            end = place + length
        if run:
            yield run

    def read_run(self, run: Sequence[int]) -> list[bytes | None]:
        """The plaintext of each blob of a run; None for one of which no copy is intact. From any thread."""
        index = self.index
        copies = [index.copy(number) for number in run]
        start = copies[0].offset
        end = max(copy.offset + copy.length for copy in copies)
        data = self._read(copies[0].pack, start, end - start)
        sealed = [data[copy.offset - start : copy.offset - start + copy.length] for copy in copies]
        opened = self._opener().open_all(sealed) if len(data) else [None] * len(run)
        found = []
        for number, copy, plain in zip(run, copies, opened, strict=True):
            blob_id = index.id_of(number)
            good = self._expanded(blob_id, copy, plain)
            found.append(good if good is not None else self._other_copy(blob_id, number))
        return found

    def _other_copy(self, blob_id: bytes, number: int) -> bytes | None:
        for copy in self.index.copies(number):
            plain = self._open_blob(blob_id, copy, self._read(copy.pack, copy.offset, copy.length))
            if plain is not None:
                return plain
        return None

    def _open_blob(self, blob_id: bytes, copy: Copy, sealed: memoryview) -> bytes | None:
        return self._expanded(blob_id, copy, self._opener().open(sealed)) if len(sealed) else None

    def _expanded(self, blob_id: bytes, copy: Copy, plain: bytes | None) -> bytes | None:
        """The blob, if it is what its ID says."""
        if plain is not None and copy.packed:
            plain = self._expand(plain, copy.plain)
        return plain if plain is not None and hashlib.sha256(plain).digest() == blob_id else None

    def _expand(self, packed: bytes, size: int) -> bytes | None:
        """What zstd made of `size` bytes; None if it is not."""
        if size > _MOST_PLAIN:
            return None
        try:
            if zstandard.frame_content_size(packed) not in (size, -1):
                return None
            plain = self._decompressor().decompress(packed, max_output_size=size)
        except zstandard.ZstdError:
            return None
        return plain if len(plain) == size else None

    def _tree_bytes(self, copy: Copy) -> memoryview:
        """A tree's place in its pack, which is kept for the trees beside it."""
        data = self._packs.get(copy.pack)
        if data is None:
            data = self._load_pack(copy.pack)
            if data is None:
                return self._read(copy.pack, copy.offset, copy.length)
        self._packs.move_to_end(copy.pack)
        return memoryview(data)[copy.offset : copy.offset + copy.length]

    def _load_pack(self, pack: int) -> bytes | None:
        """A whole pack, unless it is very large or not there."""
        name = self.index.packs[pack]
        try:
            if self.backend.size(ObjectKind.PACK, name) > _LARGEST_KEPT:
                return None
            data = self.backend.load(ObjectKind.PACK, name)
        except StorageObjectMissing:
            return None
        self._packs[pack] = data
        self._kept += len(data)
        while self._kept > _TREE_PACKS and len(self._packs) > 1:
            self._kept -= len(self._packs.popitem(last=False)[1])
        return data

    def _read(self, pack: int, offset: int, length: int) -> memoryview:
        """Bytes of a pack; nothing where it does not have them."""
        try:
            return memoryview(self.backend.read(ObjectKind.PACK, self.index.packs[pack], offset, length))
        except (StorageObjectMissing, DamagedObject):
            return memoryview(b"")

    def _load_all(self, kind: ObjectKind) -> Iterator[tuple[str, bytes | DamagedObject]]:
        names = sorted(info.name for info in self.backend.list(kind))
        contents = map_at_once(
            lambda name: self._load(kind, name), names, threads=self.backend.connections, name="restic"
        )
        yield from zip(names, contents, strict=True)

    def _load(self, kind: ObjectKind, name: str) -> bytes | DamagedObject:
        what = f"{kind.value.removesuffix('s')} {name[:8]} in {self.location}"
        data = self.backend.load(kind, name)
        plain = self._opener().open(data) if hashlib.sha256(data).hexdigest() == name else None
        if plain is None:
            return DamagedObject(f"{what}: its bytes are not those that were written")
        if plain[:1] in (b"{", b"["):
            return plain
        if plain[:1] != b"\x02":
            return DamagedObject(f"{what}: it is in a format that is not known")
        try:
            size = zstandard.frame_content_size(plain[1:])
            if size > _MOST_PLAIN:
                return DamagedObject(f"{what}: it is larger than is allowed")
            expanded = self._decompressor().decompress(plain[1:], max_output_size=_MOST_PLAIN if size < 0 else size)
        except zstandard.ZstdError as error:
            return DamagedObject(f"{what}: it does not decompress: {error}")
        return expanded

    def _opener(self) -> Opener:
        opener: Opener | None = getattr(self._own, "opener", None)
        if opener is None:
            opener = self._own.opener = Opener(self._key)
        return opener

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        found: zstandard.ZstdDecompressor | None = getattr(self._own, "decompressor", None)
        if found is None:
            found = self._own.decompressor = zstandard.ZstdDecompressor()
        return found


def open_restic(backend: Backend, password: Callable[[], bytes]) -> ResticRepository:
    """Open a repository by any of its passwords, which is asked for when there is a repository.

    Raises RepositoryNotFound, WrongPassword, UnsupportedFormat, DamagedObject, and what the storage raises.
    """
    try:
        sealed = backend.load(ObjectKind.CONFIG, CONFIG_NAME)
    except StorageObjectMissing as error:
        raise RepositoryNotFound(f"there is no restic repository in {backend.location}") from error
    key = _find_key(backend, password())
    plain = Opener(key).open(sealed)
    if plain is None:
        raise DamagedObject(f"the config of the restic repository in {backend.location} is damaged")
    try:
        config = decode_config(plain)
    except (msgspec.MsgspecError, *MALFORMED) as error:
        raise DamagedObject(f"the config of the restic repository does not decode: {error}") from error
    if config.version not in _VERSIONS:
        raise UnsupportedFormat(f"the restic repository has format {config.version}, and only 1 and 2 are known")
    return ResticRepository(backend, key, config)


def _find_key(backend: Backend, password: bytes) -> MasterKey:
    names = sorted(info.name for info in backend.list(ObjectKind.KEY))
    damaged: DamagedObject | None = None
    for name in names[:_MOST_KEYS]:
        try:
            key = open_key_file(backend.load(ObjectKind.KEY, name), password)
        except DamagedObject as error:
            damaged = error
            continue
        if key is not None:
            return key
    if damaged is not None and len(names) == 1:
        raise damaged
    raise WrongPassword(
        f"no key of the restic repository in {backend.location} opens with this password",
        hint="it is that of the restic repository, from --from-password-file or BACKUPFORGE_FROM_PASSWORD",
    )
