"""How restic encrypts, and how a password opens its keys.

    Everything but keys is: 16 bytes IV | ciphertext | 16 bytes MAC
    ciphertext    AES-256 in counter mode; the counter is the IV, 128 bits, big-endian
    MAC           Poly1305-AES over the ciphertext: its one-time key is r (16 bytes), then the IV encrypted by AES-128
                  under k

    keys/<id> is JSON {"kdf": "scrypt", "N", "r", "p", "salt": base64, "data": base64}. The 64 bytes that scrypt makes
    of the password are such keys themselves (32 bytes for AES, 16 for k, 16 for r), which open `data`: JSON
    {"encrypt": base64 of 32 bytes, "mac": {"k": base64 of 16, "r": base64 of 16}}, the keys of the repository.

Source: the design document of restic ("Keys, Encryption and MAC"); Bernstein, The Poly1305-AES message-authentication
code.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305
from msgspec import Meta

from bfrepo.core.errors import MALFORMED, DamagedObject

IV_SIZE: Final = 16
MAC_SIZE: Final = 16
OVERHEAD: Final = IV_SIZE + MAC_SIZE
_KEYS_SIZE: Final = 64
_MOST_MEMORY: Final = 1 << 30


class _KeyFile(msgspec.Struct):
    kdf: Literal["scrypt"]
    salt: Annotated[str, Meta(max_length=1000)]
    data: Annotated[str, Meta(max_length=10_000)]
    n: Annotated[int, Meta(ge=2, le=1 << 24)] = msgspec.field(name="N")
    r: Annotated[int, Meta(ge=1, le=64)] = 8
    p: Annotated[int, Meta(ge=1, le=64)] = 1


class _Mac(msgspec.Struct):
    k: str
    r: str


class _Master(msgspec.Struct):
    encrypt: str
    mac: _Mac


@dataclass(frozen=True, slots=True)
class MasterKey:
    """The keys of a repository, or of a password."""

    encrypt: bytes = field(repr=False)
    mac_k: bytes = field(repr=False)
    mac_r: bytes = field(repr=False)


class Opener:
    """Opens what a key has sealed. For one thread: setting AES up takes longer than to open a small blob."""

    def __init__(self, key: MasterKey) -> None:
        self._r = key.mac_r
        self._one_time: Any = Cipher(algorithms.AES(key.mac_k), modes.ECB()).encryptor()
        self._counter: Any = Cipher(algorithms.AES(key.encrypt), modes.CTR(bytes(16))).decryptor()

    def open_all(self, sealed: Sequence[memoryview]) -> list[bytes | None]:
        """The plaintext of each; None for one whose MAC is wrong."""
        ivs = b"".join(each[:IV_SIZE] for each in sealed)
        one_time = self._one_time.update(ivs)
        return [
            self._open(each, ivs[at : at + IV_SIZE], one_time[at : at + IV_SIZE])
            for at, each in zip(range(0, len(ivs), IV_SIZE), sealed, strict=True)
        ]

    def open(self, sealed: bytes | memoryview) -> bytes | None:
        """The plaintext; None if the MAC is wrong."""
        return self.open_all([memoryview(sealed)])[0] if len(sealed) >= OVERHEAD else None

    def _open(self, sealed: memoryview, iv: bytes, one_time: bytes) -> bytes | None:
        end = len(sealed) - MAC_SIZE
        ciphertext = sealed[IV_SIZE:end]
        try:
            Poly1305.verify_tag(self._r + one_time, ciphertext, bytes(sealed[end:]))
        except InvalidSignature:
            return None
        self._counter.reset_nonce(iv)
        plain: bytes = self._counter.update(ciphertext)
        return plain


def open_key_file(data: bytes, password: bytes) -> MasterKey | None:
    """The keys of the repository; None where the password is not that of this file. Raises DamagedObject."""
    try:
        stored = msgspec.json.decode(data, type=_KeyFile)
        if 128 * stored.n * stored.r * stored.p > _MOST_MEMORY:
            raise DamagedObject("a key of the restic repository wants more memory than is allowed")
        salt = base64.b64decode(stored.salt, validate=True)
        raw = hashlib.scrypt(
            password, salt=salt, n=stored.n, r=stored.r, p=stored.p, maxmem=2 * _MOST_MEMORY - 1, dklen=_KEYS_SIZE
        )
        plain = Opener(MasterKey(raw[:32], raw[32:48], raw[48:])).open(base64.b64decode(stored.data, validate=True))
        if plain is None:
            return None
        master = msgspec.json.decode(plain, type=_Master)
        keys = (base64.b64decode(text, validate=True) for text in (master.encrypt, master.mac.k, master.mac.r))
        found = MasterKey(*keys)
    except (msgspec.MsgspecError, *MALFORMED) as error:
        raise DamagedObject(f"a key of the restic repository does not decode: {error}") from error
    if (len(found.encrypt), len(found.mac_k), len(found.mac_r)) != (32, 16, 16):
        raise DamagedObject("a key of the restic repository has keys of other lengths than they must have")
    return found
