"""Trees: equal directories are equal bytes, large ones are stored in parts, and nothing unsafe is read from one."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.core.errors import DamagedObject, UnsupportedFormat
from bfrepo.core.ids import BlobKind
from bfrepo.data.node import Node, is_safe_name
from bfrepo.data.references import content_ids, list_blobs, reachable, walk_trees
from bfrepo.data.tree import load_tree, load_tree_blobs, save_tree, stored_nodes, with_subtree
from tests.data.test_records import CountingBlobs
from tests.support.blobs import MemoryBlobs

TREE = BlobKind.TREE


def stored(blobs: MemoryBlobs, content: object) -> bytes:
    """A tree blob with this content, whatever it is."""
    return blobs.save(TREE, msgspec.msgpack.encode(content))


def files(count: int) -> list[Node]:
    """Nodes of files with a blob each, sorted."""
    return [
        Node(name=b"%06d" % number, mode=0o644, size=10, mtime_ns=number, content=number.to_bytes(32, "little"))
        for number in range(count)
    ]


names = st.binary(min_size=1, max_size=20).filter(is_safe_name)
u32 = st.integers(0, 0xFFFF_FFFF)
times = st.integers(-(1 << 63), (1 << 63) - 1)
nodes = st.builds(
    Node,
    name=names,
    type=st.sampled_from(["file", "dir", "symlink", "blockdev", "chardev", "fifo", "socket"]),
    mode=st.integers(0, 0o7777),
    uid=u32,
    gid=u32,
    user=st.text(max_size=5),
    mtime_ns=times,
    ctime_ns=times,
    btime_ns=st.none() | times,
    atime_ns=st.none() | times,
    inode=st.integers(0, (1 << 64) - 1),
    device=st.integers(0, (1 << 64) - 1),
    links=u32,
    size=st.integers(0, (1 << 63) - 1),
    rdev=st.integers(0, (1 << 64) - 1),
    target=st.binary(max_size=20),
    xattrs=st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=20)), max_size=3),
    flags=u32,
    content=st.binary(max_size=64).map(lambda data: data[: len(data) // 32 * 32]),
    subtree=st.just(bytes(32)),
)


@given(made=st.lists(nodes, max_size=10, unique_by=lambda node: node.name))
def test_round_trip(made: list[Node]) -> None:
    """INV-7: every field of every node comes back, and the same entries are the same bytes with the same ID."""
    blobs = MemoryBlobs()
    entries = sorted(made, key=lambda node: node.name)
    tree_id = save_tree(blobs, entries)
    assert load_tree(blobs, tree_id) == entries
    assert save_tree(blobs, load_tree(blobs, tree_id)) == tree_id


@pytest.mark.parametrize("count", [0, 1, 4096, 4097, 20_000])
def test_large_directories(count: int) -> None:
    """A directory of any size comes back in order; a large one is stored in parts."""
    blobs = MemoryBlobs()
    tree_id = save_tree(blobs, files(count))
    found, parts = load_tree_blobs(blobs, tree_id)
    assert found == files(count)
    assert bool(parts) == (count > 4096)


@pytest.mark.parametrize("at", [0, 31_415, 99_999])
def test_one_more_entry_in_a_large_directory(at: int) -> None:
    """In a directory of 100,000 entries, one that is added, changed or removed stores few nodes again."""
    blobs = CountingBlobs()
    entries = files(100_000)
    save_tree(blobs, entries)
    whole = sum(blobs.new)
    added = Node(name=entries[at].name + b"x", size=1)
    changed = msgspec.structs.replace(entries[at], mtime_ns=7)
    for edited in (
        [*entries[: at + 1], added, *entries[at + 1 :]],
        [*entries[:at], changed, *entries[at + 1 :]],
        [*entries[:at], *entries[at + 1 :]],
    ):
        blobs.new.clear()
        tree_id = save_tree(blobs, edited)
        assert load_tree(blobs, tree_id) == edited
        assert len(blobs.new) <= 4
        assert sum(blobs.new) < whole / 8


def test_few_entries_of_many_bytes() -> None:
    """A directory of few nodes that are long is cut as well, so that no tree blob is larger than a frame may be."""
    blobs = CountingBlobs()
    entries = [Node(name=b"%03d" % number, xattrs=[(b"user.x", bytes(60_000))]) for number in range(200)]
    assert load_tree(blobs, save_tree(blobs, entries)) == entries
    assert max(blobs.new) < 4 << 20


@pytest.mark.parametrize("name", [b"..", b".", b"a/b", b"/", b"a\0b", b"../x"])
def test_unsafe_names_are_refused(name: bytes) -> None:
    """A name that could lead out of its directory is never returned."""
    blobs = MemoryBlobs()
    assert not is_safe_name(name)
    for content in ([Node(name=name)], [Node(name=b"!"), Node(name=name)]):
        with pytest.raises(DamagedObject, match="not allowed"):
            load_tree(blobs, save_tree(blobs, content))


@pytest.mark.parametrize("order", [b"ba", b"aa", b"abb"])
def test_order_is_checked(order: bytes) -> None:
    """Names out of order, or twice, are damage: two files of one name would overwrite each other."""
    blobs = MemoryBlobs()
    with pytest.raises(DamagedObject, match="out of order"):
        load_tree(blobs, save_tree(blobs, [Node(name=bytes([each])) for each in order]))


def test_order_across_parts() -> None:
    """Order is checked across the parts of a large directory too."""
    blobs = MemoryBlobs()
    parts = [stored(blobs, [1, [{"n": name}], b""]) for name in (b"b", b"a")]
    with pytest.raises(DamagedObject, match="out of order"):
        load_tree(blobs, stored(blobs, [1, [], b"".join(parts)]))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ([2, [], b""], UnsupportedFormat),
        ({}, DamagedObject),
        ([1], DamagedObject),
        ([1, [{}], b""], DamagedObject),
        ([1, [{"n": b""}], b""], DamagedObject),
        ([1, [{"n": b"a", "t": "door"}], b""], DamagedObject),
        ([1, [{"n": b"a", "m": 0o10000}], b""], DamagedObject),
        ([1, [{"n": b"a", "s": -1}], b""], DamagedObject),
        ([1, [{"n": b"a", "O": 5}], b""], DamagedObject),
        ([1, [], b"short"], DamagedObject),
        ([1, [{"n": b"a", "t": "dir"}], b""], DamagedObject),
    ],
    ids=str,
)
def test_malformed(content: object, error: type[Exception]) -> None:
    """What is no tree is damage, and what is newer is unknown."""
    blobs = MemoryBlobs()
    with pytest.raises(error):
        load_tree(blobs, stored(blobs, content))


def test_unknown_fields_are_skipped() -> None:
    """A field that a later version adds to a node does not keep this one from reading it."""
    blobs = MemoryBlobs()
    assert load_tree(blobs, stored(blobs, [1, [{"n": b"a", "zz": [1, 2]}], b""])) == [Node(name=b"a")]


# --- what a tree reaches


def deep(blobs: MemoryBlobs, depth: int) -> bytes:
    """A chain of directories."""
    tree_id = save_tree(blobs, [Node(name=b"end", content=blobs.save(BlobKind.DATA, b"x"))])
    for _ in range(depth):
        tree_id = save_tree(blobs, [Node(name=b"d", type="dir", subtree=tree_id)])
    return tree_id


def test_walk() -> None:
    """Every directory is met once, parents before children, with its path; one that is lost does not hide others."""
    blobs = MemoryBlobs()
    leaf = save_tree(blobs, [Node(name=b"f", content=bytes(32))])
    lost = save_tree(blobs, [Node(name=b"gone")])
    blobs.missing.add(lost)
    top = save_tree(blobs, [Node(name=name, type="dir", subtree=tree) for name, tree in
                            ((b"a", leaf), (b"b", lost), (b"c", leaf))])  # fmt: skip
    seen: set[bytes] = set()
    assert [(each.path, each.error is None) for each in walk_trees(blobs, top, seen)] == [
        (b"/", True), (b"/a", True), (b"/b", False),
    ]  # fmt: skip
    assert list(walk_trees(blobs, top, seen)) == []


def test_walk_is_not_recursive() -> None:
    """Depth is bounded by nothing but memory."""
    blobs = MemoryBlobs()
    assert sum(1 for _ in walk_trees(blobs, deep(blobs, 3000), set())) == 3001


def test_everything_is_reached() -> None:
    """Trees, their parts, lists of chunks and chunks: nothing that a restore needs is left out."""
    blobs = CountingBlobs()

    def made() -> Iterator[Node]:
        for number in range(4200):
            yield Node(name=b"%05d" % number, content=blobs.save(BlobKind.DATA, b"%d" % number))

    from bfrepo.data.records import save_records

    chunks = b"".join(blobs.save(BlobKind.DATA, b"chunk %d" % number) for number in range(300))
    content, content_depth = save_records(blobs, chunks, 32)
    holes, holes_depth = save_records(blobs, bytes(16) * 600, 16)
    image = Node(name=b"image", content=content, content_depth=content_depth, holes=holes, holes_depth=holes_depth)
    root = save_tree(blobs, [Node(name=b"big", type="dir", subtree=save_tree(blobs, list(made()))), image])
    assert (content_depth, holes_depth) == (1, 1)
    reached = set(reachable(blobs, root))
    assert {blob_id for _, blob_id in reached} == set(blobs._places)
    assert len(content_ids(blobs, image)) == 300
    assert len(list_blobs(blobs, image)) >= 2


def test_reaching_fails_closed() -> None:
    """INV-8: what a tree reaches is never listed short: a tree that cannot be read is an error."""
    blobs = MemoryBlobs()
    root = deep(blobs, 5)
    (first,) = load_tree(blobs, root)
    blobs.damaged.add(first.subtree)
    with pytest.raises(DamagedObject):
        list(reachable(blobs, root))


@pytest.mark.parametrize("count", [3, 5000], ids=["whole", "in parts"])
def test_fields_of_a_later_version_are_written_again(count: int) -> None:
    """Nodes with fields that this version does not know are found, and written as they were; others by themselves."""
    blobs = MemoryBlobs()
    plain = files(count)
    odd = {**msgspec.to_builtins(plain[1], builtin_types=(bytes,)), "zz": [1, b"later"]}
    raw = [msgspec.Raw(msgspec.msgpack.encode(odd if at == 1 else node)) for at, node in enumerate(plain)]
    if count == 3:
        tree_id = stored(blobs, [1, raw, b""])
    else:
        parts = [stored(blobs, [1, raw[at : at + 1000], b""]) for at in range(0, count, 1000)]
        tree_id = stored(blobs, [1, [], b"".join(parts)])

    found = stored_nodes(blobs, tree_id, load_tree(blobs, tree_id))
    again = save_tree(blobs, plain, found)

    assert list(found) == [plain[1].name]
    assert stored_nodes(blobs, again, plain) == found
    assert save_tree(blobs, plain, {}) == save_tree(blobs, plain) != again


def test_another_tree_for_a_directory_of_a_later_version() -> None:
    """The directory gets the tree, and keeps all else that is stored of it."""
    directory = {"n": b"d", "t": "dir", "zz": "later", "e": bytes(32)}

    moved = with_subtree(msgspec.Raw(msgspec.msgpack.encode(directory)), b"n" * 32)

    assert msgspec.msgpack.decode(moved) == {**directory, "e": b"n" * 32}
