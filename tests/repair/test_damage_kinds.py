"""One kind of damage at a time: a check names it and what depends on it, the repairs mend what can be mended and lose
nothing that is whole, and a backup of the same files heals the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from bfrepo.checker.findings import Finding
from bfrepo.core.ids import BlobKind, short_id
from bfrepo.crypto.hashing import object_name
from bfrepo.operations.check import CheckResult
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import run_backup
from tests.support.damage import (
    EARLY,
    EVERYTHING,
    NEW_FILES,
    OLD_FILES,
    SmallRepository,
    flipped,
    index_of,
    reopen_unread,
    replace_object,
    run_check,
    save_claim,
)
from tests.support.repairing import assert_nothing_whole_is_lost, mend_all, readable
from tests.support.repositories import names, reopen
from tests.support.restoring import expected

Harm = Callable[[MemoryBackend, SmallRepository], None]

OLD_DATA, NEW_DATA = 0, -1
"""Which of the data packs: one that both snapshots need, or the one of the new snapshot alone."""


def lost_pack(kind: BlobKind, which: int) -> Harm:
    """A pack is gone."""
    return lambda backend, small: backend.delete(ObjectKind.PACK, small.packs(kind)[which].hex())


def cut_pack(keep: float) -> Harm:
    """The end of the first data pack is missing."""

    def harm(backend: MemoryBackend, small: SmallRepository) -> None:
        name = small.packs(BlobKind.DATA)[OLD_DATA].hex()
        data = backend.load(ObjectKind.PACK, name)
        replace_object(backend, ObjectKind.PACK, name, data[: int(len(data) * keep)])

    return harm


def flipped_frame(backend: MemoryBackend, small: SmallRepository) -> None:
    """A byte in a frame is another one."""
    place = small.frame_of(EARLY)
    data = backend.load(ObjectKind.PACK, place.pack)
    replace_object(backend, ObjectKind.PACK, place.pack, flipped(data, place.offset + place.stored_size // 2))


def flipped_object(kind: ObjectKind, name: Callable[[SmallRepository], str]) -> Harm:
    """A byte in the middle of a small object is another one."""

    def harm(backend: MemoryBackend, small: SmallRepository) -> None:
        data = backend.load(kind, name(small))
        replace_object(backend, kind, name(small), flipped(data, len(data) // 2))

    return harm


def new_index(small: SmallRepository) -> str:
    """The index object that names the packs of the new snapshot."""
    return index_of(small, small.packs(BlobKind.DATA)[NEW_DATA])


def lost_index(backend: MemoryBackend, small: SmallRepository) -> None:
    """An index object is gone."""
    backend.delete(ObjectKind.INDEX, new_index(small))


def no_index(backend: MemoryBackend, small: SmallRepository) -> None:
    """All index objects are gone."""
    for name in names(backend, ObjectKind.INDEX):
        backend.delete(ObjectKind.INDEX, name)


def lost_snapshot(backend: MemoryBackend, small: SmallRepository) -> None:
    """A snapshot is gone."""
    backend.delete(ObjectKind.SNAPSHOT, small.old.hex())


def damaged_key(backend: MemoryBackend, small: SmallRepository) -> None:
    """A second password slot is damaged."""
    name = reopen_unread(backend).add_slot(b"other", label="second", host="here")
    replace_object(backend, ObjectKind.KEY, name, flipped(backend.load(ObjectKind.KEY, name), 30))


def lost_key(backend: MemoryBackend, small: SmallRepository) -> None:
    """A second password slot is gone."""
    backend.delete(ObjectKind.KEY, reopen_unread(backend).add_slot(b"other", label="second", host="here"))


def damaged_claim(backend: MemoryBackend, small: SmallRepository) -> None:
    """A claim is damaged."""
    name = save_claim(reopen_unread(backend), b"\1" * 32)
    replace_object(backend, ObjectKind.CLAIM, name, flipped(backend.load(ObjectKind.CLAIM, name), 30))


GARBAGE = b"nobody knows what this is"


def garbage(kind: ObjectKind) -> Harm:
    """Something lies in a directory under a name like ours, and is nothing of ours."""
    return lambda backend, small: backend.save(kind, object_name(GARBAGE), GARBAGE)


CASES: dict[str, tuple[Harm, str, str]] = {
    "a lost data pack": (
        lost_pack(BlobKind.DATA, NEW_DATA),
        """
        error: pack DATA3 is missing; it held 6 blobs
          pack-missing: pack DATA3; snapshots NEW
          files: /data/deep/down/leaf, /data/new
          next: put the file back, or else 'backupforge repair packs DATA3', then back up the same files again
        """,
        "blob-missing",
    ),
    "a lost tree pack": (
        lost_pack(BlobKind.TREE, -1),
        """
        error: pack TREE2 is missing; it held 4 blobs
          pack-missing: pack TREE2; snapshots NEW
          files: /
          next: put the file back, or else 'backupforge repair packs TREE2', then back up the same files again
        """,
        "blob-missing",
    ),
    "a pack that is cut in the middle": (
        cut_pack(0.5),
        """
        error: pack DATA1 is not what was written: it has SIZE, and should have SIZE (pack DATA1: does not end like a pack); 114 of its 226 blobs cannot be read
          pack-damaged: pack DATA1; snapshots OLD, NEW
          files: /data/filler/05, /data/filler/06, /data/filler/07, /data/filler/08, /data/filler/09, /data/filler/10
          next: 'backupforge repair packs DATA1' saves what is intact in it; then back up the same files again
        """,  # noqa: E501
        "blob-missing",
    ),
    "a pack whose directory is cut off": (
        cut_pack(0.9999),
        """
        error: pack DATA1 is not what was written: it has SIZE, and should have SIZE (pack DATA1: does not end like a pack); every blob in it can still be read
          pack-damaged: pack DATA1
          next: 'backupforge repair packs DATA1' saves what is intact in it; then back up the same files again
        """,  # noqa: E501
        "",
    ),
    "a flipped byte in a frame": (
        flipped_frame,
        """
        error: pack DATA1 is not what was written (frame 0 of pack DATA1: does not authenticate); 112 of its 226 blobs cannot be read
          pack-damaged: pack DATA1; snapshots OLD, NEW
          files: /data/deep/down/leaf, /data/early, /data/filler/00, /data/filler/01, /data/filler/02, /data/filler/03, /data/filler/04, /data/filler/05, /data/sparse
          next: 'backupforge repair packs DATA1' saves what is intact in it; then back up the same files again
        """,  # noqa: E501
        "blob-missing",
    ),
    "a lost index object": (
        lost_index,
        """
        error: 1 blob that snapshots need is in no pack that the index names
          blob-missing: blob ROOT; snapshots NEW
          files: /
          next: 'backupforge repair index' looks for them in the packs; what it does not find a backup of the same files stores again, or 'backupforge repair snapshots' makes new snapshots without it
        note: 2 packs (SIZE) are in no index object: an interrupted backup left them, or one is writing them
          garbage: pack DATA3, TREE2
          next: a prune removes them
        """,  # noqa: E501
        "",
    ),
    "no index at all": (
        no_index,
        """
        error: 2 blobs that snapshots need are in no pack that the index names
          blob-missing: blob OLDROOT, ROOT; snapshots OLD, NEW
          files: /
          next: 'backupforge repair index' looks for them in the packs; what it does not find a backup of the same files stores again, or 'backupforge repair snapshots' makes new snapshots without it
        note: 5 packs (SIZE) are in no index object: an interrupted backup left them, or one is writing them
          garbage: pack DATA1, DATA2, DATA3, TREE1, TREE2
          next: a prune removes them
        """,  # noqa: E501
        "",
    ),
    "a damaged index object": (
        flipped_object(ObjectKind.INDEX, new_index),
        """
        error: index INDEX in memory:: its bytes are not those that were written
          index-damaged: index INDEX; snapshots NEW
          files: /
          next: 'backupforge repair index' makes it again from the packs; until then no backup can be made
        """,
        "",
    ),
    "a lost snapshot": (lost_snapshot, "", ""),
    "a damaged snapshot": (
        flipped_object(ObjectKind.SNAPSHOT, lambda small: small.old.hex()),
        """
        error: snapshot OLD in memory:: its bytes are not those that were written
          snapshot-damaged: snapshot OLD; snapshots OLD
          next: 'backupforge repair snapshots --forget OLD' moves it out of the repository
        """,
        "snapshot-damaged",
    ),
    "a damaged key": (
        damaged_key,
        """
        error: key KEY in memory:: its bytes are not those that were written
          key-damaged: key KEY
          next: take it away with 'backupforge key remove KEY', and add its password again
        """,
        "key-damaged",
    ),
    "a lost key": (lost_key, "", ""),
    "a damaged claim": (
        damaged_claim,
        """
        error: claim CLAIM in memory:: its bytes are not those that were written
          claim-damaged: claim CLAIM
          next: 'backupforge repair snapshots' moves it out of the repository
        """,
        "",
    ),
    "garbage among the packs": (
        garbage(ObjectKind.PACK),
        """
        error: pack GARBAGE is as it was written, but was damaged already then: pack GARBAGE: 25 bytes are too few for a pack; no index object names it
          blob-damaged: pack GARBAGE
          next: 'backupforge repair packs GARBAGE' saves what is intact in it; then back up the same files again
        note: 1 packs (SIZE) are in no index object: an interrupted backup left them, or one is writing them
          garbage: pack GARBAGE
          next: a prune removes them
        """,  # noqa: E501
        "blob-damaged",
    ),
    "garbage in the index": (
        garbage(ObjectKind.INDEX),
        """
        error: index GARBAGE in memory:: does not start like one
          index-damaged: index GARBAGE
          next: 'backupforge repair index' makes it again from the packs; until then no backup can be made
        """,
        "",
    ),
    "garbage among the snapshots": (
        garbage(ObjectKind.SNAPSHOT),
        """
        error: snapshot GARBAGE in memory:: does not start like one
          snapshot-damaged: snapshot GARBAGE; snapshots GARBAGE
          next: 'backupforge repair snapshots --forget GARBAGE' moves it out of the repository
        """,
        "snapshot-damaged",
    ),
    "garbage among the claims": (
        garbage(ObjectKind.CLAIM),
        """
        error: claim GARBAGE in memory:: does not start like one
          claim-damaged: claim GARBAGE
          next: 'backupforge repair snapshots' moves it out of the repository
        """,
        "",
    ),
    "garbage among the keys": (
        garbage(ObjectKind.KEY),
        """
        error: key GARBAGE: does not decode: JSON is malformed: invalid character (byte 4)
          key-damaged: key GARBAGE
          next: take it away with 'backupforge key remove GARBAGE', and add its password again
        """,
        "key-damaged",
    ),
}
"""By what is wrong: how it comes about, what a check says of it, and the errors that repairs alone leave."""

any_case = pytest.mark.parametrize("case", CASES)


@any_case
def test_findings(small: SmallRepository, case: str) -> None:
    """A check that reads everything names what is wrong, what depends on it and what to do next, and nothing else."""
    harm, said, _ = CASES[case]
    backend = small.copy()
    harm(backend, small)

    found = _shown(run_check(backend, EVERYTHING), _words(backend, small))

    assert found == dedent(said).strip()


@any_case
def test_repairs_and_healing(small: SmallRepository, case: str, quarantine: Path) -> None:
    """Repairs leave all that could be read as it was; after a backup of the same files nothing is lost that has a
    snapshot (INV-1), and a second round of repairs finds nothing to do."""
    harm, _, left = CASES[case]
    backend = small.copy()
    harm(backend, small)
    before = readable(backend)

    mend_all(backend, quarantine)

    after = assert_nothing_whole_is_lost(before, backend)
    for snapshot in after.keys() - before.keys():  # the repaired ones
        assert after[snapshot] in before.values()
    found = run_check(backend, EVERYTHING)
    assert {finding.kind for finding in found.findings if finding.severity == "error"} == set(left.split())
    rested = set(names(backend, ObjectKind.PACK)), set(names(backend, ObjectKind.INDEX))
    mend_all(backend, quarantine)
    assert (set(names(backend, ObjectKind.PACK)), set(names(backend, ObjectKind.INDEX))) == rested

    for tree in (OLD_FILES, NEW_FILES):
        run_backup(reopen(backend), tree)
    healed = run_check(backend, EVERYTHING)
    assert {finding.kind for finding in healed.findings if finding.severity == "error"} <= {
        "snapshot-damaged", "key-damaged", "blob-damaged",
    }  # fmt: skip
    whole = readable(backend)
    for snapshot, files in ((small.old, OLD_FILES), (small.new, NEW_FILES)):
        if snapshot in before:
            assert whole[snapshot] == {path: data for path, data in expected(files).items() if data != b"<dir>"}


def _words(backend: MemoryBackend, small: SmallRepository) -> dict[str, str]:
    """What to call the objects in place of their IDs, which are other ones each time."""
    words = {
        short_id(pack): f"{kind.name}{number}" for kind in BlobKind for number, pack in enumerate(small.packs(kind), 1)
    }
    words |= {short_id(small.old): "OLD", short_id(small.new): "NEW", object_name(GARBAGE)[:8]: "GARBAGE"}
    words |= {short_id(small.tree_of(small.old)): "OLDROOT", short_id(small.tree_of(small.new)): "ROOT"}
    for kind, word in ((ObjectKind.INDEX, "INDEX"), (ObjectKind.KEY, "KEY"), (ObjectKind.CLAIM, "CLAIM")):
        words |= {name[:8]: word for name in names(backend, kind) if name != object_name(GARBAGE)}
    return words


def _shown(result: CheckResult, words: dict[str, str]) -> str:
    return "\n".join(_show(finding, words) for finding in result.findings)


def _show(finding: Finding, words: dict[str, str]) -> str:
    about = ", ".join(sorted(words[short_id(each)] for each in finding.object_ids))
    snapshots = ", ".join(words[short_id(each.id)] for each in finding.snapshots)
    lines = [
        f"{finding.severity}: {finding.message}",
        f"  {finding.kind}: {finding.object_kind} {about}" + (f"; snapshots {snapshots}" if snapshots else ""),
        *([f"  files: {', '.join(map(bytes.decode, finding.files))}"] if finding.files else []),
        *([f"  next: {finding.hint}"] if finding.hint else []),
    ]
    text = "\n".join(lines)
    for identifier, word in words.items():
        text = text.replace(identifier, word)
    return re.sub(r"\b[\d,]+ bytes(?! are)|(?<=have )[\d,]+|(?<=\()[\d.]+ [KM]?i?B(?=\))", "SIZE", text)
