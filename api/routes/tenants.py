"""Tenants, their users, invitations, quota and usage.

Administrators of the server reach every tenant, everybody else the own one: any other is not found.
"""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from api.fields import Bytes, Email, Slug
from api.identity import Access, Role
from api.paging import Paged
from api.routing import Call, NoFields, Route, expected_version
from api.services.accounts import User
from api.services.members import InvitationPage, NewInvitation, UserPage
from api.services.tenants import Quota, Tenant, TenantPage, Usage


class TenantRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A tenant that is to be. What an append-only one sends to this server, it cannot delete."""

    name: Slug
    append_only: bool = False
    quota_bytes: Bytes | None = None


class TenantChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is to change; the rest stays."""

    name: Slug | UnsetType = UNSET
    append_only: bool | UnsetType = UNSET


class QuotaRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How much a tenant may store, null for no limit."""

    bytes: Bytes | None


class UserChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is to change; the rest stays."""

    role: Role | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET
    server_admin: bool | UnsetType = UNSET


class InvitationRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who is invited, and as what. With an e-mail address it is for that one alone."""

    role: Role
    email: Email | None = None
    server_admin: bool = False
    days: Annotated[int, Meta(ge=1, le=30)] = 7


async def _list_tenants(call: Call[Paged, NoFields]) -> TenantPage:
    return await call.run(call.services.tenants.page, call.query)


async def _create_tenant(call: Call[NoFields, TenantRequest]) -> Tenant:
    create, body = call.services.tenants.create, call.body
    return await call.run(create, call.origin, body.name, append_only=body.append_only, quota_bytes=body.quota_bytes)


async def _get_tenant(call: Call[NoFields, NoFields]) -> Tenant:
    return await call.run(call.services.tenants.get, call.caller, call.path["id"])


async def _change_tenant(call: Call[NoFields, TenantChange]) -> Tenant:
    change, expected = call.services.tenants.change, expected_version(call.request)
    return await call.run(change, call.origin, call.caller, call.path["id"], expected, _given(call.body))


async def _delete_tenant(call: Call[NoFields, NoFields]) -> None:
    delete, expected = call.services.tenants.delete, expected_version(call.request)
    await call.run(delete, call.origin, call.caller, call.path["id"], expected)


async def _restore_tenant(call: Call[NoFields, NoFields]) -> Tenant:
    return await call.run(call.services.tenants.restore, call.origin, call.caller, call.path["id"])


async def _get_quota(call: Call[NoFields, NoFields]) -> Quota:
    return await call.run(call.services.tenants.quota, call.caller, call.path["id"])


async def _set_quota(call: Call[NoFields, QuotaRequest]) -> Quota:
    change, expected = call.services.tenants.set_quota, expected_version(call.request)
    return await call.run(change, call.origin, call.caller, call.path["id"], expected, call.body.bytes)


async def _get_usage(call: Call[NoFields, NoFields]) -> Usage:
    return await call.run(call.services.tenants.usage, call.caller, call.path["id"])


async def _list_users(call: Call[Paged, NoFields]) -> UserPage:
    return await call.run(call.services.members.page, call.caller, call.path["id"], call.query)


async def _change_user(call: Call[NoFields, UserChange]) -> User:
    change, expected = call.services.members.change, expected_version(call.request)
    tenant_id, user_id = call.path["id"], call.path["user"]
    return await call.run(change, call.origin, call.caller, tenant_id, user_id, expected, _given(call.body))


async def _list_invitations(call: Call[Paged, NoFields]) -> InvitationPage:
    return await call.run(call.services.members.invitations, call.caller, call.path["id"], call.query)


async def _create_invitation(call: Call[NoFields, InvitationRequest]) -> NewInvitation:
    invite, body = call.services.members.invite, call.body
    lifetime_s = timedelta(days=body.days).total_seconds()
    tenant_id, admin = call.path["id"], body.server_admin
    return await call.run(
        invite, call.origin, call.caller, tenant_id, body.email, body.role, lifetime_s, server_admin=admin
    )


async def _withdraw_invitation(call: Call[NoFields, NoFields]) -> None:
    withdraw, tenant_id = call.services.members.withdraw, call.path["id"]
    await call.run(withdraw, call.origin, call.caller, tenant_id, call.path["invitation"])


def _given(body: msgspec.Struct) -> dict[str, Any]:
    """The fields that the client sent, as the database takes them."""
    values: dict[str, Any] = msgspec.to_builtins(body)
    return values


_CHANGED: Final = (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED)

ROUTES: Final = (
    Route(
        method="GET",
        path="/api/tenants",
        handler=_list_tenants,
        access=Access.SERVER,
        query=Paged,
        result=TenantPage,
        summary="List tenants",
    ),
    Route(
        method="POST",
        path="/api/tenants",
        handler=_create_tenant,
        access=Access.SERVER,
        body=TenantRequest,
        result=Tenant,
        status=HTTPStatus.CREATED,
        summary="Make a tenant",
        problems=(HTTPStatus.CONFLICT,),
    ),
    Route(
        method="GET",
        path="/api/tenants/{id}",
        handler=_get_tenant,
        access=Access.VIEWER,
        result=Tenant,
        summary="Show a tenant",
    ),
    Route(
        method="PATCH",
        path="/api/tenants/{id}",
        handler=_change_tenant,
        access=Access.SERVER,
        body=TenantChange,
        result=Tenant,
        summary="Rename a tenant, or make it append-only",
        problems=_CHANGED,
    ),
    Route(
        method="DELETE",
        path="/api/tenants/{id}",
        handler=_delete_tenant,
        access=Access.SERVER,
        status=HTTPStatus.NO_CONTENT,
        summary="Delete a tenant; its data stays for 30 days",
        problems=_CHANGED,
    ),
    Route(
        method="POST",
        path="/api/tenants/{id}/restore",
        handler=_restore_tenant,
        access=Access.SERVER,
        result=Tenant,
        summary="Take back that a tenant was deleted",
    ),
    Route(
        method="GET",
        path="/api/tenants/{id}/quota",
        handler=_get_quota,
        access=Access.VIEWER,
        result=Quota,
        summary="How much may the tenant store?",
    ),
    Route(
        method="PUT",
        path="/api/tenants/{id}/quota",
        handler=_set_quota,
        access=Access.SERVER,
        body=QuotaRequest,
        result=Quota,
        summary="Set how much the tenant may store",
        problems=(HTTPStatus.PRECONDITION_FAILED,),
    ),
    Route(
        method="GET",
        path="/api/tenants/{id}/usage",
        handler=_get_usage,
        access=Access.VIEWER,
        result=Usage,
        summary="What does the tenant have?",
    ),
    Route(
        method="GET",
        path="/api/tenants/{id}/users",
        handler=_list_users,
        access=Access.ADMIN,
        query=Paged,
        result=UserPage,
        summary="List the tenant's users",
    ),
    Route(
        method="PATCH",
        path="/api/tenants/{id}/users/{user}",
        handler=_change_user,
        access=Access.ADMIN,
        body=UserChange,
        result=User,
        summary="Change a user's role, or let the user in no more",
        problems=_CHANGED,
    ),
    Route(
        method="GET",
        path="/api/tenants/{id}/invitations",
        handler=_list_invitations,
        access=Access.ADMIN,
        query=Paged,
        result=InvitationPage,
        summary="List invitations to the tenant",
    ),
    Route(
        method="POST",
        path="/api/tenants/{id}/invitations",
        handler=_create_invitation,
        access=Access.ADMIN,
        body=InvitationRequest,
        result=NewInvitation,
        status=HTTPStatus.CREATED,
        summary="Invite somebody to the tenant; the secret is shown this once",
        problems=(HTTPStatus.CONFLICT,),
    ),
    Route(
        method="DELETE",
        path="/api/tenants/{id}/invitations/{invitation}",
        handler=_withdraw_invitation,
        access=Access.ADMIN,
        status=HTTPStatus.NO_CONTENT,
        summary="Make an invitation useless",
    ),
)
