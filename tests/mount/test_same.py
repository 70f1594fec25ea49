"""What programs that know nothing of backups find below a mount: the very tree that was backed up.

The tree has every kind of file, attribute and ugly name. It is compared by a program of the tests, by diff, by rsync in
both directions, and by tar.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from blake3 import blake3

from bfrepo.core.units import MIB
from tests.support.command import Command, without_encryption
from tests.support.directories import Seen, census, removable, rsync_differences
from tests.support.mounting import Mount, Mounted, mounting
from tests.support.ugly import ASPECTS, TERABYTE, terabyte

LONG_PATH: Final = "long_path"
"""Its paths are as long as paths can be; below a mount they would be longer, and only open directories lead there."""

_ALIKE: Final = re.compile(r"File (.*) is a (.*) while file (.*) is a \2")
"""What diff says of two fifos, sockets or devices, which it cannot compare."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Mounted]]:
    """The ugly tree, as much of it as this system allows, and a mount of its backup."""
    folder = tmp_path_factory.mktemp("ugly")
    source = folder / "src"
    source.mkdir()
    command = without_encryption(folder)
    with removable(source):
        for name, aspect in ASPECTS.items():
            if name == terabyte.__name__:
                continue  # nobody can compare it in any time; it has a test of its own
            (source / name).mkdir()
            try:
                aspect(source / name)
            except OSError:
                continue  # the tests of the ugly tree itself say that this system does not allow it
        command("backup", source)
        with mounting(command, folder) as mounted:
            yield source, mounted


def as_shown(seen: Seen) -> Seen:
    """What a mount can tell: it has no inode flags, and does not say where holes are."""
    return replace(seen, flags=0, data=())


def test_every_attribute(shown: tuple[Path, Mounted]) -> None:
    """Kinds, modes, owners, times, sizes, devices, targets, hard links, attributes, ACLs and contents are the same."""
    source, mounted = shown
    theirs, ours = (
        {path: as_shown(each) for path, each in census(top).items()} for top in (source, mounted.at(source))
    )
    assert ours.keys() == theirs.keys()
    assert {path: (ours[path], theirs[path]) for path in ours if ours[path] != theirs[path]} == {}


def test_terabyte(source: Path, command: Command, mount: Mount) -> None:
    """A file of a terabyte that is nearly all hole has its size, takes as many blocks, and reads anywhere at once."""
    try:
        terabyte(source)
    except OSError as error:
        pytest.skip(f"not possible here: {error}")
    command("backup", source)
    theirs, ours = source / TERABYTE, mount().at(source) / TERABYTE
    size = theirs.stat().st_size
    assert ours.stat().st_size == size
    assert ours.stat().st_blocks * 512 < 10 * MIB
    with theirs.open("rb", buffering=0) as one, ours.open("rb", buffering=0) as other:
        for offset in (0, 65_000, 1 << 39, (1 << 39) + 65_000, size // 3, size - 65_536, size - 1, size):
            assert os.pread(one.fileno(), 5000, offset) == os.pread(other.fileno(), 5000, offset)


def test_diff(shown: tuple[Path, Mounted]) -> None:
    """`diff -r --no-dereference` finds no difference."""
    source, mounted = shown
    done = subprocess.run(
        ["diff", "-r", "--no-dereference", "-x", LONG_PATH, source, mounted.at(source)],
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert done.stderr == b""
    assert [line for line in os.fsdecode(done.stdout).splitlines() if not _ALIKE.fullmatch(line)] == []


def test_rsync(shown: tuple[Path, Mounted]) -> None:
    """`rsync -naciHAX --delete` finds nothing to do, in either direction."""
    source, mounted = shown
    assert rsync_differences(source, mounted.at(source), LONG_PATH) == ""
    assert rsync_differences(mounted.at(source), source, LONG_PATH) == ""


def test_tar(shown: tuple[Path, Mounted]) -> None:
    """`tar --xattrs --acls` makes the same archive of both."""
    source, mounted = shown
    theirs, ours = members(source), members(mounted.at(source))
    assert ours.keys() == theirs.keys()
    assert {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]} == {}


def members(top: Path) -> dict[str, Any]:
    """All that a tar of a directory tells, by the names of its members."""
    line = [
        "tar", "--create", "--sort=name", "--xattrs", "--xattrs-include=*", "--acls", "--format=posix",
        "--pax-option=delete=atime,delete=ctime", f"--exclude={LONG_PATH}",
        "--warning=no-file-ignored", "-C", str(top), ".",
    ]  # fmt: skip
    found = {}
    with subprocess.Popen(line, stdout=subprocess.PIPE) as tar:
        with tarfile.open(fileobj=tar.stdout, mode="r|", errors="surrogateescape") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                digest = blake3(file.read()).digest() if file else b""
                about = member.get_info()
                found[member.name] = {**about, "pax": member.pax_headers, "digest": digest}
        assert tar.stdout is not None
        tar.stdout.read()
    assert tar.returncode == 0
    return found
