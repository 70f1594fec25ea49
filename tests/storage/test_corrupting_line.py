"""A line that changes bits, again and again: what notices that tries again, and no repository is hurt (INV-1, INV-4).

TLS and SSH notice whatever is changed. By plain HTTP S3 notices it in what is sent, by its MD5 and its signature, and
in what is read we do, by the hash or the seal. Nobody notices it in what is sent by plain HTTP to a REST server that
does not compare the bytes with the name; docs/how-to/rest.md says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from bfrepo.checker.sampling import Everything
from bfrepo.core.progress import Quiet
from bfrepo.operations.check import CheckOptions, check
from bfrepo.storage.base import Backend
from bfrepo.storage.location import SftpLocation
from bfrepo.storage.options import RestOptions
from bfrepo.storage.places import S3Location
from bfrepo.storage.rest import RestBackend
from bfrepo.storage.retry import RetryingBackend, RetryPolicy
from bfrepo.storage.s3 import S3Backend
from bfrepo.storage.sftp import SftpBackend
from tests.support import rclone, sshd
from tests.support.backups import incompressible, never, run_backup
from tests.support.buckets import BUCKET, PLAIN, RCLONE_KEYS, key_variables
from tests.support.cutting import Line, line_to
from tests.support.repositories import make_repository, reopen
from tests.support.rest_places import AS_SERVER, location
from tests.support.restoring import expected, restored_snapshots
from tests.support.sources import Item

EVERY = 150_000
FLIPS = 12
TREE: dict[str, Item | bytes] = {f"data/{number}": incompressible(number, 300_000) for number in range(12)}


@dataclass(frozen=True)
class Far:
    """A place behind a line; `both_ways` tells whether bits may change in what is read, too."""

    line: Line
    open: Callable[[], Backend]
    both_ways: bool


def rest_by_tls(folder: Path, stack: ExitStack) -> Far:
    """rclone as a REST server with a certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    flags = ["--cert", str(folder / "cert.pem"), "--key", str(folder / "key.pem")]
    server = stack.enter_context(rclone.serve("restic", folder / "served", *flags, environment=AS_SERVER))
    line = stack.enter_context(line_to(server.port))
    options = RestOptions(ca_file=str(folder / "ca.pem"))
    return Far(line, lambda: RestBackend(location(line.port, scheme="https"), options), both_ways=True)


def s3_by_http(folder: Path, stack: ExitStack) -> Far:
    """rclone as S3."""
    (folder / "served" / BUCKET).mkdir(parents=True)
    server = stack.enter_context(rclone.serve("s3", folder / "served", environment=RCLONE_KEYS))
    line = stack.enter_context(line_to(server.port))
    place = S3Location(f"http://127.0.0.1:{line.port}", BUCKET, "repository")
    return Far(line, lambda: S3Backend(place, PLAIN), both_ways=False)


def sftp(folder: Path, stack: ExitStack) -> Far:
    """OpenSSH's sshd."""
    server = stack.enter_context(sshd.serve(folder))
    line = stack.enter_context(line_to(server.port))
    with (server.ssh / "known_hosts").open("a") as hosts:
        hosts.write(sshd.known_host(f"[127.0.0.1]:{line.port}", server.host_key))
    there = server.location(folder / "repository")
    place = SftpLocation(there.user, there.host, line.port, there.path)
    return Far(line, lambda: SftpBackend(place, server.options), both_ways=True)


@pytest.fixture(params=[rest_by_tls, s3_by_http, sftp])
def far(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    """A server of each kind."""
    for name, value in key_variables(tmp_path).items():
        monkeypatch.setenv(name, value)
    with ExitStack() as stack:
        yield request.param(tmp_path, stack)


@pytest.mark.slow
def test_bits_that_change_on_the_way(far: Far) -> None:
    """A backup and a restore over a line that changes a bit now and then are right, and so is what is stored."""
    backend = RetryingBackend(far.open(), RetryPolicy(random=lambda: 0.002))
    make_repository(backend, encryption="aes-256-gcm", pack_size=1 << 20)
    far.line.up, far.line.flips = EVERY, FLIPS
    run_backup(reopen(backend, pack_size=1 << 20), TREE, workers=2)
    assert far.line.flips == 0
    far.line.up = None
    if far.both_ways:
        far.line.down, far.line.flips = EVERY, FLIPS
    found = [*restored_snapshots(reopen(backend)).values()]
    assert far.line.flips == 0
    far.line.down = None
    assert found == [expected(TREE)]
    assert check(reopen(backend), CheckOptions(read=Everything()), Quiet(), never).findings == ()
    backend.close()
