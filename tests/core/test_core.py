"""The ground: identifiers and their prefixes, sizes as people write them, errors and their exit statuses, the clock."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.core import errors
from bfrepo.core.clock import SystemClock
from bfrepo.core.errors import AmbiguousPrefix, BackupForgeError, InvalidValue, ObjectNotFound
from bfrepo.core.ids import is_object_name, resolve_prefix, short_id
from bfrepo.core.progress import Progress, Quiet
from bfrepo.core.units import GIB, KIB, MIB, TIB, format_duration, format_size, parse_size

IDS = [bytes([1]) * 32, bytes([1]) * 31 + b"\x02", bytes([0xAB]) * 32]


@pytest.mark.parametrize(("prefix", "index"), [("abababab", 2), ("ABABABABab", 2), ("01" * 31 + "02", 1)])
def test_prefix(prefix: str, index: int) -> None:
    """A prefix of 8 digits or more means the one identifier that starts with it, in either case."""
    assert resolve_prefix(prefix, IDS, what="pack") == IDS[index]


@pytest.mark.parametrize(
    ("prefix", "error", "words"),
    [
        ("abababa", InvalidValue, "'abababa' is not a pack ID: give at least 8 hex digits"),
        ("", InvalidValue, "is not a pack ID"),
        ("xyzxyzxyz", InvalidValue, "is not a pack ID"),
        ("ab" * 33, ObjectNotFound, "no pack starts with abab"),
        ("00000000", ObjectNotFound, "no pack starts with 00000000"),
        ("01010101", AmbiguousPrefix, "2 packs start with it"),
    ],
)
def test_no_prefix(prefix: str, error: type[Exception], words: str) -> None:
    """A prefix that is too short or no number, fits nothing, or fits several, says so."""
    with pytest.raises(error, match=words):
        resolve_prefix(prefix, IDS, what="pack")


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("0" * 64, True), ("f" * 64, True), ("F" * 64, False), ("0" * 63, False), ("0" * 64 + "\n", False)],
)
def test_object_names(name: str, is_one: bool) -> None:
    """A name is 64 lower-case digits and nothing else."""
    assert is_object_name(name) is is_one


def test_short_id() -> None:
    """People see eight digits."""
    assert short_id(IDS[2]) == "abababab"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("512", 512), ("512B", 512), ("64K", 64 * KIB), ("64k", 64 * KIB), ("1.5GiB", 3 * GIB // 2),
        (" 2 MB ", 2 * MIB), ("4TiB", 4 * TIB), ("1P", 1024 * TIB),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    """Letters count in powers of 1024, however they are written."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "-1", "1E", "1.2.3", "1 2", "1e9", "0x10", "1KK", "inf", "nan"])
def test_no_size(text: str) -> None:
    """What is no size is refused, with how to write one."""
    with pytest.raises(InvalidValue, match="is not a size") as caught:
        parse_size(text)
    assert caught.value.hint is not None


def test_no_size_of_anything() -> None:
    """A number that is too large even to be computed with is refused."""
    with pytest.raises(InvalidValue, match="too large for a size"):
        parse_size("9" * 400)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (10 * KIB, "10.0 KiB"), (1536 * MIB, "1.50 GiB"),
        (999 * GIB, "999 GiB"), (2048 * TIB, "2048 TiB"),
    ],
)  # fmt: skip
def test_shown_sizes(size: int, text: str) -> None:
    """A size is shown with at most four digits and a unit."""
    assert format_size(size) == text


@given(size=st.integers(0, 1 << 50))
def test_shown_sizes_are_right(size: int) -> None:
    """A size that is shown is right to a hundredth, and short."""
    text = format_size(size)
    assert len(text) <= 9
    assert abs(parse_size(text) - size) <= size / 100 + 1


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (59.9, "59.9 s"), (247, "4:07"), (3847, "1:04:07")])
def test_durations(seconds: float, text: str) -> None:
    """Durations are shown as people say them."""
    assert format_duration(seconds) == text


def all_errors(kind: type[BackupForgeError] = BackupForgeError) -> Iterator[type[BackupForgeError]]:
    """The tree of errors, those of this package."""
    yield kind
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from all_errors(each)


def test_errors() -> None:
    """Every error has a code of its own and the exit status that the head of the file promises."""
    found = list(all_errors())
    assert len({each.code for each in found}) == len(found)
    assert [each.code for each in found if not re.fullmatch(r"[a-z]+(-[a-z]+)*", each.code)] == []
    assert errors.__doc__ is not None
    promised = dict(re.findall(r"(\w+) +(\d+)   ", errors.__doc__))
    assert {name: int(status) for name, status in promised.items() if hasattr(errors, name)} == {
        each.__name__: each.exit_status for each in found if each.__name__ in promised
    }
    assert {each.__name__ for each in found} <= promised.keys() | {"BackupForgeError", "Interrupted"}


def test_hint() -> None:
    """An error is a line, and may have a hint."""
    error = InvalidValue("message", hint="do this")
    assert (str(error), error.hint, InvalidValue("message").hint) == ("message", "do this", None)


def test_clock() -> None:
    """The machine's clock tells the zone, and durations never run backwards."""
    clock = SystemClock()
    assert clock.now().tzinfo is not None
    assert clock.monotonic() <= clock.monotonic()


def test_quiet() -> None:
    """A reporter that says nothing still counts what could not be done."""
    quiet = Quiet()
    quiet.item(b"/a", "new", 1)
    quiet.warn(b"/a", "odd")
    quiet.problem(b"/a", "bad")
    assert (quiet.progress, quiet.wants_items) == (Progress(errors=1), False)
