"""Jobs that back up other hosts: those that the operator has written down, and what of them."""

from __future__ import annotations

import getpass
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import allow, ended, make_repository, run_now
from tests.support.server import Client, Stage
from tests.support.sshd import Sshd, make_key, serve

_SETTLED_S = 0.3


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A host."""
    with serve(tmp_path_factory.mktemp("sshd")) as sshd:
        yield sshd


def allow_host(stage: Stage, folder: Path, sshd: Sshd, **changes: str) -> Path:
    """Let alpha's jobs back up `folder`/there of the host "shop". Where the files are."""
    there = folder / "there"
    (there / "below").mkdir(parents=True)
    (there / "below" / "file").write_text("of another host")
    values = {
        "address": "127.0.0.1",
        "user": getpass.getuser(),
        "identity_file": f"{sshd.ssh}/id_ed25519",
        "known_hosts": f"{sshd.ssh}/known_hosts",
        **changes,
    }
    lines = [f'{name} = "{value}"' for name, value in values.items()]
    allow(
        stage, folder, "\n".join(["[tenants.alpha.hosts.shop]", *lines, f"port = {sshd.port}", f'read = ["{there}"]'])
    )
    return there


def job_of(path: Path | str, repository: str, **more: Any) -> dict[str, Any]:
    """A job that backs up a path of the host."""
    body = {"name": "shop", "kind": "backup", "repository": repository}
    return {**body, "source": {"remote": "shop", "paths": [str(path)]}, "retries": {"count": 0}, **more}


def test_a_host_is_backed_up(stage: Stage, sshd: Sshd, tmp_path: Path) -> None:
    """A job backs up a host under its address, reads nothing twice, and what it has stored can be restored."""
    there = allow_host(stage, tmp_path / "alpha", sshd)
    time.sleep(_SETTLED_S)

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        body = job_of(there, repository, retention={"last": 1})
        made = await client.ask("POST", "/api/jobs", who="alpha.admin", json=body)
        assert made.status == 201, made.body
        first = (await run_now(client, made.value["id"])).value
        assert (first["state"], first["error"], first["result"]["files_new"]) == ("done", None, 1), first
        again = (await run_now(client, made.value["id"])).value["result"]
        assert (again["files_unmodified"], again["snapshots_removed"]) == (1, 1)
        snapshot = await client.ask("GET", f"/api/snapshots/{again['snapshot']}?repository={repository}")
        assert snapshot.status in (200, 401)
        place = f"/api/snapshots/{again['snapshot']}/restore"
        target = {"repository": repository, "target": str(tmp_path / "alpha/out")}
        restored = await ended(client, (await client.ask("POST", place, who="alpha.operator", json=target)).value["id"])
        assert restored.value["state"] == "done", restored.value

    stage.run(talk)
    out = tmp_path / "alpha/out" / there.relative_to("/")
    assert (out / "below" / "file").read_text() == "of another host"


@pytest.mark.parametrize(
    ("remote", "path", "code"),
    [
        ("shop", "/etc", "not-allowed-here"),
        ("shop", "{there}/../../etc", "not-allowed-here"),
        ("shop", "{there}x", "not-allowed-here"),
        ("other", "{there}", "not-allowed-here"),
        ("shop", "there", "invalid-value"),
    ],
)
def test_what_is_not_allowed(stage: Stage, sshd: Sshd, tmp_path: Path, remote: str, path: str, code: str) -> None:
    """Hosts and paths that the operator has not written down are refused when a job is planned."""
    there = allow_host(stage, tmp_path / "alpha", sshd)

    async def talk(client: Client) -> None:
        body = job_of(path.format(there=there), await make_repository(client))
        body["source"]["remote"] = remote
        answer = await client.ask("POST", "/api/jobs", who="alpha.operator", json=body)
        assert answer.code == code, answer.body

    stage.run(talk)


def test_what_is_not_allowed_any_more(stage: Stage, sshd: Sshd, tmp_path: Path) -> None:
    """What counts is what the operator's file says when a job runs."""
    there = allow_host(stage, tmp_path / "alpha", sshd)

    async def talk(client: Client) -> None:
        body = job_of(there, await make_repository(client))
        made = await client.ask("POST", "/api/jobs", who="alpha.operator", json=body)
        (stage.config.data / "allowed.toml").write_text("[tenants.alpha]\n")
        run = (await run_now(client, made.value["id"])).value
        assert run["state"] == "failed"
        assert "no host 'shop'" in run["error"]

    stage.run(talk)


def test_only_the_operators_keys_count(stage: Stage, sshd: Sshd, tmp_path: Path) -> None:
    """A host with another key than the operator's file has is refused; so is a host that does not take our key."""
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    make_key(wrong / "key")
    shutil.copy(wrong / "key.pub", wrong / "known_hosts")
    (wrong / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {(wrong / 'key.pub').read_text()}")

    for changes, said in (
        ({"known_hosts": f"{wrong}/known_hosts"}, "HAS CHANGED"),
        ({"identity_file": f"{wrong}/key"}, "does not let"),
    ):
        folder = tmp_path / said.replace(" ", "-")
        there = allow_host(stage, folder, sshd, **changes)

        async def talk(client: Client, there: Path = there, said: str = said) -> None:
            repository = await make_repository(client, name=said.lower().replace(" ", "-"))
            body = job_of(there, repository, name=said.lower().replace(" ", "-"))
            made = await client.ask("POST", "/api/jobs", who="alpha.operator", json=body)
            assert made.status == 201, made.body
            run = (await run_now(client, made.value["id"])).value
            assert run["state"] == "failed"
            assert said in run["error"], run["error"]

        stage.run(talk)
