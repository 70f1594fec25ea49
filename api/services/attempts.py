"""Guessing passwords: how often it may be tried for one account, and from one address.

An attempt counts as failed when it begins, before the password is looked at: what is tried at the same time, on
whatever server, is counted too. Who is turned away gets the same answer whether there is such an account or not.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
from http import HTTPStatus
from typing import Any, Final

from sqlalchemy import Connection, case, delete, update
from sqlalchemy.dialects import postgresql, sqlite

from api.db.engine import Database
from api.db.schema import login_failures
from api.problems import Problem
from bfrepo.core.clock import Clock

WINDOW_S: Final = 15 * 60
ACCOUNT_LIMIT: Final = 10
ADDRESS_LIMIT: Final = 50


class Attempts:
    """Counts attempts. Thread-safe; every method blocks."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def begin(self, email: str, address: str) -> None:
        """Count an attempt. Raises Problem (429) when there were too many, which counts as none."""
        now = self._clock.now().timestamp()
        with self._database.write() as connection:
            # In this order everywhere, so that no two transactions wait for each other.
            self._count(connection, _account(email), ACCOUNT_LIMIT, now)
            self._count(connection, _origin(address), ADDRESS_LIMIT, now)

    def succeeded(self, connection: Connection, email: str, address: str) -> None:
        """Forget the failures of an account whose password was right."""
        table = login_failures
        connection.execute(delete(table).where(table.c.subject == _account(email)))
        connection.execute(
            update(table)
            .where(table.c.subject == _origin(address), table.c.failures > 0)
            .values(failures=table.c.failures - 1)
        )

    def forget_old(self) -> None:
        """Remove what does not count any more."""
        before = self._clock.now().timestamp() - WINDOW_S
        with self._database.write() as connection:
            connection.execute(delete(login_failures).where(login_failures.c.since < before))

    def _count(self, connection: Connection, subject: str, limit: int, now: float) -> None:
        table = login_failures
        statement: Any = (sqlite if self._database.is_sqlite else postgresql).insert(table)
        over = table.c.since < now - WINDOW_S
        statement = statement.values(subject=subject, failures=1, since=now).on_conflict_do_update(
            index_elements=[table.c.subject],
            set_={
                "failures": case((over, 1), else_=table.c.failures + 1),
                "since": case((over, now), else_=table.c.since),
            },
        )
        row = connection.execute(statement.returning(table.c.failures, table.c.since)).one()
        if row.failures > limit:
            wait = max(1, math.ceil(row.since + WINDOW_S - now))
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too-many-attempts",
                f"there were too many attempts; try again in {math.ceil(wait / 60)} min",
                headers={"Retry-After": str(wait)},
            )


def _account(email: str) -> str:
    """An account in the table: not by name, as people type passwords into the wrong field."""
    return "account:" + hashlib.sha256(email.encode()).hexdigest()


def _origin(address: str) -> str:
    """An address in the table. Who has one of IPv6 has 2**64 of them."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "address:" + hashlib.sha256(address.encode()).hexdigest()
    if parsed.version == 4:
        return f"address:{parsed}"
    return f"address:{ipaddress.ip_network((int(parsed), 64), strict=False)}"
