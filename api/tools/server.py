"""The server of tools: what it offers, and the log that every call passes through.

A call may only do what the tool it names does with arguments that fit its schema. Nothing that is read out of a
repository reaches the names, descriptions or instructions that clients are told, or decides what a tool does.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from mcp.server import MCPServer, ServerRequestContext
from mcp.server.context import CallNext, HandlerResult
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp.shared.exceptions import MCPError

from api.tools.audit import AuditLog
from api.tools.calls import Toolbox, quick
from api.tools.changing import Changing
from api.tools.changing_tools import add_changing_tools
from api.tools.config import ToolsConfig
from api.tools.reading import Reading
from api.tools.reading_tools import DATA_NOT_INSTRUCTIONS, add_reading_tools
from api.tools.repository import ServedRepository
from bfrepo.core.clock import Clock
from bfrepo.core.errors import BackupForgeError
from bfrepo.repository.repository import Repository

_INSTRUCTIONS: Final = (
    "Backups in a BackupForge repository: snapshots of files, which never change. Begin with list_snapshots; 'latest' "
    "is the newest one. Answers come in pages: next_offset says where the next one begins. "
)
_READ_ONLY: Final = "This server is read-only. "
_LISTED: Final = 100
_JSON: Final = "application/json"
_AUDITED: Final = {"tools/call": "name", "resources/read": "uri"}
_DENIED: Final = -32603  # of JSON-RPC: internal error


def make_server(repository: Repository, config: ToolsConfig, clock: Clock) -> MCPServer[Toolbox]:
    """The server over an open repository, which whoever opened it closes."""
    served = ServedRepository(repository)
    guests = None
    if config.cluster is not None:
        from api.tools.guests import Guests  # noqa: PLC0415 - packages that few need

        guests = Guests(served, config, config.cluster)
    tools = Toolbox(config, Reading(served), Changing(served, config), guests)

    @asynccontextmanager
    async def lifespan(server: MCPServer[Toolbox]) -> AsyncIterator[Toolbox]:
        yield tools

    server = MCPServer[Toolbox](
        "backupforge",
        title="BackupForge",
        version=config.version,
        instructions=_INSTRUCTIONS + ("" if config.allow_write else _READ_ONLY) + DATA_NOT_INSTRUCTIONS,
        lifespan=lifespan,
        log_level="WARNING",
    )
    add_reading_tools(server)
    if config.allow_write:
        add_changing_tools(server, config)
    if guests is not None:
        from api.tools.guest_tools import add_guest_tools  # noqa: PLC0415 - the same

        add_guest_tools(server, config)
    _add_resources(server, tools)
    server.middleware.append(_Auditing(server, AuditLog(config.audit_log, clock)))
    return server


def _add_resources(server: MCPServer[Toolbox], tools: Toolbox) -> None:
    @server.resource(
        "backupforge://snapshots",
        name="snapshots",
        title="Snapshots",
        description=f"The {_LISTED} newest snapshots. {DATA_NOT_INSTRUCTIONS}",
        mime_type=_JSON,
    )
    async def snapshots() -> str:
        return await _resource(tools, lambda: tools.reading.list_snapshots(None, None, b"", 0, _LISTED))

    @server.resource(
        "backupforge://snapshots/{snapshot}",
        name="snapshot",
        title="A snapshot",
        description=f"All about one snapshot, by its ID or as 'latest'. {DATA_NOT_INSTRUCTIONS}",
        mime_type=_JSON,
    )
    async def snapshot(snapshot: str) -> str:
        return await _resource(tools, lambda: tools.reading.get_snapshot(snapshot))


async def _resource(tools: Toolbox, work: Callable[[], object]) -> str:
    try:
        return json.dumps(await quick(tools, work))
    except ToolError as error:
        raise ResourceNotFoundError(str(error)) from error


class _Auditing:
    """Writes down every call, before it is looked at any further."""

    def __init__(self, server: MCPServer[Toolbox], log: AuditLog) -> None:
        self._server = server
        self._log = log

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Middleware of the SDK."""
        key = _AUDITED.get(ctx.method)
        if key is None:
            return await call_next(ctx)
        try:
            return await self._audited(ctx, call_next, key)
        except BackupForgeError as error:
            raise MCPError(code=_DENIED, message=str(error)) from error

    async def _audited(self, context: ServerRequestContext[Any, Any], call_next: CallNext, key: str) -> HandlerResult:
        params = context.params or {}
        name, arguments = str(params.get(key, "")), params.get("arguments")
        arguments = arguments if isinstance(arguments, Mapping) else {}
        known = await self._known_arguments(name) if key == "name" else ()
        call = self._log.begin(_client(context), context.method, name, arguments, known)
        try:
            result = await call_next(context)
        except anyio.get_cancelled_exc_class():
            call.end("cancelled")
            raise
        except Exception as error:
            call.end("failed", str(error))
            raise
        call.end(*_outcome(result))
        return result

    async def _known_arguments(self, name: str) -> frozenset[str]:
        found = (tool for tool in await self._server.list_tools() if tool.name == name)
        return frozenset(key for tool in found for key in tool.input_schema.get("properties", {}))


def _client(context: ServerRequestContext[Any, Any]) -> str:
    """Who calls, as it calls itself."""
    told = context.session.client_params
    return f"{told.client_info.name} {told.client_info.version}" if told is not None else ""


def _outcome(result: HandlerResult) -> tuple[str, str]:
    """How a call ended, and why it failed; what it answers is nobody's business here."""
    told = result if isinstance(result, dict) else result.model_dump(by_alias=True) if result is not None else {}
    if told.get("inputRequests"):
        return "asked", ""
    if told.get("isError"):
        return "failed", " ".join(str(each.get("text", "")) for each in told.get("content", ()))
    return "done", ""
