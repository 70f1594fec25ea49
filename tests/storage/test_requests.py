"""How often a server is asked. Nothing is timed: the line only counts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from bfrepo.core.progress import Quiet
from bfrepo.data.selection import SnapshotFilter
from bfrepo.operations.check import CheckOptions, check
from bfrepo.operations.restore import restore
from bfrepo.repository.repository import open_repository
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.location import S3Location
from bfrepo.storage.options import RestOptions
from bfrepo.storage.rest import RestBackend
from bfrepo.storage.retry import RetryingBackend, RetryPolicy
from bfrepo.storage.s3 import S3Backend
from tests.support import rclone, sshd
from tests.support.backups import incompressible, never, run_backup
from tests.support.buckets import BUCKET, PLAIN, RCLONE_KEYS, key_variables
from tests.support.distant import DistantBackend
from tests.support.long_line import LongLine, long_line_to
from tests.support.repositories import PASSWORD, FakeClock, make_repository
from tests.support.rest_places import AS_SERVER, location
from tests.support.sources import Item, written

TREE: dict[str, Item | bytes] = {
    f"data/{number % 10}/{number}": written(incompressible(number, 3000)) for number in range(300)
}


@dataclass(frozen=True)
class Counted:
    """A place on a server. `requests` are those that were made since `forget`."""

    open: Callable[[], Backend]
    requests: Callable[[], int]
    forget: Callable[[], None]


def counted_by(line: LongLine, connect: Callable[[], Backend]) -> Counted:
    """Requests as the line to the server has seen them."""
    return Counted(lambda: RetryingBackend(connect(), RetryPolicy()), lambda: len(line.requests), line.forget)


def on_rest(folder: Path, stack: ExitStack) -> Counted:
    """rclone as a REST server."""
    server = stack.enter_context(rclone.serve("restic", folder, environment=AS_SERVER))
    line = stack.enter_context(long_line_to(server.port, round_trip_s=0, rate=None))
    return counted_by(line, lambda: RestBackend(location(line.port), RestOptions()))


def on_s3(folder: Path, stack: ExitStack) -> Counted:
    """rclone as S3."""
    (folder / BUCKET).mkdir()
    server = stack.enter_context(rclone.serve("s3", folder, environment=RCLONE_KEYS))
    line = stack.enter_context(long_line_to(server.port, round_trip_s=0, rate=None))
    place = S3Location(f"http://127.0.0.1:{line.port}", BUCKET, "repository")
    return counted_by(line, lambda: S3Backend(place, PLAIN))


def on_sftp(folder: Path, stack: ExitStack) -> Counted:
    """An SFTP server answers several small requests for one of ours: what counts is how often we ask for something."""
    server = stack.enter_context(sshd.serve(folder))
    handles: list[DistantBackend] = []

    def connect() -> Backend:
        handles.append(DistantBackend(server.backend(folder / "repository"), connections=4))
        return RetryingBackend(handles[-1], RetryPolicy())

    return Counted(connect, lambda: sum(each.total for each in handles), handles.clear)


@pytest.fixture(params=[on_rest, on_s3, on_sftp])
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    """A server of each kind."""
    for name, value in key_variables(tmp_path).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "served").mkdir()
    with ExitStack() as stack:
        yield request.param(tmp_path / "served", stack)


def test_unchanged_backup_takes_few_requests(server: Counted, tmp_path: Path) -> None:
    """A backup of what has not changed takes less than 20 requests where this machine has kept what it knows."""
    with closing(server.open()) as backend:
        make_repository(backend, encryption="aes-256-gcm")
    for turn in range(3):
        server.forget()
        kinds = [ObjectKind.INDEX, ObjectKind.SNAPSHOT]
        with open_repository(
            server.open(), FakeClock(), lambda: PASSWORD, cache_dir=tmp_path / "cache", keep_objects=True, ahead=kinds
        ) as repository:
            unmodified = run_backup(repository, TREE).archived.files_unmodified
        assert unmodified == (300 if turn else 0)
    assert 5 < server.requests() < 12


def test_restore_takes_few_requests(server: Counted, tmp_path: Path) -> None:
    """A restore by a machine that knows nothing yet takes one request for each small pack, not one for each file."""
    with closing(server.open()) as backend:
        run_backup(make_repository(backend, encryption="aes-256-gcm"), TREE)
    server.forget()
    kinds = [ObjectKind.SNAPSHOT, ObjectKind.INDEX, ObjectKind.PACK]
    with open_repository(
        server.open(), FakeClock(), lambda: PASSWORD, cache_dir=tmp_path / "cache", keep_objects=True, ahead=kinds
    ) as repository:
        options = RestoreOptions(target=os.fsencode(tmp_path / "target"))
        restore(repository, "latest", SnapshotFilter(), options, Quiet(), never)
    assert sum(path.is_file() for path in (tmp_path / "target").rglob("*")) == 300
    assert server.requests() < 13


def test_check_takes_few_requests(server: Counted, tmp_path: Path) -> None:
    """A check of what is known by nobody yet asks for little more than once."""
    with closing(server.open()) as backend:
        run_backup(make_repository(backend, encryption="aes-256-gcm"), TREE)
    server.forget()
    kinds = [ObjectKind.SNAPSHOT, ObjectKind.INDEX, ObjectKind.PACK, ObjectKind.CLAIM]
    with open_repository(
        server.open(), FakeClock(), lambda: PASSWORD, cache_dir=tmp_path, keep_objects=True, ahead=kinds
    ) as repository:
        assert check(repository, CheckOptions(), Quiet(), never).findings == ()
    assert server.requests() <= 11
