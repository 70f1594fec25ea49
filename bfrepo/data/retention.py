"""Which snapshots stay: retention rules as a pure function that says why each snapshot is kept.

A snapshot stays when one rule keeps it. What each rule keeps:

    last n                 the n most recent snapshots
    hourly, daily ... n    the most recent snapshot of each of the last n hours, days, ISO weeks, months or years that
                           have one. While there are fewer than n, the very oldest snapshot stays as well.
    within d               every snapshot less than d older than the most recent one
    within-hourly ... d    as hourly and so on, for all hours that lie within d
    tags                   every snapshot that has all tags of one of the sets; an empty set means those without tags

They are restic's rules with restic's results (its manual, "Removing snapshots according to a policy"), made to depend
on nothing but the snapshots:

Time zones: a snapshot belongs to the hour, day or week that the clock on the wall showed where and when it was made,
by the zone it recorded, as in restic. So the result is the same on whichever machine it is worked out. A day has 23 or
25 hours where the clocks change, and an hour that a clock shows twice is one hour. Only in the span of `within` a day
is 24 hours: restic goes by the local clock there if the latest snapshot was made in the zone of the machine it runs on.

Copies: tagging and rewriting make a new snapshot out of an old one, with the same time, and then remove the old one,
or leave it there: on request, after a crash, or at this very moment. Both count as one, and what keeps one keeps both.
So neither pushes out another snapshot, and never is the new one removed by one program and the old one by another.

Leaving snapshots out of the input, with their copies, never removes one that stays with them in it: a listing that is
too short does no harm.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final

from bfrepo.core.errors import InvalidValue
from bfrepo.data.selection import has_tags
from bfrepo.data.snapshot import Snapshot

UNLIMITED: Final = sys.maxsize
"""As many as there are."""

_DURATION: Final = re.compile(r"(?:[0-9]{1,6}[ymdh])+")
_PART: Final = re.compile(r"([0-9]+)([ymdh])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """A span of time as a calendar counts it. Zero is the same as none."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    @classmethod
    def parse(cls, text: str) -> Duration:
        """From years, months, days and hours in any order, such as "1y5m7d2h". Raises InvalidValue."""
        compact = text.strip()
        parts = {unit: int(number) for number, unit in _PART.findall(compact)}
        if _DURATION.fullmatch(compact) is None or len(parts) != len(_PART.findall(compact)):
            raise InvalidValue(
                f"{text!r} is not a duration", hint="write years, months, days and hours like 1y5m7d2h; a week is 7d"
            )
        return cls(years=parts.get("y", 0), months=parts.get("m", 0), days=parts.get("d", 0), hours=parts.get("h", 0))

    def __bool__(self) -> bool:
        return bool(self.years or self.months or self.days or self.hours)

    def __str__(self) -> str:
        parts = ((self.years, "y"), (self.months, "m"), (self.days, "d"), (self.hours, "h"))
        return "".join(f"{number}{unit}" for number, unit in parts if number) or "0h"

    def before(self, when: datetime) -> datetime | None:
        """The moment so long before `when`, in its zone; None for one before the calendar begins.

        A day that the month does not have is counted on into the next: a month before 31 March is 3 March, or 2 March.
        """
        months = (when.year - self.years) * 12 + when.month - 1 - self.months
        try:
            first = when.replace(year=months // 12, month=months % 12 + 1, day=1)
            return first + timedelta(days=when.day - 1 - self.days, hours=-self.hours)
        except (ValueError, OverflowError):
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRules:
    """What to keep, as the head of this file explains it. A count or duration that is None or zero keeps nothing."""

    last: int | None = None
    hourly: int | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None
    yearly: int | None = None
    within: Duration | None = None
    within_hourly: Duration | None = None
    within_daily: Duration | None = None
    within_weekly: Duration | None = None
    within_monthly: Duration | None = None
    within_yearly: Duration | None = None
    tags: tuple[frozenset[str], ...] = ()

    def __bool__(self) -> bool:
        """Whether anything could be kept by them."""
        return bool(self.tags or any(self.counts()) or any(self.spans()))

    def counts(self) -> tuple[int | None, ...]:
        """The rules that count: last, hourly, daily, weekly, monthly, yearly."""
        return self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly

    def spans(self) -> tuple[Duration | None, ...]:
        """The rules with a span of time: of every snapshot, hourly, daily, weekly, monthly, yearly."""
        return (
            self.within, self.within_hourly, self.within_daily, self.within_weekly, self.within_monthly,
            self.within_yearly,
        )  # fmt: skip


def parse_count(text: str) -> int:
    """From a number, or "unlimited". Raises InvalidValue."""
    if text.strip() == "unlimited":
        return UNLIMITED
    try:
        count = int(text)
    except ValueError:
        count = -1
    if count < 0:
        raise InvalidValue(f"{text!r} is not a count", hint="write a number such as 7, or unlimited")
    return count


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rules say of a snapshot: it is kept for all these reasons, or removed if there is none."""

    id: bytes
    snapshot: Snapshot
    reasons: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether it stays."""
        return bool(self.reasons)


def apply_rules(snapshots: Mapping[bytes, Snapshot], rules: RetentionRules) -> list[Decision]:
    """A decision on every snapshot, oldest first, whatever order they come in. Changes nothing."""
    backups = _backups(snapshots)
    counters = list(_counters(rules, backups[0].when)) if backups else []
    decisions: list[Decision] = []
    for backup in backups:
        found = [counter.reason(backup.when, oldest=backup is backups[-1]) for counter in counters]
        reasons = (*filter(None, found), *_tag_reasons(backup.copies, rules.tags))
        decisions.extend(Decision(identifier, snapshot, reasons) for identifier, snapshot in backup.copies)
    return decisions[::-1]


@dataclass(frozen=True, slots=True)
class _Backup:
    """A snapshot, with the copies that were made of it."""

    when: datetime
    copies: list[tuple[bytes, Snapshot]]


def _backups(snapshots: Mapping[bytes, Snapshot]) -> list[_Backup]:
    """The latest first; of several at the same time always in the same order."""

    def origin(item: tuple[bytes, Snapshot]) -> tuple[datetime, bytes]:
        return item[1].when, item[1].original or item[0]

    ordered = sorted(snapshots.items(), key=lambda item: (origin(item), item[0]), reverse=True)
    return [_Backup(when, list(same)) for (when, _), same in groupby(ordered, key=origin)]


_Period = Callable[[datetime], Hashable]


@dataclass(slots=True)
class _Counter:
    """One rule at work: it is asked about the latest backup first, and keeps the first that it sees of each period."""

    text: str
    period: _Period
    left: int = UNLIMITED
    after: datetime | None = None
    seen: set[Hashable] = field(default_factory=set)

    def reason(self, when: datetime, *, oldest: bool) -> str | None:
        """Why this rule keeps a backup of that time, if it does."""
        if not self.left or (self.after is not None and when <= self.after):
            return None
        period = self.period(when)
        new = period not in self.seen
        if not new and not oldest:
            return None
        self.seen.add(period)
        self.left -= 1
        return self.text if new else f"oldest {self.text}"


_PERIODS: Final[tuple[tuple[str, _Period], ...]] = (
    ("hourly", lambda when: (when.date(), when.hour)),
    ("daily", lambda when: when.date()),
    ("weekly", lambda when: when.isocalendar()[:2]),
    ("monthly", lambda when: (when.year, when.month)),
    ("yearly", lambda when: when.year),
)


def _each(when: datetime) -> object:
    """A period for every backup, equal to no other."""
    return object()


def _counters(rules: RetentionRules, latest: datetime) -> Iterator[_Counter]:
    for (name, period), count in zip((("last", _each), *_PERIODS), rules.counts(), strict=True):
        if count:
            yield _Counter(f"{name} snapshot", period, left=count)
    for (name, period), span in zip((("", _each), *_PERIODS), rules.spans(), strict=True):
        if span:
            yield _Counter(f"{name} within {span}".lstrip(), period, after=span.before(latest))


def _tag_reasons(copies: Sequence[tuple[bytes, Snapshot]], wanted: Sequence[frozenset[str]]) -> Iterator[str]:
    for tags in wanted:
        if any(has_tags(snapshot, tags) for _, snapshot in copies):
            yield f"has tags {', '.join(sorted(tags))}" if tags else "has no tags"
