"""Disk images whose parts come in any order: what is put together of them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.archiver.images import ImageSaver
from bfrepo.core.errors import SourceError
from bfrepo.core.units import KIB
from bfrepo.data.layout import Layout, unpack_holes
from bfrepo.data.node import Node
from bfrepo.data.records import load_records, split_ids
from bfrepo.repository.repository import Repository
from tests.support.backups import incompressible
from tests.support.repositories import make_repository, saver_options

CLUSTER = 64 * KIB


def save(repository: Repository, disks: list[bytes], seed: int, chunk: int, in_memory: int) -> list[Node]:
    """Save disks whose clusters come in any order; blocks of zeros never come."""
    saver = repository.make_saver(saver_options(repository))
    nodes = [Node(name=b"disk%d" % number, size=len(disk)) for number, disk in enumerate(disks)]
    places = [(number, at) for number, disk in enumerate(disks) for at in range(0, len(disk), CLUSTER)]
    random.Random(seed).shuffle(places)
    with ImageSaver(saver, nodes, chunk, in_memory=in_memory) as images:
        for number, at in places:
            data = disks[number][at : at + CLUSTER]
            if data.strip(b"\0"):
                images.put(number, at, memoryview(data))
            images.cover(number, at, at + len(data))
        found = images.finish()
    saver.flush()
    saver.close()
    repository.index.note_written(saver.index_objects)
    repository.refresh_index()
    return found


def content(repository: Repository, node: Node) -> bytes:
    """What a node has, its holes as zeros."""
    loader = repository.loader
    holes = unpack_holes(node.size, load_records(loader, node.holes, node.holes_depth))
    layout, out = Layout(node.size, holes), bytearray(node.size)
    from bfrepo.core.ids import BlobKind

    for blob_id in split_ids(load_records(loader, node.content, node.content_depth)):
        blob = loader.load(BlobKind.DATA, blob_id)
        at = layout.take(len(blob))
        out[at : at + len(blob)] = blob
    layout.finish()
    return bytes(out)


def disk(seed: int, clusters: int, tail: int, full: float) -> bytes:
    """A disk of which a part is zeros, cluster by cluster."""
    chance = random.Random(seed)
    parts = [
        incompressible(seed * 1000 + at, CLUSTER) if chance.random() < full else bytes(CLUSTER)
        for at in range(clusters)
    ]
    return b"".join(parts) + incompressible(seed, tail * 512)


@given(
    seed=st.integers(0, 1 << 20),
    sizes=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 127)), min_size=1, max_size=3),
    full=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    in_memory=st.sampled_from([0, 3 * 256 * KIB, 1 << 26]),
)
def test_any_order(seed: int, sizes: list[tuple[int, int]], full: float, in_memory: int) -> None:
    """Whatever order clusters come in, and however few fit into memory, the images are as they were."""
    disks = [disk(seed + number, clusters, tail, full) for number, (clusters, tail) in enumerate(sizes)]
    repository = make_repository()
    nodes = save(repository, disks, seed, 256 * KIB, in_memory)
    assert [content(repository, node) for node in nodes] == disks


def test_aligned_chunks() -> None:
    """A change of one block changes one chunk, whatever the order; chunks of zeros are holes and no blobs."""
    repository = make_repository()
    before = disk(1, 64, 0, 1.0)[: 32 * CLUSTER] + bytes(32 * CLUSTER)
    after = bytearray(before)
    after[5 * CLUSTER + 100] ^= 1
    (first,) = save(repository, [before], 1, 256 * KIB, 1 << 26)
    (second,) = save(repository, [bytes(after)], 2, 256 * KIB, 1 << 26)
    ids = [split_ids(node.content) for node in (first, second)]
    assert [len(each) for each in ids] == [8, 8]
    assert [number for number in range(8) if ids[0][number] != ids[1][number]] == [1]
    assert unpack_holes(first.size, first.holes) == [(32 * CLUSTER, 64 * CLUSTER)]


def test_gap() -> None:
    """An image of which something has not come is an error, not an image with a hole."""
    repository = make_repository()
    saver = repository.make_saver(saver_options(repository))
    with ImageSaver(saver, [Node(name=b"disk", size=2 * CLUSTER)], 256 * KIB) as images:
        images.cover(0, 0, CLUSTER)
        with pytest.raises(SourceError):
            images.finish()
    saver.close()
