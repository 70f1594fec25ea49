"""Every version of every file, once, under its path."""

from __future__ import annotations

import pytest

from bfrepo.core.errors import ObjectNotFound
from bfrepo.core.ids import BlobKind
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind
from tests.support.backups import run_backup
from tests.support.browsing import browsing, contents
from tests.support.repositories import FakeClock, make_repository, reopen
from tests.support.sources import Item, folder, written


class Days:
    """A repository that gets a snapshot a day."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.repository = make_repository(clock=self.clock)

    def back_up(self, tree: dict[str, Item | bytes], hostname: str = "here") -> bytes:
        """The snapshot of a day; its name by time."""
        time = self.clock.time.isoformat(timespec="seconds").encode()
        run_backup(self.repository, tree, hostname=hostname)
        self.clock.advance(24 * 3600)
        return time

    def versions(self) -> dict[bytes, bytes | None]:
        """Everything below versions."""
        with browsing(reopen(self.repository.backend)) as browser:
            return dict(contents(browser.directory("versions"), browser))


@pytest.fixture
def days() -> Days:
    """Before the first day."""
    return Days()


def test_each_version_once(days: Days) -> None:
    """A file that stays the same has one version, by its first day; one that changes has each."""
    first = days.back_up({"dir/same": b"s", "dir/other": written(b"1", again=1)})
    second = days.back_up({"dir/same": b"s", "dir/other": written(b"2", again=2)})
    days.back_up({"dir/same": b"s", "dir/other": written(b"2", again=2)})
    assert days.versions() == {
        b"/dir": None,
        b"/dir/other": None,
        b"/dir/other/" + first: b"1",
        b"/dir/other/" + second: b"2",
        b"/dir/same": None,
        b"/dir/same/" + first: b"s",
    }


def test_one_that_comes_back_after_another_is_a_version_again(days: Days) -> None:
    """A file that is as it was before has a version of that day, too: what it was at any time can be told."""
    times = [
        days.back_up({"file": written(content, again=again)}) for content, again in ((b"a", 1), (b"b", 2), (b"a", 1))
    ]
    assert days.versions() == {
        b"/file": None,
        **{b"/file/" + time: content for time, content in zip(times, (b"a", b"b", b"a"), strict=True)},
    }


def test_a_deleted_file_stays(days: Days) -> None:
    """What the newest snapshot does not have is there all the same, and is not another version when it comes back."""
    first = days.back_up({"file": b"x", "other": b"y"})
    days.back_up({"other": b"y"})
    days.back_up({"file": b"x", "other": b"y"})
    assert days.versions() == {b"/file": None, b"/file/" + first: b"x", b"/other": None, b"/other/" + first: b"y"}


def test_hosts_have_their_own_versions(days: Days) -> None:
    """The same path on two hosts are two files, whose versions do not stand between each other's."""
    first = days.back_up({"file": b"web"}, "web")
    second = days.back_up({"file": b"mail"}, "mail")
    days.back_up({"file": b"web"}, "web")
    assert days.versions() == {b"/file": None, b"/file/" + first: b"web", b"/file/" + second: b"mail"}


def test_a_directory_that_was_a_file(days: Days) -> None:
    """A path that was a file and then a directory has the versions of one and the entries of the other."""
    first = days.back_up({"x": b"file"})
    second = days.back_up({"x/inside": b"i"})
    assert days.versions() == {b"/x": None, b"/x/" + first: b"file", b"/x/inside": None, b"/x/inside/" + second: b"i"}


def test_other_kinds_have_versions(days: Days) -> None:
    """A symlink's versions are symlinks; an empty directory is one."""
    first, second = (
        days.back_up({"link": Item(type="symlink", target=target, ctime_ns=at), "dir": folder()})
        for at, target in enumerate((b"old", b"new"))
    )
    assert days.versions() == {
        b"/dir": None, b"/link": None, b"/link/" + first: b"old", b"/link/" + second: b"new",
    }  # fmt: skip


def test_metadata_makes_a_version(days: Days) -> None:
    """Other rights are another version with the same content; a version has its own metadata."""
    times = [days.back_up({"file": Item(content=b"x", mode=mode, ctime_ns=mode)}) for mode in (0o600, 0o640)]
    with browsing(days.repository) as browser:
        assert [browser.node("versions", "file", time).mode for time in times] == [0o600, 0o640]
        node = browser.node("versions", "file")
        assert (node.type, node.mode) == ("dir", 0o550)


def test_directories_are_as_the_newest_snapshot_has_them(days: Days) -> None:
    """A directory has the rights of the last snapshot that has it, also where an earlier one had the same tree."""
    for day, mode in enumerate((0o700, 0o755, 0o700)):
        days.back_up({"above/dir": folder(mode=mode, ctime_ns=day)})
    with browsing(days.repository) as browser:
        assert browser.node("versions", "above", "dir").mode == 0o700


def test_listings_make_room(days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many entries are kept, and what went comes again."""
    monkeypatch.setattr("bfrepo.vfs.versions._MOST_NODES", 3)
    monkeypatch.setattr("bfrepo.vfs.versions._MOST_PATHS", 2)
    time = days.back_up({f"{name}/{number}": b"x" for name in "ab" for number in range(3)})
    with browsing(days.repository) as browser:
        inside = browser.directory("versions", "a")
        first = inside.load()
        assert inside.at_hand() is first
        for _ in range(2):
            assert browser.names("versions", "b", "1") == [time]
            assert [node.name for node in inside.load().nodes] == [b"0", b"1", b"2"]
        assert inside.load() is not first


def test_it_grows(days: Days) -> None:
    """A new snapshot's versions are there after the next look, in a directory that somebody is in."""
    first = days.back_up({"file": written(b"1", again=1)})
    with browsing(days.repository) as browser:
        inside = browser.directory("versions", "file")
        assert [node.name for node in inside.load().nodes] == [first]
        second = days.back_up({"file": written(b"2", again=2)})
        browser.refresh()
        assert [node.name for node in inside.load().nodes] == [first, second]
        browser.files.show({})
        with pytest.raises(ObjectNotFound):
            inside.load()


def test_a_damaged_directory_is_left_out_and_said(days: Days) -> None:
    """Where one snapshot's directory cannot be read the versions of the others are shown, and the path is told."""
    first = days.back_up({"dir/file": written(b"1", again=1), "other": b"o"})
    second = days.back_up({"dir/file": written(b"2", again=2), "other": b"o"})
    repository = reopen(days.repository.backend)
    lost = tree_pack_of(repository, second)
    repository.backend.delete(ObjectKind.PACK, lost)
    with browsing(repository) as browser:
        found = contents(browser.directory("versions"), browser)
        assert found[b"/dir/file/" + first] == b"1"
        assert b"/dir/file/" + second not in found
        assert browser.left_out


def tree_pack_of(repository: Repository, time: bytes) -> str:
    """The pack with the root tree of the snapshot of a time."""
    with browsing(repository) as browser:
        root = browser.node("snapshots", time).subtree
    table = repository.index.table
    frame = repository.loader.place(root).frame
    assert table.kind_of(frame) is BlobKind.TREE
    return table.pack_of(frame).hex()
