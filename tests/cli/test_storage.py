"""The command line's words about storages: options, limits, and what a storage is tried out with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.program import Bf


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
