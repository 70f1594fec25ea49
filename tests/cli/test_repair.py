"""The `repair` commands: the plan is shown, --dry-run changes nothing, and exit codes say whether all is mended."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.backups import incompressible
from tests.support.program import Bf


def stored(repository: Path, kind: str) -> list[Path]:
    """The stored files of a kind, the largest first."""
    found = (path for path in (repository / kind).rglob("*") if path.is_file())
    return sorted(found, key=lambda path: -path.stat().st_size)


def harm(path: Path, offset: int) -> None:
    """Change a byte."""
    path.chmod(0o600)
    with open(path, "r+b") as file:
        byte = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), offset)


@pytest.fixture
def noise(files: Path) -> None:
    """One more file to back up, which does not shrink: so the pack of contents is larger than that of trees."""
    (files / "noise").write_bytes(incompressible(1, 100_000))


@pytest.fixture
def data_pack(noise: None, repository: Path, backed_up: str) -> Path:
    """The pack with the content of the files."""
    packs = stored(repository, "packs")
    assert len(packs) == 2
    return packs[0]


@pytest.fixture
def state(clean_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where programs keep their state."""
    path = clean_environment / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(path))
    return path


@pytest.mark.parametrize("what", ["index", "packs", "snapshots"])
def test_nothing_to_do(bf: Bf, backed_up: str, what: str) -> None:
    """On a whole repository a repair says that there is nothing to do."""
    ran = bf("repair", what)

    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("Nothing to do: ")
    assert bf("repair", what, "--json").summary["changed"] is False


def test_the_index(bf: Bf, repository: Path, backed_up: str, files: Path, state: Path, clean_environment: Path) -> None:
    """A damaged index object stops a backup, whose error says what to do; that mends it and keeps what it takes out."""
    (index,) = stored(repository, "index")
    harm(index, 60)
    shutil.rmtree(clean_environment / "cache")  # which knows what was written from here
    assert "repair index" in bf("backup", files).err

    dry = bf("repair", "index", "--dry-run")
    assert (dry.status, index.exists()) == (0, True)
    assert f"replace index {index.name[:8]}" in dry.out
    assert "name again 2 packs" in dry.out
    assert "Nothing was changed" in dry.out
    assert not state.exists()

    ran = bf("repair", "index", "--json")
    (kept,) = ran.summary["quarantined"]
    assert (ran.status, ran.summary["changed"], index.exists()) == (0, True, False)
    assert Path(kept["path"]).is_relative_to(state / "backupforge" / "quarantine")
    plan = next(line for line in ran.lines if line["message_type"] == "plan")
    assert [each["id"] for each in plan["damaged"]] == [index.name]
    assert len(plan["named_again"]) == 2
    assert bf("check", "--read-data").status == 0
    assert bf("backup", files).status == 0


def test_packs_and_healing(bf: Bf, data_pack: Path, files: Path, tmp_path: Path) -> None:
    """What `check` says next is right: the pack is given up, and a backup of the same files makes all whole."""
    harm(data_pack, 60)
    said = bf("check", "--read-data")
    assert f"'backupforge repair packs {data_pack.name[:8]}'" in said.err

    ran = bf("repair", "packs", data_pack.name[:8], "--quarantine", tmp_path / "here")
    assert ran.status == 3  # something is lost
    assert f"give up pack {data_pack.name[:8]}" in ran.out
    assert "lost: " in ran.out
    assert f"kept in {tmp_path / 'here'}" in ran.out
    assert "repair snapshots" in bf("check").err

    assert bf("backup", files).status == 0
    ran = bf("check", "--read-data")
    assert (ran.status, ran.err) == (0, "")
    assert bf("repair", "packs").out.startswith("Nothing to do: ")


def test_packs_as_json(bf: Bf, data_pack: Path) -> None:
    """The plan says of each pack how much is saved and lost."""
    harm(data_pack, 60)

    (plan, summary) = (
        line for line in bf("repair", "packs", "--dry-run", "--json").lines if "status" not in line.values()
    )

    (damage,) = plan["damaged"]
    assert damage["id"] == data_pack.name
    assert damage["blobs"] == damage["blobs_saved"] + damage["blobs_lost"]
    assert plan["blobs_lost"] == damage["blobs_lost"]
    assert summary == {"message_type": "summary", "dry_run": True, "changed": False, "quarantined": []}


def test_snapshots(bf: Bf, data_pack: Path, backed_up: str, state: Path) -> None:
    """Files whose content is lost are left out of a new snapshot and listed by name; the old one goes with --forget."""
    data_pack.unlink()
    assert "repair packs" in bf("repair", "snapshots").err  # first things first
    bf("repair", "packs")

    ran = bf("repair", "snapshots")
    assert ran.status == 0
    assert f"snapshot {backed_up[:8]} of " in ran.out
    assert "a.txt" in ran.out
    assert "make a new snapshot without that" in ran.out
    listed = bf("list", "--json").document
    new = next(each for each in listed if each["id"] != backed_up)
    assert (len(listed), new["tags"]) == (2, ["repaired"])

    again = bf("repair", "snapshots")
    assert f"is repaired already: snapshot {new['id'][:8]}" in again.out
    ran = bf("repair", "snapshots", "--forget", "--json")
    assert [Path(each["path"]).name for each in ran.summary["quarantined"]] == [f"snapshot-{backed_up}"]
    assert [each["id"] for each in bf("list", "--json").document] == [new["id"]]
    assert bf("check", "--read-data").status == 0


def test_a_snapshot_that_does_not_open(bf: Bf, repository: Path, backed_up: str, state: Path) -> None:
    """It is left where it is, exit 3, until it is told to go."""
    (snapshot,) = stored(repository, "snapshots")
    harm(snapshot, 50)

    ran = bf("repair", "snapshots")
    assert (ran.status, snapshot.exists()) == (3, True)
    assert "--forget moves it out" in ran.out
    assert bf("repair", "snapshots", "--forget", backed_up[:8]).status == 0
    assert not snapshot.exists()


def test_garbage_with_other_names(bf: Bf, repository: Path, backed_up: str) -> None:
    """What lies in a repository and is not named like an object is nobody's business."""
    for kind in ("packs", "index", "snapshots", "claims", "keys"):
        (repository / kind / "README.txt").write_text("not ours")
    (repository / "packs" / "zz").mkdir()
    (repository / "packs" / "zz" / ("0" * 64)).write_text("not where one would look")

    assert bf("check", "--read-data").err == ""
    for what in ("index", "packs", "snapshots"):
        assert bf("repair", what).out.startswith("Nothing to do: ")
    assert all(
        (repository / kind / "README.txt").exists() for kind in ("packs", "index", "snapshots", "claims", "keys")
    )
