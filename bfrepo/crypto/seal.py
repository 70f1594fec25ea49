"""Authenticated encryption of stored bytes: AES-256-GCM as `[nonce 12][ciphertext][tag 16]`, bound to what the bytes
mean.

The associated data names format version, repository, kind of object, and for frames the kind and position; a sealed
piece that is moved to another place, pack, repository or kind does not open. A random 12-byte nonce is good for 2^32
messages under one key (NIST SP 800-38D), so every pack has a key of its own.
"""

from __future__ import annotations

import os
import struct
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bfrepo.core.errors import DamagedObject
from bfrepo.core.protocols import Buffer

NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16


class Sealer(Protocol):
    """Seals and opens pieces under one key. Thread-safe. `overhead` is how many bytes sealing adds."""

    overhead: int

    def seal_into(self, plain: Buffer, associated: bytes, out: memoryview) -> int:
        """Write the sealed form to the front of `out` and return its length, `len(plain) + overhead`."""

    def open_into(self, sealed: Buffer, associated: bytes, out: memoryview) -> int:
        """Write the plaintext to the front of `out` and return its length.

        Raises DamagedObject if it does not authenticate.
        """


class AesGcm:
    """AES-256-GCM with random nonces."""

    overhead = NONCE_SIZE + TAG_SIZE

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal_into(self, plain: Buffer, associated: bytes, out: memoryview) -> int:
        """See Sealer."""
        size = len(plain) + self.overhead
        nonce = os.urandom(NONCE_SIZE)
        out[:NONCE_SIZE] = nonce
        self._aead.encrypt_into(nonce, plain, associated, out[NONCE_SIZE:size])
        return size

    def open_into(self, sealed: Buffer, associated: bytes, out: memoryview) -> int:
        """See Sealer."""
        view = memoryview(sealed)
        size = len(view) - self.overhead
        if size < 0:
            raise DamagedObject("too short to be sealed")
        try:
            self._aead.decrypt_into(bytes(view[:NONCE_SIZE]), view[NONCE_SIZE:], associated, out[:size])
        except InvalidTag as error:
            raise DamagedObject("does not authenticate") from error
        return size


class Plain:
    """A repository without encryption: the bytes as they are. Integrity rests on object names and blob IDs."""

    overhead = 0

    def seal_into(self, plain: Buffer, associated: bytes, out: memoryview) -> int:
        """See Sealer."""
        out[: len(plain)] = plain
        return len(plain)

    def open_into(self, sealed: Buffer, associated: bytes, out: memoryview) -> int:
        """See Sealer."""
        out[: len(sealed)] = sealed
        return len(sealed)


def seal(sealer: Sealer, plain: Buffer, associated: bytes) -> bytes:
    """The sealed form of a small piece, in memory of its own."""
    out = bytearray(len(plain) + sealer.overhead)
    sealer.seal_into(plain, associated, memoryview(out))
    return bytes(out)


def unseal(sealer: Sealer, sealed: Buffer, associated: bytes) -> bytes:
    """The plaintext of a small piece, in memory of its own. Raises DamagedObject."""
    out = bytearray(max(len(sealed) - sealer.overhead, 0))
    sealer.open_into(sealed, associated, memoryview(out))
    return bytes(out)


def associated_data(repository_id: bytes, what: str, kind: int = 0, position: int = 0) -> bytes:
    """What a sealed piece is bound to:

    this format, this repository, the kind of object, and kind and position of a frame.
    """
    return b"BackupForge\x01" + repository_id + struct.pack("<BI", kind, position) + what.encode()
