"""Statistics of storage."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from api.identity import Access
from api.routing import Call, NoFields, Route
from api.services.storage import History, HistoryQuery, Largest, LargestQuery, StatsQuery, StorageStats


async def _get_storage_stats(call: Call[StatsQuery, NoFields]) -> StorageStats:
    return await call.run(call.services.storage.stats, call.caller, call.query)


async def _get_storage_history(call: Call[HistoryQuery, NoFields]) -> History:
    return await call.run(call.services.storage.history, call.caller, call.query)


async def _get_largest(call: Call[LargestQuery, NoFields]) -> Largest:
    largest, run = call.services.storage.largest, call.services.reading.run_for
    return await run(call.caller.tenant_id, largest, call.caller, call.query)


ROUTES: Final = (
    Route(
        method="GET",
        path="/api/storage/stats",
        handler=_get_storage_stats,
        access=Access.VIEWER,
        scope="storage:read",
        query=StatsQuery,
        result=StorageStats,
        summary="What repositories hold, and what that takes",
        problems=(HTTPStatus.NOT_FOUND,),
    ),
    Route(
        method="GET",
        path="/api/storage/history",
        handler=_get_storage_history,
        access=Access.VIEWER,
        scope="storage:read",
        query=HistoryQuery,
        result=History,
        summary="The same over time",
        problems=(HTTPStatus.NOT_FOUND,),
    ),
    Route(
        method="GET",
        path="/api/storage/largest",
        handler=_get_largest,
        access=Access.VIEWER,
        scope="storage:read",
        query=LargestQuery,
        result=Largest,
        summary="What is large in a directory of a snapshot",
        problems=(
            HTTPStatus.NOT_FOUND,
            HTTPStatus.CONFLICT,
            HTTPStatus.BAD_GATEWAY,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    ),
)
