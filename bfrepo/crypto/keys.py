"""Keys: one random master secret for each repository, and the password slots that open it.

    keys/<id>      JSON, named like every object by the BLAKE3 hash of its bytes, so damage shows without a password
    version        1
    kdf            algorithm, time_cost, memory_kib, lanes, salt
    commitment     32 bytes only this slot's key produces: AES-GCM alone does not commit to its key (format.md)
    sealed         the master secret, sealed with the slot's key
    about          label, host name and time of the slot, sealed with the repository's own key

Everything else comes from the master secret by BLAKE3's derive_key mode, one context string for each purpose.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from typing import Literal

import msgspec

from bfrepo.core.errors import MALFORMED, DamagedObject, UnsupportedFormat
from bfrepo.crypto.hashing import derive_key
from bfrepo.crypto.kdf import SALT_SIZE, KdfParams, derive_slot_key, kdf_params
from bfrepo.crypto.seal import AesGcm, Plain, Sealer, associated_data, seal, unseal

SLOT_VERSION = 1
SECRET_SIZE = 32


class _Slot(msgspec.Struct, kw_only=True):
    version: int
    kdf: KdfParams
    commitment: bytes
    sealed: bytes
    about: bytes


class SlotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a person wants to know of a slot. `created` is ISO 8601 with zone."""

    label: str
    host: str
    created: str


@dataclass(frozen=True, slots=True)
class Keys:
    """Every key of a repository. `secret` is None where nothing is encrypted."""

    secret: bytes | None

    @classmethod
    def generate(cls, *, encrypted: bool) -> Keys:
        """Keys for a new repository."""
        return cls(os.urandom(SECRET_SIZE) if encrypted else None)

    @property
    def encrypted(self) -> bool:
        """Whether anything is sealed at all."""
        return self.secret is not None

    @property
    def blob_id_key(self) -> bytes | None:
        """The key of blob IDs; None makes them plain BLAKE3."""
        return derive_key(self.secret, "blob IDs") if self.secret else None

    @property
    def pack_key(self) -> bytes | None:
        """What each pack's own key is derived from, with the salt in the pack's head."""
        return derive_key(self.secret, "packs") if self.secret else None

    def object_sealer(self) -> Sealer:
        """Seals config, index, snapshots, claims and what slots say about themselves."""
        return AesGcm(derive_key(self.secret, "objects")) if self.secret else Plain()

    def cache_sealer(self) -> Sealer:
        """Seals what the local cache keeps of this repository."""
        return AesGcm(derive_key(self.secret, "local cache")) if self.secret else Plain()

    def __repr__(self) -> str:
        return f"Keys(encrypted={self.encrypted})"


def make_slot(
    keys: Keys, password: bytes, info: SlotInfo, repository_id: bytes, *, kdf: Literal["default", "strong"] = "default"
) -> bytes:
    """The stored bytes of a new slot that opens `keys` with `password`."""
    if keys.secret is None:
        raise ValueError("a repository without encryption has no key slots")
    params = kdf_params(kdf, os.urandom(SALT_SIZE))
    slot_key = derive_slot_key(password, params)
    slot = _Slot(
        version=SLOT_VERSION,
        kdf=params,
        commitment=derive_key(slot_key, "slot commitment"),
        sealed=seal(_slot_sealer(slot_key), keys.secret, associated_data(repository_id, "key")),
        about=seal(keys.object_sealer(), msgspec.json.encode(info), associated_data(repository_id, "key info")),
    )
    return msgspec.json.encode(slot)


def open_slot(data: bytes, password: bytes, repository_id: bytes, *, name: str) -> Keys | None:
    """The keys behind one slot, or None if the password is not this slot's.

    Takes as long as the slot's KDF. Raises DamagedObject when the password fits but the slot does not open,
    UnsupportedFormat for a newer version.
    """
    slot = _decode_slot(data, name)
    try:
        slot_key = derive_slot_key(password, slot.kdf)
    except DamagedObject as error:
        raise DamagedObject(f"key {name[:8]}: {error}") from error
    if not hmac.compare_digest(derive_key(slot_key, "slot commitment"), slot.commitment):
        return None
    try:
        secret = unseal(_slot_sealer(slot_key), slot.sealed, associated_data(repository_id, "key"))
    except DamagedObject as error:
        raise DamagedObject(f"key {name[:8]}: the password fits, but the slot {error}") from error
    return Keys(secret)


def slot_info(data: bytes, keys: Keys, repository_id: bytes, *, name: str) -> SlotInfo:
    """What the slot says about itself. Raises DamagedObject."""
    slot = _decode_slot(data, name)
    try:
        plain = unseal(keys.object_sealer(), slot.about, associated_data(repository_id, "key info"))
        return msgspec.json.decode(plain, type=SlotInfo)
    except (DamagedObject, msgspec.MsgspecError, *MALFORMED) as error:
        raise DamagedObject(f"key {name[:8]}: its description does not open: {error}") from error


def _slot_sealer(slot_key: bytes) -> AesGcm:
    return AesGcm(derive_key(slot_key, "slot"))


def _decode_slot(data: bytes, name: str) -> _Slot:
    try:
        version = msgspec.json.decode(data, type=dict[str, object]).get("version")
        if version != SLOT_VERSION:
            raise UnsupportedFormat(f"key {name[:8]}: version {version} is not known to this program")
        return msgspec.json.decode(data, type=_Slot)
    except (msgspec.MsgspecError, *MALFORMED) as error:
        raise DamagedObject(f"key {name[:8]}: does not decode: {error}") from error
