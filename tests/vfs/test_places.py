"""Where snapshots are found: by time, host, tag and ID, by templates, and as they come and go."""

from __future__ import annotations

from datetime import timedelta, timezone

import pytest

from bfrepo.core.errors import InvalidValue, ObjectNotFound
from bfrepo.data.snapshot import Snapshot
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind
from bfrepo.vfs.templates import check_template, snapshot_paths
from tests.support.backups import run_backup
from tests.support.browsing import browsing, contents
from tests.support.repositories import FakeClock, make_repository, reopen
from tests.support.sources import written

TIMES = [f"2024-05-17T{hour}:00:00+00:00".encode() for hour in (12, 13, 14)]


@pytest.fixture
def clock() -> FakeClock:
    """Stands at noon."""
    return FakeClock()


@pytest.fixture
def repository(clock: FakeClock) -> Repository:
    """Three snapshots, an hour apart: of two hosts, the last one with two tags."""
    made = make_repository(clock=clock)
    run_backup(made, {"file": written(b"first", again=1)}, hostname="web")
    clock.advance(3600)
    run_backup(made, {"file": written(b"second", again=2)}, hostname="mail")
    clock.advance(3600)
    run_backup(made, {"file": written(b"third", again=3)}, hostname="web", tags=("daily", "off/site"))
    return made


def test_usual_places(repository: Repository) -> None:
    """Every snapshot is below snapshots, hosts and ids, those with tags below tags, and latest is the newest."""
    with browsing(repository) as browser:
        assert browser.names() == [b"hosts", b"ids", b"latest", b"snapshots", b"tags", b"versions"]
        assert browser.names("snapshots") == [*TIMES, b"latest"]
        assert browser.names("hosts") == [b"mail", b"web"]
        assert browser.names("hosts", "web") == [TIMES[0], TIMES[2], b"latest"]
        assert browser.names("tags") == [b"daily", b"off_site"]
        assert browser.names("tags", "off_site") == [TIMES[2], b"latest"]
        assert len(browser.names("ids")) == 3
        assert browser.node("latest").target == b"snapshots/" + TIMES[2]
        assert browser.node("snapshots", "latest").target == TIMES[2]
        assert browser.node("hosts", "mail", "latest").target == TIMES[1]
        assert [browser.content("snapshots", time, "file") for time in TIMES] == [b"first", b"second", b"third"]


def test_an_empty_repository() -> None:
    """Without a snapshot there is only where versions will be, which is empty."""
    with browsing(make_repository()) as browser:
        assert browser.names() == [b"versions"]
        assert browser.names("versions") == []


def test_ids(repository: Repository) -> None:
    """Below ids a snapshot has the name that other commands give it."""
    with browsing(repository) as browser:
        snapshots = browser.refresh()
        for identifier, snapshot in snapshots.items():
            assert browser.node("ids", identifier.hex()[:8]).subtree == snapshot.tree


def test_same_time(clock: FakeClock) -> None:
    """Snapshots of the same second all have a place, and the later one is the latest."""
    repository = make_repository(clock=clock)
    for number in range(3):
        run_backup(repository, {"file": written(b"%d" % number, again=number)})
        clock.advance(0.25)
    with browsing(repository) as browser:
        time = TIMES[0]
        assert browser.names("snapshots") == [time, time + b"-1", time + b"-2", b"latest"]
        assert browser.node("snapshots", "latest").target == time + b"-2"
        assert browser.content("snapshots", time + b"-2", "file") == b"2"


def test_times_of_directories(repository: Repository) -> None:
    """A snapshot's directory has the time of the snapshot, what leads to it that of the newest one below."""
    with browsing(repository) as browser:
        noon = 1_715_947_200 * 10**9
        assert browser.node("snapshots", TIMES[0]).mtime_ns == noon
        assert browser.node("hosts", "mail").mtime_ns == noon + 3600 * 10**9
        assert browser.node("snapshots").mtime_ns == noon + 7200 * 10**9


def test_snapshots_come_and_go(repository: Repository, clock: FakeClock) -> None:
    """A directory that somebody is in shows a new snapshot, and no longer one that was forgotten."""
    with browsing(repository) as browser:
        inside = browser.directory("snapshots")
        clock.advance(3600)
        run_backup(repository, {"file": b"fourth"})
        browser.refresh()
        assert [node.name for node in inside.load().nodes][3] == b"2024-05-17T15:00:00+00:00"
        oldest = next(iter(browser.refresh()))
        repository.backend.delete(ObjectKind.SNAPSHOT, oldest.hex())
        browser.refresh()
        assert TIMES[0] not in [node.name for node in inside.load().nodes]


def test_who_is_in_a_snapshot_that_goes_may_stay(repository: Repository) -> None:
    """What is below a snapshot that was forgotten can be read for as long as its blobs are there."""
    with browsing(repository) as browser:
        inside = browser.directory("snapshots", TIMES[0])
        browser.files.show({})
        assert contents(inside, browser) == {b"/file": b"first"}


def test_a_host_that_goes(repository: Repository) -> None:
    """A directory that leads to no snapshot any more is gone."""
    with browsing(repository) as browser:
        inside = browser.directory("hosts", "mail")
        node = browser.node("hosts", "mail", TIMES[1])
        browser.files.show({key: each for key, each in browser.refresh().items() if each.hostname == "web"})
        with pytest.raises(ObjectNotFound):
            inside.load()
        with pytest.raises(ObjectNotFound):
            inside.subdirectory(node)


def test_templates(repository: Repository) -> None:
    """Templates replace the usual places; each may be a path, and several snapshots may share its beginning."""
    with browsing(repository, ["by/%h-%u/%T", "%I"]) as browser:
        assert browser.names("by") == [b"mail-me", b"web-me"]
        assert browser.names("by", "web-me") == [TIMES[0], TIMES[2], b"latest"]
        assert sorted(map(len, browser.names())) == [2, 8, 64, 64, 64]


def test_a_place_within_a_snapshot_gives_way(repository: Repository) -> None:
    """Where one template puts a snapshot and another one leads on, it is a directory that leads on."""
    with browsing(repository, ["%h", "%h/%T"]) as browser:
        assert browser.names("web") == [TIMES[0], TIMES[2], b"latest"]


def test_versions_may_be_taken(repository: Repository) -> None:
    """A template may use the name versions for itself."""
    with browsing(repository, ["versions/%T"]) as browser:
        assert browser.names("versions") == [*TIMES, b"latest"]


@pytest.mark.parametrize("template", ["", "/", "%T/../x", "a//%T", "./%T", "%x", "%", "same", "50%%", "a\0%T"])
def test_templates_that_make_no_sense(template: str) -> None:
    """A template with an unknown field, that is no path below the top, or the same for all, is refused."""
    with pytest.raises(InvalidValue):
        check_template(template)


@pytest.mark.parametrize(
    "template, names",
    [
        ("%T", ["2024-05-17T12:00:00+02:00"]),
        ("%h/%u", ["a_b/me"]),
        ("%t", ["one", "two"]),
        ("x%%t-%l", ["x%t-home"]),
        ("%i", ["01010101"]),
        ("/%h/", ["a_b"]),
    ],
)
def test_fields(template: str, names: list[str]) -> None:
    """Each field stands for what the snapshot says; a slash in it is no slash of the path."""
    when = FakeClock().time.astimezone(timezone(timedelta(hours=2))).replace(hour=12)
    snapshot = Snapshot(
        version=1, time=when.isoformat(), tree=bytes(32), hostname="a/b", username="me", tags=["one", "two"],
        label="home",
    )  # fmt: skip
    check_template(template)
    assert [b"/".join(parts).decode() for parts in snapshot_paths(template, b"\1" * 32, snapshot)] == names


@pytest.mark.parametrize("hostname", ["", ".", "..", "\0"])
def test_values_that_are_no_names(hostname: str) -> None:
    """A snapshot whose host is no name has no place below hosts, and its place by time."""
    repository = make_repository()
    run_backup(repository, {"file": b""}, hostname=hostname)
    with browsing(reopen(repository.backend)) as browser:
        assert b"hosts" not in browser.names()
        assert browser.names("snapshots") == [TIMES[0], b"latest"]
