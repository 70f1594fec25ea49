"""Calendars of systemd (systemd.time(7)) as the five fields of a crontab (crontab(5)), as far as cron can express them.

    hourly, daily, ...    and    [WEEKDAYS] [[YEAR-]MONTH-DAY] [HOUR:MINUTE[:SECOND]]

with lists `1,15`, ranges `1..5` and repetitions `0/15`. Not for cron: years, seconds, time zones, days from the end of
a month, and weekdays together with days of the month, of which cron takes either where systemd asks for both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final

from cli.schedules import invalid_calendar

_WORDS: Final = {
    "minutely": "*-*-* *:*",
    "hourly": "*-*-* *:00",
    "daily": "*-*-* 00:00",
    "weekly": "Mon *-*-* 00:00",
    "monthly": "*-*-01 00:00",
    "quarterly": "*-01,04,07,10-01 00:00",
    "semiannually": "*-01,07-01 00:00",
    "yearly": "*-01-01 00:00",
    "annually": "*-01-01 00:00",
}

_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

_FORM: Final = re.compile(
    r"(?:(?P<weekdays>[a-z][a-z,.]*)(?:\s+|$))?"
    r"(?:(?:\*-)?(?P<month>[\d*,./]+)-(?P<day>[\d*,./]+)(?:\s+|$))?"
    r"(?:(?P<hour>[\d*,./]+):(?P<minute>[\d*,./]+)(?::00?)?)?",
    re.IGNORECASE,
)
_PART: Final = re.compile(r"(?:(?P<all>\*)|(?P<first>\d{1,2})(?:\.\.(?P<last>\d{1,2}))?)(?:/(?P<step>\d{1,2}))?")

_LOOKS_AHEAD: Final = timedelta(days=366 * 8 + 1)
"""The 29th of February is at most eight years away."""


@dataclass(frozen=True, slots=True)
class CronTimes:
    """Minutes, hours, days, months and weekdays (0 is Sunday); None for any. As text: the fields of a crontab."""

    minutes: frozenset[int] | None
    hours: frozenset[int] | None
    days: frozenset[int] | None
    months: frozenset[int] | None
    weekdays: frozenset[int] | None

    def __str__(self) -> str:
        fields = (self.minutes, self.hours, self.days, self.months, self.weekdays)
        return " ".join("*" if field is None else ",".join(map(str, sorted(field))) for field in fields)

    def next_after(self, now: datetime) -> datetime | None:
        """The first time after `now`, in its zone; None when there is none, such as for the 31st of June."""
        day = now.date()
        while day <= (now + _LOOKS_AHEAD).date():
            if (
                (self.days is None or day.day in self.days)
                and (self.months is None or day.month in self.months)
                and (self.weekdays is None or day.isoweekday() % 7 in self.weekdays)
            ):
                for hour in sorted(self.hours or range(24)):
                    for minute in sorted(self.minutes or range(60)):
                        when = datetime.combine(day, time(hour, minute)).astimezone()
                        if when > now:
                            return when
            day += timedelta(days=1)
        return None


def parse_calendar(text: str) -> CronTimes:
    """What a calendar means. Raises InvalidValue for what is none, and for what cron cannot express."""
    match = _FORM.fullmatch(_WORDS.get(text.strip().lower(), text.strip()))
    if match is None or not any(match.groups()):
        raise invalid_calendar(text, "is more than cron can express, and systemd does not run on this machine")
    weekdays = _weekdays(match["weekdays"], text)
    days = _numbers(match["day"] or "*", 1, 31, text)
    if weekdays is not None and days is not None:
        raise invalid_calendar(text, "has weekdays and days of the month, which cron cannot ask for together")
    return CronTimes(
        minutes=_numbers(match["minute"] or "0", 0, 59, text),
        hours=_numbers(match["hour"] or "0", 0, 23, text),
        days=days,
        months=_numbers(match["month"] or "*", 1, 12, text),
        weekdays=weekdays,
    )


def _numbers(field: str, lowest: int, highest: int, text: str) -> frozenset[int] | None:
    """The numbers that a field lists, None for all."""
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise invalid_calendar(text)
        first = lowest if match["all"] else int(match["first"])
        endless = match["all"] or (match["step"] and not match["last"])
        last = highest if endless else int(match["last"] or first)
        step = int(match["step"] or 1)
        if not lowest <= first <= last <= highest or not step:
            raise invalid_calendar(text)
        found.update(range(first, last + 1, step))
    return None if len(found) == highest - lowest + 1 else frozenset(found)


def _weekdays(field: str | None, text: str) -> frozenset[int] | None:
    """Days of the week by cron's numbers, None for all."""
    if field is None:
        return None
    found: set[int] = set()
    for part in field.split(","):
        first, _, last = part.partition("..")
        numbers = [_weekday(name, text) for name in (first, last or first)]
        if numbers[0] > numbers[1]:
            raise invalid_calendar(text)
        found.update(number % 7 for number in range(numbers[0], numbers[1] + 1))
    return None if len(found) == 7 else frozenset(found)


def _weekday(name: str, text: str) -> int:
    """1 is Monday. Names may be cut to three letters."""
    for number, full in enumerate(_WEEKDAYS, 1):
        if name.lower() in (full, full[:3]):
            return number
    raise invalid_calendar(text)
