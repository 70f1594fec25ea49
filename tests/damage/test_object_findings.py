"""Snapshots, trees, claims, keys and config: what is wrong with one of them is one finding."""

from __future__ import annotations

import msgspec
import pytest

from bfrepo.core.ids import BlobKind
from bfrepo.data.node import Node
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.storage.base import ObjectKind
from tests.support.damage import (
    EARLY,
    EVERYTHING,
    SmallRepository,
    affected,
    flipped,
    only_error,
    reopen_unread,
    replace_object,
    run_check,
    save_blob,
    save_claim,
    save_snapshot,
    save_snapshot_of,
)
from tests.support.faulty import FaultyBackend


def test_a_damaged_snapshot(small: SmallRepository) -> None:
    """A snapshot that cannot be read is a finding, and the others are checked all the same."""
    faulty = FaultyBackend(small.backend)
    faulty.flip_byte(ObjectKind.SNAPSHOT, small.old.hex(), -1)

    result = run_check(faulty, EVERYTHING)

    finding = only_error(result)
    assert (finding.kind, finding.object_kind, finding.object_ids) == ("snapshot-damaged", "snapshot", (small.old,))
    assert (affected(finding), result.snapshots) == ({small.old}, 1)


def test_a_snapshot_of_a_newer_version(small: SmallRepository) -> None:
    """What is not known is said to be unknown, never damaged."""
    backend = small.copy()
    repository = reopen_unread(backend)
    name = repository.objects.save(ObjectKind.SNAPSHOT, msgspec.msgpack.encode({"version": 2}))

    finding = only_error(run_check(backend))

    assert (finding.kind, finding.object_kind, finding.object_ids) == (
        "unknown-version",
        "snapshot",
        (bytes.fromhex(name),),
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 999}, "its size is 999"),
        ({"holes": b"12345"}, "no multiple of 16"),
        ({"holes": bytes(16)}, "holes are empty"),
        ({"content": b"short"}, "no multiple of 32"),
        ({"content_depth": 1}, "no multiple of 32"),
    ],
)
def test_a_file_that_does_not_add_up(small: SmallRepository, changes: dict[str, object], said: str) -> None:
    """A tree that is whole and makes no sense is one finding, which names the file."""
    backend = small.copy()
    repository = reopen_unread(backend)
    repository.refresh_index()
    good = Node(name=b"good", type="file", content=repository.blob_hash(EARLY), size=len(EARLY))
    snapshot = save_snapshot_of(repository, [msgspec.structs.replace(good, name=b"bad", **changes), good])

    finding = only_error(run_check(backend))

    assert (finding.kind, finding.object_kind) == ("tree-damaged", "tree")
    assert finding.object_ids == (load_snapshots(repository)[snapshot].tree,)
    assert (affected(finding), finding.files) == ({snapshot}, (b"/bad",))
    assert said in finding.message


def test_a_file_that_refers_to_a_tree(small: SmallRepository) -> None:
    """A blob of the wrong kind is not what a file needs, even when it is there."""
    backend = small.copy()
    repository = reopen_unread(backend)
    repository.refresh_index()
    tree = small.tree_of(small.old)
    size = repository.loader.place(tree).size
    save_snapshot_of(repository, [Node(name=b"bad", type="file", content=tree, size=size)])

    finding = only_error(run_check(backend))

    assert (finding.kind, finding.files) == ("tree-damaged", (b"/bad",))


def test_a_tree_of_a_newer_version(small: SmallRepository) -> None:
    """What is not known is said to be unknown, never damaged."""
    backend = small.copy()
    repository = reopen_unread(backend)
    repository.refresh_index()
    tree = save_blob(repository, BlobKind.TREE, msgspec.msgpack.encode([2, [], b""]))
    save_snapshot(repository, tree)

    finding = only_error(run_check(backend))

    assert (finding.kind, finding.object_kind, finding.object_ids) == ("unknown-version", "tree", (tree,))


def test_a_directory_that_the_index_does_not_name(small: SmallRepository) -> None:
    """One missing blob is named, with the snapshot and the path that need it."""
    backend = small.copy()
    repository = reopen_unread(backend)
    repository.refresh_index()
    snapshot = save_snapshot_of(repository, [Node(name=b"gone", type="dir", subtree=b"\7" * 32)])

    finding = only_error(run_check(backend))

    assert (finding.kind, finding.object_ids) == ("blob-missing", (b"\7" * 32,))
    assert (affected(finding), finding.files) == ({snapshot}, (b"/gone",))


def test_a_damaged_key(small: SmallRepository) -> None:
    """A password slot that is damaged is found although another one opened the repository."""
    backend = small.copy()
    repository = reopen_unread(backend)
    name = repository.add_slot(b"other", label="second", host="here")
    data = backend.load(ObjectKind.KEY, name)
    replace_object(backend, ObjectKind.KEY, name, flipped(data, len(data) // 2))

    finding = only_error(run_check(repository))

    assert (finding.kind, finding.object_kind, finding.object_ids) == ("key-damaged", "key", (bytes.fromhex(name),))


@pytest.mark.parametrize("read", [None, EVERYTHING])
def test_white_space_in_config(small: SmallRepository, read: object) -> None:
    """A byte of `config` that means nothing and changed all the same is found."""
    backend = small.copy()
    config = backend.load(ObjectKind.CONFIG, "config")
    replace_object(backend, ObjectKind.CONFIG, "config", config.replace(b" ", b"\t", 1))

    finding = only_error(run_check(backend, EVERYTHING if read else None))

    assert (finding.kind, finding.object_kind, finding.object_ids) == ("config-damaged", "config", ())


def test_a_damaged_claim(small: SmallRepository) -> None:
    """A claim that cannot be read is a finding."""
    backend = small.copy()
    name = save_claim(reopen_unread(backend), b"\1" * 32)
    replace_object(backend, ObjectKind.CLAIM, name, flipped(backend.load(ObjectKind.CLAIM, name), 30))

    finding = only_error(run_check(backend))

    assert (finding.kind, finding.object_kind, finding.object_ids) == ("claim-damaged", "claim", (bytes.fromhex(name),))


def test_claims_of_running_and_of_ended_backups(small: SmallRepository) -> None:
    """A claim is worth a note when its snapshot exists or seven days have passed, not while a backup may run."""
    backend = small.copy()
    repository = reopen_unread(backend)
    running = save_claim(repository, b"\1" * 32)
    finished = save_claim(repository, small.old)
    lapsed = save_claim(repository, b"\2" * 32, time="2024-05-01T12:00:00+00:00")

    (finding,) = run_check(backend).findings

    assert (finding.kind, finding.severity) == ("claim-left", "note")
    assert set(finding.object_ids) == {bytes.fromhex(finished), bytes.fromhex(lapsed)}
    assert bytes.fromhex(running) not in finding.object_ids
