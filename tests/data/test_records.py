"""Long lists out of the node: few stay, many go into blobs of their own, and a change stores little again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.core.errors import DamagedObject
from bfrepo.core.ids import BlobKind
from bfrepo.data.records import INLINE_LIMIT, load_records, record_blobs, save_records, split_ids
from tests.support.blobs import MemoryBlobs


class CountingBlobs(MemoryBlobs):
    """Counts what is saved for the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.new: list[int] = []

    def save(self, kind: BlobKind, data: object) -> bytes:
        before = len(self._places)
        blob_id = super().save(kind, data)  # type: ignore[arg-type]
        if len(self._places) > before:
            self.new.append(len(data))  # type: ignore[arg-type]
        return blob_id


def many_ids(count: int, seed: int = 1) -> bytes:
    """IDs, one after the other."""
    return random.Random(seed).randbytes(32 * count)


@pytest.mark.parametrize(
    ("size", "depth"),
    [(0, 0), (32, 0), (INLINE_LIMIT, 0), (INLINE_LIMIT + 32, 1), (32 * 100_000, 1), (32 * 250_000, 2)],
)
def test_depth(size: int, depth: int) -> None:
    """A list is moved out level by level until what stays in the node is small."""
    blobs = MemoryBlobs()
    records = many_ids(size // 32)
    packed, found = save_records(blobs, records, 32)
    assert (found, len(packed) <= INLINE_LIMIT) == (depth, True)
    assert load_records(blobs, packed, found) == records


def test_parts_are_all_reported() -> None:
    """Every blob that holds a part of the list, on every level, counts as used."""
    blobs = CountingBlobs()
    packed, depth = save_records(blobs, many_ids(250_000), 32)
    assert len(set(record_blobs(blobs, packed, depth))) == len(blobs.new)


@pytest.mark.parametrize("at", [0, 50_000, 99_999], ids=["front", "middle", "end"])
def test_cuts_are_stable(at: int) -> None:
    """A record that is inserted or changed anywhere stores a part or two again, not the list."""
    blobs = CountingBlobs()
    records = many_ids(100_000)
    save_records(blobs, records, 32)
    whole = sum(blobs.new)
    for changed in (
        records[: 32 * at] + bytes(range(32)) + records[32 * at :],
        records[: 32 * at] + bytes(32) + records[32 * (at + 1) :],
        records[: 32 * at] + records[32 * (at + 1) :],
    ):
        blobs.new.clear()
        save_records(blobs, changed, 32)
        assert len(blobs.new) <= 3
        assert sum(blobs.new) <= 4 * 64 * 1024 < whole / 10


def test_repetitive_lists_are_cut() -> None:
    """Records that are all equal, as in an image full of one chunk, give bounded parts too."""
    blobs = CountingBlobs()
    packed, depth = save_records(blobs, bytes(range(1, 33)) * 200_000, 32)
    assert max(blobs.new) <= 64 * 1024
    assert load_records(blobs, packed, depth) == bytes(range(1, 33)) * 200_000


@given(count=st.integers(0, 1500), size=st.sampled_from([16, 32]), seed=st.integers(0, 99))
def test_round_trip(count: int, size: int, seed: int) -> None:
    """Whatever the list and the size of its records, it comes back."""
    blobs = MemoryBlobs()
    records = random.Random(seed).randbytes(count * size)
    assert load_records(blobs, *save_records(blobs, records, size)) == records


@pytest.mark.parametrize("depth", [-1, 5, 1 << 40])
def test_claimed_depth(depth: int) -> None:
    """A depth that no writer makes is damage, found before anything is loaded."""
    with pytest.raises(DamagedObject, match="levels of indirection"):
        load_records(MemoryBlobs(), bytes(32), depth)


def test_no_list_of_ids() -> None:
    """What is no multiple of an ID's length is damage."""
    assert split_ids(bytes(64)) == [bytes(32)] * 2
    with pytest.raises(DamagedObject, match="33 bytes, which is no multiple of 32"):
        split_ids(bytes(33))
