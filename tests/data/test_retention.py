"""What the retention rules keep: documented examples, time zones, and every rule against its plain meaning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfrepo.core.errors import InvalidValue
from bfrepo.data.retention import UNLIMITED, Duration, RetentionRules, apply_rules, parse_count
from bfrepo.data.snapshot import SNAPSHOT_VERSION, Snapshot

BERLIN = ZoneInfo("Europe/Berlin")
COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
SPANS = ("within", "within_hourly", "within_daily", "within_weekly", "within_monthly", "within_yearly")


def made(when: datetime, *tags: str, original: bytes = b"") -> Snapshot:
    """A snapshot of that time."""
    return Snapshot(version=SNAPSHOT_VERSION, time=when.isoformat(), tree=b"", tags=list(tags), original=original)


def at(*texts: str) -> dict[bytes, Snapshot]:
    """Snapshots of these times, UTC unless they say otherwise; the time is the ID."""
    found = {}
    for text in texts:
        when = datetime.fromisoformat(text)
        found[text.encode()] = made(when if when.tzinfo else when.replace(tzinfo=UTC))
    return found


def kept(snapshots: Mapping[bytes, Snapshot], rules: RetentionRules) -> list[str]:
    """The IDs of what stays, oldest first."""
    return [decision.id.decode() for decision in apply_rules(snapshots, rules) if decision.kept]


def spelled(value: object) -> str:
    """Rules as the name of a test."""
    if not isinstance(value, RetentionRules):
        return ""
    given = {each.name: getattr(value, each.name) for each in fields(RetentionRules)}
    return " ".join(f"{name} {number}" for name, number in given.items() if number)


# ---- restic's documented examples

SUNDAYS = [str(date(2019, 9, 1) + timedelta(weeks=number)) for number in range(12)]


@pytest.mark.parametrize(
    ("rules", "stay"),
    [
        (RetentionRules(daily=4), SUNDAYS[-4:]),
        (RetentionRules(last=4), SUNDAYS[-4:]),
        (RetentionRules(weekly=4), SUNDAYS[-4:]),
        (RetentionRules(hourly=1), SUNDAYS[-1:]),
        (RetentionRules(daily=12), SUNDAYS),
        (RetentionRules(daily=UNLIMITED), SUNDAYS),
        (RetentionRules(monthly=2), ["2019-10-27", "2019-11-17"]),
        (RetentionRules(monthly=5), ["2019-09-01", "2019-09-29", "2019-10-27", "2019-11-17"]),
        (RetentionRules(yearly=1), ["2019-11-17"]),
        (RetentionRules(within=Duration(days=7)), ["2019-11-17"]),
        (RetentionRules(within=Duration(days=7, hours=1)), ["2019-11-10", "2019-11-17"]),
        (RetentionRules(within=Duration(months=1)), SUNDAYS[-5:]),
        (RetentionRules(within_monthly=Duration(years=1)), ["2019-09-01", "2019-09-29", "2019-10-27", "2019-11-17"]),
        (RetentionRules(last=1, monthly=2), ["2019-10-27", "2019-11-17"]),
    ],
    ids=spelled,
)
def test_a_backup_every_sunday(rules: RetentionRules, stay: list[str]) -> None:
    """restic's example: one backup at eleven on each of twelve Sundays."""
    snapshots = at(*(f"{day} 11:00:00" for day in SUNDAYS))

    assert [text[:10] for text in kept(snapshots, rules)] == stay


def test_a_backup_every_day_for_a_hundred_years() -> None:
    """restic's example: 7 days, 4 more weeks, 12 or 11 more months, 75 or 74 more years."""
    first = datetime(1919, 1, 1, 11, tzinfo=UTC)
    days = [first + timedelta(days=number) for number in range(100 * 365 + 25)]
    snapshots = {str(day.date()).encode(): made(day) for day in days}
    last = days[-1].date()

    stay = kept(snapshots, RetentionRules(daily=7, weekly=5, monthly=12, yearly=75))

    assert last == date(2018, 12, 31)
    week = {str(last - timedelta(days=number)) for number in range(7)}
    sundays = {"2018-12-30", "2018-12-23", "2018-12-16", "2018-12-09", str(last)}
    months = {str(date(2018, month, 1) - timedelta(days=1)) for month in range(2, 13)} | {str(last)}
    years = {f"{year}-12-31" for year in range(1944, 2019)}
    assert set(stay) == week | sundays | months | years
    assert len(stay) == 7 + 3 + 11 + 74


YEAR = [
    "2014-08-08 10:20:30", "2014-08-13 10:20:30", "2014-08-13 10:20:30.100000", "2014-08-31 23:59:59",
    "2014-09-01 00:00:00", "2014-09-22 10:20:30", "2014-11-22 10:20:30", "2015-11-22 10:20:30",
    "2015-12-28 06:00:00", "2016-01-01 01:02:03", "2016-01-01 01:03:03", "2016-01-03 07:02:03",
    "2016-01-04 10:23:03", "2016-01-04 11:23:03", "2016-01-04 11:28:03", "2016-01-09 21:02:03",
    "2016-01-12 21:02:03", "2016-01-12 21:08:03", "2016-01-18 12:02:03",
]  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "stay"),
    [
        (RetentionRules(last=3), [-3, -2, -1]),
        (RetentionRules(last=99), range(len(YEAR))),
        (RetentionRules(hourly=4), [-5, -4, -2, -1]),
        (RetentionRules(daily=3), [-4, -2, -1]),
        (RetentionRules(weekly=4), [11, 15, 17, 18]),
        (RetentionRules(weekly=5), [7, 11, 15, 17, 18]),
        (RetentionRules(monthly=4), [6, 7, 8, 18]),
        (RetentionRules(monthly=6), [3, 5, 6, 7, 8, 18]),
        (RetentionRules(yearly=2), [8, 18]),
        (RetentionRules(yearly=10), [0, 6, 8, 18]),
        (RetentionRules(daily=2, weekly=2, yearly=3), [6, 8, 17, 18]),
        (RetentionRules(within=Duration(days=5, hours=15)), [17, 18]),
        (RetentionRules(within=Duration(months=1, days=14)), range(8, 19)),
        (RetentionRules(within_hourly=Duration(days=15)), [12, 14, 15, 17, 18]),
        (RetentionRules(within_daily=Duration(days=14, hours=1)), [14, 15, 17, 18]),
        (RetentionRules(within_weekly=Duration(months=1)), [11, 15, 17, 18]),
        (RetentionRules(within_yearly=Duration(years=9999)), [0, 6, 8, 18]),
    ],
    ids=spelled,
)
def test_which_snapshots_of_two_years(rules: RetentionRules, stay: Sequence[int]) -> None:
    """Each rule keeps the latest of its periods, and the oldest of all while it may keep more than there are."""
    assert kept(at(*YEAR), rules) == [YEAR[number] for number in stay]


# ---- zones and clock changes


@pytest.mark.parametrize(
    ("times", "rules", "stay"),
    [
        (
            # half past eleven in the evening is still the 30th where it was made, though it was the 31st further east
            ["2024-03-30T23:30:00+01:00", "2024-03-31T00:30:00+01:00"],
            RetentionRules(daily=2),
            ["2024-03-30T23:30:00+01:00", "2024-03-31T00:30:00+01:00"],
        ),
        (
            # one day in UTC, two where they were made
            ["2024-01-01T12:00:00+14:00", "2024-01-01T23:00:00+14:00", "2024-01-02T00:30:00+14:00"],
            RetentionRules(daily=1),
            ["2024-01-02T00:30:00+14:00"],
        ),
        (
            # a laptop that travels: the last moment has an earlier date than the one before
            ["2024-06-01T12:00:00+09:00", "2024-06-02T15:00:00+09:00", "2024-06-01T23:30:00-07:00"],
            RetentionRules(daily=2),
            ["2024-06-02T15:00:00+09:00", "2024-06-01T23:30:00-07:00"],
        ),
        (
            # 23:59:59 on New Year's Eve in Auckland is noon in UTC
            ["2023-12-31T23:59:59+13:00", "2024-01-01T00:00:00+13:00"],
            RetentionRules(yearly=1),
            ["2024-01-01T00:00:00+13:00"],
        ),
    ],
    ids=["evening", "fourteen hours ahead", "travel", "new year"],
)
def test_the_day_is_that_of_the_zone_it_was_made_in(times: list[str], rules: RetentionRules, stay: list[str]) -> None:
    """The wall clock where a snapshot was made decides, on whatever machine the rules are applied."""
    assert kept(at(*times), rules) == stay


def test_weeks_are_those_of_iso_8601() -> None:
    """A week begins on Monday and belongs to the year that has its Thursday: 53 weeks in 2020."""
    days = ["2020-12-27", "2020-12-28", "2021-01-03", "2021-01-04", "2024-12-29", "2024-12-30", "2025-01-05"]
    snapshots = at(*days)

    assert kept(snapshots, RetentionRules(weekly=5)) == ["2020-12-27", "2021-01-03", "2021-01-04", *days[-3::2]]


def every(minutes: int, first: str, last: str) -> dict[bytes, Snapshot]:
    """Snapshots as a machine in Berlin makes them; the ID is the local time with its offset."""
    moment, end = (datetime.fromisoformat(text).replace(tzinfo=BERLIN).astimezone(UTC) for text in (first, last))
    found = {}
    while moment <= end:
        local = moment.astimezone(BERLIN)
        fixed = local.replace(tzinfo=timezone(local.utcoffset() or timedelta()))
        found[fixed.isoformat(timespec="minutes").encode()] = made(fixed)
        moment += timedelta(minutes=minutes)
    return found


def test_the_hour_that_a_clock_shows_twice_is_one() -> None:
    """When summer time ends, half past two comes twice, and only the later one is the last of its hour."""
    night = every(30, "2024-10-27T01:00", "2024-10-27T04:00")

    assert len(night) == 9
    assert kept(night, RetentionRules(hourly=4)) == [
        "2024-10-27T01:30+02:00", "2024-10-27T02:30+01:00", "2024-10-27T03:30+01:00", "2024-10-27T04:00+01:00",
    ]  # fmt: skip


def test_the_hour_that_a_clock_leaves_out_is_none() -> None:
    """When summer time begins there is no hour between two and three, and four hours reach one hour further back."""
    night = every(30, "2024-03-31T00:00", "2024-03-31T04:00")

    assert kept(night, RetentionRules(hourly=4)) == [
        "2024-03-31T00:30+01:00", "2024-03-31T01:30+01:00", "2024-03-31T03:30+02:00", "2024-03-31T04:00+02:00",
    ]  # fmt: skip


@pytest.mark.parametrize("first", ["2024-03-29T00:00", "2024-10-25T00:00"], ids=["23 hours", "25 hours"])
def test_days_of_23_and_25_hours(first: str) -> None:
    """A day whose clocks change has one last snapshot like any other."""
    days = [datetime.fromisoformat(first) + timedelta(days=number) for number in range(5)]
    snapshots = every(30, first, str(days[-1] + timedelta(hours=23, minutes=30)))

    stay = kept(snapshots, RetentionRules(daily=5))

    assert [text[:16] for text in stay] == [f"{day.date()}T23:30" for day in days]


def test_a_span_of_days_is_one_of_hours_when_the_clocks_change() -> None:
    """Two days before noon are 48 hours before, an hour off on the clock when summer time ended in between."""
    snapshots = every(30, "2024-10-25T11:00", "2024-10-27T12:00")

    assert kept(snapshots, RetentionRules(within=Duration(days=2)))[0] == "2024-10-25T13:30+02:00"
    assert kept(snapshots, RetentionRules(within=Duration(hours=48)))[0] == "2024-10-25T13:30+02:00"


@pytest.mark.parametrize(
    ("when", "span", "before"),
    [
        ("2024-05-17 12:00", "1y5m7d2h", "2022-12-10 10:00"),
        ("2024-03-31 12:00", "1m", "2024-03-02 12:00"),
        ("2023-03-31 12:00", "1m", "2023-03-03 12:00"),
        ("2024-02-29 12:00", "1y", "2023-03-01 12:00"),
        ("2024-01-15 00:00", "1m", "2023-12-15 00:00"),
        ("2024-01-15 00:00", "13m", "2022-12-15 00:00"),
        ("2024-01-01 00:00", "1h", "2023-12-31 23:00"),
        ("2024-01-01 00:00", "2024y", None),
        ("2024-01-01 00:00", "999999d", None),
        ("0001-01-01 00:00", "1h", None),
    ],
)
def test_calendar_arithmetic(when: str, span: str, before: str | None) -> None:
    """Years and months go by the calendar; a day that a month does not have is counted on into the next, as Go does."""
    found = Duration.parse(span).before(datetime.fromisoformat(when))

    assert found == (None if before is None else datetime.fromisoformat(before))


# ---- reasons, tags, copies


def test_every_reason_is_given() -> None:
    """A snapshot that several rules keep says so."""
    snapshots = at("2024-01-01 10:00", "2024-01-01 11:00", "2024-01-02 10:00")
    snapshots[b"2024-01-01 10:00"].tags = ["keep", "me"]
    rules = RetentionRules(
        last=1, daily=2, yearly=2, within=Duration(hours=1), within_daily=Duration(days=7), tags=(frozenset({"keep"}),)
    )

    assert {each.id.decode(): each.reasons for each in apply_rules(snapshots, rules)} == {
        "2024-01-01 10:00": ("oldest yearly snapshot", "oldest daily within 7d", "has tags keep"),
        "2024-01-01 11:00": ("daily snapshot", "daily within 7d"),
        "2024-01-02 10:00": ("last snapshot", "daily snapshot", "yearly snapshot", "within 1h", "daily within 7d"),
    }


@pytest.mark.parametrize(
    ("tags", "stay"),
    [
        ([{"a"}], ["2024-01-01", "2024-01-02"]),
        ([{"a", "b"}], ["2024-01-02"]),
        ([{"a", "b"}, {"c"}], ["2024-01-02", "2024-01-03"]),
        ([set()], ["2024-01-04"]),
        ([{"A"}], []),
    ],
)
def test_tags_that_are_kept(tags: Iterable[set[str]], stay: list[str]) -> None:
    """All tags of one of the sets; none at all for the empty set; and nothing for a tag that does not exist."""
    snapshots = at("2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04")
    for snapshot, own in zip(snapshots.values(), (["a"], ["a", "b"], ["c"], []), strict=True):
        snapshot.tags = own

    assert kept(snapshots, RetentionRules(tags=tuple(map(frozenset, tags)))) == stay


def test_a_copy_pushes_nothing_out() -> None:
    """A snapshot and what was made of it by tagging or rewriting count as one, and stay or go together."""
    days = [datetime(2024, 1, number, tzinfo=UTC) for number in (1, 2, 3)]
    snapshots = {bytes([number]) * 32: made(day) for number, day in enumerate(days)}
    first, second, third = snapshots
    snapshots[b"a" * 32] = made(days[0], original=first)
    snapshots[b"b" * 32] = made(days[2], "tagged", original=third)
    snapshots[b"c" * 32] = made(days[2], "rewritten", original=third)

    def stay(rules: RetentionRules) -> set[bytes]:
        return {decision.id for decision in apply_rules(snapshots, rules) if decision.kept}

    assert stay(RetentionRules(last=1)) == {third, b"b" * 32, b"c" * 32}
    assert stay(RetentionRules(last=2)) == {second, third, b"b" * 32, b"c" * 32}
    assert stay(RetentionRules(tags=(frozenset({"tagged"}),))) == {third, b"b" * 32, b"c" * 32}


def test_nothing_to_decide() -> None:
    """No snapshots need no decision; no rules keep nothing."""
    assert apply_rules({}, RetentionRules(last=1)) == []
    assert kept(at("2024-01-01"), RetentionRules()) == []


# ---- how they are written


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("1y5m7d2h", Duration(years=1, months=5, days=7, hours=2)),
        ("2h1y", Duration(years=1, hours=2)),
        (" 7d ", Duration(days=7)),
        ("0d", Duration()),
        ("9999y", Duration(years=9999)),
    ],
)
def test_durations(text: str, duration: Duration) -> None:
    """Years, months, days and hours in any order."""
    assert Duration.parse(text) == duration


@pytest.mark.parametrize("text", ["", "7", "d", "1w", "1Y", "-1d", "1d2d", "1.5d", "1d 2h", "1d,2h", "9999999y", "٣d"])
def test_what_is_no_duration(text: str) -> None:
    """Anything else is refused, with the letters there are."""
    with pytest.raises(InvalidValue, match="not a duration") as error:
        Duration.parse(text)
    assert "1y5m7d2h" in str(error.value.hint)


@pytest.mark.parametrize(("text", "count"), [("7", 7), ("0", 0), ("unlimited", UNLIMITED)])
def test_counts(text: str, count: int) -> None:
    """A number, or unlimited."""
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["-1", "", "all", "1.5"])
def test_what_is_no_count(text: str) -> None:
    """A negative number means nothing: who wants all says unlimited."""
    with pytest.raises(InvalidValue, match="not a count"):
        parse_count(text)


def test_rules_that_can_keep_nothing_are_false() -> None:
    """Zero counts and empty spans are as good as no rule."""
    assert not RetentionRules()
    assert not RetentionRules(last=0, within=Duration())
    assert RetentionRules(tags=(frozenset(),))
    given: dict[str, Any] = {**dict.fromkeys(COUNTS, 1), **dict.fromkeys(SPANS, Duration(hours=1))}
    for name, value in given.items():
        assert RetentionRules(**{name: value}), name


# ---- every rule against its plain meaning


def oracle(snapshots: Mapping[bytes, Snapshot], rules: RetentionRules) -> set[bytes]:
    """What stays, worked out one period after the other from strings that calendars print."""
    newest_first = sorted(snapshots, key=lambda each: (snapshots[each].when, each), reverse=True)
    stay = {each for each in snapshots for tags in rules.tags if matches(snapshots[each], tags)}
    formats = {"hourly": "%Y-%m-%d %H", "daily": "%Y-%m-%d", "weekly": "%G-%V", "monthly": "%Y-%m", "yearly": "%Y"}
    for name, form in formats.items():
        stay |= latest_of_periods(newest_first, snapshots, form, getattr(rules, name) or 0)
        stay |= latest_of_periods(
            lying_within(newest_first, snapshots, getattr(rules, f"within_{name}")), snapshots, form, UNLIMITED,
            oldest=newest_first[-1:],
        )  # fmt: skip
    return stay | set(newest_first[: rules.last or 0]) | set(lying_within(newest_first, snapshots, rules.within))


def matches(snapshot: Snapshot, tags: frozenset[str]) -> bool:
    """All of them, or none at all for no tags."""
    return not snapshot.tags if not tags else all(tag in snapshot.tags for tag in tags)


def lying_within(ids: Sequence[bytes], snapshots: Mapping[bytes, Snapshot], span: Duration | None) -> list[bytes]:
    """Those made less than `span` before the first."""
    if not span:
        return []
    start = span.before(snapshots[ids[0]].when)
    return [each for each in ids if start is None or snapshots[each].when > start]


def latest_of_periods(
    ids: Sequence[bytes],
    snapshots: Mapping[bytes, Snapshot],
    form: str,
    count: int,
    oldest: Sequence[bytes] = (),
) -> set[bytes]:
    """The first of each of the first `count` periods, and the oldest of all if there are fewer."""
    firsts: dict[str, bytes] = {}
    for each in ids:
        firsts.setdefault(snapshots[each].when.strftime(form), each)
    found = set(list(firsts.values())[:count])
    return found | (set(oldest or ids[-1:]) & set(ids) if len(firsts) < count else set())


ZONES = st.sampled_from([UTC, timezone(timedelta(hours=2)), timezone(-timedelta(hours=9, minutes=30))])
MOMENTS = st.one_of(
    st.datetimes(datetime(2019, 12, 25), datetime(2021, 1, 10), timezones=ZONES),
    st.datetimes(datetime(2020, 10, 24), datetime(2020, 10, 26), timezones=ZONES),
)
TAGS = st.lists(st.sampled_from("ab"), unique=True)
SNAPSHOTS = st.lists(st.tuples(MOMENTS, TAGS), max_size=25).map(
    lambda found: {bytes([number]) * 32: made(when, *tags) for number, (when, tags) in enumerate(found)}
)
NUMBERS = st.one_of(st.none(), st.integers(0, 6), st.just(UNLIMITED))
DURATIONS = st.one_of(
    st.none(),
    st.builds(
        Duration, years=st.integers(0, 1), months=st.integers(0, 3), days=st.integers(0, 40), hours=st.integers(0, 30)
    ),
)
RULES = st.builds(
    RetentionRules,
    **dict.fromkeys(COUNTS, NUMBERS),
    **dict.fromkeys(SPANS, DURATIONS),
    tags=st.lists(TAGS.map(frozenset), max_size=2).map(tuple),
)
ONE_RULE = st.one_of(
    *(st.builds(RetentionRules, **{name: NUMBERS}) for name in COUNTS),
    *(st.builds(RetentionRules, **{name: DURATIONS}) for name in SPANS),
)


def staying(snapshots: Mapping[bytes, Snapshot], rules: RetentionRules) -> set[bytes]:
    """The IDs of what stays."""
    return {decision.id for decision in apply_rules(snapshots, rules) if decision.kept}


@settings(max_examples=300)
@given(snapshots=SNAPSHOTS, rules=st.one_of(ONE_RULE, RULES))
def test_the_plain_meaning(snapshots: dict[bytes, Snapshot], rules: RetentionRules) -> None:
    """Any snapshots and any rules give what the plain meaning of the rules gives."""
    assert staying(snapshots, rules) == (oracle(snapshots, rules) if snapshots else set())


@given(snapshots=SNAPSHOTS, rules=RULES)
def test_each_snapshot_gets_one_decision(snapshots: dict[bytes, Snapshot], rules: RetentionRules) -> None:
    """Every snapshot is decided on once, oldest first, and is kept exactly if there is a reason."""
    decisions = apply_rules(snapshots, rules)

    assert {decision.id: decision.snapshot for decision in decisions} == snapshots
    assert len(decisions) == len(snapshots)
    assert [decision.snapshot.when for decision in decisions] == sorted(each.when for each in snapshots.values())
    assert all(decision.kept == bool(decision.reasons) for decision in decisions)


@given(snapshots=SNAPSHOTS, rules=RULES, more=RULES)
def test_another_rule_never_removes_more(
    snapshots: dict[bytes, Snapshot], rules: RetentionRules, more: RetentionRules
) -> None:
    """Where a rule is added, or its number raised, what was kept is still kept."""
    both = {each.name: getattr(rules, each.name) or getattr(more, each.name) for each in fields(RetentionRules)}
    raised = {name: both[name] + 1 if 0 < (both[name] or 0) < UNLIMITED else both[name] for name in COUNTS}
    wider = replace(RetentionRules(**{**both, **raised}), tags=(*rules.tags, *more.tags))

    assert staying(snapshots, rules) <= staying(snapshots, wider)


@given(snapshots=SNAPSHOTS, rules=RULES, data=st.data())
def test_the_order_they_come_in_does_not_matter(
    snapshots: dict[bytes, Snapshot], rules: RetentionRules, data: st.DataObject
) -> None:
    """The same snapshots in any order get the same decisions."""
    shuffled = dict(data.draw(st.permutations(list(snapshots.items()))))

    assert apply_rules(shuffled, rules) == apply_rules(snapshots, rules)


@given(snapshots=SNAPSHOTS, rules=RULES, data=st.data())
def test_a_listing_that_is_too_short_removes_nothing_that_would_stay(
    snapshots: dict[bytes, Snapshot], rules: RetentionRules, data: st.DataObject
) -> None:
    """Who sees only some of the snapshots keeps, of those, at least what would be kept with all in sight."""
    seen = {each: snapshots[each] for each in snapshots if data.draw(st.booleans())}

    assert staying(snapshots, rules) & set(seen) <= staying(seen, rules)


@given(snapshots=SNAPSHOTS, rules=RULES)
def test_what_was_kept_is_kept_again(snapshots: dict[bytes, Snapshot], rules: RetentionRules) -> None:
    """The same rules applied to what they left remove nothing more."""
    left = {each: snapshots[each] for each in staying(snapshots, rules)}

    assert staying(left, rules) == set(left)
