"""What this machine keeps of repositories, and how it is removed."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bfrepo.catalogue.file import CatalogueInUse
from bfrepo.core.progress import Quiet
from bfrepo.operations.caches import list_caches, remove_cache
from bfrepo.operations.catalogue import open_repository_catalogue, update_catalogue
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from bfrepo.storage.local import LocalBackend
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import never, run_backup
from tests.support.repositories import make_repository, reopen


@pytest.fixture
def used(tmp_path: Path) -> Repository:
    """A repository on disk of which everything is kept in `tmp_path / "cache"`."""
    backend = LocalBackend(tmp_path / "repository")
    run_backup(make_repository(backend), {"/data/a": b"1"})
    repository = reopen(backend, cache_dir=tmp_path / "cache")
    catalogue = open_repository_catalogue(repository, make=True)
    assert catalogue is not None
    with catalogue:
        update_catalogue(repository, catalogue, Quiet(), never)
    return repository


def test_what_is_kept(used: Repository, tmp_path: Path) -> None:
    """Each repository is listed with where it is, what is kept of it and when that was last used."""
    (found,) = list_caches(tmp_path / "cache")

    assert (found.id, found.location) == (used.id, used.location)
    assert set(found.sizes) == {"index", "catalogue"}
    assert all(found.sizes.values())
    assert found.size == sum(path.stat().st_size for path in found.folder.iterdir())
    assert abs((datetime.now(UTC) - found.last_used).total_seconds()) < 3600


def test_least_recently_used_first(tmp_path: Path) -> None:
    """What nobody has read or written for long comes first; listing itself is no use."""
    for number, seconds in ((1, 2_000_000), (2, 1_000_000)):
        folder = tmp_path / (f"{number:02x}" * 32)
        folder.mkdir()
        for name in ("index", "location"):
            (folder / name).write_text("/srv/repository\n")
            os.utime(folder / name, (seconds, seconds))

    for _ in range(2):
        assert [each.id[0] for each in list_caches(tmp_path)] == [2, 1]
    assert [each.location for each in list_caches(tmp_path)] == ["/srv/repository"] * 2


def test_nothing_is_kept(tmp_path: Path) -> None:
    """No directory, and folders or files of others, are nothing of ours."""
    assert list_caches(tmp_path / "none") == []
    (tmp_path / "somebody's").mkdir()
    (tmp_path / ("0" * 64)).mkdir()
    (tmp_path / ("1" * 64)).write_text("a file")
    (tmp_path / ("2" * 64)).symlink_to(tmp_path / "somebody's")
    (tmp_path / "somebody's" / "index").write_text("index")

    assert list_caches(tmp_path) == []


def test_removing_leaves_what_is_not_ours(used: Repository, tmp_path: Path) -> None:
    """Everything of ours goes, half-written files too; whatever else lies there stays."""
    (found,) = list_caches(tmp_path / "cache")
    (found.folder / "index.123.part").write_text("left by a crash")
    (found.folder / "index.txt").write_text("mine")
    (found.folder / "index.d").mkdir()

    remove_cache(found)

    assert sorted(path.name for path in found.folder.iterdir()) == ["index.d", "index.txt"]
    assert list_caches(tmp_path / "cache") == []


def test_removing_all_of_it(used: Repository, tmp_path: Path) -> None:
    """The folder goes too; the repository opens as before, and its cache is made again."""
    (found,) = list_caches(tmp_path / "cache")

    remove_cache(found)
    assert list((tmp_path / "cache").iterdir()) == []

    again = reopen(LocalBackend(tmp_path / "repository"), cache_dir=tmp_path / "cache")
    assert len(again.index.table) == len(used.index.table)
    assert [set(each.sizes) for each in list_caches(tmp_path / "cache")] == [{"index"}]


def test_a_catalogue_in_use_stays(used: Repository, tmp_path: Path) -> None:
    """Who looks something up at the moment is not disturbed, and nothing is removed."""
    (found,) = list_caches(tmp_path / "cache")
    catalogue = open_repository_catalogue(used, make=False)
    assert catalogue is not None
    with catalogue, pytest.raises(CatalogueInUse):
        remove_cache(found)

    assert [set(each.sizes) for each in list_caches(tmp_path / "cache")] == [{"index", "catalogue"}]


def test_objects_of_a_remote_repository(tmp_path: Path) -> None:
    """Objects that are kept are counted and removed like the rest, half-written ones too; strangers stay."""
    backend = MemoryBackend()
    run_backup(make_repository(backend), {"/data/a": b"1"})
    with reopen(backend, cache_dir=tmp_path, keep_objects=True) as repository:
        load_snapshots(repository)
        repository.fetch_trees(repository.index, never)
    (found,) = list_caches(tmp_path)
    kept = [path for name in ("packs", "snapshots") for path in (found.folder / name).iterdir()]
    assert len(kept) == 2
    assert found.sizes["objects"] == sum(path.stat().st_size for path in kept)

    (found.folder / "packs" / "0123.part").write_text("left by a crash")
    (found.folder / "packs" / "notes.txt").write_text("mine")
    remove_cache(found)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [
        f"{repository.id.hex()}/packs/notes.txt"
    ]
    assert not (found.folder / "snapshots").exists()
