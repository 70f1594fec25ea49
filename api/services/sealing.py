"""What the database keeps that others may not read: sealed with a key of the server's that is not in the database.

A sealed value belongs to its owner, a word such as "repository <id>": in another row it does not open.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from bfrepo.core.errors import BackupForgeError

_NONCE_SIZE: Final = 12


class CannotUnseal(BackupForgeError):
    """A value was sealed by another server, or for something else."""

    code = "cannot-unseal"


def seal(key: bytes, owner: str, data: bytes) -> bytes:
    """The data, sealed for its owner. `key` has 32 bytes (`ServerKeys.sealing`)."""
    nonce = os.urandom(_NONCE_SIZE)  # random: far fewer than 2**32 values are ever sealed with one key
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, data, owner.encode())


def unseal(key: bytes, owner: str, sealed: bytes) -> bytes:
    """What was sealed for this owner. Raises CannotUnseal."""
    nonce, body = sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:]
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, body, owner.encode())
    except (InvalidTag, ValueError) as error:
        raise CannotUnseal(
            f"what is stored for {owner} cannot be opened with this server's key",
            hint="start the server, and every worker, with the server.key that the database was used with",
        ) from error
