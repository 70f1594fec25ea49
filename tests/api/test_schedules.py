"""When jobs are due: both syntaxes, zones, changes of the clock, jitter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from api.services.schedules import Schedule, check_schedule, jitter, next_due
from bfrepo.core.errors import InvalidValue


def due(schedule: Schedule, after: str, count: int) -> list[str]:
    """The next times, as the clock of UTC shows them."""
    moment, found = datetime.fromisoformat(after), []
    for _ in range(count):
        following = next_due(schedule, "job", moment)
        assert following is not None
        assert following > moment
        moment = following
        found.append(moment.astimezone(UTC).strftime("%d %H:%M:%S").removesuffix(":00"))
    return found


@pytest.mark.parametrize("schedule, after, expected", [
    (Schedule(cron="30 2 * * *"), "2026-03-01T02:30:00Z", ["02 02:30", "03 02:30"]),
    (Schedule(cron="0 4 1,15 * *"), "2026-03-01T04:00:01Z", ["15 04:00", "01 04:00"]),
    (Schedule(cron="*/20 22-23 * * MON"), "2026-03-02T22:41:00Z", ["02 23:00", "02 23:20"]),
    (Schedule(cron="0 3 L * *"), "2028-02-01T00:00:00Z", ["29 03:00"]),
    (Schedule(calendar="daily"), "2026-12-31T23:59:59Z", ["01 00:00", "02 00:00"]),
    (Schedule(calendar="Mon..Fri 03:00"), "2026-03-06T03:00:00Z", ["09 03:00"]),
    (Schedule(calendar="*-*~1 03:00"), "2026-02-01T00:00:00Z", ["28 03:00", "31 03:00"]),
    (Schedule(calendar="*:0/20"), "2026-03-01T10:05:00Z", ["01 10:20", "01 10:40", "01 11:00"]),
    (Schedule(cron="0 3 * * *", zone="Asia/Kolkata"), "2026-03-01T00:00:00Z", ["01 21:30"]),
    (Schedule(calendar="03:00", zone="America/New_York"), "2026-01-01T00:00:00Z", ["01 08:00"]),
])  # fmt: skip
def test_times(schedule: Schedule, after: str, expected: list[str]) -> None:
    """Both syntaxes mean what their manuals say, in any zone."""
    assert due(schedule, after, len(expected)) == expected


BERLIN = "Europe/Berlin"
SPRING, AUTUMN = "2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z"


@pytest.mark.parametrize("syntax", ["cron", "calendar"])
@pytest.mark.parametrize("cron, calendar, zone, after, expected", [
    # 02:30 is left out on 29 March: the gap ends at 03:00, which is 01:00 in UTC
    ("30 2 * * *", "02:30", BERLIN, SPRING, ["29 01:00", "30 00:30"]),
    # 02:30 comes twice on 25 October, the first time at 00:30 in UTC
    ("30 2 * * *", "02:30", BERLIN, AUTUMN, ["25 00:30", "26 01:30"]),
    ("30 1,2 * * *", "01,02:30", BERLIN, AUTUMN, ["24 23:30", "25 00:30", "26 00:30", "26 01:30"]),
    ("30 2 * * *", "02:30", BERLIN, "2026-10-25T00:30:00Z", ["26 01:30"]),
    ("30 2 * * *", "02:30", BERLIN, "2026-10-25T01:00:00Z", ["26 01:30"]),
    # every hour stays every hour
    ("0 * * * *", "hourly", BERLIN, "2026-03-29T00:00:00Z", ["29 01:00", "29 02:00", "29 03:00"]),
    ("0 * * * *", "hourly", BERLIN, "2026-10-24T23:30:00Z", ["25 00:00", "25 01:00", "25 02:00", "25 03:00"]),
    ("*/30 * * * *", "*:0/30", BERLIN, "2026-10-25T00:20:00Z", ["25 00:30", "25 01:00", "25 01:30", "25 02:00"]),
    # half an hour is what Lord Howe Island changes by: 02:00 to 02:30 is left out on 4 October
    ("15 2 * * *", "02:15", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", ["03 15:30", "04 15:15"]),
    ("0 * * * *", "hourly", "Australia/Lord_Howe", "2026-10-03T14:00:00Z", ["03 14:30", "03 16:00", "03 17:00"]),
    # Samoa had no 30 December 2011
    ("0 12 * * *", "12:00", "Pacific/Apia", "2011-12-29T21:00:00Z", ["29 22:00", "30 10:00", "30 22:00"]),
])  # fmt: skip
def test_clock_changes(syntax: str, cron: str, calendar: str, zone: str, after: str, expected: list[str]) -> None:
    """A time that does not exist is taken after the gap, one that comes twice counts once, and a pace is kept."""
    schedule = Schedule(zone=zone, cron=cron) if syntax == "cron" else Schedule(zone=zone, calendar=calendar)
    assert due(schedule, after, len(expected)) == expected


@pytest.mark.parametrize("zone", [BERLIN, "America/St_Johns", "Africa/Casablanca", "UTC"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "15 * * * *", "*/7 * * * *", "59 23 28-31 * *"])
def test_a_year(zone: str, expression: str) -> None:
    """Through a whole year times only go forward, and are never further apart than the schedule and a clock change."""
    schedule, moment = Schedule(cron=expression, zone=zone), datetime(2026, 1, 1, tzinfo=UTC)
    longest = timedelta(days=32) if "28-31" in expression else timedelta(hours=26)
    while moment.year < 2027:
        following = next_due(schedule, "job", moment)
        assert following is not None
        assert moment < following <= moment + longest
        moment = following + (timedelta(hours=3) if expression.startswith("*/7") else timedelta(0))


def test_jitter() -> None:
    """Jitter is the same for a job every day, differs between jobs, and never skips or repeats a day."""
    schedule = Schedule(cron="0 0 * * *", jitter_s=7200)
    offsets = {jitter(schedule, f"job-{number}") for number in range(200)}
    assert len(offsets) > 150
    assert timedelta(0) <= min(offsets)
    assert max(offsets) <= timedelta(hours=2)
    for number in range(20):
        moment, days = datetime(2026, 3, 1, tzinfo=UTC), []
        for _ in range(5):
            following = next_due(schedule, f"job-{number}", moment)
            assert following is not None
            days.append(following - jitter(schedule, f"job-{number}"))
            moment = following
        first = days[0]
        assert days == [first + timedelta(days=day) for day in range(5)]
        assert first.hour == first.minute == 0


@pytest.mark.parametrize("schedule", [
    Schedule(),
    Schedule(cron="0 0 * * *", calendar="daily"),
    Schedule(cron=""),
    Schedule(cron="* * * *"),
    Schedule(cron="* * * * * *"),
    Schedule(cron="60 * * * *"),
    Schedule(cron="0 0 30 2 *"),
    Schedule(cron="@daily"),
    Schedule(calendar=""),
    Schedule(calendar="sometimes"),
    Schedule(calendar="*-02-30"),
    Schedule(calendar="2001-01-01"),
    Schedule(calendar="daily Europe/Berlin"),
    Schedule(calendar="daily\ndaily"),
    Schedule(cron="0 0 * * *", zone="Mars/Olympus"),
    Schedule(cron="0 0 * * *", zone="../../etc/passwd"),
])  # fmt: skip
def test_refused(schedule: Schedule) -> None:
    """What does not parse, or never comes, is refused before anything is planned by it."""
    with pytest.raises(InvalidValue):
        check_schedule(schedule)


def test_the_end_of_a_calendar() -> None:
    """A schedule of dates that have passed is due no more."""
    schedule = Schedule(calendar="2026-05-01 12:00")
    assert next_due(schedule, "job", datetime(2026, 5, 1, 12, tzinfo=UTC)) is None
