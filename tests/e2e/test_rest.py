"""Repositories on a REST server, in everyday life and when things go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.backups import incompressible
from tests.support.command import Command, failure, with_password
from tests.support.rclone import serve
from tests.support.remote import Remote, RemoteSuite
from tests.support.rest_places import AS_SERVER, USER, WORD
from tests.support.rest_server import rest_server

AS_CLIENT = {"BACKUPFORGE_REST_USERNAME": USER, "BACKUPFORGE_REST_PASSWORD": WORD}


class TestRclone(RemoteSuite):
    """On `rclone serve restic`, told to remember nothing: what it remembers of an upload under way is wrong later."""

    @pytest.fixture
    def remote(self, tmp_path: Path) -> Iterator[Remote]:
        with serve("restic", tmp_path / "served", "--cache-objects=false", environment=AS_SERVER) as server:
            yield Remote(f"rest:http://{USER}:{WORD}@127.0.0.1:{server.port}", secrets=(WORD,))


def on_server(folder: Path, url: str, environment: dict[str, str]) -> Command:
    """The program, told of a repository on a server."""
    return replace(with_password(folder), environment={**environment, "BACKUPFORGE_REPOSITORY": f"rest:{url}repo/"})


def files_in(folder: Path) -> list[str]:
    """What a server's folder holds."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_append_only(tmp_path: Path) -> None:
    """Who may only add backs up, restores and checks, and leaves no claims; who may delete does the rest elsewhere."""
    served, source, target = tmp_path / "served", tmp_path / "source", tmp_path / "target"
    source.mkdir()
    with serve("restic", served, "--append-only", "--cache-objects=false", environment=AS_SERVER) as server:
        client = on_server(tmp_path, server.url, AS_CLIENT)
        client("init")
        for number in range(3):
            (source / "changes").write_bytes(incompressible(number, 100_000))
            client("backup", source)
            assert list((served / "repo" / "locks").iterdir()) == []
        stored = files_in(served)
        for line in (["forget", "--keep-last", "1"], ["forget", client.snapshots()[0]]):
            refused = failure(client("--json", *line, status=1))
            assert refused["error"] == "storage-denied"
            assert "append-only" in refused["hint"]
            assert WORD not in str(refused)
        assert files_in(served) == stored
        client("check", "--read-data")
        client("restore", f"latest:{source}", "--target", target)
        assert (target / "changes").read_bytes() == incompressible(2, 100_000)

        with serve("restic", served, "--cache-objects=false", environment=AS_SERVER) as maintained:
            keeper = replace(client, environment={**AS_CLIENT, "BACKUPFORGE_REPOSITORY": f"rest:{maintained.url}repo/"})
            keeper("forget", "--keep-last", "1")
            keeper("prune", "--grace", "0", "--max-unused", "0")
        (source / "changes").write_bytes(incompressible(0, 100_000))
        client("backup", source)
        client("check", "--read-data")
        assert len(client.snapshots()) == 2


def test_prune_where_nothing_may_be_deleted(tmp_path: Path) -> None:
    """A prune that may not delete says so, and the repository is as good as before."""
    served, source = tmp_path / "served", tmp_path / "source"
    source.mkdir()
    (source / "changes").write_bytes(incompressible(0, 100_000))
    with serve("restic", served, "--cache-objects=false", environment=AS_SERVER) as server:
        client = on_server(tmp_path, server.url, AS_CLIENT)
        client("init")
        client("backup", source)
        (source / "changes").write_bytes(incompressible(1, 100_000))
        client("backup", source)
        client("forget", "--keep-last", "1")
    with serve("restic", served, "--append-only", "--cache-objects=false", environment=AS_SERVER) as server:
        client = replace(client, environment={**AS_CLIENT, "BACKUPFORGE_REPOSITORY": f"rest:{server.url}repo/"})
        refused = failure(client("--json", "prune", "--grace", "0", "--max-unused", "0", status=1))
        assert refused["error"] == "storage-denied"
        client("check", "--read-data")
        (source / "changes").write_bytes(incompressible(0, 100_000))
        client("backup", source)
        client("check", "--read-data")


def test_server_that_checks_names(tmp_path: Path) -> None:
    """rest-server with its defaults is refused by `init` in words that say how to start it."""
    with rest_server(credentials=f"{USER}:{WORD}") as server:
        client = on_server(tmp_path, server.url, AS_CLIENT)
        refused = failure(client("--json", "init", status=1))
        assert "--no-verify-upload" in refused["hint"]
        assert server.objects == {}
        server.verify = False
        client("init")


def test_wrong_password(tmp_path: Path) -> None:
    """A server that lets nobody in without a password says so at once, and the password is told to nobody."""
    with rest_server(verify=False, credentials=f"{USER}:another") as server:
        client = on_server(tmp_path, server.url, AS_CLIENT)
        refused = failure(client("--json", "list", status=1))
        assert refused["error"] == "storage-denied"
        assert "BACKUPFORGE_REST_PASSWORD" in refused["hint"]
        assert WORD not in str(refused)
