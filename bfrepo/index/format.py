"""The content of an index object: directories of packs, and the flags that say which packs somebody would like gone.

A MessagePack map, fields by name, compressed and sealed like every small object (repository/objects.py):

    version   1
    packs     list of {id: 32 bytes, size: bytes of the pack, directory: the pack's directory (pack/format.py)}
    flags     list of {id: 16 random bytes, state: "condemned" or "doomed", pack: 32 bytes, time: ISO 8601}
    revoked   list of flag IDs that are taken back

The state of a pack is the sum of all flags in all index objects, less those revoked: *doomed* if any flag dooms it,
else *condemned* if any condemns it, else *live*. Nobody changes another's flag; taking one back is a record of its own,
so two prunes and any number of backups can write at the same time (docs/format.md, "Living together"). An index object
is written once; a crash before it is complete leaves none. All of them can be deleted and made again from the packs,
losing only flags (INV-6).
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bfrepo.core.errors import MALFORMED, DamagedObject, UnsupportedFormat

INDEX_VERSION = 1
FLAG_ID_SIZE = 16

_Id = Annotated[bytes, Meta(min_length=32, max_length=32)]
_FlagId = Annotated[bytes, Meta(min_length=FLAG_ID_SIZE, max_length=FLAG_ID_SIZE)]


class PackState(enum.IntEnum):
    """How far a pack is on its way out. Only copies of a blob in live packs count as copies."""

    LIVE = 0
    CONDEMNED = 1
    DOOMED = 2


class PackEntry(msgspec.Struct, frozen=True):
    """One pack and its directory, undecoded."""

    id: _Id
    size: Annotated[int, Meta(ge=0)]
    directory: bytes


class PackFlag(msgspec.Struct, frozen=True):
    """One prune's word about one pack."""

    id: _FlagId
    state: Literal["condemned", "doomed"]
    pack: _Id
    time: str


class IndexContent(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Everything in one index object."""

    version: int = INDEX_VERSION
    packs: list[PackEntry] = []
    flags: list[PackFlag] = []
    revoked: list[_FlagId] = []


class _Version(msgspec.Struct):
    version: int


def encode_index(content: IndexContent) -> bytes:
    """The plaintext of an index object."""
    return msgspec.msgpack.encode({"version": INDEX_VERSION, **msgspec.structs.asdict(content)})


def decode_index(data: bytes, *, name: str) -> IndexContent:
    """What an index object holds. Raises DamagedObject or UnsupportedFormat."""
    try:
        version = msgspec.msgpack.decode(data, type=_Version).version
        if version != INDEX_VERSION:
            raise UnsupportedFormat(f"index {name[:8]}: version {version} is not known to this program")
        return msgspec.msgpack.decode(data, type=IndexContent)
    except (msgspec.MsgspecError, *MALFORMED) as error:
        raise DamagedObject(f"index {name[:8]}: does not decode: {error}") from error
