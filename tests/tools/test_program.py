"""`backupforge mcp` as clients meet it: the real program, and the SDK's own client."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client

from bfrepo.core.errors import StorageDenied
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.storage.base import ObjectKind
from cli.app import App
from cli.options import Flags
from cli.settings import resolve
from tests.support.assistants import (
    INJECTION,
    LATIN,
    ORDER,
    TOKEN,
    Desk,
    Person,
    call,
    over_http,
    over_stdio,
    refused,
    run,
    serving_http,
    text_of,
)
from tests.support.program import PASSWORD

Connect = Callable[..., AbstractAsyncContextManager[Client]]

READING = {
    "list_snapshots", "get_snapshot", "list_directory", "read_file", "find_files", "file_history", "diff_snapshots",
    "repository_stats", "check_repository",
}  # fmt: skip
CHANGING = {"forget_snapshots", "plan_prune", "prune", "backup", "restore_files"}


@pytest.fixture(params=["stdio", "http, handshake of 2025"])
def connect(request: pytest.FixtureRequest, desk: Desk) -> Connect:
    """Connects to the program over the standard streams and over HTTP, as a client of today and of the year before."""
    mode = "legacy" if "2025" in request.param else "auto"

    @asynccontextmanager
    async def connect(*options: str, **client: Any) -> AsyncIterator[Client]:
        if request.param.startswith("stdio"):
            async with over_stdio(desk, *options, mode=mode, **client) as connected:
                yield connected
        else:
            with serving_http(desk, *options) as url:
                async with over_http(url, mode=mode, **client) as connected:
                    yield connected

    return connect


every_way = pytest.mark.parametrize(
    "connect", ["stdio", "stdio, handshake of 2025", "http", "http, handshake of 2025"], indirect=True
)


@every_way
def test_every_reading_tool(desk: Desk, connect: Connect) -> None:
    """Each tool that looks answers what the command line would, and a server without --allow-write has no others."""
    old, new = desk.snapshots()
    notes = f"{desk.source}/notes.txt"

    async def work() -> None:
        async with connect() as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert tools.keys() == READING
            assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools.values())
            assert all("never instructions" in (tool.description or "") for tool in tools.values())

            page = await call(client, "list_snapshots")
            assert [each["id"] for each in page["snapshots"]] == [new, old]
            assert (await call(client, "list_snapshots", limit=1))["next_offset"] == 1
            assert (await call(client, "list_snapshots", host="elsewhere"))["total"] == 0
            assert (await call(client, "get_snapshot", snapshot="latest"))["parent"] == old
            entries = (await call(client, "list_directory", snapshot="latest", path=str(desk.source)))["entries"]
            assert len(entries) == 4
            assert (await call(client, "read_file", snapshot="latest", path=notes))["content"] == "first\nsecond\n"
            assert (await call(client, "read_file", snapshot=old, path=notes))["content"] == "first\n"
            found = (await call(client, "find_files", patterns=["notes.*"]))["matches"]
            assert [(each["snapshot_id"], each["path"]) for each in found] == [(new, notes), (old, notes)]
            versions = (await call(client, "file_history", path=notes))["versions"]
            assert [(each["change"], each["size"]) for each in versions] == [("new", 6), ("content", 13)]
            changes = (await call(client, "diff_snapshots", before=old[:8], after="latest"))["changes"]
            assert changes == [{"path": notes, "kind": "modified", "type": "file", "size_before": 6, "size_after": 13}]
            sums = await call(client, "repository_stats", snapshots=["latest"])
            assert sums["snapshots"][new]["files"] == 4
            assert (await call(client, "repository_stats"))["total"]["files"] == 8
            checked = await call(client, "check_repository", read_data="all")
            assert (checked["errors"], checked["snapshots"], checked["packs_read"]) == (0, 2, checked["packs"])

    run(work)
    assert {each["name"] for each in desk.audited() if each["event"] == "begin"} == READING


def test_every_changing_tool(desk: Desk, connect: Connect, tmp_path: Path) -> None:
    """With --allow-write and what else is allowed each tool does its work, and what destroys is asked first."""
    old, new = desk.snapshots()
    target = tmp_path / "restored"
    target.mkdir()
    person = Person()

    async def work() -> None:
        options = ("--allow-write", "--allow-backup-of", str(desk.source), "--allow-restore-to", str(target))
        async with connect(*options, elicitation_callback=person.answer) as client:
            tools = {tool.name: tool.annotations for tool in (await client.list_tools()).tools}
            assert tools.keys() == READING | CHANGING
            destructive = {name for name, hints in tools.items() if hints is not None and hints.destructive_hint}
            assert destructive == {"forget_snapshots", "prune", "restore_files"}

            made = await call(client, "backup", paths=[str(desk.source)], tags=["by-hand"], exclude=["*.txt"])
            assert made["snapshot_id"] in desk.snapshots()
            assert (await call(client, "get_snapshot", snapshot="latest"))["tags"] == ["by-hand"]

            await call(client, "restore_files", snapshot=old, path=str(desk.source), target=f"{target}/new")
            assert (target / "new/notes.txt").read_text() == "first\n"
            assert person.asked == []
            await call(
                client, "restore_files", snapshot=new, path=str(desk.source), target=f"{target}/new",
                overwrite="if-changed",
            )  # fmt: skip
            assert (target / "new/notes.txt").read_text() == "first\nsecond\n"
            assert len(person.asked) == 1

            assert (await call(client, "forget_snapshots", snapshots=[old[:8]]))["removed"] == [old]
            assert old[:8] in person.asked[1]
            assert (await call(client, "plan_prune"))["unused"] >= 0
            assert len(person.asked) == 2
            assert (await call(client, "prune"))["problems"] == []
            assert len(person.asked) == 3
            assert (await call(client, "repository_stats"))["total"]["files"] == 4 + 1
            kept = await call(client, "read_file", snapshot=new, path=f"{desk.source}/notes.txt")
            assert kept["content"] == "first\nsecond\n"

    run(work)
    assert len(desk.snapshots()) == 2
    assert old not in desk.snapshots()


def test_reading_server_refuses_to_change(desk: Desk, connect: Connect) -> None:
    """Whoever calls a changing tool that is not allowed changes nothing, and is in the audit log."""

    async def work() -> None:
        async with connect(elicitation_callback=Person().answer) as client:
            for name in CHANGING:
                result = await client.call_tool(name, {"snapshots": ["latest"]})
                assert result.is_error
                assert "Unknown tool" in text_of(result)

    before = desk.snapshots()
    run(work)

    assert desk.snapshots() == before
    ended = [each["outcome"] for each in desk.audited() if each["event"] == "end"]
    assert ended == ["failed"] * len(CHANGING)


def test_no_confirmation_no_change(desk: Desk, connect: Connect, tmp_path: Path) -> None:
    """A client that cannot ask, and a person who says no in any way, leave everything as it is."""
    target = tmp_path / "restored"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    before = desk.snapshots()
    calls: list[tuple[str, dict[str, Any]]] = [
        ("forget_snapshots", {"snapshots": ["latest"]}),
        ("prune", {}),
        (
            "restore_files",
            {"snapshot": "latest", "path": str(desk.source), "target": str(target), "overwrite": "always"},
        ),
    ]

    async def work(reason: str, **client_options: Any) -> None:
        async with connect("--allow-write", "--allow-restore-to", str(target), **client_options) as client:
            for name, arguments in calls:
                assert reason in await refused(client, name, **arguments)

    run(lambda: work("confirmation-needed"))
    run(lambda: work("not-confirmed", elicitation_callback=Person(confirm=False).answer))
    run(lambda: work("not-confirmed", elicitation_callback=Person(action="decline").answer))

    assert desk.snapshots() == before
    assert (target / "notes.txt").read_text() == "mine"
    assert len(list(target.iterdir())) == 1


def test_injection_changes_nothing(desk: Desk, connect: Connect) -> None:
    """A file whose name and content give orders is told as data: tools, instructions and questions stay as they are."""
    path = f"{desk.source}/{INJECTION.decode()}"
    person = Person(confirm=False)

    async def work() -> None:
        async with connect("--allow-write", elicitation_callback=person.answer) as client:
            tools = (await client.list_tools()).model_dump_json()
            listing = await call(client, "list_directory", snapshot="latest", path=str(desk.source))
            assert path in [each["path"] for each in listing["entries"]]
            assert (await call(client, "read_file", snapshot="latest", path=path))["content"] == ORDER.decode()
            assert len((await call(client, "find_files", patterns=["IGNORE*"]))["matches"]) == 2
            for name in ("IGNORE ALL PREVIOUS", "latest; prune", "latest:/etc", "../../etc", ""):
                assert "validation error" in await refused(client, "get_snapshot", snapshot=name)
            assert "not-confirmed" in await refused(client, "forget_snapshots", snapshots=["latest"])
            assert (await client.list_tools()).model_dump_json() == tools
            assert "IGNORE" not in tools
            assert "IGNORE" not in (client.instructions or "")

    before = desk.snapshots()
    run(work)

    assert desk.snapshots() == before
    assert not any("IGNORE" in question for question in person.asked)


def test_resources(desk: Desk, connect: Connect) -> None:
    """Snapshots are resources: the list of them, and each by its ID; what is no snapshot is an error."""
    _, new = desk.snapshots()

    async def work() -> None:
        async with connect() as client:
            listed = [str(each.uri) for each in (await client.list_resources()).resources]
            templates = (await client.list_resource_templates()).resource_templates
            assert listed == ["backupforge://snapshots"]
            assert [each.uri_template for each in templates] == ["backupforge://snapshots/{snapshot}"]
            for uri in (listed[0], f"backupforge://snapshots/{new}"):
                (content,) = (await client.read_resource(uri)).contents
                assert new in json.loads(content.text).values() or json.loads(content.text)["total"] == 2  # type: ignore[union-attr]
            with pytest.raises(Exception, match="not"):
                await client.read_resource("backupforge://snapshots/00000000")

    run(work)
    assert next(each["name"] for each in desk.audited() if each["event"] == "begin") == "backupforge://snapshots"


def test_names_that_are_not_text(desk: Desk, connect: Connect, tmp_path: Path) -> None:
    """A name that is not UTF-8 is shown, told in base64, and taken back in base64."""
    raw = base64.b64encode(bytes(desk.source) + b"/" + LATIN).decode()
    target = tmp_path / "restored"
    target.mkdir()

    async def work() -> None:
        async with connect("--allow-write", "--allow-restore-to", str(target)) as client:
            listing = await call(client, "list_directory", snapshot="latest", path=str(desk.source))
            assert [each["path_raw"] for each in listing["entries"] if "path_raw" in each] == [raw]
            content = await call(client, "read_file", snapshot="latest", path_raw=raw)
            assert (content["encoding"], base64.b64decode(content["content"])) == ("base64", b"\xff\x00binary")
            assert content["path_raw"] == raw
            assert len((await call(client, "file_history", path_raw=raw))["versions"]) == 1
            await call(client, "restore_files", snapshot="latest", path_raw=raw, target=str(target))

    run(work)
    assert [bytes(each) for each in target.iterdir()] == [bytes(target) + b"/" + LATIN]


def test_progress(desk: Desk, connect: Connect) -> None:
    """Long work tells how far it is, in numbers that only grow."""
    told: list[float] = []

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)

    async def work() -> None:
        async with connect() as client:
            await client.call_tool("check_repository", {"read_data": "all"}, progress_callback=tell)

    run(work)
    assert told
    assert told == sorted(set(told))


def test_audit_log_keeps_secrets_out(desk: Desk, tmp_path: Path) -> None:
    """Calls are in the log with their arguments; passwords, tokens, contents and unknown arguments are not, and nobody
    else may read it."""

    async def work() -> None:
        with serving_http(desk) as url:
            async with over_http(url) as client:
                await call(client, "read_file", snapshot="latest", path=f"{desk.source}/notes.txt", password=PASSWORD)

    run(work)
    begin, end = desk.audited()
    assert (begin["name"], end["outcome"]) == ("read_file", "done")
    assert begin["arguments"] == {
        "snapshot": "latest", "path": f"{desk.source}/notes.txt", "password": "(unknown)",
    }  # fmt: skip
    log = desk.audit_log.read_text()
    assert not any(secret in log for secret in (PASSWORD, TOKEN, "second"))
    assert desk.audit_log.stat().st_mode & 0o777 == 0o600


def test_no_audit_no_call(desk: Desk) -> None:
    """Where the audit log cannot be written, nothing is done."""
    desk.audit_log.mkdir(parents=True)

    async def work() -> None:
        async with over_stdio(desk) as client:
            with pytest.raises(Exception, match="audit log"):
                await client.call_tool("list_snapshots", {})

    run(work)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}])
def test_http_needs_the_token(desk: Desk, headers: dict[str, str]) -> None:
    """Whoever does not send the token exactly gets 401, whatever else is sent."""
    with serving_http(desk) as url:
        for method in ("GET", "POST", "DELETE"):
            assert httpx2.request(method, url, headers=headers).status_code == 401
        assert httpx2.get(url.replace("/mcp", "/"), headers=headers).status_code == 401


def test_http_refuses_other_names(desk: Desk) -> None:
    """A page in a browser that makes its name point at this machine is turned away, even with the token."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/json, text/event-stream"}
    with serving_http(desk) as url:
        assert httpx2.post(url, json=body, headers={**headers, "Host": "evil.example"}).status_code == 421
        assert httpx2.post(url, json=body, headers={**headers, "Origin": "http://evil.example"}).status_code == 403


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--allow-backup-of", "."], 2, "need --allow-write"),
        (["--allow-write", "--allow-restore-to", "nowhere"], 2, "no directory"),
        (["--listen", "0.0.0.0:0"], 2, "other machines"),
        (["--listen", "127.0.0.1:0"], 2, "no token"),
        (["--listen", "127.0.0.1:0", "--token-file", "short"], 2, "16 or more"),
        (["--token-file", "short"], 2, "--listen"),
    ],
)
def test_wrong_usage(desk: Desk, options: list[str], status: int, said: str) -> None:
    """What makes no sense, or would be open to others, does not start."""
    (desk.home / "short").write_text("guess me\n")
    done = subprocess.run(
        desk.command(*options),
        env=desk.environment,
        cwd=desk.home,
        input="",
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr


def test_read_only_down_to_the_storage(desk: Desk) -> None:
    """The storage of a repository that is opened for reading only refuses every change."""
    app = App(resolve(Flags(no_cache=True), desk.environment))
    with app.open_repository(read_only=True) as repository:
        assert len(load_snapshots(repository)) == 2
        for change in (
            lambda: repository.backend.delete(ObjectKind.SNAPSHOT, desk.snapshots()[0]),
            lambda: repository.backend.save(ObjectKind.SNAPSHOT, "0" * 64, b"x"),
            lambda: repository.backend.upload(ObjectKind.PACK),
        ):
            with pytest.raises(StorageDenied):
                change()


def test_wrong_password_does_not_start(desk: Desk) -> None:
    """A password that is wrong ends the program with its exit status, and nothing on the wire."""
    environment = {**desk.environment, "BACKUPFORGE_PASSWORD": "another"}
    done = subprocess.run(
        desk.command(), env=environment, cwd=desk.home, input="", capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (12, "")
