"""From looks to nodes."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from bfrepo.localfs._scan import Stat, open_file, stat_at
from bfrepo.localfs.metadata import Owners, make_node, path_of, xattrs_named, xattrs_of


def look(path: Path) -> Stat:
    """One look at a path."""
    fd = os.open(path.parent, os.O_PATH)
    try:
        return stat_at(fd, os.fsencode(path.name))
    finally:
        os.close(fd)


def test_owners_have_the_names_of_the_system() -> None:
    """Numbers become the names that passwd and group have."""
    owners = Owners()

    assert (owners.user(0), owners.group(0)) == ("root", "root")


def test_a_number_without_a_name_has_none() -> None:
    """An unknown number gives an empty name."""
    owners = Owners()

    assert (owners.user(4_000_000_000), owners.group(4_000_000_000)) == ("", "")


def test_each_owner_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second answer, a missing name included, comes from memory."""
    asked = []

    def getpwuid(uid: int) -> pwd.struct_passwd:
        asked.append(uid)
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    owners = Owners()

    assert [owners.user(7), owners.user(7), owners.user(8)] == ["", "", ""]
    assert asked == [7, 8]


def test_a_name_that_is_no_text_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that could not be stored as UTF-8 is as good as none."""
    entry = pwd.struct_passwd(("j\udcff", "x", 7, 7, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: entry)

    assert Owners().user(7) == ""


def test_a_node_of_a_file(tmp_path: Path) -> None:
    """A file's node says all that a restore needs; without other names, its device is not in it (INV-7)."""
    path = tmp_path / "a"
    path.write_bytes(b"hello")
    path.chmod(0o4751)
    stat = look(path)

    node = make_node(stat, Owners(), name=b"a", xattrs=[(b"user.x", b"1")])

    assert (node.name, node.type, node.mode, node.size) == (b"a", "file", 0o4751, 5)
    assert (node.uid, node.gid, node.user) == (os.getuid(), os.getgid(), pwd.getpwuid(os.getuid()).pw_name)
    assert (node.mtime_ns, node.ctime_ns, node.btime_ns) == (stat.mtime_ns, stat.ctime_ns, stat.btime_ns)
    assert (node.inode, node.links, node.device, node.atime_ns) == (stat.inode, 1, 0, None)
    assert node.xattrs == [(b"user.x", b"1")]


def test_a_node_of_a_hard_linked_file(tmp_path: Path) -> None:
    """Inode and device together say which names are one file."""
    (tmp_path / "a").touch()
    os.link(tmp_path / "a", tmp_path / "b")
    found = os.stat(tmp_path / "a")

    node = make_node(look(tmp_path / "b"), Owners(), name=b"b", xattrs=[])

    assert (node.links, node.inode, node.device) == (2, found.st_ino, found.st_dev)


def test_a_node_of_a_directory(tmp_path: Path) -> None:
    """What a file system happens to need for a directory, size and link count, is not in its node (INV-7)."""
    (tmp_path / "sub/sub").mkdir(parents=True)

    node = make_node(look(tmp_path / "sub"), Owners(), name=b"sub", xattrs=[])

    assert (node.type, node.size, node.links, node.device) == ("dir", 0, 1, 0)


def test_the_access_time_is_kept_on_request(tmp_path: Path) -> None:
    """Only with_atime puts it into the node."""
    (tmp_path / "a").touch()
    os.utime(tmp_path / "a", ns=(5, 6))

    assert make_node(look(tmp_path / "a"), Owners(), name=b"a", xattrs=[], with_atime=True).atime_ns == 5


def test_xattrs_are_sorted_and_raw(tmp_path: Path) -> None:
    """Attributes come in the order of their names, with any bytes, from a descriptor and from a path."""
    path = tmp_path / "a"
    path.touch()
    for name, value in {"user.z": b"", "user.a": b"\0\xff", "user.m": b"x" * 1000}.items():
        os.setxattr(path, name, value)
    expected = [(b"user.a", b"\0\xff"), (b"user.m", b"x" * 1000), (b"user.z", b"")]
    dir_fd = os.open(tmp_path, os.O_PATH)
    fd, _, names = open_file(dir_fd, b"a")

    assert xattrs_of(fd) == expected
    assert xattrs_of(os.fsencode(path)) == expected
    assert xattrs_of(path_of(dir_fd) + b"/a", follow_symlinks=False) == expected
    assert xattrs_named(fd, names) == expected
    os.close(fd)
    os.close(dir_fd)


def test_an_attribute_that_is_removed_meanwhile_is_passed_over(tmp_path: Path) -> None:
    """A name whose value is gone is as if it had not been listed."""
    (tmp_path / "a").touch()
    os.setxattr(tmp_path / "a", "user.here", b"1")
    fd = os.open(tmp_path / "a", os.O_RDONLY)

    assert xattrs_named(fd, b"user.here\0user.gone\0") == [(b"user.here", b"1")]
    os.close(fd)


def test_a_file_system_without_attributes_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOTSUP is no error."""

    def listxattr(path: object, *, follow_symlinks: bool) -> list[str]:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "listxattr", listxattr)

    assert xattrs_of(0) == []


def test_other_errors_are_raised() -> None:
    """A descriptor that is none is an error."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        xattrs_of(9999)


def test_attributes_of_a_symlink_are_its_own(tmp_path: Path) -> None:
    """A symlink never shows what its target has."""
    (tmp_path / "a").touch()
    os.setxattr(tmp_path / "a", "user.a", b"1")
    (tmp_path / "link").symlink_to("a")

    assert xattrs_of(os.fsencode(tmp_path / "link"), follow_symlinks=False) == []


@pytest.mark.root
def test_capabilities_are_an_attribute(tmp_path: Path) -> None:
    """File capabilities come as the bytes the kernel keeps."""
    path = tmp_path / "a"
    path.touch()
    value = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep, revision 2
    os.setxattr(path, "security.capability", value)

    assert dict(xattrs_of(os.fsencode(path)))[b"security.capability"] == value


def test_acls_are_attributes(tmp_path: Path) -> None:
    """An ACL on a file and a default ACL on a directory are in their attributes."""
    if shutil.which("setfacl") is None:
        pytest.skip("needs setfacl, from Debian's package acl")
    (tmp_path / "a").touch()
    (tmp_path / "d").mkdir()
    subprocess.run(["setfacl", "-m", "u:1234:rw", tmp_path / "a"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "g:1234:rx", tmp_path / "d"], check=True)

    assert [name for name, _ in xattrs_of(os.fsencode(tmp_path / "a"))] == [b"system.posix_acl_access"]
    assert [name for name, _ in xattrs_of(os.fsencode(tmp_path / "d"))] == [b"system.posix_acl_default"]
