"""Where snapshots are below a mount: the usual directories, those of templates, and every version of a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

from bfrepo.repository.repository import Repository
from tests.support.directories import back_up
from tests.support.mounting import Mount

TIMES = ("2024-05-17T12:00:00+00:00", "2024-06-01T08:30:00+00:00", "2024-06-02T08:30:00+00:00")


@pytest.fixture
def three(repository: Repository, source: Path) -> list[str]:
    """Three snapshots of one file with two versions, of two hosts; their IDs, oldest first."""
    made = []
    for number, time in enumerate(TIMES):
        if number < 2:
            (source / "file").write_text("two" if number else "one")
        host, tags = "web" if number else "mail", ("all", f"tag{number}")
        made.append(back_up(repository, source, time=datetime.fromisoformat(time), hostname=host, tags=tags))
    return [each.snapshot_id.hex() for each in made if each.snapshot_id]


def names(top: Path) -> Sequence[str]:
    """What is in a directory."""
    return sorted(os.listdir(top))


def test_usual_places(three: list[str], mount: Mount, source: Path) -> None:
    """Each snapshot is there by time, ID, host and tag; `latest` beside the times is the newest of them."""
    top = mount().top
    assert names(top) == ["hosts", "ids", "latest", "snapshots", "tags", "versions"]
    assert names(top / "snapshots") == [*TIMES, "latest"]
    assert names(top / "ids") == sorted(each[:8] for each in three)
    assert names(top / "hosts") == ["mail", "web"]
    assert names(top / "hosts" / "web") == [*TIMES[1:], "latest"]
    assert names(top / "tags") == ["all", "tag0", "tag1", "tag2"]
    below = Path(*source.parts[1:], "file")
    for place, content in (
        ("latest", "two"),
        (f"snapshots/{TIMES[1]}", "two"),
        ("hosts/mail/latest", "one"),
        (f"ids/{three[2][:8]}", "two"),
        ("tags/tag2/latest", "two"),
    ):
        assert (top / place / below).read_text() == content


def test_times_of_what_is_made_up(three: list[str], mount: Mount) -> None:
    """A snapshot's directory has the time of the snapshot, so that `ls -lt` sorts them."""
    top = mount().top
    looks = [(top / "snapshots" / name).stat() for name in TIMES]
    assert [look.st_mtime for look in looks] == sorted(look.st_mtime for look in looks)
    assert looks[0].st_mtime == 1715947200
    assert (top / "latest").lstat().st_mtime == looks[-1].st_mtime


def test_path_template(three: list[str], mount: Mount, source: Path) -> None:
    """--path-template puts snapshots where it says, in place of the usual directories."""
    top = mount("--path-template", "by/%h/%T", "--path-template", "id-%I").top
    assert names(top) == sorted(["by", "versions", *(f"id-{each}" for each in three)])
    assert names(top / "by" / "web") == [*TIMES[1:], "latest"]
    assert (top / f"id-{three[0]}" / source.relative_to("/") / "file").read_text() == "one"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [(["--host", "mail"], [0]), (["--tag", "tag1", "--tag", "tag2"], [1, 2]), (["--path", "/nowhere"], [])],
)
def test_filters(three: list[str], mount: Mount, arguments: list[str], shown: list[int]) -> None:
    """--host, --tag and --path narrow down what is shown; with nothing to show the mount is empty, and no error."""
    top = mount(*arguments).top
    found = names(top / "ids") if shown else [name for name in names(top) if name != "versions"]
    assert found == sorted(three[number][:8] for number in shown)


def test_versions(three: list[str], mount: Mount, source: Path) -> None:
    """versions/ has each version of a file once, named by the first snapshot that has it, as the file it was."""
    top = mount().top
    folder = top / "versions" / source.relative_to("/") / "file"
    assert names(folder) == [TIMES[0], TIMES[1]]
    assert [(folder / name).read_text() for name in names(folder)] == ["one", "two"]
    assert (folder / TIMES[1]).stat().st_mtime_ns == (source / "file").stat().st_mtime_ns


def test_owner_me(repository: Repository, source: Path, mount: Mount) -> None:
    """With --owner-me all files belong to who mounts them, whoever they belonged to."""
    (source / "file").touch()
    if os.geteuid() == 0:
        os.chown(source / "file", 54321, 54322)
    back_up(repository, source)
    look = (mount("--owner-me").at(source) / "file").stat()
    assert (look.st_uid, look.st_gid) == (os.getuid(), os.getgid())


def test_nothing_can_be_changed(three: list[str], mount: Mount, source: Path) -> None:
    """Every attempt to change something fails as on a read-only file system."""
    mounted = mount()
    file = mounted.at(source) / "file"
    for change in (
        lambda: file.write_text("x"),
        lambda: file.unlink(),
        lambda: file.chmod(0o600),
        lambda: os.utime(file),
        lambda: (mounted.top / "new").mkdir(),
        lambda: file.rename(file.with_name("other")),
    ):
        with pytest.raises(OSError, match="Read-only file system"):
            change()


def test_size_of_the_file_system(three: list[str], mount: Mount) -> None:
    """`df` shows what the repository takes, and nothing free."""
    mounted = mount()
    look = os.statvfs(mounted.top)
    packs = sum(path.stat().st_size for path in mounted.command.objects("packs"))
    assert packs <= look.f_blocks * look.f_frsize < packs + 100_000
    assert look.f_bavail == 0
