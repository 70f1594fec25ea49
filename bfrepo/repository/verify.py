"""Reading stored objects from end to end, to prove that they are what was written.

A pack is read once, in pieces of about 2 MiB (8 MiB where each takes a request), in order, so that the hash of the
whole goes along. Its own directory, read first from its end, says where frames begin; every frame is opened and
expanded and every blob in it hashed.
Several threads share the work: each takes a pack of its own while there are any, then helps with the packs of the
others, so a last large pack does not keep one thread busy alone. A thread holds the lock of a pack only while it reads
and hashes one piece.

Nothing is kept but a few words about each pack, and memory is reused: a larger repository takes no more of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Final

from blake3 import blake3

from bfrepo.compression import Codec, Expander
from bfrepo.core.errors import BackupForgeError, DamagedBlob, DamagedObject, Interrupted, UnsupportedFormat
from bfrepo.core.ids import ID_SIZE, short_id
from bfrepo.core.progress import Progress
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import MIB
from bfrepo.crypto.hashing import object_name
from bfrepo.index.table import FramePlace
from bfrepo.pack.format import HEAD_SIZE, PackCipher, PackDirectory
from bfrepo.pack.reader import read_directory
from bfrepo.repository.loader import open_frame
from bfrepo.storage.abilities import is_far
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind
from bfrepo.storage.layout import describe

_PIECE: Final = 2 * MIB
_FAR_PIECE: Final = 8 * MIB
_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class PackSecrets:
    """What it takes to open any pack of a repository. The keys are None where nothing is encrypted."""

    repository_id: bytes
    pack_key: bytes | None
    blob_id_key: bytes | None


@dataclass(frozen=True, slots=True)
class PackVerdict:
    """What reading a pack has shown.

    `intact`: its bytes hash to its name. `fingerprint`: see there; empty where its directory does not open. `problem`:
    what was found first, other than a wrong hash.
    """

    intact: bool
    fingerprint: str
    problem: BackupForgeError | None


def fingerprint(size: int, directory: Buffer) -> str:
    """A hash of a pack's size and encoded directory: what the pack and the index say of it can be compared by it."""
    return object_name(b"%d\n%s" % (size, directory))


def _piece_size(backend: Backend) -> int:
    """Bytes that are read at once."""
    return _FAR_PIECE if is_far(backend) else _PIECE


class PackReading:
    """Threads that read packs and prove all that is in them. They run from entering its context to leaving it."""

    def __init__(
        self,
        backend: Backend,
        secrets: PackSecrets,
        packs: Mapping[bytes, int],
        progress: Progress,
        cancelled: Callable[[], bool],
        *,
        workers: int,
    ) -> None:
        """`packs` are sizes in bytes by ID. `progress` has its bytes counted. A far storage gets more workers."""
        if is_far(backend):
            workers = max(workers, backend.connections)
        self._secrets = secrets
        self._progress = progress
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._stopped = False
        self._error: BaseException | None = None
        self._waiting = (_PackStream(backend, secrets, pack, size) for pack, size in packs.items())
        self._begun: list[_PackStream] = []
        self._open: list[_PackStream] = []
        self._threads = [
            threading.Thread(target=self._work, name=f"check-{number}", daemon=True)
            for number in range(workers if packs else 0)
        ]

    def __enter__(self) -> PackReading:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped = True
        self._join()

    def wait(self) -> dict[bytes, PackVerdict]:
        """What was found, by pack ID. Raises Interrupted when `cancelled` said so."""
        self._join()
        if self._error is not None:
            raise self._error
        return {stream.pack: PackVerdict(stream.intact, stream.fingerprint, stream.problem) for stream in self._begun}

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        scratch = _Scratch(self._secrets.blob_id_key)
        try:
            while (stream := self._next_stream()) is not None:
                while not self._stopped and (piece := stream.read(scratch)) is not None:
                    if self._cancelled():
                        raise Interrupted("stopped while reading packs")
                    stream.prove(piece, scratch)
                    with self._lock:
                        self._progress.bytes_done += piece.size
        except BaseException as error:  # handed to whoever waits
            self._error = self._error or error
            self._stopped = True

    def _next_stream(self) -> _PackStream | None:
        """A pack that nobody has begun, else one that somebody is still in the middle of."""
        with self._lock:
            if self._stopped:
                return None
            stream = next(self._waiting, None)
            self._open = [each for each in self._open if not each.ended]
            if stream is None:
                return max(self._open, key=lambda each: each.remaining, default=None)
            self._open.append(stream)
            self._begun.append(stream)
            return stream


@dataclass(frozen=True, slots=True)
class _Opened:
    """A pack whose directory could be read."""

    cipher: PackCipher
    directory: PackDirectory
    blob_ids: bytes


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some of a pack's bytes, in the reader's scratch memory: its frames begin after `skip` bytes."""

    size: int
    skip: int = 0
    frames: range = range(0)
    first_blob: int = 0
    opened: _Opened | None = None


class _Scratch:
    """Memory and contexts of one thread, used again and again."""

    def __init__(self, blob_id_key: bytes | None) -> None:
        self.stored = bytearray(_PIECE + HEAD_SIZE)
        self._packed = bytearray(_PIECE)
        self._plain = bytearray(_PIECE)
        self._expander = Expander()
        self.hasher = blake3() if blob_id_key is None else blake3(key=blob_id_key)

    def make_room(self, size: int) -> memoryview:
        """At least `size` bytes for what is stored."""
        if len(self.stored) < size:
            self.stored = bytearray(size)
        return memoryview(self.stored)[:size]

    def open(self, cipher: PackCipher, place: FramePlace, stored: memoryview) -> memoryview:
        """A frame's plaintext, valid until the next one. Raises DamagedObject."""
        if len(self._packed) < place.stored_size:
            self._packed = bytearray(place.stored_size)
        if len(self._plain) < place.plain_size:
            self._plain = bytearray(place.plain_size)
        out = memoryview(self._plain)[: place.plain_size]
        open_frame(cipher, place, stored, self._packed, self._expander, out)
        return out


class _PackStream:
    """One pack, read from front to back. Any thread may take the next piece. What is large goes when all is read."""

    __slots__ = (
        "_backend", "_blob", "_frame", "_hash", "_lock", "_opened", "_piece", "_position", "_secrets", "_size",
        "fingerprint", "intact", "pack", "problem",
    )  # fmt: skip

    def __init__(self, backend: Backend, secrets: PackSecrets, pack: bytes, size: int) -> None:
        self.pack = pack
        self.intact = False
        self.fingerprint = ""
        self.problem: BackupForgeError | None = None
        self._backend = backend
        self._secrets = secrets
        self._size = size
        self._piece = _piece_size(backend)
        self._lock = threading.Lock()
        self._hash: blake3 | None = None
        self._opened: _Opened | None = None
        self._position = self._frame = self._blob = 0

    @property
    def remaining(self) -> int:
        return self._size - self._position

    @property
    def ended(self) -> bool:
        return self._position >= self._size

    def read(self, scratch: _Scratch) -> _Piece | None:
        """The next piece, its bytes in scratch memory; None at the end or when the storage fails."""
        with self._lock:
            if self.ended:
                return None
            try:
                return self._read_piece(scratch)
            except BackupForgeError as error:
                self.problem = error
                self._end()
                return None

    def prove(self, piece: _Piece, scratch: _Scratch) -> None:
        """Open the frames of a piece and hash the blobs in them, unless something is known to be wrong already."""
        if piece.opened is None:
            return
        directory, blob = piece.opened.directory, piece.first_blob
        view = memoryview(scratch.stored)[piece.skip :]
        for number in piece.frames:
            if self.problem is not None:
                return
            place = self._frame_place(directory, number)
            count = directory.blob_counts[number]
            try:
                plain = scratch.open(piece.opened.cipher, place, view[: place.stored_size])
                wrong = _wrong_blob(plain, piece.opened, blob, count, scratch)
            except DamagedObject as error:
                self.problem = error
                return
            if wrong is not None:
                self.problem = DamagedBlob(f"its blob {short_id(wrong)} does not hash to its ID")
            view = view[place.stored_size :]
            blob += count

    def _read_piece(self, scratch: _Scratch) -> _Piece:
        if self._hash is None:
            self._hash = blake3()
            self._open()
        piece = self._plan_piece()
        view = scratch.make_room(piece.size)
        self._backend.read_into(ObjectKind.PACK, self.pack.hex(), self._position, view)
        self._hash.update(view)
        self._position += piece.size
        if not self.remaining:
            self.intact = self._hash.digest() == self.pack
            self._end()
        return piece

    def _end(self) -> None:
        self._position = self._size
        self._hash = self._opened = None

    def _open(self) -> None:
        """Read head and directory. When they do not open, only the hash is left to find out."""
        secrets = self._secrets
        try:
            cipher, directory = read_directory(
                self._backend, self.pack.hex(), self._size, secrets.pack_key, secrets.repository_id
            )
        except (DamagedObject, UnsupportedFormat) as error:
            self.problem = error
            return
        self._opened = _Opened(cipher, directory, bytes(directory.blob_ids))
        self.fingerprint = fingerprint(self._size, directory.encode())

    def _plan_piece(self) -> _Piece:
        """Whole frames up to the size of a piece, at least one; where there are none, simply bytes."""
        first = self._frame
        if self._opened is None or first == len(self._opened.directory.stored_sizes):
            return _Piece(min(self._piece, self.remaining))
        directory = self._opened.directory
        skip = HEAD_SIZE if self._position == 0 else 0
        size, end = skip + directory.stored_sizes[first], first + 1
        for stored in islice(directory.stored_sizes, end, None):
            if size + stored > self._piece:
                break
            size += stored
            end += 1
        piece = _Piece(size, skip, range(first, end), self._blob, self._opened)
        self._frame = end
        self._blob += sum(directory.blob_counts[first:end])
        return piece

    def _frame_place(self, directory: PackDirectory, number: int) -> FramePlace:
        return FramePlace(
            pack=self.pack.hex(),
            kind=directory.kind,
            number=number,
            offset=0,  # of no use here: the bytes are in memory
            stored_size=directory.stored_sizes[number],
            plain_size=directory.plain_sizes[number],
            codec=Codec(directory.codecs[number]),
        )


def _wrong_blob(plain: memoryview, opened: _Opened, first: int, count: int, scratch: _Scratch) -> bytes | None:
    """The ID of a frame's first blob that does not hash to it. The loop runs once for every blob of the repository."""
    reset, update, digest = scratch.hasher.reset, scratch.hasher.update, scratch.hasher.digest
    found = []
    start = 0
    for size in opened.directory.blob_sizes[first : first + count]:
        end = start + size
        reset()
        update(plain[start:end])
        found.append(digest())
        start = end
    if b"".join(found) == opened.blob_ids[first * ID_SIZE : (first + count) * ID_SIZE]:
        return None
    blob_ids = (opened.blob_ids[at * ID_SIZE : (at + 1) * ID_SIZE] for at in range(first, first + count))
    return next(blob_id for blob_id, hashed in zip(blob_ids, found, strict=True) if blob_id != hashed)


class ObjectHasher:
    """Proves objects by their names alone, without any key. May be used from several threads."""

    def __init__(self, backend: Backend, progress: Progress, cancelled: Callable[[], bool]) -> None:
        self._backend = backend
        self._progress = progress
        self._cancelled = cancelled
        self._local = threading.local()
        self._lock = threading.Lock()

    def prove(
        self, objects: Iterable[tuple[ObjectKind, ObjectInfo]], *, workers: int
    ) -> Iterator[tuple[ObjectKind, str, BackupForgeError]]:
        """The objects that are not what their names say, or cannot be read, with the reason. Raises Interrupted."""
        rest = iter(objects)
        with ThreadPoolExecutor(workers, thread_name_prefix="check") as pool:
            while batch := list(islice(rest, _BATCH)):
                for (kind, info), error in zip(batch, pool.map(self._try_object, batch), strict=True):
                    if error is not None:
                        yield kind, info.name, error

    def _try_object(self, item: tuple[ObjectKind, ObjectInfo]) -> BackupForgeError | None:
        kind, info = item
        try:
            self._prove_object(kind, info)
        except Interrupted:
            raise
        except BackupForgeError as error:
            return error
        return None

    def _prove_object(self, kind: ObjectKind, info: ObjectInfo) -> None:
        hasher, buffer, position = blake3(), self._buffer(), 0
        while position < info.size:
            if self._cancelled():
                raise Interrupted("stopped while reading objects")
            piece = buffer[: min(len(buffer), info.size - position)]
            self._backend.read_into(kind, info.name, position, piece)
            hasher.update(piece)
            position += len(piece)
            with self._lock:
                self._progress.bytes_done += len(piece)
        if hasher.hexdigest() != info.name:
            raise DamagedObject(f"{describe(kind, info.name)}: its bytes are not those that were written")

    def _buffer(self) -> memoryview:
        view: memoryview | None = getattr(self._local, "view", None)
        if view is None:
            view = self._local.view = memoryview(bytearray(_piece_size(self._backend)))
        return view
