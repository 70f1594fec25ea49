"""The kernel of the index: a hash table of places, against a plain dictionary."""

from __future__ import annotations

import struct
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfrepo.index._places import PlaceMap

PENDING = 0xFFFF_FFFF
MANY = 5_000
"""Enough to make a table grow a few times."""


def name(number: int) -> bytes:
    """A blob ID. Many of them begin alike, as no hashes would."""
    return struct.pack("<HQ22x", number % 7, number)


def place(frame: int, offset: int = 0, size: int = 0) -> bytes:
    """Where a blob is."""
    return struct.pack("<III", frame, offset, size)


def filled(count: int) -> PlaceMap:
    """A table of blobs 0, 1, 2... each in a frame of its own."""
    table = PlaceMap()
    table.extend(b"".join(map(name, range(count))), b"".join(map(place, range(count))))
    return table


steps = st.lists(st.tuples(st.sampled_from(["set", "extend"]), st.lists(st.integers(0, 60), max_size=20)), max_size=12)


@given(made=steps)
def test_as_a_dictionary(made: list[tuple[str, list[int]]]) -> None:
    """Whatever is put in, it answers as a dictionary that keeps the order of arrival."""
    table, model = PlaceMap(), dict[bytes, bytes]()
    for turn, (how, numbers) in enumerate(made):
        pairs = [(name(number), place(turn, number)) for number in numbers]
        if how == "extend":
            table.extend(b"".join(key for key, _ in pairs), b"".join(value for _, value in pairs))
        else:
            for key, value in pairs:
                table.set(key, value)
        model.update(pairs)
    assert len(table) == len(model)
    assert [table.at(at) for at in range(len(table))] == list(model.items())
    assert [table.position(key) for key in model] == list(range(len(model)))
    for key in map(name, range(61)):
        assert (table.get(key), key in table) == (model.get(key), key in model)
    assert table.rows(0, len(table)) == (b"".join(model), b"".join(model.values()))


@pytest.mark.parametrize("capacity", [0, 1, MANY, 10 * MANY])
def test_growing(capacity: int) -> None:
    """Blobs stay where they are while the table grows, whatever room it had to begin with."""
    table = PlaceMap(capacity)
    for number in range(MANY):
        table.set(name(number), place(number))
    assert [table.position(name(number)) for number in range(MANY)] == list(range(MANY))
    assert [table.get(name(number)) for number in (0, MANY - 1, MANY)] == [place(0), place(MANY - 1), None]


def test_frames() -> None:
    """The blobs of a frame lie one behind the other; a blob that has a place keeps it, and the other one is told."""
    table = PlaceMap()
    table.set(name(9), place(7, 7, 7))
    table.set(name(8), place(PENDING))
    ids = b"".join(map(name, (1, 2, 9, 8, 1)))
    known = table.add_frames(ids, array("I", [2, 0, 3]), array("I", [10, 20, 30, 0, 50]), 4)
    assert known == [(name(9), place(6, 0, 30)), (name(1), place(6, 30, 50))]
    expected = [place(4, 0, 10), place(4, 10, 20), place(7, 7, 7), place(6, 30, 0)]
    assert [table.get(name(number)) for number in (1, 2, 9, 8)] == expected


def test_places_of_many() -> None:
    """One that is not known has no frame."""
    table = filled(MANY)
    numbers = [*range(0, MANY, 3), MANY + 1]
    found = table.places(b"".join(map(name, numbers)))
    assert found == b"".join(map(place, numbers[:-1])) + b"\xff" * 12
    assert table.places(b"") == b""


def test_rows_without_what_is_being_stored() -> None:
    """Rows come in order; what has no place yet is left out."""
    table = filled(4)
    table.set(name(2), place(PENDING))
    assert table.rows(1, 4) == (name(1) + name(3), place(1) + place(3))


@settings(deadline=None)
@given(wanted=st.lists(st.integers(0, 2 * MANY), max_size=100), bits=st.integers(0, 255))
def test_marks(wanted: list[int], bits: int) -> None:
    """Bits are added to the marks of blobs that are known; the others are told, as often as they were asked for."""
    table, before = filled(MANY), 4
    marks = bytearray([before]) * MANY
    missing = table.mark(b"".join(map(name, wanted)), marks, bits)
    assert missing == [name(number) for number in wanted if number >= MANY]
    marked = {number for number in wanted if number < MANY}
    assert marks == bytes(before | bits if number in marked else before for number in range(MANY))


def test_marks_of_what_is_new() -> None:
    """A blob whose mark has one of the other bits stays as it is; each is marked once."""
    table, marks = filled(5), bytearray([0, 1, 2, 4, 0])
    found = table.mark_new(b"".join(map(name, (0, 1, 2, 9, 0, 3))), marks, 4, 6)
    assert found == ([0, 1], [name(9)])
    assert marks == bytes([4, 5, 2, 4, 0])


def test_sizes_by_frame() -> None:
    """The sizes of marked blobs are added to their frames; one without any byte counts as one."""
    table = PlaceMap()
    ids = b"".join(map(name, range(5)))
    table.add_frames(ids, array("I", [3, 2]), array("I", [10, 20, 40, 0, 80]), 0)
    sums = array("I", [1, 0])
    table.add_sizes(bytes([1, 2, 3, 1, 0]), 1, sums)
    assert sums == array("I", [51, 1])


@pytest.mark.parametrize("wrong", [b"", name(1)[:-1], name(1) + b"\0"])
def test_no_id(wrong: bytes) -> None:
    """What has not the length of an ID is refused, whatever is asked."""
    table = filled(3)
    for ask in (table.get, table.position, table.__contains__):
        with pytest.raises(ValueError, match="an ID has 32 bytes"):
            ask(wrong)
    with pytest.raises(ValueError, match="an ID has 32 bytes"):
        table.set(wrong, place(1))
    if wrong:
        for ask_many in (table.places, lambda ids: table.mark(ids, bytearray(3), 1)):
            with pytest.raises(ValueError, match="no multiple"):
                ask_many(wrong)
    with pytest.raises(TypeError):
        table.get("text")  # type: ignore[arg-type]


def test_columns_that_do_not_fit_together() -> None:
    """Nothing is taken in of columns of different lengths, and nothing is read or written beside a buffer."""
    table = filled(3)
    two = name(5) + name(6)
    with pytest.raises(ValueError, match="places of"):
        table.extend(two, place(1))
    for counts, sizes in (([1], [1, 2]), ([1, 1], [1]), ([3], [1, 2]), ([PENDING, PENDING], [1, 2])):
        with pytest.raises(ValueError, match="IDs and sizes"):
            table.add_frames(two, array("I", counts), array("I", sizes), 0)
    with pytest.raises(ValueError, match="IDs and sizes"):
        table.add_frames(two, array("I", [1, 1]), array("I", [1, 2]), PENDING - 1)
    for mark in (lambda: table.mark(b"", bytearray(2), 1), lambda: table.mark_new(b"", bytearray(2), 1, 1)):
        with pytest.raises(ValueError, match="marks for 2"):
            mark()
    with pytest.raises(ValueError, match="frame 2 of 2"):
        table.add_sizes(bytes([1, 1, 1]), 1, array("I", [0, 0]))
    with pytest.raises((TypeError, BufferError)):
        table.mark(two, bytes(3), 1)
    assert len(table) == 3


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1), (0, 4)])
def test_no_row(start: int, stop: int) -> None:
    """Rows that are not there are refused."""
    table = filled(3)
    with pytest.raises(IndexError, match="there are 3 blobs"):
        table.rows(start, stop)
    with pytest.raises(IndexError, match="there is no blob 3"):
        table.at(3)
    with pytest.raises(KeyError):
        table.position(name(3))


def test_more_than_can_be_numbered() -> None:
    """A capacity beyond 32 bits is refused before memory is taken."""
    with pytest.raises(OverflowError, match="32 bits"):
        PlaceMap(1 << 33)
    with pytest.raises(ValueError, match="negative"):
        PlaceMap(-1)
