"""The collector of cycles, which long work slows down."""

from __future__ import annotations

import gc

import pytest

from cli.app import cycles_rarely_collected


def fails_in_long_work() -> None:
    """Work that ends by an error."""
    with cycles_rarely_collected():
        raise ValueError(gc.get_threshold()[0])


def test_the_collector_is_as_before_when_work_has_ended() -> None:
    """However long work ends, cycles that hold buffers are found again as soon as before."""
    usual = gc.get_threshold()
    with pytest.raises(ValueError, match="100000"):
        fails_in_long_work()
    assert gc.get_threshold() == usual
