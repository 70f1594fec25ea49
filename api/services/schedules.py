"""When jobs are due: cron and systemd calendar syntax, in a time zone, with jitter. Pure functions.

Where the clocks change, both syntaxes do what Debian's cron does. A schedule that names hours is for people who look at
the clock: a time that does not exist on that day is taken right after the gap, and a time that comes twice counts once.
A schedule for all hours of the day keeps its pace through both.

Jitter moves all times of a job by the same span, which follows from the job's ID: a thousand jobs at midnight spread,
and each still runs at the same time every day.

A job that could not be run for a while is due once, not once for each time it has missed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError
from msgspec import Meta
from oncalendar import BaseIterator, OnCalendarError

from bfrepo.core.errors import InvalidValue

_DAY: Final = frozenset(range(24))
_WIDEST_CHANGE: Final = timedelta(hours=26)
"""More than a clock was ever set back or forward by (a day, in Samoa in 2011)."""


class Schedule(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """When a job is due: by `cron` (five fields) or by `calendar` (systemd.time(7)), one of the two.

    `zone` is a name of the IANA database. `jitter_s` is the longest that the job may start later.
    """

    cron: Annotated[str, Meta(max_length=200)] | None = None
    calendar: Annotated[str, Meta(max_length=200)] | None = None
    zone: Annotated[str, Meta(max_length=64)] = "UTC"
    jitter_s: Annotated[int, Meta(ge=0, le=86400)] = 0


def check_schedule(schedule: Schedule) -> None:
    """Raises InvalidValue for a schedule that does not parse, or that is never due."""
    if (schedule.cron is None) == (schedule.calendar is None):
        raise InvalidValue("a schedule is either cron or calendar", hint='such as {"cron": "30 2 * * *"}')
    try:
        ZoneInfo(schedule.zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        hint = "write UTC, or a name such as Europe/Berlin"
        raise InvalidValue(f"{schedule.zone!r} is no time zone", hint=hint) from error
    start = datetime(2026, 1, 1)
    if next(_wall_times(schedule, start), None) is None:
        raise InvalidValue(f"{schedule.cron or schedule.calendar!r} is never due")


def next_due(schedule: Schedule, job_id: str, after: datetime) -> datetime | None:
    """The first time a job is due after `after`, which has a zone; None where there is none any more.

    Raises InvalidValue for a schedule that does not parse.
    """
    offset = jitter(schedule, job_id)
    found = _next(schedule, (after - offset).astimezone(UTC))
    return None if found is None else found + offset


def jitter(schedule: Schedule, job_id: str) -> timedelta:
    """How much later than it is written down a job is due: always the same for a job."""
    number = int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:8])
    return timedelta(seconds=number % (schedule.jitter_s + 1))


def _next(schedule: Schedule, after: datetime) -> datetime | None:
    zone = ZoneInfo(schedule.zone)
    return _next_by_pace(schedule, zone, after) if _is_hourly(schedule) else _next_by_clock(schedule, zone, after)


def _next_by_clock(schedule: Schedule, zone: ZoneInfo, after: datetime) -> datetime | None:
    """For schedules that name hours: each time on the clock once, those in a gap at its end."""
    here = after.astimezone(zone).replace(tzinfo=None)
    for wall in _wall_times(schedule, here - _WIDEST_CHANGE):
        moment = _first_moment(wall, zone)
        if moment > after:
            return moment
    return None


def _first_moment(wall: datetime, zone: ZoneInfo) -> datetime:
    """When the clock shows this time first, or the first full minute that it shows after having left it out."""
    while True:
        moment = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
        if moment.astimezone(zone).replace(tzinfo=None) == wall:
            return moment
        wall = wall.replace(second=0) + timedelta(minutes=1)


def _next_by_pace(schedule: Schedule, zone: ZoneInfo, after: datetime) -> datetime | None:
    """For schedules of all hours: what the clock shows counts, however often it shows it."""
    before = _offset(after, zone)
    wall = next(_wall_times(schedule, (after + before).replace(tzinfo=None)), None)
    if wall is None:
        return None
    moment = wall.replace(tzinfo=UTC) - before
    changed = _offset(moment, zone)
    if changed == before:
        return moment
    for wall in _wall_times(schedule, (after + changed).replace(tzinfo=None)):
        moment = wall.replace(tzinfo=UTC) - changed
        if moment > after and _offset(moment, zone) == changed:
            return moment
    return None


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def _wall_times(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """The times that a clock shows when the job is due, whatever happens to that clock. Raises InvalidValue."""
    if schedule.cron is not None:
        return _cron(schedule.cron, after)
    return _calendar(str(schedule.calendar), after)


def _cron(expression: str, after: datetime) -> CronSim:
    try:
        if len(expression.split()) != 5:
            raise CronSimError("five fields are needed")
        return CronSim(expression, after)
    except CronSimError as error:
        hint = "write minute, hour, day, month and weekday, such as '30 2 * * *': see crontab(5)"
        raise InvalidValue(f"{expression!r} is no cron schedule: {_lower(error)}", hint=hint) from error


def _calendar(expression: str, after: datetime) -> BaseIterator:
    try:
        return BaseIterator(expression, after)
    except OnCalendarError as error:
        hint = "write hourly, daily, '02:30', 'Mon..Fri 03:00' or '*-*-01 04:00': see systemd.time(7); the zone goes "
        raise InvalidValue(
            f"{expression!r} is no calendar schedule: {_lower(error)}", hint=f"{hint}into its own field"
        ) from error


def _is_hourly(schedule: Schedule) -> bool:
    """Whether every hour of the day is meant. In cron that is known by the star, as Debian's cron does."""
    if schedule.cron is not None:
        minute, hour = schedule.cron.split()[:2]
        return minute.startswith("*") or hour.startswith("*")
    return _calendar(str(schedule.calendar), datetime(2026, 1, 1)).hours == _DAY


def _lower(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]
