"""Jobs, their runs, and restores.

A run tells what it does as server-sent events. A client that was cut off sends the ID of the last one it has seen
(Last-Event-ID), as browsers do, and misses nothing.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

from aiohttp import web

from api.identity import Access
from api.paging import Paged
from api.problems import Problem
from api.routing import Call, NoFields, Route, expected_version
from api.services.jobs import Job, JobChange, JobPage, JobRequest
from api.services.runs import Event, RestoreRequest, Run, RunFilter, RunPage

EVENTS_TYPE: Final = "text/event-stream"

_POLL_S: Final = 0.5
_REMIND_S: Final = 15.0
"""How long nothing is said, before a comment shows that the connection is alive."""
_STALLED_S: Final = 60.0
_STREAM_S: Final = 300.0
"""How long one answer lasts: clients come again, with a token that is still good."""


async def _list_jobs(call: Call[Paged, NoFields]) -> JobPage:
    return await call.run(call.services.jobs.page, call.caller, call.query)


async def _create_job(call: Call[NoFields, JobRequest]) -> Job:
    made = await call.run(call.services.jobs.create, call.origin, call.caller, call.body)
    call.services.runner.wake()
    return made


async def _get_job(call: Call[NoFields, NoFields]) -> Job:
    return await call.run(call.services.jobs.get, call.caller, call.path["id"])


async def _change_job(call: Call[NoFields, JobChange]) -> Job:
    change, expected = call.services.jobs.change, expected_version(call.request)
    return await call.run(change, call.origin, call.caller, call.path["id"], expected, call.body)


async def _delete_job(call: Call[NoFields, NoFields]) -> None:
    delete, expected = call.services.jobs.delete, expected_version(call.request)
    await call.run(delete, call.origin, call.caller, call.path["id"], expected)


async def _run_job(call: Call[NoFields, NoFields]) -> Run:
    run = await call.run(call.services.jobs.run, call.origin, call.caller, call.path["id"])
    call.services.runner.wake()
    return run


async def _list_job_runs(call: Call[Paged, NoFields]) -> RunPage:
    job = await call.run(call.services.jobs.get, call.caller, call.path["id"])
    wanted = RunFilter(job=job.id, cursor=call.query.cursor, limit=call.query.limit)
    return await call.run(call.services.runs.page, call.caller, wanted)


async def _list_runs(call: Call[RunFilter, NoFields]) -> RunPage:
    return await call.run(call.services.runs.page, call.caller, call.query)


async def _get_run(call: Call[NoFields, NoFields]) -> Run:
    return await call.run(call.services.runs.get, call.caller, call.path["id"])


async def _cancel_run(call: Call[NoFields, NoFields]) -> Run:
    return await call.run(call.services.runs.cancel, call.origin, call.caller, call.path["id"])


async def _restore_snapshot(call: Call[NoFields, RestoreRequest]) -> Run:
    restore = call.services.runs.restore
    run = await call.run(restore, call.origin, call.caller, call.path["id"], call.body)
    call.services.runner.wake()
    return run


async def _get_run_events(call: Call[NoFields, NoFields]) -> web.StreamResponse:
    run = await call.run(call.services.runs.get, call.caller, call.path["id"])
    with call.services.watchers.turn(call.caller.tenant_id):
        return await _tell_events(call, run.id, _last_seen(call.request))


async def _tell_events(call: Call[NoFields, NoFields], run_id: str, last: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": EVENTS_TYPE, "X-Accel-Buffering": "no"})
    await response.prepare(call.request)
    loop = asyncio.get_running_loop()
    said, until = loop.time(), loop.time() + _STREAM_S
    while True:
        events, ended = await call.run(call.services.runs.events, call.caller, run_id, last)
        if events:
            last, said = events[-1].id, loop.time()
            await _write(response, b"".join(map(_frame, events)))
        if ended or loop.time() > until:
            break
        if loop.time() - said > _REMIND_S:
            said = loop.time()
            await _write(response, b": still here\n\n")
        await asyncio.sleep(0 if events else _POLL_S)
    await response.write_eof()
    return response


async def _write(response: web.StreamResponse, data: bytes) -> None:
    """Raises ConnectionResetError when the client takes nothing."""
    try:
        async with asyncio.timeout(_STALLED_S):
            await response.write(data)
    except TimeoutError as error:
        raise ConnectionResetError("the client takes nothing") from error


def _last_seen(request: web.Request) -> int:
    text = request.headers.get("Last-Event-ID", "0")
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise Problem(HTTPStatus.BAD_REQUEST, "invalid-event-id", "Last-Event-ID is the ID of an event")
    return int(text)


def _frame(event: Event) -> bytes:
    """By the HTML standard, "Server-sent events". The data is JSON, and so of one line."""
    return f"id: {event.id}\nevent: {event.kind}\ndata: {event.data}\n\n".encode()


_CHANGED: Final = (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED)

ROUTES: Final = (
    Route(
        method="GET",
        path="/api/jobs",
        handler=_list_jobs,
        access=Access.VIEWER,
        scope="jobs:read",
        query=Paged,
        result=JobPage,
        summary="List jobs",
    ),
    Route(
        method="POST",
        path="/api/jobs",
        handler=_create_job,
        access=Access.OPERATOR,
        scope="jobs:write",
        body=JobRequest,
        result=Job,
        status=HTTPStatus.CREATED,
        summary="Plan a job",
        problems=(HTTPStatus.CONFLICT,),
    ),
    Route(
        method="GET",
        path="/api/jobs/{id}",
        handler=_get_job,
        access=Access.VIEWER,
        scope="jobs:read",
        result=Job,
        summary="Show a job",
    ),
    Route(
        method="PATCH",
        path="/api/jobs/{id}",
        handler=_change_job,
        access=Access.OPERATOR,
        scope="jobs:write",
        body=JobChange,
        result=Job,
        summary="Change a job",
        problems=_CHANGED,
    ),
    Route(
        method="DELETE",
        path="/api/jobs/{id}",
        handler=_delete_job,
        access=Access.OPERATOR,
        scope="jobs:write",
        status=HTTPStatus.NO_CONTENT,
        summary="Remove a job and the account of its runs; its snapshots stay",
        problems=_CHANGED,
    ),
    Route(
        method="POST",
        path="/api/jobs/{id}/run",
        handler=_run_job,
        access=Access.OPERATOR,
        scope="jobs:run",
        result=Run,
        status=HTTPStatus.ACCEPTED,
        summary="Run a job now",
    ),
    Route(
        method="GET",
        path="/api/jobs/{id}/runs",
        handler=_list_job_runs,
        access=Access.VIEWER,
        scope="jobs:read",
        query=Paged,
        result=RunPage,
        summary="List the runs of a job, the latest first",
    ),
    Route(
        method="GET",
        path="/api/runs",
        handler=_list_runs,
        access=Access.VIEWER,
        scope="jobs:read",
        query=RunFilter,
        result=RunPage,
        summary="List runs, also of restores, the latest first",
    ),
    Route(
        method="GET",
        path="/api/runs/{id}",
        handler=_get_run,
        access=Access.VIEWER,
        scope="jobs:read",
        result=Run,
        summary="Show a run",
    ),
    Route(
        method="GET",
        path="/api/runs/{id}/events",
        handler=_get_run_events,
        access=Access.VIEWER,
        scope="jobs:read",
        streams=EVENTS_TYPE,
        summary="What a run says, as it says it",
        problems=(HTTPStatus.TOO_MANY_REQUESTS,),
    ),
    Route(
        method="POST",
        path="/api/runs/{id}/cancel",
        handler=_cancel_run,
        access=Access.OPERATOR,
        scope="jobs:run",
        result=Run,
        status=HTTPStatus.ACCEPTED,
        summary="End a run",
    ),
    Route(
        method="POST",
        path="/api/snapshots/{id}/restore",
        handler=_restore_snapshot,
        access=Access.OPERATOR,
        scope="jobs:run",
        body=RestoreRequest,
        result=Run,
        status=HTTPStatus.ACCEPTED,
        summary="Restore a snapshot, or a path of it, on the server's machine",
    ),
)
