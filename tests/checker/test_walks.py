"""The two walks of a check: what is in doubt, and what depends on it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bfrepo.checker.dependents import Cause, Dependents, DependentsWalk
from bfrepo.checker.findings import LISTED, AffectedSnapshot
from bfrepo.checker.structure import survey_trees
from bfrepo.core.errors import Interrupted, MissingBlob
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Progress
from bfrepo.data.node import Node
from bfrepo.data.records import save_records
from bfrepo.data.tree import decode_tree, save_tree
from tests.support.backups import never
from tests.support.blobs import MemoryBlobs
from tests.support.trees import TreeMaker

PACK = Cause("pack", b"\1" * 32)
OTHER_PACK = Cause("pack", b"\2" * 32)
SNAPSHOT = AffectedSnapshot(b"\3" * 32, "2024-05-17T12:00:00+00:00")


class Sizes:
    """See BlobSizes: asks the loader, one by one."""

    def __init__(self, blobs: MemoryBlobs, trees: set[bytes] | None = None) -> None:
        self._blobs = blobs
        self._trees = trees or set()

    def data_sizes(self, blob_ids: Sequence[bytes]) -> list[int]:
        """See BlobSizes."""
        return [self._size(blob_id) for blob_id in blob_ids]

    def _size(self, blob_id: bytes) -> int:
        try:
            return -1 if blob_id in self._trees else self._blobs.place(blob_id).size
        except MissingBlob:
            return -1


@pytest.fixture
def make() -> TreeMaker:
    """Makes nodes and trees."""
    return TreeMaker(blob_size=100)


def doubtful(make: TreeMaker, *roots: bytes) -> set[bytes]:
    """What the first walk has doubts about."""
    return survey_trees(make.blobs, Sizes(make.blobs), roots, Progress(), never).doubtful


def walk(make: TreeMaker, causes: dict[bytes, Cause], *roots: bytes) -> DependentsWalk:
    """The second walk over a snapshot for each root."""
    found = DependentsWalk(make.blobs, Sizes(make.blobs), causes.get, never)
    for number, root in enumerate(roots):
        found.add(AffectedSnapshot(bytes([number]) * 32, ""), root)
    return found


def content_of(node: Node, number: int = 0) -> bytes:
    """One of the blobs of a file."""
    return node.content[32 * number : 32 * (number + 1)]


# --- the first walk


def test_nothing_is_in_doubt_where_all_adds_up(make: TreeMaker) -> None:
    """Files of no, one and many blobs, with and without holes, links and directories: trees and nodes are counted."""
    root = make.tree(
        make.file("empty"),
        make.file("one", b"a" * 100),
        make.file("many", b"b" * 450),
        make.file("sparse", b"c" * 100 + bytes(200) + b"d" * 50, holes=[(100, 200)]),
        make.symlink("link", b"one"),
        make.directory("below", make.file("more", b"e" * 10)),
    )
    survey = survey_trees(make.blobs, Sizes(make.blobs), [root, root], Progress(), never)

    assert (survey.doubtful, survey.trees, survey.nodes) == (set(), 2, 7)


@pytest.mark.parametrize("length", [100, 450])
def test_a_missing_blob_is_in_doubt(make: TreeMaker, length: int) -> None:
    """A file whose blob the index does not name."""
    file = make.file("file", bytes(number % 251 for number in range(length)))
    root = make.tree(file)
    make.blobs.missing.add(content_of(file))

    assert content_of(file) in doubtful(make, root)


def test_a_blob_of_another_size_is_in_doubt(make: TreeMaker) -> None:
    """The node says more than its blob has: one of the two is wrong, and so is the tree or the index."""
    file = make.file("file", b"a" * 100, size=101)
    root = make.tree(file)

    assert doubtful(make, root) == {content_of(file), root}


def test_a_tree_that_does_not_load_is_in_doubt(make: TreeMaker) -> None:
    """A damaged tree does not end the walk."""
    below = make.directory("below", make.file("file", b"a"))
    wrong = make.file("wrong", b"b" * 10, size=11)
    beside = make.directory("beside", wrong)
    root = make.tree(below, beside)
    make.blobs.damaged.add(below.subtree)

    assert doubtful(make, root) == {below.subtree, beside.subtree, content_of(wrong)}


def test_a_damaged_list_of_blobs_is_in_doubt(make: TreeMaker) -> None:
    """The IDs of a large file's blobs are in blobs of their own, which are read as well."""
    ids = b"".join(make.blobs.save(BlobKind.DATA, number.to_bytes(2, "big")) for number in range(600))
    content, depth = save_records(make.blobs, ids, 32)
    assert depth == 1
    root = make.tree(make.node("large", "file", size=1200, content=content, content_depth=depth))
    assert doubtful(make, root) == set()

    make.blobs.damaged.add(content[:32])

    assert content[:32] in doubtful(make, root)


def test_the_first_walk_stops_when_asked(make: TreeMaker) -> None:
    """Interrupted, and nothing else, ends the walk early."""
    with pytest.raises(Interrupted):
        survey_trees(make.blobs, Sizes(make.blobs), [make.tree()], Progress(), lambda: True)


# --- the second walk


def test_files_and_snapshots_that_depend_on_a_pack(make: TreeMaker) -> None:
    """Each file with a lost blob is named once, and each snapshot that has it."""
    lost, whole = make.file("lost", b"".join(bytes([n]) * 100 for n in range(5))), make.file("whole", b"w")
    first, second = make.tree(make.directory("d", lost, whole)), make.tree(make.directory("e", whole))
    causes = {content_of(lost, 1): PACK, content_of(lost, 3): PACK, content_of(lost, 4): OTHER_PACK}

    found = walk(make, causes, first, second, first).found

    assert set(found) == {PACK, OTHER_PACK}
    assert [snapshot.id[0] for snapshot in found[PACK].snapshots] == [0, 2]
    assert (list(found[PACK].files), found[PACK].files_count) == ([b"/d/lost"], 1)
    assert list(found[OTHER_PACK].files) == [b"/d/lost"]


def test_a_tree_at_several_paths(make: TreeMaker) -> None:
    """A directory that was moved is the same tree: its files are named under both paths."""
    lost = make.file("lost", b"x")
    here, there = make.tree(make.directory("here", lost)), make.tree(make.directory("there", lost))

    found = walk(make, {content_of(lost): PACK}, here, there).found

    assert set(found[PACK].files) == {b"/here/lost", b"/there/lost"}
    assert len(found[PACK].snapshots) == 2


def test_a_lost_directory_stands_for_what_is_in_it(make: TreeMaker) -> None:
    """Nobody can tell what was in a directory that cannot be read."""
    below = make.directory("below", make.file("file", b"x"))
    root = make.tree(below)
    make.blobs.damaged.add(below.subtree)

    found = walk(make, {below.subtree: PACK}, root).found

    assert list(found[PACK].files) == [b"/below"]


def test_a_tree_with_nobody_else_to_blame(make: TreeMaker) -> None:
    """What is wrong though every blob can be had is put down to the tree itself."""
    wrong = make.tree(make.file("wrong", b"x", size=2))

    found = walk(make, {}, wrong)

    assert list(found.found[Cause("tree", wrong)].files) == [b"/wrong"]
    assert "its size is 2" in str(found.tree_errors[wrong])


def test_directories_deeper_than_recursion(make: TreeMaker) -> None:
    """Two thousand directories below each other are walked like any other."""
    lost = make.file("lost", b"x")
    tree = make.tree(lost)
    for _ in range(2000):
        tree = make.tree(make.node("d", "dir", subtree=tree))

    found = walk(make, {content_of(lost): PACK}, tree).found

    assert list(found[PACK].files) == [b"/d" * 2000 + b"/lost"]


def test_many_files_are_counted_and_some_listed(make: TreeMaker) -> None:
    """A finding lists a few files and counts the others."""
    files = [make.file(f"{number:03}", b"the same") for number in range(100)]

    found = walk(make, {content_of(files[0]): PACK}, make.tree(*files)).found

    assert (len(found[PACK].files), found[PACK].files_count) == (LISTED, 100)


def test_a_part_of_a_large_directory(make: TreeMaker) -> None:
    """A directory in several blobs is lost with any of them."""
    nodes = [make.node(f"{number:05}", "symlink", target=b"x") for number in range(6000)]
    root = save_tree(make.blobs, nodes)
    parts = decode_tree(root, make.blobs.load(BlobKind.TREE, root))[1]
    make.blobs.damaged.add(parts[-1])

    assert list(walk(make, {parts[-1]: PACK}, root).found) == [PACK]


def test_dependents_count_a_path_once() -> None:
    """The same path of two snapshots is one file."""
    dependents = Dependents()
    for _ in range(2):
        dependents.add_file(b"/a")

    assert (list(dependents.files), dependents.files_count) == ([b"/a"], 1)
