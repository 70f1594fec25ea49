"""Becoming a user, logging in, and tokens for programs; and the audit log."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from api.fields import Email, GivenPassword, NewPassword, Secret, Title
from api.identity import Access
from api.paging import Paged
from api.routing import Call, NoFields, Route
from api.services.accounts import LoggedIn, User
from api.services.auditing import EventPage
from api.services.tokens import NewToken, TokenPage


class Registration(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`secret` is that of an invitation, or the one that the server printed at its first start."""

    secret: Secret
    email: Email
    password: NewPassword


class Credentials(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who logs in."""

    email: Annotated[str, Meta(max_length=254)]
    password: GivenPassword


class PasswordChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The password as it is, and as it shall be."""

    current: GivenPassword
    new: NewPassword


class TokenRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a new token is called and allows, and for how many days; without them it holds until it is revoked."""

    name: Title
    scopes: Annotated[list[Annotated[str, Meta(max_length=40)]], Meta(min_length=1, max_length=20)]
    days: Annotated[int, Meta(ge=1, le=3650)] | None = None


class AuditQuery(Paged, kw_only=True, forbid_unknown_fields=True):
    """`tenant` is an ID; without it an administrator of the server sees the events of all tenants."""

    tenant: Annotated[str, Meta(max_length=64)] | None = None


async def _register(call: Call[NoFields, Registration]) -> LoggedIn:
    accounts, body = call.services.accounts, call.body
    return await call.services.logins.run(accounts.register, call.origin, body.secret, body.email, body.password)


async def _login(call: Call[NoFields, Credentials]) -> LoggedIn:
    accounts, body = call.services.accounts, call.body
    return await call.services.logins.run(accounts.login, call.origin, body.email, body.password)


async def _logout(call: Call[NoFields, NoFields]) -> None:
    await call.run(call.services.accounts.logout, call.origin, call.caller)


async def _me(call: Call[NoFields, NoFields]) -> User:
    return await call.run(call.services.accounts.me, call.caller)


async def _change_password(call: Call[NoFields, PasswordChange]) -> None:
    change, body = call.services.accounts.change_password, call.body
    await call.services.logins.run(change, call.origin, call.caller, body.current, body.new)


async def _list_tokens(call: Call[Paged, NoFields]) -> TokenPage:
    return await call.run(call.services.tokens.page, call.caller, call.query)


async def _create_token(call: Call[NoFields, TokenRequest]) -> NewToken:
    body = call.body
    lifetime_s = None if body.days is None else timedelta(days=body.days).total_seconds()
    create = call.services.tokens.create
    return await call.run(create, call.origin, call.caller, body.name, body.scopes, lifetime_s)


async def _revoke_token(call: Call[NoFields, NoFields]) -> None:
    await call.run(call.services.tokens.revoke, call.origin, call.caller, call.path["id"])


async def _list_audit(call: Call[AuditQuery, NoFields]) -> EventPage:
    return await call.run(call.services.audit_log.page, call.caller, call.query.tenant, call.query)


_GUESSING: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

ROUTES: Final = (
    Route(
        method="POST",
        path="/api/auth/register",
        handler=_register,
        access=Access.PUBLIC,
        body=Registration,
        result=LoggedIn,
        status=HTTPStatus.CREATED,
        summary="Become a user, by an invitation",
        problems=(HTTPStatus.UNAUTHORIZED, HTTPStatus.CONFLICT, HTTPStatus.SERVICE_UNAVAILABLE),
    ),
    Route(
        method="POST",
        path="/api/auth/login",
        handler=_login,
        access=Access.PUBLIC,
        body=Credentials,
        result=LoggedIn,
        summary="Get a token that is good for 24 hours",
        problems=(HTTPStatus.UNAUTHORIZED, *_GUESSING),
    ),
    Route(
        method="POST",
        path="/api/auth/logout",
        handler=_logout,
        access=Access.VIEWER,
        status=HTTPStatus.NO_CONTENT,
        summary="Make the token useless that this request has",
    ),
    Route(method="GET", path="/api/auth/me", handler=_me, access=Access.VIEWER, result=User, summary="Who am I?"),
    Route(
        method="POST",
        path="/api/auth/password",
        handler=_change_password,
        access=Access.VIEWER,
        body=PasswordChange,
        status=HTTPStatus.NO_CONTENT,
        summary="Change one's own password, and end one's other sessions",
        problems=_GUESSING,
    ),
    Route(
        method="GET",
        path="/api/auth/tokens",
        handler=_list_tokens,
        access=Access.VIEWER,
        query=Paged,
        result=TokenPage,
        summary="List API tokens: one's own, and for administrators the tenant's",
    ),
    Route(
        method="POST",
        path="/api/auth/tokens",
        handler=_create_token,
        access=Access.VIEWER,
        body=TokenRequest,
        result=NewToken,
        status=HTTPStatus.CREATED,
        summary="Make an API token for a program; it is shown this once",
        problems=(HTTPStatus.CONFLICT,),
    ),
    Route(
        method="DELETE",
        path="/api/auth/tokens/{id}",
        handler=_revoke_token,
        access=Access.VIEWER,
        status=HTTPStatus.NO_CONTENT,
        summary="Make an API token useless",
    ),
    Route(
        method="GET",
        path="/api/audit",
        handler=_list_audit,
        access=Access.ADMIN,
        query=AuditQuery,
        result=EventPage,
        summary="Who changed what, when and from where; the newest first",
        problems=(HTTPStatus.NOT_FOUND,),
    ),
)
