"""Which packs a check reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.checker.sampling import Amount, Everything, Part, Percentage, Sample, parse_sample
from bfrepo.core.errors import InvalidValue
from bfrepo.core.units import GIB
from tests.support.fuzz import survives

PACKS = {bytes([number]) * 32: 10 + number for number in range(50)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1/7", Part(1, 7)),
        ("7/7", Part(7, 7)),
        ("5%", Percentage(5.0)),
        ("0.5%", Percentage(0.5)),
        ("100%", Percentage(100.0)),
        ("20G", Amount(20 * GIB)),
        ("1", Amount(1)),
    ],
)
def test_what_parses(text: str, expected: Sample) -> None:
    """A part is n/t, a percentage ends with %, anything else is a size."""
    assert parse_sample(text) == expected


@pytest.mark.parametrize("text", ["", "0/7", "8/7", "1/0", "0%", "101%", "-1%", "0", "much", "1/", "/7", "1/7/2", "%"])
def test_what_does_not_parse(text: str) -> None:
    """What names no packs, or more than all, is refused."""
    with pytest.raises(InvalidValue):
        parse_sample(text)


@given(st.text(max_size=20))
def test_any_text(text: str) -> None:
    """Any text gives a sample or an InvalidValue."""
    survives(lambda: parse_sample(text).choose(PACKS))


def test_everything() -> None:
    """Every pack is read once."""
    assert Everything().choose(PACKS) == list(PACKS)


@pytest.mark.parametrize("parts", [1, 2, 7, 100])
def test_parts_make_a_whole(parts: int) -> None:
    """n parts together are all packs, none of them twice, and the same each time."""
    chosen = [pack for number in range(1, parts + 1) for pack in Part(number, parts).choose(PACKS)]

    assert sorted(chosen) == sorted(PACKS)
    assert Part(1, parts).choose(PACKS) == Part(1, parts).choose(dict(reversed(PACKS.items())))[::-1]


@pytest.mark.parametrize(("percent", "expected"), [(0.1, 1), (2, 1), (3, 2), (50, 25), (100, 50)])
def test_a_percentage(percent: float, expected: int) -> None:
    """So many in a hundred, rounded up, different ones each time."""
    chosen = Percentage(percent).choose(PACKS)

    assert len(set(chosen)) == len(chosen) == expected
    assert set(chosen) <= set(PACKS)
    assert Percentage(percent).choose({}) == []


def test_samples_differ() -> None:
    """A random sample is drawn anew each time."""
    assert len({frozenset(Percentage(20).choose(PACKS)) for _ in range(20)}) > 1
    assert len({frozenset(Amount(200).choose(PACKS)) for _ in range(20)}) > 1


@pytest.mark.parametrize("size", [1, 200, 10**9])
def test_an_amount(size: int) -> None:
    """Packs are taken until they have the size together; all of them when that is not enough."""
    chosen = Amount(size).choose(PACKS)
    total = sum(PACKS[pack] for pack in chosen)

    assert len(set(chosen)) == len(chosen)
    if size > sum(PACKS.values()):
        assert len(chosen) == len(PACKS)
    else:
        assert total - PACKS[chosen[-1]] < size <= total
