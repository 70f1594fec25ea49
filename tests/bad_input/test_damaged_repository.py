"""Something in the repository is missing or damaged: what each command says, and that it restores what is whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.backups import incompressible
from tests.support.command import Command, failure

Harm = Callable[[Path], None]


def missing(path: Path) -> None:
    """Gone."""
    path.unlink()


def flipped(path: Path) -> None:
    """One bit in the middle is another one."""
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    """Nothing in it, as after a crash of a file system."""
    path.chmod(0o600)
    path.write_bytes(b"")


any_harm = pytest.mark.parametrize("harm", [missing, flipped, empty])


@dataclass(frozen=True)
class Late:
    """What the second of two backups wrote: the pack with the content of the file "late", and its index object."""

    pack: Path
    index: Path
    snapshot: Path


@pytest.fixture
def late(plain: Command, source: Path) -> Late:
    """Two snapshots; the second one has one more file."""
    plain("backup", source)
    before = {kind: set(plain.objects(kind)) for kind in ("packs", "index", "snapshots")}
    (source / "late").write_bytes(incompressible(2, 400_000))
    plain("backup", source)
    new = {kind: set(plain.objects(kind)) - known for kind, known in before.items()}
    pack = max(new["packs"], key=lambda path: path.stat().st_size)
    return Late(pack, min(new["index"]), min(new["snapshots"]))


@any_harm
def test_pack(plain: Command, source: Path, late: Late, harm: Harm, tmp_path: Path) -> None:
    """A restore names the file and restores the others; a check names the pack and the file. A backup that misses a
    pack stores again what it needs of it, and all is well (INV-1)."""
    harm(late.pack)
    ran = plain("restore", f"latest:{source}", "--target", tmp_path / "out", "--json", status=3)
    assert [line["path"] for line in ran.lines if line["message_type"] == "error"] == ["/late"]
    assert ran.summary["errors"] == 1
    assert (tmp_path / "out" / "a").read_bytes() == (source / "a").read_bytes()
    plain("restore", f"latest~1:{source}", "--target", tmp_path / "old")
    assert len(plain.snapshots()) == 2

    ran = plain("check", "--read-data", status=1)
    assert late.pack.name[:8] in ran.err
    assert f"{source}/late" in ran.err
    found = plain("check", status=0 if harm is flipped else 1).err
    assert found.count(f"error: pack {late.pack.name[:8]}") == (harm is not flipped)

    ran = plain("backup", source)
    if harm is missing:
        assert f"pack {late.pack.name[:8]} is missing" in ran.err
        plain("restore", f"latest:{source}", "--target", tmp_path / "again", "--verify")
        assert (tmp_path / "again" / "late").read_bytes() == incompressible(2, 400_000)


@any_harm
def test_index(plain: Command, source: Path, late: Late, harm: Harm, tmp_path: Path) -> None:
    """INV-6: a restore finds everything without the index object; who would write refuses one that is damaged."""
    harm(late.index)
    shutil.rmtree(plain.home / ".cache")  # which knows what was written from here
    ran = plain("restore", f"latest:{source}", "--target", tmp_path / "out")
    assert (f"warning: index {late.index.name[:8]}" in ran.err) == (harm is not missing)
    assert (tmp_path / "out" / "late").read_bytes() == incompressible(2, 400_000)
    assert len(plain.snapshots()) == 2
    assert plain("check", status=1).err.startswith("error: ")
    if harm is missing:
        plain("backup", source)
        plain("restore", f"latest:{source}", "--target", tmp_path / "again", "--verify")
    else:
        ran = plain("backup", source, status=1)
        assert f"index {late.index.name[:8]} in {plain.repository}" in ran.err
        assert len(plain.snapshots()) == 2


def test_no_index_at_all(plain: Command, source: Path, late: Late, tmp_path: Path) -> None:
    """INV-6: every index object is gone, and every snapshot restores."""
    for path in plain.objects("index"):
        path.unlink()
    for snapshot in ("latest", "latest~1"):
        plain("restore", f"{snapshot}:{source}", "--target", tmp_path / snapshot, "--verify")
    assert sorted(path.name for path in (tmp_path / "latest").iterdir()) == ["a", "b", "late", "sub"]
    assert sorted(path.name for path in (tmp_path / "latest~1").iterdir()) == ["a", "b", "sub"]


@any_harm
def test_snapshot(plain: Command, source: Path, late: Late, harm: Harm, tmp_path: Path) -> None:
    """The others are listed and restored; the one that is damaged is named by whoever meets it."""
    harm(late.snapshot)
    damaged = harm is not missing
    name = late.snapshot.name[:8]
    ran = plain("list", status=3 if damaged else 0)
    assert "1 snapshot\n" in ran.out
    assert (f"snapshot {name} in {plain.repository}" in ran.err) == damaged
    assert name in plain("restore", late.snapshot.name, "--target", tmp_path / "none", status=1).err
    plain("restore", f"latest:{source}", "--target", tmp_path / "out")
    assert not (tmp_path / "out" / "late").exists()
    assert (tmp_path / "out" / "b").read_text() == "b\n"
    assert (name in plain("check", status=1 if damaged else 0).err) == damaged
    plain("backup", source)
    plain("restore", f"latest:{source}", "--target", tmp_path / "again", "--verify")
    assert (tmp_path / "again" / "late").exists()


@any_harm
def test_key(encrypted: Command, source: Path, harm: Harm, tmp_path: Path) -> None:
    """Without its only key nothing opens the repository, and the error says that it is not the password. One of two is
    enough."""
    encrypted("backup", source)
    (first,) = encrypted.objects("keys")
    (tmp_path / "second").write_text("second\n")
    encrypted("key", "add", "--new-password-file", tmp_path / "second")
    harm(first)
    encrypted("list", "--password-file", tmp_path / "second")
    (second,) = set(encrypted.objects("keys")) - {first}
    second.unlink()
    for arguments in (("list",), ("restore", "latest", "--target", "out"), ("backup", source), ("check",)):
        ran = encrypted(*arguments, status=1)
        assert ("no key slots" if harm is missing else f"key {first.name[:8]}") in ran.err
    assert "check" in encrypted("check", "--no-key", status=0 if harm is missing else 1).out.lower()


@any_harm
def test_config(plain: Command, source: Path, harm: Harm) -> None:
    """No config, no repository; a damaged one is named. Nothing is written, and no new repository is made there."""
    plain("backup", source)
    harm(plain.repository / "config")
    status, code = (10, "no-repository") if harm is missing else (1, "damaged-object")
    for arguments in (("list",), ("restore", "latest", "--target", "out"), ("backup", source), ("check",)):
        found = failure(plain(*arguments, "--json", status=status))
        assert found["error"] == code
        assert str(plain.repository) in found["message"]
    plain("init", "--encryption", "none", status=1)
    assert len(plain.objects("snapshots")) == 1
