"""Keeping the catalogue of a repository up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from bfrepo.catalogue.catalogue import Catalogue
from bfrepo.catalogue.file import FILE_NAME
from bfrepo.core.progress import Quiet
from bfrepo.operations.catalogue import open_repository_catalogue, update_catalogue
from bfrepo.operations.find import find_names
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from bfrepo.sources.query import NameQuery
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import never, run_backup
from tests.support.cataloguing import tables
from tests.support.repositories import make_repository, names, reopen


@pytest.fixture
def backend() -> MemoryBackend:
    """Two snapshots."""
    backend = MemoryBackend()
    repository = make_repository(backend)
    run_backup(repository, {"/data/a": b"1"}, tags=("kept",))
    run_backup(repository, {"/data/a": b"1", "/data/b": b"2"})
    return backend


def opened(repository: Repository) -> Catalogue:
    """The repository's catalogue."""
    catalogue = open_repository_catalogue(repository, make=True)
    assert catalogue is not None
    return catalogue


def test_without_a_cache_there_is_none(backend: MemoryBackend) -> None:
    """Who wants nothing kept on this machine gets no catalogue either."""
    assert open_repository_catalogue(reopen(backend), make=True) is None


def test_snapshots_come_out_of_it(backend: MemoryBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that it has are not read from the repository, and are what the repository has."""
    repository = reopen(backend, cache_dir=tmp_path)
    expected = load_snapshots(repository)
    with opened(repository) as catalogue:
        assert update_catalogue(repository, catalogue, Quiet(), never) == expected
        load = repository.objects.load
        read: list[ObjectKind] = []

        def listen(kind: ObjectKind, name: str) -> bytes:
            read.append(kind)
            return load(kind, name)

        monkeypatch.setattr(repository.objects, "load", listen)

        assert update_catalogue(repository, catalogue, Quiet(), never) == expected
        assert read == []
        run_backup(reopen(backend), {"/data/c": b"3"})
        assert list(update_catalogue(repository, catalogue, Quiet(), never)) == list(load_snapshots(reopen(backend)))
        assert read.count(ObjectKind.SNAPSHOT) == 1


def test_forgotten_snapshots_are_dropped(backend: MemoryBackend, tmp_path: Path) -> None:
    """A snapshot that the repository has no more is not found any more."""
    repository = reopen(backend, cache_dir=tmp_path)
    with opened(repository) as catalogue:
        first, second = update_catalogue(repository, catalogue, Quiet(), never)
        backend.delete(ObjectKind.SNAPSHOT, first.hex())

        assert set(update_catalogue(repository, catalogue, Quiet(), never)) == {second}
        assert set(catalogue.snapshots()) == {second}


def test_what_it_has_of_snapshots_must_make_sense(backend: MemoryBackend, tmp_path: Path) -> None:
    """A snapshot that does not decode makes the whole catalogue suspect: it is filled again."""
    repository = reopen(backend, cache_dir=tmp_path)
    expected = load_snapshots(repository)
    with opened(repository) as catalogue:
        update_catalogue(repository, catalogue, Quiet(), never)
    assert repository.cache_folder is not None
    with tables(repository.cache_folder) as connection:
        connection.execute("UPDATE snapshots SET body = x'00'")
    for in_it in (set(), set(expected)):
        with opened(repository) as catalogue:
            assert update_catalogue(repository, catalogue, Quiet(), never) == expected
            assert set(catalogue.snapshots()) == in_it


def test_a_snapshot_that_cannot_be_taken_in(backend: MemoryBackend, tmp_path: Path) -> None:
    """The catalogue has the others, and who looks into that one is told what is wrong with it, each time."""
    repository = reopen(backend, cache_dir=tmp_path)
    before = names(backend, ObjectKind.PACK)
    run_backup(reopen(backend), {"/data/new/x": b"3"})
    for name in names(backend, ObjectKind.PACK) - before:
        backend.delete(ObjectKind.PACK, name)
    with opened(repository) as catalogue:
        for _ in range(2):
            reporter = Quiet()
            snapshots = update_catalogue(repository, catalogue, reporter, never)
            found = find_names(repository, snapshots, NameQuery(["a"]), reporter, never, catalogue=catalogue)

            assert len(list(found)) == 2
            assert (len(snapshots), len(catalogue.snapshots()), reporter.progress.errors) == (3, 2, 1)


def test_losing_it_loses_nothing(backend: MemoryBackend, tmp_path: Path) -> None:
    """Without its file, or with garbage in place of it, the answers are the same."""
    repository = reopen(backend, cache_dir=tmp_path)
    assert repository.cache_folder is not None
    path = repository.cache_folder / FILE_NAME
    answers = []
    for damage in (
        lambda: None,
        path.unlink,
        lambda: path.write_bytes(b"garbage" * 5000),
        lambda: path.write_bytes(b""),
    ):
        damage()
        with opened(repository) as catalogue:
            snapshots = update_catalogue(repository, catalogue, Quiet(), never)
            found = find_names(repository, snapshots, NameQuery(["b", "data"]), Quiet(), never, catalogue=catalogue)
            answers.append([(each.snapshot_id, each.matches) for each in found])

    assert len(answers[0]) == 2
    assert all(answer == answers[0] for answer in answers)
