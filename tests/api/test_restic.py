"""restic itself as a client of the data plane."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backups import incompressible
from tests.support.restic import Restic
from tests.support.server import make_stage
from tests.support.serving import Serving, serving
from tests.support.store_client import ALL, settle

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    """A server."""
    with serving(make_stage(tmp_path / "data")) as server:
        yield server


def restic_of(server: Serving, tenant: str, home: Path, *scopes: str, name: str = "main") -> Restic:
    """restic as a machine of a tenant's has it."""
    token = server.stage.api_token(f"{tenant}.admin", *(scopes or ALL))
    return Restic(f"{server.url}/repo/{tenant}/{name}/", token, home)


def fill(folder: Path, numbers: range) -> dict[str, bytes]:
    """Files, and what is in them."""
    folder.mkdir(exist_ok=True)
    content = {f"file-{number}": incompressible(number, 100_000 + number) for number in numbers}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return content


def restored(restic: Restic, snapshot: str, source: Path, target: Path) -> dict[str, bytes]:
    """What a restore brings."""
    restic("restore", snapshot, "--target", target)
    return {path.name: path.read_bytes() for path in target.joinpath(*source.parts[1:]).iterdir()}


def objects(server: Serving, tenant: str) -> list[Path]:
    """The files of a tenant's store."""
    return [each for each in (server.stage.config.stores / server.stage.tenants[tenant]).rglob("*") if each.is_file()]


def test_everyday_life(server: Serving, tmp_path: Path) -> None:
    """init, backup, restore, check, forget and prune do what they do elsewhere; every file is its name's SHA-256."""
    restic, source = restic_of(server, "alpha", tmp_path), tmp_path / "source"
    restic("snapshots", status=_missing(restic))
    restic("init")
    assert "already" in restic("init", status=1)
    first = fill(source, range(10))
    restic("backup", source)
    for name in list(first)[:5]:
        (source / name).unlink()
    second = {path.name: path.read_bytes() for path in source.iterdir()} | fill(source, range(10, 30))
    restic("backup", source)
    restic("check", "--read-data")
    old, new = (each["id"] for each in restic.snapshots())
    assert restored(restic, old, source, tmp_path / "old") == first
    assert restored(restic, new, source, tmp_path / "new") == second
    before = sum(path.stat().st_size for path in objects(server, "alpha"))
    restic("forget", "--keep-last", "1", "--prune", "--max-unused", "0")
    assert sum(path.stat().st_size for path in objects(server, "alpha")) < before - 400_000
    restic("check", "--read-data")
    assert restored(restic, "latest", source, tmp_path / "last") == second
    for path in objects(server, "alpha"):
        assert path.name == "config" or path.name == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not [path for path in objects(server, "alpha") if path.parent.name == "locks"]


def _missing(restic: Restic) -> int:
    """How this restic ends where there is no repository: 1 until 0.16, 10 since."""
    status = restic.run("snapshots").returncode
    assert status in (1, 10)
    return status


def test_append_only(server: Serving, tmp_path: Path) -> None:
    """A machine of an append-only tenant backs up and restores, and can delete nothing."""
    settle(server.stage, append_only=True)
    restic, source = restic_of(server, "alpha", tmp_path), tmp_path / "source"
    restic("init")
    content = fill(source, range(3))
    restic("backup", source)
    stored = set(objects(server, "alpha"))
    ran = restic.run("forget", "latest", "--prune")
    assert "403" in ran.stdout + ran.stderr
    assert stored <= set(objects(server, "alpha"))
    restic("backup", source)
    assert len(restic.snapshots()) == 2
    assert restored(restic, "latest", source, tmp_path / "target") == content


def test_no_right_to_delete(server: Serving, tmp_path: Path) -> None:
    """A token for reading and writing is enough for backups, and deletes nothing but the own locks."""
    restic, source = restic_of(server, "alpha", tmp_path, "store:read", "store:write"), tmp_path / "source"
    restic("init")
    fill(source, range(3))
    restic("backup", source)
    restic("check", "--read-data")
    ran = restic.run("forget", "latest", "--prune")
    assert "403" in ran.stdout + ran.stderr
    assert len(restic.snapshots()) == 1
    reader = restic_of(server, "alpha", tmp_path, "store:read")
    assert "1 snapshots" in reader("--no-lock", "snapshots")
    assert "403" in reader("backup", source, status=1)


def test_quota(server: Serving, tmp_path: Path) -> None:
    """A backup that does not fit fails at once and says why; what was there is whole, and what is freed can be used."""
    settle(server.stage, quota_bytes=2 * MIB)
    restic, source = restic_of(server, "alpha", tmp_path), tmp_path / "source"
    restic("init")
    content = fill(source, range(5))
    restic("backup", source)
    more = tmp_path / "more"
    more.mkdir()
    (more / "large").write_bytes(incompressible(99, 5 * MIB))
    ran = restic.run("backup", more)
    assert ran.returncode == 1
    assert "507" in ran.stdout + ran.stderr
    assert sum(path.stat().st_size for path in objects(server, "alpha")) <= 2 * MIB
    settle(server.stage, quota_bytes=20 * MIB)
    restic("backup", more)
    restic("check", "--read-data")
    assert restored(restic, restic.snapshots()[0]["id"], source, tmp_path / "target") == content


def test_two_tenants(server: Serving, tmp_path: Path) -> None:
    """Two tenants have repositories of the same name, and neither sees the other's."""
    sources = {}
    for tenant in ("alpha", "beta"):
        restic, source = restic_of(server, tenant, tmp_path / tenant), tmp_path / f"of-{tenant}"
        (tmp_path / tenant).mkdir()
        restic("init")
        sources[tenant] = fill(source, range(3) if tenant == "alpha" else range(3, 6))
        restic("backup", source)
        assert restored(restic, "latest", source, tmp_path / f"target-{tenant}") == sources[tenant]
        assert len(restic.snapshots()) == 1
    foreign = restic_of(server, "beta", tmp_path / "beta")
    intruder = Restic(foreign.url.replace("/beta/", "/alpha/"), foreign.token, tmp_path / "beta")
    assert intruder.run("snapshots").returncode in (1, 10)
    assert intruder.run("init").returncode == 1
