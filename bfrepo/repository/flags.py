"""Setting flags on packs and taking them back: small index objects of their own (index/format.py)."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import Literal

from bfrepo.index.format import FLAG_ID_SIZE, IndexContent, PackFlag, encode_index
from bfrepo.index.index import Index
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind


def set_flags(
    repository: Repository, state: Literal["condemned", "doomed"], packs: Collection[bytes]
) -> dict[bytes, bytes]:
    """Write a flag for each pack, durably; the IDs of the flags by pack. Raises StorageError."""
    now = repository.clock.now().isoformat()
    flags = [PackFlag(id=os.urandom(FLAG_ID_SIZE), state=state, pack=pack, time=now) for pack in packs]
    if flags:
        repository.objects.save(ObjectKind.INDEX, encode_index(IndexContent(flags=flags)))
    return {flag.pack: flag.id for flag in flags}


def revoke_flags(repository: Repository, flag_ids: list[bytes]) -> None:
    """Take flags back, durably. Raises StorageError."""
    if flag_ids:
        repository.objects.save(ObjectKind.INDEX, encode_index(IndexContent(revoked=flag_ids)))


def condemnations(index: Index, packs: Iterable[bytes]) -> list[bytes]:
    """The IDs of the flags that condemn some packs and are not taken back."""
    active = index.active_flags()
    return [flag.id for pack in packs for flag in active.get(pack, ()) if flag.state == "condemned"]
