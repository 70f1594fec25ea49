"""Storing blobs: how they are packed, what is not stored twice, and what happens when storing fails."""

from __future__ import annotations

import resource
import sys
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from bfrepo.compression import Codec, Compressor
from bfrepo.core.errors import DamagedObject, StorageDenied, StorageFull
from bfrepo.core.ids import BlobKind
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import KIB, MIB
from bfrepo.pack.format import FRAME_SIZE
from bfrepo.repository.repository import Repository
from bfrepo.repository.saver import LARGE_BLOB, Saver
from bfrepo.storage.base import ObjectKind, Upload
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible
from tests.support.faulty import FaultyBackend
from tests.support.repositories import FakeClock, make_repository, names, reopen, saver_options

DATA = BlobKind.DATA


def a_saver(repository: Repository, *, workers: int = 1) -> Saver:
    """A saver as a backup makes one."""
    return repository.make_saver(saver_options(repository, workers=workers))


def save_all(repository: Repository, *blobs: bytes, kind: BlobKind = DATA, workers: int = 1) -> Saver:
    """Store blobs and make them durable."""
    saver = a_saver(repository, workers=workers)
    for blob in blobs:
        saver.save(kind, blob)
    saver.flush()
    saver.close()
    return saver


def frames(repository: Repository) -> list[list[int]]:
    """The sizes of the blobs in each frame, as anybody who opens the repository finds them."""
    table = reopen(repository.backend).index.table
    found: dict[int, list[tuple[int, int]]] = {}
    for _, place in table.blobs():
        found.setdefault(place.frame, []).append((place.offset, place.size))
    return [[size for _, size in sorted(blobs)] for _, blobs in sorted(found.items())]


@pytest.fixture
def repository() -> Repository:
    """A plain repository in memory."""
    return make_repository()


# --- packing


class _Sorting(MemoryBackend):
    """Notes which packs may go to cold storage."""

    def __init__(self) -> None:
        super().__init__()
        self.cold: list[bool] = []

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        self.cold.append(cold)
        return super().upload(kind, cold=cold)


@pytest.mark.parametrize(("kind", "cold"), [(BlobKind.DATA, True), (BlobKind.TREE, False)])
def test_packs_of_data_may_be_cold(kind: BlobKind, cold: bool) -> None:
    """The storage is told which packs hold the content of files; those with trees are needed at any time."""
    backend = _Sorting()
    save_all(make_repository(backend), b"content", kind=kind)
    assert backend.cold == [cold]


def test_small_blobs_share_frames(repository: Repository) -> None:
    """Blobs below 256 KiB fill frames of at most 1 MiB, in the order they came."""
    save_all(repository, *(incompressible(number, 200 * KIB) for number in range(12)))
    assert frames(repository) == [[200 * KIB] * 5, [200 * KIB] * 5, [200 * KIB] * 2]


def test_large_blobs_are_alone() -> None:
    """A blob of 256 KiB or more has a frame to itself, and small ones go on sharing around it."""
    repository = make_repository()
    sizes = [10, LARGE_BLOB - 1, LARGE_BLOB, 20, 5 * MIB]
    save_all(repository, *(incompressible(number, size) for number, size in enumerate(sizes)))
    assert sorted(frames(repository)) == [[10, LARGE_BLOB - 1, 20], [LARGE_BLOB], [5 * MIB]]


def test_frame_is_filled_to_the_byte(repository: Repository) -> None:
    """A frame takes exactly 1 MiB; the byte beyond opens another."""
    blobs = [incompressible(number, FRAME_SIZE // 8) for number in range(8)]
    save_all(repository, *blobs, b"x")
    assert frames(repository) == [[FRAME_SIZE // 8] * 8, [1]]


def test_trees_and_data_never_share_a_pack(repository: Repository) -> None:
    """Data and trees are in packs of their own, whatever order they come in."""
    saver = a_saver(repository)
    for number in range(20):
        saver.save(BlobKind(number % 2), f"blob {number}".encode())
    saver.flush()
    saver.close()
    assert Counter(pack.kind for pack in reopen(repository.backend).index.table.packs()) == {DATA: 1, BlobKind.TREE: 1}


def test_packs_end_at_their_size() -> None:
    """A pack is finished when it has reached its size, so none is larger by more than a frame."""
    repository = make_repository(pack_size=1 * MIB)
    save_all(repository, *(incompressible(number, 300 * KIB) for number in range(20)))
    sizes = [info.size for info in repository.backend.list(ObjectKind.PACK)]
    assert len(sizes) == 5
    assert all(1 * MIB <= size < 1 * MIB + 400 * KIB for size in sizes)


@pytest.mark.parametrize(
    ("compression", "plain", "codec"),
    [
        ("zstd:3", b"a" * 5000, Codec.ZSTD),
        ("zstd:1", b"a" * 5000, Codec.ZSTD),
        ("zstd:22", b"a" * 5000, Codec.ZSTD),
        ("lz4", b"a" * 5000, Codec.LZ4),
        ("none", b"a" * 5000, Codec.NONE),
        ("zstd:3", incompressible(1, 5000), Codec.NONE),
        ("lz4", incompressible(1, 5000), Codec.NONE),
        ("zstd:3", b"a", Codec.NONE),
    ],
    ids=["zstd", "fast zstd", "slow zstd", "lz4", "none", "zstd on noise", "lz4 on noise", "a byte"],
)
def test_codecs(compression: str, plain: bytes, codec: Codec) -> None:
    """Each frame says how it was compressed; what does not shrink is stored as it is. All of it comes back."""
    repository = make_repository(encryption="aes-256-gcm", compression=compression)
    saver = a_saver(repository)
    blob_id = saver.save(DATA, plain)
    saver.close()  # given up: nothing is stored
    save_all(again := make_repository(encryption="aes-256-gcm", compression=compression), plain)
    opened = reopen(again.backend)
    (found,) = [each for each, _ in opened.index.table.blobs()]
    assert found != blob_id  # another repository, another ID (INV-5)
    assert opened.index.table.frame(opened.index.table.place(found).frame).codec is codec
    assert opened.loader.load(DATA, found) == plain


# --- deduplication


def test_stored_once_in_a_session(repository: Repository) -> None:
    """A blob that was saved before is not stored again, however it is saved."""
    saver = a_saver(repository)
    chunk = incompressible(1, 300 * KIB)
    released: list[int] = []
    first = saver.save(DATA, b"small")
    assert saver.save(DATA, bytearray(b"small")) == first
    large = saver.save_chunk(memoryview(chunk), lambda: released.append(1))
    assert saver.save(DATA, chunk) == saver.save_chunk(memoryview(chunk), lambda: released.append(2)).result()
    saver.flush()
    saver.close()
    assert large.result() == repository.blob_hash(chunk)
    assert sorted(released) == [1, 2]
    assert (saver.stats.blobs_new, saver.stats.bytes_new) == (2, 5 + 300 * KIB)
    assert (saver.stats.blobs_known, saver.stats.bytes_known) == (3, 5 + 2 * 300 * KIB)


def test_stored_once_across_sessions(repository: Repository) -> None:
    """INV-7: what another session stored is not stored again, and a session that stores nothing writes nothing."""
    save_all(repository, b"one", b"two")
    before = names(repository.backend, ObjectKind.PACK), names(repository.backend, ObjectKind.INDEX)
    again = reopen(repository.backend)
    saver = save_all(again, b"two", b"one", b"two")
    assert (saver.stats.blobs_new, saver.stats.blobs_known, saver.index_objects) == (0, 3, set())
    assert (names(repository.backend, ObjectKind.PACK), names(repository.backend, ObjectKind.INDEX)) == before


def test_many_threads(repository: Repository) -> None:
    """Blobs that several threads save at the same time are each stored once, and all come back."""
    saver = a_saver(repository, workers=3)

    def save_some(seed: int) -> list[tuple[bytes, bytes]]:
        made = []
        for number in range(150):
            blob = incompressible((number + seed * 37) % 300, 2000 + number % 7 * 40_000)
            made.append((saver.save(DATA, blob), blob))
        return made

    with ThreadPoolExecutor(4) as pool:
        saved = [pair for made in pool.map(save_some, range(4)) for pair in made]
    saver.flush()
    saver.close()
    opened = reopen(repository.backend)
    assert len(opened.index.table) == len(dict(saved)) == saver.stats.blobs_new
    assert all(opened.loader.load(DATA, blob_id) == blob for blob_id, blob in saved)
    assert sum(pack.blobs for pack in opened.index.table.packs()) == len(opened.index.table)


# --- order and checkpoints


def test_packs_before_the_index_that_names_them() -> None:
    """INV-1: an index object is written only after all packs it names."""
    faulty = FaultyBackend(MemoryBackend())
    repository = make_repository(faulty, pack_size=64 * KIB)
    faulty.calls.clear()
    save_all(repository, *(incompressible(number, 300 * KIB) for number in range(20)))
    written = [(call.kind, call.name) for call in faulty.calls if call.method in ("commit", "save")]
    named: set[str] = set()
    for at, (kind, name) in enumerate(written):
        if kind is ObjectKind.INDEX and name is not None:
            (content,) = repository.read_index([name])
            named |= {entry.id.hex() for entry in content[1].packs}
            assert named <= {each for _, each in written[:at]}
    assert named == names(faulty, ObjectKind.PACK)
    assert len(names(faulty, ObjectKind.INDEX)) == 3  # after 8 packs, 8 packs, and at the end


def test_index_after_a_minute() -> None:
    """When a minute has passed, the next finished pack is named in the index without waiting for more."""
    clock = FakeClock()
    repository = make_repository(pack_size=4 * KIB, clock=clock)
    saver = a_saver(repository)
    indexed = []
    for number in range(4):
        clock.advance(40)
        saver.save_chunk(memoryview(incompressible(number, 300 * KIB)), lambda: None).result()
        indexed.append(len(saver.index_objects))
    saver.flush()
    saver.close()
    assert indexed == [0, 1, 1, 2]


def test_failed_index_is_not_forgotten() -> None:
    """INV-1: when an index object could not be written, no later flush claims that what it named is safe."""
    faulty = FaultyBackend(MemoryBackend())
    saver = a_saver(make_repository(faulty))
    saver.save(DATA, b"blob")
    faulty.fail("save", kind=ObjectKind.INDEX, error=StorageFull("full"))
    for _ in range(2):
        with pytest.raises(StorageFull):
            saver.flush()
    saver.close()


def test_given_up_without_flush(repository: Repository) -> None:
    """What was not flushed when a saver is closed was never there."""
    saver = a_saver(repository)
    saver.save(DATA, b"blob")
    saver.close()
    saver.close()
    assert (names(repository.backend, ObjectKind.PACK), names(repository.backend, ObjectKind.INDEX)) == (set(), set())


# --- failures


def test_lying_compressor_is_caught(monkeypatch: pytest.MonkeyPatch, repository: Repository) -> None:
    """What does not read back as it was written is never stored, and the error says what to do."""
    compress = Compressor.compress

    def lies(self: Compressor, plain: memoryview) -> tuple[Codec, Buffer]:
        return compress(self, memoryview(bytes([plain[0] ^ 1]) + bytes(plain[1:])))

    monkeypatch.setattr(Compressor, "compress", lies)
    saver = a_saver(repository)
    saver.save(DATA, b"a" * 1000)
    with pytest.raises(DamagedObject, match="did not read back") as caught:
        saver.flush()
    saver.close()
    assert caught.value.hint is not None
    assert "memory or processor" in caught.value.hint
    assert (names(repository.backend, ObjectKind.PACK), names(repository.backend, ObjectKind.INDEX)) == (set(), set())


def test_broken_compression_is_caught(monkeypatch: pytest.MonkeyPatch, repository: Repository) -> None:
    """A compressor whose output does not expand at all is caught in the same way."""
    monkeypatch.setattr(Compressor, "compress", lambda self, plain: (Codec.ZSTD, b"nonsense"))
    saver = a_saver(repository)
    saver.save(DATA, b"a" * 1000)
    with pytest.raises(DamagedObject):
        saver.flush()
    saver.close()
    assert names(repository.backend, ObjectKind.PACK) == set()


@pytest.mark.parametrize("method", ["upload", "write", "commit"])
@pytest.mark.parametrize("error", [StorageFull("full"), StorageDenied("denied")], ids=["full", "denied"])
def test_storage_that_fails(method: str, error: Exception) -> None:
    """An error in the background surfaces at the next save or flush, and stays; nothing half is visible."""
    faulty = FaultyBackend(MemoryBackend())
    repository = make_repository(faulty, pack_size=64 * KIB)
    faulty.fail(method, kind=ObjectKind.PACK, forever=True, error=error)  # type: ignore[arg-type]
    saver = a_saver(repository)
    saver.save(DATA, b"a")
    with pytest.raises(type(error)):
        saver.flush()
    for again in (lambda: saver.save(DATA, b"b"), saver.flush):
        with pytest.raises(type(error)):
            again()
    released: list[bool] = []
    with pytest.raises(type(error)):
        saver.save_chunk(memoryview(bytes(LARGE_BLOB)), lambda: released.append(True))
    saver.close()
    assert released == [True]
    assert (names(faulty, ObjectKind.PACK), names(faulty, ObjectKind.INDEX)) == (set(), set())


def test_full_in_the_middle() -> None:
    """When room runs out in the middle, the error reaches whoever saves; what was named in the index stays whole."""
    faulty = FaultyBackend(MemoryBackend())
    repository = make_repository(faulty, pack_size=64 * KIB)
    faulty.fail("commit", kind=ObjectKind.PACK, on_call=20, forever=True, error=StorageFull("full"))
    saver = a_saver(repository, workers=2)
    saved: list[tuple[bytes, bytes]] = []

    def save_until_full() -> None:
        for number in range(2000):
            blob = incompressible(number, 30 * KIB)
            saved.append((saver.save(DATA, blob), blob))

    with pytest.raises(StorageFull):
        save_until_full()
    with pytest.raises(StorageFull):
        saver.flush()
    saver.close()
    opened = reopen(faulty)
    assert len(opened.index.table) >= 16
    assert all(opened.loader.load(DATA, blob_id) == blob for blob_id, blob in saved if blob_id in opened.index.table)


def test_error_of_a_chunk_reaches_who_waits_for_it() -> None:
    """A chunk that cannot be stored gives its error to whoever asks for its ID, and its memory back."""
    faulty = FaultyBackend(MemoryBackend())
    repository = make_repository(faulty)
    faulty.fail("upload", kind=ObjectKind.PACK, forever=True, error=StorageFull("full"))
    saver = a_saver(repository)
    released = threading.Event()
    future: Future[bytes] = saver.save_chunk(memoryview(bytes(LARGE_BLOB)), released.set)
    with pytest.raises(StorageFull):
        future.result()
    assert released.wait(5)
    saver.close()


# --- memory


class _Sink(MemoryBackend):
    """Takes packs and forgets them."""

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        if kind is not ObjectKind.PACK:
            super().save(kind, name, data)


@pytest.mark.slow
def test_memory_is_bounded() -> None:
    """However much goes through, the pipeline holds a few MiB: it makes the caller wait rather than grow."""
    repository = make_repository(_Sink(), pack_size=4 * MIB, compression="none")
    saver = a_saver(repository, workers=2)
    block = bytearray(200 * KIB)

    def save_more(count: int, start: int) -> int:
        for number in range(start, start + count):
            block[:8] = number.to_bytes(8, "little")
            saver.save(DATA, block)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    warm = save_more(200, 0)
    after = save_more(1500, 200)
    saver.flush()
    saver.close()
    assert sys.platform == "linux"  # ru_maxrss is in KiB there
    assert (after - warm) / KIB < 40


# --- many at once


@pytest.mark.parametrize("known", [(), (0,), (3, 4), (0, 1, 2, 3, 4, 5, 6), (2, 6)])
def test_many_are_stored_as_one_by_one(known: tuple[int, ...]) -> None:
    """`save_many` gives the IDs and stores what `save` does, whichever of the blobs are known already."""
    blobs = [
        incompressible(number, size) for number, size in enumerate((300, 1, 200 * KIB, 250 * KIB, 7, 256 * KIB, 9))
    ]
    before = [blobs[number] for number in known]
    stored: list[list[list[int]]] = []
    identifiers: list[list[bytes]] = []
    for at_once in (True, False):
        repository = make_repository()
        save_all(repository, *before)
        saver = a_saver(repository)
        batch = [*blobs, *blobs[2:4], *blobs[::-1]]
        if at_once:
            ids = saver.save_many(DATA, memoryview(b"".join(batch)), [len(blob) for blob in batch])
        else:
            ids = [saver.save(DATA, blob) for blob in batch]
        saver.flush()
        saver.close()
        identifiers.append(ids)
        stored.append(sorted(frames(repository)))
        loader = reopen(repository.backend).loader
        assert [loader.load(DATA, blob_id) for blob_id in ids] == batch
        assert saver.stats.blobs_new == len(blobs) - len(known)
        assert saver.stats.bytes_known == sum(map(len, batch)) - sum(map(len, blobs)) + sum(map(len, before))
    assert identifiers[0] == identifiers[1]
    assert sum(map(sum, stored[0])) == sum(map(sum, stored[1]))


def test_many_fill_frame_after_frame(repository: Repository) -> None:
    """Blobs that come together fill frames to the byte, and go on in the next."""
    blobs = [incompressible(number, FRAME_SIZE // 8) for number in range(20)]
    saver = a_saver(repository)
    saver.save_many(DATA, memoryview(b"".join(blobs)), [len(blob) for blob in blobs])
    saver.flush()
    saver.close()
    assert frames(repository) == [[FRAME_SIZE // 8] * 8, [FRAME_SIZE // 8] * 8, [FRAME_SIZE // 8] * 4]


def test_many_known_leave_no_frame(repository: Repository) -> None:
    """What is known already, or nothing at all, leaves no empty frame behind."""
    save_all(repository, b"one", b"two")
    saver = a_saver(repository)
    saver.save_many(DATA, memoryview(b"onetwo"), [3, 3])
    assert saver.save_many(DATA, memoryview(b""), []) == []
    saver.flush()
    saver.close()
    assert saver.stats.packs == 0
    assert frames(repository) == [[3, 3]]
