"""Metadata on the disk: each kind alone, and the order in which none spoils another."""

from __future__ import annotations

import array
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bfrepo.data.node import Node
from bfrepo.localfs._scan import stat_at, stat_fd
from bfrepo.localfs.apply import MetadataWriter, make_special, pinned
from bfrepo.localfs.metadata import path_of

MTIME = 1_600_000_000_123_456_789
ACL = "system.posix_acl_access"


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL as Linux stores it: version 2, then (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NAMED = acl((1, 6, 0xFFFFFFFF), (2, 4, 4711), (4, 4, 0xFFFFFFFF), (0x10, 4, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF))
"""Owner rw, user 4711 r, group r, mask r, others nothing: mode 0640."""


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """A new regular file of mode 0600, open."""
    file = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT, 0o600)
    yield file
    os.close(file)


def node(**more: Any) -> Node:
    """A file node that belongs to whoever runs the test."""
    plain: dict[str, Any] = {"mode": 0o644, "uid": os.geteuid(), "gid": os.getegid(), "mtime_ns": MTIME}
    return Node(name=b"f", **{**plain, **more})


def apply(where: int | bytes, wanted: Node, *, bare: bool = False, **options: Any) -> list[str]:
    """Apply a node's metadata to something that belongs to whoever runs the test."""
    return MetadataWriter(**options).apply(where, wanted, (os.geteuid(), os.getegid()), bare=bare)


def test_mode_and_times(fd: int) -> None:
    """Mode and times are set exactly; without a recorded access time it is the mtime."""
    assert apply(fd, node(mode=0o751)) == []

    now = os.fstat(fd)
    assert (stat.S_IMODE(now.st_mode), now.st_mtime_ns, now.st_atime_ns) == (0o751, MTIME, MTIME)

    apply(fd, node(atime_ns=5))
    assert os.fstat(fd).st_atime_ns == 5


def test_xattrs_become_the_nodes(fd: int) -> None:
    """Missing xattrs are set, wrong ones changed, those that are too much removed; binary and empty values survive."""
    os.setxattr(fd, "user.wrong", b"1")
    os.setxattr(fd, "user.extra", b"1")

    assert apply(fd, node(xattrs=[(b"user.empty", b""), (b"user.nul", b"\0\xff"), (b"user.wrong", b"2")])) == []

    assert {name: os.getxattr(fd, name) for name in os.listxattr(fd)} == {
        "user.empty": b"",
        "user.nul": b"\0\xff",
        "user.wrong": b"2",
    }


def test_xattrs_of_a_read_only_file(fd: int) -> None:
    """A file that ends up without any permission still gets its xattrs."""
    assert apply(fd, node(mode=0, xattrs=[(b"user.a", b"1")]), bare=True) == []

    assert (os.getxattr(fd, "user.a"), stat.S_IMODE(os.fstat(fd).st_mode)) == (b"1", 0)


def test_acl_and_mode_agree(fd: int) -> None:
    """An ACL and the mode that was read beside it are both right afterwards."""
    assert apply(fd, node(mode=0o640, xattrs=[(ACL.encode(), NAMED)]), bare=True) == []

    assert (os.getxattr(fd, ACL), stat.S_IMODE(os.fstat(fd).st_mode)) == (NAMED, 0o640)


def test_an_acl_that_is_too_much_goes(fd: int) -> None:
    """An ACL that the snapshot does not have is removed, and the mode is the snapshot's."""
    os.setxattr(fd, ACL, NAMED)

    assert apply(fd, node(mode=0o664)) == []

    assert (os.listxattr(fd), stat.S_IMODE(os.fstat(fd).st_mode)) == ([], 0o664)


@pytest.mark.root
def test_capabilities_and_setuid_survive_the_owner(fd: int) -> None:
    """File capabilities and setuid bits are set after the owner, which would drop them."""
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    wanted = node(mode=0o6755, uid=4711, gid=4712, xattrs=[(b"security.capability", capability)])

    assert apply(fd, wanted) == []

    now = os.fstat(fd)
    assert os.getxattr(fd, "security.capability") == capability
    assert (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) == (4711, 4712, 0o6755)


@pytest.mark.root
def test_capabilities_that_are_too_much_go(fd: int) -> None:
    """A capability that the snapshot does not have does not stay on an updated file."""
    os.setxattr(fd, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))

    apply(fd, node())

    assert os.listxattr(fd) == []


@pytest.mark.root
def test_owners_by_name(fd: int) -> None:
    """A name that exists here wins over the number, unless numbers are asked for; one that does not exist is no
    error.
    """
    wanted = node(uid=4711, gid=4712, user="daemon", group="nobody-has-this-group")
    daemon = 1

    assert apply(fd, wanted) == []
    assert (os.fstat(fd).st_uid, os.fstat(fd).st_gid) == (daemon, 4712)

    assert apply(fd, wanted, numeric_ids=True) == []
    assert (os.fstat(fd).st_uid, os.fstat(fd).st_gid) == (4711, 4712)


def test_an_owner_that_is_nobody(fd: int) -> None:
    """The number that means "no change" to the system sets no owner, and takes the setuid bits away."""
    assert apply(fd, node(uid=0xFFFF_FFFF, mode=0o6755)) == []

    assert (os.fstat(fd).st_uid, stat.S_IMODE(os.fstat(fd).st_mode)) == (os.geteuid(), 0o755)


def flags_of(fd: int) -> int:
    """The inode flags of something open."""
    flags = array.array("I", [0, 0])
    fcntl.ioctl(fd, 0x80086601, flags)
    return flags[0]


def test_inode_flags(fd: int) -> None:
    """Flags are set and taken away again; those that are not ours to record stay."""
    try:
        others = flags_of(fd)
    except OSError:
        pytest.skip("no inode flags on this file system")
    writer = MetadataWriter()

    assert writer.apply_flags(fd, node(flags=0x40)) == []
    assert flags_of(fd) == others | 0x40

    assert writer.apply_flags(fd, node()) == []
    assert flags_of(fd) == others


@pytest.mark.root
def test_an_immutable_file(fd: int, tmp_path: Path) -> None:
    """The immutable flag is set last; a later attempt to change anything is reported in words."""
    writer = MetadataWriter()
    apply(fd, node())
    assert writer.apply_flags(fd, node(flags=0x10)) == []
    try:
        problems = apply(fd, node(mode=0o600, mtime_ns=1))
        assert problems == [
            "its mode could not be set: Operation not permitted",
            "its times could not be set: Operation not permitted",
        ]
    finally:
        writer.apply_flags(fd, node())


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({}, False),
        ({"mode": 0o600}, True),
        ({"mtime_ns": MTIME + 1}, True),
        ({"ctime_ns": 1, "btime_ns": 1, "inode": 99, "size": 99}, False),
        ({"flags": 0x40}, True),
    ],
)
def test_differs(fd: int, change: dict[str, Any], differs: bool) -> None:
    """Metadata differs when applying it would change something, and not otherwise."""
    apply(fd, node())

    assert MetadataWriter().differs(node(**change), stat_fd(fd)) == differs


def test_xattrs_differ(fd: int) -> None:
    """Xattrs differ when one is missing, wrong or too much, unless they are left out of the restore."""
    os.setxattr(fd, "user.a", b"1")
    writer = MetadataWriter()

    answers = [
        writer.xattrs_differ(fd, node(xattrs=xattrs)) for xattrs in ([(b"user.a", b"1")], [(b"user.a", b"2")], [])
    ]

    assert answers == [False, True, True]
    assert not MetadataWriter(xattrs=False).xattrs_differ(fd, node())


@pytest.mark.parametrize("kind", ["symlink", "fifo", "socket"])
def test_entries_that_cannot_be_opened(tmp_path: Path, kind: Any) -> None:
    """Symlinks, fifos and sockets get their metadata themselves; what a symlink points to is not touched."""
    (tmp_path / "elsewhere").write_bytes(b"")
    before = os.stat(tmp_path / "elsewhere")
    wanted = node(type=kind, mode=0o640, target=bytes(tmp_path / "elsewhere"))
    here = os.open(tmp_path, os.O_RDONLY)

    make_special(here, wanted)
    with pinned(here, b"f") as fd:
        problems = apply(path_of(fd), wanted, bare=True)
    now = stat_at(here, b"f")
    os.close(here)

    assert problems == []
    assert (now.type, now.mtime_ns) == (kind, MTIME)
    assert now.mode == (0o777 if kind == "symlink" else 0o640)
    after = os.stat(tmp_path / "elsewhere")
    assert (after.st_mtime_ns, after.st_mode, after.st_ctime_ns) == (
        before.st_mtime_ns,
        before.st_mode,
        before.st_ctime_ns,
    )


@pytest.mark.root
def test_xattrs_of_a_symlink(tmp_path: Path) -> None:
    """A symlink may carry trusted xattrs of its own."""
    wanted = node(type="symlink", target=b"nowhere", xattrs=[(b"trusted.t", b"1")])
    here = os.open(tmp_path, os.O_RDONLY)
    make_special(here, wanted)
    with pinned(here, b"f") as fd:
        assert apply(path_of(fd), wanted, bare=True) == []
    os.close(here)

    assert os.getxattr(tmp_path / "f", "trusted.t", follow_symlinks=False) == b"1"


def test_what_is_refused_is_told(fd: int) -> None:
    """Each thing that cannot be set is named with the reason, and the rest is set all the same."""
    problems = apply(fd, node(mode=0o755, xattrs=[(b"nonsense", b"1"), (b"user.good", b"1")]))

    assert problems == ["its extended attribute nonsense could not be set: Operation not supported"]
    assert os.getxattr(fd, "user.good") == b"1"
    assert (stat.S_IMODE(os.fstat(fd).st_mode), os.fstat(fd).st_mtime_ns) == (0o755, MTIME)
