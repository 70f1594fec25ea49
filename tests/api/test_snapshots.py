"""Snapshots over HTTP: lists and filters, what is in them, tags, and forgetting."""

from __future__ import annotations

import base64
import io
import shutil
import tarfile
import zipfile
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from bfrepo.operations.snapshots import load_snapshots
from tests.support.backups import incompressible
from tests.support.server import Client, Stage
from tests.support.sources import ENOUGH_AGO, Item
from tests.support.stored import Stored, take_up

LATIN = b"caf\xe9"
UGLY = {
    b"plain": b"plain content",
    b"'; DROP TABLE snapshots; --": b"sql",
    b"..%2f..%2fetc": b"climbing",
    "üñí\u202e\U0001f600".encode(): b"unicode",
    b"line\nend\r\nX-Evil: yes": b"header",
    LATIN: b"latin",
    b'quote"and\\slash': b"quoted",
}
TREE: dict[str, Item | bytes] = {
    **{f"names/{name.decode(errors='surrogateescape')}": content for name, content in UGLY.items()},
    "deep/er/file": incompressible(1, 100_000),
    "empty": b"",
    "link": Item(type="symlink", target=LATIN),
    "pipe": Item(type="fifo"),
}


@pytest.fixture
def stored(stage: Stage) -> Stored:
    """A repository of alpha's with one snapshot of TREE."""
    found = take_up(stage)
    found.back_up(TREE)
    return found


async def get(client: Client, path: str, /, who: str = "alpha.viewer", **parameters: str) -> Any:
    """What a GET gives, as JSON. Fails unless that works."""
    answer = await client.ask("GET", path, who=who, params=parameters)
    assert answer.status == 200, answer.body
    return answer.value


def test_list(any_stage: Stage) -> None:
    """Snapshots of all repositories come newest first, page by page, each once; filters leave out the others."""
    one, two = take_up(any_stage, name="one"), take_up(any_stage, name="two")
    start = datetime.fromisoformat("2026-01-01T12:00:00+02:00")
    for number in range(7):
        options: dict[str, Any] = {"hostname": f"host{number % 3}", "tags": ("odd",) if number % 2 else ("even", "x")}
        options["paths"] = (b"/srv/" + LATIN,) if number == 3 else (b"/data",)
        (one, two)[number % 2].back_up({"n": b"%d" % number}, time=start + timedelta(days=number), **options)
    newest = [(one, two)[number % 2].snapshots[number // 2] for number in reversed(range(7))]

    async def talk(client: Client) -> None:
        seen, cursor = [], ""
        for _ in range(4):
            page = await get(client, "/api/snapshots", limit="2", cursor=cursor)
            seen += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
        assert (seen, cursor) == (newest, "")

        async def found(**wanted: str) -> list[int]:
            items = (await get(client, "/api/snapshots", **wanted))["items"]
            return [6 - newest.index(item["id"]) for item in items]

        assert await found(repository=two.id) == [5, 3, 1]
        assert await found(host="host1") == [4, 1]
        assert await found(tag="even", host="host0") == [6, 0]
        assert await found(path="/data", tag="odd") == [5, 1]
        assert await found(path_raw=base64.b64encode(b"/srv/" + LATIN).decode()) == [3]
        assert await found(after="2026-01-05T12:00:00+02:00") == [6, 5, 4]
        assert await found(before="2026-01-02T10:00:00Z") == [1, 0]
        assert await found(host="'; DROP TABLE repositories; --") == []
        page = await get(client, "/api/snapshots", host="host0", limit="1")
        rest = await get(client, "/api/snapshots", host="host0", limit="1", cursor=page["next_cursor"])
        assert [item["id"] for item in (*page["items"], *rest["items"])] == [newest[0], newest[3]]
        odd = (await get(client, f"/api/snapshots/{newest[3]}"))["paths_raw"]
        assert [base64.b64decode(path) for path in odd] == [b"/srv/" + LATIN]

    any_stage.run(talk)


def test_bad_query(stage: Stage, stored: Stored) -> None:
    """What cannot be asked for is refused."""

    async def talk(client: Client) -> None:
        place = f"/api/snapshots/{stored.snapshots[0]}"
        for path in (
            "/api/snapshots?cursor=abc", "/api/snapshots?limit=501", "/api/snapshots?after=yesterday",
            "/api/snapshots?after=2026-01-01T00:00:00", "/api/snapshots?unknown=1", "/api/snapshots?path=a&path_raw=YQ",
            f"{place}/tree?path_raw=%C3%A4", f"{place}/archive?format=rar", f"{place}/tree?cursor=WyJ-Il0",
        ):  # fmt: skip
            assert (await client.ask("GET", path, who="alpha.viewer")).status == 400, path
        for name in ("abc", "0" * 64, "..", "%2e%2e", "g" * 64, stored.snapshots[0].upper(), "' OR 1=1 --"):
            assert (await client.ask("GET", f"/api/snapshots/{quote(name)}", who="alpha.viewer")).status == 404, name

    stage.run(talk)


def test_other_tenants(stage: Stage, stored: Stored) -> None:
    """What is another tenant's is not there: no list shows it, no ID opens it, and nothing tells that it exists."""
    take_up(stage, "beta", name="theirs").back_up({"other": b""})
    first = stored.snapshots[0]

    async def talk(client: Client) -> None:
        page = await get(client, "/api/snapshots", who="beta.admin")
        assert first not in [item["id"] for item in page["items"]]
        mine = page["items"][0]["id"]
        for method, path in (
            ("GET", f"/api/snapshots?repository={stored.id}"), ("GET", f"/api/storage/history?repository={stored.id}"),
            ("GET", f"/api/storage/stats?repository={stored.id}"), ("GET", f"/api/storage/largest?snapshot={first}"),
            ("GET", f"/api/snapshots/{mine}/diff/{first}"), ("GET", f"/api/snapshots/{first}/diff/{mine}"),
            ("GET", f"/api/snapshots/{mine}?repository={stored.id}"), ("GET", f"/api/snapshots/{first}/file?path=a"),
            ("DELETE", f"/api/snapshots/{first}"), ("DELETE", f"/api/repositories/{stored.id}"),
        ):  # fmt: skip
            foreign = await client.ask(method, path, who="beta.admin")
            unknown = path.replace(first, "0" * 64).replace(stored.id, "0" * 32)
            nothing = await client.ask(method, unknown, who="beta.admin")
            assert (foreign.status, foreign.code) == (404, "not-found"), path
            assert foreign.value["detail"] == nothing.value["detail"]

    stage.run(talk)


def test_tree(stage: Stage, stored: Stored) -> None:
    """A directory is shown with all its names, of whatever bytes, and each is found again by what was shown."""

    async def talk(client: Client) -> None:
        place = f"/api/snapshots/{stored.snapshots[0]}"
        top = await get(client, f"{place}/tree")
        assert top["entry"]["type"] == "dir"
        link = next(item for item in top["items"] if item["name"] == "link")
        assert base64.b64decode(link["target_raw"]) == LATIN
        seen: dict[bytes, bytes] = {}
        cursor = ""
        for _ in range(4):
            page = await get(client, f"{place}/tree", path="names", limit="2", cursor=cursor)
            for item in page["items"]:
                raw = base64.b64decode(item["name_raw"]) if "name_raw" in item else item["name"].encode()
                where = {"path_raw": base64.urlsafe_b64encode(b"/names/" + raw).decode().rstrip("=")}
                answer = await client.ask("GET", f"{place}/file", who="alpha.viewer", params=where)
                assert answer.status == 200
                assert "X-Evil" not in answer.headers
                seen[raw] = answer.body
            cursor = page["next_cursor"]
        assert (seen, cursor) == (UGLY, "")
        alone = await get(client, f"{place}/tree", path="deep/er/file")
        assert (alone["entry"]["size"], alone["items"]) == (100_000, [])
        for path in ("nothing", "empty/file", "deep/../empty", "deep/er/file/x"):
            answer = await client.ask("GET", f"{place}/tree", who="alpha.viewer", params={"path": path})
            assert (answer.status, answer.code) == (404, "not-found")

    stage.run(talk)


@pytest.mark.parametrize("wanted, status, start, end", [
    ("bytes=0-9", 206, 0, 10), ("bytes=99990-", 206, 99_990, 100_000), ("bytes=-10", 206, 99_990, 100_000),
    ("bytes=5-5", 206, 5, 6), ("bytes=99999-200000", 206, 99_999, 100_000), ("bytes=-200000", 206, 0, 100_000),
    ("bytes=100000-", 416, 0, 0), ("bytes=-0", 416, 0, 0), ("bytes=9-5", 200, 0, 100_000), ("bytes=-", 200, 0, 100_000),
    ("bytes=0-1,5-6", 200, 0, 100_000), ("lines=0-1", 200, 0, 100_000), ("bytes=x", 200, 0, 100_000),
    ("bytes=0-99999999999999999999", 200, 0, 100_000),
])  # fmt: skip
def test_range(stage: Stage, stored: Stored, wanted: str, status: int, start: int, end: int) -> None:
    """A range of a file is given as RFC 9110 says, and what is no range of it means all of it."""
    content = incompressible(1, 100_000)

    async def talk(client: Client) -> None:
        place = f"/api/snapshots/{stored.snapshots[0]}/file?path=deep/er/file"
        answer = await client.ask("GET", place, who="alpha.viewer", headers={"Range": wanted})
        assert answer.status == status
        if status == 416:
            assert answer.headers["Content-Range"] == "bytes */100000"
            return
        assert answer.body == content[start:end]
        assert int(answer.headers["Content-Length"]) == end - start
        if status == 206:
            assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/100000"

    stage.run(talk)


def test_etag(stage: Stage, stored: Stored) -> None:
    """A file's ETag is that of its content: what a client has already is not sent again, and no range of another."""
    changed = Item(content=incompressible(2, 100_000), mtime_ns=ENOUGH_AGO + 1)
    stored.back_up({**TREE, "deep/er/file": changed, "copy": incompressible(1, 100_000)})

    async def talk(client: Client) -> None:
        first, second = (f"/api/snapshots/{each}/file?path=" for each in stored.snapshots)

        async def ask(path: str, **headers: str) -> Any:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.ask("GET", path, who="alpha.viewer", headers=sent)

        etag = (await ask(f"{first}deep/er/file")).headers["ETag"]
        assert (await ask(f"{second}copy")).headers["ETag"] == etag
        assert (await ask(f"{second}deep/er/file")).headers["ETag"] != etag
        same = await ask(f"{first}deep/er/file", If_None_Match=f'"other", {etag}')
        assert (same.status, same.body) == (304, b"")
        assert (await ask(f"{second}deep/er/file", If_None_Match=etag)).status == 200
        assert (await ask(f"{first}deep/er/file", If_Range=etag, Range="bytes=0-9")).status == 206
        assert (await ask(f"{second}deep/er/file", If_Range=etag, Range="bytes=0-9")).status == 200

    stage.run(talk)


def test_empty_file_and_what_is_none(stage: Stage, stored: Stored) -> None:
    """An empty file has no bytes and no range; a directory or a pipe is no file."""

    async def talk(client: Client) -> None:
        place = f"/api/snapshots/{stored.snapshots[0]}/file"
        answer = await client.ask("GET", f"{place}?path=empty", who="alpha.viewer")
        assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "0")
        for path in ("deep", "pipe", "link", ""):
            answer = await client.ask("GET", f"{place}?path={path}", who="alpha.viewer")
            assert (answer.status, answer.code) == (409, "no-file")

    stage.run(talk)


def test_archive(stage: Stage, stored: Stored) -> None:
    """A directory comes as tar or zip, with every file in it."""

    async def talk(client: Client) -> None:
        place = f"/api/snapshots/{stored.snapshots[0]}/archive"
        answer = await client.ask("GET", f"{place}?path=names", who="alpha.viewer")
        assert answer.headers["Content-Type"] == "application/x-tar"
        with tarfile.open(fileobj=io.BytesIO(answer.body), errors="surrogateescape") as tar:
            members = [member for member in tar if member.isfile()]
            contents = {member.name.removeprefix("./"): tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]
        assert contents == {name.decode(errors="surrogateescape"): content for name, content in UGLY.items()}
        answer = await client.ask("GET", f"{place}?format=zip&path=deep", who="alpha.viewer")
        assert answer.headers["Content-Type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.body)) as found:
            assert found.read("er/file") == incompressible(1, 100_000)
        missing = await client.ask("GET", f"{place}?path=nothing", who="alpha.viewer")
        assert (missing.status, missing.code) == (404, "not-found")

    stage.run(talk)


def test_diff(stage: Stage, stored: Stored) -> None:
    """What differs between two snapshots comes in lines, the sums last; those of two repositories are not compared."""
    stored.back_up({**TREE, "empty": b"no more", "new": b"new", "names/caf\udce9": b"changed"})
    other = take_up(stage, name="other").back_up({"file": b""})

    async def talk(client: Client) -> None:
        first, second = stored.snapshots
        answer = await client.ask("GET", f"/api/snapshots/{first}/diff/{second}", who="alpha.viewer")
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        *lines, last = map(msgspec.json.decode, answer.body.splitlines())
        assert {(line["path"], line["kind"]) for line in lines} == {
            ("/empty", "modified"), ("/new", "added"), ("/names/caf\ufffd", "modified"),
        }  # fmt: skip
        assert {base64.b64decode(line["path_raw"]) for line in lines if "path_raw" in line} == {b"/names/" + LATIN}
        assert (last["message_type"], last["changed_files"], last["added"]["files"]) == ("statistics", 2, 1)
        for path in (f"{first}/diff/{other}", f"{first}/diff/{'0' * 64}"):
            assert (await client.ask("GET", f"/api/snapshots/{path}", who="alpha.viewer")).status == 404

    stage.run(talk)


def test_tags(any_stage: Stage) -> None:
    """A snapshot that gets other tags has another ID from then on, in every answer, and the audit log tells both."""
    stored = take_up(any_stage)
    first = stored.back_up({"file": b"content"}, tags=("old",))

    async def talk(client: Client) -> None:
        await get(client, "/api/snapshots")
        body = {"tags": ["new", 'it\'s "quoted"; --'], "label": "ü"}
        changed = await client.ask("PATCH", f"/api/snapshots/{first}", who="alpha.operator", json=body)
        assert changed.status == 200
        assert (set(changed.value["tags"]), changed.value["label"]) == (set(body["tags"]), "ü")
        assert changed.value["original"] == first != changed.value["id"]
        items = (await get(client, "/api/snapshots"))["items"]
        assert items == [changed.value]
        assert (await client.ask("GET", f"/api/snapshots/{first}", who="alpha.viewer")).status == 404
        place = f"/api/snapshots/{changed.value['id']}"
        same = await client.ask("PATCH", place, who="alpha.operator", json=body)
        assert same.value == changed.value
        for wrong in ({}, {"tags": ["a,b"]}, {"tags": [""]}, {"tags": [" a"]}, {"label": "a\nb"}, {"tags": "a"}):
            assert (await client.ask("PATCH", place, who="alpha.operator", json=wrong)).status == 400, wrong
        log = (await client.ask("GET", "/api/audit", who="alpha.admin")).value["items"]
        assert [(event["target"], event["detail"]) for event in log if event["action"] == "snapshot.change"] == [
            (first, changed.value["id"])
        ]

    any_stage.run(talk)


def test_forget(any_stage: Stage) -> None:
    """A snapshot that is forgotten is in no list any more, in the repository neither, and the others are."""
    stored = take_up(any_stage)
    gone, kept = stored.back_up({"a": b"a"}), stored.back_up({"b": b"b"})

    async def talk(client: Client) -> None:
        assert len((await get(client, "/api/snapshots"))["items"]) == 2
        assert (await client.ask("DELETE", f"/api/snapshots/{gone}", who="alpha.admin")).status == 204
        assert [item["id"] for item in (await get(client, "/api/snapshots"))["items"]] == [kept]
        assert (await client.ask("DELETE", f"/api/snapshots/{gone}", who="alpha.admin")).status == 404

    any_stage.run(talk)
    with stored.open() as repository:
        assert [key.hex() for key in load_snapshots(repository)] == [kept]


def test_a_repository_that_is_gone(stage: Stage, stored: Stored) -> None:
    """A repository that cannot be read is named in the answer, and the others are shown all the same."""
    other = take_up(stage, name="other")
    there = other.back_up({"file": b""})
    shutil.rmtree(stored.folder)

    async def talk(client: Client) -> None:
        page = await get(client, "/api/snapshots")
        assert [item["id"] for item in page["items"]] == [there]
        assert [(each["repository"], each["name"]) for each in page["unavailable"]] == [(stored.id, "mine")]
        answer = await client.ask("GET", f"/api/snapshots?repository={stored.id}", who="alpha.viewer")
        assert (answer.status, answer.code) == (409, "no-repository")
        assert "mine" in answer.value["detail"]
        assert str(stage.config.data) not in answer.body.decode()

    stage.run(talk)


def test_a_snapshot_that_was_just_made(stage: Stage, stored: Stored) -> None:
    """Who knows the ID of a new snapshot gets it at once, whatever list the server still has."""

    async def talk(client: Client) -> None:
        await get(client, "/api/snapshots")
        new = stored.back_up({"fresh": b"fresh"})
        answer = await client.ask("GET", f"/api/snapshots/{new}/file?path=fresh", who="alpha.viewer")
        assert answer.body == b"fresh"

    stage.run(talk)
