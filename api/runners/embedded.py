"""Runs jobs in the server's own care: nothing else to start. Several servers on one database share the work."""

from __future__ import annotations

from api.runners.base import Dispatch
from api.runners.crew import Crew


class EmbeddedRunner:
    """Takes what waits, as far as it has free slots. A Runner."""

    def __init__(self, dispatch: Dispatch, crew: Crew) -> None:
        self._dispatch = dispatch
        self._crew = crew

    def wake(self) -> None:
        """See Runner."""
        self._dispatch.wake()

    async def run(self) -> None:
        """See Runner."""
        try:
            while True:
                for waiting in await self._dispatch.look():
                    if not self._crew.is_full:
                        self._crew.begin(waiting.run_id)
                await self._dispatch.pause()
        finally:
            await self._crew.leave()
