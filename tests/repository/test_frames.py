"""The cache of opened frames: each read once and each blob checked once, and never a wrong byte (INV-4)."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from bfrepo.core.errors import DamagedBlob, MissingBlob, StorageError
from bfrepo.core.ids import BlobKind
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import KIB, MIB
from bfrepo.index.table import BlobTable
from bfrepo.pack.format import HEAD_SIZE
from bfrepo.repository.frames import FrameCache
from bfrepo.repository.loader import Loader
from bfrepo.repository.repository import Repository
from bfrepo.repository.saver import Saver
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from bfrepo.vfs.file import joined
from tests.support.backups import incompressible
from tests.support.faulty import FaultyBackend
from tests.support.repositories import FakeClock, make_repository, names, reopen, saver_options

SMALL = [incompressible(number, 1000 + number) for number in range(5)]
LARGE = [incompressible(100 + number, 700 * KIB) for number in range(8)]


def store(repository: Repository, *blobs: bytes, again: bool = False) -> list[bytes]:
    """Store blobs in a pack of their own; `again` also when they are there already. Their IDs."""
    saver = Saver(
        repository.backend, BlobTable() if again else repository.index.table, repository.objects, repository.blob_hash,
        repository.keys.pack_key, repository.id, FakeClock(), saver_options(repository),
    )  # fmt: skip
    saved = [saver.save(BlobKind.DATA, blob) for blob in blobs]
    saver.flush()
    saver.close()
    return saved


@pytest.fixture
def faulty() -> FaultyBackend:
    """Storage of a repository that holds SMALL in one frame, and each of LARGE in one of its own."""
    backend = FaultyBackend(MemoryBackend())
    repository = make_repository(backend, compression="none")
    store(repository, *SMALL)
    store(repository, *LARGE)
    return backend


def ids(repository: Repository, blobs: list[bytes]) -> list[bytes]:
    """What blobs are called."""
    return [repository.blob_hash(blob) for blob in blobs]


@contextmanager
def cache_of(repository: Repository, limit: int = 64 * MIB) -> Iterator[FrameCache]:
    """A cache, closed at the end."""
    cache = FrameCache(repository.loader, limit)
    try:
        yield cache
    finally:
        cache.close()


def peeked(cache: FrameCache, blob_id: bytes) -> bytes | None:
    """What is at hand of a blob."""
    view = cache.peek(blob_id)
    return None if view is None else bytes(view)


def frames_read(backend: FaultyBackend) -> int:
    """How often a frame was read: heads of packs do not count."""
    return sum(call.kind is ObjectKind.PACK and call.method == "read_into" for call in backend.calls)


def eventually(is_so: Callable[[], bool]) -> bool:
    """Whether something comes true within ten seconds."""
    deadline = time.monotonic() + 10
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def test_blobs_come_back(faulty: FaultyBackend) -> None:
    """Every blob is given as it was stored, as a view and as a copy."""
    repository = reopen(faulty)
    with cache_of(repository) as cache:
        blobs = SMALL + LARGE
        assert [bytes(cache.view(each)) for each in ids(repository, blobs)] == blobs
        assert [cache.load(BlobKind.DATA, each) for each in ids(repository, blobs)] == blobs


def test_a_frame_is_read_once(faulty: FaultyBackend) -> None:
    """Who asks for blobs of one frame again and again reads it from the storage once."""
    repository = reopen(faulty)
    with cache_of(repository) as cache:
        for _ in range(3):
            for blob_id in ids(repository, SMALL):
                cache.view(blob_id)
    assert frames_read(faulty) == 1


def test_threads_that_want_the_same_frame_wait_for_one(faulty: FaultyBackend) -> None:
    """Many threads that ask for a frame at the same time all get it from one read."""
    repository = reopen(faulty)
    (wanted, *_) = ids(repository, LARGE)
    together = threading.Barrier(8)

    def ask() -> bytes:
        together.wait()
        return bytes(cache.view(wanted))

    with cache_of(repository) as cache, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask) for _ in range(8)]
        assert {answer.result() for answer in answers} == {LARGE[0]}
    assert frames_read(faulty) == 1


def test_a_blob_is_hashed_once(faulty: FaultyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-4 costs one hash for each blob that is asked for, however often it is."""
    repository = reopen(faulty)
    hashed: list[int] = []
    plain = Loader.is_intact

    def counted(loader: Loader, blob_id: bytes, data: Buffer) -> bool:
        hashed.append(len(data))
        return plain(loader, blob_id, data)

    monkeypatch.setattr(Loader, "is_intact", counted)
    with cache_of(repository) as cache:
        for _ in range(3):
            for blob_id in ids(repository, SMALL)[:2]:
                cache.view(blob_id)
                cache.peek(blob_id)
    assert hashed == [len(blob) for blob in SMALL[:2]]


def test_peek_does_not_wait(faulty: FaultyBackend) -> None:
    """A blob whose frame is not at hand is not there for `peek`, and costs no read."""
    repository = reopen(faulty)
    with cache_of(repository) as cache:
        blob_id = ids(repository, SMALL)[0]
        assert cache.peek(blob_id) is None
        assert frames_read(faulty) == 0
        cache.view(blob_id)
        assert peeked(cache, blob_id) == SMALL[0]


def test_what_is_prefetched_is_at_hand(faulty: FaultyBackend) -> None:
    """After a prefetch `peek` has a blob as soon as it was read, large ones included."""
    repository = reopen(faulty)
    with cache_of(repository) as cache:
        wanted = ids(repository, LARGE)[:3]
        cache.prefetch([*wanted, bytes(32)])
        assert eventually(lambda: all(cache.peek(each) is not None for each in wanted))
        assert [peeked(cache, each) for each in wanted] == LARGE[:3]
        assert frames_read(faulty) >= 3


def test_what_is_read_on_lies_side_by_side(faulty: FaultyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs that follow a blob share its piece of memory, as far as that goes, and are those that were stored."""
    monkeypatch.setattr("bfrepo.repository.frames._TOGETHER", 3 * MIB)
    repository = reopen(faulty)
    wanted = ids(repository, LARGE)
    with cache_of(repository) as cache:
        cache.view(wanted[0])
        cache.prefetch(wanted[1:3], after=wanted[0])
        cache.prefetch(wanted[3:7], after=wanted[2])
        assert eventually(lambda: all(cache.peek(each) is not None for each in wanted[:7]))
        views = [cache.view(each) for each in wanted[:7]]
    assert [bytes(view) for view in views] == LARGE[:7]
    together = joined([*views[1:5]])
    assert isinstance(together, memoryview)
    assert together == b"".join(LARGE[1:5])
    assert views[5].obj is views[6].obj
    assert len({id(views[at].obj) for at in (0, 1, 5)}) == 3


def test_a_frame_that_cannot_be_read_leaves_its_place(faulty: FaultyBackend) -> None:
    """A frame that fails among others that lie side by side is an error for who asks; the next try gives it."""
    repository = reopen(faulty)
    wanted = ids(repository, LARGE)
    with cache_of(repository) as cache:
        cache.view(wanted[0])
        faulty.fail("read_into", kind=ObjectKind.PACK)
        cache.prefetch(wanted[1:4], after=wanted[0])
        assert eventually(lambda: sum(cache.peek(each) is not None for each in wanted[1:4]) == 2)
        assert [bytes(cache.view(each)) for each in wanted] == LARGE


def test_frames_in_use_one_after_the_other_bring_the_next(faulty: FaultyBackend) -> None:
    """Who uses two neighbouring frames has those that follow opened in advance."""
    repository = reopen(faulty)
    with cache_of(repository) as cache:
        by_frame = sorted(ids(repository, LARGE), key=lambda each: cache.place(each).frame)
        cache.view(by_frame[0])
        time.sleep(0.05)
        assert frames_read(faulty) == 1
        cache.view(by_frame[1])
        assert eventually(lambda: frames_read(faulty) == 4)


def test_memory_is_bounded(faulty: FaultyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is kept than the limit, and what was used least recently goes first."""
    monkeypatch.setattr("bfrepo.repository.frames._FOLLOWING", 0)
    repository = reopen(faulty)
    with cache_of(repository, limit=1600 * KIB) as cache:
        first, second, third, *_ = ids(repository, LARGE)
        cache.view(first)
        cache.view(third)
        cache.view(first)
        cache.view(second)
        assert cache.peek(first) is not None
        assert cache.peek(third) is None


def test_what_is_let_go(faulty: FaultyBackend) -> None:
    """A blob that was let go is not at hand any more, but one that shares its frame with others stays."""
    repository = reopen(faulty)
    with cache_of(repository) as cache:
        for blob_id in ids(repository, [LARGE[0], SMALL[0]]):
            held = cache.view(blob_id)
            cache.release(blob_id)
            cache.release(blob_id)
            assert bytes(held) in (LARGE[0], SMALL[0])
        assert cache.peek(ids(repository, LARGE)[0]) is None
        assert peeked(cache, ids(repository, SMALL)[0]) == SMALL[0]
        assert cache.view(ids(repository, LARGE)[0]) == LARGE[0]


def test_only_half_of_it_holds_what_nobody_asked_for(faulty: FaultyBackend) -> None:
    """Reading ahead leaves room for what is in use."""
    repository = reopen(faulty)
    with cache_of(repository, limit=3 * MIB) as cache:
        cache.prefetch(ids(repository, LARGE))
        assert eventually(lambda: frames_read(faulty) == 2)
        time.sleep(0.05)
        assert frames_read(faulty) == 2


def test_a_frame_larger_than_the_limit(faulty: FaultyBackend) -> None:
    """A cache that is smaller than a frame still gives every blob."""
    repository = reopen(faulty)
    with cache_of(repository, limit=1) as cache:
        assert [bytes(cache.view(each)) for each in ids(repository, LARGE + SMALL)] == LARGE + SMALL


def test_a_view_outlives_its_frame(faulty: FaultyBackend) -> None:
    """What somebody holds stays as it is when its frame has made room for others."""
    repository = reopen(faulty)
    with cache_of(repository, limit=1) as cache:
        held = cache.view(ids(repository, LARGE)[0])
        for blob_id in ids(repository, LARGE):
            cache.view(blob_id)
        assert held == LARGE[0]


def test_memory_that_is_used_again_is_nobody_elses(faulty: FaultyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-4: while frames come and go by many threads, and their memory is used again, a view holds what it did."""
    monkeypatch.setattr("bfrepo.repository.frames._TOGETHER", 1500 * KIB)
    repository = reopen(faulty)
    blobs = SMALL + LARGE
    wanted = ids(repository, blobs)

    def look(seed: int) -> None:
        chance = random.Random(seed)
        held: list[tuple[memoryview, bytes]] = []
        for _ in range(60):
            at = chance.randrange(len(blobs))
            if seed % 2 and at:
                cache.prefetch(wanted[at : at + 3], after=wanted[at - 1])
            held.append((cache.view(wanted[at]), blobs[at]))
            held = held[-3:]
            assert all(view == blob for view, blob in held)
            if seed % 2:
                cache.release(wanted[at])

    with cache_of(repository, limit=2 * MIB) as cache, ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(look, seed) for seed in range(4)]:
            done.result()


@pytest.mark.parametrize("encryption", ["none", "aes-256-gcm"])
def test_no_wrong_byte_ever(encryption: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-4: of a frame with a flipped byte, each blob is right or an error, by every way to ask for it."""
    monkeypatch.setattr("bfrepo.repository.frames._FOLLOWING", 0)
    backend = FaultyBackend(MemoryBackend())
    store(make_repository(backend, encryption=encryption, compression="none"), *SMALL)  # type: ignore[arg-type]
    (pack,) = names(backend, ObjectKind.PACK)
    backend.flip_byte(ObjectKind.PACK, pack, HEAD_SIZE + 1500)
    repository = reopen(backend)
    with cache_of(repository) as cache:
        wanted = ids(repository, SMALL)
        cache.prefetch(wanted)
        damaged = 0
        for blob_id, blob in zip(wanted * 2, SMALL * 2, strict=True):
            for ask in (cache.view, cache.peek):
                try:
                    assert ask(blob_id) in (blob, None)
                except DamagedBlob:
                    damaged += 1
        assert damaged >= (2 if encryption == "none" else 10)


def test_errors_keep_nothing(faulty: FaultyBackend) -> None:
    """A cache that failed to give a blob is gone as soon as nobody uses it: errors do not hold it in circles."""
    (pack, *_) = names(faulty, ObjectKind.PACK)
    faulty.flip_byte(ObjectKind.PACK, pack, HEAD_SIZE + 100)
    faulty.drop(ObjectKind.PACK, next(name for name in names(faulty, ObjectKind.PACK) if name != pack))
    repository = reopen(faulty)
    gc.collect()
    gc.disable()
    try:
        with cache_of(repository) as cache:
            for blob_id in ids(repository, SMALL + LARGE):
                with suppress(DamagedBlob):
                    cache.view(blob_id)
            threads = [thread for thread in threading.enumerate() if thread.name.startswith("frames-")]
        for thread in threads:
            thread.join(10)
        kept = weakref.ref(cache)
        del cache
        assert kept() is None
    finally:
        gc.enable()


def test_another_copy_stands_in(faulty: FaultyBackend) -> None:
    """A blob whose first copy is damaged comes from its second."""
    before = names(faulty, ObjectKind.PACK)
    store(reopen(faulty), *SMALL, again=True)
    for pack in before:
        faulty.flip_byte(ObjectKind.PACK, pack, HEAD_SIZE + 100)
    repository = reopen(faulty)
    with cache_of(repository) as cache:
        assert [bytes(cache.view(each)) for each in ids(repository, SMALL)] == SMALL


def test_a_storage_that_comes_back(faulty: FaultyBackend) -> None:
    """A storage that fails is an error for who asks then, and forgotten when it works again."""
    repository = reopen(faulty)
    with cache_of(repository) as cache:
        blob_id = ids(repository, SMALL)[0]
        faulty.fail("read_into", kind=ObjectKind.PACK)
        with pytest.raises(StorageError, match="as the test wants it"):
            cache.view(blob_id)
        assert cache.view(blob_id) == SMALL[0]


def test_a_blob_that_is_nowhere(faulty: FaultyBackend) -> None:
    """A blob that the index does not name is missing, whichever way it is asked for."""
    with cache_of(reopen(faulty)) as cache:
        with pytest.raises(MissingBlob):
            cache.view(bytes(32))
        with pytest.raises(MissingBlob):
            cache.peek(bytes(32))


def test_another_loader_has_other_frames(faulty: FaultyBackend) -> None:
    """Frames of an index that numbers them otherwise are never taken for those of the one before."""
    repository = reopen(faulty)
    other = make_repository(compression="none")
    store(other, *(incompressible(50 + number, 1000 + number) for number in range(5)))
    store(other, *SMALL)
    with cache_of(repository) as cache:
        wanted = ids(repository, SMALL)
        assert [bytes(cache.view(each)) for each in wanted] == SMALL
        cache.follow(reopen(other.backend).loader)
        assert cache.peek(wanted[0]) is None
        assert [bytes(cache.view(each)) for each in wanted] == SMALL


def test_closing_ends_its_threads(faulty: FaultyBackend) -> None:
    """A cache leaves no thread behind."""
    before = set(threading.enumerate())
    with cache_of(reopen(faulty)) as cache:
        cache.prefetch(ids(reopen(faulty), LARGE))
        started = set(threading.enumerate()) - before
        assert started
    assert eventually(lambda: not any(thread.is_alive() for thread in started))
