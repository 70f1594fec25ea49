"""Headers of tar archives as Python's tarfile understands them. GNU tar has its say in test_dump.py."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.data.node import Node
from bfrepo.exporter.tar import BLOCK, TarHeaders, acl_text, padding


def read(headers: bytes) -> tarfile.TarInfo:
    """The one entry that headers are of."""
    assert len(headers) % BLOCK == 0
    with tarfile.open(fileobj=io.BytesIO(headers), encoding="utf-8", errors="surrogateescape") as archive:
        entry = archive.next()
    assert entry is not None
    return entry


def of(path: bytes = b"f", link: bytes | None = None, **fields: Any) -> tarfile.TarInfo:
    """What is read of an entry that is written."""
    return read(TarHeaders().of(path, Node(name=b"f", **fields), link=link))


names = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and not name.endswith(b"/"))


@given(
    path=names,
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, (1 << 32) - 1),
    gid=st.integers(0, (1 << 32) - 1),
    size=st.one_of(st.integers(0, 1 << 20), st.integers(0, (1 << 63) - 1)),
    mtime_ns=st.integers(-(1 << 62), 1 << 62),
    user=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50),
)
def test_any_file(path: bytes, mode: int, uid: int, gid: int, size: int, mtime_ns: int, user: str) -> None:
    """Whatever fits in a node comes out of its headers again."""
    entry = of(path, mode=mode, uid=uid, gid=gid, size=size, mtime_ns=mtime_ns, user=user)

    assert os.fsencode(entry.name) == path
    assert (entry.type, entry.mode, entry.uid, entry.gid) == (tarfile.REGTYPE, mode, uid, gid)
    assert (entry.size, entry.uname) == (size, user)
    assert entry.mtime == pytest.approx(mtime_ns / 1e9, abs=1e-6, rel=1e-12)


@pytest.mark.parametrize(
    ("mtime_ns", "record"),
    [
        (1_600_000_000_000_000_000, None),
        (1_600_000_000_000_000_001, "1600000000.000000001"),
        (-1, "-0.000000001"),
        (-1_500_000_000, "-1.500000000"),
        (8_589_934_591_000_000_000, None),
        (8_589_934_592_000_000_000, "8589934592.000000000"),
    ],
)
def test_times(mtime_ns: int, record: str | None) -> None:
    """A time has a record only where the field cannot hold it."""
    assert of(mtime_ns=mtime_ns).pax_headers.get("mtime") == record


@given(names)
def test_any_target(target: bytes) -> None:
    """Targets of symlinks and hard links are kept to the byte."""
    assert os.fsencode(of(type="symlink", target=target).linkname) == target
    entry = of(link=target, size=5)
    assert (entry.type, entry.size, os.fsencode(entry.linkname)) == (tarfile.LNKTYPE, 0, target)


@pytest.mark.parametrize("length", [99, 100, 101, 155, 256, 4000])
def test_directories_end_in_a_slash(length: int) -> None:
    """The slash counts for the length of the name."""
    headers = TarHeaders().of(b"d" * length, Node(name=b"d", type="dir"))

    assert read(headers).isdir()
    assert read(headers).name == "d" * length
    assert b"d" * min(length, 99) + b"/" in headers or length > 99


def test_short_ascii_names_need_no_records() -> None:
    """An archive of plain files is as small as it can be."""
    assert len(TarHeaders().of(b"n" * 100, Node(name=b"n", user="me", group="us", mtime_ns=10**18))) == BLOCK


@pytest.mark.parametrize(("major", "minor"), [(1, 3), (4095, 1_048_575), (1 << 24, 1 << 30)])
@pytest.mark.parametrize("kind", ["chardev", "blockdev"])
def test_devices(kind: str, major: int, minor: int) -> None:
    """Numbers that are too large for octal digits are in base 256."""
    entry = of(type=kind, rdev=os.makedev(major, minor))

    assert entry.type == (tarfile.CHRTYPE if kind == "chardev" else tarfile.BLKTYPE)
    assert (entry.devmajor, entry.devminor) == (major, minor)


def test_xattrs() -> None:
    """Values are as they are, names have "=" and "%" escaped as GNU tar wants it."""
    xattrs = [(b"user.a=b%c", b"x\0\n=\xff"), (b"user.empty", b""), (b"user.long", b"v" * 70_000)]

    records = of(xattrs=xattrs).pax_headers

    assert records["SCHILY.xattr.user.a%3Db%25c"].encode(errors="surrogateescape") == b"x\0\n=\xff"
    assert records["SCHILY.xattr.user.empty"] == ""
    assert records["SCHILY.xattr.user.long"] == "v" * 70_000


@pytest.mark.parametrize("length", range(80, 120))
def test_the_length_of_a_record_counts_its_own_digits(length: int) -> None:
    """Also where it gets a digit more by counting them."""
    assert of(xattrs=[(b"user.n", b"v" * length)]).pax_headers["SCHILY.xattr.user.n"] == "v" * length


def acl(*entries: tuple[int, int, int]) -> bytes:
    """The value of the attribute."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


FULL_ACL = acl(
    (1, 7, 0xFFFFFFFF), (2, 6, 1000), (4, 5, 0xFFFFFFFF), (8, 0, 50), (16, 4, 0xFFFFFFFF), (32, 1, 0xFFFFFFFF)
)


def test_acls() -> None:
    """An ACL is text with numbers, where GNU tar and others look for it."""
    text = "user::rwx,user:1000:rw-,group::r-x,group:50:---,mask::r--,other::--x"

    records = of(xattrs=[(b"system.posix_acl_access", FULL_ACL), (b"system.posix_acl_default", FULL_ACL)]).pax_headers

    assert (records["SCHILY.acl.access"], records["SCHILY.acl.default"]) == (text, text)


@pytest.mark.parametrize("value", [b"", b"\2\0\0", FULL_ACL[:-1], b"\3" + FULL_ACL[1:], acl((64, 7, 0))])
def test_what_is_no_acl(value: bytes) -> None:
    """A value that does not decode stays what it is."""
    assert acl_text(value) is None
    records = of(xattrs=[(b"system.posix_acl_access", value)]).pax_headers
    assert records["SCHILY.xattr.system.posix_acl_access"].encode(errors="surrogateescape") == value


@pytest.mark.parametrize("path", [b"dir/file", b"d" * 200 + b"/f", b"\xff\xfe", "ü".encode() * 100])
def test_sparse_files(path: bytes) -> None:
    """The map says where the data goes, the headers how large the file is, under its name."""
    data = [(512, 1024), (1 << 40, (1 << 40) + 100)]
    size = (1 << 40) + 100
    headers = TarHeaders().of_sparse(path, Node(name=b"f", size=size), data)
    archive = headers + b"a" * 512 + b"b" * 100 + padding(100)

    with tarfile.open(fileobj=io.BytesIO(archive), encoding="utf-8", errors="surrogateescape") as opened:
        entry = opened.next()
        assert entry is not None
        content = opened.extractfile(entry)
        assert content is not None
        assert (os.fsencode(entry.name), entry.size) == (path, size)
        assert content.read(1536) == bytes(512) + b"a" * 512 + bytes(512)
        content.seek(1 << 40)
        assert content.read() == b"b" * 100
