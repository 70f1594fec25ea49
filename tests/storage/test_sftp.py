from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from bfrepo.core.errors import (
    StorageDenied,
    StorageError,
    StorageFull,
    StorageObjectExists,
    StorageObjectMissing,
)
from bfrepo.core.protocols import Buffer
from bfrepo.repository.repository import open_repository
from bfrepo.ssh.sftp import SftpSession
from bfrepo.ssh.sftp_format import PIECE, Request
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.layout import DIRECTORY_KINDS
from bfrepo.storage.local import LocalBackend
from bfrepo.storage.retry import RetryingBackend, RetryPolicy
from bfrepo.storage.sftp import SftpBackend
from tests.storage.conformance import CONFIG, MIB, PACK, BackendConformance, Place, name_of, names, stored, uploaded
from tests.storage.test_local import tmpfs
from tests.support.backups import run_backup
from tests.support.command import with_password
from tests.support.program import ROOT
from tests.support.remote import Remote, RemoteSuite
from tests.support.repositories import PASSWORD, FakeClock, make_repository
from tests.support.sources import written
from tests.support.sshd import Sshd, end_session, make_key, serve

APPEND_ONLY = "internal-sftp -p open,close,read,write,stat,opendir,readdir,mkdir,rename,statvfs,fsync"
"""As docs/how-to/sftp.md has it."""

NEEDLESS_PASSWORD = "a password that this server never asks for"
PLAIN = "internal-sftp -P posix-rename,hardlink,fsync,statvfs,limits"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server for all tests that do it no harm."""
    with serve(tmp_path_factory.mktemp("sshd")) as sshd:
        yield sshd


@pytest.fixture(scope="module")
def read_only_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server that refuses every change."""
    with serve(tmp_path_factory.mktemp("read-only"), sftp="internal-sftp -R") as sshd:
        yield sshd


@pytest.fixture(scope="module")
def plain_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server that can do nothing beyond the standard."""
    with serve(tmp_path_factory.mktemp("plain"), sftp=PLAIN) as sshd:
        yield sshd


@pytest.fixture(scope="module")
def append_only_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server that lets nobody remove or replace anything."""
    with serve(tmp_path_factory.mktemp("append-only"), sftp=APPEND_ONLY) as sshd:
        yield sshd


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the repository is, or will be."""
    return tmp_path / "repo"


@pytest.fixture
def backend(sshd: Sshd, root: Path) -> Iterator[SftpBackend]:
    """A new, empty repository at `root`."""
    with closing(sshd.backend(root)) as backend:
        backend.create()
        yield backend


class TestSftpBackend(BackendConformance):
    @pytest.fixture
    def place(self, sshd: Sshd, tmp_path: Path) -> Place:
        root = tmp_path / "parent" / "repo"

        def plant(path: str, data: bytes) -> None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)

        return Place(open=lambda: sshd.backend(root), plant=plant)

    @pytest.fixture
    def denied(self, read_only_sshd: Sshd, tmp_path: Path) -> Iterator[Backend]:
        local = LocalBackend(tmp_path / "repo")
        local.create()
        stored(local, PACK, b"kept")
        with closing(read_only_sshd.backend(tmp_path / "repo")) as backend:
            yield backend

    @pytest.fixture
    def full(self, sshd: Sshd, tmp_path: Path) -> Iterator[Backend]:
        with tmpfs(tmp_path / "small", "size=1m") as root, closing(sshd.backend(root / "repo")) as backend:
            backend.create()
            yield backend


class TestSftpRepository(RemoteSuite):
    @pytest.fixture
    def remote(self, sshd: Sshd, tmp_path: Path) -> Remote:
        """Through an alias of ~/.ssh/config, as people do it."""
        environment = {"HOME": str(sshd.home), "BACKUPFORGE_SFTP_PASSWORD": NEEDLESS_PASSWORD}
        return Remote(f"sftp:backup:{tmp_path}/remote", environment, secrets=(NEEDLESS_PASSWORD,))


# --- the directory


def test_it_is_a_local_repository_there(backend: SftpBackend, root: Path) -> None:
    """What is stored over SFTP is found locally, and the other way round."""
    with closing(LocalBackend(root)) as local:
        there = uploaded(backend, PACK, b"over SFTP")
        here = uploaded(local, PACK, b"locally")
        backend.save(CONFIG, "config", b"config")
        for each in (backend, local):
            assert names(each, PACK) == {there, here}
            assert each.load(PACK, there) == b"over SFTP"
            assert each.load(PACK, here) == b"locally"
            assert each.load(CONFIG, "config") == b"config"


def test_local_repository_over_sftp(sshd: Sshd, root: Path) -> None:
    """A repository that was made locally is one over SFTP."""
    local = LocalBackend(root)
    local.create()
    with closing(sshd.backend(root)) as backend:
        name = uploaded(backend, PACK, b"x")
    assert local.load(PACK, name) == b"x"


def test_objects_are_private_and_read_only(backend: SftpBackend, root: Path) -> None:
    """Files can be read by their owner and changed by nobody, directories are the owner's alone (INV-3)."""
    stored(backend, PACK, b"pack")
    backend.save(CONFIG, "config", b"config")
    files = [path for path in root.rglob("*") if path.is_file()]
    directories = [root, *(path for path in root.rglob("*") if path.is_dir())]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o400] * 2
    assert [stat.S_IMODE(path.stat().st_mode) for path in directories] == [0o700] * len(directories)


def test_path_in_the_home(sshd: Sshd, tmp_path: Path) -> None:
    """A relative path begins in the home of the user there, with or without `~/`."""
    way = os.path.relpath(tmp_path, Path.home())
    for number, path in enumerate((f"{way}/0", f"~/{way}/1")):
        with closing(sshd.backend(path)) as backend:
            backend.create()
            stored(backend, PACK, b"x")
        assert (tmp_path / str(number) / "packs").is_dir()


@pytest.mark.parametrize("kind", DIRECTORY_KINDS)
def test_missing_directory_is_never_empty(backend: SftpBackend, root: Path, kind: ObjectKind) -> None:
    """Without the directory of a kind every call for it fails, and none says that an object is missing."""
    (root / kind.value).rmdir()
    calls: list[Callable[[], object]] = [
        lambda: list(backend.list(kind)),
        lambda: backend.load(kind, name_of(b"x")),
        lambda: backend.read(kind, name_of(b"x"), 0, 1),
        lambda: backend.size(kind, name_of(b"x")),
        lambda: stored(backend, kind, b"x"),
        lambda: uploaded(backend, kind, b"x"),
        lambda: backend.delete(kind, name_of(b"x")),
    ]
    for call in calls:
        with pytest.raises(StorageError, match=f"the directory {kind.value} is missing") as caught:
            call()
        assert type(caught.value) is StorageError
        assert caught.value.hint


@pytest.mark.parametrize("kind", ObjectKind)
def test_missing_root_is_never_empty(sshd: Sshd, root: Path, kind: ObjectKind) -> None:
    """A listing of a place that is not there fails: the volume may not be mounted."""
    with closing(sshd.backend(root)) as backend, pytest.raises(StorageError, match="is missing") as caught:
        list(backend.list(kind))
    assert type(caught.value) is StorageError
    assert str(root) in str(caught.value)


def test_config_of_no_place_is_missing(sshd: Sshd, tmp_path: Path) -> None:
    """Where there is no repository, or only a file, its config is missing: that is how opening finds out."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nothing", tmp_path / "file"):
        with closing(sshd.backend(path)) as backend, pytest.raises(StorageObjectMissing, match="config is missing"):
            backend.load(CONFIG, "config")


def test_unreadable_pack_directory_fails_the_listing(sshd: Sshd, backend: SftpBackend, root: Path) -> None:
    """A listing that cannot look into one of the pack directories fails; it never leaves its packs out."""
    for number in range(10):
        stored(backend, PACK, bytes([number]))
    directory = next((root / "packs").iterdir())
    directory.rename(root / "elsewhere")
    directory.symlink_to("a volume that is not mounted")
    with pytest.raises(StorageError, match="vanished"):
        list(backend.list(PACK))


def test_links_lead_to_objects(backend: SftpBackend, root: Path, tmp_path: Path) -> None:
    """What a link leads to counts: packs may lie on another volume. Directories and dangling links are no objects."""
    name = stored(backend, PACK, b"moved away")
    (root / "packs" / name[:2]).rename(tmp_path / "volume")
    (root / "packs" / name[:2]).symlink_to(tmp_path / "volume")
    (tmp_path / "volume" / name).rename(tmp_path / "object")
    (tmp_path / "volume" / name).symlink_to(tmp_path / "object")
    (root / "index" / name_of(b"directory")).mkdir()
    (root / "index" / name_of(b"link")).symlink_to("nowhere")
    assert [(info.name, info.size) for info in backend.list(PACK)] == [(name, 10)]
    assert backend.load(PACK, name) == b"moved away"
    assert names(backend, ObjectKind.INDEX) == set()


def test_listing_of_many(backend: SftpBackend, root: Path) -> None:
    """A listing is complete however many objects there are, in however many directories."""
    expected = {name_of(b"%d" % number) for number in range(3000)}
    for name in expected:
        (root / "packs" / name[:2]).mkdir(exist_ok=True)
        (root / "packs" / name[:2] / name).touch()
        (root / "index" / name).touch()
    assert names(backend, PACK) == names(backend, ObjectKind.INDEX) == expected


def test_leftovers_are_swept(sshd: Sshd, backend: SftpBackend, root: Path) -> None:
    """Temporary files that nothing was written to for a week go with the first upload of a run; younger ones stay."""
    for days in (6, 8):
        path = root / "tmp" / str(days)
        path.touch()
        then = (datetime.now(UTC) - timedelta(days=days)).timestamp()
        os.utime(path, (then, then))
    uploaded(backend, PACK, b"x")
    assert [path.name for path in (root / "tmp").iterdir()] == ["6"]


def test_uploads_leave_no_files_behind(backend: SftpBackend, root: Path) -> None:
    """After a commit, a failed commit and an abort `tmp/` is empty."""
    uploaded(backend, PACK, b"x")
    backend.save(CONFIG, "config", b"x")
    with pytest.raises(StorageObjectExists):
        backend.save(CONFIG, "config", b"x")
    upload = backend.upload(PACK)
    upload.write(bytes(10 * MIB))
    upload.abort()
    assert list((root / "tmp").iterdir()) == []


# --- servers that do less


def test_server_of_the_bare_standard(plain_sshd: Sshd, root: Path) -> None:
    """Without any extension objects and a config are stored, stored again, read and deleted."""
    with closing(plain_sshd.backend(root)) as backend:
        backend.create()
        for _ in range(2):
            name = uploaded(backend, PACK, b"some bytes")
            stored(backend, ObjectKind.INDEX, b"an index")
        backend.save(CONFIG, "config", b"first")
        with pytest.raises(StorageObjectExists):
            backend.save(CONFIG, "config", b"second")
        assert backend.load(CONFIG, "config") == b"first"
        assert backend.load(PACK, name) == b"some bytes"
        assert list((root / "tmp").iterdir()) == []
        backend.delete(PACK, name)
        assert names(backend, PACK) == set()


def test_server_that_only_adds(append_only_sshd: Sshd, root: Path) -> None:
    """On a server that forbids to remove and replace, objects are added, and what is there cannot be changed."""
    with closing(append_only_sshd.backend(root)) as backend:
        backend.create()
        backend.save(CONFIG, "config", b"first")
        name = uploaded(backend, PACK, b"some bytes")
        uploaded(backend, PACK, b"some bytes")
        assert backend.load(PACK, name) == b"some bytes"
        with pytest.raises(StorageDenied, match="permission denied"):
            backend.delete(PACK, name)
        upload = backend.upload(PACK)
        upload.write(b"other bytes under the same name")
        upload.commit(name)
        assert backend.load(PACK, name) == b"some bytes"


@pytest.mark.slow
def test_backups_on_a_server_that_only_adds(append_only_sshd: Sshd, tmp_path: Path) -> None:
    """Backups and restores go on where nothing can be removed; forget and prune say that they may not."""
    environment = {"HOME": str(append_only_sshd.home), "BACKUPFORGE_REPOSITORY": f"sftp:backup:{tmp_path}/repo"}
    command = replace(with_password(tmp_path), environment=environment)
    source = tmp_path / "source"
    source.mkdir()
    command("init")
    for number in range(2):
        (source / f"file-{number}").write_bytes(os.urandom(100_000))
        command("backup", source)
    command("check", "--read-data")
    command("restore", f"latest:{source}", "--target", tmp_path / "target")
    assert (tmp_path / "target" / "file-1").read_bytes() == (source / "file-1").read_bytes()
    assert APPEND_ONLY in (ROOT / "docs/how-to/sftp.md").read_text()
    refused = command("forget", "--keep-last", "1", status=1)
    assert "permission denied" in refused.err
    assert len(command.snapshots()) == 2


def test_directory_that_cannot_be_made(tmp_path: Path, root: Path) -> None:
    """Where a directory for packs may not be made, that is what is said, not that something is missing."""
    local = LocalBackend(root)
    local.create()
    name = stored(local, PACK, b"first")
    with serve(tmp_path, sftp="internal-sftp -P mkdir") as sshd, closing(sshd.backend(root)) as backend:
        uploaded(backend, PACK, b"first")
        assert backend.load(PACK, name) == b"first"
        with pytest.raises(StorageDenied, match="permission denied"):
            again(20, lambda: uploaded(backend, PACK, os.urandom(8)))


def test_server_that_allows_one_session(tmp_path: Path, root: Path) -> None:
    """A server that allows fewer sessions than we would like is made do with."""
    with serve(tmp_path, "MaxSessions 1") as sshd, closing(sshd.backend(root)) as backend:
        backend.create()
        uploads = [backend.upload(PACK) for _ in range(5)]
        for number, upload in enumerate(uploads):
            upload.write(bytes([number]) * MIB)
        for number, upload in enumerate(uploads):
            upload.commit(name_of(bytes([number]) * MIB))
        assert len(names(backend, PACK)) == 5


# --- connections


def test_nothing_is_connected_before_the_first_call(sshd: Sshd, root: Path) -> None:
    """To make a backend, and to close it, takes no server."""
    with closing(SftpBackend(replace(sshd.location(root), host="nothing.invalid"), sshd.options)):
        pass


def test_without_the_package(sshd: Sshd, root: Path) -> None:
    """Where support for SSH is not installed, that is said, and how to get it."""
    program = (
        "import sys; sys.modules['paramiko'] = None\n"
        "from bfrepo.core.errors import UsageError\n"
        "from bfrepo.storage.location import open_backend, parse_location\n"
        "try: open_backend(parse_location('sftp:host:/path'))\n"
        "except UsageError as error: print(error, error.hint, sep='; ')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "SSH needs the package paramiko; pip install 'backupforge[ssh]'\n"


def test_calls_at_once_share_a_connection(sshd: Sshd, backend: SftpBackend) -> None:
    """Any number of threads gets along with one login, and no more sessions than the option says."""
    name = stored(backend, PACK, bytes(MIB))
    with closing(sshd.backend(backend.path("").decode(), replace(sshd.options, connections=3))) as other:
        threads = [threading.Thread(target=other.read, args=(PACK, name, 0, MIB)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= len(other.pool._lines) <= other.connections == 3
        assert len({line.connection for line in other.pool._lines}) == 1


def test_keys_are_renewed_under_way(sshd: Sshd, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSH agrees on new keys after so many bytes; transfers of several threads go on over it, both ways."""
    monkeypatch.setattr("paramiko.packet.Packetizer.REKEY_BYTES", 4 * MIB)
    with closing(sshd.backend(root)) as backend, ThreadPoolExecutor(4) as pool:
        backend.create()
        contents = [os.urandom(10 * MIB) for _ in range(4)]
        found = list(pool.map(lambda data: uploaded(backend, PACK, data), contents))
        assert list(pool.map(lambda name: backend.read(PACK, name, 0, 10 * MIB), found)) == contents


def test_idle_connection_that_broke_is_replaced(sshd: Sshd, backend: SftpBackend) -> None:
    """A connection that ends while nobody uses it is no error: the next call makes a new one."""
    name = stored(backend, PACK, b"x" * 1000)
    assert backend.read(PACK, name, 0, 3) == b"xxx"
    break_connections(sshd)
    while any(line.session.usable for line in backend.pool._lines):
        time.sleep(0.01)
    assert backend.read(PACK, name, 3, 3) == b"xxx"
    assert names(backend, PACK) == {name}


def test_connection_that_breaks_in_a_read(sshd: Sshd, backend: SftpBackend) -> None:
    """A read whose connection breaks is a StorageError that may pass, and the next one works."""
    data = os.urandom(64 * MIB)
    name = stored(backend, PACK, data)
    buffer = memoryview(bytearray(len(data)))

    def read_while_it_breaks() -> None:
        breaker = threading.Timer(0.03, break_connections, [sshd])
        breaker.start()
        try:
            backend.read_into(PACK, name, 0, buffer)
        finally:
            breaker.join()

    with pytest.raises(StorageError, match=f"pack {name[:8]} in {backend.location}: .*lost") as caught:
        again(50, read_while_it_breaks)
    assert type(caught.value) is StorageError
    backend.read_into(PACK, name, 0, buffer)
    assert buffer == data


def test_connection_that_breaks_in_an_upload(sshd: Sshd, backend: SftpBackend) -> None:
    """An upload whose connection breaks fails with a StorageError, shows nothing, and can be made again (INV-2)."""
    upload = backend.upload(PACK)
    upload.write(bytes(MIB))
    break_connections(sshd)
    with pytest.raises(StorageError, match="lost") as caught:
        again(100, partial(upload.write, bytes(MIB)))
    assert type(caught.value) is StorageError
    upload.abort()
    assert names(backend, PACK) == set()
    assert backend.load(PACK, uploaded(backend, PACK, b"again")) == b"again"


def test_connection_that_breaks_before_a_commit(sshd: Sshd, backend: SftpBackend) -> None:
    """A commit over a broken connection fails, shows nothing, and a new upload works (INV-2)."""
    upload = backend.upload(PACK)
    upload.write(b"all of it")
    break_connections(sshd)
    with pytest.raises(StorageError, match="lost"):
        upload.commit(name_of(b"all of it"))
    assert names(backend, PACK) == set()
    uploaded(backend, PACK, b"all of it")


def test_server_that_does_not_answer(sshd: Sshd, root: Path) -> None:
    """A server that is reachable and says nothing for too long is an error that may pass."""
    before = set(sshd.sessions())
    with closing(sshd.backend(root)) as backend:
        backend.create()
        for line in backend.pool._lines:
            line.session._channel.settimeout(0.5)
        sessions = set(sshd.sessions()) - before
        for pid in sessions:
            os.kill(pid, 19)
        try:
            with pytest.raises(StorageError, match="has not answered for"):
                list(backend.list(PACK))
        finally:
            for pid in sessions:
                os.kill(pid, 18)
        assert names(backend, PACK) == set()


def test_server_that_is_gone(tmp_path: Path, root: Path) -> None:
    """A server that went away is an error that may pass, and names the place."""
    with serve(tmp_path) as sshd:
        backend = sshd.backend(root)
        backend.create()
    with closing(backend), pytest.raises(StorageError, match=r"lost|refused") as caught:
        list(backend.list(PACK))
    assert type(caught.value) is StorageError
    assert backend.location in str(caught.value)


def test_server_that_prints_text(tmp_path: Path, root: Path) -> None:
    """A start-up file that prints something breaks SFTP; that is said, and what to do."""
    with (
        serve(tmp_path, sftp="/bin/echo Welcome to this server, enjoy your stay") as sshd,
        closing(sshd.backend(root)) as backend,
        pytest.raises(StorageDenied, match="what is not SFTP: 'Welcome") as caught,
    ):
        backend.create()
    assert "start-up file" in str(caught.value.hint)


def test_server_that_ends_sftp_at_once(tmp_path: Path, root: Path) -> None:
    """A server that hangs up as SFTP begins, as for a wrong ChrootDirectory, is told apart from a bad network."""
    with (
        serve(tmp_path, sftp="/bin/false") as sshd,
        closing(sshd.backend(root)) as backend,
        pytest.raises(StorageError, match="before SFTP began; its log may tell why"),
    ):
        backend.create()


def test_login_that_fails_is_permanent(sshd: Sshd, root: Path, tmp_path: Path) -> None:
    """A server that does not let us in is StorageDenied, which no retry helps; the hint is that of SSH."""
    options = replace(sshd.options, identity_file=str(make_key(tmp_path / "wrong")))
    with closing(sshd.backend(root, options)) as backend:
        with pytest.raises(StorageDenied, match=f"cannot open {backend.location}: .*does not let the user") as caught:
            backend.load(CONFIG, "config")
        assert "ssh-copy-id" in str(caught.value.hint)


def test_password_is_not_shown(sshd: Sshd) -> None:
    """No representation of options tells the password."""
    assert "secret" not in repr(replace(sshd.options, password="secret"))


def test_full_disk_that_only_a_look_reveals(sshd: Sshd, tmp_path: Path) -> None:
    """The protocol calls a full disk a failure; for small objects, too, we call it what it is."""
    with tmpfs(tmp_path / "small", "size=1m") as root, closing(sshd.backend(root / "repo")) as backend:
        backend.create()
        (root / "ballast").write_bytes(bytes(MIB - 16 * 4096))
        with pytest.raises(StorageFull, match="no space left on the server"):
            again(100, lambda: stored(backend, ObjectKind.INDEX, os.urandom(4096)))


# --- few round trips


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one each time a session waits for what it has not got yet."""
    found: list[int] = []
    receive = SftpSession._receive

    def wait(session: SftpSession) -> None:
        if not session._channel.recv_ready() and session._position == len(session._received):
            found.append(1)
        receive(session)

    monkeypatch.setattr(SftpSession, "_receive", wait)
    return found


def test_listing_takes_few_round_trips(backend: SftpBackend, root: Path, waits: list[int]) -> None:
    """The 256 directories of packs are not asked for one after the other."""
    for number in range(256):
        (root / "packs" / f"{number:02x}").mkdir()
    requests = len(waits)
    assert names(backend, PACK) == set()
    assert len(waits) - requests < 100


@pytest.mark.parametrize("count", [3, 1000])
def test_packs_are_looked_for_at_once(backend: SftpBackend, root: Path, waits: list[int], count: int) -> None:
    """Up to some hundreds of packs are asked about without listing their directories, in one round trip; a place that
    has vanished is an error, not a place without packs."""
    there = uploaded(backend, PACK, b"there")
    wanted = {there, *(name_of(bytes([number % 256, number // 256])) for number in range(count))}
    before = len(waits)
    assert backend.present(PACK, wanted) == {there}
    assert count > 768 or len(waits) - before <= 4  # an answer may come in parts
    shutil.rmtree(root / "packs")
    with pytest.raises(StorageError, match="packs is missing"):
        backend.present(PACK, wanted)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE])
@pytest.mark.parametrize("kind", [ObjectKind.KEY, ObjectKind.INDEX])
def test_whole_objects_of_any_size(backend: SftpBackend, kind: ObjectKind, size: int) -> None:
    """An object is loaded whole, whether or not it fits into the first answer."""
    data = os.urandom(size)
    assert backend.load(kind, stored(backend, kind, data)) == data


def test_small_object_that_was_cut_short(backend: SftpBackend, root: Path) -> None:
    """Bytes that are not those of the name are given as they are: who asked can tell."""
    name = stored(backend, ObjectKind.KEY, b"a key slot")
    path = root / "keys" / name
    path.chmod(0o600)
    path.write_bytes(b"a key")
    assert backend.load(ObjectKind.KEY, name) == b"a key"


def test_few_files_stay_open(sshd: Sshd, backend: SftpBackend) -> None:
    """What was read is closed on the server by and by, not with a request each."""
    name = stored(backend, ObjectKind.KEY, b"a key slot")
    again(300, lambda: backend.load(ObjectKind.KEY, name))
    again(300, lambda: names(backend, ObjectKind.KEY))
    for pid in sshd.sessions():
        assert len(os.listdir(f"/proc/{pid}/fd")) < 80


def test_unchanged_backup_takes_few_packets(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All packets of SFTP that a backup of what has not changed sends are fewer than restic's 50."""
    packets: list[int] = []
    send = SftpSession.send

    def count(session: SftpSession, request: Request, data: Buffer = b"") -> int:
        packets.append(request.kind)
        return send(session, request, data)

    monkeypatch.setattr(SftpSession, "send", count)
    make_repository(sshd.backend(tmp_path / "repository"), encryption="aes-256-gcm").close()
    for _ in range(3):
        packets.clear()
        kinds = [ObjectKind.INDEX, ObjectKind.SNAPSHOT]
        with open_repository(
            RetryingBackend(sshd.backend(tmp_path / "repository"), RetryPolicy()),
            FakeClock(),
            lambda: PASSWORD,
            cache_dir=tmp_path / "cache",
            keep_objects=True,
            ahead=kinds,
        ) as repository:
            run_backup(repository, {"data/file": written(b"same")})
    assert len(packets) <= 35, packets


def again(times: int, task: Callable[[], object]) -> None:
    """Do it so many times, or until it fails."""
    for _ in range(times):
        task()


def break_connections(sshd: Sshd) -> None:
    """End all sessions of the server, as a network that fails does."""
    for pid in sshd.sessions():
        end_session(pid)
