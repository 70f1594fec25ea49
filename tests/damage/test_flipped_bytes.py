"""One byte flipped anywhere in what is stored: a check finds it, and nobody is ever given a wrong byte."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import pytest

from bfrepo.core.errors import BackupForgeError
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.operations.check import check_without_key
from bfrepo.repository.config import Encryption
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import Backend, ObjectKind
from tests.support.backups import incompressible, never
from tests.support.damage import (
    EVERYTHING,
    NEW_FILES,
    OLD_FILES,
    SmallRepository,
    make_small_repository,
    reopen_unread,
    run_check,
    save_claim,
)
from tests.support.faulty import FaultyBackend
from tests.support.repositories import FakeClock, stored_objects, use_fast_kdf
from tests.support.sources import Item

PLACES = 200
SEED = 20240517

SINGLE = {
    ObjectKind.KEY: "key-damaged",
    ObjectKind.PACK: "pack-damaged",
    ObjectKind.INDEX: "index-damaged",
    ObjectKind.SNAPSHOT: "snapshot-damaged",
    ObjectKind.CLAIM: "claim-damaged",
}


@pytest.fixture(scope="module", params=["aes-256-gcm", "none"])
def whole(request: pytest.FixtureRequest) -> Iterator[SmallRepository]:
    """A repository of about 100 KB that has an object of every kind."""
    encryption: Encryption = request.param
    more = {"/data/medium": incompressible(9, 30_000)}
    with pytest.MonkeyPatch.context() as patch:
        use_fast_kdf(patch)
        small = make_small_repository(
            encryption, old_files=without_filler(OLD_FILES), new_files={**without_filler(NEW_FILES), **more}
        )
        repository = reopen_unread(small.backend)
        if repository.keys.encrypted:
            repository.add_slot(b"another", label="second", host="here")
        save_claim(repository, b"\1" * 32)
        yield small


def without_filler(files: Mapping[str, Item | bytes]) -> dict[str, Item | bytes]:
    """What is left without the large files."""
    return {path: item for path, item in files.items() if "filler" not in path}


def places(backend: Backend) -> Iterator[tuple[ObjectKind, str, int, int]]:
    """Random places, as many in each kind of object, and what to change the byte by."""
    numbers = random.Random(SEED)
    objects: dict[ObjectKind, list[tuple[str, int]]] = {}
    for kind, name, data in sorted(stored_objects(backend), key=lambda each: (each[0].value, each[1])):
        objects.setdefault(kind, []).append((name, len(data)))
    for number in range(PLACES):
        kind = list(objects)[number % len(objects)]
        name, size = numbers.choice(objects[kind])
        yield kind, name, numbers.randrange(size), numbers.randrange(1, 256)


def test_every_flipped_byte_is_found(whole: SmallRepository) -> None:
    """A check that reads everything says in one finding which object has the flipped byte; or nothing opens at all."""
    for kind, name, position, mask in places(whole.backend):
        faulty = FaultyBackend(whole.backend)
        faulty.flip_byte(kind, name, position, mask)
        try:
            repository = reopen_unread(faulty)
        except BackupForgeError:
            assert kind in (ObjectKind.CONFIG, ObjectKind.KEY)
            continue

        (finding,) = run_check(repository, EVERYTHING).findings

        where = (kind, name, position, mask)
        if kind is ObjectKind.CONFIG:
            assert (finding.kind, finding.object_ids) == ("config-damaged", ()), where
        else:
            assert (finding.kind, finding.object_ids) == (SINGLE[kind], (bytes.fromhex(name),)), where


def test_every_flipped_byte_is_found_without_a_key(whole: SmallRepository) -> None:
    """Whoever stores a repository sees damage to any object by its name alone."""
    for kind, name, position, mask in places(whole.backend):
        faulty = FaultyBackend(whole.backend)
        faulty.flip_byte(kind, name, position, mask)

        (finding,) = check_without_key(faulty, FakeClock(), Quiet(), never).findings

        where = (kind, name, position, mask)
        if kind is ObjectKind.CONFIG:
            assert finding.kind in ("config-damaged", "unknown-version"), where
        else:
            assert (finding.kind, finding.object_ids) == (SINGLE[kind], (bytes.fromhex(name),)), where


def test_no_flipped_byte_is_ever_given_out(whole: SmallRepository) -> None:
    """Whatever is flipped, a blob comes back as it was or not at all (INV-4)."""
    blobs = dict(read_all(whole.open()))
    assert len(blobs) > 20
    for kind, name, position, mask in places(whole.backend):
        faulty = FaultyBackend(whole.backend)
        faulty.flip_byte(kind, name, position, mask)
        try:
            repository = reopen_unread(faulty)
            repository.refresh_index()
        except BackupForgeError:
            assert kind in (ObjectKind.CONFIG, ObjectKind.KEY, ObjectKind.INDEX)
            continue

        found = dict(read_all(repository))

        assert found.items() <= blobs.items(), (kind, name, position, mask)
        if kind is not ObjectKind.PACK:
            assert found == blobs


def read_all(repository: Repository) -> Iterator[tuple[bytes, bytes]]:
    """Every blob that can be read, one by one and frame by frame, which must be the same."""
    table, loader = repository.index.table, repository.loader
    for blob_id, place in table.blobs():
        ((_, data),) = loader.read_frame(place.frame, [blob_id])
        whole = None if isinstance(data, BackupForgeError) else bytes(data)
        try:
            single: bytes | None = loader.load(BlobKind.DATA, blob_id)
        except BackupForgeError:
            single = None
        assert single == whole
        if whole is not None:
            yield blob_id, whole
