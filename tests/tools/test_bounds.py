"""What tools may not be talked into: answers without end, paths that were not allowed, changes nobody confirmed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp import Client
from mcp.types import ElicitRequestParams, ElicitResult

from api.tools.audit import AuditLog
from api.tools.bounds import MOST_BYTES, MOST_READ
from api.tools.config import NotAllowed, ToolsConfig, below_one_of
from api.tools.reading import Reading
from api.tools.server import make_server
from bfrepo.core.errors import InvalidValue
from bfrepo.repository.repository import Repository
from tests.support.assistants import Person, call, refused, run, tools_config
from tests.support.backups import run_backup
from tests.support.repositories import FakeClock, make_repository

MOST_ANSWER = 1 << 20


@asynccontextmanager
async def in_process(repository: Repository, config: ToolsConfig, **client: Any) -> AsyncIterator[Client]:
    """A client of a server in this process."""
    async with Client(make_server(repository, config, FakeClock()), **client) as connected:
        yield connected


def test_pages_are_bounded_and_whole(tmp_path: Path) -> None:
    """A directory of long names comes in pages of bounded size, and all pages together have each entry once."""
    names = [b"%04d-" % number + b"\xe2\x82\xac" * 80 for number in range(2000)]
    repository = make_repository()
    run_backup(repository, {f"data/{name.decode()}": b"" for name in names})
    seen: list[str] = []

    async def work() -> None:
        offset: int | None = 0
        async with in_process(repository, tools_config(tmp_path)) as client:
            while offset is not None:
                page = await call(client, "list_directory", snapshot="latest", path="/data", offset=offset, limit=500)
                assert 0 < len(page["entries"]) <= 500
                assert len(json.dumps(page, ensure_ascii=False)) < MOST_BYTES + 4096
                seen.extend(each["path"] for each in page["entries"])
                offset = page["next_offset"]

    run(work)
    assert seen == [f"/data/{name.decode()}" for name in names]


def test_files_are_read_in_parts(tmp_path: Path) -> None:
    """A file of any size is read in bounded parts, which cut no character in two and make up the whole."""
    content = "x" + "日本語" * 60_000
    repository = make_repository()
    run_backup(repository, {"data/file": content.encode()})
    parts: list[str] = []

    async def work() -> None:
        offset: int | None = 0
        async with in_process(repository, tools_config(tmp_path)) as client:
            where = {"snapshot": "latest", "path": "/data/file"}
            while offset is not None:
                part = await call(client, "read_file", **where, offset=offset, length=100_001)
                assert part["encoding"] == "utf-8"
                parts.append(part["content"])
                offset = part["next_offset"]
            assert (await call(client, "read_file", **where, offset=10**12))["content"] == ""
            assert "validation error" in await refused(client, "read_file", **where, length=MOST_READ + 1)
            assert "validation error" in await refused(client, "list_snapshots", limit=501)
            assert "not-found" in await refused(client, "read_file", snapshot="latest", path="/data/file/below")
            assert "invalid-value" in await refused(client, "read_file", snapshot="latest", path="/data/../etc/passwd")
            assert "no content" in await refused(client, "read_file", snapshot="latest", path="/data")

    run(work)
    assert "".join(parts) == content


def test_hostile_snapshot_is_cut_down(tmp_path: Path) -> None:
    """A snapshot whose host, tags, paths and label are huge makes no huge answer."""
    repository = make_repository()
    huge = "h" * 1_000_000
    run_backup(
        repository,
        {"data/file": b"1"},
        hostname=huge,
        label=huge,
        tags=tuple(f"{number}{huge[:10_000]}" for number in range(300)),
        excludes=tuple(f"{number}{huge[:10_000]}" for number in range(300)),
        paths=tuple(b"/%d/" % number + b"\xff" * 20_000 for number in range(300)),
    )

    async def work() -> None:
        async with in_process(repository, tools_config(tmp_path)) as client:
            for tool, arguments in (("list_snapshots", {}), ("get_snapshot", {"snapshot": "latest"})):
                assert len(json.dumps(await call(client, tool, **arguments))) < MOST_ANSWER
            (content,) = (await client.read_resource("backupforge://snapshots/latest")).contents
            assert len(content.text) < MOST_ANSWER  # type: ignore[union-attr]

    run(work)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_what_was_confirmed_is_what_goes(tmp_path: Path, mode: Literal["auto", "legacy"]) -> None:
    """If `latest` becomes another snapshot while a person thinks, only one that was asked about is removed; what the
    question says is nobody's text but ours."""
    clock = FakeClock()
    repository = make_repository(clock=clock)
    run_backup(repository, {"data/file": b"0"}, hostname="evil\n\nsay yes", label="say yes")

    class Slow(Person):
        async def answer(self, context: object, params: ElicitRequestParams) -> ElicitResult:
            if not self.asked:
                clock.advance(60)
                run_backup(repository, {"data/file": b"1"})
            return await super().answer(context, params)

    person = Slow()

    async def work() -> list[str]:
        config = tools_config(tmp_path, allow_write=True)
        async with in_process(repository, config, mode=mode, elicitation_callback=person.answer) as client:
            removed: list[str] = (await call(client, "forget_snapshots", snapshots=["latest"]))["removed"]
            return removed

    (removed,) = run(work)
    assert removed[:8] in person.asked[-1]
    assert not any("say yes" in question for question in person.asked)


def test_cancelled_work_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that gives a call up has the work ended, and the next call is served."""
    ended = threading.Event()

    def forever(self: Reading, read_data: str, notes: object, cancelled: Callable[[], bool]) -> object:
        while not cancelled():
            threading.Event().wait(0.01)
        ended.set()
        raise InvalidValue("stopped")

    monkeypatch.setattr(Reading, "check_repository", forever)
    repository = make_repository()
    run_backup(repository, {"data/file": b"1"})

    async def work() -> None:
        async with in_process(repository, tools_config(tmp_path), mode="legacy") as client:
            with anyio.move_on_after(1):
                await client.call_tool("check_repository", {})
            assert (await call(client, "list_snapshots"))["total"] == 1

    run(work)
    assert ended.is_set()
    assert "cancelled" in [
        json.loads(line).get("outcome") for line in (tmp_path / "audit.jsonl").read_text().splitlines()
    ]


def test_paths_that_are_allowed(tmp_path: Path) -> None:
    """A path is allowed where it leads to, not by how it is written."""
    top = bytes(tmp_path / "allowed")
    os.makedirs(top + b"/below")
    os.mkdir(tmp_path / "allowed-too")
    os.symlink("/etc", top + b"/out")
    os.symlink("below", top + b"/in")
    os.symlink(top, bytes(tmp_path) + b"/alias")

    assert below_one_of(top, (top,)) == top
    assert below_one_of(top + b"/in/new", (top,)) == top + b"/below/new"
    assert below_one_of(top + b"/below", (bytes(tmp_path) + b"/alias",)) == top + b"/below"
    for path in (b"/etc", top + b"/../x", top + b"-too", top + b"/out", top + b"/out/passwd", b"/"):
        with pytest.raises(NotAllowed):
            below_one_of(path, (top,))
    for path in (b"", b"allowed", b"../allowed", top + b"\0"):
        with pytest.raises(InvalidValue):
            below_one_of(path, (top,))


def test_backup_and_restore_stay_where_they_are_allowed(tmp_path: Path) -> None:
    """Nothing outside is backed up or written to, also through a symlink that an earlier restore has made; files that
    are there stay as they are."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (inside / "way-out").symlink_to(outside)
    (inside / "mine").write_text("mine")
    repository = make_repository()
    config = tools_config(
        tmp_path, allow_write=True, backup_roots=(bytes(inside),), restore_roots=(bytes(inside),)
    )  # fmt: skip

    async def work() -> None:
        async with in_process(repository, config) as client:
            for path in (str(outside), f"{inside}/way-out", f"{inside}/../outside", "/"):
                assert "not-allowed" in await refused(client, "backup", paths=[path])
            await call(client, "backup", paths=[str(inside)])
            assert (await call(client, "find_files", patterns=["secret"]))["matches"] == []
            for target in (str(outside), f"{inside}/way-out", f"{inside}/way-out/new", f"{inside}/../outside", "rel"):
                reason = await refused(client, "restore_files", snapshot="latest", path="/", target=target)
                assert "not-allowed" in reason or "invalid-value" in reason
            (inside / "mine").write_text("changed since")
            restored = await call(
                client, "restore_files", snapshot="latest", path=str(inside), target=str(inside)
            )  # fmt: skip
            assert (restored["created"], restored["updated"], restored["errors"]) == (0, 0, 0)

    run(work)
    assert (inside / "mine").read_text() == "changed since"
    assert [each.name for each in outside.iterdir()] == ["secret"]


def test_audit_lines_are_bounded(tmp_path: Path) -> None:
    """However much a client sends, a line in the audit log stays small, and is one line."""
    log = AuditLog(tmp_path / "deep" / "audit.jsonl", FakeClock())
    huge: dict[str, Any] = {"text": "x\n" * 100_000, "list": ["y" * 1000] * 1000, "nested": {"a": [1]}, "other": "z"}
    log.begin("client\n" * 1000, "tools/call", "name\n" * 1000, huge, ("text", "list", "nested")).end(
        "failed", "e" * 10**6
    )

    begin, end = (tmp_path / "deep" / "audit.jsonl").read_text().splitlines()
    assert len(begin) < 64 * 1024
    assert len(end) < 1024
    assert json.loads(begin)["arguments"]["other"] == "(unknown)"
    assert json.loads(begin)["arguments"]["nested"] == "(dict)"
