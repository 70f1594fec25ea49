"""How a repository says which chunker it uses."""

from __future__ import annotations

from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.chunker.base import LARGEST, SMALLEST, Chunker, ChunkerParams, make_chunker
from bfrepo.core.errors import InvalidValue
from bfrepo.core.units import KIB, MIB

SEED = bytes(range(32))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("fastcdc", ChunkerParams("fastcdc", 256 * KIB, 1 * MIB, 4 * MIB)),
        ("fastcdc:64K:256K:1M", ChunkerParams("fastcdc", 64 * KIB, 256 * KIB, 1 * MIB)),
        ("fastcdc:5000:8K:1.5M", ChunkerParams("fastcdc", 5000, 8 * KIB, 1536 * KIB)),
        (" fixed ", ChunkerParams("fixed", 4 * MIB, 4 * MIB, 4 * MIB)),
        ("fixed:4K", ChunkerParams("fixed", 4 * KIB, 4 * KIB, 4 * KIB)),
        ("fixed:16M", ChunkerParams("fixed", 16 * MIB, 16 * MIB, 16 * MIB)),
    ],
)
def test_parse(text: str, expected: ChunkerParams) -> None:
    """Kinds stand alone for their defaults, or with their sizes."""
    assert ChunkerParams.parse(text) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is not a chunker"),
        ("rabin", "is not a chunker"),
        ("FASTCDC", "is not a chunker"),
        ("fastcdc:1M", "is not a chunker"),
        ("fastcdc:1:2:3:4", "is not a chunker"),
        ("fixed:1M:2M", "is not a chunker"),
        ("fixed:", "is not a size"),
        ("fixed:many", "is not a size"),
        ("fixed:0", "must lie within 4.00 KiB and 16.0 MiB"),
        ("fixed:4095", "must lie within"),
        ("fixed:17M", "must lie within"),
        ("fastcdc:2K:8K:32K", "must lie within"),
        ("fastcdc:1M:4M:32M", "must lie within"),
        ("fastcdc:1M:1M:4M", "must rise"),
        ("fastcdc:256K:4M:4M", "must rise"),
        ("fastcdc:256K:1000K:4M", "power of two"),
    ],
)
def test_parse_refuses(text: str, message: str) -> None:
    """What does not parse is an error that says why, with a hint that shows how to write it."""
    with pytest.raises(InvalidValue, match=message) as caught:
        ChunkerParams.parse(text)
    assert caught.value.hint is not None


@pytest.mark.parametrize("fields", [("rabin", 4096, 8192, 16384), ("fixed", 4096, 4096, 8192)])
def test_a_damaged_configuration_is_refused(fields: tuple[Any, int, int, int]) -> None:
    """Fields that no text gives are an error too."""
    with pytest.raises(InvalidValue):
        ChunkerParams(*fields)


@given(size=st.integers(SMALLEST, LARGEST))
def test_format_of_fixed_reads_back(size: int) -> None:
    """No size is rounded on its way through text."""
    params = ChunkerParams.fixed(size)
    assert ChunkerParams.parse(params.format()) == params


@given(bits=st.integers(13, 23), data=st.data())
def test_format_of_fastcdc_reads_back(bits: int, data: st.DataObject) -> None:
    """No size is rounded on its way through text."""
    minimum = data.draw(st.integers(SMALLEST, (1 << bits) - 1))
    maximum = data.draw(st.integers((1 << bits) + 1, LARGEST))
    params = ChunkerParams("fastcdc", minimum, 1 << bits, maximum)
    assert ChunkerParams.parse(params.format()) == params


def test_format_is_what_people_write() -> None:
    """Sizes are shown in the largest unit that fits."""
    assert ChunkerParams().format() == "fastcdc:256K:1M:4M"
    assert ChunkerParams.fixed().format() == "fixed:4M"


@pytest.mark.parametrize("text", ["fastcdc:4K:8K:64K", "fixed:64K"])
def test_make_chunker_keeps_kind_and_bounds(text: str) -> None:
    """The chunker is the one that was asked for."""
    params = ChunkerParams.parse(text)
    chunker: Chunker = make_chunker(params, SEED)
    assert (chunker.name, chunker.minimum, chunker.maximum) == (params.kind, params.minimum, params.maximum)


def test_make_chunker_uses_the_seed() -> None:
    """The seed decides the cuts of a content-defined chunker, and nothing else does."""
    params = ChunkerParams.parse("fastcdc:4K:8K:64K")
    data = blake3(b"chunk me").digest(length=100_000)
    first, again, other = (
        make_chunker(params, seed).cut(data, 0, len(data), final=True) for seed in (SEED, SEED, bytes(32))
    )
    assert first == again
    assert first != other
