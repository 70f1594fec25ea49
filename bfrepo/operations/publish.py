"""Making a snapshot visible, so that no prune that runs at the same time can take away what it needs (INV-1, INV-8).

    claim     write the root tree, and the ID the snapshot will have; and what is missing of the index
    look      list the index again, then the packs: if none was doomed and none is gone since the backup began, all is
              well
    mend      otherwise walk the tree against the index as it is now; what is only in doomed or missing packs is
              stored again, read from its old pack while that can still be read; look once more
    snapshot  write it
    unclaim   remove the claim; if somebody removed it first, check the snapshot and take it back if it dangles

A prune writes its flag before it looks for claims, a backup its claim before it looks for flags, so at least one of the
two sees the other; if both do, both give way. What counts is that claim and index are there before the backup looks: a
prune that sees the claim and not yet the index has written its flag before that look. So where a storage is far away
both are written at once. The packs are listed after the index, because flags move when index
objects are merged, and a listing during which that happens need show neither the old object nor the new one. Dooms move
only when the packs they doom are gone, so what such a listing of the index hides, that of the packs shows. Why all that
is enough: docs/concurrency.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from bfrepo.core.errors import (
    BackupForgeError,
    DamagedObject,
    StorageDenied,
    StorageObjectArchived,
    StorageObjectMissing,
)
from bfrepo.core.ids import BlobKind, short_id
from bfrepo.data.references import reachable
from bfrepo.data.snapshot import SNAPSHOT_VERSION, Claim, Snapshot, encode_claim, encode_snapshot
from bfrepo.index.format import PackState
from bfrepo.index.index import Index
from bfrepo.repository.repository import Repository
from bfrepo.repository.saver import SaverOptions
from bfrepo.storage.abilities import is_far, present, take, takes
from bfrepo.storage.base import ObjectKind

_MOST_LOOKS = 5


class ContentLost(BackupForgeError):
    """A prune has deleted what this backup relied on, and only the source can give it again."""

    code = "content-lost"


def publish(
    repository: Repository,
    snapshot: Snapshot,
    known_index: set[str],
    options: SaverOptions,
    *,
    reused: bool = False,
    name_packs: Callable[[], set[str]] = set,
) -> bytes:
    """Store the snapshot; its ID. `known_index` names the index objects that the backup read or wrote.

    Everything the snapshot needs must be durable (Saver.flush); or in packs that are (Saver.flush_packs), if
    `name_packs` writes what the index does not have of them, and tells the index objects that were written. A backup
    relies on live packs alone; `reused` says that the tree, or a part of it, is that of another snapshot, and may be in
    packs of any state. Then that snapshot must have been there both before and after the index was read. Raises
    ContentLost when the source must be read again.
    """
    name, data = repository.objects.encode(ObjectKind.SNAPSHOT, encode_snapshot(snapshot))
    claim = Claim(
        version=SNAPSHOT_VERSION,
        tree=snapshot.tree,
        snapshot=bytes.fromhex(name),
        time=repository.clock.now().isoformat(),
        hostname=snapshot.hostname,
    )
    claim_name, written = _write_claim(repository, claim, name_packs)
    known_index = known_index | written
    try:
        _make_sure(repository, snapshot.tree, known_index, options, reused)
        repository.backend.save(ObjectKind.SNAPSHOT, name, data)
    except BaseException:
        _remove_claim(repository, claim_name)
        raise
    if not _take_claim(repository, claim_name):
        _check_or_take_back(repository, name, snapshot.tree)
    return bytes.fromhex(name)


def _write_claim(repository: Repository, claim: Claim, name_packs: Callable[[], set[str]]) -> tuple[str, set[str]]:
    """Write the claim, and what is missing of the index; the names of both."""
    data = encode_claim(claim)
    if not is_far(repository.backend):
        written = name_packs()
        return repository.objects.save(ObjectKind.CLAIM, data), written
    with ThreadPoolExecutor(1, thread_name_prefix="claim") as pool:
        claiming = pool.submit(repository.objects.save, ObjectKind.CLAIM, data)
        try:
            written = name_packs()
        except BaseException:
            with suppress(BackupForgeError):
                _remove_claim(repository, claiming.result())
            raise
        return claiming.result(), written


def _make_sure(repository: Repository, tree: bytes, known_index: set[str], options: SaverOptions, reused: bool) -> None:
    """Return once everything below `tree` is in packs that nobody is about to delete."""
    for _ in range(_MOST_LOOKS):
        before = repository.index
        index = before if repository.index_names() == known_index else repository.fresh_index()
        states = _pack_states(repository, index)
        if _all_stay(before, states, reused):
            return
        lost = _unsafe_blobs(repository, index, states, tree)
        if not lost:
            return
        known_index = _store_again(repository, index, states, lost, options) | index.objects
    raise BackupForgeError(
        f"other programs keep deleting what this backup needs from {repository.location}",
        hint="run the backup again when no prune without grace time is running",
    )


def _pack_states(repository: Repository, index: Index) -> dict[bytes, PackState]:
    """How far each pack of the index is on its way out, by the packs that are there now: one that is not is doomed."""
    packs = {pack.id.hex(): pack for pack in index.table.packs()}
    stored = present(repository.backend, ObjectKind.PACK, packs.keys())
    return {pack.id: pack.state if name in stored else PackState.DOOMED for name, pack in packs.items()}


def _all_stay(before: Index, states: Mapping[bytes, PackState], reused: bool) -> bool:
    """Whether no pack that the snapshot may rely on is doomed or gone:

    other backups only added packs of their own.
    """
    relied_on = (pack.id for pack in before.table.packs() if reused or pack.state is PackState.LIVE)
    return all(states.get(pack_id, PackState.DOOMED) is not PackState.DOOMED for pack_id in relied_on)


def _unsafe_blobs(
    repository: Repository, index: Index, states: Mapping[bytes, PackState], tree: bytes
) -> dict[bytes, BlobKind]:
    """Blobs below `tree` (with their kind) that no live or condemned pack of `index` holds.

    Raises ContentLost when a tree, or a list in it, cannot be read any more.
    """
    table = index.table
    lost: dict[bytes, BlobKind] = {}
    try:
        for kind, blob_id in reachable(repository.make_loader(index), tree):
            held = (states[table.pack_of(copy.frame)] for copy in table.copies(blob_id))
            if all(state is PackState.DOOMED for state in held):
                lost[blob_id] = kind
    except DamagedObject as error:
        raise ContentLost(f"a part of the new tree cannot be read any more: {error}") from error
    return lost


def _store_again(
    repository: Repository,
    index: Index,
    states: Mapping[bytes, PackState],
    lost: dict[bytes, BlobKind],
    options: SaverOptions,
) -> set[str]:
    """Copy blobs out of packs that may be deleted any moment; the index objects that name the copies."""
    for pack_id, state in states.items():
        index.table.set_state(pack_id, state)  # those that are gone do not count as copies
    index.table.prefer_live()
    repository.index = index
    loader = repository.loader
    saver = repository.make_saver(options)
    try:
        for blob_id, kind in lost.items():
            try:
                data = loader.load(kind, blob_id)
            except (DamagedObject, StorageObjectArchived) as error:
                raise ContentLost(f"blob {short_id(blob_id)} was deleted while this backup ran: {error}") from error
            saver.save(kind, data)
        saver.flush()
    finally:
        saver.close()
    return saver.index_objects


def _take_claim(repository: Repository, claim_name: str) -> bool:
    """Remove the claim; whether it had stood until then."""
    if takes(repository.backend):
        try:
            return take(repository.backend, ObjectKind.CLAIM, claim_name)
        except StorageDenied:  # a store that forbids deletion
            return _claim_stands(repository, claim_name)
    stands = _claim_stands(repository, claim_name)
    if stands:
        _remove_claim(repository, claim_name)
    return stands


def _claim_stands(repository: Repository, claim_name: str) -> bool:
    try:
        repository.backend.size(ObjectKind.CLAIM, claim_name)
    except StorageObjectMissing:
        return False
    return True


def _check_or_take_back(repository: Repository, name: str, tree: bytes) -> None:
    index = repository.fresh_index()
    if not _unsafe_blobs(repository, index, _pack_states(repository, index), tree):
        return
    repository.backend.delete(ObjectKind.SNAPSHOT, name)
    raise ContentLost(f"snapshot {name[:8]} was taken back: what it needs was deleted while its claim was missing")


def _remove_claim(repository: Repository, claim_name: str) -> None:
    try:
        repository.backend.delete(ObjectKind.CLAIM, claim_name)
    except StorageDenied:
        return  # a store that forbids deletion: the claim counts as finished once its snapshot exists
