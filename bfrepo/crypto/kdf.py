"""From a password to a key: Argon2id (RFC 9106), with its parameters recorded in every key slot.

`default` is the second set that RFC 9106 recommends (t=3, m=64 MiB, p=4); `strong` takes about six times as long.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bfrepo.core.errors import BackupForgeError, DamagedObject

SALT_SIZE = 16
KEY_SIZE = 32


class KdfParams(msgspec.Struct, frozen=True, kw_only=True):
    """Argon2id's costs.

    The bounds keep a slot made by somebody hostile from taking the machine down: 64 passes, 4 GiB.
    """

    algorithm: Literal["argon2id"] = "argon2id"
    time_cost: Annotated[int, Meta(ge=1, le=64)]
    memory_kib: Annotated[int, Meta(ge=8, le=4 << 20)]
    lanes: Annotated[int, Meta(ge=1, le=64)]
    salt: Annotated[bytes, Meta(min_length=8, max_length=64)]


def kdf_params(profile: Literal["default", "strong"], salt: bytes) -> KdfParams:
    """The costs of a named profile with a fresh salt."""
    if profile == "strong":
        return KdfParams(time_cost=4, memory_kib=256 * 1024, lanes=4, salt=salt)
    return KdfParams(time_cost=3, memory_kib=64 * 1024, lanes=4, salt=salt)


def derive_slot_key(password: bytes, params: KdfParams) -> bytes:
    """32 bytes. Takes a noticeable time and the memory that `params` say; releases the GIL while it works.

    Raises DamagedObject for costs that contradict each other, BackupForgeError when there is not enough memory.
    """
    # 20 ms to import, which only an opened repository costs.
    from argon2.exceptions import HashingError  # noqa: PLC0415
    from argon2.low_level import Type, hash_secret_raw  # noqa: PLC0415

    if params.memory_kib < 8 * params.lanes:  # RFC 9106, section 3.1
        raise DamagedObject(f"asks for {params.lanes} lanes in {params.memory_kib} KiB of memory, which cannot be")
    try:
        return hash_secret_raw(
            password, params.salt, params.time_cost, params.memory_kib, params.lanes, KEY_SIZE, Type.ID
        )
    except HashingError as error:
        raise BackupForgeError(
            f"the password's key cannot be derived: {error}",
            hint=f"it takes {params.memory_kib // 1024} MiB of free memory",
        ) from error
