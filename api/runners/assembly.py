"""Runners, put together from a server's settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from api.config import ServerConfig, ServerKeys
from api.db.engine import Database
from api.runners.allotment import Allotment
from api.runners.base import Dispatch, Runner
from api.runners.carrier import CHILD, Carrier, Pace
from api.runners.crew import Crew
from api.runners.embedded import EmbeddedRunner
from api.runners.ordering import OpenTo, Orders
from api.runners.telling import Teller
from api.services.runqueue import RunQueue
from api.services.stores import Stores
from bfrepo.core.clock import Clock
from bfrepo.core.errors import UsageError

USUAL_PACE: Final = Pace()


class Parts:
    """What every runner is made of. For one process."""

    def __init__(
        self,
        config: ServerConfig,
        keys: ServerKeys,
        clock: Clock,
        database: Database,
        opening: OpenTo,
        *,
        pace: Pace = USUAL_PACE,
        command: Sequence[str] = CHILD,
    ) -> None:
        """`command` is what carries out an order."""
        self.queue = RunQueue(database, clock, stale_s=pace.stale_s)
        teller = Teller(database, keys, config)
        self.dispatch = Dispatch(self.queue, teller, pace)
        orders, allotment = Orders(config, database, opening), Allotment(Stores(database, clock, config.stores))
        self.carrier = Carrier(self.queue, orders.make, allotment, teller.tell, pace, command)

    def crew(self, slots: int) -> Crew:
        """Those who carry out runs here."""
        return Crew(self.queue, self.carrier, slots=slots, on_end=self.dispatch.wake)


def make_runner(config: ServerConfig, database: Database, parts: Parts) -> Runner:
    """The runner of a server, as its settings say. Raises UsageError."""
    if config.runner == "embedded":
        return EmbeddedRunner(parts.dispatch, parts.crew(config.slots))
    if config.runner != "procrastinate" or database.is_sqlite:
        raise UsageError(
            f"{config.runner!r} is no way to run jobs here",
            hint="embedded, or procrastinate where the database is PostgreSQL",
        )
    from api.runners.tasks import DeferringRunner, make_queue  # noqa: PLC0415 - a large package that few need

    return DeferringRunner(parts.dispatch, make_queue(config.database))
