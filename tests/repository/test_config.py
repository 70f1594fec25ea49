"""The configuration: what a reader must know to open a repository, and how it fails when something is wrong with it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bfrepo.core.errors import DamagedObject, InvalidValue, RepositoryNotFound, UnsupportedFormat
from bfrepo.core.units import MIB
from bfrepo.crypto.keys import Keys
from bfrepo.repository.config import (
    LARGEST_PACK,
    SMALLEST_PACK,
    Config,
    ConfigHead,
    _checksum,
    _Stored,
    decode_config,
    decode_head,
    encode_config,
    is_as_written,
    new_config,
)
from bfrepo.repository.repository import read_head
from bfrepo.storage.memory import MemoryBackend

KEYS = Keys(b"s" * 32)


def a_config(**fields: Any) -> Config:
    """A new configuration."""
    return new_config(created="2024-05-17T12:00:00+00:00", **fields)


def decoded(data: bytes, keys: Keys = KEYS) -> Config:
    """Both parts of the stored bytes."""
    return decode_config(decode_head(data, location="here"), keys, location="here")


def with_fields(data: bytes, **fields: Any) -> bytes:
    """The stored bytes with other fields and a checksum that fits: what somebody hostile would store."""
    stored = msgspec.json.decode(data, type=_Stored)
    for name, value in fields.items():
        setattr(stored, name, value)
    stored.checksum = _checksum(stored)
    return msgspec.json.encode(stored)


@pytest.mark.parametrize("encryption", ["aes-256-gcm", "none"])
def test_round_trip(encryption: Any) -> None:
    """What was written is read again."""
    keys = Keys.generate(encrypted=encryption != "none")
    config = a_config(encryption=encryption, pack_size=16 * MIB)
    assert decoded(encode_config(config, keys), keys) == config


def test_every_flipped_byte_is_noticed() -> None:
    """A changed byte is refused, as damage or as unknown; where it means nothing, as white space, a check finds it."""
    config = a_config()
    data = encode_config(config, KEYS)
    meaningless = 0
    for at in range(len(data)):
        for mask in (0x01, 0x02, 0x03, 0x07, 0x20, 0x80):
            flipped = bytearray(data)
            flipped[at] ^= mask
            found = decoded_if_allowed(bytes(flipped))
            if found is not None:
                assert found == config, at
                assert not is_as_written(bytes(flipped), decode_head(bytes(flipped), location="here")), at
                meaningless += 1
    assert meaningless < 30


def decoded_if_allowed(data: bytes) -> Config | None:
    """The configuration, or None when it is refused."""
    try:
        return decoded(data)
    except (DamagedObject, UnsupportedFormat):
        return None


def test_unknown_fields_do_no_harm() -> None:
    """A field that a later version adds without a feature is no reason to refuse."""
    config = a_config()
    fields = {**msgspec.json.decode(encode_config(config, KEYS)), "motto": "semper idem"}
    assert decoded(msgspec.json.encode(fields)) == config


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"format": 2}, UnsupportedFormat, "newer version"),
        ({"features": ["parity"]}, UnsupportedFormat, "it uses parity"),
        ({"encryption": "xchacha"}, UnsupportedFormat, "encryption 'xchacha' is not known"),
        ({"encryption": "none"}, DamagedObject, "sealed part is damaged"),
        ({"id": "00" * 32}, DamagedObject, "sealed part is damaged"),
        ({"id": "zz" * 32}, DamagedObject, "not those that were written"),
        ({"sealed": b"x" * 60}, DamagedObject, "sealed part is damaged"),
    ],
    ids=["format", "feature", "encryption", "no encryption", "other id", "no id", "sealed"],
)
def test_changed_on_purpose(fields: dict[str, Any], error: type[Exception], words: str) -> None:
    """Each field, changed with a checksum that fits, is refused: what a newer version wrote is never called damaged."""
    with pytest.raises(error, match=words):
        decoded(with_fields(encode_config(a_config(), KEYS), **fields))


@pytest.mark.parametrize("data", [b"", b"x", b"{}", b"[1]", b'{"format": 1}', b"\xff" * 20, b'{"format": 0}'])
def test_no_config_at_all(data: bytes) -> None:
    """What is no configuration is damage."""
    with pytest.raises(DamagedObject, match="config in here"):
        decode_head(data, location="here")


def test_newer_format_that_changed_everything() -> None:
    """A newer format is recognised even if no other field is left."""
    with pytest.raises(UnsupportedFormat, match="format 7") as caught:
        decode_head(b'{"format": 7}', location="here")
    assert caught.value.hint == "use a newer backupforge"


@pytest.mark.parametrize("size", [0, SMALLEST_PACK - 1, LARGEST_PACK + 1])
def test_pack_size_out_of_range(size: int) -> None:
    """A pack size that the format does not allow is refused at once."""
    with pytest.raises(InvalidValue, match="pack size"):
        a_config(pack_size=size)


def test_secrets_are_sealed() -> None:
    """INV-5: chunker, seed and compression cannot be read without the key."""
    config = a_config()
    data = encode_config(config, KEYS)
    head: ConfigHead = decode_head(data, location="here")
    assert head.repository_id == config.repository_id
    plain = encode_config(config, Keys(None))
    for word in (b"fastcdc", b"zstd", config.seed):
        assert word not in msgspec.json.decode(data, type=_Stored).sealed
        assert word in msgspec.json.decode(plain, type=_Stored).sealed


def test_new_ones_differ() -> None:
    """Every repository has an ID and a seed of its own."""
    one, other = a_config(), a_config()
    assert one.repository_id != other.repository_id
    assert one.seed != other.seed


def test_no_repository() -> None:
    """Where there is no config there is no repository."""
    with pytest.raises(RepositoryNotFound, match="no repository in memory:"):
        read_head(MemoryBackend())
