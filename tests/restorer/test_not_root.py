"""A restore by somebody who is not the superuser: what cannot be theirs is left out without a word, what matters is
told.
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bfrepo.data.node import Node
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.restorer.restorer import restore
from tests.support.trees import MTIME, Recorder, TreeMaker, look

NOBODY = 65534
PR_SET_DUMPABLE = 4

pytestmark = pytest.mark.root


def as_nobody(place: Path, work: Callable[[], Any]) -> Any:
    """What `work` returns when a user without any rights does it in `place`."""
    place.chmod(0o777)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(place)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            ctypes.CDLL(None).prctl(
                PR_SET_DUMPABLE, 1
            )  # as for any process that did not begin as root: /proc/self is its own
            os.write(writer, json.dumps(work()).encode())
        except BaseException:
            os.write(writer, json.dumps(traceback.format_exc()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answers:
        answer = json.loads(answers.read())
    os.waitpid(child, 0)
    return answer


def restore_as_nobody(place: Path, make: TreeMaker, *nodes: Node, **options: Any) -> Any:
    """The errors of a restore into `target` in `place`."""
    tree = make.tree(*nodes)

    def work() -> Any:
        seen = Recorder()
        restore(make.blobs, tree, RestoreOptions(target=b"target", **options), seen)
        return [[os.fsdecode(path), why] for path, why in seen.errors]

    return as_nobody(place, work)


def test_owners_are_left_out_silently(make: TreeMaker, tmp_path: Path) -> None:
    """Files of others become ours, without their setuid bits and without an error; everything else is restored."""
    errors = restore_as_nobody(
        tmp_path,
        make,
        make.file("theirs", b"1", mode=0o6755, uid=4711, gid=4712),
        make.file("large", b"1" * 100_000, mode=0o4755, uid=4711, gid=NOBODY, xattrs=[(b"user.a", b"1")]),
        make.file("ours", b"1", mode=0o6755, uid=NOBODY, gid=NOBODY),
        make.directory("d", make.symlink("l", b"x", uid=4711), mode=0o2775, uid=4711, gid=4712),
        make.file("x", b"1", xattrs=[(b"security.capability", b"1"), (b"trusted.t", b"1")]),
    )

    assert errors == []
    found = look(tmp_path / "target")
    assert {path: entry[1] for path, entry in found.items()} == {
        b"/theirs": 0o755,
        b"/large": 0o755,
        b"/ours": 0o6755,
        b"/d": 0o775,
        b"/d/l": 0o777,
        b"/x": 0o644,
    }
    assert {entry[2:5] for entry in found.values()} == {(NOBODY, NOBODY, MTIME)}


def test_devices_are_told(make: TreeMaker, tmp_path: Path) -> None:
    """A device that cannot be made is reported; fifos need no rights."""
    errors = restore_as_nobody(
        tmp_path, make, make.node("c", "chardev", 0o666, rdev=os.makedev(1, 5)), make.node("p", "fifo", 0o600)
    )

    assert errors == [["/c", "Operation not permitted"]]
    assert stat.S_ISFIFO(os.lstat(tmp_path / "target/p").st_mode)


def test_read_only_directories(make: TreeMaker, tmp_path: Path) -> None:
    """A read-only directory is filled, and filled again later, and is read-only afterwards; so are files in it."""
    first = make.directory("d", make.file("f", b"1", mode=0o444), mode=0o555)
    again = make.directory("d", make.file("f", b"2222", mode=0o400), make.file("g", b"3" * 100_000), mode=0o555)

    errors = [restore_as_nobody(tmp_path, make, node) for node in (first, again)]

    assert errors == [[], []]
    found = {path: (entry[1], entry[5]) for path, entry in look(tmp_path / "target").items()}
    assert found == {b"/d": (0o555, None), b"/d/f": (0o400, b"2222"), b"/d/g": (0o644, b"3" * 100_000)}


def test_a_place_without_permission(make: TreeMaker, tmp_path: Path) -> None:
    """What cannot be written is reported item by item, and the rest is restored."""
    (tmp_path / "target/closed").mkdir(parents=True)
    (tmp_path / "target/theirs").write_bytes(b"old")
    (tmp_path / "target").chmod(0o777)
    (tmp_path / "target/closed").chmod(0o755)

    errors = restore_as_nobody(
        tmp_path,
        make,
        make.directory("closed", make.file("a", b"1"), make.file("b", b"1" * 100_000), make.symlink("c", b"x")),
        make.file("open", b"1"),
        make.file("theirs", b"new"),
        overwrite="always",
    )

    assert sorted(path for path, _ in errors) == ["/closed", "/closed/a", "/closed/b", "/closed/c"]
    assert {path: entry[5] for path, entry in look(tmp_path / "target").items()} == {
        b"/closed": None,
        b"/open": b"1",
        b"/theirs": b"new",
    }


def test_a_target_without_permission(make: TreeMaker, tmp_path: Path) -> None:
    """A target that cannot be made is one clear error."""
    (tmp_path / "closed").mkdir(mode=0o700)
    tree = make.tree(make.file("f", b"1"))

    def work() -> Any:
        try:
            restore(make.blobs, tree, RestoreOptions(target=b"closed/target"), Recorder())
        except Exception as error:
            return [type(error).__name__, str(error)]
        return None

    assert as_nobody(tmp_path, work) == ["TargetError", "cannot use closed/target as the target: Permission denied"]
