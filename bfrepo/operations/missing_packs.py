"""Packs that the index names and the storage has lost: whoever writes must not rely on them."""

from __future__ import annotations

from bfrepo.core.ids import short_id
from bfrepo.core.progress import Reporter
from bfrepo.index.format import PackState
from bfrepo.repository.inventory import list_packs
from bfrepo.repository.repository import Repository


def distrust_missing_packs(repository: Repository, reporter: Reporter) -> bool:
    """What only packs hold that are lost is to be stored again: no snapshot may rely on it (INV-1).

    Returns whether any is lost. Packs are listed after the index was read, so one that a backup beside this one has
    just written is not missed.
    """
    table, stored = repository.index.table, list_packs(repository)
    lost = [pack.id for pack in table.packs() if pack.state is PackState.LIVE and pack.id not in stored]
    for pack_id in lost:
        table.set_state(pack_id, PackState.DOOMED)
    if lost:
        table.prefer_live()
        packs = f"{len(lost)} packs that the index names are" if len(lost) > 1 else f"pack {short_id(lost[0])} is"
        reporter.warn(b"", f"{packs} missing in {repository.location}: what is needed of it is stored again")
    return bool(lost)
