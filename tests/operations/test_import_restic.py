"""Repositories of restic, made by restic itself: what is imported is what restic restores."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bfrepo.core.errors import Interrupted, RepositoryNotFound, WrongPassword
from bfrepo.operations.import_restic import ImportResult, import_restic, restic_snapshots
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from bfrepo.restic.repository import ResticRepository, open_restic
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.layout import OF_RESTIC
from bfrepo.storage.local import LocalBackend
from bfrepo.storage.location import open_backend, parse_location
from bfrepo.storage.memory import MemoryBackend
from bfrepo.storage.options import RestOptions, SftpOptions, StorageOptions
from bfrepo.storage.rest import RestBackend
from tests.support.backups import incompressible, never
from tests.support.directories import Problems, Seen, back_up, census, removable, restore_to
from tests.support.rclone import serve as serve_rclone
from tests.support.repositories import make_repository, reopen
from tests.support.rest_places import AS_SERVER, location
from tests.support.restic_local import PASSWORD, LocalRestic, make_restic
from tests.support.restoring import restored
from tests.support.sshd import serve as serve_ssh
from tests.support.ugly import ASPECTS

pytestmark = pytest.mark.slow

LEFT_OUT = ("terabyte", "long_path", "no_dump", "unchangeable", "many")
"""Aspects that restic takes hours for, cannot restore, or knows nothing of; and one that takes long."""

OTHER = "another password"
SIZE = 3_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where all of this module is; it can be removed afterwards."""
    top = tmp_path_factory.mktemp("restic")
    with removable(top):
        yield top


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    """A tree with every kind of file."""
    top = folder / "src"
    top.mkdir()
    for name, aspect in ASPECTS.items():
        if name in LEFT_OUT:
            continue
        (top / name).mkdir()
        try:
            aspect(top / name)
        except OSError:
            continue
    return top


@pytest.fixture(scope="module", params=["2", "1"])
def restic(request: pytest.FixtureRequest, folder: Path, source: Path) -> LocalRestic:
    """A repository of either format with three snapshots of two hosts, with and without compression, two passwords,
    and an index that has many blobs twice.
    """
    version: str = request.param
    (folder / version).mkdir()
    restic = make_restic(folder / version, "--repository-version", version)
    restic("backup", source, "--host", "web1", "--tag", "a,b", "--time", "2024-01-02 03:04:05", "--with-atime")
    index = restic.files("index")
    for path in index:
        path.rename(folder / version / path.name)
    compression = ("--compression", "off") if version == "2" else ()
    restic("backup", source, "--host", "web2", "--force", "--time", "2024-02-02 03:04:05", *compression, "--no-cache")
    for path in index:
        (folder / version / path.name).rename(path)
    (folder / "new-password").write_text(OTHER)
    restic("key", "add", "--new-password-file", folder / "new-password")
    (source / "more").mkdir(exist_ok=True)
    (source / "more" / "file").write_bytes(incompressible(9, SIZE))
    restic("backup", source, "--host", "web1", "--tag", "c", "--time", "2024-03-02 03:04:05", "--exclude", "*.never")
    shutil.rmtree(source / "more")
    return restic


def opened(restic: LocalRestic, password: str = PASSWORD) -> ResticRepository:
    """The repository, read by us."""
    return open_restic(LocalBackend(restic.folder, folders=OF_RESTIC), password.encode)


def run_import(
    restic: LocalRestic | ResticRepository,
    target: Repository,
    *,
    reporter: Problems | None = None,
    cancelled: Callable[[], bool] = never,
) -> ImportResult:
    """Import everything."""
    reporter = reporter or Problems()
    source = opened(restic) if isinstance(restic, LocalRestic) else restic
    result = import_restic(source, target, restic_snapshots(source, reporter), reporter, cancelled)
    source.close()
    return result


def comparable(seen: Mapping[bytes, Seen]) -> dict[bytes, Seen]:
    """A census without what restic does not restore: sockets, holes where they were, links of what is no file."""
    return {
        path: replace(each, data=(), flags=0, names=each.names if each.kind == 0o100000 else ())
        for path, each in seen.items()
        if each.kind != 0o140000 and path != b"."
    }


def test_what_is_imported_is_what_restic_restores(restic: LocalRestic, source: Path, tmp_path: Path) -> None:
    """Every kind of file, of each snapshot; a second import adds nothing, and the repository is as it was."""
    before = {path: path.read_bytes() for kind in ("data", "index", "snapshots", "keys") for path in restic.files(kind)}
    repository, reporter = make_repository(cache_dir=tmp_path / "cache"), Problems()

    result = run_import(restic, repository, reporter=reporter)

    assert (reporter.found, len(result.imported), result.failed) == ([], 3, [])
    with removable(tmp_path):
        for number, (old, new) in enumerate(result.imported.items()):
            ours, theirs = tmp_path / f"ours{number}", tmp_path / f"theirs{number}"
            restic("restore", old.hex(), "--target", theirs, statuses=(0, 1))
            restore_to(repository, new, Path("/"), ours, verify=True)
            where = source.relative_to("/")
            assert comparable(census(ours / where)) == comparable(census(theirs / where))
    packs = len(list(repository.backend.list(ObjectKind.PACK)))
    again = run_import(restic, repository)
    assert (again.imported, again.present) == ({}, result.imported)
    assert (again.stored.blobs_new, again.read) == (0, 0)
    assert len(list(repository.backend.list(ObjectKind.PACK))) == packs
    after = {path: path.read_bytes() for kind in ("data", "index", "snapshots", "keys") for path in restic.files(kind)}
    assert after == before


def test_what_a_snapshot_says_is_kept(restic: LocalRestic, source: Path) -> None:
    """Time, host, user, paths, tags, excludes, parent and the original ID."""
    repository = make_repository()
    result = run_import(restic, repository)
    theirs = restic.snapshots()

    snapshots = load_snapshots(repository)

    assert [each.original.hex() for each in snapshots.values()] == [each["id"] for each in theirs]
    for snapshot, listed in zip(snapshots.values(), theirs, strict=True):
        assert snapshot.when == datetime.fromisoformat(listed["time"]).astimezone(UTC)
        assert (snapshot.hostname, snapshot.username) == (listed["hostname"], listed["username"])
        assert snapshot.paths == [bytes(source)]
        assert snapshot.tags == sorted(listed.get("tags", []))
        assert snapshot.excludes == listed.get("excludes", [])
    parent = bytes.fromhex(theirs[2]["parent"])
    assert list(snapshots.values())[2].parent == result.imported[parent]


def test_either_password_opens_it(restic: LocalRestic) -> None:
    """All keys are tried; a wrong password is told from everything else."""
    assert len(restic_snapshots(opened(restic, OTHER), Problems())) == 3
    with pytest.raises(WrongPassword):
        opened(restic, "neither")


def test_no_repository(tmp_path: Path) -> None:
    """An empty directory, and a repository of ours."""
    with pytest.raises(RepositoryNotFound):
        open_restic(LocalBackend(tmp_path, folders=OF_RESTIC), lambda: b"x")


def test_the_next_backup_goes_on_from_an_imported_snapshot(tmp_path: Path) -> None:
    """What has not changed since restic looked at it is not read again: the imported snapshot is the parent."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "file").write_bytes(incompressible(1, SIZE))
    (tmp_path / "src" / "little").write_text("x")
    restic = make_restic(tmp_path)
    time.sleep(0.1)  # what changed in the moment of a backup is read again
    restic("backup", tmp_path / "src", "--host", "here")
    repository = make_repository()
    run_import(restic, repository)

    result = back_up(repository, tmp_path / "src")

    assert (result.archived.files_unmodified, result.archived.files_changed) == (2, 0)
    assert result.stored.bytes_new < 10_000


def test_an_interrupted_import_goes_on(restic: LocalRestic, tmp_path: Path) -> None:
    """Nothing that was stored is stored again, and what the cache knows is not read again."""
    backend, calls = MemoryBackend(), 0
    repository = make_repository(backend, cache_dir=tmp_path)

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 300

    with pytest.raises(Interrupted):
        run_import(restic, repository, cancelled=stop)
    stored = sum(info.size for info in backend.list(ObjectKind.PACK))
    repository = reopen(backend, cache_dir=tmp_path)
    whole = run_import(restic, make_repository())
    result = run_import(restic, repository)

    assert len(result.imported) == 3
    assert 0 < result.read < whole.read
    assert result.stored.bytes_stored + stored < whole.stored.bytes_stored * 1.1
    trees = [snapshot.tree for snapshot in load_snapshots(repository).values()]
    assert all(restored(repository.loader, tree) for tree in trees)


def damage(restic: LocalRestic, folder: Path) -> LocalRestic:
    """A copy of the repository of which one pack of data has a flipped byte that only one snapshot needs."""
    copy = LocalRestic(folder / "copy", folder)
    shutil.copytree(restic.folder, copy.folder)
    large = [path for path in copy.files("data") if path.stat().st_size > 100_000]
    last = max(large, key=lambda path: path.stat().st_mtime_ns)
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.chmod(0o600)
    last.write_bytes(content)
    return copy


def test_a_damaged_snapshot_is_not_imported(restic: LocalRestic, tmp_path: Path) -> None:
    """It is told what is wrong; the others are imported; and when it is mended it is imported as well."""
    copy, repository, reporter = damage(restic, tmp_path), make_repository(), Problems()

    result = run_import(copy, repository, reporter=reporter)

    assert (len(result.imported), len(result.failed)) == (2, 1)
    assert any("more/" in path.decode() for path, _ in reporter.found)
    assert len(load_snapshots(repository)) == 2
    assert len(run_import(restic, repository).imported) == 1


def test_a_copy_elsewhere_mends_damage(tmp_path: Path) -> None:
    """Where the index names a blob in two packs, either will do."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "file").write_bytes(incompressible(1, SIZE))
    restic = make_restic(tmp_path)
    restic("backup", tmp_path / "src")
    first = [path for path in restic.files("data") if path.stat().st_size > SIZE // 2]
    (index,) = restic.files("index")
    index.rename(tmp_path / "aside")
    restic("backup", "--force", tmp_path / "src", "--no-cache")
    (tmp_path / "aside").rename(index)
    assert first
    for path in first:
        path.chmod(0o600)
        path.write_bytes(bytes(path.stat().st_size))
    repository, reporter = make_repository(), Problems()

    result = run_import(restic, repository, reporter=reporter)

    assert (reporter.found, len(result.imported)) == ([], 2)
    trees = [snapshot.tree for snapshot in load_snapshots(repository).values()]
    assert incompressible(1, SIZE) in restored(repository.loader, trees[0]).values()


def imported_paths(source: ResticRepository) -> set[str]:
    """The names of all that an import brings."""
    repository = make_repository()
    assert len(run_import(source, repository).imported) == 1
    (snapshot,) = load_snapshots(repository).values()
    return set(restored(repository.loader, snapshot.tree))


@pytest.fixture
def little(tmp_path: Path) -> LocalRestic:
    """A small repository."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "file").write_bytes(incompressible(1, SIZE))
    restic = make_restic(tmp_path)
    restic("backup", tmp_path / "src")
    return restic


def test_over_rest(little: LocalRestic) -> None:
    """From a server that speaks restic's own protocol."""
    with serve_rclone("restic", little.folder, environment=AS_SERVER) as served:
        source = open_restic(RestBackend(location(served.port, "/"), RestOptions()), PASSWORD.encode)
        assert any(path.endswith("/src/file") for path in imported_paths(source))


def test_over_sftp(little: LocalRestic, tmp_path: Path) -> None:
    """From a directory behind SSH."""
    with serve_ssh(tmp_path / "sshd") as sshd:
        options: SftpOptions = sshd.options
        backend = open_backend(sshd.location(little.folder), options=StorageOptions(sftp=options), folders=OF_RESTIC)
        assert any(path.endswith("/src/file") for path in imported_paths(open_restic(backend, PASSWORD.encode)))


def test_over_s3(little: LocalRestic, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From a bucket."""
    from tests.support.buckets import BUCKET, RCLONE_KEYS, key_variables

    for name, value in key_variables(tmp_path).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "s3" / BUCKET).mkdir(parents=True)
    shutil.copytree(little.folder, tmp_path / "s3" / BUCKET / "restic")
    with serve_rclone("s3", tmp_path / "s3", environment=RCLONE_KEYS) as served:
        backend = open_backend(parse_location(f"s3:{served.url}{BUCKET}/restic"), folders=OF_RESTIC)
        assert any(path.endswith("/src/file") for path in imported_paths(open_restic(backend, PASSWORD.encode)))
