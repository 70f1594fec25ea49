"""The documentation of the format, tried out: a reader that was written from it, and what it says of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from bfrepo.chunker.base import ChunkerParams, make_chunker
from bfrepo.chunker.fastcdc import gear_table
from bfrepo.core.clock import SystemClock
from bfrepo.core.ids import ID_SIZE, BlobKind, short_id
from bfrepo.core.progress import Quiet
from bfrepo.core.units import MIB
from bfrepo.crypto.hashing import derive_key
from bfrepo.crypto.seal import associated_data
from bfrepo.data.node import Node
from bfrepo.data.tree import TREE_VERSION
from bfrepo.localfs.metadata import Owners
from bfrepo.operations.backup import BackupOptions, BackupResult, backup
from bfrepo.repository.config import Encryption, new_config
from bfrepo.repository.repository import Repository, init_repository
from bfrepo.sources.exclude import ExcludeRules
from bfrepo.sources.filesystem import FileSystemSource
from bfrepo.storage.local import LocalBackend

DOCS = Path(__file__).resolve().parents[2] / "docs"
READER = DOCS / "format_reader.py"


def make_repository(folder: Path, encryption: Encryption) -> Repository:
    """A new repository with the password "open sesame" where there is encryption."""
    config = new_config(encryption=encryption, created="2026-01-31T12:00:00+00:00")
    password = None if encryption == "none" else b"open sesame"
    return init_repository(LocalBackend(folder), config, SystemClock(), password=password)


def back_up(repository: Repository, files: Path) -> BackupResult:
    """One snapshot of a directory."""
    path = bytes(files)

    def open_source() -> FileSystemSource:
        return FileSystemSource(
            [path],
            rules=ExcludeRules(),
            one_file_system=False,
            with_atime=False,
            owners=Owners(),
            on_error=lambda path, error: pytest.fail(f"{path!r}: {error}"),
        )

    options = BackupOptions(paths=(path,), hostname="here", username="me", program="test")
    return backup(repository, open_source, options, Quiet(), lambda: False)


def read(folder: Path, password: str) -> subprocess.CompletedProcess[str]:
    """Runs the reader."""
    password_file = folder.with_name("password")
    password_file.write_text(f"{password}\n")
    command = [sys.executable, "-P", str(READER), str(folder), str(password_file)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("encryption", ["aes-256-gcm", "none"])
def test_the_reader_in_the_documentation_lists_the_snapshots(tmp_path: Path, encryption: Encryption) -> None:
    """What docs/format.md says is enough to open a repository and read its snapshots."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.txt").write_text("one")
    with make_repository(tmp_path / "repository", encryption) as repository:
        results = [back_up(repository, files), back_up(repository, files)]

    done = read(tmp_path / "repository", "open sesame")

    expected = [
        f"{short_id(result.snapshot_id or b'')}  {result.snapshot.time}  tree {short_id(result.snapshot.tree)}  {files}"
        for result in sorted(results, key=lambda result: result.snapshot_id or b"")
    ]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["chunker fastcdc:256K:1M:4M, compression zstd:3", *expected]


def test_the_reader_opens_nothing_with_another_password(tmp_path: Path) -> None:
    """A password that no slot has opens nothing."""
    make_repository(tmp_path / "repository", "aes-256-gcm").close()

    done = read(tmp_path / "repository", "open barley")

    assert (done.returncode, done.stdout) == (1, "")


def test_the_page_shows_the_reader_as_it_is() -> None:
    """docs/format.md holds the reader word for word."""
    assert f"```python\n{READER.read_text()}```" in (DOCS / "format.md").read_text()


def test_the_values_on_the_page_are_right() -> None:
    """The test values in docs/format.md are what the program computes."""
    page = (DOCS / "format.md").read_text()
    zeros = bytes(ID_SIZE)
    table = [f"0x{int.from_bytes(entry, 'little'):016x}" for entry in batched(gear_table(zeros))]
    data = blake3(b"backupforge test data").digest(length=8 * MIB)
    ends = make_chunker(ChunkerParams(), zeros).cut(data, 0, len(data), final=True)
    tree = msgspec.msgpack.encode([TREE_VERSION, [Node(name=b"a.txt", mode=0o644, mtime_ns=1, ctime_ns=2)], b""])

    expected = [
        *(
            f"| key `{purpose}` | `{derive_key(zeros, purpose).hex()}` |"
            for purpose in ("blob IDs", "packs", "objects")
        ),
        f"`{table[0]}`, `{table[-1]}`",
        ", ".join(map(str, ends)),
    ]
    compact = page.replace("` `", "")
    assert [value for value in expected if value not in page] == []
    assert f"`{associated_data(zeros, 'frame', BlobKind.TREE, 5).hex()}`" in compact
    assert f"`{tree.hex()}`" in compact


def batched(table: bytes) -> list[bytes]:
    """The table by entries of eight bytes."""
    return [table[at : at + 8] for at in range(0, len(table), 8)]
