"""--verify: what was restored is read back and compared once more."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bfrepo.restorer.files import FileWriter
from tests.restorer.conftest import Restore
from tests.support.trees import MTIME, TreeMaker


def test_what_is_right_passes(make: TreeMaker, run: Restore, target: Path) -> None:
    """Files small, large, with holes and linked verify, every byte of content once, and access times stay."""
    content = bytearray(os.urandom(400_000))
    content[65_536:200_000] = bytes(200_000 - 65_536)
    summary, seen = run(
        make.file("s", b"small", atime_ns=MTIME),
        make.file("h", bytes(content), [(65_536, 200_000 - 65_536)]),
        make.file("l", os.urandom(300_000)),
        verify=True,
    )

    assert seen.errors == []
    assert summary.bytes_verified == 5 + 400_000 - (200_000 - 65_536) + 300_000
    assert os.stat(target / "s").st_atime_ns == MTIME


def test_what_was_kept_is_verified_too(make: TreeMaker, run: Restore, target: Path) -> None:
    """A file that was taken as unchanged, by size and time, and is not, is found out and reported once."""
    run(make.file("f", b"right"), make.file("g", b"x" * 200_000))
    (target / "f").write_bytes(b"wrong")
    (target / "g").write_bytes(b"y" * 200_000)
    for name in ("f", "g"):
        os.utime(target / name, ns=(MTIME, MTIME))

    summary, seen = run(make.file("f", b"right"), make.file("g", b"x" * 200_000), verify=True)

    assert sorted(path for path, _ in seen.errors) == [b"/f", b"/g"]
    assert all(why.startswith("verifying: it differs from the snapshot") for _, why in seen.errors)
    assert summary.errors == 2


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda file: file.write_bytes(b"z"), "verifying: it has 1 bytes, not 400000"),
        (lambda file: file.unlink(), "No such file or directory"),
        (lambda file: make_fifo(file), "verifying: it has 0 bytes, not 400000"),
        (lambda file: write_at(file, 390_000), "verifying: it differs from the snapshot after byte 331072"),
        (lambda file: write_at(file, 100_000), "verifying: it should be a hole at byte 98304"),
    ],
)
def test_what_is_spoiled_after_writing_is_found(
    make: TreeMaker,
    run: Restore,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], object],
    why: str,
) -> None:
    """Whatever happens to a file between writing and verifying is reported, once."""
    content = bytearray(os.urandom(400_000))
    content[65_536:200_000] = bytes(200_000 - 65_536)
    complete = FileWriter._complete

    def complete_and_spoil(self: FileWriter, file: Any) -> None:
        complete(self, file)
        spoil(target / "f")

    monkeypatch.setattr(FileWriter, "_complete", complete_and_spoil)

    summary, seen = run(make.file("f", bytes(content), [(65_536, 200_000 - 65_536)]), verify=True)

    assert seen.errors == [(b"/f", why)]
    assert summary.errors == 1


def make_fifo(file: Path) -> None:
    """Puts a fifo in its place."""
    file.unlink()
    os.mkfifo(file)


def write_at(file: Path, offset: int) -> None:
    """Changes one byte."""
    with open(file, "r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte[0] ^ 1]))
