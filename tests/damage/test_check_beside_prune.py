"""What forget and prune leave behind, or do while a check runs, is no damage."""

from __future__ import annotations

from bfrepo.core.ids import BlobKind
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
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
    save_flag,
)
from tests.support.faulty import FaultyBackend


def test_a_needed_blob_in_a_condemned_pack(small: SmallRepository) -> None:
    """That the only copy of a blob is in a pack that is to go is a note: nothing is lost."""
    backend = small.copy()
    pack = small.packs(BlobKind.DATA)[-1]
    save_flag(reopen_unread(backend), pack, "condemned")

    (finding,) = run_check(backend).findings

    assert (finding.kind, finding.severity, finding.object_ids) == ("pack-leaving", "note", (pack,))
    assert (affected(finding), finding.files_count) == ({small.new}, 2)


def test_a_pack_that_a_prune_deleted(small: SmallRepository) -> None:
    """A doomed pack that is gone and that nobody needs is nothing to speak of, though the index still names it."""
    backend = small.copy()
    backend.delete(ObjectKind.SNAPSHOT, small.new.hex())
    for kind in BlobKind:
        pack = small.packs(kind)[-1]
        save_flag(reopen_unread(backend), pack, "doomed")
        backend.delete(ObjectKind.PACK, pack.hex())

    assert run_check(backend, EVERYTHING).findings == ()


def test_a_live_pack_that_is_missing_counts_although_nobody_needs_it(small: SmallRepository) -> None:
    """The next backup would rely on what the index names."""
    backend = small.copy()
    backend.delete(ObjectKind.SNAPSHOT, small.new.hex())
    pack = small.packs(BlobKind.DATA)[-1]
    backend.delete(ObjectKind.PACK, pack.hex())

    finding = only_error(run_check(backend))

    assert (finding.kind, finding.object_ids, finding.snapshots) == ("pack-missing", (pack,), ())


def test_another_copy_of_a_blob_is_enough(small: SmallRepository) -> None:
    """A blob that is lost with one pack and whole in another is not lost."""
    backend = small.copy()
    repository = reopen_unread(backend)
    save_blob(repository, BlobKind.DATA, EARLY)  # without the index it is stored again
    pack = small.frame_of(EARLY).pack
    replace_object(backend, ObjectKind.PACK, pack, flipped(backend.load(ObjectKind.PACK, pack), 50_000))

    finding = only_error(run_check(backend, EVERYTHING))

    assert finding.kind == "pack-damaged"
    assert b"/data/deep/down/leaf" in finding.files
    assert b"/data/early" not in finding.files


def test_a_snapshot_that_is_forgotten_meanwhile(small: SmallRepository) -> None:
    """What only a snapshot needed that was removed during the check is not missed."""
    backend = Forgetful(small.copy(), small.new.hex(), small.packs(BlobKind.TREE)[-1].hex())
    save_flag(reopen_unread(backend.inner), small.packs(BlobKind.TREE)[-1], "doomed")

    assert run_check(backend).findings == ()


class Forgetful(FaultyBackend):
    """Forgets a snapshot and deletes a pack once the index has been read."""

    def __init__(self, inner: MemoryBackend, snapshot: str, pack: str) -> None:
        super().__init__(inner)
        self.inner = inner
        self._gone = [(ObjectKind.SNAPSHOT, snapshot), (ObjectKind.PACK, pack)]

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        """The first pack is read when the index is known."""
        while self._gone:
            self.inner.delete(*self._gone.pop())
        return super().read(kind, name, offset, length)
