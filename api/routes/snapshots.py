"""Snapshots: lists of them, what is in them, their tags, and forgetting them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Final
from urllib.parse import quote

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from api.identity import Access
from api.problems import Problem
from api.routing import Call, NoFields, Route
from api.services.catalogue import SnapshotView
from api.services.contents import ArchiveQuery, DiffQuery, OpenFile, PlaceQuery, RepositoryId, Tree, TreeQuery
from api.services.snapshots import EncodedPage, SnapshotPage, SnapshotQuery
from api.streaming import read_size, send_pieces, send_produced
from bfrepo.core.names import shown_name
from bfrepo.core.protocols import Buffer

_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_MEDIA_TYPES: Final = {"tar": "application/x-tar", "zip": "application/zip"}
_LINES: Final = "application/x-ndjson"
_BYTES: Final = "application/octet-stream"

Tag = Annotated[
    str, Meta(min_length=1, max_length=128, pattern=r"^[^,\x00-\x20\x7f]([^,\x00-\x1f\x7f]*[^,\x00-\x20\x7f])?$(?!\n)")
]
"""As commands take them: a comma stands between two, and spaces around them are not part of them."""


Label = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]


class OneQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`repository` is needed only for a snapshot that several repositories have."""

    repository: RepositoryId | None = None


class SnapshotChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All tags that the snapshot is to have, its label, or both."""

    tags: Annotated[list[Tag], Meta(max_length=100)] | UnsetType = UNSET
    label: Label | UnsetType = UNSET


async def _list_snapshots(call: Call[SnapshotQuery, NoFields]) -> EncodedPage:
    page = call.services.snapshots.page
    return await call.services.reading.run_for(call.caller.tenant_id, page, call.caller, call.query)


async def _get_snapshot(call: Call[OneQuery, NoFields]) -> SnapshotView:
    get, run = call.services.snapshots.get, call.services.reading.run_for
    return await run(call.caller.tenant_id, get, call.caller, call.path["id"], call.query.repository)


async def _change_snapshot(call: Call[OneQuery, SnapshotChange]) -> SnapshotView:
    change, run = call.services.snapshots.change, call.services.reading.run_for
    tags = None if call.body.tags is UNSET else call.body.tags
    label = None if call.body.label is UNSET else call.body.label
    repository = call.query.repository
    return await run(call.caller.tenant_id, change, call.origin, call.caller, call.path["id"], repository, tags, label)


async def _forget_snapshot(call: Call[OneQuery, NoFields]) -> None:
    forget, run = call.services.snapshots.forget, call.services.reading.run_for
    await run(call.caller.tenant_id, forget, call.origin, call.caller, call.path["id"], call.query.repository)


async def _get_tree(call: Call[TreeQuery, NoFields]) -> Tree:
    tree, run = call.services.contents.tree, call.services.reading.run_for
    return await run(call.caller.tenant_id, tree, call.caller, call.path["id"], call.query)


async def _get_file(call: Call[PlaceQuery, NoFields]) -> web.StreamResponse:
    services, tenant_id = call.services, call.caller.tenant_id
    with services.downloads.turn(tenant_id):
        opening = services.contents.open_file
        file = await services.reading.run_for(tenant_id, opening, call.caller, call.path["id"], call.query)
        try:
            return await _answer_file(call, file)
        finally:
            file.close()


async def _get_archive(call: Call[ArchiveQuery, NoFields]) -> web.StreamResponse:
    services, snapshot_id, query = call.services, call.path["id"], call.query
    name = f"{snapshot_id[:8]}.{query.format}"
    headers = {"Content-Type": _MEDIA_TYPES[query.format], "Content-Disposition": f'attachment; filename="{name}"'}
    with services.downloads.turn(call.caller.tenant_id):
        return await send_produced(
            call.request, services.downloads, headers,
            lambda sink, gone: services.contents.archive(call.caller, snapshot_id, query, sink, gone),
        )  # fmt: skip


async def _compare_snapshots(call: Call[DiffQuery, NoFields]) -> web.StreamResponse:
    services, snapshot_id, other_id, query = call.services, call.path["id"], call.path["other"], call.query
    with services.downloads.turn(call.caller.tenant_id):
        return await send_produced(
            call.request, services.downloads, {"Content-Type": _LINES},
            lambda sink, gone: services.contents.diff(call.caller, snapshot_id, other_id, query, sink, gone),
        )  # fmt: skip


async def _answer_file(call: Call[PlaceQuery, NoFields], file: OpenFile) -> web.StreamResponse:
    request, size = call.request, file.file.size
    headers = {"ETag": file.etag, "Accept-Ranges": "bytes"}
    if any(tag.value in ("*", file.etag.strip('"')) for tag in request.if_none_match or ()):
        return web.Response(status=HTTPStatus.NOT_MODIFIED.value, headers=headers)
    headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(shown_name(file.name), safe='')}"
    start, end, status = 0, size, HTTPStatus.OK
    found = _range(request, file)
    if found is not None:
        start, end = found
        status = HTTPStatus.PARTIAL_CONTENT
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    response = web.StreamResponse(status=status.value, headers=headers)
    response.content_type, response.content_length = _BYTES, end - start
    return await send_pieces(request, response, _pieces(call, file, start, end))


async def _pieces(call: Call[PlaceQuery, NoFields], file: OpenFile, start: int, end: int) -> AsyncIterator[Buffer]:
    """What is in a range, read as it is taken."""
    while start < end:
        count = read_size(end - start)
        pieces = await call.services.reading.run_for(call.caller.tenant_id, file.read, start, count)
        for piece in pieces:
            yield piece
        start += count


def _range(request: web.Request, file: OpenFile) -> tuple[int, int] | None:
    """The bytes that the client wants, from and to, None for all. Raises Problem for a range that is not there.

    Several ranges, or something else than bytes, or a range of what the file was before, mean all (RFC 9110, 14.2).
    """
    size = file.file.size
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    if match is None or match[0] == "bytes=-" or request.headers.get("If-Range", file.etag) != file.etag:
        return None
    first, last = match.groups()
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if first and last and int(last) < int(first):
        return None
    if start >= size:
        raise Problem(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "no-such-range", f"the file has {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )  # fmt: skip
    return start, end


_READING: Final = (HTTPStatus.CONFLICT, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)
_CHANGING: Final = (*_READING, HTTPStatus.INSUFFICIENT_STORAGE)
_STREAMING: Final = (*_READING, HTTPStatus.TOO_MANY_REQUESTS)

ROUTES: Final = (
    Route(
        method="GET",
        path="/api/snapshots",
        handler=_list_snapshots,
        access=Access.VIEWER,
        scope="snapshots:read",
        query=SnapshotQuery,
        result=SnapshotPage,
        summary="List snapshots, the newest first",
        problems=(*_READING, HTTPStatus.NOT_FOUND),
    ),
    Route(
        method="GET",
        path="/api/snapshots/{id}",
        handler=_get_snapshot,
        access=Access.VIEWER,
        scope="snapshots:read",
        query=OneQuery,
        result=SnapshotView,
        summary="Show a snapshot",
        problems=_READING,
    ),
    Route(
        method="PATCH",
        path="/api/snapshots/{id}",
        handler=_change_snapshot,
        access=Access.OPERATOR,
        scope="snapshots:write",
        query=OneQuery,
        body=SnapshotChange,
        result=SnapshotView,
        summary="Give a snapshot other tags or another label, and by that another ID",
        problems=_CHANGING,
    ),
    Route(
        method="DELETE",
        path="/api/snapshots/{id}",
        handler=_forget_snapshot,
        access=Access.ADMIN,
        scope="snapshots:write",
        query=OneQuery,
        status=HTTPStatus.NO_CONTENT,
        summary="Forget a snapshot; prune frees what nothing else needs",
        problems=_CHANGING,
    ),
    Route(
        method="GET",
        path="/api/snapshots/{id}/tree",
        handler=_get_tree,
        access=Access.VIEWER,
        scope="snapshots:read",
        query=TreeQuery,
        result=Tree,
        summary="List a directory",
        problems=_READING,
    ),
    Route(
        method="GET",
        path="/api/snapshots/{id}/file",
        handler=_get_file,
        access=Access.VIEWER,
        scope="snapshots:read",
        query=PlaceQuery,
        streams=_BYTES,
        also=(HTTPStatus.PARTIAL_CONTENT, HTTPStatus.NOT_MODIFIED),
        summary="Read a file, or a range of it",
        problems=(*_STREAMING, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE),
    ),
    Route(
        method="GET",
        path="/api/snapshots/{id}/archive",
        handler=_get_archive,
        access=Access.VIEWER,
        scope="snapshots:read",
        query=ArchiveQuery,
        streams=", ".join(_MEDIA_TYPES.values()),
        summary="Read a directory as tar or zip",
        problems=_STREAMING,
    ),
    Route(
        method="GET",
        path="/api/snapshots/{id}/diff/{other}",
        handler=_compare_snapshots,
        access=Access.VIEWER,
        scope="snapshots:read",
        query=DiffQuery,
        streams=_LINES,
        summary="What changed from one snapshot to another, in lines of JSON; the last one has the sums",
        problems=_STREAMING,
    ),
)
