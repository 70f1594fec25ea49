"""Profiles: what a table of config.toml may say, and what is refused with a word on what to do instead."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bfrepo.core.errors import InvalidValue
from cli.options import Flags
from cli.profiles import CheckTable, ForgetTable, Profile, PruneTable, load_profile
from cli.settings import resolve
from tests.support.program import Bf


class Config:
    """A config.toml that a test writes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / ".config" / "backupforge" / "config.toml"
        self.path.parent.mkdir(parents=True, mode=0o755)

    def load(self, text: str, name: str = "home") -> Profile:
        """The profile that a text makes."""
        self.path.write_text(text)
        self.path.chmod(0o644)
        return load_profile(self.path, name, str(self.home))

    def refuse(self, text: str, name: str = "home") -> InvalidValue:
        """The error that a text makes; it names the file and the profile."""
        with pytest.raises(InvalidValue) as raised:
            self.load(text, name)
        assert str(self.path) in str(raised.value)
        return raised.value


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """An empty one, in a home of its own."""
    return Config(tmp_path)


def test_everything_a_profile_may_say(config: Config) -> None:
    """Every setting is read with its type, tables and commands in both forms included."""
    profile = config.load("""
        [profile.home]
        repository = "~/backup"
        password-command = "pass show backup"
        paths = ["~/documents", "/etc"]
        exclude = ["*.o"]
        exclude-larger-than = "1G"
        exclude-caches = true
        tags = ["nightly"]
        host = "box"
        before = ["mount /mnt", ["logger", "it begins"]]
        hook-timeout = "1m"
        check.read-data-subset = "2%"
        [profile.home.forget]
        keep-daily = 7
        keep-yearly = "unlimited"
        keep-tag = ["keep"]
        [profile.home.prune]
        grace = "1d"
    """)

    assert profile == Profile(
        repository=f"{config.home}/backup",
        password_command="pass show backup",
        paths=(f"{config.home}/documents", "/etc"),
        exclude=("*.o",),
        exclude_larger_than="1G",
        exclude_caches=True,
        tags=("nightly",),
        host="box",
        before=("mount /mnt", ("logger", "it begins")),
        hook_timeout="1m",
        forget=ForgetTable(keep_daily=7, keep_yearly="unlimited", keep_tag=("keep",)),
        prune=PruneTable(grace="1d"),
        check=CheckTable(read_data_subset="2%"),
    )


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("repositry = '/a'", "repositry: there is no such setting", "did you mean repository?"),
        ("forget.keep-dayly = 1", "forget.keep-dayly: there is no such setting", "did you mean keep-daily?"),
        ("check.zzz = 1", "check.zzz: there is no such setting", "known are read-data-subset"),
        ("paths = '/etc'", "paths: expected a list, got a text", None),
        ("before = [1]", "before[0]: expected a text or a list, got a number", None),
        ("one-file-system = 'yes'", "one-file-system: expected true or false, got a text", None),
        ("forget = 7", "forget: expected a table, got a number", None),
        ("forget.keep-last = 0", "forget.keep-last: expected a number >= 1", None),
        ("forget = {}", "forget: it does not say what to keep", "set keep-last, keep-daily, keep-within, ..."),
        ("exclude-file = ['x']", "exclude-file: 'x' is not absolute", "begin it with / or ~/: it runs from anywhere"),
        ("before = ['']", "before: an empty command", None),
        ("failure = [[]]", "failure: an empty command", None),
    ],
)
def test_mistakes_are_named(config: Config, line: str, message: str, hint: str | None) -> None:
    """A mistake is an error with the file, the profile and the key, and the nearest word that is known."""
    error = config.refuse(f"[profile.home]\n{line}\n")

    assert str(error) == f"profile 'home' in {config.path}: {message}"
    assert error.hint == hint


@pytest.mark.parametrize("key", ["password", "passphrase"])
def test_no_password_in_clear(config: Config, key: str) -> None:
    """A password in the file is refused without being repeated, and the hint says where it belongs."""
    error = config.refuse(f"[profile.home]\n{key} = 'do not tell'\n")

    assert "do not tell" not in f"{error}{error.hint}"
    assert "password-file" in str(error.hint)


def test_forget_needs_snapshots_of_its_own(config: Config) -> None:
    """Rules in a profile that backs up nothing would apply to what others made, so that has to be said."""
    text = "[profile.home.forget]\nkeep-last = 3\n"

    assert "all-snapshots" in str(config.refuse(text).hint)
    assert config.load(f"{text}all-snapshots = true\n").forget == ForgetTable(keep_last=3, all_snapshots=True)


def test_inheritance_replaces_what_is_set(config: Config) -> None:
    """What a profile sets stands in place of what its base says, a list or table as a whole; the rest is taken over."""
    base = "[profile.base]\nrepository = '/r'\nexclude = ['a', 'b']\nforget = {keep-last = 1, keep-daily = 7}\n"
    profile = config.load(f"{base}[profile.home]\ninherits = 'base'\npaths = ['/etc']\nforget = {{keep-weekly = 4}}\n")

    assert (profile.repository, profile.exclude, profile.paths) == ("/r", ("a", "b"), ("/etc",))
    assert profile.forget == ForgetTable(keep_weekly=4)


def test_an_own_password_replaces_the_inherited_one(config: Config) -> None:
    """A file and a command of two levels are not one too many."""
    base = "[profile.base]\npassword-file = '/p'\n"
    profile = config.load(f"{base}[profile.home]\ninherits = 'base'\npassword-command = 'pass'\n")

    assert (profile.password_file, profile.password_command) == (None, "pass")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[profile.home]\ninherits = 'home'\n", "'home' inherits itself"),
        ("[profile.home]\ninherits = 'a'\n[profile.a]\ninherits = 'home'\n", "'a' inherits itself"),
        ("[profile.home]\ninherits = 'nobody'\n", "there is no profile 'nobody'"),
    ],
)
def test_inheritance_goes_one_level(config: Config, text: str, message: str) -> None:
    """A base exists and has no base, so nothing goes round in circles."""
    assert message in str(config.refuse(text))


@pytest.mark.parametrize(("which", "mode"), [("file", 0o666), ("file", 0o664), ("folder", 0o777)])
@pytest.mark.parametrize("command", ["before = ['true']", "after = ['true']", "password-command = 'pass'"])
def test_commands_of_others_do_not_run(config: Config, which: str, mode: int, command: str) -> None:
    """A profile with commands is refused when others may write to its file or folder; without commands it is not."""
    config.path.write_text(f"[profile.home]\nrepository = '/r'\n{command}\n[profile.plain]\nrepository = '/r'\n")
    changed = config.path if which == "file" else config.path.parent
    changed.chmod(mode)

    with pytest.raises(InvalidValue, match="can be changed by other users") as raised:
        load_profile(config.path, "home", "/")

    assert raised.value.hint == f"run: chmod go-w {changed}"
    assert load_profile(config.path, "plain", "/").repository == "/r"


@pytest.mark.root
def test_commands_in_a_file_of_another_user(config: Config) -> None:
    """The superuser does not run what another user wrote into a file of theirs."""
    config.path.write_text("[profile.home]\nbefore = ['true']\n")
    os.chown(config.path, 1234, 1234)

    with pytest.raises(InvalidValue, match="belongs to another user"):
        load_profile(config.path, "home", "/")


def test_the_default_profile(config: Config) -> None:
    """The profile `default` counts when nobody says which profile or repository, and only then."""
    config.path.write_text("[profile.default]\nrepository = '/default'\n[profile.home]\nrepository = '/home'\n")
    environment = {"HOME": str(config.home), "XDG_CONFIG_HOME": str(config.home / ".config")}

    assert resolve(Flags(), environment).repository == "/default"
    assert resolve(Flags(profile="home"), environment).repository == "/home"
    assert resolve(Flags(repository="/other"), environment).profile is None
    assert resolve(Flags(), {**environment, "BACKUPFORGE_REPOSITORY": "/other"}).profile is None


def test_a_profile_that_is_not_there_names_the_file(config: Config) -> None:
    """The name may be misspelt, so the error says where it was looked for."""
    assert "there is no profile 'away'" in str(config.refuse("[profile.home]\n", "away"))


def test_the_log_file_has_what_is_said(bf: Bf, files: Path, tmp_path: Path) -> None:
    """--log-file appends summaries, warnings and errors with the time, also with --quiet, for its owner's eyes only."""
    log = tmp_path / "log"
    bf("init")
    bf("-q", "--log-file", log, "backup", files, tmp_path / "missing")
    bf("--log-file", log, "ls", "deadbeef")

    lines = log.read_text().splitlines()
    assert f" error {tmp_path}/missing: No such file or directory" in lines[0]
    assert any(" info snapshot " in line and line.endswith(" saved") for line in lines)
    assert lines[-1].endswith(" error no snapshot starts with deadbeef")
    assert log.stat().st_mode & 0o777 == 0o600


def test_the_log_file_as_json(bf: Bf, files: Path, tmp_path: Path) -> None:
    """--log-json writes each line as an object, and needs a file to write to."""
    log = tmp_path / "log"
    bf("init")
    bf("--json", "--log-file", log, "--log-json", "backup", files, tmp_path / "missing")

    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["level"] for entry in entries] == ["error", "info"]
    assert entries[1]["files_new"] == 3
    assert bf("--log-json", "list").status == 2


def test_a_log_that_cannot_be_written_does_not_end_the_work(bf: Bf, files: Path) -> None:
    """A full disk under the log is told once; the backup goes on."""
    bf("init")
    ran = bf("--log-file", "/dev/full", "backup", files)

    assert ran.status == 0
    assert ran.err.count("from here on nothing is logged") == 1
