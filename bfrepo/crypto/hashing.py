"""BLAKE3, the one hash: names of stored objects, IDs of blobs, and keys from the master secret.

A blob's ID is keyed with a secret of the repository, so the storage cannot test whether a known file is inside (INV-5).
Without encryption the hash is plain, so `b3sum` reproduces it.
"""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3

from bfrepo.core.protocols import Buffer


def object_name(data: Buffer) -> str:
    """The name of a stored object: the hash of its stored bytes, as 64 hex digits."""
    return blake3(data).hexdigest()


def make_blob_hasher(key: bytes | None) -> Callable[[Buffer], bytes]:
    """A function from a blob's plaintext to its ID, keyed unless `key` is None. It may be called from any thread."""
    if key is None:
        return lambda data: blake3(data).digest()
    return lambda data: blake3(data, key=key).digest()


def derive_key(secret: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose out of a secret (BLAKE3's derive_key mode; `purpose` is a constant of this program)."""
    return blake3(secret, derive_key_context=f"BackupForge repository format 1: {purpose}").digest()


def keyed_hash(key: bytes, data: Buffer) -> bytes:
    """32 bytes from `data` that only the holder of the 32-byte `key` can compute."""
    return blake3(data, key=key).digest()
