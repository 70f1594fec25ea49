"""Snapshots of tar archives: those of GNU tar, of Python and our own, and those that want to do harm."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfrepo.core.errors import BackupForgeError, Interrupted, SourceError
from bfrepo.data.selection import SnapshotFilter
from bfrepo.formats.tar_header import MalformedTar
from bfrepo.operations.backup import BackupResult, backup
from bfrepo.operations.dump import dump, find_dump
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from bfrepo.sources.tar import TarSource
from tests.support.backups import backup_options, incompressible, never, run_backup
from tests.support.directories import Problems, Seen, back_up, census, removable, restore_to
from tests.support.repositories import make_repository
from tests.support.restoring import file_content, restored, restored_nodes
from tests.support.sinks import MemorySink
from tests.support.sources import Item
from tests.support.ugly import ASPECTS, TAR_LOSES

LINKED = (stat.S_IFREG, stat.S_IFLNK)
"""Kinds whose further names GNU tar packs as hard links."""


def import_tar(
    repository: Repository,
    data: bytes,
    *,
    at: tuple[bytes, ...] = (),
    reporter: Problems | None = None,
    cancelled: Callable[[], bool] = never,
    **options: Any,
) -> BackupResult:
    """A snapshot of an archive."""
    reporter = reporter or Problems()
    source = TarSource(io.BytesIO(data), at, reporter.problem, reporter.warn)
    return backup(repository, lambda: source, backup_options(force=True, **options), reporter, cancelled)


def gnu_tar(folder: Path, *options: str) -> bytes:
    """What GNU tar makes of a directory."""
    line: list[str | Path] = ["tar", "-C", folder, "-cf", "-", "--sparse", "--warning=no-file-ignored", *options, "."]
    done = subprocess.run(line, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


POSIX = ("--format=posix", "--xattrs", "--xattrs-include=*", "--acls")


def export_tar(repository: Repository, path: bytes = b"") -> bytes:
    """What the latest snapshot is exported as."""
    sink = MemorySink()
    place = find_dump(repository, "latest", path, SnapshotFilter(), Problems())
    dump(repository, place, "tar", sink, Problems(), never)
    return bytes(sink.data)


def comparable(seen: Mapping[bytes, Seen]) -> dict[bytes, Seen]:
    """A census without what a tar does not have: sockets, inode flags, where exactly data is; and, of GNU tar, which
    names of a fifo or a device are one.
    """
    sockets = {path for path, each in seen.items() if each.kind == 0o140000}
    return {
        path: replace(each, flags=0, data=(), names=each.names if each.kind in LINKED else ())
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


def make(aspect: str, source: Path) -> None:
    """Make an aspect, where that is possible."""
    try:
        ASPECTS[aspect](source)
    except OSError as error:
        pytest.skip(f"not possible here: {error}")


def restore_all(repository: Repository, result: BackupResult, tmp_path: Path) -> dict[bytes, Seen]:
    """What is there after a restore."""
    assert result.snapshot_id is not None
    restore_to(repository, result.snapshot_id, Path("/"), tmp_path / "out", verify=True)
    return comparable(census(tmp_path / "out"))


@pytest.mark.parametrize("aspect", [each for each in ASPECTS if each not in TAR_LOSES])
def test_what_gnu_tar_packed_is_restored(aspect: str, source: Path, tmp_path: Path) -> None:
    """Each ugly aspect comes back through GNU tar, an import and a restore."""
    make(aspect, source)
    before = comparable(census(source))
    repository, reporter = make_repository(), Problems()

    result = import_tar(repository, gnu_tar(source, *POSIX), reporter=reporter)

    assert reporter.found == []
    assert restore_all(repository, result, tmp_path) == before


@pytest.mark.parametrize("aspect", [each for each in ASPECTS if each not in TAR_LOSES])
def test_what_was_exported_is_imported(aspect: str, source: Path) -> None:
    """Exported, imported and exported again, it is the same archive."""
    make(aspect, source)
    repository = make_repository()
    back_up(repository, source)
    archive = export_tar(repository, os.fsencode(source).strip(b"/"))

    other = make_repository()
    import_tar(other, archive)

    assert export_tar(other) == archive


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=oldgnu"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
        ["--format=posix", "--sparse-version=1.0"],
    ],
)
def test_every_format_of_gnu_tar(options: list[str], source: Path, tmp_path: Path) -> None:
    """Long names, and files with holes, in each of the ways that were invented for them."""
    for aspect in ("holes", "names", "long_path", "hard_links"):
        (source / aspect).mkdir()
        ASPECTS[aspect](source / aspect)
    subprocess.run(["find", source, "-exec", "touch", "-hd", "@1600000000", "{}", "+"], check=True)
    repository = make_repository()

    result = import_tar(repository, gnu_tar(source, *options))

    loader = repository.loader
    sparse = restored_nodes(loader, result.snapshot.tree)["/holes/many"]
    assert (sparse.size, len(sparse.holes)) == (64 << 20, 30 * 16)
    assert restore_all(repository, result, tmp_path) == comparable(census(source))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_python_packed(form: int, source: Path, tmp_path: Path) -> None:
    """Another writer's archives; times are whole seconds in some formats."""
    ASPECTS["symlinks"](source)
    ASPECTS["modes"](source)
    for link in source.glob("link*"):
        if len(os.readlink(link)) > 99:
            link.unlink()
    subprocess.run(["find", source, "-exec", "touch", "-hd", "@1600000000", "{}", "+"], check=True)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        archive.add(source, ".")
    repository = make_repository()

    result = import_tar(repository, out.getvalue())

    assert restore_all(repository, result, tmp_path) == comparable(census(source))


def test_a_second_import_adds_nothing() -> None:
    """The same archive is the same tree, whenever it is imported (INV-7)."""
    repository = make_repository()
    run_backup(repository, {"/d/f": b"x" * 1000, "/d/g": Item(content=incompressible(1, 1 << 20)), "/e": b""})
    archive = export_tar(repository)
    first = import_tar(repository, archive)

    second = import_tar(repository, archive)

    assert second.snapshot.tree == first.snapshot.tree
    assert (second.stored.blobs_new, second.stored.bytes_stored) == (0, 0)


def packed(*members: tuple[str, dict[str, Any]]) -> bytes:
    """An archive of members by name, with fields of TarInfo; `content` is that of a file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, fields in members:
            content = fields.pop("content", b"")
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for key, value in fields.items():
                setattr(entry, key, value)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/../../b", "a/..", "..", "x/" * 20_000 + "x", "n" * 5000]
)  # fmt: skip
def test_names_that_lead_elsewhere_are_left_out(name: str) -> None:
    """They are reported; what is before and behind them is kept."""
    repository, reporter = make_repository(), Problems()
    archive = packed(("before", {"content": b"1"}), (name, {"content": b"evil"}), ("behind", {"content": b"2"}))

    result = import_tar(repository, archive, reporter=reporter)

    assert restored(repository.loader, result.snapshot.tree) == {"/before": b"1", "/behind": b"2"}
    assert len(reporter.found) == 1
    assert result.snapshot.summary.errors == 1


def test_absolute_names_begin_at_the_root_of_the_snapshot() -> None:
    """A slash in front means nothing, nor do dots and further slashes."""
    repository = make_repository()
    result = import_tar(repository, packed(("/etc//./x", {"content": b"1"}), ("./y", {"content": b"2"})))

    found = restored(repository.loader, result.snapshot.tree)
    assert found == {"/etc": b"<dir>", "/etc/x": b"1", "/y": b"2"}


def test_links_that_lead_elsewhere_are_left_out() -> None:
    """A hard link to what is not in the archive, comes later, is a directory, or is outside."""
    repository, reporter = make_repository(), Problems()
    link = {"type": tarfile.LNKTYPE}
    archive = packed(
        ("later", {**link, "linkname": "file"}),
        ("file", {"content": b"x"}),
        ("directory", {"type": tarfile.DIRTYPE}),
        ("to-directory", {**link, "linkname": "directory"}),
        ("outside", {**link, "linkname": "../../etc/passwd"}),
        ("good", {**link, "linkname": "./file"}),
    )

    result = import_tar(repository, archive, reporter=reporter)

    nodes = restored_nodes(repository.loader, result.snapshot.tree)
    assert sorted(nodes) == ["/directory", "/file", "/good"]
    assert nodes["/file"].links == nodes["/good"].links == 2
    assert nodes["/file"].inode == nodes["/good"].inode
    assert len(reporter.found) == 3


def test_nothing_is_written_through_a_symlink() -> None:
    """A member below something that is no directory is left out, as is a file where a directory is."""
    repository, reporter = make_repository(), Problems()
    archive = packed(
        ("link", {"type": tarfile.SYMTYPE, "linkname": "/etc"}),
        ("link/passwd", {"content": b"evil"}),
        ("d/f", {"content": b"x"}),
        ("d", {"content": b"no directory"}),
    )

    result = import_tar(repository, archive, reporter=reporter)

    assert sorted(restored_nodes(repository.loader, result.snapshot.tree)) == ["/d", "/d/f", "/link"]
    assert len(reporter.found) == 2


def test_what_was_appended_counts() -> None:
    """Of several members of one name the last is kept, with the names it has by then."""
    repository = make_repository()
    archive = packed(
        ("a", {"content": b"old"}),
        ("b", {"type": tarfile.LNKTYPE, "linkname": "a"}),
        ("d", {"type": tarfile.DIRTYPE, "mode": 0o700}),
        ("d/f", {"content": b"x"}),
        ("a", {"content": b"new"}),
        ("d", {"type": tarfile.DIRTYPE, "mode": 0o711}),
    )

    result = import_tar(repository, archive)

    nodes = restored_nodes(repository.loader, result.snapshot.tree)
    assert [file_content(repository.loader, nodes[name]) for name in ("/a", "/b", "/d/f")] == [b"new", b"old", b"x"]
    assert (nodes["/a"].links, nodes["/b"].links, nodes["/d"].mode) == (1, 1, 0o711)


def test_where_the_archive_goes() -> None:
    """It may go into a directory of the snapshot, which then has what the archive says of its root."""
    repository = make_repository()
    archive = packed((".", {"type": tarfile.DIRTYPE, "mode": 0o750}), ("f", {"content": b"x"}))

    result = import_tar(repository, archive, at=(b"srv", b"data"))

    nodes = restored_nodes(repository.loader, result.snapshot.tree)
    assert sorted(nodes) == ["/srv", "/srv/data", "/srv/data/f"]
    assert nodes["/srv/data"].mode == 0o750


def test_acls_with_names() -> None:
    """GNU tar writes names where it knows them: those that are known here count, others are told of."""
    reporter = Problems()
    warned: list[bytes] = []
    known = {"SCHILY.acl.access": "user::rw-,user:root:r--,group::r--,mask::r--,other::---"}
    unknown = {"SCHILY.acl.access": "user::rw-,user:nobody-we-know:r--,group::r--,mask::r--,other::---"}
    star = {"SCHILY.acl.access": "user::rw-,user:nobody-we-know:r--:77,group::r--,mask::r--,other::---"}
    plain = {"SCHILY.acl.access": "user::rw-,group::r--,other::---"}
    archive = packed(
        *((name, {"pax_headers": acl}) for name, acl in zip("abcd", (known, unknown, star, plain), strict=True))
    )
    source = TarSource(io.BytesIO(archive), (), reporter.problem, lambda path, message: warned.append(path))

    nodes = {member.node.name: member.node for member in source.members()}

    assert [len(nodes[name].xattrs) for name in (b"a", b"b", b"c", b"d")] == [1, 0, 1, 0]
    assert warned == [b"b"]


@pytest.fixture(scope="module")
def whole() -> bytes:
    """An archive with a bit of everything."""
    repository = make_repository()
    run_backup(
        repository,
        {
            "/d/f": b"x" * 2000,
            "/d/" + "long" * 60: b"y",
            "/d/link": Item(type="symlink", target=b"f" * 200),
            "/e": Item(content=incompressible(1, 600_000), xattrs=((b"user.x", b"y" * 3000),)),
        },
    )
    return export_tar(repository)


def test_a_truncated_archive_makes_no_snapshot(whole: bytes) -> None:
    """Wherever it ends, also between two members, before the block of zeros that is the end."""
    end = len(whole.rstrip(b"\0")) + 511 & ~511
    for at in {0, 1, 511, *range(512, end + 1, 512), *range(0, end, 40_009)}:
        repository = make_repository()
        with pytest.raises(MalformedTar):
            import_tar(repository, whole[:at])
        assert load_snapshots(repository) == {}


def test_an_archive_that_was_broken_off_makes_no_snapshot() -> None:
    """What a dump writes when it fails is told from an archive."""
    from bfrepo.exporter.tar import BROKEN_END

    with pytest.raises(MalformedTar, match="checksum"):
        import_tar(make_repository(), packed(("f", {"content": b"x"}))[:1024] + BROKEN_END)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_archives_are_errors_and_nothing_else(whole: bytes, data: st.DataObject) -> None:
    """Whatever is in an archive, it is imported or it is an error that has a message."""
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 12_000))
        damaged[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    for block in range(0, 12_288, 512):  # right checksums, so that what is behind them is reached
        if data.draw(st.booleans()):
            _sign(damaged, block)
    with suppress(BackupForgeError):
        import_tar(make_repository(), bytes(damaged), reporter=Problems())


def _sign(archive: bytearray, at: int) -> None:
    archive[at + 148 : at + 156] = b" " * 8
    archive[at + 148 : at + 156] = b"%06o\0 " % sum(archive[at : at + 512])


@given(st.binary(max_size=3000))
def test_noise_is_no_archive(noise: bytes) -> None:
    """Random bytes are refused."""
    if noise[:512].strip(b"\0"):
        with pytest.raises(MalformedTar):
            list(TarSource(io.BytesIO(noise), (), Problems().problem, Problems().warn).members())


def test_headers_that_claim_much_take_no_memory() -> None:
    """A long name or pax records of gigabytes are refused before they are read."""
    for kind in (b"L", b"x", b"g"):
        entry = tarfile.TarInfo("f")
        entry.type, entry.size = kind, 1 << 32
        head = entry.tobuf(tarfile.GNU_FORMAT)
        with pytest.raises(MalformedTar, match="at most"):
            import_tar(make_repository(), head + bytes(10_000))


def test_a_stop_makes_no_snapshot(whole: bytes) -> None:
    """Somebody asks to stop."""
    repository = make_repository()
    with pytest.raises(Interrupted):
        import_tar(repository, whole, cancelled=lambda: True)
    assert load_snapshots(repository) == {}


def test_an_archive_is_read_once(whole: bytes) -> None:
    """A second pass is an error that says so."""
    source = TarSource(io.BytesIO(whole), (), Problems().problem, Problems().warn)
    list(source.members())
    with pytest.raises(SourceError, match="read already"):
        next(source.members())
