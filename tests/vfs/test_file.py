"""What a reader of a file gets, wherever it reads."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfrepo.core.errors import DamagedObject, StorageError
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import KIB, MIB
from bfrepo.data.node import Node
from bfrepo.repository.frames import FrameCache
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from bfrepo.vfs.file import File, joined
from tests.support.backups import incompressible, run_backup
from tests.support.browsing import Browser, browsing
from tests.support.faulty import FaultyBackend
from tests.support.repositories import make_repository, names, reopen
from tests.support.sources import Item, sparse

NOISE = incompressible(1, 600 * KIB)
SPARSE = NOISE[: 50 * KIB] + bytes(100 * KIB) + NOISE[50 * KIB : 90 * KIB] + bytes(MIB)
TREE: dict[str, Item | bytes] = {
    "empty": b"",
    "one": b"x",
    "little": NOISE[: 3 * KIB],
    "large": NOISE,
    "zeros": bytes(300 * KIB),
    "sparse": sparse(SPARSE, (50 * KIB, 100 * KIB), (190 * KIB, MIB)),
    "hole": sparse(bytes(200 * KIB), (0, 200 * KIB)),
    "ends in a hole": sparse(NOISE[: 64 * KIB] + bytes(64 * KIB), (64 * KIB, 64 * KIB)),
    "begins with a hole": sparse(bytes(64 * KIB) + NOISE[: 64 * KIB], (0, 64 * KIB)),
}
CONTENT = {name: item if isinstance(item, bytes) else item.content for name, item in TREE.items()}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A repository with all kinds of files, cut into chunks of about 8 KiB, and room for some of them in the cache."""
    made = make_repository()
    run_backup(made, TREE)
    with browsing(reopen(made.backend), ["%h"], cache_size=MIB) as opened:
        yield opened


class Pretended:
    """In place of a cache: blobs of 100 bytes, none of which exists. `asked` is what was prefetched at each call."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.released: list[int] = []
        self.in_a_row = 0

    def prefetch(self, blob_ids: Iterable[bytes], after: bytes | None = None) -> None:
        wanted = [int.from_bytes(each, "little") for each in blob_ids]
        self.asked.append(len(wanted))
        if after is not None:
            assert int.from_bytes(after, "little") == wanted[0] - 1
            self.in_a_row += len(wanted)

    def release(self, blob_id: bytes) -> None:
        self.released.append(int.from_bytes(blob_id, "little"))

    def data_sizes(self, blob_ids: Sequence[bytes]) -> list[int]:
        return [100] * len(blob_ids)


def pretended_file(views: Pretended, blobs: int) -> File:
    """A file of so many blobs."""
    content = b"".join(number.to_bytes(32, "little") for number in range(blobs))
    return File(views, Node(name=b"file", size=100 * blobs, content=content))  # type: ignore[arg-type]


def at_hand(file: File, offset: int, size: int) -> bytes | None:
    """What `peek` has of a range."""
    pieces = file.peek(offset, size)
    return None if pieces is None else b"".join(pieces)


@pytest.mark.parametrize("name", CONTENT)
def test_whole_files(browser: Browser, name: str) -> None:
    """Every file has the size and the content of its source."""
    file = browser.open("here", name)
    assert (file.size, bytes(file.read(0, file.size))) == (len(CONTENT[name]), CONTENT[name])


@given(st.sampled_from(sorted(CONTENT)), st.integers(0, 1300 * KIB), st.integers(0, 200 * KIB))
@settings(max_examples=400, deadline=None)
def test_any_range(browser: Browser, name: str, offset: int, size: int) -> None:
    """A read at any offset gives what is there, as far as the file goes, whether or not it is at hand."""
    offset %= len(CONTENT[name]) + 2
    file, wanted = browser.open("here", name), CONTENT[name][offset : offset + size]
    assert at_hand(file, offset, size) in (None, wanted)
    assert file.read(offset, size) == wanted
    assert at_hand(file, offset, size) == wanted


def test_reading_on(browser: Browser) -> None:
    """Who reads from the start to the end gets every piece right, also when it is read ahead."""
    file = browser.open("here", "large")
    pieces: list[Buffer] = []
    for offset in range(0, file.size, 10_000):
        file.advance(offset, 10_000)
        pieces.append(file.read(offset, 10_000))
    assert b"".join(pieces) == CONTENT["large"]


def test_what_comes_next_is_read_ahead() -> None:
    """Blobs are read before a steady reader asks for them, each once, and more at a time the longer that goes on."""
    views = Pretended()
    file = pretended_file(views, 200)
    for offset in range(0, file.size, 50):
        file.advance(offset, 50)
    assert sum(views.asked) == 199  # all but the first, which is asked for at once
    assert views.asked[0] == 1
    assert max(views.asked) > 16
    assert 199 - 8 < views.in_a_row < 199  # all but those of the beginning, which may be all of a short file


def test_what_lies_behind_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs that a steady reader has left some way behind are let go once, in order, and only those it has read."""
    monkeypatch.setattr("bfrepo.vfs.file._BEHIND", 250)
    views = Pretended()
    file = pretended_file(views, 200)
    for offset in range(0, 5000, 50):
        file.advance(offset, 50)
    assert views.released == list(range(47))
    file.advance(10_010, 50)
    for offset in range(10_060, 11_000, 50):
        file.advance(offset, 50)
    assert views.released == [*range(47), *range(100, 107)]


def test_random_reads_are_not_read_ahead() -> None:
    """Who reads here and there has nothing read in advance."""
    views, chance = Pretended(), random.Random(1)
    file = pretended_file(views, 200)
    for _ in range(200):
        file.advance(chance.randrange(1, 199) * 100, 50)
    assert sum(views.asked) <= 2


def test_reading_on_from_the_middle() -> None:
    """Who jumps and then reads on is a steady reader again."""
    views = Pretended()
    file = pretended_file(views, 200)
    for offset in range(10_000, 15_000, 100):
        file.advance(offset, 100)
    assert sum(views.asked) >= 49


def test_whole_is_for_files_of_one_blob(browser: Browser) -> None:
    """A file of one blob can be had in one piece once it is at hand, others never."""
    for name in CONTENT:
        file = browser.open("here", name)
        file.read(0, file.size)
        assert file.whole() == (CONTENT[name] if name in ("one", "little") else None)


@pytest.mark.parametrize(
    "node",
    [
        Node(name=b"f", size=1000, content=bytes(32) * 9),
        Node(name=b"f", size=1000, content=bytes(32) * 11),
        Node(name=b"f", size=1000),
        Node(name=b"f", size=1000, content=bytes(32) * 10, holes=bytes(7) + b"\1" + bytes(7) + b"\1"),
        Node(name=b"f", size=1000, content=bytes(33)),
        Node(name=b"f", size=1000, content=bytes(32) * 10, content_depth=4),
    ],
)
def test_content_that_does_not_add_up(node: Node) -> None:
    """A file whose blobs and holes are not its size cannot be opened, rather than be read wrongly."""
    with pytest.raises((DamagedObject, AttributeError)) as caught:
        File(Pretended(), node)  # type: ignore[arg-type]
    assert node.content_depth or caught.type is DamagedObject


def test_a_blob_of_another_size_than_its_file() -> None:
    """A file of one blob that is shorter or longer than the file is damaged."""
    repository = make_repository()
    run_backup(repository, {"file": b"twelve bytes"})
    with browsing(reopen(repository.backend), ["%h"]) as browser:
        node = browser.node("here", "file")
        for size in (11, 13):
            file = File(browser.views, Node(name=b"file", size=size, content=node.content))
            with pytest.raises(DamagedObject, match="does not fit"):
                file.read(0, 5)


def test_damage_harms_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-4: a file with a damaged blob cannot be read there; the rest of it, and all others, can."""
    monkeypatch.setattr("bfrepo.repository.frames._FOLLOWING", 0)
    backend = FaultyBackend(MemoryBackend())
    repository = make_repository(backend, compression="none")
    run_backup(repository, {"a": NOISE, "b": b"little", "c": incompressible(2, 100 * KIB)})
    packs = {name: backend.size(ObjectKind.PACK, name) for name in names(backend, ObjectKind.PACK)}
    backend.flip_byte(ObjectKind.PACK, max(packs, key=lambda name: packs[name]), 300 * KIB)
    with browsing(reopen(backend), ["%h"]) as browser:
        assert browser.content("here", "b") == b"little"
        assert browser.content("here", "c") == incompressible(2, 100 * KIB)
        file, bad = browser.open("here", "a"), 0
        for offset in range(0, len(NOISE), 1000):
            try:
                assert file.read(offset, 1000) == NOISE[offset : offset + 1000]
            except DamagedObject:
                bad += 1
        assert 1 <= bad <= 20


def test_a_storage_that_fails_and_comes_back() -> None:
    """While the storage fails a read raises, and the same file can be read when it works again."""
    backend = FaultyBackend(MemoryBackend())
    run_backup(make_repository(backend), {"file": NOISE})
    with browsing(reopen(backend), ["%h"]) as browser:
        file = browser.open("here", "file")
        backend.fail("read_into", kind=ObjectKind.PACK)
        with pytest.raises(StorageError):
            file.read(0, 10)
        assert file.read(0, file.size) == NOISE


def test_a_file_of_a_thousand_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of blobs that has moved out of its node, and one of holes, are found again."""
    monkeypatch.setattr("bfrepo.data.records.INLINE_LIMIT", 256)
    chance, content, holes = random.Random(7), bytearray(), list[tuple[int, int]]()
    for number in range(300):
        content += incompressible(number, chance.randrange(1, 9 * KIB))
        holes.append((len(content), chance.randrange(1, 9 * KIB)))
        content += bytes(holes[-1][1])
    repository = make_repository()
    run_backup(repository, {"file": sparse(bytes(content), *holes)})
    with browsing(reopen(repository.backend), ["%h"]) as browser:
        node = browser.node("here", "file")
        assert node.content_depth > 0
        assert node.holes_depth > 0
        assert browser.content("here", "file") == content
        listing = browser.directory("here").load()
        assert listing.blocks(node) == -(-(len(content) - sum(length for _, length in holes)) // 512)


def test_many_readers_at_once(browser: Browser) -> None:
    """Threads that read all over the files through a small cache get every byte right."""
    from concurrent.futures import ThreadPoolExecutor

    def read(seed: int) -> None:
        chance = random.Random(seed)
        files = {name: browser.open("here", name) for name in CONTENT}
        for _ in range(150):
            name = chance.choice(sorted(CONTENT))
            offset, size = chance.randrange(len(CONTENT[name]) + 1), chance.randrange(100 * KIB)
            files[name].advance(offset, size)
            assert files[name].read(offset, size) == CONTENT[name][offset : offset + size]

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(read, seed) for seed in range(8)]:
            done.result()


def test_views_are_what_the_cache_is(browser: Browser) -> None:
    """A read within one blob copies nothing."""
    file = browser.open("here", "little")
    assert isinstance(browser.views, FrameCache)
    assert isinstance(file.read(10, 100), memoryview)


@pytest.mark.parametrize("memory", [None, bytearray(5), bytearray(6), bytearray(100)])
def test_joining(memory: bytearray | None) -> None:
    """Pieces become one, in memory that is used again where it is large enough."""
    assert bytes(joined([b"abc", b"", memoryview(b"def")], memory)) == b"abcdef"
    assert bytes(joined([], memory)) == b""
    assert joined([b"abc"], memory) == b"abc"


def test_joining_what_lies_side_by_side() -> None:
    """Pieces that follow each other in memory become one view of it; any others are copied."""
    memory = bytearray(b"abcdef")
    view = memoryview(memory)
    together = joined([view[1:3], view[3:4], view[4:]])
    assert bytes(together) == b"bcdef"
    assert isinstance(together, memoryview)
    assert together.obj is memory
    memory[1:] = b"BCDEF"
    assert bytes(together) == b"BCDEF"
    apart: list[list[Buffer]] = [
        [view[3:], view[:3]],
        [view[:2], view[3:]],
        [view[:3], memoryview(bytearray(b"DEF"))],
        [view[:3], b"DEF"],
        [view[:3], memoryview(b"DEF")],
        [view[:3], view[3:3], view[3:]],
    ]
    for pieces in apart:
        copied = joined(pieces)
        assert copied == b"".join(pieces)
        assert not isinstance(copied, memoryview)
