"""Jobs that back up guests of Proxmox VE: with the operator's credentials, and of the guests that it allows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.backups import incompressible
from tests.support.jobs import make_repository, run_now
from tests.support.proxmox import TOKEN, Cluster, make_ext4, simulate
from tests.support.server import Client, Stage


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two machines, of which one is in the pool of the tenant, and a container that it may have by its ID."""
    if shutil.which("mke2fs") is None:
        pytest.skip("e2fsprogs is not installed")
    root = tmp_path / "root"
    root.mkdir()
    (root / "hello").write_bytes(incompressible(1, 300_000))
    disk = make_ext4(tmp_path / "disk.raw", root, 8 << 20)
    with simulate(tmp_path / "cluster") as running:
        running.add_machine(100, "web", {"drive-scsi0": disk}, pool="alpha")
        running.add_container(101, "db", root)
        running.add_machine(102, "secret", {"drive-scsi0": disk}, pool="beta")
        yield running


def allow_guests(stage: Stage, cluster: Cluster, token: str = TOKEN) -> None:
    """What the operator writes down."""
    token_file = cluster.folder / "token"
    token_file.write_text(f"{token}\n")
    ssh = cluster.sshd.options
    (stage.config.data / "allowed.toml").write_text(f"""
[tenants.alpha.proxmox.main]
api = "https://127.0.0.1:{cluster.port}"
token_file = "{token_file}"
ca_file = "{cluster.ca_file}"
ssh = "127.0.0.1:{cluster.sshd.port}"
identity_file = "{ssh.identity_file}"
known_hosts = "{ssh.known_hosts}"
node_dir = "{cluster.work}"
pools = ["alpha"]
guests = [101]
""")


def job_of(repository: str, **guests: Any) -> dict[str, Any]:
    """A job that backs up guests."""
    source = {"cluster": "main", **guests}
    return {
        "name": "guests", "kind": "backup", "repository": repository, "proxmox": source, "retries": {"count": 0},
        "tags": ["nightly"],
    }  # fmt: skip


def test_job(stage: Stage, cluster: Cluster) -> None:
    """A job makes a snapshot of each guest that is meant and allowed, and of no other; retention is for each guest."""
    allow_guests(stage, cluster)

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        body = {**job_of(repository, all=True), "retention": {"last": 1}}
        made = await client.ask("POST", "/api/jobs", who="alpha.admin", json=body)
        assert made.status == 201, made.body
        for _ in range(2):
            run = (await run_now(client, made.value["id"])).value
            assert run["state"] == "done", run
            assert (run["result"]["guests"], run["result"]["guests_failed"], run["result"]["errors"]) == (2, 0, 0)
        listed = await client.ask("GET", "/api/snapshots", who="alpha.viewer")
        found = [(each["paths"], each["label"], each["hostname"]) for each in listed.value["items"]]
        assert sorted(found) == [(["/lxc/101"], "db", "main"), (["/qemu/100"], "web", "main")]

    stage.run(talk)
    assert not [line for line in cluster.said() if line.startswith("vzdump 102")]


@pytest.mark.parametrize("guests", [{"guests": ["102"]}, {"guests": ["secret"]}, {"pools": ["beta"]}])
def test_not_allowed(stage: Stage, cluster: Cluster, guests: dict[str, Any]) -> None:
    """A guest that the operator does not allow is as if it were not there, however it is named."""
    allow_guests(stage, cluster)

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        made = await client.ask("POST", "/api/jobs", who="alpha.operator", json=job_of(repository, **guests))
        run = (await run_now(client, made.value["id"])).value
        assert run["state"] == "failed", run
        assert "no guest" in run["error"]

    stage.run(talk)
    assert not [line for line in cluster.said() if line.startswith("vzdump")]


def test_planning(stage: Stage, cluster: Cluster) -> None:
    """A cluster that the operator has not given a name is refused, and so is a source that makes no sense."""
    allow_guests(stage, cluster)

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        for body, status in (
            (job_of(repository, guests=["100"]) | {"proxmox": {"cluster": "other", "all": True}}, 403),
            (job_of(repository), 422),
            (job_of(repository, all=True) | {"source": {"paths": ["/srv"]}}, 422),
            (job_of(repository, all=True) | {"kind": "check"}, 422),
            (job_of(repository, all=True) | {"proxmox": {"cluster": "main", "all": True, "token": "x"}}, 422),
        ):
            answer = await client.ask("POST", "/api/jobs", who="alpha.admin", json=body)
            assert answer.status in (status, 400), (body, answer.body)

    stage.run(talk)


def test_secrets(stage: Stage, cluster: Cluster) -> None:
    """A token that does not work fails the run, and is told nowhere: not in the job, nor in the run or its events."""
    allow_guests(stage, cluster, "backup@pve!forge=very-secret-token")

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        made = await client.ask("POST", "/api/jobs", who="alpha.operator", json=job_of(repository, all=True))
        run = await run_now(client, made.value["id"])
        assert run.value["state"] == "failed"
        events = await client.ask("GET", f"/api/runs/{run.value['id']}/events", who="alpha.viewer")
        for body in (made.body, run.body, events.body):
            assert b"very-secret" not in body

    stage.run(talk)
