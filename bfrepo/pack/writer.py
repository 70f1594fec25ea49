"""Writing a pack: frames go in sealed and checked, a named object comes out."""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass

from blake3 import blake3

from bfrepo.compression import Codec, Compressor
from bfrepo.core.errors import DamagedObject
from bfrepo.core.ids import BlobKind
from bfrepo.core.protocols import Buffer
from bfrepo.pack.format import SALT_SIZE, PackCipher, PackDirectory, PackedFrame, at_least
from bfrepo.storage.base import Upload


@dataclass(frozen=True, slots=True)
class FinishedPack:
    """A pack that is durable: its name, its size in bytes, and what is in it."""

    name: str
    size: int
    directory: PackDirectory


class FrameSealer:
    """Turns the plaintext of a frame into what is stored, and proves it can be read again. One object per thread.

    The scratch memory is reused, because fresh memory is dear: on virtual machines a page fault costs more than sealing
    a page.
    """

    def __init__(self, compressor: Compressor, *, verify: bool) -> None:
        self._compressor = compressor
        self._verify = verify
        self._sealed = bytearray(1 << 20)
        self._opened = bytearray(1 << 20)
        self._expanded = bytearray(1 << 20)

    def compress(self, plain: memoryview) -> PackedFrame:
        """What `add` takes: the part of the work that needs no pack."""
        codec, packed = self._compressor.compress(plain)
        return PackedFrame(plain, memoryview(packed), codec)

    def add(self, pack: PackWriter, frame: PackedFrame, blob_ids: Buffer, blob_sizes: array[int]) -> int:
        """Seal, verify and append one frame; its stored size in bytes."""
        sealed = self._seal(pack, frame.packed)
        if self._verify and not self._reads_back(pack, sealed, frame.codec, frame.plain):
            raise _not_as_written()
        return _append(pack, sealed, len(frame.plain), frame.codec, blob_ids, blob_sizes)

    def add_packed(self, pack: PackWriter, frame: PackedFrame, blob_ids: Buffer, blob_sizes: array[int]) -> int:
        """As `add`, for a frame that was proved to expand to its plaintext."""
        sealed = self._seal(pack, frame.packed)
        if self._verify and not self._opens_to(pack, sealed, frame.packed):
            raise _not_as_written()
        return _append(pack, sealed, len(frame.plain), frame.codec, blob_ids, blob_sizes)

    def _seal(self, pack: PackWriter, packed: Buffer) -> memoryview:
        self._sealed = at_least(self._sealed, len(packed) + pack.cipher.overhead)
        number = len(pack.directory.stored_sizes)
        size = pack.cipher.seal_frame(packed, pack.directory.kind, number, memoryview(self._sealed))
        return memoryview(self._sealed)[:size]

    def _reads_back(self, pack: PackWriter, sealed: memoryview, codec: Codec, plain: memoryview) -> bool:
        """Whether opening and expanding what was sealed gives the plaintext again."""
        if codec is Codec.NONE:
            return self._opens_to(pack, sealed, plain)
        opened = self._open(pack, sealed)
        self._expanded = at_least(self._expanded, len(plain))
        self._compressor.expand_into(codec, opened, memoryview(self._expanded)[: len(plain)])
        return self._expanded.startswith(plain)

    def _opens_to(self, pack: PackWriter, sealed: memoryview, packed: Buffer) -> bool:
        return len(self._open(pack, sealed)) == len(packed) and self._opened.startswith(packed)

    def _open(self, pack: PackWriter, sealed: memoryview) -> memoryview:
        self._opened = at_least(self._opened, len(sealed))
        opened = memoryview(self._opened)
        number = len(pack.directory.stored_sizes)
        return opened[: pack.cipher.open_frame(sealed, pack.directory.kind, number, opened)]


def _append(
    pack: PackWriter, sealed: memoryview, plain_size: int, codec: Codec, blob_ids: Buffer, blob_sizes: array[int]
) -> int:
    pack.append(sealed)
    pack.directory.add_frame(len(sealed), plain_size, codec, blob_ids, blob_sizes)
    return len(sealed)


def _not_as_written() -> DamagedObject:
    return DamagedObject(
        "a frame did not read back as it was written, so nothing of it was stored",
        hint="this machine's memory or processor is at fault: test it before backing up again",
    )


class PackWriter:
    """One pack on its way to storage. Used by one thread at a time."""

    def __init__(self, upload: Upload, pack_key: bytes | None, repository_id: bytes, kind: BlobKind) -> None:
        self.cipher = PackCipher(pack_key, os.urandom(SALT_SIZE), repository_id)
        self.directory = PackDirectory.empty(kind)
        self.size = 0
        self._upload = upload
        self._hash = blake3()
        self.append(self.cipher.head)

    def append(self, data: Buffer) -> None:
        """Write stored bytes behind what is there."""
        self._upload.write(data)
        self._hash.update(data)
        self.size += len(data)

    def finish(self) -> FinishedPack:
        """Make the pack durable under its name."""
        self.append(self.cipher.seal_directory(self.directory))
        name = self._hash.hexdigest()
        self._upload.commit(name)
        return FinishedPack(name, self.size, self.directory)

    def abort(self) -> None:
        """Give the pack up; nothing of it becomes visible."""
        self._upload.abort()
