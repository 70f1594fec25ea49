"""What goes wrong on the way: damage, refusals, a full disk, Ctrl-C. What is whole is restored, and nothing false is
left behind.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bfrepo.core.errors import Interrupted, StorageError, TargetError
from bfrepo.core.ids import BlobKind
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.restorer.report import Counts
from bfrepo.restorer.restorer import restore
from tests.restorer.conftest import Restore
from tests.support.trees import MTIME, Recorder, TreeMaker, look


def test_a_damaged_blob_costs_the_files_that_need_it(make: TreeMaker, run: Restore, target: Path) -> None:
    """Files with a damaged blob are reported with it and are not left behind, large or small; all others are whole
    (INV-4).
    """
    lost = os.urandom(65_536)
    large = os.urandom(3 * 65_536) + lost + os.urandom(3 * 65_536)
    make.blobs.damaged.add(make.blobs.save(BlobKind.DATA, lost))

    summary, seen = run(
        make.file("a", lost), make.file("b", b"whole"), make.file("c", large), make.file("d", large[: 3 * 65_536])
    )

    assert sorted(look(target)) == [b"/b", b"/d"]
    assert [path for path, _ in sorted(seen.errors)] == [b"/a", b"/c"]
    assert all("does not hash to its ID" in why for _, why in seen.errors)
    assert (summary.errors, summary.files) == (2, Counts(created=2))


@pytest.mark.parametrize("threads", [1, 4])
def test_damage_everywhere(make: TreeMaker, run: Restore, target: Path, threads: int) -> None:
    """With every second blob of many large files damaged and many threads, each file is reported once and none
    remains.
    """
    blobs = [os.urandom(65_536) for _ in range(40)]
    make.blobs.damaged.update(make.blobs.save(BlobKind.DATA, each) for each in blobs[::2])

    summary, seen = run(
        *(make.file(f"bad{i}", b"".join(blobs[i : i + 9])) for i in range(30)),
        make.file("good", blobs[1] + blobs[3]),
        threads=threads,
    )

    assert os.listdir(target) == ["good"]
    assert (summary.errors, len(seen.errors)) == (30, 30)


def test_an_existing_file_with_a_damaged_blob(make: TreeMaker, run: Restore, target: Path) -> None:
    """A file that was updated in place and cannot be completed stays, but not with the snapshot's time."""
    parts = [os.urandom(65_536) for _ in range(3)]
    make.blobs.damaged.add(make.blobs.save(BlobKind.DATA, parts[1]))
    target.mkdir()
    (target / "f").write_bytes(b"old" * 65_536)

    _, seen = run(make.file("f", b"".join(parts)))

    assert [path for path, _ in seen.errors] == [b"/f"]
    assert os.stat(target / "f").st_mtime_ns != MTIME


def test_a_missing_blob_is_known_before_anything_is_touched(make: TreeMaker, run: Restore, target: Path) -> None:
    """A file with a blob that no pack holds is reported; what exists under its name stays as it is."""
    parts = [os.urandom(65_536) for _ in range(3)]
    make.blobs.missing.add(make.blobs.save(BlobKind.DATA, parts[1]))
    target.mkdir()
    (target / "f").write_bytes(b"old")

    _, seen = run(make.file("f", b"".join(parts)), make.file("g", parts[1]), make.file("h", parts[0]))

    assert [path for path, _ in seen.errors] == [b"/f", b"/g"]
    assert "is in no pack" in seen.errors[0][1]
    assert (target / "f").read_bytes() == b"old"
    assert sorted(os.listdir(target)) == ["f", "h"]


def test_no_link_to_what_could_not_be_restored(make: TreeMaker, run: Restore, target: Path) -> None:
    """Further names of a file that failed are reported, and not linked to what stood under its first name."""
    same: dict[str, Any] = {"inode": 7, "device": 1, "links": 2}
    lost = make.blobs.save(BlobKind.DATA, b"lost")
    for bad in (make.blobs.damaged, make.blobs.missing):
        bad.add(lost)
        target.mkdir(exist_ok=True)
        (target / "a").write_bytes(b"old")

        _, seen = run(make.file("a", b"lost", **same), make.file("b", b"lost", **same))

        assert [path for path, _ in seen.errors] == [b"/a", b"/b"]
        assert seen.errors[1][1] == "it is the same file as /a, which could not be restored"
        assert os.listdir(target) == ["a"]


def test_small_files_that_fail_while_a_large_one_is_opened(make: TreeMaker, run: Restore, target: Path) -> None:
    """Files that wait to be made, and fail because somebody else has made them, do not hold up the file that is
    next.
    """
    full = 64  # as many directories as a thread keeps open

    def make_them_first(frame: int) -> None:
        del frame
        for i in range(full):
            (target / f"d{i:02}/f").touch()

    make.blobs.before_frame = make_them_first
    nodes = [make.directory(f"d{i:02}", make.file("f", b"%d" % i)) for i in range(full)]

    summary, seen = run(*nodes, make.directory("z", make.file("large", os.urandom(100_000))), threads=1)

    assert {why for _, why in seen.errors} == {"File exists"}
    assert (summary.errors, os.stat(target / "z/large").st_size) == (full, 100_000)


def test_a_directory_that_cannot_be_made(make: TreeMaker, run: Restore, target: Path) -> None:
    """A directory that cannot be made is reported once, not once for everything in it."""
    target.mkdir()
    (target / "d").mkdir()
    (target / "d/full").write_bytes(b"")
    many = [make.file(f"{i}", b"%d" % i) for i in range(10)]
    name = "n" * 256

    summary, seen = run(
        make.directory(name, *many, make.directory("inner", *many), make.symlink("l", b"x"), make.file("e")),
        make.file("ok", b"1"),
    )

    assert seen.errors == [(b"/" + name.encode(), "File name too long")]
    assert (summary.errors, sorted(os.listdir(target))) == (1, ["d", "ok"])


@pytest.mark.root
@pytest.mark.parametrize("size", [1000, 100_000, 3_000_000])
def test_a_full_disk(make: TreeMaker, tmpfs: Path, size: int) -> None:
    """A full disk ends the restore with one clear error; no incomplete file is left."""
    contents = {f"f{i:04}": os.urandom(size) for i in range(max(4_000_000 // size, 1))}
    tree = make.tree(*(make.file(name, content) for name, content in contents.items()))

    with pytest.raises(TargetError, match="no space left") as caught:
        restore(make.blobs, tree, RestoreOptions(target=bytes(tmpfs)), Recorder())

    assert caught.value.hint is not None
    assert caught.value.hint.startswith("make room")
    assert [name for name in os.listdir(tmpfs) if (tmpfs / name).read_bytes() != contents[name]] == []


def test_interrupted(make: TreeMaker, target: Path) -> None:
    """Ctrl-C ends a restore soon, and what is there then is whole."""
    contents = {f"f{i:03}": os.urandom(200_000) for i in range(40)}
    tree = make.tree(*(make.file(name, content) for name, content in contents.items()))
    seen = Recorder()

    with pytest.raises(Interrupted):
        restore(
            make.blobs,
            tree,
            RestoreOptions(target=bytes(target)),
            seen,
            cancelled=lambda: seen.bytes_done > 1_000_000,
        )

    assert 0 < len(os.listdir(target)) < 40
    assert [name for name in os.listdir(target) if (target / name).read_bytes() != contents[name]] == []


def test_a_repository_that_goes_away(make: TreeMaker, target: Path) -> None:
    """An error of the storage ends the restore with that error, from whatever thread it came."""
    tree = make.tree(*(make.file(f"f{i:03}", os.urandom(200_000)) for i in range(40)))

    def fail(frame: int) -> None:
        if len(make.blobs.frames_read) > 3:
            raise StorageError(f"the disk with frame {frame} was pulled out")

    make.blobs.before_frame = fail
    with pytest.raises(StorageError, match="was pulled out"):
        restore(make.blobs, tree, RestoreOptions(target=bytes(target)), Recorder())


def test_descriptors_are_given_back(make: TreeMaker, run: Restore) -> None:
    """However a restore ends, it leaves no descriptor open."""
    before = len(os.listdir("/proc/self/fd"))
    lost = os.urandom(65_536)
    make.blobs.damaged.add(make.blobs.save(BlobKind.DATA, lost))
    nodes = [
        make.directory(
            f"d{i}",
            make.file("f", os.urandom(100_000)),
            make.file("g", os.urandom(70_000) + lost),
            make.symlink("l", b"x"),
        )
        for i in range(80)
    ]

    run(*nodes)
    run(*nodes, overwrite="always", delete=True, verify=True)
    run(*nodes, dry_run=True)
    with pytest.raises(Interrupted):
        restore(
            make.blobs,
            make.tree(*nodes),
            RestoreOptions(target=b"/nowhere", dry_run=True),
            Recorder(),
            cancelled=lambda: True,
        )

    assert len(os.listdir("/proc/self/fd")) == before
