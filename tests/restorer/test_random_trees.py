"""Random trees over random trees: whatever stood in the target, afterwards it is the snapshot."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bfrepo.data.node import Node
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.restorer.restorer import restore
from tests.support.trees import MTIME, Recorder, TreeMaker, look

NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff", b"d e"])
MODES = st.sampled_from([0o600, 0o644, 0o755, 0o700, 0o4755])
DIRECTORY_MODES = st.sampled_from([0o700, 0o755, 0o1777])
TIMES = st.sampled_from([MTIME, MTIME + 1, -5, 10**18])
XATTRS = st.lists(
    st.tuples(st.sampled_from([b"user.a", b"user.b"]), st.binary(max_size=5)), max_size=2, unique_by=lambda x: x[0]
)
CONTENT = st.tuples(
    st.sampled_from([b"", b"x", b"same", b"0123456789" * 20, bytes(64), bytes(100) + b"end"]), st.integers(0, 3)
)
FILES = st.tuples(st.just("file"), CONTENT, MODES, TIMES, XATTRS.map(sorted))
LINKS: st.SearchStrategy[Any] = st.tuples(
    st.just("symlink"), st.sampled_from([b"a", b"/nowhere", b"../.."]), st.just(0o777), TIMES, st.just([])
)
FIFOS: st.SearchStrategy[Any] = st.tuples(st.just("fifo"), st.just(None), MODES, TIMES, st.just([]))
SHARED: st.SearchStrategy[Any] = st.tuples(
    st.just("shared"), st.sampled_from([1, 2]), st.just(0o640), st.just(MTIME), st.just([])
)
LEAVES = FILES | FILES | LINKS | FIFOS | SHARED
TREES: st.SearchStrategy[Any] = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=4),
    lambda inner: st.dictionaries(
        NAMES, LEAVES | st.tuples(st.just("dir"), inner, DIRECTORY_MODES, TIMES, XATTRS.map(sorted)), max_size=5
    ),
    max_leaves=12,
)


def node_of(make: TreeMaker, name: bytes, entry: Any) -> Node:
    """The node for one entry of a model; all entries that share a number are names of one file."""
    kind, what, mode, mtime_ns, xattrs = entry
    more = {"mode": mode, "mtime_ns": mtime_ns, "xattrs": xattrs}
    if kind == "dir":
        return make.directory(name, *(node_of(make, each, inner) for each, inner in what.items()), **more)
    if kind == "shared":
        return make.file(name, shared_content(what), inode=what, device=9, links=50, **more)
    if kind == "file":
        content, repeat = what
        content *= repeat
        holes = [(0, 64)] if content[:64] == bytes(64) else []
        return make.file(name, content, holes, **more)
    return make.node(name, kind, target=what or b"", **more)


def shared_content(number: int) -> bytes:
    """The content of a file that has several names."""
    return b"%d" % number * 100


def check_links(tree: Any, target: Path) -> None:
    """All names that share a number are one file, and no others are."""
    inodes: dict[int, set[int]] = {}

    def collect(entries: Any, directory: bytes) -> None:
        for name, (kind, what, *_) in entries.items():
            path = os.path.join(directory, name)
            if kind == "dir":
                collect(what, path)
            elif kind == "shared":
                inodes.setdefault(what, set()).add(os.lstat(path).st_ino)
            else:
                assert os.lstat(path).st_nlink == 1

    collect(tree, bytes(target))
    assert [len(each) for each in inodes.values()] == [1] * len(inodes)
    assert len(set().union(*inodes.values())) == len(inodes)


def expected(tree: Any, path: bytes = b"") -> dict[bytes, tuple[object, ...]]:
    """What `look` finds when the model stands there."""
    found: dict[bytes, tuple[object, ...]] = {}
    formats = {
        "shared": stat.S_IFREG,
        "file": stat.S_IFREG,
        "dir": stat.S_IFDIR,
        "symlink": stat.S_IFLNK,
        "fifo": stat.S_IFIFO,
    }
    for name, (kind, what, mode, mtime_ns, xattrs) in tree.items():
        here = path + b"/" + name
        content = what[0] * what[1] if kind == "file" else what if kind == "symlink" else None
        content = shared_content(what) if kind == "shared" else content
        names = {each.decode(): value for each, value in xattrs}
        found[here] = formats[kind], mode, os.geteuid(), os.getegid(), mtime_ns, content, names
        if kind == "dir":
            found |= expected(what, here)
    return found


@settings(max_examples=60)
@given(before=TREES, after=TREES, threads=st.integers(1, 3), verify=st.booleans())
def test_a_target_becomes_the_snapshot(before: Any, after: Any, threads: int, verify: bool) -> None:
    """With `always` and delete, any tree restored over any other leaves exactly the one that was restored last."""
    make = TreeMaker(blob_size=64)
    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "target"
        for tree in (before, after):
            seen = Recorder()
            root = make.tree(*(node_of(make, name, entry) for name, entry in tree.items()))
            options = RestoreOptions(
                target=bytes(target), overwrite="always", delete=True, threads=threads, verify=verify
            )
            summary = restore(make.blobs, root, options, seen)

            assert seen.errors == []
            assert look(target) == expected(tree)
            check_links(tree, target)
            assert summary.bytes_total == seen.bytes_done
            assert set(seen.outcomes) == set(expected(tree))


@settings(max_examples=40)
@given(before=TREES, after=TREES, overwrite=st.sampled_from(["always", "if-changed", "if-newer", "never"]))
def test_a_dry_run_changes_nothing_and_tells_the_truth(before: Any, after: Any, overwrite: Any) -> None:
    """A dry run leaves every byte and time, and names the entries that a real run then makes, mends and removes."""
    make = TreeMaker(blob_size=64)
    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "target"
        roots = [make.tree(*(node_of(make, name, entry) for name, entry in tree.items())) for tree in (before, after)]
        restore(make.blobs, roots[0], RestoreOptions(target=bytes(target)), Recorder())
        standing = look(target)
        said, done = Recorder(), Recorder()
        for dry_run, seen in ((True, said), (False, done)):
            options = RestoreOptions(target=bytes(target), overwrite=overwrite, delete=True, dry_run=dry_run)
            restore(make.blobs, roots[1], options, seen)
            if dry_run:
                assert look(target) == standing

        assert said.errors == done.errors == []
        assert sorted(said.removed) == sorted(done.removed)
        assert said.outcomes.keys() == done.outcomes.keys()
        differing = {path for path in said.outcomes if said.outcomes[path] != done.outcomes[path]}
        assert {(said.outcomes[path], done.outcomes[path]) for path in differing} <= {
            ("updated", "unchanged"),
            ("unchanged", "updated"),
        }
