from __future__ import annotations

import errno
import gc
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bfrepo.core.errors import (
    DamagedObject,
    RepositoryExists,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageObjectExists,
    StorageObjectMissing,
)
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind
from bfrepo.storage.layout import DIRECTORY_KINDS, object_path
from bfrepo.storage.local import LocalBackend
from bfrepo.storage.openfiles import OpenFiles
from tests.storage.conformance import CONFIG, PACK, BackendConformance, Place, name_of, names, stored, uploaded

NOBODY = 65534


class TestLocalBackend(BackendConformance):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        root = tmp_path / "parent" / "repo"

        def plant(path: str, data: bytes) -> None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)

        return Place(open=lambda: LocalBackend(root), plant=plant)

    @pytest.fixture
    def denied(self, tmp_path: Path) -> Iterator[Backend]:
        """The directories belong to us and forbid writing; the superuser, whom no mode stops, becomes somebody else."""
        backend = created(tmp_path / "repo")
        stored(backend, PACK, b"kept")
        directories = [path for path in (tmp_path / "repo").rglob("*") if path.is_dir()]
        for directory in directories:
            directory.chmod(0o500)
        superuser = os.geteuid() == 0
        if superuser:
            os.seteuid(NOBODY)
        try:
            yield backend
        finally:
            if superuser:
                os.seteuid(0)
            for directory in directories:
                directory.chmod(0o700)

    @pytest.fixture
    def full(self, tmp_path: Path) -> Iterator[Backend]:
        with tmpfs(tmp_path / "small", "size=1m") as root:
            yield created(root)


class tmpfs:  # noqa: N801 - reads as a function
    """A small file system in memory, mounted for the time of the block."""

    def __init__(self, path: Path, options: str) -> None:
        self._path = path
        self._options = options

    def __enter__(self) -> Path:
        if os.geteuid() != 0:
            pytest.skip("only the superuser can mount a small file system")
        self._path.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", self._options, "tmpfs", self._path], check=False).returncode:
            pytest.skip("mounting is not allowed here")
        return self._path

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", self._path], check=True)


class ShiftedClock:
    """The present, moved by some days."""

    def __init__(self, days: float) -> None:
        self._shift = timedelta(days=days)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._shift

    def monotonic(self) -> float:
        return 0.0


def created(root: Path) -> LocalBackend:
    """A new, empty repository directory."""
    backend = LocalBackend(root)
    backend.create()
    return backend


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the repository is, or will be."""
    return tmp_path / "repo"


@pytest.fixture
def backend(root: Path) -> Iterator[LocalBackend]:
    """A new, empty repository at `root`."""
    with closing(created(root)) as backend:
        yield backend


# --- the directory


def test_objects_are_private_and_read_only(backend: LocalBackend, root: Path) -> None:
    """Files can be read by their owner and changed by nobody, directories are the owner's alone (INV-3)."""
    stored(backend, PACK, b"pack")
    backend.save(CONFIG, "config", b"config")
    files = [path for path in root.rglob("*") if path.is_file()]
    directories = [root, *(path for path in root.rglob("*") if path.is_dir())]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o400] * 2
    assert [stat.S_IMODE(path.stat().st_mode) for path in directories] == [0o700] * len(directories)


def test_create_makes_every_directory(root: Path) -> None:
    """A new place has a directory for each kind, so that a missing one can be told from an empty one."""
    created(root)
    assert {path.name for path in root.iterdir()} == {"keys", "packs", "index", "snapshots", "claims", "tmp"}


def test_a_file_is_no_place(tmp_path: Path) -> None:
    """A repository is not made over a file, nor below one."""
    (tmp_path / "file").write_text("important")
    for path in (tmp_path / "file", tmp_path / "file" / "repo"):
        with pytest.raises(RepositoryExists, match="not a directory"):
            LocalBackend(path).create()
    assert (tmp_path / "file").read_text() == "important"


@pytest.mark.parametrize("kind", ObjectKind)
def test_missing_root_is_never_empty(root: Path, kind: ObjectKind) -> None:
    """A listing of a place that is not there fails: the volume may not be mounted."""
    with pytest.raises(StorageError, match="is missing") as caught:
        list(LocalBackend(root).list(kind))
    assert not isinstance(caught.value, StorageObjectMissing)
    assert str(root) in str(caught.value)


@pytest.mark.parametrize("kind", DIRECTORY_KINDS)
def test_missing_directory_is_never_empty(backend: LocalBackend, root: Path, kind: ObjectKind) -> None:
    """Without the directory of a kind every call for it fails, and none says that an object is missing."""
    (root / kind.value).rmdir()
    calls: list[Callable[[], object]] = [
        lambda: list(backend.list(kind)),
        lambda: backend.load(kind, name_of(b"x")),
        lambda: backend.read(kind, name_of(b"x"), 0, 1),
        lambda: backend.size(kind, name_of(b"x")),
        lambda: stored(backend, kind, b"x"),
        lambda: uploaded(backend, kind, b"x"),
        lambda: backend.delete(kind, name_of(b"x")),
    ]
    for call in calls:
        with pytest.raises(StorageError, match=f"the directory {kind.value} is missing") as caught:
            call()
        assert type(caught.value) is StorageError
        assert caught.value.hint


def test_config_of_no_place_is_missing(tmp_path: Path) -> None:
    """Where there is no repository, or only a file, its config is missing: that is how opening finds out."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(StorageObjectMissing, match="config is missing"):
            LocalBackend(path).load(CONFIG, "config")


def test_unreadable_pack_directory_fails_the_listing(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing that cannot look into one of the pack directories fails; it never leaves its packs out."""
    for number in range(10):
        stored(backend, PACK, bytes([number]))
    scandir = os.scandir
    seen: list[str] = []

    def refuse_the_fifth(path: str | Path) -> Any:
        seen.append(str(path))
        if len(seen) == 5:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_the_fifth)
    with pytest.raises(StorageError, match="cannot list packs"):
        list(backend.list(PACK))


def test_directories_and_dangling_links_are_no_objects(backend: LocalBackend, root: Path) -> None:
    """Only files are listed, whatever a thing is called."""
    (root / "index" / name_of(b"directory")).mkdir()
    (root / "index" / name_of(b"link")).symlink_to("nowhere")
    assert names(backend, ObjectKind.INDEX) == set()


def test_place_may_have_any_name(tmp_path: Path) -> None:
    """A path of bytes that are no text works, and is shown in printable characters."""
    with closing(created(tmp_path / "r\udcffpo")) as backend:
        name = stored(backend, PACK, b"x")
        assert backend.read(PACK, name, 0, 1) == b"x"
        assert backend.location == f"{tmp_path}/r\\xffpo"


def test_change_of_directory_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means what it meant when the backend was opened."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with closing(created(Path("repo"))) as backend:
        monkeypatch.chdir(tmp_path / "elsewhere")
        stored(backend, PACK, b"x")
    assert os.listdir(tmp_path / "elsewhere") == []


# --- the order of what reaches the disk


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[str]:
    """What is done to the disk, in order, with temporary names as `tmp/*`."""
    done: list[str] = []

    def shown(path: str | Path) -> str:
        text = os.path.relpath(path, root)
        return "tmp/*" if text.startswith("tmp/") else text

    def record(function: str, show: Callable[..., str]) -> None:
        original = getattr(os, function)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            done.append(f"{function} {show(*args)}")
            return original(*args, **kwargs)

        monkeypatch.setattr(os, function, recorded)

    record("fsync", lambda descriptor: shown(os.readlink(f"/proc/self/fd/{descriptor}")))
    for function in ("rename", "link"):
        record(function, lambda source, target: f"{shown(source)} {shown(target)}")
    for function in ("unlink", "mkdir"):
        record(function, lambda path, *_: shown(path))
    return done


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to tell what is synced")


@needs_proc
@pytest.mark.parametrize("store", [stored, uploaded])
def test_bytes_are_durable_before_the_name(
    backend: LocalBackend, steps: list[str], store: Callable[[Backend, ObjectKind, bytes], str]
) -> None:
    """fsync of the file, its name, fsync of the directory: no crash shows a name without its bytes (INV-2)."""
    name = store(backend, ObjectKind.INDEX, b"content")
    assert steps[:3] == ["fsync tmp/*", f"rename tmp/* index/{name}", "fsync index"]


@needs_proc
def test_new_pack_directory_is_durable_before_its_first_pack(backend: LocalBackend, steps: list[str]) -> None:
    """The name of a pack's directory is on the disk before the pack's own name, and is seen to once."""
    first = stored(backend, PACK, b"first")
    directory = f"packs/{first[:2]}"
    assert [step for step in steps if not step.startswith("unlink")] == [
        "fsync tmp/*",
        f"mkdir {directory}",
        "fsync packs",
        f"rename tmp/* packs/{first[:2]}/{first}",
        f"fsync {directory}",
    ]
    steps.clear()
    stored(backend, PACK, b"first")
    assert steps[:2] == ["fsync tmp/*", f"rename tmp/* packs/{first[:2]}/{first}"]


@needs_proc
def test_pack_directory_of_another_process_is_made_durable_too(
    backend: LocalBackend, root: Path, steps: list[str]
) -> None:
    """A directory that is there already may have been made a moment ago by a process that has not synced it yet."""
    name = name_of(b"pack")
    (root / "packs" / name[:2]).mkdir()
    stored(backend, PACK, b"pack")
    assert steps.index("fsync packs") < steps.index(f"rename tmp/* packs/{name[:2]}/{name}")


@needs_proc
def test_config_is_linked_never_renamed(backend: LocalBackend, steps: list[str]) -> None:
    """The config gets its name by a link, which fails where a rename would replace (INV-3)."""
    backend.save(CONFIG, "config", b"x")
    assert steps[:3] == ["fsync tmp/*", "link tmp/* config", "fsync ."]


@needs_proc
def test_deletion_is_durable(backend: LocalBackend, steps: list[str]) -> None:
    """A deletion is on the disk when it returns, also when made again after one that failed to sync."""
    name = stored(backend, ObjectKind.SNAPSHOT, b"x")
    steps.clear()
    backend.delete(ObjectKind.SNAPSHOT, name)
    backend.delete(ObjectKind.SNAPSHOT, name)
    assert steps == [f"unlink snapshots/{name}", "fsync snapshots"] * 2


@needs_proc
def test_created_place_is_durable(root: Path, steps: list[str]) -> None:
    """The directories of a new place, and its own name in its parent, are on the disk when `create` returns."""
    created(root)
    assert {"fsync .", "fsync .."} <= set(steps)
    assert steps.index("fsync .") > max(steps.index(f"mkdir {kind.value}") for kind in DIRECTORY_KINDS)


def test_file_system_without_fsync_is_used_all_the_same(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where directories cannot be synced, as on some shares, storing works."""

    def refuse(_: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", refuse)
    assert backend.load(PACK, stored(backend, PACK, b"x")) == b"x"


def test_failed_fsync_fails_the_write(backend: LocalBackend, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that did not reach the disk are never given a name."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=r"pack .*: input/output error"):
        stored(backend, PACK, b"x")
    assert names(backend, PACK) == set()
    assert os.listdir(root / "tmp") == []


# --- without hard links


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without hard links."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("no_links")
def test_config_without_hard_links(backend: LocalBackend) -> None:
    """On FAT, which has no links, the config is saved too, and still only once."""
    backend.save(CONFIG, "config", b"first")
    with pytest.raises(StorageObjectExists):
        backend.save(CONFIG, "config", b"second")
    assert backend.load(CONFIG, "config") == b"first"


@pytest.mark.usefixtures("no_links")
def test_failed_config_without_hard_links_is_removed(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the copy that stands in for the link fails, no part of a config stays."""
    fsync = os.fsync
    calls: list[int] = []

    def fail_the_second(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_the_second)
    with pytest.raises(StorageFull):
        backend.save(CONFIG, "config", b"x")
    assert names(backend, CONFIG) == set()


# --- temporary files


def leftovers(root: Path) -> list[str]:
    """The temporary files that are there."""
    return sorted(os.listdir(root / "tmp"))


def test_temporary_files_do_not_stay(backend: LocalBackend, root: Path) -> None:
    """Neither success nor abort nor a refused config leaves a temporary file."""
    uploaded(backend, PACK, b"x")
    backend.save(CONFIG, "config", b"x")
    upload = backend.upload(PACK)
    upload.write(b"x")
    assert len(leftovers(root)) == 1
    upload.abort()
    with pytest.raises(StorageObjectExists):
        backend.save(CONFIG, "config", b"x")
    assert leftovers(root) == []


@pytest.mark.parametrize(("days", "expected"), [(6.9, ["left-behind"]), (7.1, []), (-400, ["left-behind"])])
def test_old_temporary_files_are_swept(root: Path, days: float, expected: list[str]) -> None:
    """The first write of a later run removes what nobody has written to for seven days, and nothing younger."""
    created(root).close()
    (root / "tmp" / "left-behind").write_bytes(b"of a crash")
    with closing(LocalBackend(root, clock=ShiftedClock(days))) as later:
        assert leftovers(root) == ["left-behind"]
        stored(later, PACK, b"x")
    assert leftovers(root) == expected


def test_wrong_clock_costs_an_upload_and_nothing_else(root: Path) -> None:
    """If a clock far ahead sweeps an upload that is under way, it fails, and nothing of it shows."""
    with closing(created(root)) as backend, closing(LocalBackend(root, clock=ShiftedClock(days=400))) as ahead:
        upload = backend.upload(PACK)
        upload.write(b"slow")
        name = stored(ahead, PACK, b"quick")
        with pytest.raises(StorageError, match="vanished"):
            upload.commit(name_of(b"slow"))
        assert list(backend.list(PACK)) == [ObjectInfo(name, 5)]


# --- errors of the operating system


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EACCES, StorageDenied),
        (errno.EPERM, StorageDenied),
        (errno.EROFS, StorageDenied),
        (errno.EIO, StorageError),
        (errno.ESTALE, StorageError),
        (errno.EMFILE, StorageError),
    ],
)
def test_errors_of_the_system(
    backend: LocalBackend, root: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[StorageError]
) -> None:
    """Each error of the operating system is the error of ours that says whether a retry may help."""
    name = stored(backend, ObjectKind.INDEX, b"x")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    calls: dict[str, Callable[[], object]] = {
        "rename": lambda: stored(backend, ObjectKind.INDEX, b"x"),
        "unlink": lambda: backend.delete(ObjectKind.INDEX, name),
        "stat": lambda: backend.size(ObjectKind.INDEX, name),
    }
    for function, call in calls.items():
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            with pytest.raises(StorageError) as caught:
                call()
        assert type(caught.value) is expected
        assert f"index {name[:8]} in {root}: " in str(caught.value)


@pytest.mark.root
def test_read_only_volume(tmp_path: Path) -> None:
    """On a volume that is mounted read-only reading works and every change is StorageDenied."""
    with tmpfs(tmp_path / "volume", "size=1m") as root, closing(created(root)) as backend:
        name = stored(backend, PACK, b"content")
        subprocess.run(["mount", "-o", "remount,ro", root], check=True)
        calls: list[Callable[[], object]] = [
            lambda: stored(backend, PACK, b"x"),
            lambda: backend.upload(PACK),
            lambda: backend.delete(PACK, name),
        ]
        for call in calls:
            with pytest.raises(StorageDenied):
                call()
        assert backend.read(PACK, name, 0, 7) == b"content"
        backend.close()


# --- reading


def path_of(root: Path, name: str) -> Path:
    """The file of a pack."""
    return root / object_path(PACK, name)


def test_object_that_was_cut_is_damaged(backend: LocalBackend, root: Path) -> None:
    """A pack that lost its end is damage for ranges behind it, also while it is open, and whole for those before."""
    name = stored(backend, PACK, bytes(100))
    assert backend.read(PACK, name, 0, 100) == bytes(100)
    path_of(root, name).chmod(0o600)
    os.truncate(path_of(root, name), 50)
    assert backend.read(PACK, name, 0, 50) == bytes(50)
    with pytest.raises(DamagedObject, match=f"pack {name[:8]}"):
        backend.read(PACK, name, 10, 90)
    with pytest.raises(DamagedObject, match=f"pack {name[:8]}"):
        backend.read_into(PACK, name, 10, memoryview(bytearray(90)))


def test_object_stored_again_is_read_anew(backend: LocalBackend, root: Path) -> None:
    """A whole copy stored over a damaged one is what is read from then on."""
    name = stored(backend, PACK, b"content")
    path_of(root, name).chmod(0o600)
    path_of(root, name).write_bytes(b"c?ntent")
    assert backend.read(PACK, name, 0, 7) == b"c?ntent"
    stored(backend, PACK, b"content")
    assert backend.read(PACK, name, 0, 7) == b"content"


def test_short_reads_are_continued(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that returns less than was asked for is asked again for the rest."""
    name = stored(backend, PACK, bytes(range(100)))
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 7), offset))
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:7]], offset))
    buffer = bytearray(60)
    backend.read_into(PACK, name, 20, memoryview(buffer))
    assert backend.read(PACK, name, 20, 60) == bytes(range(20, 80))
    assert bytes(buffer) == bytes(range(20, 80))


def test_failed_descriptor_is_not_used_again(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a read that failed, as with a stale handle of a network share, a retry opens the file anew."""
    name = stored(backend, PACK, b"content")
    backend.read(PACK, name, 0, 1)
    opened: list[object] = []
    original = os.open

    def count(*args: Any, **kwargs: Any) -> int:
        opened.append(args)
        return original(*args, **kwargs)

    def stale(*_: object) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, "open", count)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", stale)
        with pytest.raises(StorageError, match="stale"):
            backend.read(PACK, name, 0, 7)
    assert opened == []
    assert backend.read(PACK, name, 0, 7) == b"content"
    assert len(opened) == 1


def open_files() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


@needs_proc
def test_open_packs_are_bounded(backend: LocalBackend) -> None:
    """However many packs are read, few stay open, and none after `close`."""
    packs = {stored(backend, PACK, b"%d" % number): b"%d" % number for number in range(100)}
    before = open_files()
    for name, data in packs.items():
        assert backend.read(PACK, name, 0, len(data)) == data
    assert 0 < open_files() - before <= 32
    backend.close()
    assert open_files() == before


@needs_proc
def test_deleted_pack_is_not_kept_open(backend: LocalBackend) -> None:
    """The space of a deleted pack is free at once: no descriptor of ours holds it."""
    name = stored(backend, PACK, b"x")
    before = open_files()
    backend.read(PACK, name, 0, 1)
    backend.delete(PACK, name)
    assert open_files() == before


@needs_proc
def test_descriptor_in_use_is_never_closed(tmp_path: Path) -> None:
    """A file that is forgotten or pushed out while somebody reads it is closed by its last reader, not before."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    files = OpenFiles(limit=1)
    before = open_files()
    with files.borrow(str(tmp_path / "a")) as first, files.borrow(str(tmp_path / "a")) as second:
        with files.borrow(str(tmp_path / "b")):
            assert first is second
            assert os.pread(first.descriptor, 9, 0) == b"a"
        files.close()
        assert os.pread(first.descriptor, 9, 0) == b"a"
    assert open_files() == before


@needs_proc
def test_nobody_has_to_close(tmp_path: Path) -> None:
    """Files that were kept open are closed with the last who has them; a program may make backends without end."""
    (tmp_path / "a").write_text("a")
    gc.collect()  # what others have left
    before = open_files()
    files = OpenFiles(limit=1)
    with files.borrow(str(tmp_path / "a")):
        pass
    assert open_files() == before + 1
    del files
    gc.collect()
    assert open_files() == before


def test_copied_repository_is_the_same(backend: LocalBackend, root: Path, tmp_path: Path) -> None:
    """A repository is nothing but its files: a copy of the directory is a repository."""
    name = stored(backend, PACK, b"content")
    shutil.copytree(root, tmp_path / "copy")
    with closing(LocalBackend(tmp_path / "copy")) as copy:
        assert copy.load(PACK, name) == b"content"
