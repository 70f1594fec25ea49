"""`diff`: how changes look."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from bfrepo.core.ids import BlobKind
from tests.support.program import Bf


@pytest.fixture
def changed(bf: Bf, backed_up: str, files: Path) -> str:
    """A second snapshot: one file changed, one directory gone, a new one, and one with another mode."""
    (files / "a.txt").write_text("first, and more\n")
    (files / "sub" / "c.txt").unlink()
    (files / "sub").rmdir()
    (files / "new").mkdir()
    (files / "new" / "d").write_bytes(b"x" * 2048)
    (files / "b.bin").chmod(0o600)
    snapshot: str = bf("backup", "--json", files).summary["snapshot_id"]
    return snapshot


def test_the_lines(bf: Bf, backed_up: str, changed: str, files: Path) -> None:
    """As restic has them: a sign, and a path that ends in a slash if it is a directory; counts at the end."""
    ran = bf("diff", f"{backed_up[:8]}:{files}", f"latest:{files}")

    assert ran.status == 0
    assert ran.out.splitlines() == [
        f"Comparing {backed_up[:8]}:{files} with {changed[:8]}:{files}",
        "",
        "M    /a.txt",
        "+    /new/",
        "+    /new/d",
        "-    /sub/",
        "-    /sub/c.txt",
        "",
        "Files:       1 added, 1 removed, 1 changed",
        "Directories: 1 added, 1 removed",
        "Others:      0 added, 0 removed, 0 changed",
        "Content:     2.00 KiB added, 6 B removed, 6 B changed to 16 B",
        *ran.out.splitlines()[-1:],
    ]
    assert ran.out.splitlines()[-1].startswith("Blobs:       4 (")


def test_quiet_and_verbose(bf: Bf, backed_up: str, changed: str, files: Path) -> None:
    """-q leaves the changes alone, -v adds sizes."""
    ran = bf("diff", "-q", f"latest~1:{files}", f"latest:{files}")
    assert ran.out.splitlines() == ["M    /a.txt", "+    /new/", "+    /new/d", "-    /sub/", "-    /sub/c.txt"]
    ran = bf("diff", "-v", f"latest~1:{files}", f"latest:{files}")
    assert {"M    /a.txt, 6 B -> 16 B", "+    /new/d, 2.00 KiB", "-    /sub/"} <= set(ran.out.splitlines())


def test_metadata(bf: Bf, backed_up: str, changed: str, files: Path) -> None:
    """Which fields differ stands behind the path, and their number among the counts."""
    lines = bf("diff", "--metadata", f"latest~1:{files}", f"latest:{files}").out.splitlines()

    assert "U    /b.bin  (mode, ctime)" in lines
    assert "Metadata:    1 changed" in lines
    assert any(line.startswith("M    /a.txt  (mtime, ctime") for line in lines)


def test_nothing_changed(bf: Bf, backed_up: str) -> None:
    """One line says so, and what was not looked at."""
    assert bf("diff", "latest", "latest").out.splitlines()[-1] == "nothing changed; metadata was not compared"
    assert bf("diff", "--metadata", "latest", "latest").out.splitlines()[-1] == "nothing changed"


def test_json(bf: Bf, backed_up: str, changed: str, files: Path) -> None:
    """A line for each change and one of statistics, with restic's names."""
    *changes, statistics = bf("diff", "--json", "--metadata", f"latest~1:{files}", f"latest:{files}").lines

    assert [(each["message_type"], each["modifier"], each["path"], each["type"]) for each in changes] == [
        ("change", "M", "/a.txt", "file"),
        ("change", "U", "/b.bin", "file"),
        ("change", "+", "/new/", "dir"),
        ("change", "+", "/new/d", "file"),
        ("change", "-", "/sub/", "dir"),
        ("change", "-", "/sub/c.txt", "file"),
    ]
    assert (changes[0]["size_before"], changes[0]["size_after"]) == (6, 16)
    assert changes[1]["metadata"] == ["mode", "ctime"]
    assert (statistics["message_type"], statistics["source_snapshot"]) == ("statistics", backed_up)
    assert (statistics["target_snapshot"], statistics["target_path"]) == (changed, str(files))
    assert statistics["changed_files"] == 1
    added = statistics["added"]
    assert (added["files"], added["dirs"], added["others"], added["size"]) == (1, 1, 0, 2048)
    assert (added["data_blobs"], added["tree_blobs"]) == (2, 2)


def test_names_that_are_not_text(bf: Bf, backed_up: str, files: Path) -> None:
    """They are shown with escapes; JSON has their bytes."""
    name = b"\xff\x1b[31m"
    (files / os.fsdecode(name)).touch()
    bf("backup", files)

    assert r"+    /\xff\x1b[31m" in bf("diff", f"latest~1:{files}", f"latest:{files}").out.splitlines()
    change = bf("diff", "--json", f"latest~1:{files}", f"latest:{files}").lines[0]
    assert base64.b64decode(change["path_raw"]) == b"/" + name


def test_a_directory_that_cannot_be_read(
    bf: Bf, backed_up: str, changed: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, and the exit code says that something is missing."""
    from bfrepo.core.errors import DamagedBlob
    from bfrepo.repository.loader import Loader

    load = Loader.load

    def lose(loader: Loader, kind: BlobKind, blob_id: bytes) -> bytes:
        blob = load(loader, kind, blob_id)
        if b"c.txt" in blob:
            raise DamagedBlob("it is broken")
        return blob

    monkeypatch.setattr(Loader, "load", lose)
    ran = bf("diff", f"latest~1:{files}", f"latest:{files}")

    assert ran.status == 3
    assert ran.err.endswith("error: /sub: it is broken\n")
    assert "-    /sub/" in ran.out


def test_filters_apply_to_latest(bf: Bf, backed_up: str, files: Path) -> None:
    """`latest` of another host is another snapshot."""
    (files / "z").touch()
    bf("backup", "--host", "elsewhere", files)
    (files / "z").unlink()
    bf("backup", files)

    ran = bf("diff", "-q", "--host", "elsewhere", f"latest:{files}", f"{backed_up[:8]}:{files}")

    assert ran.out == "-    /z\n"
