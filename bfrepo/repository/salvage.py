"""An index for reading, whatever has become of the index objects: packs say themselves what they hold (INV-6).

Only for reading: a backup relies on nothing but index objects, as packs that none names may be gone any moment.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from bfrepo.core.errors import DamagedObject, StorageObjectMissing
from bfrepo.pack.reader import read_directory
from bfrepo.repository.inventory import list_packs, take_inventory
from bfrepo.repository.repository import Repository


def refresh_for_reading(repository: Repository, warn: Callable[[str], None]) -> None:
    """Make the index name all that can be found, with the packs that no readable index object names.

    `warn` is told of index objects that are damaged. Raises StorageError and UnsupportedFormat.
    """
    damaged = False
    try:
        repository.refresh_index()
    except DamagedObject as error:
        damaged = True
        warn(f"{error}; what it told is read from the packs themselves")
    if damaged or any(repository.index.table.pack(pack) is None for pack in list_packs(repository)):
        _read_packs(repository)


def _read_packs(repository: Repository) -> None:
    """Replace the index by one that the cache knows nothing of. A pack that cannot be read is left out."""
    inventory = take_inventory(repository)
    table = inventory.index.table
    for pack, size in sorted(inventory.stored.items()):
        if table.pack(pack) is None:
            with suppress(DamagedObject, StorageObjectMissing):
                keys = repository.keys
                _, directory = read_directory(repository.backend, pack.hex(), size, keys.pack_key, repository.id)
                table.add_pack(pack, size, directory)
    repository.index = inventory.index
