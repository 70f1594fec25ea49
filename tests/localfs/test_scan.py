"""The kernel in C against what Python's own os module says."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import stat as stat_bits
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bfrepo.localfs._scan import Stat, open_file, read_small, scan, stat_at, stat_fd
from tests.support.listing import as_nobody

KINDS = {
    stat_bits.S_IFREG: "file",
    stat_bits.S_IFDIR: "dir",
    stat_bits.S_IFLNK: "symlink",
    stat_bits.S_IFIFO: "fifo",
    stat_bits.S_IFSOCK: "socket",
    stat_bits.S_IFCHR: "chardev",
    stat_bits.S_IFBLK: "blockdev",
}


@pytest.fixture
def dir_fd(tmp_path: Path) -> Iterator[int]:
    """The directory of the test, open for listing."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def facts(stat: Stat) -> dict[str, object]:
    """What a Stat says and os.lstat says as well."""
    return {
        "type": stat.type,
        "mode": stat.mode,
        "uid": stat.uid,
        "gid": stat.gid,
        "size": stat.size,
        "mtime_ns": stat.mtime_ns,
        "ctime_ns": stat.ctime_ns,
        "atime_ns": stat.atime_ns,
        "inode": stat.inode,
        "device": stat.device,
        "links": stat.links,
        "rdev": stat.rdev,
        "blocks": stat.blocks,
    }


def facts_by_python(path: str | os.PathLike[str]) -> dict[str, object]:
    """The same from os.lstat."""
    found = os.lstat(path)
    return {
        "type": KINDS[stat_bits.S_IFMT(found.st_mode)],
        "mode": stat_bits.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "atime_ns": found.st_atime_ns,
        "inode": found.st_ino,
        "device": found.st_dev,
        "links": found.st_nlink,
        "rdev": found.st_rdev,
        "blocks": found.st_blocks,
    }


def make_one_of_each(top: Path) -> None:
    """A file of every kind that needs no superuser."""
    (top / "file").write_bytes(b"x" * 10_000)
    (top / "dir").mkdir(mode=0o750)
    (top / "link").symlink_to("nowhere")
    os.link(top / "file", top / "second name")
    os.mkfifo(top / "fifo", 0o600)
    (top / "setuid").touch()
    (top / "setuid").chmod(0o6755)
    fd = os.open(top, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{fd}/socket")  # the address of a socket is short
    os.close(fd)


def test_facts_are_those_of_lstat(tmp_path: Path, dir_fd: int) -> None:
    """Everything that os.lstat tells as well is the same, for every kind of file."""
    make_one_of_each(tmp_path)

    stats, errors = scan(dir_fd)

    assert errors == []
    assert {os.fsdecode(stat.name): facts(stat) for stat in stats} == {
        path.name: facts_by_python(path) for path in tmp_path.iterdir()
    }


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_device_numbers_are_those_of_lstat(device: str) -> None:
    """A device's own number is put together as Python does it."""
    fd = os.open("/", os.O_PATH)

    assert facts(stat_at(fd, os.fsencode(device[1:]))) == facts_by_python(device)
    os.close(fd)


def test_one_look_is_the_same_by_name_and_by_descriptor(tmp_path: Path, dir_fd: int) -> None:
    """scan, stat_at and stat_fd tell the same; only a descriptor has no name."""
    (tmp_path / "file").write_bytes(b"hello")
    fd = os.open(tmp_path / "file", os.O_PATH)
    (listed,), _ = scan(dir_fd)

    assert facts(stat_at(dir_fd, b"file")) == facts(listed)
    assert facts(stat_fd(fd)) == facts(listed)
    assert (listed.name, stat_at(dir_fd, b"file").name, stat_fd(fd).name) == (b"file", b"file", b"")
    os.close(fd)


def test_names_are_sorted_raw_bytes(dir_fd: int) -> None:
    """Names come in the order of their bytes, whatever bytes they are."""
    names = [b"\xff\xfe", b"a", b"a\nb", b"B", b"\xc3\xa9", b" ", b"a" * 255, b"...", b"-rf", b"\x01"]
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=dir_fd))

    assert [stat.name for stat in scan(dir_fd)[0]] == sorted(names)


def test_an_empty_directory_has_nothing(dir_fd: int) -> None:
    """No entries, no errors, and "." and ".." are none."""
    assert scan(dir_fd) == ([], [])


def test_a_directory_can_be_scanned_again(tmp_path: Path, dir_fd: int) -> None:
    """Each scan begins at the beginning."""
    (tmp_path / "a").touch()
    scan(dir_fd)

    assert [stat.name for stat in scan(dir_fd)[0]] == [b"a"]


def test_twenty_thousand_names(tmp_path: Path, dir_fd: int) -> None:
    """A directory far larger than any buffer comes whole."""
    names = [b"%05d-%s" % (number, b"x" * (number % 90)) for number in range(20_000)]
    for name in names:
        os.mknod(os.path.join(os.fsencode(tmp_path), name))

    assert [stat.name for stat in scan(dir_fd)[0]] == sorted(names)


def test_left_out_names_are_asked_about_with_their_type(tmp_path: Path, dir_fd: int) -> None:
    """What leave_out says yes to is missing, and it is asked once for each name."""
    make_one_of_each(tmp_path)
    asked = {}

    def leave_out(name: bytes, kind: str) -> bool:
        asked[os.fsdecode(name)] = kind
        return kind != "dir"

    stats, errors = scan(dir_fd, leave_out)

    assert ([stat.name for stat in stats], errors) == ([b"dir"], [])
    assert asked == {path.name: facts_by_python(path)["type"] for path in tmp_path.iterdir()}


def test_an_error_in_leave_out_comes_through(tmp_path: Path, dir_fd: int) -> None:
    """What leave_out raises ends the scan."""
    (tmp_path / "a").touch()

    def leave_out(name: bytes, kind: str) -> bool:
        raise KeyError(name)

    with pytest.raises(KeyError, match="a"):
        scan(dir_fd, leave_out)


@pytest.mark.root
def test_what_cannot_be_looked_at_is_in_the_second_list(tmp_path: Path) -> None:
    """A directory that may be read but not entered gives names with an errno each."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/a").touch()
    fd = os.open(tmp_path / "inner", os.O_RDONLY | os.O_DIRECTORY)
    (tmp_path / "inner").chmod(0o444)
    with as_nobody():
        found = scan(fd)
    os.close(fd)

    assert found == ([], [(b"a", errno.EACCES)])


def test_birth_time_is_told_where_the_file_system_keeps_it(tmp_path: Path, dir_fd: int) -> None:
    """The birth time is none later than the change that followed it, or None."""
    (tmp_path / "a").touch()
    os.utime(tmp_path / "a", ns=(0, 0))
    stat = stat_at(dir_fd, b"a")

    assert stat.btime_ns is None or 0 < stat.btime_ns <= stat.ctime_ns


@pytest.mark.parametrize("seconds", [-2_000_000_000, -1, 0, 9_000_000_000])
def test_times_far_away(tmp_path: Path, dir_fd: int, seconds: int) -> None:
    """Times before 1970 and beyond 2038 are exact."""
    (tmp_path / "a").touch()
    os.utime(tmp_path / "a", ns=(seconds * 10**9 + 7, seconds * 10**9 + 7))

    assert stat_at(dir_fd, b"a").mtime_ns == os.stat(tmp_path / "a").st_mtime_ns


def test_times_that_do_not_fit_are_held_at_the_end(tmp_path: Path, dir_fd: int) -> None:
    """A year beyond 2262 does not fit 64 bits of nanoseconds and becomes the last one that does."""
    (tmp_path / "a").touch()
    os.utime(tmp_path / "a", (13_000_000_000, 13_000_000_000))
    kept = int(os.stat(tmp_path / "a").st_mtime)
    if kept < 13_000_000_000:
        pytest.skip("this file system has no such time")

    assert stat_at(dir_fd, b"a").mtime_ns == (1 << 63) - 1


@pytest.mark.root
@pytest.mark.parametrize(("letter", "bit"), [("a", 0x20), ("i", 0x10), ("d", 0x40)])
def test_inode_flags(tmp_path: Path, dir_fd: int, letter: str, bit: int) -> None:
    """Append-only, immutable and no-dump are told with their FS_*_FL bits."""
    (tmp_path / "a").touch()
    if subprocess.run(["chattr", f"+{letter}", tmp_path / "a"], capture_output=True, check=False).returncode:
        pytest.skip("this file system has no such flag")
    flags = stat_at(dir_fd, b"a").flags
    subprocess.run(["chattr", f"-{letter}", tmp_path / "a"], check=True)

    assert (flags, stat_at(dir_fd, b"a").flags) == (bit, 0)


def test_a_stat_cannot_be_made_or_changed(tmp_path: Path, dir_fd: int) -> None:
    """A Stat only ever says what the system said."""
    stat = stat_fd(dir_fd)

    with pytest.raises(TypeError):
        Stat()
    with pytest.raises(AttributeError):
        stat.size = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", [b"", b"missing"])
def test_a_name_that_is_not_there(dir_fd: int, name: bytes) -> None:
    """ENOENT, also for the empty name, which would mean the directory itself."""
    for function in (stat_at, open_file):
        with pytest.raises(FileNotFoundError):
            function(dir_fd, name)


def test_wrong_arguments_are_refused(tmp_path: Path, dir_fd: int) -> None:
    """A closed descriptor, a file in place of a directory, a NUL in a name and text in place of bytes are errors."""
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(NotADirectoryError):
        scan(fd)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        scan(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        stat_fd(fd)
    with pytest.raises(ValueError, match="null"):
        stat_at(dir_fd, b"a\0b")
    with pytest.raises(TypeError):
        stat_at(dir_fd, "a")  # type: ignore[arg-type]


def test_opening_gives_descriptor_facts_and_attribute_names(tmp_path: Path, dir_fd: int) -> None:
    """open_file does what open, fstat and flistxattr do, and the descriptor is not inherited."""
    (tmp_path / "a").write_bytes(b"hello")
    os.setxattr(tmp_path / "a", "user.one", b"1")
    os.setxattr(tmp_path / "a", "user.two", b"2")

    fd, stat, names = open_file(dir_fd, b"a")

    assert os.read(fd, 10) == b"hello"
    assert facts(stat) == facts_by_python(tmp_path / "a")
    assert sorted(names.split(b"\0")) == [b"", b"user.one", b"user.two"]
    assert os.get_inheritable(fd) is False
    os.close(fd)


def test_reading_leaves_the_access_time(tmp_path: Path, dir_fd: int) -> None:
    """A file is opened so that reading it does not touch its access time."""
    (tmp_path / "a").write_bytes(b"hello")
    os.utime(tmp_path / "a", ns=(0, 10**9))
    fd, _, _ = open_file(dir_fd, b"a")
    os.read(fd, 10)
    os.close(fd)

    assert os.stat(tmp_path / "a").st_atime_ns == 0


@pytest.mark.root
def test_files_of_others_are_opened_too(tmp_path: Path, dir_fd: int) -> None:
    """Where the system refuses to leave the access time alone, the file is opened all the same."""
    (tmp_path / "a").write_bytes(b"hello")
    tmp_path.chmod(0o711)
    with as_nobody():
        fd, _, _ = open_file(dir_fd, b"a")

    assert os.read(fd, 10) == b"hello"
    os.close(fd)


@pytest.mark.parametrize("name", [b"dir", b"link", b"link to file", b"fifo", b"socket"])
def test_only_regular_files_are_opened(tmp_path: Path, dir_fd: int, name: bytes) -> None:
    """Anything else is refused with ELOOP, without waiting and without a descriptor left behind."""
    make_one_of_each(tmp_path)
    (tmp_path / "link to file").symlink_to("file")
    before = os.listdir("/proc/self/fd")

    with pytest.raises(OSError, match="no longer a regular file") as caught:
        open_file(dir_fd, name)

    assert caught.value.errno == errno.ELOOP
    assert os.listdir("/proc/self/fd") == before


def test_a_leased_file_is_waited_for(tmp_path: Path, dir_fd: int) -> None:
    """A file that a server holds a lease on is opened as soon as the lease is given back."""
    (tmp_path / "a").write_bytes(b"hello")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, os, signal, sys, time\n"
            "fd = os.open(sys.argv[1], os.O_RDWR)\n"
            "signal.signal(signal.SIGIO, lambda *_: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK))\n"
            "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
            "print(flush=True)\n"
            "sys.stdin.read()\n",
            tmp_path / "a",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        fd, _, _ = open_file(dir_fd, b"a")
        content = os.read(fd, 10)
        lease = fcntl.fcntl(fd, fcntl.F_GETLEASE)
        os.close(fd)
        holder.communicate()

    assert (content, lease, holder.returncode) == (b"hello", fcntl.F_UNLCK, 0)


def test_plain_files_are_read_one_after_the_other(tmp_path: Path, dir_fd: int) -> None:
    """The contents follow one another in the buffer, and each file has its facts."""
    for name, content in {"a": b"first", "b": b"", "c": b"x" * 20}.items():
        (tmp_path / name).write_bytes(content)
    buffer = bytearray(25)

    stats = read_small(dir_fd, (b"c", b"b", b"a"), 20, memoryview(buffer))

    assert [stat and facts(stat) for stat in stats] == [facts_by_python(tmp_path / name) for name in "cba"]
    assert [stat and stat.name for stat in stats] == [b"c", b"b", b"a"]
    assert buffer == b"x" * 20 + b"first"


def test_the_first_file_that_does_not_fit_ends_it(tmp_path: Path, dir_fd: int) -> None:
    """The result is as long as the buffer lasts."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode() * 10)
    buffer = bytearray(b"." * 15)

    stats = read_small(dir_fd, (b"a", b"b", b"c"), 10, memoryview(buffer))

    assert [stat and stat.name for stat in stats] == [b"a"]
    assert buffer == b"a" * 10 + b"." * 5


def test_whatever_is_not_plain_is_left_to_others(tmp_path: Path, dir_fd: int) -> None:
    """Other kinds, large and sparse files, attributes and missing names have no facts and nothing in the buffer."""
    make_one_of_each(tmp_path)
    (tmp_path / "with attributes").write_bytes(b"x")
    os.setxattr(tmp_path / "with attributes", "user.x", b"1")
    (tmp_path / "large").write_bytes(b"x" * 101)
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 100)
    (tmp_path / "plain").write_bytes(b"plain")
    names = (b"dir", b"link", b"fifo", b"socket", b"with attributes", b"large", b"sparse", b"missing", b"plain")
    buffer = bytearray(100)
    before = os.listdir("/proc/self/fd")

    stats = read_small(dir_fd, names, 100, memoryview(buffer))

    assert [stat and stat.name for stat in stats] == [None] * 8 + [b"plain"]
    assert buffer.rstrip(b"\0") == b"plain"
    assert os.listdir("/proc/self/fd") == before


def test_a_limit_beyond_the_buffer_is_refused(dir_fd: int) -> None:
    """A file within the limit must always fit an empty buffer."""
    for limit in (-1, 11):
        with pytest.raises(ValueError, match="within the size of the buffer"):
            read_small(dir_fd, (b"a",), limit, memoryview(bytearray(10)))


def test_no_descriptor_left(tmp_path: Path, dir_fd: int) -> None:
    """When the process may open no more files, that is the error."""
    (tmp_path / "a").touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (dir_fd, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            open_file(dir_fd, b"a")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_threads_scan_at_once(tmp_path: Path) -> None:
    """Several threads, each with a descriptor of its own, see the same."""
    for number in range(500):
        (tmp_path / f"{number}").touch()
    results: list[list[bytes]] = []

    def work() -> None:
        fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        results.extend([stat.name for stat in scan(fd)[0]] for _ in range(20))
        os.close(fd)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [sorted(str(number).encode() for number in range(500))] * 80
