"""`vma`: what people do with archives of virtual machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import vma
from tests.support.command import Command, failure, with_password

CLUSTER = 65536
DISK = bytes(range(256)) * 256 + bytes(20 * CLUSTER) + b"x" * 4096


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """A command; no repository is needed."""
    return with_password(tmp_path)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of two disks, one of which is all zeros."""
    path = tmp_path / "vzdump-qemu-100.vma"
    path.write_bytes(vma.archive({"drive-scsi0": DISK, "drive-scsi1": bytes(CLUSTER)}, seed=1))
    return path


def test_list(command: Command, archive: Path) -> None:
    """The names and sizes of what is in an archive, also from a pipe that ends early."""
    ran = command("vma", "list", archive)
    assert ("drive-scsi0" in ran.out, "qemu-server.conf" in ran.out) == (True, True)
    found = command("vma", "list", "-", "--json", stdin=archive.read_bytes()[:20000]).document
    assert found == {
        "created": "2023-11-14T22:13:20+00:00",
        "configs": [{"name": "qemu-server.conf", "size": len(vma.CONFIG)}],
        "disks": [{"name": "drive-scsi0", "size": len(DISK)}, {"name": "drive-scsi1", "size": CLUSTER}],
    }


def test_extract_keeps_holes(command: Command, archive: Path, tmp_path: Path) -> None:
    """Disks are raw images, for their owner alone, in which zeros take no room."""
    target = tmp_path / "new" / "vm"
    command("vma", "extract", archive, "--target", target)

    assert sorted(path.name for path in target.iterdir()) == ["drive-scsi0.raw", "drive-scsi1.raw", "qemu-server.conf"]
    assert (target / "drive-scsi0.raw").read_bytes() == DISK
    assert (target / "drive-scsi1.raw").read_bytes() == bytes(CLUSTER)
    assert (target / "qemu-server.conf").read_bytes() == vma.CONFIG
    assert (target / "drive-scsi0.raw").stat().st_blocks * 512 < 4 * CLUSTER
    assert (target / "drive-scsi0.raw").stat().st_mode & 0o777 == 0o600


def test_extract_one_disk_of_a_pipe(command: Command, archive: Path, tmp_path: Path) -> None:
    """Only what was asked for, and a disk that is not there is an error that names those that are."""
    data = archive.read_bytes()
    command("vma", "extract", "-", "-t", tmp_path / "vm", "--disk", "drive-scsi1", stdin=data)
    assert not (tmp_path / "vm" / "drive-scsi0.raw").exists()
    assert (tmp_path / "vm" / "drive-scsi1.raw").exists()

    ran = command("vma", "extract", "-", "-t", tmp_path / "b", "--disk", "sda", "--json", stdin=data, status=1)
    assert failure(ran)["error"] == "not-found"


def test_a_truncated_archive_gives_no_file_its_name(command: Command, archive: Path, tmp_path: Path) -> None:
    """What was read is left under another name, and does not stand in the way of the next try."""
    archive_data = archive.read_bytes()
    ran = command("vma", "extract", "-", "-t", tmp_path / "vm", "--json", stdin=archive_data[:-1], status=1)

    assert failure(ran)["error"] == "malformed-vma"
    assert {path.suffix for path in (tmp_path / "vm").iterdir()} == {".partial"}
    command("vma", "extract", archive, "-t", tmp_path / "vm")
    assert (tmp_path / "vm" / "drive-scsi0.raw").read_bytes() == DISK


def test_extract_replaces_nothing(command: Command, archive: Path, tmp_path: Path) -> None:
    """A file that is there stays, and so does what a symlink points to."""
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm" / "drive-scsi0.raw").write_text("mine")
    (tmp_path / "victim").write_text("mine")

    command("vma", "extract", archive, "-t", tmp_path / "vm", status=1)
    (tmp_path / "vm" / "drive-scsi0.raw").unlink()
    (tmp_path / "vm" / "drive-scsi0.raw.partial").symlink_to(tmp_path / "victim")
    command("vma", "extract", archive, "-t", tmp_path / "vm")

    assert (tmp_path / "victim").read_text() == "mine"


def test_create_is_the_reverse_of_extract(command: Command, archive: Path, tmp_path: Path) -> None:
    """To a file and to a pipe."""
    target = tmp_path / "vm"
    command("vma", "extract", archive, "-t", target)
    disks = [f"--disk=drive-scsi{number}={target}/drive-scsi{number}.raw" for number in (0, 1)]
    command("vma", "create", "--config", target / "qemu-server.conf", *disks, "-o", tmp_path / "new.vma")

    configs, found = vma.take_apart((tmp_path / "new.vma").read_bytes())
    assert configs == {"qemu-server.conf": vma.CONFIG}
    assert found == {"drive-scsi0": DISK, "drive-scsi1": bytes(CLUSTER)}
    with command.start("vma", "create", *disks) as process:
        assert vma.take_apart(process.communicate()[0])[1] == found


@pytest.mark.parametrize("disk", ["x", "=x", "x=", "a/b={}", "drive-scsi0={}/missing", "drive-scsi0={}/short"])
def test_what_cannot_be_a_disk(command: Command, tmp_path: Path, disk: str) -> None:
    """A wrong argument is a readable error, and no archive is left behind."""
    (tmp_path / "short").write_bytes(b"x" * 100)
    (tmp_path / "long").write_bytes(bytes(512))
    place = tmp_path / "long" if "/b" in disk else tmp_path
    done = command("vma", "create", "--disk", disk.format(place), "-o", tmp_path / "new.vma", "--json",
                   status=1 if "drive" in disk else 2)  # fmt: skip

    assert failure(done)["error"] in ("invalid-value", "source-failed", "wrong-usage")
    assert not (tmp_path / "new.vma").exists()
