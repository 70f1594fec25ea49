"""Snapshots are restored to another host by its own tar."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bfrepo.core.errors import DamagedObject, TargetError, UsageError
from bfrepo.data.node import Node
from bfrepo.data.selection import SnapshotFilter
from bfrepo.operations.restore import RestoreResult
from bfrepo.operations.restore_remote import RemoteTarget, restore_to_host
from bfrepo.repository.repository import Repository
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.sources.exclude import PathFilter
from bfrepo.sources.ssh.place import RemoteHost
from bfrepo.ssh.config import SshSettings
from tests.support.backups import never
from tests.support.damage import save_snapshot_of
from tests.support.directories import Problems, census, removable
from tests.support.repositories import make_repository
from tests.support.ssh_source import back_up_host
from tests.support.sshd import Sshd, serve
from tests.support.ugly import ASPECTS

NOT_IN_TAR = ("no_dump", "unchangeable", "specials")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A host that runs commands."""
    with serve(tmp_path_factory.mktemp("sshd")) as sshd:
        yield sshd


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """Where the tree is made. It and what comes back of it, in "out", can be removed afterwards."""
    top = tmp_path / "src"
    top.mkdir()
    with removable(top, tmp_path / "out"):
        yield top


def send(
    repository: Repository, what: str, sshd: Sshd, target: Path, problems: Problems | None = None, **options: Any
) -> RestoreResult:
    """Restore to the host. Without `problems` there may be none."""
    settings = SshSettings(
        identity_file=sshd.options.identity_file,
        known_hosts=sshd.options.known_hosts,
        config_file=sshd.options.config_file,
    )
    there = RemoteTarget(RemoteHost("127.0.0.1", getpass.getuser(), sshd.port), settings)
    reporter = problems if problems is not None else Problems()
    chosen = RestoreOptions(target=bytes(target), **options)
    result = restore_to_host(repository, what, SnapshotFilter(), there, chosen, reporter, never)
    if problems is None:
        assert reporter.found == []
    return result


@pytest.mark.parametrize("aspect", [each for each in ASPECTS if each not in NOT_IN_TAR])
def test_ugly_tree(aspect: str, sshd: Sshd, source: Path, tmp_path: Path) -> None:
    """Each aspect of the ugly tree is on the other host as it was; a second restore finds it unchanged."""
    try:
        ASPECTS[aspect](source)
    except OSError as error:
        pytest.skip(f"not possible here: {error}")
    before = census(source)
    repository = make_repository()
    back_up_host(repository, sshd, source)
    send(repository, f"latest:{tmp_path}", sshd, tmp_path / "out")
    assert census(tmp_path / "out" / "src") == before
    again = send(repository, f"latest:{tmp_path}", sshd, tmp_path / "out").summary
    assert (again.files.created, again.files.updated) == (0, 0)
    assert census(tmp_path / "out" / "src") == before


def test_sockets_are_left_out(sshd: Sshd, source: Path, tmp_path: Path) -> None:
    """What tar cannot hold is left out with a warning; everything beside it is there."""
    ASPECTS["specials"](source)
    repository = make_repository()
    back_up_host(repository, sshd, source)
    send(repository, f"latest:{source}", sshd, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fifo"]


@pytest.fixture
def three(sshd: Sshd, source: Path) -> Repository:
    """A repository with three files and a directory."""
    for name in ("one", "two", "below/three"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(name)
        os.utime(source / name, (10**9, 10**9))
    repository = make_repository()
    back_up_host(repository, sshd, source)
    return repository


@pytest.mark.parametrize(
    ("overwrite", "expected"),
    [
        ("always", {"one": "one", "two": "two", "below/three": "below/three"}),
        ("if-changed", {"one": "one", "two": "two", "below/three": "below/three"}),
        ("if-newer", {"one": "newer", "two": "two", "below/three": "below/three"}),
        ("never", {"one": "newer", "two": "older", "below/three": "below/three"}),
    ],
)
def test_what_exists(overwrite: str, expected: dict[str, str], sshd: Sshd, three: Repository, tmp_path: Path) -> None:
    """What exists on the host is replaced or kept by the same rules as here, and what is beside it stays."""
    out = tmp_path / "out"
    out.mkdir()
    for name, text, time in (("one", "newer", 2 * 10**9), ("two", "older", 10**8), ("own", "own", 0)):
        (out / name).write_text(text)
        os.utime(out / name, (time, time))
    send(three, f"latest:{tmp_path}/src", sshd, out, overwrite=overwrite)
    assert {name: (out / name).read_text() for name in expected} == expected
    assert (out / "own").read_text() == "own"


def test_selection_and_dry_run(sshd: Sshd, three: Repository, tmp_path: Path) -> None:
    """Patterns choose what is sent, directories on the way included; a dry run sends nothing, and makes no target."""
    out = tmp_path / "out"
    chosen: dict[str, Any] = {"selection": PathFilter(include=["thr*"], exclude=[]).selects}
    summary = send(three, f"latest:{tmp_path}/src", sshd, out, dry_run=True, **chosen).summary
    assert (summary.files.created, summary.directories.created) == (1, 1)
    assert not out.exists()
    send(three, f"latest:{tmp_path}/src", sshd, out, **chosen)
    assert sorted(path.name for path in out.rglob("*")) == ["below", "three"]


def test_symlinks_do_not_lead_out(sshd: Sshd, three: Repository, tmp_path: Path) -> None:
    """A symlink on the host where a directory of the snapshot goes is replaced, or kept and nothing written behind it:
    never is it followed.
    """
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    out.mkdir()
    (out / "below").symlink_to(elsewhere)
    problems = Problems()
    send(three, f"latest:{tmp_path}/src", sshd, out, problems, overwrite="never")
    assert [path for path, _ in problems.found] == [b"below"]
    assert list(elsewhere.iterdir()) == []
    send(three, f"latest:{tmp_path}/src", sshd, out)
    assert list(elsewhere.iterdir()) == []
    assert (out / "below" / "three").read_text() == "below/three"
    assert not (out / "below").is_symlink()


def test_hard_links_of_which_one_is_chosen(sshd: Sshd, source: Path, tmp_path: Path) -> None:
    """Names of one file whose first is not restored are one file all the same."""
    (source / "a").write_text("content")
    for name in ("b", "c"):
        os.link(source / "a", source / name)
    repository = make_repository()
    back_up_host(repository, sshd, source)
    out = tmp_path / "out"
    send(repository, f"latest:{source}", sshd, out, selection=PathFilter(include=[], exclude=["a"]).selects)
    assert sorted(path.name for path in out.iterdir()) == ["b", "c"]
    assert (out / "b").samefile(out / "c")
    assert (out / "c").read_text() == "content"
    send(repository, f"latest:{source}", sshd, out)
    assert (out / "a").samefile(out / "b")
    assert (out / "b").samefile(out / "c")


def test_what_cannot_be_written_is_reported(sshd: Sshd, three: Repository, tmp_path: Path) -> None:
    """A directory that is full where a file goes is reported, by its name, and the rest is restored."""
    out, problems = tmp_path / "out", Problems()
    (out / "one" / "full").mkdir(parents=True)
    result = send(three, f"latest:{tmp_path}/src", sshd, out, problems)
    assert [path for path, _ in problems.found] == [b"one"]
    assert result.summary.errors == 1
    assert (out / "two").read_text() == "two"


def test_refusals(sshd: Sshd, three: Repository, tmp_path: Path) -> None:
    """What cannot be done on another host is refused before anything is, saying what can."""
    refused_options: list[dict[str, Any]] = [{"delete": True}, {"verify": True}, {"sparse": False}]
    for option in refused_options:
        with pytest.raises(UsageError, match="this machine") as refused:
            send(three, "latest", sshd, tmp_path / "out", **option)
        assert refused.value.hint
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TargetError, match=r"127\.0\.0\.1"):
        send(three, "latest", sshd, tmp_path / "file")
    with serve(tmp_path / "sftp", "ForceCommand internal-sftp") as sftp_only, pytest.raises(TargetError) as without:
        send(three, "latest", sftp_only, tmp_path / "out")
    assert without.value.hint
    assert not (tmp_path / "out").exists()


def test_hostile_names(sshd: Sshd, tmp_path: Path) -> None:
    """A tree that names what is above the target, or elsewhere, is refused, and nothing of it is written."""
    for name in (b"..", b"../evil", b"/etc/evil", b"."):
        repository = make_repository()
        save_snapshot_of(repository, [Node(name=name)])
        with pytest.raises(DamagedObject, match="not allowed"):
            send(repository, "latest", sshd, tmp_path / "out" / "in")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["in"]
