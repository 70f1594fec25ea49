"""The limits that people give a prune: time spans, and how much may stay unused."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bfrepo.core.errors import InvalidValue
from bfrepo.core.units import parse_span
from bfrepo.operations.prune import UnusedLimit
from cli.pruning import span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0h", 0), ("90s", 90), ("30m", 1800), ("24h", 86_400), (" 7 D ", 604_800), ("2w", 1_209_600)],
)
def test_time_spans(text: str, seconds: int) -> None:
    """A number and a unit from seconds to weeks; only 0 needs none."""
    assert parse_span(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1.5h", "1y", "1h30m", "99999999d"])
def test_what_is_no_time_span(text: str) -> None:
    """Anything else is refused, with a hint."""
    with pytest.raises(InvalidValue) as caught:
        parse_span(text)
    assert caught.value.hint is not None


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (90, "90s"), (1800, "30m"), (86_400, "24h"), (604_800, "7d")])
def test_time_spans_as_text(seconds: int, text: str) -> None:
    """Shown in the largest unit that fits; a day is 24 hours."""
    assert span(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("text", "allowed"), [("0", 0), ("10K", 10_240), ("5%", 50), ("0%", 0), ("50%", 950), ("unlimited", float("inf"))]
)
def test_how_much_may_stay_unused(text: str, allowed: float) -> None:
    """A size, a percentage of all there is (here beside 950 bytes that are needed), or anything."""
    assert UnusedLimit.parse(text).allowed(950) == pytest.approx(allowed)


@pytest.mark.parametrize("text", ["", "%", "100%", "-1%", "5 %%", "nan%", "some", "-5"])
def test_what_is_no_limit(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidValue):
        UnusedLimit.parse(text)
