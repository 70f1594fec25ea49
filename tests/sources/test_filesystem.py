"""The machine's own files as a source: real trees with all that can be in them, and what goes wrong meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bfrepo.core.errors import InvalidValue, SourceError
from bfrepo.data.node import Node
from bfrepo.localfs.metadata import Owners
from bfrepo.sources import base
from bfrepo.sources.exclude import ExcludeRules
from bfrepo.sources.filesystem import FileSystemSource
from tests.support.listing import as_nobody, entry_of, list_files, read_all


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Path]:
    """A directory that everybody can reach, which those of pytest are not."""
    path = Path(tempfile.mkdtemp(prefix="bf-public-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def make_source(*paths: bytes) -> FileSystemSource:
    """A source that never meets an error."""

    def on_error(path: bytes, error: OSError) -> None:
        raise error

    return FileSystemSource(
        paths, rules=ExcludeRules(), one_file_system=False, with_atime=False, owners=Owners(), on_error=on_error
    )


def raw(path: Path, name: bytes = b"") -> bytes:
    """A path as bytes, with a raw name at its end."""
    return os.path.join(os.fsencode(path), name) if name else os.fsencode(path)


def node_by_python(path: bytes) -> dict[str, object]:
    """What os.lstat tells of a path, under the names a node has."""
    found = os.lstat(path)
    linked = found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode)
    return {
        "name": os.path.basename(path),
        "mode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
        "device": found.st_dev if linked else 0,
        "links": found.st_nlink if linked else 1,
        "size": found.st_size if stat.S_ISREG(found.st_mode) else 0,
        "rdev": found.st_rdev,
        "target": os.readlink(path) if stat.S_ISLNK(found.st_mode) else b"",
    }


def same_facts(node: Node) -> dict[str, object]:
    """The same out of a node."""
    names = ("name", "mode", "uid", "gid", "mtime_ns", "ctime_ns", "inode", "device", "links", "size", "rdev", "target")
    return {name: getattr(node, name) for name in names}


def make_every_kind(top: Path) -> None:
    """A tree with every kind of file that needs no superuser, ugly names, holes and attributes."""
    for name in (b"plain", b"\xff\xfe not utf-8", b"new\nline", b" ", b"-rf", b"\xc3\xa9", b"a" * 255):
        with open(raw(top, name), "wb") as file:
            file.write(name * 3)
    (top / "empty").touch()
    (top / "dir").mkdir(mode=0o2750)
    (top / "dir/inner").write_bytes(os.urandom(300_000))
    (top / "link").symlink_to("nowhere")
    os.symlink(b"\xff/../x", raw(top, b"ugly link"))
    os.link(top / "plain", top / "dir/second name")
    os.mkfifo(top / "fifo")
    with open(top / "sparse", "wb") as holes:
        holes.truncate(5 << 20)
        holes.seek(1 << 20)
        holes.write(b"data")
    os.setxattr(top / "plain", "user.test", b"\0\xff")
    os.setxattr(top / "dir", "user.dir", b"1")
    fd = os.open(top, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{fd}/socket")
    os.close(fd)


def test_a_tree_with_every_kind_of_file(tmp_path: Path) -> None:
    """All metadata is what lstat and the attributes say, all content is what reading gives, nothing is missing."""
    make_every_kind(tmp_path)
    everything = [os.path.join(top, name) for top, dirs, files in os.walk(raw(tmp_path)) for name in dirs + files]

    listing = list_files(tmp_path)

    assert listing.errors == []
    below = {path: node for path, node in listing.nodes.items() if path.startswith(raw(tmp_path) + b"/")}
    assert {path: same_facts(node) for path, node in below.items()} == {
        path: node_by_python(path) for path in everything
    }
    assert listing.contents == {
        path: Path(os.fsdecode(path)).read_bytes() for path in everything if stat.S_ISREG(os.lstat(path).st_mode)
    }
    assert listing.nodes[raw(tmp_path / "plain")].xattrs == [(b"user.test", b"\0\xff")]
    assert listing.nodes[raw(tmp_path / "dir")].xattrs == [(b"user.dir", b"1")]


def test_kinds_are_told_apart(tmp_path: Path) -> None:
    """Each entry has the type it is."""
    make_every_kind(tmp_path)
    nodes = list_files(tmp_path).nodes

    assert {name: nodes[raw(tmp_path / name)].type for name in ("plain", "dir", "link", "fifo", "socket")} == {
        "plain": "file",
        "dir": "dir",
        "link": "symlink",
        "fifo": "fifo",
        "socket": "socket",
    }


@pytest.mark.root
def test_devices_are_metadata(tmp_path: Path) -> None:
    """A device is stored with its number and never opened."""
    try:
        os.mknod(tmp_path / "null", 0o640 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(tmp_path / "disk", 0o660 | stat.S_IFBLK, os.makedev(7, 300))
    except PermissionError:
        pytest.skip("devices cannot be made here")
    nodes = list_files(tmp_path).nodes

    assert [(nodes[raw(tmp_path / name)].type, nodes[raw(tmp_path / name)].rdev) for name in ("null", "disk")] == [
        ("chardev", os.makedev(1, 3)),
        ("blockdev", os.makedev(7, 300)),
    ]


@pytest.mark.root
def test_attributes_of_a_symlink(tmp_path: Path) -> None:
    """A symlink's own attributes are in its node, those of its target are not."""
    (tmp_path / "a").touch()
    os.setxattr(tmp_path / "a", "trusted.target", b"1")
    (tmp_path / "link").symlink_to("a")
    os.setxattr(tmp_path / "link", "trusted.link", b"2", follow_symlinks=False)

    assert list_files(tmp_path).nodes[raw(tmp_path / "link")].xattrs == [(b"trusted.link", b"2")]


def test_directories_on_the_way_have_their_own_metadata(tmp_path: Path) -> None:
    """The tree mirrors absolute paths, and lists only what was asked for."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    (tmp_path / "a/other").touch()
    (tmp_path / "a").chmod(0o710)
    os.setxattr(tmp_path / "a", "user.a", b"1")

    listing = list_files(tmp_path / "a/b")

    assert listing.under(raw(tmp_path)) == ["a/", "a/b/", "a/b/file"]
    assert same_facts(listing.nodes[raw(tmp_path / "a")]) == node_by_python(raw(tmp_path / "a"))
    assert listing.nodes[raw(tmp_path / "a")].xattrs == [(b"user.a", b"1")]
    assert next(iter(listing.nodes)) == b"/" + raw(tmp_path).split(b"/")[1]


def test_the_root_of_the_tree_has_no_node() -> None:
    """The root is only there to hold the rest."""
    root = make_source(b"/").open_root()

    assert (root.path, root.node()) == (b"/", None)
    root.close()


def test_the_whole_file_system() -> None:
    """Backing up / gives what / holds, without a doubled slash in its paths."""
    root = make_source(b"/").open_root()
    entries = root.entries()
    root.close()

    assert [entry.name for entry in entries] == sorted(os.listdir(b"/"))
    assert [entry.path for entry in entries] == [b"/" + name for name in sorted(os.listdir(b"/"))]


def test_overlapping_paths_are_merged(tmp_path: Path) -> None:
    """Paths that repeat, lie in one another or share parents give one tree with everything once."""
    for name in ("a/x/1", "a/y/2", "b/3", "c/4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    listing = list_files(tmp_path / "a/x/1", tmp_path / "a/x", tmp_path / "b/", tmp_path / "b", tmp_path / "a")

    assert listing.under(raw(tmp_path)) == ["a/", "a/x/", "a/x/1", "a/y/", "a/y/2", "b/", "b/3"]


def test_relative_paths_count_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths are made absolute, dots are taken away, and the result is known."""
    (tmp_path / "d").mkdir()
    (tmp_path / "a").touch()
    monkeypatch.chdir(tmp_path / "d")

    source = make_source(b"../a", b".", b"./../a")

    assert source.paths == (raw(tmp_path / "a"), raw(tmp_path / "d"))
    assert list_files("../a", ".").under(raw(tmp_path)) == ["a", "d/"]


def test_a_path_that_is_a_symlink_is_that_symlink(tmp_path: Path) -> None:
    """What was named is stored, not what it leads to."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").touch()
    (tmp_path / "link").symlink_to("d")

    listing = list_files(tmp_path / "link")

    assert listing.under(raw(tmp_path)) == ["link"]
    assert listing.nodes[raw(tmp_path / "link")].target == b"d"


def test_a_path_through_a_symlink_is_stored_under_its_name(tmp_path: Path) -> None:
    """A symlink on the way to a path is stored as the directory that it leads to."""
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "d/file").write_bytes(b"hello")
    (tmp_path / "d/other").touch()
    (tmp_path / "link").symlink_to("d")

    listing = list_files(tmp_path / "link/file")

    assert listing.under(raw(tmp_path)) == ["link/", "link/file"]
    assert listing.contents == {raw(tmp_path / "link/file"): b"hello"}
    assert listing.nodes[raw(tmp_path / "link")].inode == os.stat(tmp_path / "d").st_ino


def test_a_path_through_a_symlink_inside_another_path(tmp_path: Path) -> None:
    """The same where the symlink lies in a directory that is backed up as a whole."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").touch()
    (tmp_path / "d/other").touch()
    (tmp_path / "link").symlink_to("d")

    listing = list_files(tmp_path, tmp_path / "link/file")

    assert listing.under(raw(tmp_path)) == ["d/", "d/file", "d/other", "link/", "link/file"]


def test_missing_paths_are_reported(tmp_path: Path) -> None:
    """What does not exist is reported, and the rest is backed up."""
    (tmp_path / "a").touch()

    listing = list_files(tmp_path / "a", tmp_path / "missing", tmp_path / "a/b")

    assert listing.under(raw(tmp_path)) == ["a"]
    assert listing.errors == [
        (raw(tmp_path / "a/b"), errno.ENOTDIR),
        (raw(tmp_path / "missing"), errno.ENOENT),
    ]


def test_nothing_to_back_up_is_an_error(tmp_path: Path) -> None:
    """When no path exists there is no backup."""
    with pytest.raises(SourceError, match="none of the paths to back up can be found"):
        list_files(tmp_path / "missing", tmp_path / "lost")


def test_everything_excluded_is_an_error(tmp_path: Path) -> None:
    """A backup of nothing is never what somebody meant."""
    (tmp_path / "a.o").touch()
    rules = ExcludeRules.from_options(environment={}, exclude=["*.o"])

    with pytest.raises(SourceError, match="every path to back up is excluded"):
        list_files(tmp_path / "a.o", rules=rules)


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_is_no_path_is_refused(path: str) -> None:
    """An empty path is not the working directory."""
    with pytest.raises(InvalidValue):
        list_files(path)


def test_directories_that_lead_to_a_path_are_not_tested(tmp_path: Path) -> None:
    """Naming what lies in an excluded directory asks for it, and for nothing else in there."""
    for name in ("out/wanted/a", "out/other", "out/wanted/b.o", "in"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    rules = ExcludeRules.from_options(environment={}, exclude=["out", "*.o"])

    assert list_files(tmp_path / "out/wanted", rules=rules).under(raw(tmp_path)) == [
        *("out/", "out/wanted/", "out/wanted/a"),
    ]
    assert list_files(tmp_path, tmp_path / "out/wanted", rules=rules).under(raw(tmp_path)) == [
        *("in", "out/", "out/wanted/", "out/wanted/a"),
    ]


def test_paths_that_are_excluded_themselves_stay_out(tmp_path: Path) -> None:
    """A pattern counts for a path that was named too, as when a shell expanded it."""
    (tmp_path / "a").touch()
    (tmp_path / "lost+found").mkdir()
    rules = ExcludeRules.from_options(environment={}, exclude=["lost+found"])

    listing = list_files(tmp_path / "a", tmp_path / "lost+found", rules=rules)

    assert (listing.under(raw(tmp_path)), listing.errors) == (["a"], [])


def test_two_hundred_directories_deep(tmp_path: Path) -> None:
    """Depth is no limit, and going back up every descriptor is given back."""
    before = len(os.listdir("/proc/self/fd"))
    deepest = tmp_path.joinpath(*["d"] * 200)
    deepest.mkdir(parents=True)
    (deepest / "file").write_bytes(b"deep")

    listing = list_files(tmp_path)

    assert (listing.errors, listing.contents) == ([], {raw(deepest / "file"): b"deep"})
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_path_of_9000_bytes(tmp_path: Path) -> None:
    """A path beyond PATH_MAX is read like any other, below a path that was asked for and as one."""
    names = [b"%03d" % number + b"x" * 197 for number in range(45)]
    fd = os.open(tmp_path, os.O_PATH)
    for name in names:
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_PATH, dir_fd=fd)
        os.close(fd)
        fd = below
    file = os.open(b"file", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.write(file, b"far away")
    os.close(file)
    os.symlink(b"target", b"link", dir_fd=fd)
    os.close(fd)
    deepest = b"/".join([raw(tmp_path), *names])

    for listing in (list_files(tmp_path), list_files(deepest)):
        assert (listing.errors, listing.contents) == ([], {deepest + b"/file": b"far away"})
        assert listing.nodes[deepest + b"/link"].target == b"target"


def test_twenty_thousand_entries(tmp_path: Path) -> None:
    """A large directory comes whole and in order."""
    names = [b"%05d" % number for number in range(20_000)]
    for name in names:
        os.mknod(raw(tmp_path, name))
    directory = entry_of([raw(tmp_path)], raw(tmp_path)).open_directory()

    assert [entry.name for entry in directory.entries()] == names
    directory.close()


@pytest.mark.parametrize(
    "replace",
    [
        lambda path: None,
        lambda path: path.symlink_to("other"),
        lambda path: os.mkfifo(path),
        lambda path: path.mkdir(),
    ],
    ids=["gone", "symlink", "fifo", "directory"],
)
def test_a_file_that_is_something_else_by_now(tmp_path: Path, replace: Callable[[Path], None]) -> None:
    """Between listing and opening a file may vanish or be replaced: that is an OSError, at once."""
    (tmp_path / "other").write_bytes(b"secret")
    (tmp_path / "a").touch()
    entry = entry_of([raw(tmp_path)], raw(tmp_path / "a"))
    (tmp_path / "a").unlink()
    replace(tmp_path / "a")

    with pytest.raises(OSError, match=r"No such file|no longer a regular file"):
        entry.open_file()


@pytest.mark.parametrize("replacement", ["gone", "symlink", "file"])
def test_a_directory_that_is_something_else_by_now(tmp_path: Path, replacement: str) -> None:
    """The same for a directory; nobody is led out of the tree."""
    (tmp_path / "other").mkdir()
    (tmp_path / "d").mkdir()
    entry = entry_of([raw(tmp_path)], raw(tmp_path / "d"))
    (tmp_path / "d").rmdir()
    if replacement == "symlink":
        (tmp_path / "d").symlink_to("other")
    elif replacement == "file":
        (tmp_path / "d").touch()

    with pytest.raises(OSError, match=r"No such file|Not a directory"):
        entry.open_directory()


def test_a_symlink_that_is_gone_by_now(tmp_path: Path) -> None:
    """A node that cannot be made is an OSError."""
    (tmp_path / "link").symlink_to("x")
    entry = entry_of([raw(tmp_path)], raw(tmp_path / "link"))
    (tmp_path / "link").unlink()

    with pytest.raises(FileNotFoundError):
        entry.node()


def test_a_path_that_vanishes_before_its_directory_is_listed(tmp_path: Path) -> None:
    """A path that was there at first is reported when it is not any more."""
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    errors = []
    source = FileSystemSource(
        [raw(tmp_path / "a"), raw(tmp_path / "b")],
        rules=ExcludeRules(),
        one_file_system=False,
        with_atime=False,
        owners=Owners(),
        on_error=lambda path, error: errors.append((path, error.errno)),
    )
    directory: base.Directory = source.open_root()
    for name in raw(tmp_path).split(b"/")[1:]:
        (entry,) = [each for each in directory.entries() if each.name == name]
        directory = entry.open_directory()
    (tmp_path / "a").unlink()

    assert [entry.name for entry in directory.entries()] == [b"b"]
    assert errors == [(raw(tmp_path / "a"), errno.ENOENT)]


@pytest.mark.root
def test_what_may_not_be_read_is_an_error_for_that_alone(public: Path) -> None:
    """Unreadable files and directories are errors, and everything else is backed up."""
    for name in ("file", "secret", "closed/a", "locked/a"):
        (public / name).parent.mkdir(exist_ok=True)
        (public / name).touch()
    (public / "secret").chmod(0)
    (public / "closed").chmod(0)
    (public / "locked").chmod(0o744)
    with as_nobody():
        listing = list_files(public)

    assert listing.under(raw(public)) == ["file", "locked/"]
    assert listing.errors == [
        (raw(public / "closed"), errno.EACCES),
        (raw(public / "locked/a"), errno.EACCES),
        (raw(public / "secret"), errno.EACCES),
    ]


@pytest.mark.root
def test_a_path_below_a_directory_that_may_only_be_gone_through(public: Path) -> None:
    """Directories on the way need not be readable."""
    (public / "home/me").mkdir(parents=True)
    (public / "home/me/a").touch()
    (public / "home").chmod(0o711)
    with as_nobody():
        listing = list_files(public / "home/me")

    assert (listing.under(raw(public)), listing.errors) == (["home/", "home/me/", "home/me/a"], [])


@pytest.mark.root
def test_attributes_that_cannot_be_read_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose attributes fail is kept without them."""
    (tmp_path / "a").write_bytes(b"content")
    os.setxattr(tmp_path / "a", "user.a", b"1")

    def getxattr(path: object, name: object, *, follow_symlinks: bool) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "getxattr", getxattr)
    listing = list_files(tmp_path)

    assert listing.contents == {raw(tmp_path / "a"): b"content"}
    assert listing.nodes[raw(tmp_path / "a")].xattrs == []
    assert listing.errors == [(raw(tmp_path / "a"), errno.EIO)]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A directory with another file system mounted in it, at "mnt"."""
    (tmp_path / "mnt").mkdir()
    (tmp_path / "a").touch()
    if subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "mnt"], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    (tmp_path / "mnt/sub").mkdir()
    (tmp_path / "mnt/sub/b").touch()
    (tmp_path / "mnt").chmod(0o750)
    yield tmp_path
    subprocess.run(["umount", tmp_path / "mnt"], check=True)


@pytest.mark.root
def test_one_file_system(mounted: Path) -> None:
    """A mount point is kept as an empty directory with the metadata it shows, and is not entered."""
    listing = list_files(mounted, one_file_system=True)

    assert listing.under(raw(mounted)) == ["a", "mnt/"]
    assert listing.nodes[raw(mounted / "mnt")].mode == 0o750
    assert list_files(mounted).under(raw(mounted)) == ["a", "mnt/", "mnt/sub/", "mnt/sub/b"]


@pytest.mark.root
def test_one_file_system_counts_for_each_path(mounted: Path) -> None:
    """A path on another file system that was asked for is backed up, alone and beside the one it is mounted in."""
    assert list_files(mounted / "mnt", one_file_system=True).under(raw(mounted)) == ["mnt/", "mnt/sub/", "mnt/sub/b"]
    for inner in ("mnt", "mnt/sub"):
        assert list_files(mounted, mounted / inner, one_file_system=True).under(raw(mounted)) == [
            *("a", "mnt/", "mnt/sub/", "mnt/sub/b"),
        ]


def test_the_access_time_on_request(tmp_path: Path) -> None:
    """with_atime keeps it for files and directories, and reading does not change it."""
    (tmp_path / "a").write_bytes(b"x")
    os.utime(tmp_path / "a", ns=(1, 2))
    os.utime(tmp_path, ns=(3, 4))

    nodes = list_files(tmp_path, with_atime=True).nodes

    assert (nodes[raw(tmp_path / "a")].atime_ns, nodes[raw(tmp_path)].atime_ns) == (1, 3)
    assert (os.stat(tmp_path / "a").st_atime_ns, os.stat(tmp_path).st_atime_ns) == (1, 3)
    assert list_files(tmp_path).nodes[raw(tmp_path / "a")].atime_ns is None


def test_holes_are_left_out(tmp_path: Path) -> None:
    """Extents are the data of a sparse file, and all of any other."""
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(20 << 30)
        file.seek(1 << 30)
        file.write(b"x" * 65536)
    (tmp_path / "plain").write_bytes(bytes(100_000))
    sparse = entry_of([raw(tmp_path)], raw(tmp_path / "sparse")).open_file()
    plain = entry_of([raw(tmp_path)], raw(tmp_path / "plain")).open_file()

    assert list(sparse.extents(20 << 30)) == [(1 << 30, 65536)]
    assert (list(plain.extents(100_000)), list(plain.extents(0))) == ([(0, 100_000)], [])
    sparse.close()
    plain.close()


@pytest.mark.parametrize("step", [1, 7, 1000, 4096])
def test_reading_in_pieces(tmp_path: Path, step: int) -> None:
    """A file read in pieces of any size is the file."""
    content = os.urandom(1000)
    (tmp_path / "a").write_bytes(content)
    file = entry_of([raw(tmp_path)], raw(tmp_path / "a")).open_file()

    assert read_all(file, len(content), step) == content
    file.close()


def test_reading_at_the_end(tmp_path: Path) -> None:
    """Only the end of the file makes a read short, as long as it was or as long as it is now."""
    (tmp_path / "a").write_bytes(b"0123456789")
    file = entry_of([raw(tmp_path)], raw(tmp_path / "a")).open_file()
    buffer = memoryview(bytearray(100))

    assert (file.read_into(buffer, 0), file.read_into(buffer, 8), file.read_into(buffer, 10)) == (10, 2, 0)
    os.truncate(tmp_path / "a", 4)
    assert (file.read_into(buffer, 0), file.read_into(buffer, 8)) == (4, 0)
    with open(tmp_path / "a", "ab") as writer:
        writer.write(b"x" * 50)
    assert file.read_into(buffer, 0) == 54
    file.close()


def test_a_file_that_does_not_know_its_size() -> None:
    """Files of /proc say they are empty; reading goes by what comes."""
    file = entry_of([b"/proc/self/status"], b"/proc/self/status").open_file()
    buffer = memoryview(bytearray(1 << 16))
    size = file.read_into(buffer, 0)

    assert bytes(buffer[:size]).startswith(b"Name:")
    file.close()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda path: None, False),
        (lambda path: path.read_bytes(), False),
        (lambda path: path.write_bytes(b"other"), True),
        (lambda path: os.utime(path, ns=(0, os.stat(path).st_mtime_ns)), True),
        (lambda path: os.truncate(path, 1), True),
    ],
    ids=["nothing", "read", "written", "times set back", "cut"],
)
def test_whether_a_file_changed_meanwhile(tmp_path: Path, change: Callable[[Path], None], expected: bool) -> None:
    """A write is noticed, even where the mtime is set back afterwards."""
    (tmp_path / "a").write_bytes(b"hello")
    os.utime(tmp_path / "a", ns=(0, 10**9))
    file = entry_of([raw(tmp_path)], raw(tmp_path / "a")).open_file()
    node = file.node()
    before = os.stat(tmp_path / "a").st_ctime_ns
    for _ in range(1000):  # clocks of file systems tick in steps
        change(tmp_path / "a")
        if os.stat(tmp_path / "a").st_ctime_ns != before:
            break

    assert file.changed(node) is expected
    file.close()


def test_closing_twice(tmp_path: Path) -> None:
    """Closing is idempotent and gives the descriptor back; what is closed cannot be used."""
    (tmp_path / "a").touch()
    directory = entry_of([raw(tmp_path)], raw(tmp_path)).open_directory()
    (entry,) = directory.entries()
    file = entry.open_file()
    count = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        file.close()
        directory.close()

    assert len(os.listdir("/proc/self/fd")) == count - 2
    with pytest.raises(OSError, match="Bad file descriptor"):
        entry.open_file()


def test_a_source_can_be_gone_through_again(tmp_path: Path) -> None:
    """Each open_root begins anew, as for a scan beside the backup."""
    (tmp_path / "a").touch()
    source = make_source(raw(tmp_path / "a"))
    first = source.open_root()
    second = source.open_root()

    assert [entry.name for entry in first.entries()] == [entry.name for entry in second.entries()]
    first.close()
    second.close()


def test_small_files_in_one_call(tmp_path: Path) -> None:
    """Plain small files come with the nodes they have by themselves, and fill the buffer one after the other."""
    for name, content in {"a": b"first", "b": b"", "c": b"x" * 50, "d": b"last"}.items():
        (tmp_path / name).write_bytes(content)
    os.setxattr(tmp_path / "d", "user.d", b"1")
    directory = entry_of([raw(tmp_path)], raw(tmp_path)).open_directory()
    entries = directory.entries()
    buffer = memoryview(bytearray(100))
    found = directory.read_small(entries, 20, buffer)
    opened = [entry.open_file() for entry in entries[:2]]

    assert [each and each[1] for each in found] == [5, 0, None, None]
    assert [each and each[0] for each in found[:2]] == [file.node() for file in opened]
    assert bytes(buffer[:5]) == b"first"
    for file in opened:
        file.close()
    directory.close()
