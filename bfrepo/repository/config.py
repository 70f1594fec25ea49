"""The `config` object: what kind of repository this is. JSON, the only object with a fixed name, written once.

    format      1
    id          the repository's ID, 64 hex digits, random
    encryption  "aes-256-gcm" or "none"
    features    names of what a reader must understand beyond format 1; one it does not know makes it refuse
    sealed      base64 of the sealed part: MessagePack map {chunker, seed, compression, pack_size, created}
    checksum    BLAKE3 of all of the above, so that damage shows without a key

The readable fields are associated data of the sealed part: whoever changes them makes it fail to open.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal, cast, get_args

import msgspec
from msgspec import Meta

from bfrepo.chunker.base import Chunker, ChunkerParams, make_chunker
from bfrepo.compression import Compression
from bfrepo.core.errors import MALFORMED, DamagedObject, InvalidValue, UnsupportedFormat
from bfrepo.core.ids import ID_SIZE, is_object_name
from bfrepo.core.units import KIB, MIB
from bfrepo.crypto.hashing import object_name
from bfrepo.crypto.keys import Keys
from bfrepo.crypto.seal import associated_data, seal, unseal

FORMAT_VERSION = 1
KNOWN_FEATURES: frozenset[str] = frozenset()

DEFAULT_PACK_SIZE = 64 * MIB
SMALLEST_PACK = 4 * MIB
LARGEST_PACK = 512 * MIB

_DISK_STEP = 64 * KIB

Encryption = Literal["aes-256-gcm", "none"]


class _Stored(msgspec.Struct, kw_only=True):
    format: int
    id: str
    encryption: str
    features: list[str]
    sealed: bytes
    checksum: str

    def header(self) -> bytes:
        return f"{self.format}\n{self.id}\n{self.encryption}\n{','.join(self.features)}\n".encode()


class _Sealed(msgspec.Struct, kw_only=True):
    chunker: str
    seed: Annotated[bytes, Meta(min_length=32, max_length=32)]
    compression: str
    pack_size: Annotated[int, Meta(ge=SMALLEST_PACK, le=LARGEST_PACK)]
    created: str


@dataclass(frozen=True, slots=True)
class Config:
    """Everything fixed when a repository is made. `pack_size` is bytes, `created` ISO 8601 with zone."""

    repository_id: bytes
    encryption: Encryption
    chunker: ChunkerParams
    seed: bytes
    compression: Compression
    pack_size: int
    created: str

    def make_chunker(self) -> Chunker:
        """The chunker whose cuts this repository deduplicates by."""
        return make_chunker(self.chunker, self.seed)

    @property
    def image_chunk(self) -> int:
        """Bytes of the chunks that disks of virtual machines are cut into, counted from the beginning of the disk.

        As large as chunks of other files are on average, or 1 MiB where that is no multiple of the 64 KiB in which
        disks are copied. Why disks have chunks of their own: docs/decisions/0025-guests-of-proxmox.md.
        """
        size = self.chunker.average
        return size if size % _DISK_STEP == 0 else MIB


@dataclass(frozen=True, slots=True)
class ConfigHead:
    """The part of `config` that is readable without a key."""

    repository_id: bytes
    encryption: Encryption
    stored: _Stored


def new_config(
    *,
    encryption: Encryption = "aes-256-gcm",
    chunker: ChunkerParams | None = None,
    compression: Compression | None = None,
    pack_size: int = DEFAULT_PACK_SIZE,
    seed: bytes | None = None,
    created: str,
) -> Config:
    """The configuration of a new repository, with a random ID and, unless given, a random chunker seed."""
    if not SMALLEST_PACK <= pack_size <= LARGEST_PACK:
        raise InvalidValue(f"a pack size of {pack_size} bytes is not between 4 MiB and 512 MiB")
    return Config(
        repository_id=os.urandom(ID_SIZE),
        encryption=encryption,
        chunker=chunker or ChunkerParams(),
        seed=seed or os.urandom(32),
        compression=compression or Compression(),
        pack_size=pack_size,
        created=created,
    )


def encode_config(config: Config, keys: Keys) -> bytes:
    """The stored bytes of `config`."""
    plain = msgspec.msgpack.encode(
        _Sealed(
            chunker=config.chunker.format(),
            seed=config.seed,
            compression=str(config.compression),
            pack_size=config.pack_size,
            created=config.created,
        )
    )
    stored = _Stored(
        format=FORMAT_VERSION,
        id=config.repository_id.hex(),
        encryption=config.encryption,
        features=[],
        sealed=b"",
        checksum="",
    )
    stored.sealed = seal(keys.object_sealer(), plain, _associated(config.repository_id, stored))
    stored.checksum = _checksum(stored)
    return _write(stored)


def is_as_written(data: bytes, head: ConfigHead) -> bool:
    """Whether `data`, of which `head` was decoded, is byte for byte what was written: the checksum skips white space.

    Nothing can be said when it has fields that this version does not know; then it is taken for whole.
    """
    fields = msgspec.json.decode(data, type=dict[str, object])
    return data == _write(head.stored) or not fields.keys() <= set(_Stored.__struct_fields__)


def decode_head(data: bytes, *, location: str) -> ConfigHead:
    """The readable part, checked against the checksum. Raises DamagedObject or UnsupportedFormat."""
    newer = f"the repository in {location} was made by a newer version"
    try:
        version = msgspec.json.decode(data, type=dict[str, object]).get("format")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise UnsupportedFormat(f"{newer} (format {version})", hint="use a newer backupforge")
        stored = msgspec.json.decode(data, type=_Stored)
    except (msgspec.MsgspecError, *MALFORMED) as error:
        raise DamagedObject(f"config in {location}: does not decode: {error}") from error
    if stored.checksum != _checksum(stored) or not is_object_name(stored.id):
        raise DamagedObject(f"config in {location}: its bytes are not those that were written")
    unknown = sorted(set(stored.features) - KNOWN_FEATURES)
    if unknown:
        raise UnsupportedFormat(f"{newer}: it uses {', '.join(unknown)}", hint="use a newer backupforge")
    if stored.encryption not in get_args(Encryption):
        raise UnsupportedFormat(
            f"{newer}: encryption {stored.encryption!r} is not known", hint="use a newer backupforge"
        )
    return ConfigHead(bytes.fromhex(stored.id), cast("Encryption", stored.encryption), stored)


def decode_config(head: ConfigHead, keys: Keys, *, location: str) -> Config:
    """The whole configuration. Raises DamagedObject."""
    try:
        plain = unseal(keys.object_sealer(), head.stored.sealed, _associated(head.repository_id, head.stored))
        sealed = msgspec.msgpack.decode(plain, type=_Sealed)
        return Config(
            repository_id=head.repository_id,
            encryption=head.encryption,
            chunker=ChunkerParams.parse(sealed.chunker),
            seed=sealed.seed,
            compression=Compression.parse(sealed.compression),
            pack_size=sealed.pack_size,
            created=sealed.created,
        )
    except (DamagedObject, InvalidValue, msgspec.MsgspecError, *MALFORMED) as error:
        raise DamagedObject(f"config in {location}: its sealed part is damaged: {error}") from error


def _write(stored: _Stored) -> bytes:
    return msgspec.json.format(msgspec.json.encode(stored)) + b"\n"


def _associated(repository_id: bytes, stored: _Stored) -> bytes:
    return associated_data(repository_id, "config") + stored.header()


def _checksum(stored: _Stored) -> str:
    return object_name(stored.header() + stored.sealed)
