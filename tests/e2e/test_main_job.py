"""The main job by the real command, with a password and the real KDF: from `init` to getting everything back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.backups import incompressible
from tests.support.command import Command, failure, without_encryption
from tests.support.directories import census

MIB = 1 << 20
ID = re.compile(r"[0-9a-f]{64}")
BIG = 12 * MIB


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A big file, text, a program's output, a cache, and directories."""
    top = tmp_path / "tree"
    for directory in ("src/build", "src/cache", "docs/empty", "private"):
        (top / directory).mkdir(parents=True)
    (top / "disk.img").write_bytes(incompressible(1, BIG))
    (top / "docs" / "guide.txt").write_text("".join(f"line {number} of the guide\n" for number in range(20_000)))
    (top / "docs" / "copy.txt").write_bytes((top / "docs" / "guide.txt").read_bytes())
    (top / "src" / "main.c").write_text("int main(void) { return 0; }\n")
    (top / "src" / "main.o").write_bytes(incompressible(2, 5000))
    (top / "src" / "Thumbs.DB").write_text("thumbs")
    (top / "src" / ".gitignore").write_text("build/\n")
    (top / "src" / "build" / "made").write_text("made")
    (top / "src" / "cache" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    (top / "src" / "cache" / "cached").write_text("cached")
    (top / "private" / ".nobackup").touch()
    (top / "private" / "diary").write_text("dear diary")
    (top / "latest").symlink_to("docs/guide.txt")
    return top


def files_in(command: Command, what: str) -> set[str]:
    """The paths of everything but directories below SNAPSHOT:PATH, relative to it."""
    prefix = what.partition(":")[2].rstrip("/") + "/"
    lines = command("ls", "--recursive", "--json", what).lines
    return {line["path"].removeprefix(prefix) for line in lines if line["type"] != "dir"}


def diff(one: Path, other: Path) -> str:
    """What `diff -r` says."""
    return subprocess.run(["diff", "-r", one, other], capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
def test_from_init_to_restore(command: Command, tree: Path, tmp_path: Path) -> None:
    """Two backups with a change in between both come back as they were, in a new place and in place."""
    made = command("init", "--json").document
    assert {**made, "id": ""} == {
        "message_type": "initialized",
        "id": "",
        "repository": str(command.repository),
        "encryption": "aes-256-gcm",
        "chunker": "fastcdc:256K:1M:4M",
        "compression": "zstd:3",
        "pack_size": 64 * MIB,
    }

    old, before = tmp_path / "old", census(tree)
    shutil.copytree(tree, old, symlinks=True)
    first = command("backup", tree, "--json").summary
    assert (first["files_new"], first["files_changed"], first["files_unmodified"]) == (12, 0, 0)
    assert (first["others"], first["errors"], first["dry_run"]) == (1, 0, False)
    assert first["total_bytes_processed"] == sum(each.size for each in before.values())
    assert BIG <= first["data_added"] < first["total_bytes_processed"]  # the copy is stored once
    assert "parent" not in first

    (tree / "docs" / "guide.txt").write_text("shorter\n")
    (tree / "docs" / "new.txt").write_text("new\n")
    (tree / "src" / "main.o").unlink()
    with (tree / "disk.img").open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"changed")
    after = census(tree)
    second = command("backup", tree, "--json").summary
    assert (second["files_new"], second["files_changed"], second["files_unmodified"]) == (1, 2, 9)
    assert second["parent"] == first["snapshot_id"]
    assert second["data_added"] < 5 * MIB  # one chunk of at most 4 MiB and its neighbourhood

    listed = command("list", "--json").document
    assert [each["id"] for each in listed] == [first["snapshot_id"], second["snapshot_id"]]
    assert all(ID.fullmatch(each["tree"]) for each in listed)
    assert listed[1]["paths"] == [str(tree)]
    assert listed[1]["parent"] == first["snapshot_id"]
    assert "main.o" not in command("ls", "-l", f"latest:{tree}/src").out
    assert "main.o" in command("ls", "-l", f"latest~1:{tree}/src").out

    sizes = command("stats", "--json").document
    assert [each["id"] for each in sizes["snapshots"]] == [first["snapshot_id"], second["snapshot_id"]]
    assert sizes["snapshots"][0]["restore_size"] == first["total_bytes_processed"]
    assert sizes["total"]["restore_size"] == first["total_bytes_processed"] + second["total_bytes_processed"]
    assert sizes["repository_size"] < 1.6 * BIG

    for name, what, wanted in (("now", "latest", tree), ("then", first["snapshot_id"][:8], old)):
        restored = command("restore", f"{what}:{tree}", "--target", tmp_path / name, "--verify", "--json").summary
        assert (restored["errors"], restored["files_restored"]) == (0, 12)
        assert restored["bytes_verified"] == restored["total_bytes"]
        assert diff(wanted, tmp_path / name) == ""
    assert without_top(census(tmp_path / "now")) == without_top(after)
    assert without_top(census(tmp_path / "then")) == without_top(before)

    restored = command("restore", f"latest~1:{tree}", "--target", tree, "--delete", "--json").summary
    assert diff(old, tree) == ""
    assert without_top(census(tree)) == without_top(before)
    assert (restored["files_restored"], restored["files_updated"], restored["files_deleted"]) == (1, 2, 1)
    assert restored["bytes_restored"] < 5 * MIB  # not the 12 MiB of the file that differs

    assert "no errors found" in command("check").out
    assert "no errors found" in command("check", "--read-data").out
    assert command("check", "--read-data", "--json").summary["num_errors"] == 0


def without_top(seen: dict[bytes, Any]) -> dict[bytes, Any]:
    """All but the directory itself, which stands for the target."""
    return {path: each for path, each in seen.items() if path != b"."}


@pytest.mark.slow
def test_passwords(command: Command, tree: Path, tmp_path: Path) -> None:
    """Passwords are added, changed and removed; the data stays readable by those that are left, and by no other."""
    second, third = tmp_path / "second", tmp_path / "third"
    second.write_text("the second\n")
    third.write_text("the third\n")
    no_password = {"BACKUPFORGE_PASSWORD": None}
    plain = Command(command.home, command.repository, environment=no_password)
    command("init", "--label", "first")
    command("backup", tree / "docs")

    added = command("key", "add", "--label", "laptop", "--new-password-file", second, "--json").document
    assert [(each["label"], each["current"]) for each in command("key", "list", "--json").document] == [
        ("first", True),
        ("laptop", False),
    ]
    assert len(plain("list", "--json", "--password-file", second).document) == 1

    changed = plain("key", "passwd", "--password-file", second, "--new-password-file", third, "--json").document
    assert changed["removed"] == added["id"]
    assert failure(plain("list", "--json", "--password-file", second, status=12))["error"] == "wrong-password"

    first = next(each for each in command("key", "list", "--json").document if each["label"] == "first")
    plain("key", "remove", first["id"][:8], "--password-file", third)
    command("list", status=12)
    last = plain("key", "remove", changed["id"][:8], "--password-file", third, status=1)
    assert last.err.startswith("error: ")
    plain("restore", f"latest:{tree}/docs", "--target", tmp_path / "out", "--password-command", f"cat {third}")
    assert diff(tree / "docs", tmp_path / "out") == ""
    assert "no errors found" in plain("check", "--password-file", third).out


def test_without_encryption(tmp_path: Path, tree: Path) -> None:
    """A repository without encryption asks for no password, and has none."""
    plain = without_encryption(tmp_path, "--compression", "lz4", "--chunker", "fixed:1M", "--pack-size", "4M")
    plain("backup", tree)
    plain("restore", f"latest:{tree}", "--target", tmp_path / "out")
    assert diff(tree, tmp_path / "out") == ""
    assert len(plain.objects("packs")) >= 3
    assert plain("key", "list", "--json").document == []
    plain("key", "add", status=1)


def test_dry_run(plain: Command, tree: Path, tmp_path: Path) -> None:
    """A dry run tells what a backup would do, and a backup after it does that; a dry restore touches nothing."""
    told = plain("backup", "--dry-run", tree, "--json").summary
    assert (told["dry_run"], "snapshot_id" in told) == (True, False)
    assert plain.objects(".") == [plain.repository / "config"]
    assert "dry run: nothing was stored" in plain("backup", "--dry-run", tree).out

    done = plain("backup", tree, "--json").summary
    same = ("files_new", "dirs", "others", "data_added", "blobs_added", "total_bytes_processed")
    assert {name: told[name] for name in same} == {name: done[name] for name in same}

    shutil.copytree(tree, tmp_path / "out", symlinks=True)
    (tmp_path / "out" / "docs" / "guide.txt").unlink()
    (tmp_path / "out" / "extra").touch()
    before = census(tmp_path / "out")
    told = plain("restore", f"latest:{tree}", "--target", tmp_path / "out", "--delete", "--dry-run", "--json").summary
    assert (told["files_restored"], told["files_deleted"], told["dry_run"]) == (1, 1, True)
    assert census(tmp_path / "out") == before
    plain("restore", f"latest:{tree}", "--target", tmp_path / "missing", "--dry-run")
    assert not (tmp_path / "missing").exists()


def test_skip_if_unchanged(plain: Command, tree: Path) -> None:
    """Where nothing has changed no snapshot is made, if that is asked for; where something has, it is."""
    arguments = ("backup", tree / "docs", tree / "src", "--skip-if-unchanged", "--json")
    assert "snapshot_id" in plain(*arguments).summary
    (tree / "beside").touch()
    again = plain(*arguments).summary
    assert ("snapshot_id" in again, again["files_unmodified"]) == (False, 9)
    assert len(plain.snapshots()) == 1
    (tree / "docs" / "new").touch()
    assert "snapshot_id" in plain(*arguments).summary
    assert len(plain.snapshots()) == 2


def test_lists_of_paths(plain: Command, tree: Path, tmp_path: Path) -> None:
    """Paths come from lists: with patterns and remarks, verbatim, or raw with any name there is."""
    ugly = b"a\nb\xff"
    with open(os.path.join(bytes(tree), ugly), "wb") as file:
        file.write(b"ugly")
    (tree / "#not a remark").touch()
    lists = {name: tmp_path / name for name in ("patterns", "verbatim", "raw")}
    lists["patterns"].write_text(f"# a remark\n\n{tree}/docs/*.txt\n")
    lists["verbatim"].write_text(f"{tree}/#not a remark\n{tree}/src/main.c\n")
    lists["raw"].write_bytes(os.path.join(bytes(tree), ugly) + b"\0" + bytes(tree / "private") + b"\0")

    plain("backup", "--files-from", lists["patterns"])
    assert files_in(plain, f"latest:{tree}") == {"docs/guide.txt", "docs/copy.txt"}
    plain("backup", "--files-from-verbatim", lists["verbatim"])
    assert files_in(plain, f"latest:{tree}") == {"#not a remark", "src/main.c"}
    plain("backup", "--files-from-raw", lists["raw"], tree / "docs" / "empty")
    assert files_in(plain, f"latest:{tree}") == {"a\nb\ufffd", "private/.nobackup", "private/diary"}
    plain("backup", "--files-from-verbatim", "-", stdin=bytes(tree / "latest") + b"\n")
    assert files_in(plain, f"latest:{tree}") == {"latest"}


EVERYTHING = {
    "disk.img", "docs/guide.txt", "docs/copy.txt", "latest", "private/.nobackup", "private/diary", "src/.gitignore",
    "src/Thumbs.DB", "src/build/made", "src/cache/CACHEDIR.TAG", "src/cache/cached", "src/main.c", "src/main.o",
}  # fmt: skip


@pytest.mark.parametrize(
    "arguments, left_out",
    [
        (["--exclude", "*.o", "--exclude", "docs/"], {"src/main.o", "docs/guide.txt", "docs/copy.txt"}),
        (["--iexclude", "thumbs.db"], {"src/Thumbs.DB"}),
        (["--exclude-file", "list"], {"src/main.o", "src/Thumbs.DB"}),
        (["--exclude-caches"], {"src/cache/cached"}),
        (["--exclude-if-present", ".nobackup"], {"private/diary"}),
        (["--exclude-larger-than", "1M"], {"disk.img"}),
        (["--gitignore"], {"src/build/made"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_excludes(plain: Command, tree: Path, arguments: list[str], left_out: set[str]) -> None:
    """Each option leaves out what it says and nothing else."""
    (plain.home / "list").write_text("# remarks\n\n*.DB\n*.o\n")
    plain("backup", tree, *arguments)
    assert files_in(plain, f"latest:{tree}") == EVERYTHING - left_out


def test_parts_of_a_snapshot(plain: Command, tree: Path, tmp_path: Path) -> None:
    """A restore may be of one file, of what matches, of all but what matches; and may leave alone what exists."""
    plain("backup", tree)

    plain("restore", f"latest:{tree}/docs/guide.txt", "--target", tmp_path / "one")
    assert sorted(os.listdir(tmp_path / "one")) == ["guide.txt"]

    plain("restore", "latest", "--include", "*.c", "--include", "copy.txt", "--target", tmp_path / "some")
    assert sorted(path.name for path in (tmp_path / "some").rglob("*") if path.is_file()) == ["copy.txt", "main.c"]

    plain("restore", f"latest:{tree}", "--exclude", "disk.img", "--exclude", "src", "--target", tmp_path / "others")
    assert sorted(os.listdir(tmp_path / "others")) == ["docs", "latest", "private"]

    (tmp_path / "one" / "guide.txt").write_text("mine")
    kept = plain("restore", f"latest:{tree}/docs", "--target", tmp_path / "one", "--overwrite", "never", "--json")
    assert (kept.summary["files_skipped"], kept.summary["files_restored"]) == (1, 1)
    assert (tmp_path / "one" / "guide.txt").read_text() == "mine"


def test_what_a_program_prints(plain: Command, tmp_path: Path) -> None:
    """What is piped in, or printed by a command, becomes a file of the snapshot."""
    plain("backup", "--stdin", "--stdin-filename", "piped.sql", stdin=incompressible(3, 3 * MIB))
    plain("backup", "--stdin-from-command", "--stdin-filename", "dir/printed", "--", "printf", "%s", "--help")
    assert files_in(plain, "latest:/") == {"dir/printed"}
    plain("restore", "latest", "--target", tmp_path / "out")
    plain("restore", "latest~1", "--target", tmp_path / "out")
    assert (tmp_path / "out" / "piped.sql").read_bytes() == incompressible(3, 3 * MIB)
    assert (tmp_path / "out" / "dir" / "printed").read_text() == "--help"


def test_what_a_snapshot_is_known_by(plain: Command, tree: Path) -> None:
    """Host, time, tags and label are recorded as given, and chosen by; the parent is of the same host and paths."""
    docs = tree / "docs"
    one = plain(
        "backup", docs, "--host", "web", "--time", "2020-02-29 12:00:00", "--tag", "a,b", "--label", "L", "--json"
    )
    two = plain("backup", docs, "--host", "db", "--tag", "b", "--json")
    three = plain("backup", docs, "--host", "web", "--force", "--read-concurrency", "4", "--json")
    assert "parent" not in two.summary
    assert three.summary["files_unmodified"] == 0
    found = plain("list", "--json", "--host", "web").document
    assert [each["id"] for each in found] == [one.summary["snapshot_id"], three.summary["snapshot_id"]]
    assert found[0]["time"].startswith("2020-02-29T12:00:00")
    assert (found[0]["tags"], found[0]["label"], found[0]["hostname"]) == (["a", "b"], "L", "web")
    assert len(plain("list", "--json", "--tag", "a,b").document) == 1
    assert len(plain("list", "--json", "--tag", "b").document) == 2
    assert len(plain("list", "--json", "--path", docs, "--latest", "1").document) == 2
