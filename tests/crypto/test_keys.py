"""Key slots: the right password opens them, a wrong one is told apart from damage, and costs are bounded."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from bfrepo.core.errors import BackupForgeError, DamagedObject, UnsupportedFormat
from bfrepo.crypto import kdf
from bfrepo.crypto.hashing import derive_key, keyed_hash, make_blob_hasher, object_name
from bfrepo.crypto.kdf import KdfParams, derive_slot_key, kdf_params
from bfrepo.crypto.keys import Keys, SlotInfo, make_slot, open_slot, slot_info

INFO = SlotInfo(label="mine", host="secret-host", created="2024-05-17T12:00:00+00:00")
HERE = b"r" * 32


def a_slot(keys: Keys, password: bytes = b"right") -> bytes:
    """The bytes of a slot."""
    return make_slot(keys, password, INFO, HERE)


def changed(slot: bytes, **fields: Any) -> bytes:
    """The slot with other fields; those of the KDF are given as `kdf_...`."""
    content = msgspec.json.decode(slot)
    for name, value in fields.items():
        if name.startswith("kdf_"):
            content["kdf"][name[4:]] = value
        else:
            content[name] = value
    return msgspec.json.encode(content)


@pytest.fixture
def keys() -> Keys:
    """A new master secret."""
    return Keys.generate(encrypted=True)


def test_round_trip(keys: Keys) -> None:
    """The password opens the slot, and the keys tell what the slot says of itself."""
    slot = a_slot(keys)
    assert open_slot(slot, b"right", HERE, name="n" * 64) == keys
    assert slot_info(slot, keys, HERE, name="n" * 64) == INFO


def test_wrong_password(keys: Keys) -> None:
    """A wrong password is no error of the slot."""
    assert open_slot(a_slot(keys), b"wrong", HERE, name="n" * 64) is None


@pytest.mark.parametrize("field", ["sealed", "about"])
def test_damage_is_not_a_wrong_password(keys: Keys, field: str) -> None:
    """With the right password a damaged part is damage; what a slot says of itself is not needed to open it."""
    slot = a_slot(keys)
    damaged = changed(slot, **{field: msgspec.json.decode(slot)[field][:-8] + "AAAAAAA="})
    results: list[object] = []
    open_it = partial(open_slot, damaged, b"right", HERE, name="n" * 64)
    ask_it = partial(slot_info, damaged, keys, HERE, name="n" * 64)
    for use in (open_it, ask_it):
        try:
            found: object = use()
        except DamagedObject as error:
            found = str(error)[:12]
        results.append(found)
    assert results == (["key nnnnnnnn", INFO] if field == "sealed" else [keys, "key nnnnnnnn"])


def test_slot_commits_to_its_key(keys: Keys) -> None:
    """One slot cannot be made to open with two passwords: the sealed part is used only if the commitment fits."""
    theirs = a_slot(Keys.generate(encrypted=True), b"theirs")
    content, other = msgspec.json.decode(a_slot(keys)), msgspec.json.decode(theirs)
    mixed = msgspec.json.encode({**content, "commitment": other["commitment"]})
    assert open_slot(mixed, b"right", HERE, name="n" * 64) is None
    assert open_slot(mixed, b"theirs", HERE, name="n" * 64) is None


def test_slot_of_another_repository(keys: Keys) -> None:
    """A slot that was copied from another repository does not open, though its password fits."""
    with pytest.raises(DamagedObject, match="does not authenticate"):
        open_slot(a_slot(keys), b"right", b"s" * 32, name="n" * 64)


@pytest.mark.parametrize(
    "costs",
    [
        {"kdf_time_cost": 0}, {"kdf_time_cost": 65}, {"kdf_time_cost": 1 << 40},
        {"kdf_memory_kib": 7}, {"kdf_memory_kib": (4 << 20) + 1}, {"kdf_memory_kib": -8},
        {"kdf_lanes": 0}, {"kdf_lanes": 65}, {"kdf_lanes": 64, "kdf_memory_kib": 8},
        {"kdf_salt": ""}, {"kdf_algorithm": "argon2d"},
    ],
    ids=str,
)  # fmt: skip
def test_hostile_costs_are_refused(keys: Keys, costs: dict[str, Any]) -> None:
    """Costs out of bounds are damage, found before any work is done."""
    with pytest.raises(DamagedObject, match="key nnnnnnnn"):
        open_slot(changed(a_slot(keys), **costs), b"right", HERE, name="n" * 64)


def test_no_memory_for_the_kdf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little memory for the KDF is said so, and is not taken for damage or a wrong password."""
    from argon2 import low_level
    from argon2.exceptions import HashingError

    def fails(*args: object) -> bytes:
        raise HashingError("Memory allocation error")

    monkeypatch.setattr(low_level, "hash_secret_raw", fails)
    with pytest.raises(BackupForgeError, match="Memory allocation error") as caught:
        derive_slot_key(b"x", kdf_params("strong", bytes(16)))
    assert caught.value.hint == "it takes 256 MiB of free memory"
    assert not isinstance(caught.value, DamagedObject)


def test_newer_slot(keys: Keys) -> None:
    """A slot of a newer version is refused as unknown, not as damaged."""
    with pytest.raises(UnsupportedFormat):
        open_slot(changed(a_slot(keys), version=2), b"right", HERE, name="n" * 64)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"version": 1}', b"{" * 3000])
def test_no_slot_at_all(data: bytes) -> None:
    """What is no slot is damage."""
    with pytest.raises((DamagedObject, UnsupportedFormat)):
        open_slot(data, b"right", HERE, name="n" * 64)


def test_slots_tell_nothing(keys: Keys) -> None:
    """INV-5: neither label, host nor time of a slot can be read without the key, and equal slots differ."""
    slot = a_slot(keys)
    assert [word for word in (b"mine", b"secret-host", b"2024") if word in slot] == []
    assert keys.secret is not None
    assert keys.secret not in slot
    assert a_slot(keys) != slot


def test_real_costs() -> None:
    """The profiles are RFC 9106's second recommendation and one of 256 MiB, never less; salts are the caller's."""
    assert kdf_params("default", b"s" * 16) == KdfParams(time_cost=3, memory_kib=65536, lanes=4, salt=b"s" * 16)
    assert kdf_params("strong", b"s" * 16) == KdfParams(time_cost=4, memory_kib=262144, lanes=4, salt=b"s" * 16)
    assert "cheap" not in Path(kdf.__file__).read_text()


def test_known_answer() -> None:
    """Argon2id version 1.3 gives what its authors' own program gives."""
    # echo -n password | argon2 somesalt -id -t 2 -k 256 -p 1 -l 32 -r
    params = KdfParams(time_cost=2, memory_kib=256, lanes=1, salt=b"somesalt")
    assert derive_slot_key(b"password", params).hex() == (
        "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe"
    )


def test_purposes_have_keys_of_their_own(keys: Keys) -> None:
    """No key can be computed from another, and none is the master secret."""
    assert keys.secret is not None
    purposes = ["blob IDs", "packs", "objects", "local cache", "slot"]
    assert len({derive_key(keys.secret, purpose) for purpose in purposes} | {keys.secret}) == 6
    assert (keys.blob_id_key, keys.pack_key) == (derive_key(keys.secret, "blob IDs"), derive_key(keys.secret, "packs"))


def test_without_encryption() -> None:
    """Without encryption there are no keys, no slots, and blob IDs are plain BLAKE3."""
    keys = Keys.generate(encrypted=False)
    assert (keys.encrypted, keys.blob_id_key, keys.pack_key) == (False, None, None)
    with pytest.raises(ValueError, match="no key slots"):
        make_slot(keys, b"x", INFO, HERE)
    assert make_blob_hasher(None)(b"abc") == blake3(b"abc").digest()


def test_hashes() -> None:
    """Names of objects are plain BLAKE3, blob IDs are keyed where there is a key."""
    assert object_name(b"abc") == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    key = os.urandom(32)
    assert make_blob_hasher(key)(b"abc") == keyed_hash(key, b"abc") != blake3(b"abc").digest()


def test_keys_do_not_show_themselves(keys: Keys) -> None:
    """A key never ends up in a message by accident."""
    assert repr(keys) == "Keys(encrypted=True)"
