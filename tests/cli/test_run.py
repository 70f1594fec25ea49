"""`run`: the steps of a profile, what makes one be skipped, and what hooks are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import wait_until
from tests.support.program import PASSWORD, Bf, Ran, process_environment

Write = Callable[..., None]

HOOK = 'echo "$BACKUPFORGE_PROFILE $BACKUPFORGE_STEP $BACKUPFORGE_STATUS $BACKUPFORGE_SNAPSHOT:$BACKUPFORGE_ERROR"'


@pytest.fixture
def profile(bf: Bf, clean_environment: Path, repository: Path, files: Path) -> Write:
    """Writes more lines into the profile `default`, which backs up `files`, and a repository for it."""
    bf("init")
    folder = clean_environment / "config" / "backupforge"
    folder.mkdir(parents=True, mode=0o755)

    def write(lines: str = "") -> None:
        path = folder / "config.toml"
        path.write_text(f"[profile.default]\nrepository = '{repository}'\npaths = ['{files}']\n{lines}\n")
        path.chmod(0o644)

    return write


def steps(ran: Ran) -> dict[str, dict[str, Any]]:
    """The steps of the only profile, by name, in order."""
    (only,) = ran.document["profiles"]
    assert only["exit_code"] == ran.document["exit_code"] == ran.status
    return {step["step"]: step for step in only["steps"]}


def statuses(ran: Ran) -> dict[str, str]:
    """How each step ended."""
    return {name: step["status"] for name, step in steps(ran).items()}


def is_running(pid: int) -> bool:
    """Whether there is such a process that has not ended, waited for or not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


ALL_DONE = {"backup": "done", "forget": "done", "prune": "done", "check": "done"}


def test_all_steps_and_one_summary(bf: Bf, profile: Write, files: Path) -> None:
    """A run backs up, forgets what the rules do not keep, frees the space at once with no grace, and checks."""
    profile("forget = {keep-last = 1}\nprune = {grace = '0h', max-unused = '0%'}")

    first = bf("run", "--json")
    (files / "b.bin").write_bytes(os.urandom(100_000))
    second = steps(bf("run", "--json"))
    (files / "b.bin").write_bytes(os.urandom(100_000))
    third = bf("run")

    assert statuses(first) == ALL_DONE
    assert second["forget"]["result"]["removed"] == [steps(first)["backup"]["result"]["snapshot_id"]]
    assert second["forget"]["result"]["kept"] == [second["backup"]["result"]["snapshot_id"]]
    assert (third.status, third.out.splitlines()[-1].startswith("default: done in ")) == (0, True)
    assert "removed 1 snapshot, kept 1" in third.out
    assert "no errors in 1 snapshot; read" in third.out
    assert len(bf("list", "--json").document) == 1
    assert bf("check", "--read-data").status == 0


def test_only_what_the_profile_asks_for(bf: Bf, profile: Write) -> None:
    """Without rules nothing is forgotten or pruned, and the check can be turned off."""
    profile("check = false")

    assert statuses(bf("run", "--json")) == {"backup": "done"}


def test_a_dry_run_changes_nothing(bf: Bf, profile: Write, tmp_path: Path, repository: Path) -> None:
    """A dry run stores and removes nothing and runs no hook, and counts with the snapshot it would have made."""
    profile(f"before = ['touch {tmp_path}/hook']\nfailure = ['touch {tmp_path}/hook']\nforget = {{keep-last = 1}}")
    bf("backup", tmp_path / "files")
    before = sorted(repository.rglob("*"))

    ran = bf("run", "--dry-run", "--json")

    assert statuses(ran) == {
        "before": "skipped",
        "backup": "done",
        "forget": "done",
        "prune": "done",
        "check": "skipped",
    }
    assert steps(ran)["forget"]["result"]["kept"] == ["00" * 32]
    assert len(steps(ran)["forget"]["result"]["removed"]) == 1
    assert sorted(repository.rglob("*")) == before
    assert not (tmp_path / "hook").exists()


def test_nothing_is_forgotten_after_an_incomplete_backup(bf: Bf, profile: Write, files: Path, tmp_path: Path) -> None:
    """What a backup had to leave out may be in older snapshots only, so they stay unless told otherwise."""
    rules = f"paths = ['{files}', '{tmp_path}/missing']\nforget = {{keep-last = 1"
    config = tmp_path / "home" / "config" / "backupforge" / "config.toml"

    def run(more: str) -> Ran:
        config.write_text(f"[profile.default]\n{rules}{more}}}\n")
        return bf("run", "--json")

    run("")
    careful, told = run(""), run(", after-incomplete = true")

    expected = {"backup": "incomplete", "forget": "skipped", "prune": "skipped", "check": "done"}
    assert (careful.status, statuses(careful)) == (3, expected)
    assert steps(careful)["forget"]["reason"] == "the backup is incomplete"
    assert (told.status, statuses(told)) == (3, {**ALL_DONE, "backup": "incomplete"})
    assert len(bf("list", "--json").document) == 1


def test_forgetting_leaves_the_snapshots_of_others_alone(bf: Bf, profile: Write, files: Path) -> None:
    """The rules of a profile are for its own host, paths and tags, unless it says that they are for all."""
    bf("init")
    others = [["--host", "other"], ["--tag", "weekly"], []]
    profile("tags = ['nightly']\nforget = {keep-last = 1}")
    for options in others:
        bf("backup", *options, files)
        bf("backup", *options, files / "sub")
        bf("backup", *options, files)
    assert bf("run").status == bf("run").status == 0
    assert len(bf("list", "--json").document) == 3 * 3 + 1

    profile("forget = {keep-last = 1, all-snapshots = true}")
    assert bf("run").status == 0

    left = [(each["hostname"], each["paths"]) for each in bf("list", "--json").document]
    assert len(left) == len({(host, *paths) for host, paths in left}) == 4


def test_hooks_are_told_what_happened(bf: Bf, profile: Write) -> None:
    """Hooks get the profile, the step, the status and the snapshot, and what they print goes to stderr."""
    profile(f"check = false\nbefore = ['{HOOK}']\nafter = [['sh', '-c', '{HOOK}']]\nfailure = ['{HOOK}']")

    ran = bf("run", "--json")

    snapshot = steps(ran)["backup"]["result"]["snapshot_id"]
    assert ran.err.splitlines() == ["default before running :", f"default after done {snapshot}:"]


def test_hooks_never_get_a_password(bf: Bf, profile: Write) -> None:
    """A password in our environment is not passed on."""
    profile("check = false\nbefore = ['env']")

    ran = bf("run", "--json")

    assert "BACKUPFORGE_STEP=before" in ran.err
    assert PASSWORD not in ran.err


def test_a_before_hook_that_fails_stops_the_run(bf: Bf, profile: Write) -> None:
    """Nothing is backed up, no later hook runs, and the failure hooks are told which step failed and why."""
    profile(f"before = ['exit 7', 'echo never']\nafter = ['echo never']\nfailure = ['{HOOK}']")

    ran = bf("run")

    assert ran.status == 1
    assert "default before failed :before hook 1 (exit) failed with exit status 7" in ran.err
    assert "never" not in ran.err
    assert bf("list", "--json").document == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("['/dev/null/x', 'secret']", "cannot run before hook 1 (x): Not a directory"),
        ("'kill -9 $$'", "before hook 1 (kill) was ended by signal 9"),
        ("'sleep 60 & sleep 60'", "before hook 1 (sleep) took longer than 1.0 s and was ended"),
    ],
)
def test_how_a_hook_fails(bf: Bf, profile: Write, command: str, message: str) -> None:
    """The error names the program, never its arguments; a hook that takes too long is ended with its children."""
    profile(f"hook-timeout = '1s'\nbefore = [{command}]")

    ran = bf("run", "--json")

    assert steps(ran)["before"]["message"] == message
    assert steps(ran)["before"]["error"] == "hook-failed"


def test_a_failed_backup_skips_the_rest(bf: Bf, profile: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the repository cannot be opened the exit code says why, and the failure hooks run."""
    profile("forget = {keep-last = 1}\nfailure = ['echo told $BACKUPFORGE_STEP']")
    monkeypatch.setenv("BACKUPFORGE_PASSWORD", "wrong")

    ran = bf("run")

    assert ran.status == 12
    assert "told backup" in ran.err
    assert "check    skipped" in ran.out
    assert "default: failed in" in ran.out


def test_a_check_that_finds_something_fails(bf: Bf, profile: Write, repository: Path, files: Path) -> None:
    """Damage is named, the exit code is 1, and the failure hooks run."""
    profile(f"failure = ['{HOOK}']")
    bf("backup", files, "--host", "other")
    (snapshot,) = (repository / "snapshots").iterdir()
    snapshot.chmod(0o600)
    snapshot.write_bytes(b"nonsense")

    ran = bf("run", "--json")

    assert (ran.status, statuses(ran)["check"], statuses(ran)["failure"]) == (1, "failed", "done")
    assert [each["kind"] for each in steps(ran)["check"]["result"]["findings"]] == ["snapshot-damaged"]
    assert f"default check failed {steps(ran)['backup']['result']['snapshot_id']}:1 error found in" in ran.err


def test_several_profiles_and_the_worst_exit_code(bf: Bf, profile: Write, files: Path, tmp_path: Path) -> None:
    """Each profile runs, whatever became of the one before it; the exit code is that of the worst."""
    profile(
        f"before = ['false']\n[profile.b]\npaths = ['{files}', '{tmp_path}/missing']\n"
        f"[profile.c]\npaths = ['{files}/sub']\ncheck = false\n"
    )

    ran = bf("run", "c", "b", "default", "c", "--json")

    assert ran.status == 1
    assert [(each["profile"], each["exit_code"]) for each in ran.document["profiles"]] == [
        ("c", 0),
        ("b", 3),
        ("default", 1),
    ]


@pytest.mark.parametrize("arguments", [["nobody"], ["default", "--profile", "default"], ["default", "nobody"]])
def test_wrong_use_runs_nothing(bf: Bf, profile: Write, arguments: list[str]) -> None:
    """All profiles are looked at before the first runs."""
    profile("before = ['echo never']")

    ran = bf("run", *arguments)

    assert (ran.status, "never" in ran.err) == (2, False)


@pytest.mark.parametrize(
    "lines",
    [
        "forget = {keep-within = 'long'}",
        "prune = {grace = '1y'}",
        "hook-timeout = '60'",
        "prune = {max-unused = 'much'}",
        "check = {read-data-subset = '8/7'}",
        "exclude-larger-than = 'big'",
        "exclude = ['[z-a]']",
    ],
)
def test_values_are_looked_at_before_anything_runs(bf: Bf, profile: Write, lines: str) -> None:
    """A value that makes no sense is wrong use, and not found out after the backup."""
    profile(f"before = ['echo never']\n{lines}")

    ran = bf("run")

    assert (ran.status, "never" in ran.err) == (2, False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["before", "after"])
def test_an_interruption_runs_the_failure_hooks(
    bf: Bf, profile: Write, tmp_path: Path, number: signal.Signals, where: str
) -> None:
    """Ctrl-C and SIGTERM during a hook end it with its children, and the failure hooks are told."""
    profile(f"check = false\n{where} = ['sleep 60 & echo $! > {tmp_path}/pid; wait']\nfailure = ['{HOOK}']")
    with subprocess.Popen(
        [sys.executable, "-m", "cli", "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=process_environment({}),
    ) as process:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"), process)
        process.send_signal(number)
        out, err = process.communicate()

    assert process.returncode == 130
    assert f"default {where} interrupted ".encode() in err
    assert f":stopped by {number.name}".encode() in err
    assert b"default: interrupted in" in out
    deadline = time.monotonic() + 30
    while is_running(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_interrupted_backup_runs_the_failure_hooks(bf: Bf, profile: Write, files: Path) -> None:
    """Ctrl-C during a backup makes no snapshot, the failure hooks are told, and no later profile runs."""
    profile(f"failure = ['{HOOK}']\n[profile.next]\npaths = ['{files}']\n")
    with open(files / "large", "wb") as file:
        file.truncate(1 << 30)
        for offset in range(0, 1 << 30, 1 << 20):
            os.pwrite(file.fileno(), os.urandom(64), offset)
    with subprocess.Popen(
        [sys.executable, "-m", "cli", "run", "default", "next"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=process_environment({}),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"default: backup\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()

    assert process.returncode == 130
    assert b"default backup interrupted :" in err
    assert b"Profile next" not in out
    assert bf("list", "--json").document == []
