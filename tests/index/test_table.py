"""The index in memory: where blobs are, what is stored already, and what the flags of packs mean for that."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.compression import Codec
from bfrepo.core.errors import DamagedObject, MissingBlob
from bfrepo.core.ids import BlobKind
from bfrepo.core.protocols import BlobPlace
from bfrepo.index.format import PackState
from bfrepo.index.table import BlobTable, FramePlace
from bfrepo.pack.format import HEAD_SIZE, PackDirectory


def blob(number: int) -> bytes:
    """A blob ID."""
    return number.to_bytes(32, "little")


def pack(number: int) -> bytes:
    """A pack ID."""
    return b"P" + bytes(29) + number.to_bytes(2, "little")


def directory(*frames: Iterable[tuple[int, int]], kind: BlobKind = BlobKind.DATA) -> PackDirectory:
    """A directory with these blobs (number, size) in these frames, stored in half of their size."""
    made = PackDirectory.empty(kind)
    for frame in frames:
        blobs = list(frame)
        plain = sum(size for _, size in blobs)
        ids = b"".join(blob(number) for number, _ in blobs)
        made.add_frame(plain // 2, plain, Codec.ZSTD, ids, array("I", [size for _, size in blobs]))
    return made


def table_of(*packs: PackDirectory) -> BlobTable:
    """A table with these packs, numbered from 0."""
    table = BlobTable()
    for number, each in enumerate(packs):
        table.add_pack(pack(number), 1000 + number, each)
    return table


def test_places() -> None:
    """Every blob has its frame and offset, every frame its range in the pack; frames count through all packs."""
    table = table_of(directory([(1, 10), (2, 20)], [(3, 30)]), directory([(4, 40)], kind=BlobKind.TREE))
    places = [table.place(blob(number)) for number in (1, 2, 3, 4)]
    assert places == [BlobPlace(0, 0, 10), BlobPlace(0, 10, 20), BlobPlace(1, 0, 30), BlobPlace(2, 0, 40)]
    assert table.frame(1) == FramePlace(pack(0).hex(), BlobKind.DATA, 1, HEAD_SIZE + 15, 15, 30, Codec.ZSTD)
    assert table.frame(2) == FramePlace(pack(1).hex(), BlobKind.TREE, 0, HEAD_SIZE, 20, 40, Codec.ZSTD)
    assert (len(table), blob(1) in table, blob(9) in table) == (4, True, False)
    assert dict(table.blobs()) == dict(zip(map(blob, (1, 2, 3, 4)), places, strict=True))
    assert (table.pack_of(1), table.kind_of(2)) == (pack(0), BlobKind.TREE)


def test_packs() -> None:
    """A pack tells its size, kind, frames and number of blobs; one that is not known is None."""
    table = table_of(directory([(1, 10), (2, 20)], [(3, 30)]), directory([(4, 40)]), directory())
    assert [(each.id, each.size, each.frames, each.blobs) for each in table.packs()] == [
        (pack(0), 1000, range(2), 3), (pack(1), 1001, range(2, 3), 1), (pack(2), 1002, range(3, 3), 0),
    ]  # fmt: skip
    assert table.pack(pack(7)) is None


def test_missing() -> None:
    """A blob that no pack has is missing, also while it is reserved."""
    table = BlobTable()
    assert table.reserve(blob(1))
    with pytest.raises(MissingBlob, match=r"in no pack that the index names"):
        table.place(blob(1))
    assert (table.copies(blob(1)), list(table.blobs())) == ([], [])


def test_reserved_once() -> None:
    """Only the first who asks has to store a blob; when its pack is there it is found."""
    table = BlobTable()
    assert [table.reserve(blob(1)), table.reserve(blob(1)), table.holds(blob(1))] == [True, False, True]
    table.add_pack(pack(0), 100, directory([(1, 10)]))
    assert (table.reserve(blob(1)), table.place(blob(1))) == (False, BlobPlace(0, 0, 10))


def test_the_same_pack_twice() -> None:
    """A pack that two index objects name counts once."""
    table = table_of(directory([(1, 10)]))
    table.add_pack(pack(0), 1000, directory([(1, 10)]))
    assert (table.copies(blob(1)), len(list(table.packs()))) == ([BlobPlace(0, 0, 10)], 1)


def test_copies() -> None:
    """Every copy of a blob is known, the first that was added is used."""
    table = table_of(directory([(1, 10)]), directory([(2, 5), (1, 10)]), directory([(1, 10)]))
    assert table.copies(blob(1)) == [BlobPlace(0, 0, 10), BlobPlace(1, 5, 10), BlobPlace(2, 0, 10)]
    assert table.place(blob(1)) == BlobPlace(0, 0, 10)


@pytest.mark.parametrize("state", [PackState.CONDEMNED, PackState.DOOMED])
def test_only_live_packs_hold(state: PackState) -> None:
    """INV-8: a blob in packs that somebody wants gone is found, yet counts as one that must be stored again."""
    table = table_of(directory([(1, 10)]), directory([(2, 10)]))
    table.set_state(pack(0), state)
    assert (table.holds(blob(1)), table.holds(blob(2)), blob(1) in table) == (False, True, True)
    assert table.place(blob(1)) == BlobPlace(0, 0, 10)
    assert [table.reserve(blob(1)), table.reserve(blob(1)), table.holds(blob(1))] == [True, False, True]
    assert (table.place(blob(1)), table.copies(blob(1))) == (BlobPlace(0, 0, 10), [BlobPlace(0, 0, 10)])
    table.add_pack(pack(2), 100, directory([(1, 10)]))
    assert (table.place(blob(1)).frame, len(table.copies(blob(1)))) == (2, 2)


def test_revived() -> None:
    """A pack that is live again holds its blobs again."""
    table = table_of(directory([(1, 10)]))
    table.set_state(pack(0), PackState.CONDEMNED)
    table.set_state(pack(0), PackState.LIVE)
    assert (table.holds(blob(1)), table.reserve(blob(1))) == (True, False)


def test_live_copies_are_preferred() -> None:
    """When the copy in use is in a pack that leaves, a live one takes its place; no copy is forgotten."""
    table = table_of(directory([(1, 10)]), directory([(1, 10)]), directory([(1, 10)]))
    table.set_state(pack(0), PackState.DOOMED)
    table.set_state(pack(1), PackState.CONDEMNED)
    table.prefer_live()
    assert table.place(blob(1)).frame == 2
    assert {copy.frame for copy in table.copies(blob(1))} == {0, 1, 2}
    assert table.holds(blob(1))


def test_preference_while_reserved() -> None:
    """Choosing live copies does no harm to blobs that are being stored again."""
    table = table_of(directory([(1, 10)]), directory([(1, 10)]))
    for number in (0, 1):
        table.set_state(pack(number), PackState.DOOMED)
    assert table.reserve(blob(1))
    table.prefer_live()
    assert not table.reserve(blob(1))


def test_state_of_an_unknown_pack() -> None:
    """A flag about a pack that the index does not name changes nothing."""
    table = table_of(directory([(1, 10)]))
    table.set_state(pack(9), PackState.DOOMED)
    assert table.holds(blob(1))


packs_of_blobs = st.lists(
    st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5000)), max_size=5), max_size=4), max_size=6
)


@given(made=packs_of_blobs)
def test_written_and_read(made: list[list[list[tuple[int, int]]]]) -> None:
    """A table that was written and read again answers every question in the same way."""
    table = table_of(*(directory(*frames) for frames in made))
    file = BytesIO()
    table.write_to(file)
    file.seek(0)
    again = BlobTable.read_from(file)
    assert file.read() == b""
    assert dict(again.blobs()) == dict(table.blobs())
    assert list(again.packs()) == list(table.packs())
    for number in range(41):
        assert again.copies(blob(number)) == table.copies(blob(number))
    frames = sum(len(each) for each in made)
    assert [again.frame(number) for number in range(frames)] == [table.frame(number) for number in range(frames)]
    again.add_pack(pack(99), 7, directory([(77, 9)]))
    assert again.place(blob(77)) == BlobPlace(frames, 0, 9)


def test_what_is_reserved_is_not_written() -> None:
    """What was about to be stored is not known when the table is read again, unless there was a copy of it before."""
    table = table_of(directory([(1, 10), (2, 20)]))
    table.set_state(pack(0), PackState.DOOMED)
    assert [table.reserve(blob(number)) for number in (1, 3)] == [True, True]
    file = BytesIO()
    table.write_to(file)
    file.seek(0)
    again = BlobTable.read_from(file)
    assert [again.holds(blob(number)) for number in (1, 2, 3)] == [True, True, False]
    assert again.copies(blob(1)) == [BlobPlace(0, 0, 10)]


def test_cut_short() -> None:
    """A table that ends too early is damage, wherever it ends."""
    table = table_of(directory([(1, 10), (2, 20)], [(3, 30)]), directory([(1, 10)]))
    file = BytesIO()
    table.write_to(file)
    whole = file.getvalue()
    for size in range(len(whole)):
        with pytest.raises(DamagedObject, match="cut short"):
            BlobTable.read_from(BytesIO(whole[:size]))


def test_many_blobs_take_little_memory() -> None:
    """A blob costs about the 44 bytes it needs and its share of the hash table, far from a Python object's 500."""
    import tracemalloc

    made = PackDirectory.empty(BlobKind.DATA)
    count = 60_000
    made.add_frame(1, count, Codec.ZSTD, b"".join(map(blob, range(count))), array("I", [1]) * count)
    table = BlobTable()
    tracemalloc.start()
    table.add_pack(pack(0), 1, made)
    python_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == count
    assert python_bytes < 150 * count
