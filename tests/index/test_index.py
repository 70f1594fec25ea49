"""Loading the index: what several objects say together, with and without a cache, and while others merge it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bfrepo.core.errors import DamagedObject, StorageError, UnsupportedFormat
from bfrepo.core.ids import BlobKind
from bfrepo.crypto.keys import Keys
from bfrepo.index.cache import IndexCache
from bfrepo.index.format import IndexContent, PackEntry, PackFlag, PackState, decode_index, encode_index
from bfrepo.index.index import Index
from bfrepo.pack.reader import read_directory
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, run_backup
from tests.support.faulty import FaultyBackend
from tests.support.repositories import make_repository, names, reopen
from tests.support.restoring import restored_snapshots


def flag(number: int, state: str, pack: bytes) -> PackFlag:
    """A flag with an ID of its own."""
    return PackFlag(id=bytes([number]) * 16, state="doomed" if state == "doomed" else "condemned", pack=pack, time="t")


def write(repository: Repository, **content: object) -> str:
    """Store an index object."""
    return repository.objects.save(ObjectKind.INDEX, encode_index(IndexContent(**content)))  # type: ignore[arg-type]


@pytest.fixture(params=["none", "aes-256-gcm"])
def faulty(request: pytest.FixtureRequest) -> FaultyBackend:
    """Storage of a repository with two backups, each with index objects of its own."""
    backend = FaultyBackend(MemoryBackend())
    repository = make_repository(backend, encryption=request.param, pack_size=20_000)
    run_backup(repository, {"data/one": incompressible(1, 50_000)})
    run_backup(repository, {"data/one": incompressible(1, 50_000), "data/two": incompressible(2, 50_000)})
    return backend


def answers(index: Index) -> tuple[object, ...]:
    """All that an index says of blobs and packs, apart from the numbers of frames."""
    table = index.table
    held = {
        (blob_id, *sorted((table.pack_of(copy.frame), copy.offset, copy.size) for copy in table.copies(blob_id)))
        for blob_id, _ in table.blobs()
    }
    return held, {(pack.id, pack.size, pack.state, pack.blobs) for pack in table.packs()}


# --- flags


@pytest.mark.parametrize(
    ("flags", "revoked", "state"),
    [
        ([], [], PackState.LIVE),
        ([(1, "condemned")], [], PackState.CONDEMNED),
        ([(1, "doomed")], [], PackState.DOOMED),
        ([(1, "condemned"), (2, "doomed")], [], PackState.DOOMED),
        ([(1, "condemned"), (2, "condemned")], [1], PackState.CONDEMNED),
        ([(1, "condemned"), (2, "condemned")], [2, 1], PackState.LIVE),
        ([(1, "condemned"), (2, "doomed")], [2], PackState.CONDEMNED),
        ([(1, "condemned"), (2, "doomed")], [1], PackState.DOOMED),
        ([(1, "doomed"), (2, "doomed")], [1], PackState.DOOMED),
        ([], [9], PackState.LIVE),
    ],
    ids=str,
)
def test_state_is_the_sum_of_flags(
    faulty: FaultyBackend, flags: list[tuple[int, str]], revoked: list[int], state: PackState
) -> None:
    """A pack's state is the sum of the flags that are not taken back, in whichever objects and order they stand."""
    repository = reopen(faulty)
    pack_id = next(repository.index.table.packs()).id
    for number in revoked[:1]:
        write(repository, revoked=[bytes([number]) * 16])
    for number, each in flags:
        write(repository, flags=[flag(number, each, pack_id)])
    for number in revoked[1:]:
        write(repository, revoked=[bytes([number]) * 16])
    for index in (repository.refresh_index(), reopen(faulty).index):
        found = index.table.pack(pack_id)
        assert found is not None
        assert found.state is state
        assert [pack.state for pack in index.table.packs() if pack.id != pack_id] == [PackState.LIVE] * (
            len(list(index.table.packs())) - 1
        )


def test_flag_of_a_pack_that_comes_later(faulty: FaultyBackend) -> None:
    """A flag that was read before the pack it is about counts when the pack is there."""
    repository = reopen(faulty)
    pack = next(repository.index.table.packs())
    entry = next(
        e for _, c in repository.read_index(sorted(repository.index_names())) for e in c.packs if e.id == pack.id
    )
    index = Index()
    index.add("0" * 64, IndexContent(flags=[flag(1, "doomed", pack.id)]))
    index.apply_flags()
    index.add("1" * 64, IndexContent(packs=[entry]))
    index.apply_flags()
    found = index.table.pack(pack.id)
    assert found is not None
    assert found.state is PackState.DOOMED


# --- a cache of the packs


def test_index_can_be_made_again_from_packs(faulty: FaultyBackend) -> None:
    """INV-6: with all index objects deleted, the packs alone say everything that the index said."""
    repository = reopen(faulty)
    before, snapshots = answers(repository.index), restored_snapshots(repository)
    entries = []
    for info in faulty.list(ObjectKind.PACK):
        _, directory = read_directory(faulty, info.name, info.size, repository.keys.pack_key, repository.id)
        entries.append(PackEntry(id=bytes.fromhex(info.name), size=info.size, directory=directory.encode()))
    for name in names(faulty, ObjectKind.INDEX):
        faulty.delete(ObjectKind.INDEX, name)
    assert len(reopen(faulty).index.table) == 0
    write(repository, packs=entries)
    again = reopen(faulty)
    assert (answers(again.index), restored_snapshots(again)) == (before, snapshots)


# --- the cache file


def reads(faulty: FaultyBackend) -> int:
    """How many index objects were loaded since the calls were cleared."""
    found = sum(call.method == "load" and call.kind is ObjectKind.INDEX for call in faulty.calls)
    faulty.calls.clear()
    return found


def test_cache_saves_reading(faulty: FaultyBackend, tmp_path: Path) -> None:
    """With a cache, only index objects that are new are read."""
    plain = answers(reopen(faulty).index)
    faulty.calls.clear()
    everything = len(names(faulty, ObjectKind.INDEX))
    assert answers(reopen(faulty, cache_dir=tmp_path).index) == plain
    assert reads(faulty) == everything
    assert answers(reopen(faulty, cache_dir=tmp_path).index) == plain
    assert reads(faulty) == 0
    run_backup(reopen(faulty), {"data/three": b"three"})
    reads(faulty)
    assert answers(reopen(faulty, cache_dir=tmp_path).index) == answers(reopen(faulty).index)
    assert reads(faulty) == 1 + everything + 1


def test_flags_are_in_the_cache(faulty: FaultyBackend, tmp_path: Path) -> None:
    """INV-8: a pack that was doomed is doomed also for who reads the cache, until the doom is taken back."""
    repository = reopen(faulty)
    pack_id = next(repository.index.table.packs()).id
    write(repository, flags=[flag(1, "doomed", pack_id)])
    states = []
    for _ in range(2):
        found = reopen(faulty, cache_dir=tmp_path).index.table.pack(pack_id)
        assert found is not None
        states.append(found.state)
    write(repository, revoked=[bytes([1]) * 16])
    for _ in range(2):
        found = reopen(faulty, cache_dir=tmp_path).index.table.pack(pack_id)
        assert found is not None
        states.append(found.state)
    assert states == [PackState.DOOMED, PackState.DOOMED, PackState.LIVE, PackState.LIVE]


def test_stale_cache_is_not_used(faulty: FaultyBackend, tmp_path: Path) -> None:
    """A cache of index objects that are gone is made again: what they named may be deleted."""
    reopen(faulty, cache_dir=tmp_path)
    faulty.delete(ObjectKind.INDEX, sorted(names(faulty, ObjectKind.INDEX))[0])
    assert answers(reopen(faulty, cache_dir=tmp_path).index) == answers(reopen(faulty).index)


def test_damaged_cache_is_not_used(faulty: FaultyBackend, tmp_path: Path) -> None:
    """A cache with any byte changed, or cut anywhere, is as good as none: it never gives a wrong answer."""
    repository = reopen(faulty, cache_dir=tmp_path)
    right = answers(repository.index)
    path = tmp_path / repository.id.hex() / "index"
    whole = path.read_bytes()
    cache = IndexCache(path.parent, repository.keys.cache_sealer(), repository.id)
    assert cache.load() is not None
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        assert cache.load() is None, at
        path.write_bytes(whole[:at])
        assert cache.load() is None, at
    assert answers(reopen(faulty, cache_dir=tmp_path).index) == right
    assert cache.load() is not None


def test_cache_of_another_repository(faulty: FaultyBackend, tmp_path: Path) -> None:
    """A cache that another key or another repository wrote is not used."""
    repository = reopen(faulty, cache_dir=tmp_path)
    folder = tmp_path / repository.id.hex()
    assert IndexCache(folder, repository.keys.cache_sealer(), b"?" * 32).load() is None
    if repository.keys.encrypted:
        assert IndexCache(folder, Keys.generate(encrypted=True).cache_sealer(), repository.id).load() is None


def test_cache_that_cannot_be_written(faulty: FaultyBackend, tmp_path: Path) -> None:
    """Where no cache can be written, work goes on without one."""
    (tmp_path / "file").write_text("not a directory")
    assert answers(reopen(faulty, cache_dir=tmp_path / "file").index) == answers(reopen(faulty).index)


def test_no_leftovers_in_the_cache(faulty: FaultyBackend, tmp_path: Path) -> None:
    """A cache that was written is one file, and one that says where the repository is; nothing is half-written."""
    repository = reopen(faulty, cache_dir=tmp_path)
    folder = tmp_path / repository.id.hex()
    assert sorted(os.listdir(folder)) == ["index", "location"]
    assert (folder / "location").read_text() == f"{repository.location}\n"


# --- beside others


class _Merging(FaultyBackend):
    """Somebody merges all index objects into one at the moment the first of them is to be read."""

    merges = 0

    def merge(self) -> None:
        """Write the new one before the old ones go."""
        repository = reopen(self._inner)
        old = sorted(repository.index_names())
        read = [content for _, content in repository.read_index(old)]
        write(
            repository,
            packs=[entry for content in read for entry in content.packs],
            flags=[each for content in read for each in content.flags] + [flag(100 + self.merges, "doomed", b"?" * 32)],
            revoked=[each for content in read for each in content.revoked],
        )
        for name in old:
            self._inner.delete(ObjectKind.INDEX, name)

    def load(self, kind: ObjectKind, name: str) -> bytes:
        if kind is ObjectKind.INDEX and self.merges:
            self.merges -= 1
            self.merge()
        return super().load(kind, name)


@pytest.mark.parametrize("merges", [1, 3])
def test_merged_while_it_is_read(faulty: FaultyBackend, merges: int) -> None:
    """INV-8: who meets an index object that is gone lists again, so no entry and no flag of a merged one is missed."""
    repository = reopen(faulty)
    pack_id = next(repository.index.table.packs()).id
    write(repository, flags=[flag(1, "doomed", pack_id)])
    backend = _Merging(faulty)
    backend.merges = merges
    index = reopen(backend).index
    assert answers(index) == answers(reopen(faulty).index)
    found = index.table.pack(pack_id)
    assert found is not None
    assert found.state is PackState.DOOMED


def test_known_objects_were_merged(faulty: FaultyBackend) -> None:
    """A long-lived reader whose index objects were merged away says what the storage says, not what it once read."""
    repository = reopen(faulty)
    gone = next(repository.index.table.packs())
    old = sorted(repository.index_names())
    read = [content for _, content in repository.read_index(old)]
    write(repository, packs=[entry for content in read for entry in content.packs if entry.id != gone.id])
    for name in old:
        faulty.delete(ObjectKind.INDEX, name)
    index = repository.refresh_index()
    assert index.table.pack(gone.id) is None
    assert answers(index) == answers(reopen(faulty).index)


def test_storage_that_contradicts_itself(faulty: FaultyBackend) -> None:
    """A listing that names an index object which is not there is an error, never a shorter index."""
    from bfrepo.storage.base import ObjectInfo

    repository = reopen(faulty)
    faulty.invent(ObjectKind.INDEX, ObjectInfo("0" * 64, 100))
    with pytest.raises(StorageError, match="keep disappearing"):
        repository.refresh_index()


def test_damaged_object(faulty: FaultyBackend) -> None:
    """A damaged index object is named, and nothing is read past it."""
    name = sorted(names(faulty, ObjectKind.INDEX))[0]
    faulty.flip_byte(ObjectKind.INDEX, name, 20)
    with pytest.raises(DamagedObject, match=f"index {name[:8]} in memory:"):
        reopen(faulty)


# --- the format


def test_round_trip() -> None:
    """An index object holds packs, flags and revocations, any of them or none."""
    entry = PackEntry(id=b"p" * 32, size=7, directory=b"d")
    content = IndexContent(packs=[entry], flags=[flag(1, "doomed", b"p" * 32)], revoked=[b"r" * 16])
    assert decode_index(encode_index(content), name="n" * 64) == content
    assert decode_index(encode_index(IndexContent()), name="n" * 64) == IndexContent()


def test_newer_version() -> None:
    """An index object of a newer version is unknown, not damaged."""
    import msgspec

    with pytest.raises(UnsupportedFormat, match="index nnnnnnnn: version 2"):
        decode_index(msgspec.msgpack.encode({"version": 2}), name="n" * 64)


@pytest.mark.parametrize(
    "fields",
    [
        {"flags": [{"id": b"x" * 16, "state": "parked", "pack": b"p" * 32, "time": "t"}]},
        {"flags": [{"id": b"x" * 15, "state": "doomed", "pack": b"p" * 32, "time": "t"}]},
        {"revoked": [b"x" * 17]},
        {"packs": [{"id": b"p" * 31, "size": 1, "directory": b""}]},
        {"packs": [{"id": b"p" * 32, "size": -1, "directory": b""}]},
        {"packs": 7},
    ],
    ids=str,
)
def test_malformed(fields: dict[str, object]) -> None:
    """What does not fit the format is damage."""
    import msgspec

    with pytest.raises(DamagedObject, match="index nnnnnnnn: does not decode"):
        decode_index(msgspec.msgpack.encode({"version": 1, **fields}), name="n" * 64)


def test_kinds_of_packs(faulty: FaultyBackend) -> None:
    """The index tells which packs hold trees."""
    kinds: Iterator[BlobKind] = (pack.kind for pack in reopen(faulty).index.table.packs())
    assert set(kinds) == set(BlobKind)
