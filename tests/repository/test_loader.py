"""Getting blobs back: never a wrong byte (INV-4), from another copy where the first is bad."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from bfrepo.core.errors import DamagedBlob, DamagedObject, MissingBlob, StorageError
from bfrepo.core.ids import BlobKind
from bfrepo.index.table import BlobTable
from bfrepo.pack.format import HEAD_SIZE
from bfrepo.repository.loader import CACHE_SIZE, Loader
from bfrepo.repository.repository import Repository
from bfrepo.repository.saver import Saver
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible
from tests.support.faulty import FaultyBackend
from tests.support.repositories import FakeClock, make_repository, names, reopen, saver_options

DATA = BlobKind.DATA
BLOBS = [incompressible(number, 1000 + number) for number in range(5)]


def store(repository: Repository, *blobs: bytes, again: bool = False) -> list[bytes]:
    """Store blobs in a pack of their own; `again` also when they are there already. Their IDs."""
    saver = Saver(
        repository.backend, BlobTable() if again else repository.index.table, repository.objects, repository.blob_hash,
        repository.keys.pack_key, repository.id, FakeClock(), saver_options(repository),
    )  # fmt: skip
    saved = [saver.save(DATA, blob) for blob in blobs]
    saver.flush()
    saver.close()
    return saved


@pytest.fixture(params=["none", "aes-256-gcm"])
def faulty(request: pytest.FixtureRequest) -> FaultyBackend:
    """Storage of a repository that holds BLOBS, once."""
    backend = FaultyBackend(MemoryBackend())
    store(make_repository(backend, encryption=request.param), *BLOBS)
    return backend


def ids(repository: Repository) -> list[bytes]:
    """The IDs of BLOBS."""
    return [repository.blob_hash(blob) for blob in BLOBS]


def pack_name(backend: FaultyBackend) -> str:
    """The only pack."""
    (name,) = names(backend, ObjectKind.PACK)
    return name


def test_round_trip(faulty: FaultyBackend) -> None:
    """Every blob comes back, one by one and by frame."""
    repository = reopen(faulty)
    assert [repository.loader.load(DATA, each) for each in ids(repository)] == BLOBS
    frame = repository.loader.place(ids(repository)[0]).frame
    assert [bytes(view) for _, view in repository.loader.read_frame(frame, ids(repository)[::-1])] == BLOBS[::-1]  # type: ignore[arg-type]


def load_or_why(loader: Loader, blob_id: bytes) -> bytes:
    """The blob, or what is said of its damage."""
    try:
        return loader.load(DATA, blob_id)
    except DamagedBlob as error:
        return str(error).encode()


def test_no_wrong_byte_ever(faulty: FaultyBackend) -> None:
    """INV-4: with any one byte of head or frame flipped, each blob is right or an error naming blob and pack."""
    name = pack_name(faulty)
    opened = reopen(faulty)
    wanted = ids(opened)
    frame = opened.loader.place(wanted[0]).frame
    stored = opened.index.table.frame(frame).stored_size
    for at in [*range(HEAD_SIZE), *range(HEAD_SIZE, HEAD_SIZE + stored, 97)]:
        faulty.flip_byte(ObjectKind.PACK, name, at)
        loader = reopen(faulty).loader
        damaged = 0
        for blob_id, blob in zip(wanted, BLOBS, strict=True):
            found = load_or_why(loader, blob_id)
            if found != blob:
                damaged += 1
                assert f"blob {blob_id.hex()[:8]} in pack {name[:8]}".encode() in found, at
        by_frame = list(loader.read_frame(frame, wanted))
        assert sum(isinstance(found, DamagedBlob) for _, found in by_frame) == damaged, at
        assert all(bytes(found) == BLOBS[n] for n, (_, found) in enumerate(by_frame) if isinstance(found, memoryview))
        if opened.keys.encrypted and at >= HEAD_SIZE:
            assert damaged == len(BLOBS), at
        faulty.heal()


def test_other_copy_is_used(faulty: FaultyBackend) -> None:
    """INV-4: when the first copy is damaged, missing or of an unknown version, another one is used."""
    first = pack_name(faulty)
    store(reopen(faulty), *BLOBS, again=True)
    spoilers: list[Callable[[], None]] = [
        lambda: faulty.flip_byte(ObjectKind.PACK, first, HEAD_SIZE + 200),
        lambda: faulty.flip_byte(ObjectKind.PACK, first, 7, mask=0x10),
        lambda: faulty.flip_byte(ObjectKind.PACK, first, 8, mask=0x10),
        lambda: faulty.drop(ObjectKind.PACK, first),
        lambda: faulty.truncate(ObjectKind.PACK, first, 100),
    ]
    for spoil in spoilers:
        spoil()
        repository = reopen(faulty)
        for pack in repository.index.table.packs():
            found = repository.loader.read_frame(pack.frames[0], ids(repository))
            assert [bytes(view) for _, view in found if isinstance(view, memoryview)] == BLOBS
        assert [repository.loader.load(DATA, each) for each in ids(repository)] == BLOBS
        faulty.heal()


def test_all_copies_bad(faulty: FaultyBackend) -> None:
    """When no copy is intact, the error is that of the first."""
    store(reopen(faulty), *BLOBS, again=True)
    for name in names(faulty, ObjectKind.PACK):
        faulty.drop(ObjectKind.PACK, name)
    repository = reopen(faulty)
    with pytest.raises(DamagedBlob, match="is missing in memory:"):
        repository.loader.load(DATA, ids(repository)[0])


def test_unknown_blob(faulty: FaultyBackend) -> None:
    """A blob in no pack is missing, which is another thing than damaged."""
    loader = reopen(faulty).loader
    for ask in (lambda: loader.load(DATA, b"?" * 32), lambda: loader.place(b"?" * 32)):
        with pytest.raises(MissingBlob, match="blob 3f3f3f3f is in no pack"):
            ask()


def test_storage_trouble_is_not_damage(faulty: FaultyBackend) -> None:
    """When the storage itself fails, that is said, and the blob is not called damaged."""
    repository = reopen(faulty)
    faulty.fail("read_into", forever=True)
    with pytest.raises(StorageError, match="as the test wants it") as caught:
        repository.loader.load(DATA, ids(repository)[0])
    assert not isinstance(caught.value, DamagedObject)


def test_loading_while_a_frame_is_read(faulty: FaultyBackend) -> None:
    """A caller in the middle of a frame may load other blobs: neither spoils the other."""
    other = store(reopen(faulty), b"other")[0]
    repository = reopen(faulty)
    loader = repository.loader
    frame = loader.place(ids(repository)[0]).frame
    seen = []
    for _, found in loader.read_frame(frame, ids(repository)):
        assert isinstance(found, memoryview)
        seen.append(bytes(found))
        assert loader.load(DATA, other) == b"other"
        inner = list(loader.read_frame(loader.place(other).frame, [other]))
        assert len(inner) == 1
        assert bytes(found) == seen[-1]
    assert seen == BLOBS


def test_many_threads() -> None:
    """Any number of threads may load at the same time."""
    repository = make_repository(encryption="aes-256-gcm")
    blobs = [incompressible(number, 300_000) for number in range(30)]
    saved = store(repository, *blobs)
    opened = reopen(repository.backend)

    def load_all(seed: int) -> bool:
        order = sorted(range(30), key=lambda number: incompressible(number * 100 + seed, 4))
        return all(opened.loader.load(DATA, saved[number]) == blobs[number] for number in order)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(load_all, range(8)))


def test_a_frame_is_read_once() -> None:
    """Loading the blobs of a frame one by one reads it once, until the cache is full."""
    backend = FaultyBackend(MemoryBackend())
    store(make_repository(backend), *BLOBS)
    repository = reopen(backend)
    backend.calls.clear()
    for each in ids(repository) * 3:
        repository.loader.load(DATA, each)
    assert [call.method for call in backend.calls] == ["read_into", "read"]


def test_cache_is_bounded() -> None:
    """The frames kept do not exceed their bound, whatever is loaded."""
    repository = make_repository(compression="none")
    saved = store(repository, *(incompressible(number, 1 << 20) for number in range(40)))
    loader = reopen(repository.backend).loader
    for each in saved:
        loader.load(DATA, each)
    assert sum(map(len, loader._frames.values())) == loader._cached <= CACHE_SIZE
