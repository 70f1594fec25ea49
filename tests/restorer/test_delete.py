"""--delete and --dry-run: what goes, what stays, and what is only said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.restorer.conftest import Restore
from tests.support.trees import TreeMaker, look


def plant(target: Path, *names: str) -> None:
    """Existing files, with the directories around them."""
    for name in names:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_what_is_not_in_the_snapshot_goes(make: TreeMaker, run: Restore, target: Path, tmp_path: Path) -> None:
    """Files, directories with all they hold, fifos and symlinks go; what a symlink points to stays."""
    plant(target, "x", "d/y", "d/deep/er/z")
    plant(tmp_path / "outside", "precious")
    (target / "d/link").symlink_to(tmp_path / "outside")
    os.mkfifo(target / "d/deep/fifo")

    summary, seen = run(make.directory("d", make.file("f", b"f")), delete=True)

    assert sorted(look(target)) == [b"/d", b"/d/f"]
    assert sorted(seen.removed) == [b"/d/deep", b"/d/link", b"/d/y", b"/x"]
    assert summary.removed == 4
    assert (tmp_path / "outside/precious").exists()


def test_without_delete_everything_stays(make: TreeMaker, run: Restore, target: Path) -> None:
    """Nothing is removed unless that was asked for."""
    plant(target, "x", "d/y")

    summary, _ = run(make.directory("d", make.file("f", b"f")))

    assert sorted(look(target)) == [b"/d", b"/d/f", b"/d/y", b"/x"]
    assert summary.removed == 0


def test_what_is_not_selected_stays(make: TreeMaker, run: Restore, target: Path) -> None:
    """Removing respects the selection, inside of what is removed too; a directory stays while something in it does."""
    plant(target, "a.log", "b", "gone/c", "half/d.log", "half/e", "half/f/g")

    def selection(path: bytes, is_dir: bool) -> tuple[bool, bool]:
        del is_dir
        chosen = not path.endswith(b".log")
        return chosen, chosen

    _, seen = run(make.file("n", b"n"), make.file("saved.log", b"x"), delete=True, selection=selection)

    assert sorted(look(target)) == [b"/a.log", b"/half", b"/half/d.log", b"/n"]
    assert sorted(seen.removed) == [b"/b", b"/gone"]


def test_what_is_in_the_snapshot_but_not_selected_stays(make: TreeMaker, run: Restore, target: Path) -> None:
    """An entry that the snapshot has is never too much, selected or not."""
    plant(target, "kept", "d/kept")

    def selection(path: bytes, is_dir: bool) -> tuple[bool, bool]:
        return not path.endswith(b"kept"), is_dir

    run(make.file("kept"), make.directory("d", make.file("kept")), delete=True, selection=selection)

    assert ((target / "kept").read_text(), (target / "d/kept").read_text()) == ("kept", "d/kept")


def test_a_directory_in_the_way_goes_with_delete(make: TreeMaker, run: Restore, target: Path) -> None:
    """With delete, a directory with something in it gives way to a file, a symlink and a hard link."""
    plant(target, "f/a/b", "l/a/b", "x/y", "z/y")
    same: dict[str, Any] = {"inode": 7, "device": 1, "links": 2}

    _, seen = run(
        make.file("f", b"file"),
        make.symlink("l", b"x"),
        make.file("x", b"x", **same),
        make.file("z", b"x", **same),
        delete=True,
    )

    assert seen.errors == []
    assert {path: entry[5] for path, entry in look(target).items()} == {
        b"/f": b"file",
        b"/l": b"x",
        b"/x": b"x",
        b"/z": b"x",
    }


def test_nothing_is_removed_where_the_tree_is_damaged(make: TreeMaker, run: Restore, target: Path) -> None:
    """A directory whose tree cannot be loaded is reported and keeps everything it has."""
    plant(target, "d/kept", "x")
    node = make.directory("d", make.file("f", b"f"))
    make.blobs.damaged.add(node.subtree)

    summary, seen = run(node, delete=True)

    assert sorted(look(target)) == [b"/d", b"/d/kept"]
    assert ([path for path, _ in seen.errors], summary.errors, seen.removed) == ([b"/d"], 1, [b"/x"])


@pytest.mark.root
def test_mounts_are_not_entered(make: TreeMaker, run: Restore, target: Path, tmpfs: Path) -> None:
    """What is mounted below a directory that goes is neither entered nor emptied."""
    plant(target, "d/f")
    plant(tmpfs, "precious")
    (target / "d/mounted").mkdir()
    os.system(f"mount --bind {tmpfs} {target}/d/mounted")  # noqa: S605
    try:
        run(make.file("n", b"n"), delete=True)
    finally:
        os.system(f"umount {target}/d/mounted")  # noqa: S605

    assert (tmpfs / "precious").read_text() == "precious"
    assert sorted(look(target)) == [b"/d", b"/d/mounted", b"/n"]


def test_a_dry_run_touches_nothing(make: TreeMaker, run: Restore, target: Path) -> None:
    """A dry run tells what a real run then does, and changes neither contents, metadata nor times of anything."""
    plant(target, "changed", "extra", "d/extra", "dir-in-the-way/x", "z-was-file")
    (target / "empty").mkdir()
    target.chmod(0o755)
    nodes = (
        make.file("changed", b"other"),
        make.directory("d", make.file("new", b"1"), make.directory("new-dir", make.file("f", b"2"))),
        make.symlink("l", b"x"),
        make.node("p", "fifo", 0o600),
        make.file("dir-in-the-way", b"x"),
        make.directory("z-was-file", make.file("f", b"3", inode=7, device=1, links=2)),
        make.file("z-link", b"3", inode=7, device=1, links=2),
    )
    before, times = look(target), ctimes(target)

    dry, said = run(*nodes, delete=True, dry_run=True)

    assert (look(target), ctimes(target)) == (before, times)
    assert said.errors == []
    real, done = run(*nodes, delete=True)
    assert said.outcomes == done.outcomes
    assert sorted(said.removed) == sorted(done.removed) == [b"/d/extra", b"/empty", b"/extra"]
    assert (dry.files, dry.directories, dry.others) == (real.files, real.directories, real.others)
    assert (dry.bytes_total, dry.bytes_written) == (real.bytes_total, 0)


def test_a_dry_run_into_nothing(make: TreeMaker, run: Restore, target: Path) -> None:
    """A dry run into a target that does not exist tells everything and does not make it."""
    _, said = run(make.directory("d", make.file("f", b"x" * 100_000)), dry_run=True)

    assert not target.exists()
    assert said.outcomes == {b"/d": "created", b"/d/f": "created"}


def ctimes(target: Path) -> dict[str, int]:
    """When each entry, and the target itself, was last changed in any way."""
    return {str(path): os.lstat(path).st_ctime_ns for path in [target, *target.rglob("*")]}
