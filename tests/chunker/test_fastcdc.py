"""The content-defined chunker: the kernel against its twin, and what deduplication needs from the cuts."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.chunker import _gear
from bfrepo.chunker.fastcdc import TABLE_SIZE, FastCdc, cut_reference, gear_table

SEED = bytes(range(32))
MINIMUM, AVERAGE, MAXIMUM = 256, 1024, 4096
SMALL = FastCdc(SEED, minimum=MINIMUM, average=AVERAGE, maximum=MAXIMUM)

TINY_SIZES = [(64, 128, 129), (64, 128, 512), (65, 128, 300), (127, 128, 129), (100, 256, 1000)]


def noise(size: int, seed: int = 1) -> bytes:
    """The same random bytes for the same seed."""
    return random.Random(seed).randbytes(size)


def pieces(data: bytes, ends: list[int]) -> list[bytes]:
    """The chunks between consecutive ends."""
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def runs() -> st.SearchStrategy[bytes]:
    """Runs of one byte each: sparse files, bitmaps, padding."""
    run = st.tuples(st.sampled_from([0, 0, 1, 255]), st.integers(1, 700))
    return st.lists(run, max_size=6).map(lambda found: b"".join(bytes([byte]) * count for byte, count in found))


def contents() -> st.SearchStrategy[bytes]:
    """Random, repetitive and constant data, from empty to several chunks."""
    random_bytes = st.builds(noise, st.integers(0, 2500), st.integers(0, 1 << 32))
    few_symbols = random_bytes.map(lambda data: bytes(byte & 1 for byte in data))
    periodic = st.builds(lambda unit, count: unit * count, st.binary(min_size=1, max_size=90), st.integers(0, 40))
    return st.one_of(random_bytes, few_symbols, periodic, runs(), st.lists(runs() | random_bytes).map(b"".join))


@given(data=contents(), sizes=st.sampled_from(TINY_SIZES), final=st.booleans(), seed=st.integers(0, 255))
def test_kernel_equals_twin(data: bytes, sizes: tuple[int, int, int], final: bool, seed: int) -> None:
    """The kernel cuts exactly where the plain-Python twin does, whatever the data."""
    table = gear_table(bytes([seed]) * 32)
    expected = cut_reference(data, 0, len(data), final, table, *sizes)
    assert _gear.cut(data, 0, len(data), final, table, *sizes) == expected


@pytest.mark.parametrize("sizes", TINY_SIZES)
@pytest.mark.parametrize("final", [True, False])
def test_kernel_equals_twin_around_the_limits(sizes: tuple[int, int, int], final: bool) -> None:
    """The kernel agrees with its twin one byte below, at and above each of the sizes, for noise and for zeros."""
    table = gear_table(SEED)
    lengths = {0, 1, *(size * times + more for size in sizes for times in (1, 2) for more in (-1, 0, 1))}
    for length in sorted(lengths):
        for data in (noise(length), bytes(length)):
            expected = cut_reference(data, 0, length, final, table, *sizes)
            assert _gear.cut(data, 0, length, final, table, *sizes) == expected


@pytest.mark.parametrize("seed", range(6))
def test_kernel_equals_twin_where_it_scans_by_blocks(seed: int) -> None:
    """The kernel agrees with its twin on chunks far longer than the blocks that it scans in lanes."""
    data = noise(150_000, seed) + bytes(200_000) + noise(250_000, seed + 100) + b"\x01" * 70_000
    table = gear_table(bytes([seed]) * 32)
    sizes = (64, 1 << 16, 1 << 18)
    expected = cut_reference(data, 3, len(data), True, table, *sizes)
    assert len(expected) > 4
    assert _gear.cut(data, 3, len(data), True, table, *sizes) == expected


@pytest.mark.parametrize("length", [700, 100_000])
def test_constant_data_that_asks_for_cuts(length: int) -> None:
    """A byte whose own hash is a hit is cut at every minimum, by the block as by the byte."""
    table = b"\xff" * TABLE_SIZE  # the hash of a full window is the negative of the entry: 1
    sizes = (64, 1 << 15, 1 << 17)
    expected = [*range(64, length, 64), length]
    assert _gear.cut(bytes(length), 0, length, True, table, *sizes) == expected
    assert cut_reference(bytes(length), 0, length, True, table, *sizes) == expected


def test_one_other_byte_in_a_constant_run_is_seen() -> None:
    """Blocks of one byte are passed quickly, but not if another stands in them or in the window before them."""
    table = (1).to_bytes(8, "little") + (2).to_bytes(8, "little") * 255  # zeros: all ones; a 1 and k zeros: 2^k - 1
    sizes = (64, 1 << 17, 1 << 18)
    for at in range(62, 70_000, 31):
        data = bytes(at) + b"\x01" + bytes(70_000 - at)
        assert _gear.cut(data, 0, len(data), True, table, *sizes) == [max(64, at + 1), len(data)]


def test_a_cut_at_the_very_end_is_certain() -> None:
    """Data that happens to end at a cut is cut there, without waiting for more."""
    data = noise(100_000)
    ends = SMALL.cut(data, 0, len(data), final=False)
    for count, end in enumerate(ends, start=1):
        assert SMALL.cut(data, 0, end, final=False) == ends[:count]


def test_zeros_make_equal_chunks() -> None:
    """A run of zeros is cut at the maximum, into chunks that deduplicate to one."""
    assert SMALL.cut(bytes(3 * MAXIMUM + 5), 0, 3 * MAXIMUM + 5, final=True) == [
        MAXIMUM,
        2 * MAXIMUM,
        3 * MAXIMUM,
        3 * MAXIMUM + 5,
    ]


@given(reads=st.lists(st.integers(1, 9000), min_size=1, max_size=40), seed=st.integers(0, 1000))
def test_cuts_do_not_depend_on_the_reads(reads: list[int], seed: int) -> None:
    """However a file arrives, with the undecided tail carried over, it is cut in the same places."""
    data = noise(sum(reads), seed)
    buffer, done, chunks = bytearray(), 0, []
    for size in reads:
        buffer += data[done : done + size]
        done += size
        start = 0
        for end in SMALL.cut(buffer, 0, len(buffer), final=done == len(data)):
            chunks.append(bytes(buffer[start:end]))
            start = end
        del buffer[:start]
        assert len(buffer) < MAXIMUM
    assert chunks == pieces(data, list(SMALL.cut(data, 0, len(data), final=True)))


@given(before=st.integers(0, 300), behind=st.integers(0, 300), size=st.integers(0, 20_000))
def test_only_the_range_counts(before: int, behind: int, size: int) -> None:
    """What lies around data[start:end] changes nothing but the offsets."""
    data = noise(size)
    inside = noise(before, 2) + data + noise(behind, 3)
    expected = [before + end for end in SMALL.cut(data, 0, size, final=True)]
    assert SMALL.cut(inside, before, before + size, final=True) == expected


@given(data=contents())
def test_chunk_lengths_keep_their_bounds(data: bytes) -> None:
    """Chunks cover the data without a gap; all but the last are within minimum and maximum."""
    chunker = FastCdc(SEED, minimum=64, average=128, maximum=512)
    chunks = pieces(data, list(chunker.cut(data, 0, len(data), final=True)))
    assert b"".join(chunks) == data
    assert all(64 <= len(chunk) <= 512 for chunk in chunks[:-1])
    assert all(1 <= len(chunk) <= 512 for chunk in chunks[-1:])


def test_lengths_gather_around_the_average() -> None:
    """On random data the mean is near the average, most chunks are not far from it, and few reach the maximum."""
    data = noise(4 << 20)
    lengths = [len(chunk) for chunk in pieces(data, list(SMALL.cut(data, 0, len(data), final=True)))]
    mean = sum(lengths) / len(lengths)
    assert 1.08 < mean / AVERAGE < 1.20
    assert lengths.count(MAXIMUM) < len(lengths) / 100
    assert sum(AVERAGE / 2 <= length <= 2 * AVERAGE for length in lengths) > 0.75 * len(lengths)


def test_another_seed_cuts_elsewhere() -> None:
    """Cuts are as secret as the seed: two repositories share no more of them than chance allows."""
    data = noise(1 << 20)
    other = FastCdc(bytes(32), minimum=MINIMUM, average=AVERAGE, maximum=MAXIMUM)
    ours, theirs = (set(each.cut(data, 0, len(data), final=False)) for each in (SMALL, other))
    assert len(ours & theirs) < len(ours) / 50


@pytest.mark.parametrize("at", [0, 1, 100, 5000])
def test_an_inserted_byte_changes_only_nearby_chunks(at: int) -> None:
    """Behind an insertion the cuts fall in with the old ones again, so that what follows deduplicates."""
    data = noise(1 << 20)
    edited = data[:at] + b"!" + data[at:]
    before, after = (pieces(each, list(SMALL.cut(each, 0, len(each), final=True))) for each in (data, edited))
    assert len(before) > 800
    assert len(set(after) - set(before)) <= 8


def test_cuts_are_part_of_the_format() -> None:
    """Table and cuts for a given seed never change, or nothing new would deduplicate against anything old."""
    data = blake3(b"chunk me").digest(length=16_384)
    assert blake3(gear_table(SEED)).hexdigest() == "d564ef014337647d6eba1293843744f846188cd8ad33514447c92252ec805fdf"
    assert SMALL.cut(data, 0, len(data), final=True) == [
        1143,
        2515,
        4383,
        5485,
        7080,
        8303,
        9380,
        10719,
        11825,
        13407,
        14523,
        15884,
        16384,
    ]


def test_threads_get_equal_cuts() -> None:
    """One chunker serves many threads at once."""
    data = noise(2 << 20)
    chunker = FastCdc(SEED, minimum=4096, average=16_384, maximum=65_536)
    expected = chunker.cut(data, 0, len(data), final=True)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: chunker.cut(data, 0, len(data), final=True), range(32)))
    assert found == [expected] * 32


def test_tells_its_kind_and_bounds() -> None:
    """Readers size their buffers by what the chunker says of itself."""
    assert (SMALL.name, SMALL.minimum, SMALL.maximum) == ("fastcdc", MINIMUM, MAXIMUM)


@pytest.mark.parametrize(
    "sizes", [(63, 128, 512), (128, 128, 512), (64, 128, 128), (64, 129, 512), (64, 128, (1 << 30) + 1), (-1, 128, 512)]
)
def test_senseless_sizes_are_refused_at_once(sizes: tuple[int, int, int]) -> None:
    """Sizes out of order or bounds, or an average that is no power of two, are an error before the first cut."""
    minimum, average, maximum = sizes
    with pytest.raises(ValueError, match="chunk size"):
        FastCdc(SEED, minimum=minimum, average=average, maximum=maximum)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_has_32_bytes(seed: bytes) -> None:
    """A seed of another length is an error."""
    with pytest.raises(ValueError, match="32"):
        gear_table(seed)
