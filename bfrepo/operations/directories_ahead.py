"""Bringing directories here before somebody needs them, who goes through them one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from bfrepo.core.errors import BackupForgeError
from bfrepo.core.ids import BlobKind
from bfrepo.data.forest import read_forest
from bfrepo.repository.repository import Repository
from bfrepo.storage.caching import CachingBackend

_WORTH_IT: Final = 3
"""Packs of trees from which on it is: each costs a round trip, and one that leads to the next is waited for."""


@contextmanager
def directories_ahead(repository: Repository, tree_id: bytes, cancelled: Callable[[], bool]) -> Iterator[None]:
    """Read all directories below a tree during the block, several packs at once, where this machine keeps them.

    Costs a second decoding of each, while the network is waited for. What cannot be read is left to whoever needs it.
    """
    packs = sum(pack.kind is BlobKind.TREE for pack in repository.index.table.packs())
    if packs < _WORTH_IT or not isinstance(repository.backend, CachingBackend):
        yield
        return
    over = threading.Event()

    def read() -> None:
        with suppress(BackupForgeError):
            for _ in read_forest(repository.loader, [tree_id], lambda: over.is_set() or cancelled()):
                pass

    reader = threading.Thread(target=read, name="directories")
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join()
