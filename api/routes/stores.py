"""What the data plane keeps for a tenant: how much, and whether it is still whole."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from api.identity import Access
from api.paging import Paged
from api.routing import Call, NoFields, Route
from api.services.stores import StoreDetail, StorePage


async def _list_stores(call: Call[Paged, NoFields]) -> StorePage:
    return await call.run(call.services.stores.page, call.caller, call.query)


async def _get_store(call: Call[NoFields, NoFields]) -> StoreDetail:
    return await call.run(call.services.stores.get, call.caller, call.path["id"])


async def _delete_store(call: Call[NoFields, NoFields]) -> None:
    await call.run(call.services.stores.remove, call.origin, call.caller, call.path["id"])


ROUTES: Final = (
    Route(
        method="GET",
        path="/api/stores",
        handler=_list_stores,
        access=Access.VIEWER,
        query=Paged,
        result=StorePage,
        summary="List the repositories that clients keep on this server",
        scope="storage:read",
    ),
    Route(
        method="GET",
        path="/api/stores/{id}",
        handler=_get_store,
        access=Access.VIEWER,
        result=StoreDetail,
        summary="Show such a repository, and what is damaged in it",
        scope="storage:read",
    ),
    Route(
        method="DELETE",
        path="/api/stores/{id}",
        handler=_delete_store,
        access=Access.ADMIN,
        status=HTTPStatus.NO_CONTENT,
        summary="Delete such a repository and all that is in it, at once",
        problems=(HTTPStatus.CONFLICT,),
    ),
)
