"""Jobs: planned, run for real, watched, and kept in their bounds."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from api.db.schema import stores
from tests.support.backups import incompressible
from tests.support.jobs import allow, backup_of, ended, make_repository, reached, run_now
from tests.support.server import Answer, Client, Stage


def test_backup_and_restore(any_stage: Stage, tmp_path: Path) -> None:
    """A backup is planned, run and listed; a restore of its snapshot brings the files back; both tell what they do."""
    files = allow(any_stage, tmp_path / "alpha")

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        made = await client.ask("POST", "/api/jobs", who="alpha.operator", json=backup_of(files, repository))
        assert (made.status, made.headers["ETag"]) == (201, '"1"'), made.body
        run = (await run_now(client, made.value["id"])).value
        assert (run["state"], run["error"], run["attempt"]) == ("done", None, 1), run
        assert run["result"]["files"] == 2
        events = _events((await client.ask("GET", f"/api/runs/{run['id']}/events", who="alpha.viewer")).body)
        kinds = [event["event"] for event in events]
        assert (kinds[0], kinds[-1]) == ("state", "end")
        seen = {"Last-Event-ID": events[-2]["id"]}
        rest = await client.ask("GET", f"/api/runs/{run['id']}/events", who="alpha.viewer", headers=seen)
        assert _events(rest.body) == events[-1:]
        body = {"repository": repository, "target": str(tmp_path / "alpha/out")}
        place = f"/api/snapshots/{run['result']['snapshot']}/restore"
        restored = await ended(client, (await client.ask("POST", place, who="alpha.operator", json=body)).value["id"])
        assert restored.value["state"] == "done", restored.value
        listed = await client.ask("GET", f"/api/jobs/{made.value['id']}/runs", who="alpha.viewer")
        assert [each["id"] for each in listed.value["items"]] == [run["id"]]
        everything = await client.ask("GET", "/api/runs", who="alpha.viewer")
        assert [each["kind"] for each in everything.value["items"]] == ["restore", "backup"]

    any_stage.run(talk)
    out = tmp_path / "alpha/out" / files.relative_to("/")
    assert (out / "one").read_text() == "one"
    assert (out / "two").read_bytes() == b"two" * 100_000


def _events(body: bytes) -> list[dict[str, str]]:
    frames = [frame for frame in body.decode().split("\n\n") if frame and not frame.startswith(":")]
    return [dict(line.split(": ", 1) for line in frame.split("\n")) for frame in frames]


def test_every_kind(stage: Stage, tmp_path: Path) -> None:
    """Backups with retention, forgetting, pruning and checking do what they are called."""
    files = allow(stage, tmp_path / "alpha")

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        kept = backup_of(files, repository, retention={"last": 1})
        backup = (await client.ask("POST", "/api/jobs", who="alpha.admin", json=kept)).value["id"]
        assert (await run_now(client, backup)).value["result"]["snapshots_removed"] == 0
        (files / "three").write_text("three")
        assert (await run_now(client, backup)).value["result"]["snapshots_removed"] == 1
        for kind, more in (("check", {"read_data": "100%"}), ("forget", {"retention": {"daily": 3}}), ("prune", {})):
            body = {"name": kind, "kind": kind, "repository": repository, **more}
            made = await client.ask("POST", "/api/jobs", who="alpha.admin", json=body)
            run = (await run_now(client, made.value["id"])).value
            assert run["state"] == "done", run
        assert run["result"]["packs_deleted"] == 0

    stage.run(talk)


def test_life_of_a_job(any_stage: Stage, tmp_path: Path) -> None:
    """A job is planned, changed, listed and removed; who has seen another version changes nothing."""
    files = allow(any_stage, tmp_path / "alpha")

    async def talk(client: Client) -> None:
        body = backup_of(files, await make_repository(client), schedule={"cron": "30 2 * * *", "zone": "Europe/Berlin"})
        made = (await client.ask("POST", "/api/jobs", who="alpha.operator", json=body)).value
        place = f"/api/jobs/{made['id']}"
        assert made["next_due"] is not None
        twice = await client.ask("POST", "/api/jobs", who="alpha.operator", json=body)
        assert (twice.status, twice.code) == (409, "name-taken")
        late = await client.ask(
            "PATCH", place, who="alpha.operator", json={"enabled": False}, headers={"If-Match": '"7"'}
        )
        assert (late.status, late.code) == (412, "changed-meanwhile")
        off = await client.ask("PATCH", place, who="alpha.operator", json={"enabled": False, "name": "off"})
        assert (off.value["next_due"], off.value["name"], off.value["version"]) == (None, "off", 2)
        on = await client.ask("PATCH", place, who="alpha.operator", json={"enabled": True, "schedule": None})
        assert (on.value["next_due"], on.value["schedule"]) == (None, None)
        await run_now(client, made["id"])
        assert (await client.ask("DELETE", place, who="alpha.operator")).status == 204
        assert (await client.ask("GET", place, who="alpha.operator")).status == 404
        assert (await client.ask("GET", "/api/runs", who="alpha.operator")).value["items"] == []

    any_stage.run(talk)


@pytest.mark.parametrize("change, code", [
    ({"source": {"paths": ["/etc"]}}, "not-allowed-here"),
    ({"source": {"paths": ["{files}/../../.."]}}, "not-allowed-here"),
    ({"source": {"paths": ["{files}/link/passwd"]}}, "not-allowed-here"),
    ({"source": {"paths": ["{files}x"]}}, "not-allowed-here"),
    ({"source": {"paths": ["files"]}}, "invalid-value"),
    ({"source": {"paths": []}}, "invalid-body"),
    ({"hooks": {"before": ["rm-all"]}}, "not-allowed-here"),
    ({"hooks": {"before": ["rm -rf /"]}}, "invalid-body"),
    ({"repository": "0" * 32}, "unknown-repository"),
    ({"schedule": {"cron": "61 * * * *"}}, "invalid-value"),
    ({"schedule": {"calendar": "daily", "zone": "../etc"}}, "invalid-value"),
    ({"kind": "check"}, "invalid-value"),
    ({"targets": ["file:///etc/passwd"]}, "invalid-value"),
    ({"targets": ["exec://rm"]}, "invalid-value"),
    ({"retention": {}}, "invalid-value"),
    ({"tenant": "beta"}, "invalid-body"),
    ({"name": "a\nb"}, "invalid-body"),
])  # fmt: skip
def test_refused(stage: Stage, tmp_path: Path, change: dict[str, Any], code: str) -> None:
    """What makes no sense, or what the operator has not allowed, is never planned."""
    files = allow(stage, tmp_path / "alpha")
    (files / "link").symlink_to("/etc")

    async def talk(client: Client) -> None:
        body = backup_of(files, await make_repository(client)) | json.loads(
            json.dumps(change).replace("{files}", str(files))
        )
        answer = await client.ask("POST", "/api/jobs", who="alpha.admin", json=body)
        assert answer.code == code, answer.body
        assert answer.status in (400, 403)

    stage.run(talk)


def test_allowed_when_it_runs(stage: Stage, tmp_path: Path) -> None:
    """What the operator takes back, or a path that has become a link, is not read by jobs planned before."""
    files = allow(stage, tmp_path / "alpha")
    inner = files / "inner"
    inner.mkdir()

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        job = await client.ask("POST", "/api/jobs", who="alpha.operator", json=backup_of(inner, repository))
        assert (await run_now(client, job.value["id"])).value["state"] == "done"
        inner.rmdir()
        inner.symlink_to("/etc")
        run = (await run_now(client, job.value["id"])).value
        assert (run["state"], run["result"]) == ("failed", {})
        assert "may not read" in run["error"]
        inner.unlink()
        inner.mkdir()
        (stage.config.data / "allowed.toml").unlink()
        assert (await run_now(client, job.value["id"])).value["state"] == "failed"
        target = {"repository": repository, "target": "/"}
        refused = await client.ask("POST", "/api/snapshots/latest/restore", who="alpha.operator", json=target)
        assert (refused.status, refused.code) == (403, "not-allowed-here")

    stage.run(talk)


def test_tenants_are_apart(stage: Stage, tmp_path: Path) -> None:
    """Nobody sees, runs or uses what is another tenant's, and what alpha may read beta may not."""
    files = allow(stage, tmp_path / "alpha")

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        body = backup_of(files, repository)
        job = (await client.ask("POST", "/api/jobs", who="alpha.operator", json=body)).value["id"]
        run = (await run_now(client, job)).value["id"]
        for method, path in (
            ("GET", f"/api/jobs/{job}"), ("DELETE", f"/api/jobs/{job}"), ("POST", f"/api/jobs/{job}/run"),
            ("GET", f"/api/jobs/{job}/runs"), ("GET", f"/api/runs/{run}"), ("GET", f"/api/runs/{run}/events"),
            ("POST", f"/api/runs/{run}/cancel"),
        ):  # fmt: skip
            assert (await client.ask(method, path, who="beta.admin")).status == 404, path
        for path in ("/api/jobs", "/api/runs", f"/api/runs?job={job}"):
            assert (await client.ask("GET", path, who="beta.admin")).value["items"] == []
        assert (await client.ask("POST", "/api/jobs", who="beta.admin", json=body)).code == "not-allowed-here"
        check = {"name": "x", "kind": "check", "repository": repository}
        assert (await client.ask("POST", "/api/jobs", who="beta.admin", json=check)).code == "unknown-repository"

    stage.run(talk)


def test_who_may_plan_what_removes(stage: Stage, tmp_path: Path) -> None:
    """Operators run what administrators have planned, and plan nothing that removes data, nor change it."""
    files = allow(stage, tmp_path / "alpha")

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        prune = {"name": "prune", "kind": "prune", "repository": repository}
        assert (await client.ask("POST", "/api/jobs", who="alpha.operator", json=prune)).code == "not-allowed"
        kept = backup_of(files, repository, retention={"last": 1})
        assert (await client.ask("POST", "/api/jobs", who="alpha.operator", json=kept)).code == "not-allowed"
        job = (await client.ask("POST", "/api/jobs", who="alpha.admin", json=prune)).value["id"]
        place = f"/api/jobs/{job}"
        assert (await client.ask("PATCH", place, who="alpha.operator", json={"enabled": False})).code == "not-allowed"
        assert (await client.ask("DELETE", place, who="alpha.operator")).code == "not-allowed"
        plain = (await client.ask("POST", "/api/jobs", who="alpha.operator", json=backup_of(files, repository))).value
        change = {"retention": {"last": 1}}
        answer = await client.ask("PATCH", f"/api/jobs/{plain['id']}", who="alpha.operator", json=change)
        assert answer.code == "not-allowed"
        assert (await run_now(client, job)).value["state"] == "done"

    stage.run(talk)


def test_hooks(stage: Stage, tmp_path: Path) -> None:
    """Hooks are the operator's commands by their names, and know nothing of the server's environment."""
    seen = tmp_path / "seen"
    commands = f"""
    [tenants.alpha.hooks]
    note = ["/bin/sh", "-c", "env >> {seen}"]
    break = ["/bin/false"]
    """
    files = allow(stage, tmp_path / "alpha", commands)

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        body = backup_of(files, repository, hooks={"before": ["note"], "after": ["break"], "failure": ["note"]})
        job = await client.ask("POST", "/api/jobs", who="alpha.operator", json=body)
        run = (await run_now(client, job.value["id"])).value
        assert run["state"] == "failed"
        assert "after hook 1 (false) failed with exit status 1" in run["error"]

    stage.run(talk)
    names = {line.partition("=")[0] for line in seen.read_text().splitlines()}
    ours = {f"BACKUPFORGE_{name}" for name in ("PROFILE", "STEP", "STATUS", "SNAPSHOT", "ERROR")}
    assert names - ours <= {"PATH", "PWD", "OLDPWD", "SHLVL", "_"}


def test_cancel(any_stage: Stage, tmp_path: Path) -> None:
    """A run that is under way ends soon when it is cancelled, and its hook with it; one that waits never begins."""
    mark = tmp_path / "mark"
    commands = f"""
    [tenants.alpha.hooks]
    wait = ["/bin/sh", "-c", "touch {mark}; sleep 300"]
    """
    files = allow(any_stage, tmp_path / "alpha", commands)

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        body = backup_of(files, repository, hooks={"before": ["wait"]}, retries={"count": 5, "delay_s": 0})
        job = (await client.ask("POST", "/api/jobs", who="alpha.operator", json=body)).value["id"]
        first = (await client.ask("POST", f"/api/jobs/{job}/run", who="alpha.operator")).value["id"]
        await reached(client, first, {"running"})
        while not mark.exists():
            await asyncio.sleep(0.05)
        second = (await client.ask("POST", f"/api/jobs/{job}/run", who="alpha.operator")).value["id"]
        assert (await client.ask("DELETE", f"/api/jobs/{job}", who="alpha.operator")).code == "job-runs"
        waiting = await client.ask("POST", f"/api/runs/{second}/cancel", who="alpha.operator")
        assert (waiting.status, waiting.value["state"]) == (202, "cancelled")
        asked = await client.ask("POST", f"/api/runs/{first}/cancel", who="alpha.operator")
        assert asked.value["cancel_requested"]
        assert (await ended(client, first)).value["state"] == "cancelled"
        assert len((await client.ask("GET", "/api/runs", who="alpha.operator")).value["items"]) == 2

    any_stage.run(talk)


def test_secrets_stay_secret(stage: Stage, tmp_path: Path) -> None:
    """Addresses of notifications are sealed in the database, and answers show kind and host alone."""
    files = allow(stage, tmp_path / "alpha")

    async def talk(client: Client) -> None:
        body = backup_of(
            files, await make_repository(client), targets=["mailtos://me:hunter2@example.org?to=you@x.org"]
        )
        made = await client.ask("POST", "/api/jobs", who="alpha.operator", json=body)
        assert made.value["targets"] == ["mailtos://example.org"]
        log = await client.ask("GET", "/api/audit", who="alpha.admin")
        assert b"hunter2" not in made.body + log.body

    stage.run(talk)
    for path in stage.config.data.glob("server.sqlite*"):
        assert b"hunter2" not in path.read_bytes()


def test_quota(stage: Stage, tmp_path: Path) -> None:
    """A backup into a store of a tenant whose quota is used up does not begin; a check does."""
    files = allow(stage, tmp_path / "alpha")

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        with stage.database() as database, database.write() as connection:
            connection.execute(stores.update().values(bytes=10))
        place = f"/api/tenants/{stage.tenants['alpha']}/quota"
        assert (await client.ask("PUT", place, who="main.root", json={"bytes": 10})).status == 200
        states = []
        for body in (backup_of(files, repository), {"name": "x", "kind": "check", "repository": repository}):
            job = await client.ask("POST", "/api/jobs", who="alpha.operator", json=body)
            run = (await run_now(client, job.value["id"])).value
            states.append((run["state"], run["error"] or ""))
        assert states[0] == ("failed", "the tenant's quota of 10 B is used up: forget snapshots, and prune")
        assert states[1] == ("done", "")

    stage.run(talk)


def _used(answer: Answer) -> int:
    return int(answer.value["used_bytes"])


async def _runs_at_once(client: Client, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    made = [await client.ask("POST", "/api/jobs", who="alpha.operator", json=body) for body in bodies]
    answers = await asyncio.gather(*(run_now(client, job.value["id"]) for job in made))
    return [answer.value for answer in answers]


def test_quota_while_jobs_write(any_stage: Stage, tmp_path: Path) -> None:
    """Jobs stop when the quota is reached, however many write at once, and what they leave is counted."""
    stage, limit = any_stage, 3_000_000
    files = allow(stage, tmp_path / "alpha")
    for number in range(3):
        (files / str(number)).mkdir()
        (files / str(number) / "random").write_bytes(incompressible(number, 2_000_000))
    folder = stage.config.stores / stage.tenants["alpha"]

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        place = f"/api/tenants/{stage.tenants['alpha']}/quota"
        assert (await client.ask("PUT", place, who="main.root", json={"bytes": limit})).status == 200
        jobs = [backup_of(files / str(number), repository, name=f"job-{number}") for number in range(3)]
        runs = await _runs_at_once(client, jobs)
        assert sorted(run["state"] for run in runs) in (["done", "failed", "failed"], ["failed"] * 3)
        errors = {run["error"] for run in runs if run["state"] == "failed"}
        assert all("the tenant's quota" in error and "is used up" in error for error in errors), errors
        stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert stored <= limit
        assert _used(await client.ask("GET", place, who="alpha.viewer")) == stored
        assert (await client.ask("PUT", place, who="main.root", json={"bytes": 1})).status == 200
        (run,) = await _runs_at_once(client, [{"name": "check", "kind": "check", "repository": repository}])
        assert run["state"] == "done", run["error"]

    stage.run(talk)


def test_what_jobs_remove_is_counted(stage: Stage, tmp_path: Path) -> None:
    """What a job has written or removed shows in the tenant's usage when its run has ended."""
    files = allow(stage, tmp_path / "alpha")
    (files / "random").write_bytes(incompressible(1, 1_000_000))

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        place = f"/api/tenants/{stage.tenants['alpha']}/quota"
        (run,) = await _runs_at_once(client, [backup_of(files, repository)])
        assert run["state"] == "done", run["error"]
        stored = sum(path.stat().st_size for path in stage.config.stores.rglob("*") if path.is_file())
        assert _used(await client.ask("GET", place, who="alpha.viewer")) == stored > 1_000_000

    stage.run(talk)


def test_watchers_take_turns(stage: Stage, tmp_path: Path) -> None:
    """A tenant watches so many runs at once and no more, as each watcher asks the database all the time."""
    files = allow(stage, tmp_path / "alpha", '[tenants.alpha.hooks]\nwait = ["/bin/sleep", "300"]')

    async def talk(client: Client) -> None:
        repository = await make_repository(client)
        body = backup_of(files, repository, hooks={"before": ["wait"]})
        job = (await client.ask("POST", "/api/jobs", who="alpha.operator", json=body)).value["id"]
        run = (await client.ask("POST", f"/api/jobs/{job}/run", who="alpha.operator")).value["id"]
        headers = {"Authorization": f"Bearer {stage.tokens['alpha.viewer']}"}
        async with AsyncExitStack() as stack:
            watched = [client.raw.get(f"/api/runs/{run}/events", headers=headers) for _ in range(41)]
            answers = [await stack.enter_async_context(each) for each in watched]
            assert [answer.status for answer in answers] == [200] * 40 + [429]
        assert (await client.ask("POST", f"/api/runs/{run}/cancel", who="alpha.operator")).status == 202

    stage.run(talk)
