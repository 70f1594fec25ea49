"""The command line's words about storages: options, limits, and what a storage is tried out with."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.command import with_password
from tests.support.program import Bf
from tests.support.sshd import free_port


def test_options_add_up_before_and_behind_the_command(bf: Bf) -> None:
    """Options of the storage may stand on both sides of the command's name; all of them are looked at."""
    assert bf("init").status == 0
    assert bf("-o", "s3.region=a", "list", "--option", "s3.profile=b", "-o", "rest.connections=2").status == 0
    for line in (("-o", "s3.wrong=1", "list", "-o", "s3.region=a"), ("-o", "s3.region=a", "list", "-o", "s3.wrong=1")):
        ran = bf(*line)
        assert (ran.status, "'s3.wrong' is no option of a storage" in ran.err) == (2, True)


def test_a_command_has_its_own_short_option(bf: Bf, backed_up: str, files: Path, tmp_path: Path) -> None:
    """Where `-o` means something to a command it means that behind the command's name, and the long form stays."""
    target = tmp_path / "out.txt"
    line = ("-o", "s3.region=a", "dump", "latest", files / "a.txt", "-o", target, "--option", "s3.profile=b")
    assert bf(*line).status == 0
    assert target.read_text() == "first\n"


@pytest.mark.parametrize("option", ["--limit-upload", "--limit-download"])
def test_a_limit_that_is_none(bf: Bf, option: str) -> None:
    """A rate that does not parse is wrong usage, before anything is done."""
    ran = bf("init", option, "fast")
    assert ran.status == 2
    assert "'fast' is not a size" in ran.err


def test_limits_make_it_slow(bf: Bf, files: Path, backed_up: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits hold for every storage that a command opens, in both directions."""
    taken: dict[int, int] = {}

    class Counting:
        piece = 1 << 20

        def __init__(self, rate: int, pausing: object) -> None:
            self.rate = rate

        def take(self, size: int) -> None:
            taken[self.rate] = taken.get(self.rate, 0) + size

    monkeypatch.setattr("bfrepo.storage.limit.Bucket", Counting)
    (files / "new.bin").write_bytes(bytes(range(256)) * 100)
    assert bf("backup", files, "--limit-upload", "10K", "--limit-download", "20K").status == 0
    assert taken[10 << 10] > 500
    assert taken[20 << 10] > 500


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe with few objects."""
    monkeypatch.setattr("bfrepo.operations.storage_checks._MANY", 20)


@pytest.mark.usefixtures("quick")
def test_probe_of_a_directory(bf: Bf, tmp_path: Path) -> None:
    """A directory passes; a person sees a table of checks, of latencies and of speeds, and nothing is left."""
    ran = bf("storage", "probe", tmp_path / "place", "--size", "1M")
    assert ran.status == 0
    for text in ("what is stored is read back", "passed", "Median", "Speed", "can keep a repository"):
        assert text in ran.out
    assert not (tmp_path / "place").exists()


@pytest.mark.usefixtures("quick")
def test_probe_for_programs(bf: Bf, tmp_path: Path) -> None:
    """With --json there is one document with all that was found out."""
    found = bf("storage", "probe", tmp_path / "place", "--size", "1K", "--json").document
    assert found["message_type"] == "storage_probe"
    assert (found["failed"], found["left"]) == (0, [])
    assert {check["verdict"] for check in found["checks"]} == {"passed"}
    assert {each["call"] for each in found["latencies"]} == {"save", "load", "list", "delete"}
    assert all(each["bytes_per_second"] > 0 for each in found["throughputs"])


@pytest.mark.usefixtures("quick")
def test_probe_of_what_is_not_fit(bf: Bf) -> None:
    """A storage whose clients do not see each other's objects fails, with the reasons, and so does the command."""
    ran = bf("storage", "probe", "memory:", "--size", "1K")
    assert ran.status == 1
    assert "is not fit for a repository" in ran.out
    assert "another client does not find what was just stored" in ran.out


def test_probe_refuses_a_place_in_use(bf: Bf, backed_up: str, repository: Path) -> None:
    """A repository, or anything else that is there, is left alone."""
    ran = bf("storage", "probe", repository)
    assert ran.status == 1
    assert "not empty" in ran.err
    assert bf("check").status == 0


def test_ctrl_c_ends_the_waiting_for_a_storage(tmp_path: Path) -> None:
    """Who asks to stop while a storage does not answer is not kept waiting, whatever threads wait for it."""
    command = replace(
        with_password(tmp_path), environment={"BACKUPFORGE_REPOSITORY": f"rest:http://127.0.0.1:{free_port()}/"}
    )
    with command.start("list") as process:
        assert process.stderr is not None
        assert b"trying again for" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
