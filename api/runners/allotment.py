"""The room that jobs get in stores of the server's, counted for the tenant as uploads are. Blocks."""

from __future__ import annotations

from http import HTTPStatus

from api.problems import Problem
from api.services.locations import Opening, store_name
from api.services.stores import Store, Stores


class Allotment:
    """Grants room. Thread-safe."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def grant(self, opening: Opening, least: int, wanted: int) -> int:
        """How many bytes more may be stored: `wanted`, else `least`, else none. They are counted from now on."""
        store = self._store(opening)
        if store is None:
            return 0
        for size in sorted({least, wanted}, reverse=True):
            try:
                self._stores.reserve(store, size)
            except Problem as problem:
                if problem.status is HTTPStatus.NOT_FOUND:  # removed at this moment
                    return 0
            else:
                return size
        return 0

    def settle(self, opening: Opening) -> None:
        """Count what a run has left in its store, if it works on one."""
        store = self._store(opening)
        if store is not None:
            self._stores.recount(store)

    def _store(self, opening: Opening) -> Store | None:
        name = store_name(opening.location)
        return None if name is None else self._stores.of_job(opening.tenant_id, name)
