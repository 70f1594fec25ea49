"""Carrying out a call: the work in a thread, one call at a time, with progress on the way and errors in words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from api.tools.bounds import message
from api.tools.changing import Changing
from api.tools.config import ToolsConfig
from api.tools.reading import Reading
from api.tools.reporting import Notes
from bfrepo.core.errors import BackupForgeError
from bfrepo.core.progress import Progress

if TYPE_CHECKING:
    from api.tools.guests import Guests

T = TypeVar("T")

Unit = Literal["items", "bytes"]

_EVERY_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Toolbox:
    """What the tools work with. Operations are done one at a time, in the order in which they came."""

    config: ToolsConfig
    reading: Reading
    changing: Changing
    guests: Guests | None = None
    turn: anyio.Lock = field(default_factory=anyio.Lock)


Call: TypeAlias = Context[Toolbox, Any]


def toolbox(call: Call) -> Toolbox:
    """What a call works with."""
    return call.request_context.lifespan_context


async def quick(tools: Toolbox, work: Callable[[], T]) -> T:
    """Work that takes moments. Raises ToolError."""
    async with tools.turn:
        try:
            return await anyio.to_thread.run_sync(work)
        except BackupForgeError as error:
            raise _in_words(error) from error


async def long(call: Call, work: Callable[[Notes, Callable[[], bool]], T], unit: Unit = "items") -> T:
    """Work that may take hours: the client is told how far it is, and may end it. Raises ToolError."""
    notes, cancelled = Notes(), threading.Event()
    failed: BackupForgeError | None = None
    async with toolbox(call).turn:
        teller = _Teller(call, notes.progress, unit)
        async with anyio.create_task_group() as group:
            group.start_soon(teller.tell, cancelled)
            try:
                result = await anyio.to_thread.run_sync(work, notes, cancelled.is_set)
            except BackupForgeError as error:
                failed = error
            group.cancel_scope.cancel()
    if failed is not None:
        await anyio.lowlevel.checkpoint_if_cancelled()  # who has given the call up wants no answer
        raise _in_words(failed) from failed
    await teller.once()
    return result


class _Teller:
    """Tells the client how far the work is: counts only, as names of files are nothing for a status line."""

    def __init__(self, call: Call, progress: Progress, unit: Unit) -> None:
        self._call = call
        self._progress = progress
        self._unit = unit
        self._last = -1

    async def tell(self, cancelled: threading.Event) -> None:
        """Tell every now and then, until cancelled: then the work is asked to end as well."""
        try:
            while True:
                await anyio.sleep(_EVERY_S)
                await self.once()
        finally:
            cancelled.set()

    async def once(self) -> None:
        """Tell, if it has come any further."""
        progress = self._progress
        if self._unit == "bytes":
            done, total = progress.bytes_done, progress.bytes_total
        else:
            done, total = progress.files_done, progress.files_total
        if done > self._last:
            self._last = done
            await self._call.report_progress(done, max(total, done) if total else None, f"{done} {self._unit}")


def _in_words(error: BackupForgeError) -> ToolError:
    """What a model reads of an error."""
    hint = f" ({error.hint})" if error.hint else ""
    return ToolError(message(f"{error.code}: {error}{hint}"))
