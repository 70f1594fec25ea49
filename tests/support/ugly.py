"""A tree with every kind of file, attribute and name that makes trouble. Each function makes one aspect of it.

An aspect that the file system or the user's rights do not allow raises OSError; the tests skip it by name.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from tests.support.backups import incompressible

Aspect: TypeAlias = Callable[[Path], None]

KIB: Final = 1 << 10
MIB: Final = 1 << 20
PATH_LENGTH: Final = 4000
TERABYTE: Final = "terabyte"

SIZES: Final = (
    0, 1, 255 * KIB, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, MIB, 4 * MIB, 4 * MIB + 1, 20 * MIB,
)  # fmt: skip

NAMES: Final = (
    b"\xff\xfe not UTF-8 \x80", b"line\nbreak", b"tab\there", b"\r", b"\x01\x02\x7f", b"\x1b[31mred\x1b[0m\x07",
    b"\xc2\x9b31m", b"quote'quote\"quote`", b"$(reboot)", b"--delete", b"-rf", b"*", b"?", b"[a-z]", b"!", b"#", b"~",
    b" ", b" leading and trailing ", b"...", b"a\\b", b"a\\012b", b"%41", b":", b"a:b", b"latest", b"x" * 255,
    b"\xff" * 255, "ü".encode() * 127, "ü é".encode(), "u\u0308 e\u0301".encode(), b"ABC", b"abc",
    "日本語 \U0001f600".encode(), "\u202egnp.exe".encode(), b"CON", b"nul.txt", b"&<>", b"{}", b"\xed\xa0\x80",
)  # fmt: skip


def names(top: Path) -> None:
    """Names that are no text, that look like options or patterns, and that a terminal would obey."""
    for number, name in enumerate(NAMES):
        (top / os.fsdecode(name)).write_bytes(b"%d" % number)
        inner = top / "directories" / os.fsdecode(name)
        inner.mkdir(parents=True)
        os.symlink(name, bytes(inner) + b"/" + name)


def sizes(top: Path) -> None:
    """Files of the sizes at which something changes, of noise, zeros and text."""
    noise = incompressible(1, max(SIZES))
    line = b"%06d the quick brown fox jumps over the lazy dog\n"
    text = b"".join(line % number for number in range(max(SIZES) // 40))
    for size in SIZES:
        (top / f"noise-{size}").write_bytes(noise[:size])
        (top / f"zeros-{size}").write_bytes(bytes(size))
        (top / f"text-{size}").write_bytes(text[:size])


def holes(top: Path) -> None:
    """Holes at the start, in the middle, at the end, and nothing but holes; between noise, so that none is zeros."""
    noise = incompressible(2, 100 * KIB)
    layouts: dict[str, tuple[int, list[int]]] = {
        "start": (3 * MIB + 100 * KIB, [3 * MIB]),
        "middle": (5 * MIB, [0, 5 * MIB - 100 * KIB]),
        "end": (2 * MIB + 17, [0]),
        "both": (9 * MIB + 1, [4 * MIB]),
        "many": (64 * MIB, [number * MIB for number in range(0, 60, 2)]),
        "all": (7 * MIB, []),
    }
    for name, (size, offsets) in layouts.items():
        _make_sparse(top / name, size, dict.fromkeys(offsets, noise))


def terabyte(top: Path) -> None:
    """A file of a terabyte that is nearly all hole. No other program can compare it in any time."""
    noise = incompressible(3, 64 * KIB)
    _make_sparse(top / TERABYTE, 1 << 40, {0: noise, 1 << 39: noise, (1 << 40) - len(noise): noise})


def _make_sparse(path: Path, size: int, parts: dict[int, bytes]) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, content in parts.items():
            os.pwrite(file.fileno(), content, offset)


def modes(top: Path) -> None:
    """Every special bit, also on directories, and no bit at all."""
    readable = os.geteuid() != 0
    for mode in (0o7777, 0o4755, 0o2755, 0o1644, 0o6711, 0o777, 0o600, 0o444, 0o000):
        if readable and not mode & 0o400:
            continue
        file, directory = top / f"file-{mode:o}", top / f"dir-{mode:o}"
        file.write_text("x")
        directory.mkdir()
        (directory / "inside").touch()
        file.chmod(mode)
        directory.chmod(mode | (0o500 if readable else 0))


def owners(top: Path) -> None:
    """Owners that this system knows and does not know, with setuid bits that a chown takes away."""
    for uid, gid in ((0, 0), (65534, 65534), (54321, 54322), (0xFFFF_FFFE, 0xFFFF_FFFE), (1, 54321)):
        file, directory, link = (top / f"{kind}-{uid}-{gid}" for kind in ("file", "dir", "link"))
        file.touch()
        directory.mkdir()
        link.symlink_to(file.name)
        for path in (file, directory, link):
            os.lchown(path, uid, gid)
        file.chmod(0o6755)
        directory.chmod(0o2755)


def times(top: Path) -> None:
    """Times to the nanosecond, before 1970, in 1901 and in 2100; of everything, directories and symlinks included."""
    moments = (
        0, 1, -1, -123_456_789, -(1 << 31) * 10**9, -2_145_916_800_000_000_001, 4_102_444_800_999_999_999,
        1_600_000_000_000_000_001, (1 << 31) * 10**9, (1 << 32) * 10**9 + 7,
    )  # fmt: skip
    for number, moment in enumerate(moments):
        file, directory, link, fifo = (top / f"{kind}{number}" for kind in ("file", "dir", "link", "fifo"))
        file.write_text("x")
        directory.mkdir()
        (directory / "inside").touch()
        link.symlink_to("nowhere")
        os.mkfifo(fifo)
        for path in (file, directory, link, fifo):
            os.utime(path, ns=(moment, moment), follow_symlinks=False)


def symlinks(top: Path) -> None:
    """Symlinks to nothing, to themselves, to absolute places, to what is no text, and as long as they can be."""
    targets = (
        b"nowhere", b"/etc/passwd", b"..", b"../../../../../../../..", b"loop", b"\xff\n\x1b[0m", b" ", b"x" * 4000,
        b"/" * 4000, b"a//b/./c/", b"directory",
    )  # fmt: skip
    (top / "directory").mkdir()
    for number, target in enumerate(targets):
        os.symlink(target, bytes(top) + (b"/loop" if target == b"loop" else b"/link%d" % number))


def hard_links(top: Path) -> None:
    """Names that share a file: in one directory, across directories, and of symlinks, fifos and sockets."""
    (top / "below" / "deeper").mkdir(parents=True)
    (top / "content").write_bytes(incompressible(4, 300 * KIB))
    (top / "little").write_text("little")
    (top / "nothing").touch()
    (top / "symlink").symlink_to("content")
    os.mkfifo(top / "fifo")
    for name in ("content", "little", "nothing", "symlink", "fifo"):
        for other in (f"a-{name}", f"below/{name}", f"below/deeper/z-{name}"):
            os.link(top / name, top / other, follow_symlinks=False)


def specials(top: Path) -> None:
    """Fifos and sockets."""
    os.mkfifo(top / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as other:
        above = os.open(top, os.O_PATH)
        server.bind(f"/proc/self/fd/{above}/socket")
        other.bind(f"/proc/self/fd/{above}/other")
        os.close(above)
    os.link(top / "other", top / "other-name")


def devices(top: Path) -> None:
    """Character and block devices, with large numbers, and a second name of one."""
    for name, kind, major, minor in (
        ("null", stat.S_IFCHR, 1, 3),
        ("disk", stat.S_IFBLK, 8, 1),
        ("large", stat.S_IFBLK, 4095, 1_048_575),
        ("zero", stat.S_IFCHR, 0, 0),
    ):
        os.mknod(top / name, kind | 0o620, os.makedev(major, minor))
    (top / "below").mkdir()
    os.link(top / "disk", top / "below" / "disk")


def user_xattrs(top: Path) -> None:
    """Attributes of users: empty, binary, large, and with names that are no text."""
    file, directory = top / "file", top / "directory"
    file.write_text("x")
    (top / "large file").write_bytes(incompressible(5, MIB))
    directory.mkdir()
    for path in (file, directory, top / "large file"):
        os.setxattr(path, "user.empty", b"")
        os.setxattr(path, "user.binary", bytes(range(256)))
        os.setxattr(path, b"user.\xff\xfe\n", b"name")
        os.setxattr(path, "user." + "n" * 250, b"long name")
    (top / "large").touch()
    for size in (60_000, 3_500):
        try:
            os.setxattr(top / "large", "user.large", incompressible(6, size))
        except OSError:
            continue  # one block is all that ext4 has for attributes
        return


def system_xattrs(top: Path) -> None:
    """Attributes that only the superuser sets: trusted ones, also of symlinks and devices, and capabilities."""
    program = top / "program"
    program.write_text("x")
    # struct vfs_ns_cap_data of <linux/capability.h>, revision 2, effective: CAP_NET_RAW.
    os.setxattr(program, "security.capability", struct.pack("<IIIII", 0x0200_0001, 1 << 13, 0, 0, 0))
    os.lchown(program, 54321, 54321)
    os.setxattr(program, "security.capability", struct.pack("<IIIII", 0x0200_0001, 1 << 13, 0, 0, 0))
    os.symlink("nowhere", top / "symlink")
    os.mkfifo(top / "fifo")
    for path in (program, top / "symlink", top / "fifo"):
        os.setxattr(path, "trusted.note", b"for the superuser", follow_symlinks=False)


def acls(top: Path) -> None:
    """Access and default ACLs, and what is made below a default ACL."""
    file, directory = top / "file", top / "directory"
    file.write_text("x")
    _set_acl("u:65534:rw,g:54321:r,m::rw", file)
    directory.mkdir()
    _set_acl("u:65534:rwx,d:u:54321:rx,d:g::-,d:o::-,d:m::rx", directory)
    (directory / "inherits").mkdir()
    (directory / "inherits" / "file").touch()
    (directory / "file").write_bytes(incompressible(7, 2 * MIB))
    (directory / "plain").mkdir()
    subprocess.run(["setfacl", "--remove-all", "--remove-default", directory / "plain"], check=True)
    (directory / "plain" / "file").touch()
    os.symlink("file", directory / "symlink")


def _set_acl(acl: str, path: Path) -> None:
    done = subprocess.run(["setfacl", "--modify", acl, path], check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"no ACL here: {done.stderr}")


def no_dump(top: Path) -> None:
    """The flag that anybody may set, on a file and a directory."""
    _set_flags(top, "d")


def unchangeable(top: Path) -> None:
    """Immutable and append-only files and directories, which must be filled before they close."""
    _set_flags(top, "i")
    _set_flags(top, "a")


def _set_flags(top: Path, letters: str) -> None:
    file, directory, linked = (top / f"{kind}-{letters}" for kind in ("file", "dir", "linked"))
    file.write_bytes(incompressible(8, 300 * KIB))
    directory.mkdir()
    (directory / "inside").write_text("x")
    linked.write_text("linked")
    os.link(linked, directory / "other-name")
    done = subprocess.run(
        ["chattr", f"+{letters}", file, linked, directory], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(f"no such flag here: {done.stderr}")


def empties(top: Path) -> None:
    """Files and directories with nothing in them."""
    (top / "file").touch()
    (top / "directory" / "in" / "directory").mkdir(parents=True)


def deep(top: Path) -> None:
    """Two hundred directories, one in the other, with a file in each."""
    for level in range(200):
        top = top / "d"
        top.mkdir()
        (top / "f").write_bytes(b"%d" % level)


def long_path(top: Path) -> None:
    """A path of 4,000 bytes from the root of the file system."""
    while len(bytes(top)) + 260 < PATH_LENGTH:
        top = top / ("n" * 250)
        top.mkdir()
    file = top / ("f" * (PATH_LENGTH - len(bytes(top)) - 1))
    file.write_text("at the end of a long path")


def many(top: Path) -> None:
    """Many entries in one directory."""
    for number in range(3000):
        (top / f"{number:06}").write_bytes(b"%d" % number)


ASPECTS: Final[dict[str, Aspect]] = {
    aspect.__name__: aspect
    for aspect in (
        names, sizes, holes, terabyte, modes, owners, times, symlinks, hard_links, specials, devices, user_xattrs,
        system_xattrs, acls, no_dump, unchangeable, empties, deep, long_path, many,
    )
}  # fmt: skip

TAR_LOSES: Final = ("no_dump", "unchangeable")
"""Aspects that are nothing but inode flags."""
