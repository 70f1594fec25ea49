"""Sealing: what was sealed opens only as what it was sealed as."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.core.errors import DamagedObject
from bfrepo.crypto.seal import NONCE_SIZE, TAG_SIZE, AesGcm, Plain, associated_data, seal, unseal

KEY = b"k" * 32
HERE = b"r" * 32


@given(plain=st.binary(max_size=5000))
def test_round_trip(plain: bytes) -> None:
    """What was sealed opens again, and is longer by the nonce and the tag."""
    sealed = seal(AesGcm(KEY), plain, b"what")
    assert len(sealed) == NONCE_SIZE + len(plain) + TAG_SIZE
    assert unseal(AesGcm(KEY), sealed, b"what") == plain


@pytest.mark.parametrize(
    "other",
    [
        associated_data(b"s" * 32, "frame", 1, 7),
        associated_data(HERE, "directory", 1, 7),
        associated_data(HERE, "frame", 0, 7),
        associated_data(HERE, "frame", 1, 8),
        associated_data(HERE, "frame", 1, 7 + (1 << 31)),
    ],
    ids=["repository", "what", "kind", "position", "high position"],
)
def test_bound_to_its_meaning(other: bytes) -> None:
    """A sealed piece opens neither in another repository nor as another thing, kind or position."""
    sealed = seal(AesGcm(KEY), b"plain", associated_data(HERE, "frame", 1, 7))
    assert unseal(AesGcm(KEY), sealed, associated_data(HERE, "frame", 1, 7)) == b"plain"
    with pytest.raises(DamagedObject, match="does not authenticate"):
        unseal(AesGcm(KEY), sealed, other)


def test_every_flipped_bit_is_noticed() -> None:
    """Not one bit of nonce, ciphertext or tag can change unnoticed."""
    sealed = seal(AesGcm(KEY), b"plain", b"what")
    for at in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(DamagedObject):
            unseal(AesGcm(KEY), changed, b"what")


@pytest.mark.parametrize("size", [0, 1, NONCE_SIZE + TAG_SIZE - 1])
def test_too_short(size: int) -> None:
    """What is shorter than nonce and tag is damage."""
    with pytest.raises(DamagedObject, match="too short"):
        unseal(AesGcm(KEY), bytes(size), b"what")


def test_another_key() -> None:
    """Another key opens nothing."""
    with pytest.raises(DamagedObject):
        unseal(AesGcm(b"K" * 32), seal(AesGcm(KEY), b"plain", b"what"), b"what")


def test_nonces_differ() -> None:
    """Each piece has a nonce of its own, so equal pieces differ when sealed."""
    sealer = AesGcm(KEY)
    pieces = {seal(sealer, b"plain", b"what") for _ in range(1000)}
    assert len({piece[:NONCE_SIZE] for piece in pieces}) == 1000
    assert len({piece[NONCE_SIZE:] for piece in pieces}) == 1000


def test_plain_adds_nothing() -> None:
    """Without encryption bytes are stored as they are."""
    assert seal(Plain(), b"plain", b"what") == b"plain"
    assert unseal(Plain(), b"plain", b"something else") == b"plain"


def test_output_beyond_the_piece_is_untouched() -> None:
    """Sealing and opening write the piece and not a byte more."""
    out = bytearray(b"." * 100)
    size = AesGcm(KEY).seal_into(b"plain", b"what", memoryview(out))
    assert bytes(out[size:]) == b"." * (100 - size)
    opened = bytearray(b"." * 10)
    assert AesGcm(KEY).open_into(out[:size], b"what", memoryview(opened)) == 5
    assert bytes(opened) == b"plain....."
