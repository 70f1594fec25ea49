"""Backups of a host behind a real sshd: what is read, what breaks, and what a host may not do."""

from __future__ import annotations

import io
import os
import random
import struct
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from paramiko import Channel

from bfrepo.core.clock import SystemClock
from bfrepo.core.errors import SourceError
from bfrepo.operations.backup import BackupResult
from bfrepo.repository.repository import Repository
from bfrepo.sources.exclude import ExcludeRules
from bfrepo.sources.ssh import host as host_module
from bfrepo.sources.ssh.crawl import list_by_sftp
from bfrepo.sources.ssh.host import HostLink, RemoteCommand
from bfrepo.sources.ssh.listing import Listing
from bfrepo.sources.ssh.sftpfeed import SftpFeed
from bfrepo.sources.ssh.tarsession import TarRound
from bfrepo.ssh.errors import SshError
from bfrepo.ssh.sftp import SftpSession
from bfrepo.ssh.sftp_format import PIECE
from tests.support.backups import incompressible
from tests.support.directories import Problems, census, restore_to
from tests.support.repositories import make_repository
from tests.support.ssh_source import back_up_host
from tests.support.sshd import Sshd, end_session, make_key, serve

MOST_CUTS = 25
"""On a machine that is busy with other things, a connection may be cut each time before anything came through."""

SETTLED_S = 0.3
"""Until a file is no longer so young that it is read again."""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A host that runs commands."""
    with serve(tmp_path_factory.mktemp("sshd")) as sshd:
        yield sshd


@pytest.fixture(scope="module")
def sftp_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A host that speaks nothing but SFTP."""
    with serve(tmp_path_factory.mktemp("sftp"), "ForceCommand internal-sftp") as sshd:
        yield sshd


@pytest.fixture(params=["shell", "sftp_only"])
def sshd(request: pytest.FixtureRequest) -> Sshd:
    """A host of each kind."""
    found: Sshd = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with a few files, a large one, and one in a directory in it."""
    top = tmp_path / "src"
    (top / "below").mkdir(parents=True)
    for number in range(20):
        (top / f"small-{number:02}").write_bytes(b"%d" % number * 1000)
    (top / "below" / "large").write_bytes(incompressible(1, 3 << 20))
    (top / "link").symlink_to("small-01")
    return top


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The names of files and others that are asked for, as they are."""
    asked: list[bytes] = []
    begin, read_small, session = TarRound.__init__, SftpFeed.read_small, SftpFeed.session

    def beginning(self: TarRound, session: Any, paths: Any) -> None:
        asked.extend(paths)
        begin(self, session, paths)

    def reading(self: SftpFeed, files: Any, buffer: memoryview) -> Any:
        asked.extend(path for path, _ in files)
        return read_small(self, files, buffer)

    def opening(self: SftpFeed) -> SftpSession:
        asked.append(b"SFTP")
        return session(self)

    with monkeypatch.context() as patch:
        patch.setattr(TarRound, "__init__", beginning)
        patch.setattr(SftpFeed, "read_small", reading)
        patch.setattr(SftpFeed, "session", opening)
        yield asked


def settle(sshd: Sshd) -> None:
    """Wait until nothing is so young any more that it is read again. SFTP tells whole seconds."""
    time.sleep(SETTLED_S if "sftp" not in str(sshd.log) else 1.2)


def restored(repository: Repository, result: BackupResult, source: Path, target: Path) -> Path:
    """Where it was restored to."""
    assert result.snapshot_id is not None
    restore_to(repository, result.snapshot_id, source.parent, target, verify=True)
    return target / "src"


def contents(top: Path) -> dict[str, bytes]:
    """The content of every file."""
    return {str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}


def test_unchanged_files_are_not_read(sshd: Sshd, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an unchanged host nothing is read, and of a changed one what has changed."""
    repository = make_repository(clock=SystemClock())
    settle(sshd)
    with watched(monkeypatch) as asked:
        first = back_up_host(repository, sshd, source)
        assert {bytes(source / "small-01"), bytes(source / "small-19")} <= set(asked)
    with watched(monkeypatch) as asked:
        again = back_up_host(repository, sshd, source)
        # Of directories attributes may be asked for ahead; no file is, and no session to read one is begun.
        assert [path for path in asked if path == b"SFTP" or path.endswith(b"large") or b"/small-" in path] == []
    assert again.snapshot.summary.files_unmodified == first.snapshot.summary.files_new == 21
    (source / "small-07").write_bytes(b"changed")
    with watched(monkeypatch) as asked:
        third = back_up_host(repository, sshd, source)
        # tar is asked for the attributes of directories too: that of this one is unchanged, those above it may not be
        assert [path for path in asked if path.startswith(bytes(source) + b"/small")] == [bytes(source / "small-07")]
    assert (third.snapshot.summary.files_changed, third.snapshot.summary.files_unmodified) == (1, 20)


def test_a_young_file_is_read_again(shell: Sshd, source: Path) -> None:
    """What changed in the moment it was read is read again by the next backup, though its times may be the same."""
    repository = make_repository(clock=SystemClock())
    (source / "small-01").write_bytes(b"just now")
    back_up_host(repository, shell, source)
    time.sleep(SETTLED_S)
    second = back_up_host(repository, shell, source).snapshot.summary
    assert second.files_changed > 0
    assert back_up_host(repository, shell, source).snapshot.summary.files_changed == 0


def test_change_times_that_may_come_again() -> None:
    """A change time that a later change might get too is kept as another; one that is old enough as it is."""
    listing = Listing(now_ns=1_700_000_000_500_000_000)
    old, young, ahead = 1_700_000_000_300_000_001, 1_700_000_000_450_000_001, 1_800_000_000_000_000_001
    assert [listing.settled(each) for each in (old, young, ahead)] == [old, young - 1, ahead - 1]
    coarse = 1_699_999_999_000_000_000  # of a file system with whole seconds, as it seems
    assert listing.settled(coarse) == coarse - 1


def test_killed_connections(sshd: Sshd, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the connection is cut, the backup completes, with everything."""
    for number in range(300):
        (source / f"more-{number}").write_bytes(incompressible(number + 10, 20_000))
    (source / "huge").write_bytes(incompressible(2, 24 << 20))
    monkeypatch.setattr(host_module, "_PAUSES_S", (0.01,) * 100)
    chance, over = random.Random(7), threading.Event()
    cut: list[int] = []

    run, begun = HostLink.run, threading.Event()

    def running(self: HostLink, command: bytes) -> RemoteCommand:
        found = run(self, command)
        begun.set()
        return found

    monkeypatch.setattr(HostLink, "run", running)

    def cutting() -> None:
        begun.wait(30)
        while len(cut) < MOST_CUTS and not over.wait(chance.uniform(0.05, 0.5)):
            for pid in sshd.sessions():
                end_session(pid)
                cut.append(pid)

    repository = make_repository()
    with joined(threading.Thread(target=cutting), over):
        result = back_up_host(repository, sshd, source)
    assert cut, "nothing was cut"
    assert contents(restored(repository, result, source, tmp_path / "out")) == contents(source)


@contextmanager
def joined(thread: threading.Thread, over: threading.Event) -> Iterator[None]:
    """The thread runs while the context lasts."""
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("changes", [False, True])
def test_a_file_goes_on_where_it_was_cut(
    changes: bool, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose connection breaks in the middle comes whole; one that changed meanwhile is read anew."""
    source = tmp_path / "src"
    source.mkdir()
    (source / "large").write_bytes(incompressible(1, 30 << 20))
    monkeypatch.setattr(host_module, "_PAUSES_S", (0.01,) * 10)
    settle(sshd)
    came = 0
    receive = Channel.recv

    def breaking(self: Channel, count: int) -> bytes:
        nonlocal came
        data = receive(self, count)
        before, came = came, came + len(data)
        if before < 12 << 20 <= came:
            if changes:
                (source / "large").write_bytes(incompressible(2, 31 << 20))
                os.utime(source / "large", (10**9, 10**9))
            for pid in sshd.sessions():
                end_session(pid)
            self.get_transport().close()
            raise EOFError("cut")
        return data

    monkeypatch.setattr(Channel, "recv", breaking)
    repository = make_repository()
    result = back_up_host(repository, sshd, source)
    assert contents(restored(repository, result, source, tmp_path / "out")) == contents(source)


def test_a_host_that_is_gone_for_good(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the host does not come back, the backup ends with an error that names it."""
    monkeypatch.setattr(host_module, "_PAUSES_S", (0.01,) * 3)
    with serve(tmp_path / "sshd") as sshd:
        pass
    with pytest.raises(SourceError, match=f"ssh://.*127.0.0.1:{sshd.port}: cannot connect"):
        back_up_host(make_repository(), sshd, source)


def test_host_keys(source: Path, tmp_path: Path) -> None:
    """A host that is not known, and one with another key than is known, are refused at once, saying which it is."""
    with serve(tmp_path / "sshd") as sshd:
        (sshd.ssh / "known_hosts").write_text("")
        with pytest.raises(SourceError, match="known") as unknown:
            back_up_host(make_repository(), sshd, source)
        assert unknown.value.hint
        other = make_key(tmp_path / "other")
        (sshd.ssh / "known_hosts").write_text(replace(sshd, host_key=other).known_host)
        with pytest.raises(SourceError, match="HAS CHANGED") as changed:
            back_up_host(make_repository(), sshd, source)
        assert changed.value.hint


def test_what_is_missing_and_what_vanishes(shell: Sshd, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is not there is reported; a file that goes after it was listed is left out with a warning."""
    problems = Problems()
    result = back_up_host(make_repository(), shell, source, source.parent / "nowhere", problems=problems)
    assert problems.found == [(bytes(source.parent / "nowhere"), "No such file or directory")]
    assert result.snapshot.summary.files == 21
    begin = TarRound.__init__

    def vanishing(self: TarRound, session: Any, paths: Any) -> None:
        (source / "small-05").unlink(missing_ok=True)
        begin(self, session, paths)

    monkeypatch.setattr(TarRound, "__init__", vanishing)
    assert back_up_host(make_repository(), shell, source).snapshot.summary.files == 20
    with pytest.raises(SourceError, match="none of the paths"):
        back_up_host(make_repository(), shell, source / "nowhere", problems=Problems())


def test_excludes(sshd: Sshd, source: Path, tmp_path: Path) -> None:
    """Patterns and sizes leave out what they would leave out here."""
    rules = ExcludeRules.from_options(environment={}, exclude=["small-1*", "/**/below"], larger_than=50_000)
    repository = make_repository()
    result = back_up_host(repository, sshd, source, rules=rules)
    out = restored(repository, result, source, tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["link", *(f"small-{number:02}" for number in range(10))]
    )


def test_paths_in_each_other_and_through_links(shell: Sshd, source: Path, tmp_path: Path) -> None:
    """A path in another comes once; a link on the way to a path is stored as the directory it leads to."""
    repository = make_repository()
    result = back_up_host(repository, shell, source, source / "below")
    assert census(restored(repository, result, source, tmp_path / "out")) == census(source)
    (tmp_path / "alias").symlink_to("src")
    result = back_up_host(repository, shell, tmp_path / "alias" / "below")
    assert result.snapshot_id is not None
    restore_to(repository, result.snapshot_id, tmp_path / "alias", tmp_path / "two")
    assert contents(tmp_path / "two") == {"below/large": (source / "below" / "large").read_bytes()}


@pytest.fixture
def liar(tmp_path: Path) -> Iterator[tuple[Sshd, Path]]:
    """A host that answers each command with a file: "listing" or "archive" in the folder."""
    folder = tmp_path / "lies"
    folder.mkdir()
    script = folder / "lie"
    script.write_text(
        '#!/bin/sh\ncase "$SSH_ORIGINAL_COMMAND" in\n'
        f"*printf*) cat {folder}/listing ;;\n*create*) cat {folder}/archive ;;\nesac\n"
    )
    script.chmod(0o755)
    with serve(tmp_path / "sshd", f"ForceCommand {script}") as sshd:
        yield sshd, folder


def line(kind: str, path: str, size: int = 0) -> bytes:
    """What `find` would say."""
    return f'["{kind}",644,0,0,{size},"1.0","1.0",1,1,1]\0\0{path}\0'.encode()


def test_a_hostile_host_stays_below_the_path(liar: tuple[Sshd, Path], tmp_path: Path) -> None:
    """Names that lead elsewhere, in the listing and in the archive, bring nothing into the snapshot."""
    sshd, folder = liar
    evil = [
        "/data/../../etc/passwd",
        "/etc/passwd",
        "/data/a/../../../x",
        "../../etc/passwd",
        "/data/..",
        "/data/.",
        "/",
    ]
    (folder / "listing").write_bytes(
        b"1700000000.000000000\ntar (GNU tar) 1.34\n"
        + line("d", "/data")
        + line("f", "/data/good", 4)
        + b"".join(line("f", path, 4) + line("d", path) for path in evil)
        + b"nonsense\0\0/data/nonsense\0"
    )
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in ["/data", *evil, "../../etc/passwd", "/data/good", "/data/unasked"]:
            member = tarfile.TarInfo(path)
            member.type = tarfile.DIRTYPE if path == "/data" else tarfile.REGTYPE
            member.size = 0 if path == "/data" else 4
            tar.addfile(member, io.BytesIO(b"evil" if path != "/data/good" else b"good"))
    (folder / "archive").write_bytes(archive.getvalue())
    repository = make_repository()
    result = back_up_host(repository, sshd, Path("/data"), problems=Problems())
    assert result.snapshot_id is not None
    restore_to(repository, result.snapshot_id, Path("/"), tmp_path / "out")
    assert contents(tmp_path / "out") == {"data/good": b"good"}


@pytest.mark.parametrize("seed", range(6))
def test_a_host_that_says_nonsense(seed: int, liar: tuple[Sshd, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no listing or no archive end in an error or in reports, and in nothing else."""
    monkeypatch.setattr(host_module, "_PAUSES_S", (0.01,) * 2)
    sshd, folder = liar
    chance = random.Random(seed)
    head = b"1700000000.000000000\ntar (GNU tar) 1.34\n" + line("d", "/data") + line("f", "/data/good", 4)
    (folder / "listing").write_bytes(head + chance.randbytes(20_000))
    (folder / "archive").write_bytes(chance.randbytes(20_000))
    with pytest.raises(SourceError):
        back_up_host(make_repository(), sshd, Path("/data"), problems=Problems())


class _Server:
    """An SFTP server on a channel, that answers each request by what a function says."""

    def __init__(self, names: list[bytes]) -> None:
        self._names = names
        self._incoming = struct.pack(">IBI", 5, 2, 3)
        self._listed = False
        self.closed = False

    def sendall(self, data: bytes) -> None:
        while data:
            (length,) = struct.unpack_from(">I", data)
            self._answer(data[4], data[5:9], data[9 : 4 + length])
            data = data[4 + length :]

    def recv(self, count: int) -> bytes:
        taken, self._incoming = self._incoming[:count], self._incoming[count:]
        return taken

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def close(self) -> None:
        self.closed = True

    def get_transport(self) -> _Server:
        return self

    def is_active(self) -> bool:
        return True

    def get_exception(self) -> None:
        return None

    def _answer(self, kind: int, number: bytes, body: bytes) -> None:
        directory = struct.pack(">II", 4, 0o40755)
        if kind in (7, 17):
            self._say(105, number + directory)
        elif kind == 11:
            self._say(102, number + _string(b"handle"))
        elif kind == 12 and not self._listed:
            self._listed = True
            entries = [_string(name) + _string(b"") + struct.pack(">II", 4, 0o100644) for name in self._names]
            self._say(104, number + struct.pack(">I", len(entries)) + b"".join(entries))
        elif kind != 1:
            self._say(101, number + struct.pack(">I", 1) + _string(b"") + _string(b""))

    def _say(self, kind: int, body: bytes) -> None:
        self._incoming += struct.pack(">IB", 1 + len(body), kind) + body


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def test_a_hostile_sftp_server_stays_below_the_path() -> None:
    """A name with a slash, of no bytes or with a NUL is none; the directory is reported, the rest is listed."""
    server = _Server([b"../../etc/passwd", b"/etc/passwd", b"a/b", b"..", b".", b"a\0b", b"good"])
    listing = list_by_sftp(SftpSession(cast(Channel, server), "the host"), [b"/data"])
    assert [stat.name for stat in listing.entries(b"/data")] == [b"good"]
    assert list(listing.unreadable) == [b"/data"]


def test_pieces_are_asked_for_ahead(sftp_only: Sshd, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By SFTP, many requests for a large file are on their way before the first is answered."""
    sent, most = 0, 0
    send, take = SftpSession.send, SftpSession.take

    def sending(self: SftpSession, *arguments: Any) -> int:
        nonlocal sent, most
        sent += 1
        most = max(most, sent)
        return send(self, *arguments)

    def taking(self: SftpSession, number: int) -> memoryview:
        nonlocal sent
        sent -= 1
        return take(self, number)

    monkeypatch.setattr(SftpSession, "send", sending)
    monkeypatch.setattr(SftpSession, "take", taking)
    back_up_host(make_repository(), sftp_only, source)
    assert most >= 60
    assert PIECE * 60 < 3 << 20


def test_a_lost_connection_says_so() -> None:
    """A command whose connection breaks raises an error that names the host."""

    class Broken:
        def settimeout(self, seconds: float) -> None: ...
        def close(self) -> None: ...
        def recv(self, count: int) -> bytes:
            raise EOFError

    with pytest.raises(SshError, match="the connection to ssh://shop was lost"):
        RemoteCommand(cast(Channel, Broken()), "ssh://shop").read()
