"""Repositories that the server may open for a tenant."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from api.fields import Title
from api.identity import Access
from api.paging import Paged
from api.routing import Call, NoFields, Route, expected_version
from api.services.locations import Secrets
from api.services.repositories import RepositoryPage, RepositoryView


class RepositoryRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A repository that is to be taken up; with `create` it is made there first.

    `location` is store:NAME for a store of the tenant's on this server. Other locations, as commands take them, have to
    be below one that the server's operator has allowed. Secrets are kept sealed, and never given back.
    """

    name: Title
    location: Annotated[str, Meta(min_length=1, max_length=1000)]
    secrets: Secrets = msgspec.field(default_factory=Secrets)
    create: bool = False


async def _list_repositories(call: Call[Paged, NoFields]) -> RepositoryPage:
    return await call.run(call.services.repositories.page, call.caller, call.query)


async def _create_repository(call: Call[NoFields, RepositoryRequest]) -> RepositoryView:
    body, create = call.body, call.services.repositories.create
    work = call.services.reading.run_for
    return await work(
        call.caller.tenant_id, create, call.origin, call.caller, body.name, body.location, body.secrets,
        create=body.create,
    )  # fmt: skip


async def _get_repository(call: Call[NoFields, NoFields]) -> RepositoryView:
    return await call.run(call.services.repositories.get, call.caller, call.path["id"])


async def _delete_repository(call: Call[NoFields, NoFields]) -> None:
    delete, expected = call.services.repositories.delete, expected_version(call.request)
    await call.run(delete, call.origin, call.caller, call.path["id"], expected)


ROUTES: Final = (
    Route(
        method="GET",
        path="/api/repositories",
        handler=_list_repositories,
        access=Access.VIEWER,
        scope="repositories:read",
        query=Paged,
        result=RepositoryPage,
        summary="List repositories",
    ),
    Route(
        method="POST",
        path="/api/repositories",
        handler=_create_repository,
        access=Access.ADMIN,
        body=RepositoryRequest,
        result=RepositoryView,
        status=HTTPStatus.CREATED,
        summary="Take up a repository, or make one",
        problems=(HTTPStatus.CONFLICT, HTTPStatus.BAD_GATEWAY, HTTPStatus.INSUFFICIENT_STORAGE),
    ),
    Route(
        method="GET",
        path="/api/repositories/{id}",
        handler=_get_repository,
        access=Access.VIEWER,
        scope="repositories:read",
        result=RepositoryView,
        summary="Show a repository",
    ),
    Route(
        method="DELETE",
        path="/api/repositories/{id}",
        handler=_delete_repository,
        access=Access.ADMIN,
        status=HTTPStatus.NO_CONTENT,
        summary="Forget how to open a repository; what it holds stays",
        problems=(HTTPStatus.PRECONDITION_FAILED,),
    ),
)
