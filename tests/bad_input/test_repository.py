"""A repository that cannot be opened, read or written: the error says so, and nothing is changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bfrepo.crypto.hashing import object_name
from tests.support.command import WITHOUT_PRIVILEGES, Command, failure
from tests.support.directories import census, removable
from tests.support.mounts import Mounts

COMMANDS = (("backup", "source"), ("list",), ("ls", "latest"), ("restore", "latest", "--target", "out"), ("check",))


def test_wrong_password(encrypted: Command, source: Path, tmp_path: Path) -> None:
    """12, and the message names the repository."""
    wrong = replace(encrypted, environment={"BACKUPFORGE_PASSWORD": "wrong"})
    before = census(encrypted.repository)
    for arguments in (("backup", source), ("restore", "latest", "--target", tmp_path / "out"), ("key", "list")):
        ran = wrong(*arguments, status=12)
        assert ran.err.startswith(f"error: wrong password for the repository in {encrypted.repository}")
    assert failure(wrong("list", "--json", status=12))["error"] == "wrong-password"
    assert census(encrypted.repository) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda value: value[0])
def test_no_repository(command: Command, source: Path, arguments: tuple[str, ...]) -> None:
    """10, also where something else is; and nothing is made."""
    (command.home / "source").symlink_to(source)
    ran = command(*arguments, "--json", status=10)
    assert failure(ran)["error"] == "no-repository"
    assert failure(ran)["hint"].startswith("make one with 'backupforge init'")
    assert not command.repository.exists()

    command.repository.mkdir()
    (command.repository / "holiday.jpg").touch()
    command(*arguments, status=10)
    assert [path.name for path in command.repository.iterdir()] == ["holiday.jpg"]
    command("init", status=1)
    assert [path.name for path in command.repository.iterdir()] == ["holiday.jpg"]


def newer_format(config: dict[str, Any]) -> None:
    """What format 2 would say."""
    config["format"] = 2


def unknown_feature(config: dict[str, Any]) -> None:
    """What format 1 with an unknown feature says, its checksum included."""
    config["features"] = ["parity"]
    header = f"{config['format']}\n{config['id']}\n{config['encryption']}\nparity\n".encode()
    sealed = msgspec.convert(config["sealed"], bytes)
    config["checksum"] = object_name(header + sealed)


@pytest.mark.parametrize("change", [newer_format, unknown_feature])
@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda value: value[0])
def test_newer_version(plain: Command, source: Path, change: Any, arguments: tuple[str, ...]) -> None:
    """What this version does not know it leaves alone: 1, and the hint says what helps."""
    (plain.home / "source").symlink_to(source)
    path = plain.repository / "config"
    config = json.loads(path.read_text())
    change(config)
    path.chmod(0o600)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(config)) + b"\n")
    before = census(plain.repository)
    found = failure(plain(*arguments, "--json", status=1))
    assert (found["error"], found["hint"]) == ("unsupported-format", "use a newer backupforge")
    assert str(plain.repository) in found["message"]
    assert census(plain.repository) == before


def test_no_permission_to_read(plain: Command, source: Path) -> None:
    """1, and the message names what may not be read."""
    plain("backup", source)
    user = replace(plain, before=WITHOUT_PRIVILEGES)
    with removable(plain.repository):
        plain.repository.chmod(0)
        for arguments in (("list",), ("backup", source), ("check",), ("restore", "latest", "--target", "out")):
            ran = user(*arguments, status=1)
            assert ran.err.startswith("error: ")
            assert str(plain.repository) in ran.err
            assert "ermission" in ran.err
        found = failure(user("list", "--json", status=1))
        assert found["error"] == "storage-denied"
    assert len(plain.snapshots()) == 1


def test_no_permission_to_write(plain: Command, source: Path) -> None:
    """Who may read but not write can restore, and cannot back up: 1, with nothing half done."""
    plain("backup", source)
    user = replace(plain, before=WITHOUT_PRIVILEGES)
    (source / "new").write_text("new")
    with removable(plain.repository):
        for path in (plain.repository, *plain.repository.rglob("*")):
            path.chmod(0o500 if path.is_dir() else 0o400)
        before = census(plain.repository)
        ran = user("backup", source, status=1)
        assert ran.err.startswith("error: ")
        assert "ermission" in ran.err
        assert census(plain.repository) == before
        user("restore", f"latest:{source}", "--target", plain.home / "out")
        assert "no errors found" in user("check", "--read-data").out
    assert (plain.home / "out" / "b").read_text() == "b\n"
    plain("backup", source)


@pytest.mark.root
def test_read_only_mount(plain: Command, source: Path, mounts: Mounts) -> None:
    """A repository on a file system that is mounted read-only is read, and a backup says why it cannot be written."""
    plain("backup", source)
    mounts.run("mount", "--bind", plain.repository, plain.repository)
    mounts.run("mount", "-o", "remount,bind,ro", plain.repository)
    there = replace(plain, before=mounts.before)
    (source / "new").write_text("new")
    ran = there("backup", source, status=1)
    assert ran.err.startswith("error: ")
    assert "ead-only" in ran.err
    assert len(there.snapshots()) == 1
    there("restore", f"latest:{source}", "--target", plain.home / "out")
    assert "no errors found" in there("check").out
    there("init", "--repository", plain.repository / "other", "--encryption", "none", status=1)
