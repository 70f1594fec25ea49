"""Files and archives out of snapshots: what the usual programs make of them."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bfrepo.core.errors import DamagedObject, Interrupted, MissingBlob, TargetError, UsageError
from bfrepo.core.protocols import BlobPlace
from bfrepo.data.selection import SnapshotFilter
from bfrepo.exporter.sinks import Sink, open_file_sink
from bfrepo.operations.dump import Archive, DumpResult, archive_for, dump, find_dump
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from tests.support.backups import incompressible, never, run_backup
from tests.support.directories import Problems, Seen, back_up, census, removable
from tests.support.repositories import make_repository
from tests.support.restoring import file_content, restored_nodes
from tests.support.sinks import MemorySink
from tests.support.sources import Item, folder, sparse
from tests.support.ugly import ASPECTS, TAR_LOSES


class Warnings(Problems):
    """A reporter that remembers warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[tuple[bytes, str]] = []

    def warn(self, path: bytes, message: str) -> None:
        self.warnings.append((path, message))


def dumped(
    repository: Repository,
    path: str | Path,
    archive: Archive | None = None,
    *,
    reporter: Warnings | None = None,
    cancelled: Callable[[], bool] = never,
    sink: MemorySink | None = None,
) -> tuple[bytes, DumpResult]:
    """What a path of the latest snapshot is written as."""
    reporter, sink = reporter or Warnings(), sink or MemorySink()
    place = find_dump(repository, "latest", os.fsencode(path).strip(b"/"), SnapshotFilter(), reporter)
    result = dump(repository, place, archive_for(place.node, archive), sink, reporter, cancelled)
    return bytes(sink.data), result


def extract(archive: bytes, target: Path) -> None:
    """What GNU tar makes of an archive, with everything it can keep."""
    target.mkdir()
    done = subprocess.run(
        [
            "tar",
            "-xp",
            "--xattrs",
            "--xattrs-include=*",
            "--acls",
            "--numeric-owner",
            "--warning=no-timestamp",
            "-C",
            target,
        ],
        input=archive,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr.decode(errors="replace")) == (0, "")


def comparable(seen: Mapping[bytes, Seen]) -> dict[bytes, Seen]:
    """A census without what a tar does not have: sockets, inode flags, the directory itself, what is data and what is
    hole in files made of zeros.
    """
    sockets = {path for path, each in seen.items() if each.kind == 0o140000}
    return {
        path: replace(each, flags=0, data=() if b"zeros-" in path else each.data)
        for path, each in seen.items()
        if path != b"." and path not in sockets
    }


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """Where the tree is made. It and what comes back of it, in "out", can be removed afterwards."""
    top = tmp_path / "src"
    top.mkdir()
    with removable(top, tmp_path / "out"):
        yield top


@pytest.mark.parametrize("aspect", [each for each in ASPECTS if each not in TAR_LOSES])
def test_gnu_tar_extracts_what_was_backed_up(aspect: str, source: Path, tmp_path: Path) -> None:
    """Each ugly aspect comes back through a tar archive and GNU tar."""
    try:
        ASPECTS[aspect](source)
    except OSError as error:
        pytest.skip(f"not possible here: {error}")
    before = census(source)
    repository = make_repository()
    back_up(repository, source)

    archive, _ = dumped(repository, source)
    extract(archive, tmp_path / "out")

    assert comparable(census(tmp_path / "out")) == comparable(before)


def test_python_reads_every_name(source: Path) -> None:
    """Another reader finds the same names, types and targets, whatever bytes they are made of."""
    for aspect in ("names", "symlinks", "long_path"):
        (source / aspect).mkdir()
        ASPECTS[aspect](source / aspect)
    repository = make_repository()
    back_up(repository, source)

    archive, _ = dumped(repository, source)

    with tarfile.open(fileobj=io.BytesIO(archive), encoding="utf-8", errors="surrogateescape") as opened:
        found = {os.fsencode(entry.name): os.fsencode(entry.linkname) for entry in opened}
    assert found == {path[2:]: seen.target for path, seen in census(source).items() if path != b"."}


def test_holes_take_no_room(source: Path) -> None:
    """A terabyte that is nearly all hole is a small archive."""
    ASPECTS["terabyte"](source)
    repository = make_repository()
    back_up(repository, source)

    archive, result = dumped(repository, source)

    assert result.size == 1 << 40
    assert len(archive) < 1 << 18


@pytest.mark.parametrize(
    "holes", [[(100, 5000)], [(0, 511)], [(0, 1), (1, 9000)], [(511, 2), (1000, 7000)], [(9000, 1000)]]
)
def test_holes_that_are_not_of_whole_blocks(holes: list[tuple[int, int]], tmp_path: Path) -> None:
    """Wherever a hole begins and ends, and however large it is, the file comes out whole."""
    content = bytearray(incompressible(1, 10_000))
    for start, length in holes:
        content[start : start + length] = bytes(length)
    repository = make_repository()
    run_backup(repository, {"/d/f": sparse(bytes(content), *holes), "/d/g": b"behind it"})

    archive, _ = dumped(repository, "/d")
    extract(archive, tmp_path / "out")

    assert (tmp_path / "out" / "f").read_bytes() == content
    assert (tmp_path / "out" / "g").read_bytes() == b"behind it"
    assert dumped(repository, "/d/f")[0] == content


def test_names_start_in_the_directory(tmp_path: Path) -> None:
    """What is written is the contents of the directory, as a restore writes it; a single entry is itself."""
    repository = make_repository()
    run_backup(repository, {"/a/b/c": b"1", "/a/b/d/e": b"2"})

    for path, expected in (
        ("", ["a", "a/b", "a/b/c", "a/b/d", "a/b/d/e"]),
        ("/a/b", ["c", "d", "d/e"]),
        ("/a/b/c", ["c"]),
    ):
        archive, _ = dumped(repository, path, "tar")
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            assert opened.getnames() == expected


def test_one_file_is_its_content() -> None:
    """Nothing is added to it, and an empty one is nothing."""
    content = incompressible(1, 300_000)
    repository = make_repository()
    run_backup(repository, {"/f": content, "/empty": b""})

    assert dumped(repository, "/f")[0] == content
    assert dumped(repository, "/empty")[0] == b""


def test_what_has_no_content() -> None:
    """A symlink, a device or a fifo is nothing to write, but it can be kept in an archive."""
    repository = make_repository()
    run_backup(repository, {"/link": Item(type="symlink", target=b"there")})

    with pytest.raises(UsageError, match="symlink has no content"):
        dumped(repository, "/link")
    archive, _ = dumped(repository, "/link", "tar")
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        assert [(entry.name, entry.linkname) for entry in opened] == [("link", "there")]


def test_what_tar_cannot_hold() -> None:
    """A socket is left out with a warning, inode flags are counted."""
    repository = make_repository()
    run_backup(repository, {"/d/s": Item(type="socket"), "/d/f": b"1"})
    reporter = Warnings()

    _, result = dumped(repository, "/d", reporter=reporter)

    assert reporter.warnings == [(b"/s", "left out: a tar archive cannot hold a socket")]
    assert (result.files, result.others, result.left_out, result.lost) == (1, 0, 1, {})


# ---- what cannot be read


def many_files() -> dict[str, Item | bytes]:
    """Files of several frames."""
    return {f"/d/{number:03}": incompressible(number, 40_000) for number in range(100)}


def lose(repository: Repository, monkeypatch: pytest.MonkeyPatch, content: bytes) -> bytes:
    """Damage the last blob of a file, so that it is found out when it is read; its ID."""
    victim = last_blob(repository, content)
    hashed = repository.loader._hash
    monkeypatch.setattr(repository.loader, "_hash", lambda data: b"" if hashed(data) == victim else hashed(data))
    return victim


def last_blob(repository: Repository, content: bytes) -> bytes:
    """The ID of the last blob of a file with this content."""
    (tree,) = (each.tree for each in load_snapshots(repository).values())
    nodes = restored_nodes(repository.loader, tree).values()
    return next(
        node.content[-32:] for node in nodes if node.type == "file" and file_content(repository.loader, node) == content
    )


@pytest.mark.parametrize("archive", ["tar", "zip"])
def test_a_damaged_blob(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names file and blob; a reader of the archive fails, and has only right bytes until then."""
    files = many_files()
    repository = make_repository()
    run_backup(repository, files)
    victim = lose(repository, monkeypatch, incompressible(50, 40_000))
    sink = MemorySink()

    with pytest.raises(DamagedObject, match=rf"^/050: blob {victim[:4].hex()} in pack"):
        dumped(repository, "/d", archive, sink=sink)

    assert not reads_whole(archive, bytes(sink.data), tmp_path)
    for path in (tmp_path / "out").glob("*"):
        whole = files[f"/d/{path.name}"]
        assert isinstance(whole, bytes)
        assert whole.startswith(path.read_bytes())
        assert path.name <= "050"


def reads_whole(archive: Archive, data: bytes, folder: Path) -> bool:
    """Whether the usual program is content with an archive; what it extracts is in "out"."""
    (folder / "archive").write_bytes(data)
    (folder / "out").mkdir()
    line = {"tar": ["tar", "-xf", "../archive"], "zip": ["unzip", "-q", "../archive"]}[archive]
    return subprocess.run(line, cwd=folder / "out", capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("archive", ["tar", "zip"])
def test_a_stop_between_two_files(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that was interrupted is not taken for a whole one, wherever that happened."""
    monkeypatch.setattr("bfrepo.exporter.content._BATCH", 100_000)
    repository = make_repository()
    run_backup(repository, many_files())
    sink = MemorySink()

    with pytest.raises(Interrupted):
        dumped(repository, "/d", archive, cancelled=lambda: len(sink.data) > 100_000, sink=sink)

    assert not reads_whole(archive, bytes(sink.data), tmp_path)


def test_a_missing_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the index does not name is found out before the file is begun; the archive still has a broken end."""
    repository = make_repository()
    run_backup(repository, {"/d/a": b"1", "/d/b": b"2"})
    victim, place = repository.blob_hash(b"2"), repository.loader.place

    def place_or_miss(blob_id: bytes) -> BlobPlace:
        if blob_id == victim:
            raise MissingBlob("it is gone")
        return place(blob_id)

    monkeypatch.setattr(repository.loader, "place", place_or_miss)
    sink = MemorySink()
    with pytest.raises(DamagedObject, match=r"^/b: it is gone$"):
        dumped(repository, "/d", sink=sink)

    assert not reads_whole("tar", bytes(sink.data), tmp_path)
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["a"]


# ---- zip


def test_zip(tmp_path: Path) -> None:
    """Content, modes, times, symlinks, and names that are text, as unzip sees them."""
    content = incompressible(1, 300_000)
    files: dict[str, Item | bytes] = {
        "/d/f": Item(content=content, mode=0o750),
        "/d/ü/g": b"",
        "/d/ü": folder(mode=0o711, mtime_ns=1_500_000_001 * 10**9),
        "/d/link": Item(type="symlink", target=b"f", mode=0o777),
        "/d/sparse": sparse(bytes(2_000_000) + b"x", (0, 2_000_000)),
    }
    repository = make_repository()
    run_backup(repository, files)

    archive, result = dumped(repository, "/d", "zip")
    assert reads_whole("zip", archive, tmp_path)

    out = tmp_path / "out"
    assert (out / "f").read_bytes() == content
    assert (out / "sparse").read_bytes() == bytes(2_000_000) + b"x"
    assert ((out / "f").stat().st_mode & 0o777, (out / "f").stat().st_mtime) == (0o750, 1_600_000_000)
    assert ((out / "ü").stat().st_mode & 0o777, (out / "ü" / "g").read_bytes()) == (0o711, b"")
    assert os.readlink(out / "link") == "f"
    assert (result.files, result.dirs, result.others, result.lost) == (3, 1, 1, {})
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert opened.testzip() is None


def test_what_zip_cannot_hold(tmp_path: Path) -> None:
    """Devices and the like are left out with a warning; attributes, links and names that are lost are counted."""
    repository = make_repository()
    linked: dict[str, Any] = {"inode": 9, "links": 2}
    run_backup(
        repository,
        {
            "/d/fifo": Item(type="fifo"),
            "/d/null": Item(type="chardev", rdev=259),
            "/d/a": Item(content=b"1", xattrs=((b"user.a", b"b"),)),
            "/d/b": Item(content=b"2", **linked),
            "/d/c": Item(content=b"2", **linked),
            "/d/\udcff": b"3",
            "/d/\\xff": b"4",
        },
    )
    reporter = Warnings()

    archive, result = dumped(repository, "/d", "zip", reporter=reporter)

    assert [path for path, _ in reporter.warnings] == [b"/fifo", b"/null", b"/\xff"]
    assert result.lost == {"extended attributes": 1, "hard links": 1}
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == {
            "a": b"1",
            "b": b"2",
            "c": b"2",
            "\\xff": b"4",
        }


@pytest.mark.parametrize("seconds", [-(1 << 33), -1, 0, 1 << 31, 1 << 33])
def test_times_that_zip_does_not_know(seconds: int) -> None:
    """They become the nearest that it knows."""
    repository = make_repository()
    run_backup(repository, {"/f": Item(content=b"1", mtime_ns=seconds * 10**9)})

    archive, _ = dumped(repository, "/", "zip")

    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert 1980 <= opened.infolist()[0].date_time[0] <= 2107


# ---- to a file


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    """Before that there is what was there before, afterwards a file for its owner alone; nothing else stays behind."""
    target = tmp_path / "out"
    target.write_bytes(b"before")

    with open_file_sink(bytes(target)) as sink:
        sink.write(b"x" * 400_000)
        sink.zeros(1 << 30)
        sink.write(b"y")
        assert target.read_bytes() == b"before"

    now = target.stat()
    assert (now.st_size, now.st_mode & 0o777) == (400_001 + (1 << 30), 0o600)
    assert now.st_blocks * 512 < 10 << 20
    assert os.listdir(tmp_path) == ["out"]


def write_and_fail(sink: Sink) -> None:
    """As a dump that meets a damaged blob."""
    sink.write(b"x" * 1_000_000)
    raise DamagedObject("it is broken")


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    """Neither a new one nor a part of one; what was there before stays."""
    target = tmp_path / "out"
    for before in (None, b"before"):
        if before is not None:
            target.write_bytes(before)
        with pytest.raises(DamagedObject), open_file_sink(bytes(target)) as sink:
            write_and_fail(sink)
        assert [each.read_bytes() for each in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_file_behind_a_symlink(tmp_path: Path) -> None:
    """The file that the symlink names is replaced, not the symlink."""
    (tmp_path / "real").write_bytes(b"before")
    (tmp_path / "link").symlink_to("real")

    with open_file_sink(bytes(tmp_path / "link")) as sink:
        sink.write(b"after")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"after"


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    """What is no regular file is not replaced by one."""
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with open_file_sink(bytes(tmp_path / "fifo")) as sink:
        sink.write(b"x")
        sink.zeros(5)
    assert os.read(reader, 100) == b"x" + bytes(5)
    os.close(reader)


@pytest.mark.parametrize("name", ["missing/out", "."])
def test_a_place_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    """It is named."""
    with pytest.raises(TargetError, match=str(tmp_path)), open_file_sink(os.fsencode(tmp_path / name)):
        pass
