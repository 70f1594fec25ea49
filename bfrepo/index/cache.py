"""The index as one file in the local cache, so that a repository with millions of blobs opens without reading its index
again.

The file names the index objects it was made from; only those that are new are read and merged in, and if one of them is
gone the file is of no use and made again. It is sealed like the repository (INV-5), in segments, each bound to its
number. A hash of each shows damage where nothing is sealed: a wrong index would call intact blobs lost.

    8 magic | segments: 4 length, little-endian; 32 BLAKE3 of what it is bound to and of the sealed bytes; sealed bytes.
    The first holds the header, the rest the table.

It is replaced by renaming a complete new file; losing it, or finding it damaged, costs only time.
"""

from __future__ import annotations

import os
import struct
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import IO, Final, cast

import msgspec
from blake3 import blake3

from bfrepo.core.errors import MALFORMED, DamagedObject
from bfrepo.core.protocols import Buffer
from bfrepo.crypto.seal import Sealer, associated_data, seal, unseal
from bfrepo.index.format import PackFlag
from bfrepo.index.table import BlobTable

_MAGIC: Final = b"BFCACHE\x02"
_SEGMENT: Final = 4 << 20
_SEGMENT_HEAD = struct.Struct("<I32s")


class CacheHeader(msgspec.Struct, kw_only=True):
    """What a cached table stands for."""

    objects: list[str]
    flags: list[PackFlag]
    revoked: list[bytes]


class IndexCache:
    """One repository's index cache. Several processes may use it at once: each replaces the whole file.

    `location` says where the repository is, for people who look at what is kept on this machine; without passwords.
    """

    def __init__(self, folder: Path, sealer: Sealer, repository_id: bytes, location: str = "") -> None:
        self._path = folder / "index"
        self._location = location
        self._sealer = sealer
        self._repository_id = repository_id

    def load(self) -> tuple[CacheHeader, BlobTable] | None:
        """The cached table, or None when there is none that can be used."""
        try:
            with open(self._path, "rb") as file:
                if file.read(len(_MAGIC)) != _MAGIC:
                    return None
                reader = _SealedReader(file, self._sealer, self._repository_id)
                size = struct.unpack("<I", reader.read(4))[0]
                header = msgspec.msgpack.decode(reader.read(size), type=CacheHeader)
                return header, BlobTable.read_from(cast("IO[bytes]", reader))
        except (OSError, DamagedObject, msgspec.MsgspecError, *MALFORMED, struct.error):
            return None  # a cache: whatever is wrong with it, the repository itself has everything

    def save(self, header: CacheHeader, table: BlobTable) -> None:
        """Replace the cached table. Raises OSError; the old file then stays."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self._path.with_name(f"index.{os.getpid()}.part")
        try:
            with open(partial, "wb") as file:
                file.write(_MAGIC)
                writer = _SealedWriter(file, self._sealer, self._repository_id)
                encoded = msgspec.msgpack.encode(header)
                writer.write(struct.pack("<I", len(encoded)) + encoded)
                table.write_to(cast("IO[bytes]", writer))
                writer.flush()
            os.replace(partial, self._path)
            if self._location:
                self._path.with_name("location").write_bytes(os.fsencode(f"{self._location}\n"))
        finally:
            partial.unlink(missing_ok=True)


class _SealedWriter:
    def __init__(self, file: IO[bytes], sealer: Sealer, repository_id: bytes) -> None:
        self._file, self._sealer, self._id = file, sealer, repository_id
        self._open = BytesIO()
        self._number = 0

    def write(self, data: Buffer) -> int:
        self._open.write(data)
        if self._open.tell() >= _SEGMENT:
            self.flush()
        return len(data)

    def flush(self) -> None:
        bound_to = associated_data(self._id, "cache", 0, self._number)
        sealed = seal(self._sealer, self._open.getvalue(), bound_to)
        self._file.write(_SEGMENT_HEAD.pack(len(sealed), _segment_hash(bound_to, sealed)) + sealed)
        self._open = BytesIO()
        self._number += 1


class _SealedReader(RawIOBase):
    def __init__(self, file: IO[bytes], sealer: Sealer, repository_id: bytes) -> None:
        self._file, self._sealer, self._id = file, sealer, repository_id
        self._size = os.fstat(file.fileno()).st_size
        self._open = BytesIO()
        self._number = 0

    def read(self, size: int = -1) -> bytes:
        data = self._open.read(size)
        while len(data) < size and self._next_segment():
            data += self._open.read(size - len(data))
        return data

    def _next_segment(self) -> bool:
        head = self._file.read(_SEGMENT_HEAD.size)
        if len(head) < _SEGMENT_HEAD.size:
            return False
        length, expected = _SEGMENT_HEAD.unpack(head)
        bound_to = associated_data(self._id, "cache", 0, self._number)
        if length > self._size:  # before memory is taken for it
            raise DamagedObject("the index cache is cut short")
        sealed = self._file.read(length)
        if _segment_hash(bound_to, sealed) != expected:
            raise DamagedObject("the index cache is damaged")
        self._open = BytesIO(unseal(self._sealer, sealed, bound_to))
        self._number += 1
        return True


def _segment_hash(bound_to: bytes, sealed: bytes) -> bytes:
    return blake3(bound_to).update(sealed).digest()
