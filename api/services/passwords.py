"""Passwords of users: bcrypt, which takes a quarter of a second of a core by intention. Call it in `Services.logins`.

What bcrypt gets is a hash of the password, as it would ignore what comes after 72 bytes.
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from typing import Final

import bcrypt

_NOBODY: Final = "$2b${cost:02}$abcdefghijklmnopqrstuuTeHVkLOmYHyl9pwXRmcYAzZRsSPOFcu"
"""A hash of no known password: to check one against it takes as long as against a user's."""


def hash_password(password: str, cost: int) -> str:
    """What the database keeps of a password. Each step of `cost` doubles the time."""
    return bcrypt.hashpw(prepare(password), bcrypt.gensalt(cost)).decode()


def is_password(password: str, password_hash: str | None, cost: int) -> bool:
    """Whether this is the password that was hashed; for None, a user who does not exist, False in the same time."""
    known = password_hash or _NOBODY.format(cost=cost)
    return bcrypt.checkpw(prepare(password), known.encode()) and password_hash is not None


def prepare(password: str) -> bytes:
    """What bcrypt gets: 44 characters. However it was typed, the same text is the same password (NIST SP 800-63B)."""
    normal = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
    return base64.b64encode(hashlib.sha256(normal).digest())
