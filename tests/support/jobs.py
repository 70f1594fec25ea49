"""Jobs for tests: a tenant's repository, files to back up, and what the operator allows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from tests.support.server import Answer, Client, Stage

PASSWORD: Final = "a password of its own"
_TIME_LIMIT_S: Final = 60.0


def allow(stage: Stage, folder: Path, text: str = "") -> Path:
    """Let alpha's jobs read `folder`/files and restore into `folder`/out. Where the files are."""
    files = folder / "files"
    files.mkdir(parents=True)
    (folder / "out").mkdir()
    (files / "one").write_text("one")
    (files / "two").write_bytes(b"two" * 100_000)
    rules = f'[tenants.alpha]\nread = ["{files}"]\nrestore = ["{folder}/out"]\n{text}\n'
    (stage.config.data / "allowed.toml").write_text(rules)
    return files


async def make_repository(client: Client, who: str = "alpha.admin", name: str = "first") -> str:
    """The ID of a new repository in a store of the tenant's."""
    body = {"name": name, "location": f"store:{name}", "create": True, "secrets": {"password": PASSWORD}}
    made = await client.ask("POST", "/api/repositories", who=who, json=body)
    assert made.status == 201, made.body
    return str(made.value["id"])


def backup_of(files: Path, repository: str, **more: Any) -> dict[str, Any]:
    """A job that backs files up."""
    body = {"name": "files", "kind": "backup", "repository": repository, "source": {"paths": [str(files)]}}
    return {**body, "retries": {"count": 0}, **more}


async def run_now(client: Client, job: str, who: str = "alpha.operator") -> Answer:
    """The run of a job, when it has ended."""
    started = await client.ask("POST", f"/api/jobs/{job}/run", who=who)
    assert started.status == 202, started.body
    return await ended(client, started.value["id"], who)


async def ended(client: Client, run: str, who: str = "alpha.operator") -> Answer:
    """A run when it has ended."""
    return await reached(client, run, {"done", "incomplete", "failed", "interrupted", "cancelled"}, who)


async def reached(client: Client, run: str, states: set[str], who: str = "alpha.operator") -> Answer:
    """A run when it is in one of the states."""
    async with asyncio.timeout(_TIME_LIMIT_S):
        while True:
            answer = await client.ask("GET", f"/api/runs/{run}", who=who)
            if answer.value["state"] in states:
                return answer
            await asyncio.sleep(0.05)
