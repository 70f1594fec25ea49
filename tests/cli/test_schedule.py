"""`schedule`: timers of systemd, lines of a crontab, and nothing of anybody else's touched.

Neither systemctl nor crontab is ever really run: a stand-in in PATH notes how it was called.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from bfrepo.core.errors import InvalidValue
from cli.crontimes import parse_calendar
from cli.schedules import Job
from cli.systemd import SystemdSchedule
from tests.support.program import Bf

STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >>{calls}
case "$(basename "$0") $*" in
"crontab -l") [ -e {table} ] || {{ echo "no crontab for me" >&2; exit 1; }}; cat {table};;
"crontab -") cat >{table};;
"systemctl"*show*.timer*) echo NextElapseUSecRealtime=Mon 2024-05-20 02:30:00 UTC; echo LastTriggerUSec=n/a;;
"systemctl"*show*.service*) cat {service};;
esac
"""

UNITS = ("backupforge-home.service", "backupforge-home.timer")


@dataclass
class Machine:
    """A machine that schedules: where units go, and what its programs were told."""

    units: Path
    calls_file: Path
    crontab: Path
    service: Path
    programs: Path

    def calls(self) -> list[str]:
        """How the programs were called since the last time somebody asked."""
        found = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return found


@pytest.fixture
def machine(tmp_path: Path, clean_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine without systemd, where `home` is a profile."""
    programs = tmp_path / "programs"
    programs.mkdir()
    made = Machine(tmp_path / "units", tmp_path / "calls", tmp_path / "crontab", tmp_path / "service", programs)
    made.service.touch()
    text = STAND_IN.format(calls=made.calls_file, table=made.crontab, service=made.service)
    for name in ("systemctl", "crontab"):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr("cli.schedules.SYSTEMD_RUNS", tmp_path / "no-systemd")
    monkeypatch.setattr("cli.systemd.SYSTEM_UNITS", made.units)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    config = clean_environment / "config" / "backupforge" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        "[profile.home]\nrepository = '/backup'\npassword-file = '/secret'\npaths = ['/etc']\n"
        "[profile.bare]\nrepository = '/backup'\n[profile.lost]\nrepository = 'backup'\n"
        "[profile.'a b']\nrepository = '/backup'\n[profile.none]\n"
    )
    return made


@pytest.fixture
def systemd(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The same machine with systemd, used by root."""
    monkeypatch.setattr("cli.schedules.SYSTEMD_RUNS", tmp_path)
    return machine


@pytest.fixture
def user(systemd: Machine, clean_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The same for anybody else."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    systemd.units = clean_environment / "config" / "systemd" / "user"
    return systemd


def test_install_writes_units_and_starts_the_timer(bf: Bf, systemd: Machine) -> None:
    """Root's units go to the system, with the calendar, the command, and where the profile is; the timer is started."""
    ran = bf("schedule", "install", "home", "--at", "Mon..Fri 02:30")

    assert (ran.status, ran.err) == (0, "")
    assert sorted(path.name for path in systemd.units.iterdir()) == list(UNITS)
    service, timer = ((systemd.units / name).read_text() for name in UNITS)
    assert "OnCalendar=Mon..Fri 02:30\n" in timer
    assert "Persistent=true\n" in timer
    assert " run home\n" in service
    assert "Type=oneshot\n" in service
    assert "Wants=network-online.target\n" in service
    assert f"Environment=XDG_CONFIG_HOME={os.environ['XDG_CONFIG_HOME']}\n" in service
    assert systemd.calls()[:3] == [
        "systemctl daemon-reload",
        "systemctl enable backupforge-home.timer",
        "systemctl restart backupforge-home.timer",
    ]
    assert "next Mon 2024-05-20 02:30:00 UTC" in ran.out


def test_units_of_users(bf: Bf, user: Machine) -> None:
    """Anybody else's units are their own, and they are told when those run."""
    ran = bf("schedule", "install", "home", "--at", "daily")

    assert (ran.status, "loginctl enable-linger" in ran.err) == (0, True)
    assert sorted(path.name for path in user.units.iterdir()) == list(UNITS)
    assert user.calls()[0] == "systemctl --user daemon-reload"
    assert "network-online" not in (user.units / UNITS[0]).read_text()


def test_no_secret_is_written(bf: Bf, systemd: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the password nor where it comes from is in the units, whatever our own environment says."""
    monkeypatch.setenv("BACKUPFORGE_PASSWORD", "do not tell")
    bf("schedule", "install", "home", "--at", "daily")

    text = "".join(path.read_text() for path in systemd.units.iterdir())
    assert "do not tell" not in text
    assert "/secret" not in text
    assert "BACKUPFORGE_" not in text


def test_installing_again_replaces(bf: Bf, systemd: Machine) -> None:
    """The same profile has one schedule: the last."""
    bf("schedule", "install", "home", "--at", "daily")
    bf("schedule", "install", "home", "--at", "hourly")

    assert [each["calendar"] for each in bf("schedule", "show", "--json").document] == ["hourly"]


def test_remove_takes_away_what_install_wrote(bf: Bf, systemd: Machine) -> None:
    """The timer is stopped, both units go, and nothing else."""
    bf("schedule", "install", "home", "--at", "daily")
    (systemd.units / "backupforge-home.timer.d").mkdir()
    (systemd.units / "other.timer").touch()
    systemd.calls()

    ran, again = bf("schedule", "remove", "home"), bf("schedule", "remove", "home")

    assert (ran.status, again.status) == (0, 1)
    assert sorted(path.name for path in systemd.units.iterdir()) == ["backupforge-home.timer.d", "other.timer"]
    assert systemd.calls() == ["systemctl disable --now backupforge-home.timer", "systemctl daemon-reload"]
    assert "profile 'home' is not scheduled" in again.err


@pytest.mark.parametrize("arguments", [["install", "home", "--at", "daily"], ["remove", "home"]])
@pytest.mark.parametrize("name", UNITS)
def test_units_of_others_stay(bf: Bf, systemd: Machine, arguments: list[str], name: str) -> None:
    """A unit of that name that we have not written is neither overwritten nor removed nor stopped."""
    systemd.units.mkdir()
    (systemd.units / name).write_text("[Unit]\n")

    ran = bf("schedule", *arguments)

    assert (ran.status, "left alone" in ran.err) == (1, True)
    assert [path.read_text() for path in systemd.units.iterdir()] == ["[Unit]\n"]
    assert systemd.calls() == []


def test_systemd_says_what_went_wrong(bf: Bf, systemd: Machine) -> None:
    """When systemctl fails its own words are the error."""
    (systemd.programs / "systemctl").write_text("#!/bin/sh\necho Failed to connect to bus >&2\nexit 1\n")

    ran = bf("schedule", "install", "home", "--at", "daily")

    assert ran.status == 1
    assert "systemctl daemon-reload failed: Failed to connect to bus" in ran.err


@pytest.mark.parametrize(
    ("service", "last_run", "result"),
    [
        ("ActiveState=inactive\nResult=success\nExecMainStartTimestamp=\n", None, None),
        ("ActiveState=inactive\nResult=success\nExecMainStatus=0\nExecMainStartTimestamp=Mon 1\n", "Mon 1", "done"),
        (
            "ActiveState=failed\nResult=exit-code\nExecMainStatus=12\nExecMainStartTimestamp=Mon 1\n",
            "Mon 1",
            "wrong password",
        ),
        ("ActiveState=failed\nResult=signal\nExecMainStatus=9\nExecMainStartTimestamp=Mon 1\n", "Mon 1", "signal"),
        ("ActiveState=activating\nResult=success\nExecMainStartTimestamp=Mon 1\n", "Mon 1", "running"),
        ("", None, None),
    ],
)
def test_show(bf: Bf, systemd: Machine, service: str, last_run: str | None, result: str | None) -> None:
    """Every schedule with its next run, and how the last one ended."""
    bf("schedule", "install", "home", "--at", "*-*-* 02:30")
    systemd.service.write_text(service)

    (entry,) = bf("schedule", "show", "--json").document

    assert entry == {
        "profile": "home",
        "calendar": "*-*-* 02:30",
        "next_run": "Mon 2024-05-20 02:30:00 UTC",
        "last_run": last_run,
        "last_result": result,
    }
    assert "home     *-*-* 02:30  Mon 2024-05-20 02:30:00 UTC" in bf("schedule", "show").out


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_units_are_sound(systemd: Machine, tmp_path: Path) -> None:
    """systemd-analyze has nothing to say about the units, however odd the command and the variables are."""
    job = Job(
        profile="home",
        calendar="*-*-* 02:30",
        command=("/bin/true", "100%", 'a "quoted" word', "back\\slash", "$HOME", "ümlaut"),
        variables={"XDG_CONFIG_HOME": '/a b/100%/"c"'},
    )
    written = SystemdSchedule(systemd.units, of_user=False).preview(job)
    systemd.units.mkdir()
    for path, text in written:
        Path(path).write_text(text)

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(path for path, _ in written)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert str(systemd.units) not in done.stderr
    assert "backupforge" not in done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("calendar", ["someday", "25:00", "", "--version", "daily\nX=1"])
def test_a_calendar_must_parse(bf: Bf, systemd: Machine, calendar: str) -> None:
    """What systemd does not take for a calendar is wrong use, and nothing is written."""
    ran = bf("schedule", "install", "home", f"--at={calendar}")

    assert (ran.status, systemd.units.exists(), systemd.calls()) == (2, False, [])


@pytest.mark.parametrize("name", ["nobody", "lost", "a b", "none", "../etc"])
def test_what_cannot_run_is_not_scheduled(bf: Bf, systemd: Machine, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A profile must exist, have a plain name, and say where its repository is, whole, without help of variables."""
    monkeypatch.setenv("BACKUPFORGE_REPOSITORY", "/elsewhere")

    assert bf("schedule", "install", name, "--at", "daily").status == 2
    assert not systemd.units.exists()


def test_a_profile_without_a_password_is_doubtful(bf: Bf, systemd: Machine) -> None:
    """Nobody will be there to type it, which is fine only for a repository that is not encrypted."""
    ran = bf("schedule", "install", "bare", "--at", "daily")

    assert (ran.status, "nobody will be there" in ran.err) == (0, True)


@pytest.mark.parametrize("kind", ["machine", "systemd"])
def test_a_dry_run_only_prints(bf: Bf, kind: str, request: pytest.FixtureRequest) -> None:
    """--dry-run shows what would be written, and calls and writes nothing."""
    machine: Machine = request.getfixturevalue(kind)

    ran = bf("schedule", "install", "home", "--at", "daily", "--dry-run")

    assert ran.status == 0
    assert ("OnCalendar=daily" in ran.out) == (kind == "systemd")
    assert " run home" in ran.out
    assert (machine.units.exists(), machine.crontab.exists(), machine.calls()) == (False, False, [])


# --- cron

OTHERS = "# my own\nMAILTO=me\n5 4 * * * true # backupforge-schedule\n0 1 * * * backupforge run home"
"""Lines that are not ours, though they look alike, without a line break at the end."""


def test_cron_gets_one_line(bf: Bf, machine: Machine) -> None:
    """Without systemd a profile has one line in the crontab, which is replaced and taken away; the others stay."""
    machine.crontab.write_text(OTHERS)
    bf("schedule", "install", "home", "--at", "daily")
    first = machine.crontab.read_text()
    ran = bf("schedule", "install", "home", "--at", "*-*-* 02:30")
    second = machine.crontab.read_text()
    bf("schedule", "install", "bare", "--at", "weekly")
    removed = bf("schedule", "remove", "home")

    assert (ran.status, removed.status) == (0, 0)
    assert first.startswith(f"{OTHERS}\n0 0 * * * env XDG_CONFIG_HOME=")
    assert first.endswith(" run home --quiet # backupforge-schedule home: daily\n")
    assert second.splitlines()[4].startswith("30 2 * * * ")
    assert len(second.splitlines()) == 5
    left = machine.crontab.read_text()
    assert left.startswith(f"{OTHERS}\n0 0 * * 1 env ")
    assert len(left.splitlines()) == 5
    assert bf("schedule", "remove", "home").status == 1


def test_cron_for_who_had_no_crontab(bf: Bf, machine: Machine) -> None:
    """The first line makes the crontab."""
    ran = bf("schedule", "install", "home", "--at", "hourly")

    assert (ran.status, len(machine.crontab.read_text().splitlines())) == (0, 1)


def test_a_crontab_that_cannot_be_read_is_not_written(bf: Bf, machine: Machine) -> None:
    """Any other failure than having no crontab stops it, as all its lines would be lost."""
    (machine.programs / "crontab").write_text(
        f"#!/bin/sh\n[ $1 = -l ] && {{ echo cannot open >&2; exit 1; }}\ntouch {machine.crontab}\n"
    )

    ran = bf("schedule", "install", "home", "--at", "daily")

    assert (ran.status, machine.crontab.exists()) == (1, False)
    assert "crontab -l failed: cannot open" in ran.err


def test_a_machine_that_has_neither(bf: Bf, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without systemd and cron the error says what can be done."""
    monkeypatch.setenv("PATH", "/dev/null")

    ran = bf("schedule", "install", "home", "--at", "daily")

    assert (ran.status, "hint: install cron" in ran.err) == (1, True)


def test_show_what_cron_runs(bf: Bf, machine: Machine) -> None:
    """The next run is worked out, unless somebody has changed the line; of the last nothing is known."""
    bf("schedule", "install", "home", "--at", "*-*-* 02:30")
    (entry,) = bf("schedule", "show", "--json").document
    machine.crontab.write_text(machine.crontab.read_text().replace("30 2 ", "31 2 "))
    (changed,) = bf("schedule", "show", "--json").document

    assert (entry["profile"], entry["calendar"], entry["last_run"]) == ("home", "*-*-* 02:30", None)
    assert entry["next_run"].endswith(" 02:30:00 UTC")
    assert changed["next_run"] is None


def test_percent_signs_are_for_cron(bf: Bf, machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cron would cut the command at a bare percent sign."""
    folder = tmp_path / "100%"
    shutil.copytree(tmp_path / "home" / "config", folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))

    bf("schedule", "install", "home", "--at", "daily")

    assert "100\\%" in machine.crontab.read_text()


@pytest.mark.parametrize(
    ("calendar", "fields"),
    [
        ("hourly", "0 * * * *"),
        ("daily", "0 0 * * *"),
        ("weekly", "0 0 * * 1"),
        ("monthly", "0 0 1 * *"),
        ("quarterly", "0 0 1 1,4,7,10 *"),
        ("*-*-* 02:30", "30 2 * * *"),
        ("*-*-* 02:30:00", "30 2 * * *"),
        ("2:5", "5 2 * * *"),
        ("Mon..Fri 03:00", "0 3 * * 1,2,3,4,5"),
        ("Sunday,sat 12:00", "0 12 * * 0,6"),
        ("Mon..Sun 12:00", "0 12 * * *"),
        ("Sat", "0 0 * * 6"),
        ("*-*-01,15 04:00", "0 4 1,15 * *"),
        ("12-24", "0 0 24 12 *"),
        ("*-*-* *:0/15", "0,15,30,45 * * * *"),
        ("*:*/30", "0,30 * * * *"),
        ("*-1..3-* 8..10:00", "0 8,9,10 * 1,2,3 *"),
        ("*-*-* 0..23/6:10", "10 0,6,12,18 * * *"),
    ],
)
def test_calendars_that_cron_can_express(calendar: str, fields: str) -> None:
    """The five fields mean what systemd.time(7) says of the calendar."""
    assert str(parse_calendar(calendar)) == fields


@pytest.mark.parametrize(
    "calendar",
    ["2026-01-01 00:00", "02:30:15", "02:30 UTC", "Mon *-*-01 00:00", "*-*~1 00:00", "25:00", "*-13-01", "Fri..Mon",
     "Someday", "5..1:00", "1/0:00", "", " ", "@daily", "0 2 * * *"],
)  # fmt: skip
def test_calendars_that_cron_cannot_express(calendar: str) -> None:
    """Anything else is refused rather than run at other times than was meant."""
    with pytest.raises(InvalidValue):
        parse_calendar(calendar)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize(
    "calendar", ["hourly", "weekly", "*-*-31 04:00", "Mon..Wed 03:15", "*-2-29", "*:0/7", "0/5:30"]
)
def test_the_next_run_is_the_one_systemd_would_choose(calendar: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our reading of a calendar is systemd's: the same next ten runs."""
    monkeypatch.setenv("TZ", "UTC")
    done = subprocess.run(
        ["systemd-analyze", "calendar", "--base-time=2024-05-17 12:00:00", "--iterations=10", calendar],
        capture_output=True,
        text=True,
        env={**os.environ, "TZ": "UTC"},
        check=True,
    )
    expected = [line.split(": ")[1] for line in done.stdout.splitlines() if "elapse:" in line or "Iter." in line]

    found, when = [], datetime.fromisoformat("2024-05-17T12:00:00+00:00")
    for _ in range(10):
        following = parse_calendar(calendar).next_after(when)
        assert following is not None
        found.append(f"{following:%a %Y-%m-%d %H:%M:%S} UTC")
        when = following

    assert found == expected


def test_a_day_that_never_comes() -> None:
    """The 31st of June is a calendar without a run."""
    assert parse_calendar("*-06-31").next_after(datetime.fromisoformat("2024-05-17T12:00:00+00:00")) is None
