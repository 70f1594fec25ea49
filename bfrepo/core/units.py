"""Sizes, counts and durations: how people write them and how we show them."""

from __future__ import annotations

import re
from datetime import timedelta

from bfrepo.core.errors import InvalidValue

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?\s*", re.IGNORECASE)
_SPAN = re.compile(r"\s*(\d{1,6})\s*([smhdw])\s*", re.IGNORECASE)
_SPAN_UNIT = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_FACTOR = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB, "p": TIB << 10}


def parse_size(text: str) -> int:
    """Bytes in "512", "64K", "1.5GiB", "2 MB"... Letters count in powers of 1024, as restic's and borg's do.

    Raises InvalidValue for anything else.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidValue(f"{text!r} is not a size", hint="write a number with K, M, G or T, such as 64M")
    try:
        return int(float(match[1]) * _FACTOR[match[2].lower()])
    except OverflowError as error:
        raise InvalidValue(f"{text[:40]}... is too large for a size") from error


def parse_rate(text: str) -> int:
    """Bytes a second in "500K", "10M", "1.5MiB/s"... Raises InvalidValue for anything else, and for nothing at all."""
    rate = parse_size(text.strip().removesuffix("/s"))
    if rate < 1:
        raise InvalidValue(f"{text!r} is no rate: nothing would ever pass", hint="leave it out for no limit")
    return rate


def parse_span(text: str) -> timedelta:
    """A time span of one unit: "90s", "30m", "12h", "7d", "2w"; "0" for none. Raises InvalidValue for anything else."""
    match = _SPAN.fullmatch(text)
    if match is None:
        if text.strip() == "0":
            return timedelta(0)
        raise InvalidValue(f"{text!r} is not a time span", hint="write a number with s, m, h, d or w, such as 12h")
    return timedelta(**{_SPAN_UNIT[match[2].lower()]: int(match[1])})


def format_size(size: float) -> str:
    """At most four digits and a unit: "0 B", "512 B", "1.50 KiB", "20.0 MiB", "1023 GiB"."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            break
        value /= 1024
    if unit == "B":
        return f"{int(value)} B"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {unit}"


def format_duration(seconds: float) -> str:
    """ "3.2 s" under a minute, then "4:07", then "1:04:07"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_count(number: int) -> str:
    """Digits in groups of three: "84,123"."""
    return f"{number:,}"


def format_ratio(part: float, whole: float) -> str:
    """How many times `part` goes into `whole`, or a dash where that says nothing."""
    return f"{whole / part:.2f}x" if part else "-"
