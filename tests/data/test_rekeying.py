"""Trees with other IDs: what a repository with another key would have made of the same directory."""

from __future__ import annotations

from hashlib import blake2b

import msgspec
import pytest

from bfrepo.core.errors import DamagedObject, MissingBlob, UnsupportedFormat
from bfrepo.core.ids import BlobKind
from bfrepo.data.node import Node
from bfrepo.data.records import load_records, save_records, split_ids
from bfrepo.data.rekeying import rekey_tree
from bfrepo.data.tree import load_tree, save_tree
from tests.support.blobs import MemoryBlobs


def new_data_ids(old: bytes) -> bytes:
    """The IDs of data in the other repository."""
    return b"".join(blob_id[::-1] for blob_id in split_ids(old))


def new_subtree_id(old: bytes) -> bytes:
    """The ID of a directory in the other repository."""
    return blake2b(old, digest_size=32).digest()


def ids(count: int, seed: int = 0) -> bytes:
    """Some blob IDs, one behind the other."""
    return b"".join(blake2b(b"%d %d" % (seed, number), digest_size=32).digest() for number in range(count))


def directory(blobs: MemoryBlobs, *, content: int, holes: int, files: int, rekeyed: bool) -> list[Node]:
    """The nodes of a directory as a backup makes them, with a file of that many blobs and holes."""
    turn = new_data_ids if rekeyed else bytes
    listed, content_depth = save_records(blobs, turn(ids(content)), 32)
    hole_list = b"".join(
        (number * 8192).to_bytes(8, "little") + (4096).to_bytes(8, "little") for number in range(holes)
    )
    packed, holes_depth = save_records(blobs, hole_list, 16)
    subtree = ids(1, seed=1)
    return [
        Node(name=b"a", type="dir", mode=0o755, subtree=new_subtree_id(subtree) if rekeyed else subtree),
        Node(name=b"b", size=5, content=listed, content_depth=content_depth, holes=packed, holes_depth=holes_depth),
        Node(name=b"c", type="symlink", target=b"a", xattrs=[(b"user.x", b"\xff")], links=2, inode=3, device=4),
        *(Node(name=b"f%06d" % number, mtime_ns=-5, content=turn(ids(1, number))) for number in range(files)),
    ]


def rekeyed(blobs: MemoryBlobs, tree_id: bytes) -> tuple[MemoryBlobs, bytes]:
    """The other repository, and the ID of the tree there."""
    other = MemoryBlobs()
    return other, rekey_tree(blobs, other, tree_id, data_ids=new_data_ids, subtree_id=new_subtree_id)


@pytest.mark.parametrize(
    ("content", "holes", "files"),
    [(0, 0, 0), (1, 1, 3), (256, 512, 0), (257, 513, 0), (30_000, 3000, 0), (1, 0, 6000)],
    ids=["empty", "small", "just inline", "just indirect", "indirect twice", "parts"],
)
def test_as_a_backup_would(content: int, holes: int, files: int) -> None:
    """The tree that comes out is, byte for byte, what a backup of the same directory makes in the other repository."""
    blobs, native = MemoryBlobs(), MemoryBlobs()
    tree = save_tree(blobs, directory(blobs, content=content, holes=holes, files=files, rekeyed=False))
    other, found = rekeyed(blobs, tree)
    assert found == save_tree(native, directory(native, content=content, holes=holes, files=files, rekeyed=True))
    (file,) = [node for node in load_tree(other, found) if node.name == b"b"]
    assert load_records(other, file.content, file.content_depth) == new_data_ids(ids(content))


def test_unknown_fields_survive() -> None:
    """What a later version has put into a node, or beside the nodes, is there in the copy, too."""
    blobs = MemoryBlobs()
    node = {"n": b"x", "o": ids(2), "zz": {"b": 1, "a": [b"\xff"]}, "Z": None}
    tree = blobs.save(BlobKind.TREE, msgspec.msgpack.encode([1, [node], b"", 7, {"later": True}]))
    other, found = rekeyed(blobs, tree)
    assert msgspec.msgpack.decode(other.load(BlobKind.TREE, found)) == [
        1, [{**node, "o": new_data_ids(ids(2))}], b"", 7, {"later": True},
    ]  # fmt: skip
    assert rekeyed(blobs, tree)[1] == found  # the same bytes every time


def test_something_has_no_new_id() -> None:
    """A tree that needs what was not copied is not written."""
    blobs, other = MemoryBlobs(), MemoryBlobs()
    tree = save_tree(blobs, [Node(name=b"x", content=ids(1))])

    def none(old: bytes) -> bytes:
        raise MissingBlob("it was not copied")

    with pytest.raises(MissingBlob):
        rekey_tree(blobs, other, tree, data_ids=none, subtree_id=new_subtree_id)
    assert not other.holds(tree)


@pytest.mark.parametrize(
    ("data", "error"), [(b"nonsense", DamagedObject), (msgspec.msgpack.encode([2, [], b""]), UnsupportedFormat)]
)
def test_what_is_no_tree(data: bytes, error: type[Exception]) -> None:
    """What cannot be read as a tree of this version is not copied as one."""
    blobs = MemoryBlobs()
    with pytest.raises(error):
        rekeyed(blobs, blobs.save(BlobKind.TREE, data))
