"""What this machine keeps of a storage's objects: it saves requests, and is never believed without proof."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfrepo.core.errors import DamagedObject, Interrupted, StorageObjectMissing
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.cache import ObjectCache
from bfrepo.storage.caching import CachingBackend
from bfrepo.storage.memory import MemoryBackend
from tests.storage.conformance import PACK, BackendConformance, Place, name_of, stored, uploaded
from tests.support.distant import DistantBackend
from tests.support.faulty import FaultyBackend
from tests.support.repositories import FakeClock

SNAPSHOT = ObjectKind.SNAPSHOT
MIB = 1 << 20


class TestCachingBackend(BackendConformance):
    """A storage that does what it should does so behind a cache that keeps its packs, too."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        memory = MemoryBackend()

        def size(name: str) -> int | None:
            return memory.size(PACK, name) if (PACK, name) in memory._objects else None

        def open_one() -> Backend:
            return CachingBackend(memory, ObjectCache(tmp_path / "cache", FakeClock())).knowing(size)

        return Place(open=open_one)


class Kept:
    """A storage that counts, a cache in a folder, and as many backends over both as a test likes."""

    def __init__(self, folder: Path, *, limit: int = 64 * MIB) -> None:
        self.storage = DistantBackend(MemoryBackend())
        self.faulty = FaultyBackend(self.storage)
        self.folder = folder
        self.clock = FakeClock()
        self.limit = limit
        self.sizes: dict[str, int] = {}

    def open(self) -> CachingBackend:
        """The storage behind the cache, as another process would open it."""
        cache = ObjectCache(self.folder, self.clock, limit=self.limit)
        return CachingBackend(self.faulty, cache).knowing(self.sizes.get)

    def put(self, data: bytes, kind: ObjectKind = PACK) -> str:
        """Store an object past the cache; a pack counts as one of trees."""
        if kind is PACK:
            self.sizes[name_of(data)] = len(data)
        return stored(self.storage, kind, data)

    def file(self, name: str, kind: ObjectKind = PACK) -> Path:
        """Where an object is kept."""
        return self.folder / kind.value / name


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """An empty storage and an empty cache."""
    return Kept(tmp_path / "cache")


def reads(kept: Kept) -> int:
    """How many calls have read from the storage since this was last asked."""
    count = kept.storage.requests["load"] + kept.storage.requests["read"]
    kept.storage.forget()
    return count


READERS: dict[str, Callable[[Backend, str, int, int], bytes]] = {
    "read": lambda backend, name, offset, length: backend.read(PACK, name, offset, length),
    "read_into": lambda backend, name, offset, length: _read_into(backend, name, offset, length),
}


def _read_into(backend: Backend, name: str, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    backend.read_into(PACK, name, offset, memoryview(buffer))
    return bytes(buffer)


# --- what it saves


@pytest.mark.parametrize("read", READERS)
def test_a_pack_of_trees_is_fetched_once(kept: Kept, read: str) -> None:
    """The first range brings the whole pack, and no later one asks the storage, whoever reads it."""
    data = os.urandom(100_000)
    name = kept.put(data)
    for _ in range(2):
        backend = kept.open()
        for offset in (0, 50_000, 99_999):
            assert READERS[read](backend, name, offset, 1) == data[offset : offset + 1]
    assert reads(kept) == 1


def test_a_large_pack_comes_in_pieces(kept: Kept) -> None:
    """Memory for one piece is enough to fetch a pack of any size."""
    kept.limit = 256 * MIB
    data = os.urandom(20 * MIB)
    name = kept.put(data)
    assert kept.open().read(PACK, name, 15 * MIB, 100) == data[15 * MIB : 15 * MIB + 100]
    assert reads(kept) == 3


def test_a_snapshot_is_loaded_once(kept: Kept) -> None:
    """A snapshot never changes, so it is asked for once."""
    name = kept.put(b"a snapshot", SNAPSHOT)
    assert [kept.open().load(SNAPSHOT, name) for _ in range(3)] == [b"a snapshot"] * 3
    assert reads(kept) == 1


def test_what_is_written_is_not_read_back(kept: Kept) -> None:
    """A snapshot and a pack of trees that were stored from here are here already."""
    backend = kept.open()
    snapshot, pack = stored(backend, SNAPSHOT, b"a snapshot"), uploaded(backend, PACK, b"a pack of trees")
    kept.sizes[pack] = 15
    assert kept.open().load(SNAPSHOT, snapshot) == b"a snapshot"
    assert kept.open().read(PACK, pack, 2, 4) == b"pack"
    assert reads(kept) == 0


@pytest.mark.parametrize("kind", [ObjectKind.CONFIG, ObjectKind.KEY, ObjectKind.INDEX, ObjectKind.CLAIM])
def test_other_objects_are_not_kept(kept: Kept, kind: ObjectKind) -> None:
    """Who may open a repository, and who is using it, is always for the storage to say; the index has its own cache."""
    name = "config" if kind is ObjectKind.CONFIG else name_of(b"x")
    backend = kept.open()
    backend.save(kind, name, b"x")
    assert [backend.load(kind, name) for _ in range(2)] == [b"x", b"x"]
    assert reads(kept) == 2
    assert not kept.folder.exists()


def test_packs_of_file_data_are_not_kept(kept: Kept) -> None:
    """What is read once, and seldom, takes no place."""
    backend = kept.open()
    upload = backend.upload(PACK, cold=True)
    upload.write(b"file data")
    upload.commit(name_of(b"file data"))
    assert backend.read(PACK, name_of(b"file data"), 0, 4) == b"file"
    assert not kept.folder.exists()


def test_listings_come_from_the_storage(kept: Kept) -> None:
    """What there is is for the storage to say: an object that is gone there is gone, though it is kept here."""
    name = kept.put(b"a snapshot", SNAPSHOT)
    backend = kept.open()
    backend.load(SNAPSHOT, name)
    kept.storage.delete(SNAPSHOT, name)
    assert list(backend.list(SNAPSHOT)) == []
    with pytest.raises(StorageObjectMissing):
        backend.size(SNAPSHOT, name)


def test_a_deleted_object_is_dropped_first(kept: Kept) -> None:
    """Before an object is deleted it is no longer here, even if the deletion fails."""
    backend = kept.open()
    name = stored(backend, SNAPSHOT, b"a snapshot")
    kept.faulty.fail("delete")
    with pytest.raises(Exception, match="delete failed"):
        backend.delete(SNAPSHOT, name)
    assert not kept.file(name, SNAPSHOT).exists()


# --- what is believed


@settings(max_examples=60)
@given(position=st.integers(0, 9_999), mask=st.integers(1, 255), data=st.data())
def test_a_flipped_byte_is_never_given_out(
    tmp_path_factory: pytest.TempPathFactory, position: int, mask: int, data: st.DataObject
) -> None:
    """Whichever byte of a kept object is wrong, wherever one reads: the right bytes come, and the file is mended."""
    kept = Kept(tmp_path_factory.mktemp("cache"))
    kind = data.draw(st.sampled_from([PACK, SNAPSHOT]))
    content = bytes(number % 251 for number in range(10_000))
    name = kept.put(content, kind)

    def read() -> bytes:
        if kind is SNAPSHOT:
            return kept.open().load(SNAPSHOT, name)
        start = data.draw(st.integers(0, 9_999))
        part = kept.open().read(PACK, name, start, 10_000 - start)
        return content[:start] + part

    assert read() == content
    path = kept.file(name, kind)
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= mask
    path.write_bytes(damaged)
    reads(kept)

    assert read() == content
    assert reads(kept) == 1
    assert path.read_bytes() == content


@pytest.mark.parametrize("change", [b"", b"shorter", b"as long as it was, and some more bytes behind it" * 10])
@pytest.mark.parametrize("kind", [PACK, SNAPSHOT])
def test_a_file_of_another_length(kept: Kept, kind: ObjectKind, change: bytes) -> None:
    """A file that was cut, or got longer, is dropped and fetched again."""
    content = os.urandom(300)
    name = kept.put(content, kind)

    def read() -> bytes:
        return kept.open().load(SNAPSHOT, name) if kind is SNAPSHOT else kept.open().read(PACK, name, 0, 300)

    read()
    kept.file(name, kind).write_bytes(change)
    assert read() == content
    assert reads(kept) == 2
    assert kept.file(name, kind).read_bytes() == content


def test_a_file_that_changes_while_it_is_open(kept: Kept) -> None:
    """A file that was proved is proved again when it is another one, or was written to since."""
    content = os.urandom(5000)
    name = kept.put(content)
    backend = kept.open()
    assert backend.read(PACK, name, 0, 5000) == content
    path = kept.file(name)
    path.write_bytes(bytes(5000))
    os.utime(path, ns=(1, 1))
    assert backend.read(PACK, name, 0, 5000) == content
    path.unlink()
    assert backend.read(PACK, name, 0, 5000) == content
    (path.parent / "other").write_bytes(bytes(5000))
    os.replace(path.parent / "other", path)
    fresh = kept.open()
    assert fresh.read(PACK, name, 0, 5000) == content


def test_damage_in_the_storage_is_not_kept(kept: Kept) -> None:
    """A pack that is not what its name says is read where it is, so that whoever reads it finds out what is wrong."""
    content = os.urandom(5000)
    name = kept.put(content)
    kept.faulty.flip_byte(PACK, name, 4000)
    backend = kept.open()
    assert backend.read(PACK, name, 0, 4000) == content[:4000]
    assert backend.read(PACK, name, 4000, 1) != content[4000:4001]
    assert reads(kept) >= 2
    assert not kept.file(name).exists()
    kept.faulty.heal()
    assert kept.open().read(PACK, name, 4000, 1) == content[4000:4001]


def test_a_pack_that_is_shorter_than_the_index_says(kept: Kept) -> None:
    """Where the pack ends too soon, those ranges that it has are read and the others are damage."""
    name = kept.put(b"short")
    kept.sizes[name] = 100
    backend = kept.open()
    assert backend.read(PACK, name, 0, 5) == b"short"
    with pytest.raises(DamagedObject):
        backend.read(PACK, name, 0, 6)


def test_a_pack_that_is_gone(kept: Kept) -> None:
    """A pack that neither the cache nor the storage has is missing."""
    name = kept.put(b"gone")
    kept.storage.delete(PACK, name)
    with pytest.raises(StorageObjectMissing):
        kept.open().read(PACK, name, 0, 1)


def test_doubt(kept: Kept) -> None:
    """Who wants to know what the storage has gets nothing that was here before, and everything only once."""
    pack, snapshot = kept.put(os.urandom(1000)), kept.put(b"a snapshot", SNAPSHOT)
    backend = kept.open()
    backend.read(PACK, pack, 0, 10)
    backend.load(SNAPSHOT, snapshot)
    reads(kept)
    backend.doubt()
    for _ in range(3):
        backend.read(PACK, pack, 0, 10)
        backend.load(SNAPSHOT, snapshot)
    assert reads(kept) == 2
    kept.storage.delete(PACK, pack)
    backend.doubt()
    with pytest.raises(StorageObjectMissing):
        backend.read(PACK, pack, 0, 10)


# --- several at once


def test_one_thread_fetches_for_all(kept: Kept) -> None:
    """However many threads want a pack, it is fetched once."""
    content = os.urandom(100_000)
    name = kept.put(content)
    kept.storage._latency_s = 0.05
    backend, together = kept.open(), threading.Barrier(8)

    def read(number: int) -> bytes:
        together.wait(10)
        return backend.read(PACK, name, number, 1000)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, range(8)))
    assert found == [content[number : number + 1000] for number in range(8)]
    assert reads(kept) == 1


def test_processes_share_it(kept: Kept) -> None:
    """Backends that share a folder read, fetch, drop and evict at once, and always give the right bytes."""
    contents = {kept.put(content): content for content in (os.urandom(4000) for _ in range(40))}
    kept.limit = 20 * 4000
    stop = threading.Event()

    def use() -> int:
        count = 0
        with closing(kept.open()) as backend:
            while not stop.is_set():
                for name, content in contents.items():
                    assert backend.read(PACK, name, 1000, 2000) == content[1000:3000]
                    count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        users = [pool.submit(use) for _ in range(3)]
        cache = ObjectCache(kept.folder, kept.clock)
        for name in [*contents] * 5:
            cache.drop(PACK, name)
        stop.set()
        assert all(user.result() for user in users)


def test_fetching_what_will_be_read(kept: Kept) -> None:
    """Packs that will be read are fetched many at a time; none that is here already, and no damage stops it."""
    names = [kept.put(os.urandom(1000)) for _ in range(24)]
    kept.storage._latency_s = 0.02
    backend = kept.open()
    backend.read(PACK, names[0], 0, 1)
    kept.storage.delete(PACK, names[1])
    reads(kept)
    backend.fetch(dict.fromkeys(names, 1000), lambda: False)
    assert kept.storage.most_at_once > 4
    assert reads(kept) == 23
    for name in names[2:]:
        backend.read(PACK, name, 0, 1000)
    assert reads(kept) == 0


def test_fetching_ends_when_the_user_wants(kept: Kept) -> None:
    """Who asks to stop does not wait for all of it."""
    names = [kept.put(os.urandom(1000)) for _ in range(50)]
    reads(kept)
    with pytest.raises(Interrupted):
        kept.open().fetch(dict.fromkeys(names, 1000), lambda: kept.storage.total >= 10)
    assert kept.storage.total < 30


# --- bounds


def test_what_was_not_used_for_longest_goes(kept: Kept) -> None:
    """When there is too much the objects go that nobody has used for longest; one that is used stays."""
    kept.limit = 10_000
    names = []
    for _ in range(10):
        names.append(kept.put(os.urandom(1000)))
        kept.clock.advance(3600)
        kept.open().read(PACK, names[-1], 0, 1)
    kept.clock.advance(3600)
    kept.open().read(PACK, names[0], 0, 1)
    kept.clock.advance(3600)
    names.append(kept.put(os.urandom(1000)))
    kept.open().read(PACK, names[-1], 0, 1)

    here = [kept.file(name).exists() for name in names]
    assert here == [True, *[False] * 4, *[True] * 6]


@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=30))
@settings(max_examples=30)
def test_the_bound_holds(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    """Whatever is read, there is never more here than the limit."""
    kept = Kept(tmp_path_factory.mktemp("cache"), limit=8000)
    backend = kept.open()
    for number, size in enumerate(sizes):
        content = bytes([number]) * size
        assert backend.read(PACK, kept.put(content), 0, size) == content
        assert sum(path.stat().st_size for path in kept.folder.rglob("*") if path.is_file()) <= 8000


def test_a_pack_that_is_too_large_is_not_kept(kept: Kept) -> None:
    """What would push out too much for one object is read where it is, by the ranges that are wanted."""
    kept.limit = 1000
    name = kept.put(os.urandom(300))
    kept.open().read(PACK, name, 10, 10)
    kept.open().fetch({name: 300}, lambda: False)
    assert not kept.folder.exists()


def test_leftovers_of_crashes_go(kept: Kept) -> None:
    """Files that a crash left incomplete are removed after a day, not before: somebody may be writing them."""
    folder = kept.folder / "packs"
    folder.mkdir(parents=True)
    now = kept.clock.now().timestamp()
    for name, age in (("old.part", timedelta(days=2)), ("new.part", timedelta(hours=2))):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (now - age.total_seconds(),) * 2)
    kept.open().read(PACK, kept.put(b"whole"), 0, 5)
    assert sorted(path.name for path in folder.glob("*.part")) == ["new.part"]


@pytest.mark.parametrize("obstacle", ["file", "full"])
def test_no_cache_can_be_written(kept: Kept, obstacle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be kept, everything works as without a cache."""
    if obstacle == "file":
        kept.folder.write_text("in the way")
    else:

        def full(file: object, data: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("bfrepo.storage.cache.write_all", full)
    name = kept.put(b"a pack of trees")
    backend = kept.open()
    assert backend.read(PACK, name, 2, 4) == b"pack"
    assert uploaded(backend, PACK, b"another pack")
    snapshot = stored(backend, SNAPSHOT, b"a snapshot")
    assert backend.load(SNAPSHOT, snapshot) == b"a snapshot"
    assert [path for path in kept.folder.rglob("*") if path.is_file()] == []


def test_only_the_owner_can_read_it(kept: Kept) -> None:
    """Files and directories are for nobody else."""
    name = kept.put(b"a pack of trees")
    kept.open().read(PACK, name, 0, 1)
    path = kept.file(name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (path.parent, path.parent.parent)} == {0o700}


def test_an_upload_that_is_given_up_leaves_nothing(kept: Kept) -> None:
    """Neither an aborted upload nor one that failed is kept."""
    backend = kept.open()
    upload = backend.upload(PACK)
    upload.write(b"never mind")
    upload.abort()
    kept.faulty.fail("commit")
    with pytest.raises(Exception, match="commit failed"):
        uploaded(backend, PACK, b"fails")
    assert [path for path in kept.folder.rglob("*") if path.is_file()] == []
