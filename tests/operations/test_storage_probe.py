"""Trying out a storage: what is right passes, each thing that is wrong is found, and nothing is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bfrepo.core.clock import SystemClock
from bfrepo.core.errors import Interrupted, RepositoryExists, StorageError, StorageObjectExists, StorageObjectMissing
from bfrepo.core.progress import Progress
from bfrepo.core.protocols import Buffer
from bfrepo.operations.storage_probe import ProbeResult, probe_storage
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind, Upload
from bfrepo.storage.forwarding import ForwardingBackend
from bfrepo.storage.local import LocalBackend
from bfrepo.storage.location import open_bare_backend, parse_location
from bfrepo.storage.memory import MemoryBackend
from tests.storage.conformance import PACK
from tests.support import rclone, sshd
from tests.support.faulty import FaultyBackend

SIZE = 1000


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer objects than a thousand, where a test is not about them."""
    if "ListsAThousand" not in request.node.name:
        monkeypatch.setattr("bfrepo.operations.storage_checks._MANY", 50)


def probe(open_backend: Callable[[], Backend]) -> ProbeResult:
    """Try out a storage, with small transfers."""
    return probe_storage(open_backend, SystemClock(), Progress(), lambda: False, size=SIZE)


def verdicts(result: ProbeResult) -> dict[str, str]:
    """What did not pass, by name."""
    return {check.name: check.verdict for check in result.checks if check.verdict != "passed"}


def objects(backend: Backend) -> list[ObjectInfo]:
    """Everything that is stored."""
    return [info for kind in ObjectKind for info in backend.list(kind)]


def test_a_storage_that_is_right() -> None:
    """Everything passes, everything is measured, and nothing is left."""
    memory = MemoryBackend()
    result = probe(lambda: memory)
    assert verdicts(result) == {}
    assert len(result.checks) == 9
    assert (result.failed, result.left, objects(memory)) == (0, (), [])
    assert [each.call for each in result.latencies] == ["save", "load", "list", "delete"]
    assert all(0 <= each.median_s <= each.slowest_s for each in result.latencies)
    measured = [(each.direction, each.connections, each.size) for each in result.throughputs]
    assert measured == [("up", 1, SIZE), ("down", 1, SIZE), ("up", 2, 2 * SIZE), ("down", 2, 2 * SIZE)]


@pytest.mark.parametrize("existed", [True, False])
def test_directories_go_too(tmp_path: Path, existed: bool) -> None:
    """Of a directory nothing is left that was not there before."""
    root = tmp_path / "deep" / "repository"
    if existed:
        root.mkdir(parents=True)
    assert probe(lambda: LocalBackend(root)).left == ()
    assert [*tmp_path.rglob("*")] == ([root.parent, root] if existed else [])


def test_a_place_in_use_is_refused(tmp_path: Path) -> None:
    """A place that holds anything stays as it is."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RepositoryExists):
        probe(lambda: LocalBackend(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


class Wrong(ForwardingBackend):
    """A storage with something wrong, in what its subclasses do."""


class ForgetsTheLastByte(Wrong):
    def load(self, kind: ObjectKind, name: str) -> bytes:
        return self._inner.load(kind, name)[:-1]


class ReadsNextToIt(Wrong):
    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        self._inner.read_into(kind, name, max(offset - 1, 0), buffer)


class GivesWhatThereIs(Wrong):
    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        return self._inner.load(kind, name)[offset : offset + length]


class SaysNothingIsMissing(Wrong):
    def load(self, kind: ObjectKind, name: str) -> bytes:
        try:
            return self._inner.load(kind, name)
        except StorageObjectMissing:
            return b""


class ListsAThousand(Wrong):
    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        return iter([*self._inner.list(kind)][:1000])


class ListsTwice(Wrong):
    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        return iter([*self._inner.list(kind)] * 2)


class ListsLate(Wrong):
    """Its listings are as they were a moment ago."""

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        found = [*self._inner.list(kind)]
        return iter(found[:-1] if kind is ObjectKind.SNAPSHOT else found)


class KeepsWhatIsDeleted(Wrong):
    def delete(self, kind: ObjectKind, name: str) -> None:
        if kind is not ObjectKind.CLAIM or self._done:
            self._inner.delete(kind, name)

    _done = False


class LeavesWhatWasGivenUp(Wrong):
    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        inner, outer = self._inner.upload(kind), self

        class Leaving:
            data = b""
            ended = False

            def write(self, data: Buffer) -> None:
                self.data += bytes(data)
                inner.write(data)

            def commit(self, name: str) -> None:
                inner.commit(name)
                self.ended = True

            def abort(self) -> None:
                inner.abort()
                if not self.ended:
                    outer._inner.save(PACK, "5" * 64, self.data)

        return Leaving()


class WritesInTwoSteps(Wrong):
    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        if kind is PACK and len(data) > 1_000_000:
            self._inner.save(kind, name, bytes(data)[:1000])
            time.sleep(0.05)
        self._inner.save(kind, name, data)


class LetsEverybodyWin(Wrong):
    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        try:
            self._inner.save(kind, name, data)
        except StorageObjectExists:
            return


class LetsNobodyWin(Wrong):
    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        if kind is ObjectKind.CONFIG:
            raise StorageObjectExists("somebody was faster")
        self._inner.save(kind, name, data)


@pytest.mark.parametrize(
    ("wrong", "name", "verdict"),
    [
        (ForgetsTheLastByte, "objects", "failed"),
        (ReadsNextToIt, "ranges", "failed"),
        (GivesWhatThereIs, "ranges", "failed"),
        (SaysNothingIsMissing, "missing", "failed"),
        (ListsLate, "visible", "failed"),
        (ListsAThousand, "listing", "failed"),
        (ListsTwice, "listing", "failed"),
        (LeavesWhatWasGivenUp, "uploads", "failed"),
        (WritesInTwoSteps, "atomic", "failed"),
        (LetsEverybodyWin, "exclusive", "warning"),
        (LetsNobodyWin, "exclusive", "failed"),
        (KeepsWhatIsDeleted, "deletion", "failed"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value),
)
def test_what_is_wrong_is_found(wrong: type[Wrong], name: str, verdict: str) -> None:
    """Each promise that a storage breaks is told by the check that is about it."""
    memory = MemoryBackend()
    result = probe(lambda: wrong(memory))
    assert verdicts(result)[name] == verdict
    assert next(check.detail for check in result.checks if check.name == name)
    assert (result.failed > 0) == ("failed" in verdicts(result).values())


def test_clients_that_do_not_see_each_other() -> None:
    """Two clients of what should be one storage notice when it is two."""
    found = verdicts(probe(MemoryBackend))
    assert found["visible"] == found["listing"] == "failed"


def test_errors_are_results() -> None:
    """A storage that fails is not fit; the other checks are made all the same, and it is cleaned up."""
    memory = MemoryBackend()
    faulty = FaultyBackend(memory)
    faulty.fail("size", error=StorageError("the server is tired"), on_call=3)
    result = probe(lambda: faulty)
    assert verdicts(result) == {"objects": "failed"}
    assert result.checks[0].detail == "the server is tired"
    assert objects(memory) == []


def test_what_cannot_be_removed_is_told() -> None:
    """What is left is named."""
    faulty = FaultyBackend(MemoryBackend())
    faulty.fail("delete", kind=ObjectKind.KEY, forever=True)
    result = probe(lambda: faulty)
    assert sorted(each[:4] for each in result.left) == ["key ", "key "]


def test_it_stops_when_the_user_wants(tmp_path: Path) -> None:
    """Who stops it finds nothing left."""
    backend = LocalBackend(tmp_path / "repository")
    calls: list[int] = []

    def stop() -> bool:
        calls.append(1)
        return len(calls) > 30

    with pytest.raises(Interrupted):
        probe_storage(lambda: backend, SystemClock(), Progress(), stop)
    assert [*tmp_path.iterdir()] == []


def test_no_thread_is_left() -> None:
    """When it is over nothing of it goes on."""
    probe(MemoryBackend)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("probe")] == []


# --- on real servers


@pytest.mark.parametrize("protocol", ["s3", "restic"])
def test_on_rclone(tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """rclone's servers of S3 and of REST keep what they should, if not without a hiccup, and are empty in the end."""
    root = tmp_path / "root"
    (root / "bucket").mkdir(parents=True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "probe")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "probing")
    flags = ("--auth-key", "probe,probing") if protocol == "s3" else ()
    with rclone.serve(protocol, root, *flags) as server:
        text = f"s3:{server.url}bucket/probe" if protocol == "s3" else f"rest:{server.url}probe/"
        result = probe(lambda: open_bare_backend(parse_location(text)))
    found = verdicts(result)
    assert {name: found[name] for name in found.keys() - {"atomic", "exclusive"}} == {}
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_on_sshd(tmp_path: Path) -> None:
    """OpenSSH's server keeps what it should, and no directory is left there."""
    place = tmp_path / "place"
    place.mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(sshd.serve(tmp_path))
        result = probe(lambda: server.backend(place / "deep" / "probe"))
    assert verdicts(result) == {}
    assert [*place.iterdir()] == []
