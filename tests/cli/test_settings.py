"""Settings: option beats variable beats profile beats default, and where passwords come from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bfrepo.core.errors import BackupForgeError, InvalidValue, UsageError
from cli.options import Flags
from cli.passwords import PasswordSource, one_of
from cli.settings import colours_wanted, resolve


@pytest.fixture
def profiles(tmp_path: Path) -> dict[str, str]:
    """An environment with a profile."""
    folder = tmp_path / "backupforge"
    folder.mkdir()
    (folder / "config.toml").write_text(
        '[profile.nas]\nrepository = "/nas"\npassword-file = "~/nas-password"\ncache-dir = "/nas-cache"\n'
        '[profile.odd]\nfrobnicate = "yes"\n'
        '[profile.cold]\nrepository = "/cold"\nrepository-hot = "~/hot"\n'
    )
    return {"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/home/me"}


def test_an_option_beats_a_variable_beats_a_profile_beats_the_default(profiles: dict[str, str]) -> None:
    """The repository comes from the first of them that names one."""
    variable = {**profiles, "BACKUPFORGE_REPOSITORY": "/variable"}

    assert resolve(Flags(repository="/flag", profile="nas"), variable).repository == "/flag"
    assert resolve(Flags(profile="nas"), variable).repository == "/variable"
    assert resolve(Flags(profile="nas"), profiles).repository == "/nas"
    assert resolve(Flags(), profiles).repository is None


@pytest.mark.parametrize(
    ("flags", "variables", "expected"),
    [
        (Flags(profile="cold"), {}, "/home/me/hot"),
        (Flags(profile="cold", repository_hot="/flag"), {}, "/flag"),
        (Flags(repository="/other", profile="cold"), {}, None),
        (Flags(repository="/other", repository_hot="/flag"), {"BACKUPFORGE_REPOSITORY_HOT": "/variable"}, "/flag"),
        (Flags(repository="/other"), {"BACKUPFORGE_REPOSITORY_HOT": "/variable"}, None),
        (Flags(), {"BACKUPFORGE_REPOSITORY": "/r", "BACKUPFORGE_REPOSITORY_HOT": "/variable"}, "/variable"),
        (Flags(profile="cold"), {"BACKUPFORGE_REPOSITORY": "/other"}, None),
        (Flags(), {}, None),
    ],
)
def test_the_hot_part_belongs_to_the_repository(
    profiles: dict[str, str], flags: Flags, variables: dict[str, str], expected: str | None
) -> None:
    """The hot part is taken from where the repository is named, never from what names another one."""
    assert resolve(flags, {**profiles, **variables}).repository_hot == expected


def test_the_password_goes_by_the_same_order(profiles: dict[str, str]) -> None:
    """One level decides alone: a variable is not mixed with an option."""
    variable = {**profiles, "BACKUPFORGE_PASSWORD": "secret"}

    assert resolve(Flags(password_command="pass", profile="nas"), variable).password == PasswordSource(command="pass")
    assert resolve(Flags(profile="nas"), variable).password == PasswordSource(value=b"secret")
    assert resolve(Flags(profile="nas"), profiles).password == PasswordSource(file="/home/me/nas-password")
    assert not resolve(Flags(), profiles).password.given


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        (Flags(cache_dir="/flag"), {"BACKUPFORGE_CACHE_DIR": "/variable"}, Path("/flag/repositories")),
        (Flags(), {"BACKUPFORGE_CACHE_DIR": "/variable", "XDG_CACHE_HOME": "/xdg"}, Path("/variable/repositories")),
        (Flags(), {"XDG_CACHE_HOME": "/xdg"}, Path("/xdg/backupforge/repositories")),
        (Flags(), {"XDG_CACHE_HOME": "relative"}, Path.home() / ".cache/backupforge/repositories"),
        (Flags(no_cache=True), {"BACKUPFORGE_CACHE_DIR": "/variable"}, None),
    ],
)
def test_where_the_cache_is(flags: Flags, environment: dict[str, str], expected: Path | None) -> None:
    """The cache is where somebody says, else where XDG says, else nowhere with --no-cache."""
    found = resolve(flags, environment).cache_dir

    assert (found / "repositories" if found else None) == expected


@pytest.mark.parametrize("name", ["missing", "odd"])
def test_a_profile_must_exist_and_make_sense(profiles: dict[str, str], name: str) -> None:
    """A profile that is not there, or sets what nobody knows, is an error and not passed over."""
    with pytest.raises(InvalidValue, match=name):
        resolve(Flags(profile=name), profiles)


def test_a_profile_file_that_does_not_parse(tmp_path: Path) -> None:
    """A mistake in the file is reported with the file's name; so is a file that is not there."""
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    with pytest.raises(InvalidValue, match=r"cannot read the profiles in .*config\.toml"):
        resolve(Flags(profile="nas"), environment)
    (tmp_path / "backupforge").mkdir()
    (tmp_path / "backupforge" / "config.toml").write_text("[profile.nas\n")
    with pytest.raises(InvalidValue, match=r"config\.toml do not parse"):
        resolve(Flags(profile="nas"), environment)


def test_settings_do_not_tell_secrets() -> None:
    """Neither the settings nor a password's source shows the password."""
    settings = resolve(Flags(), {"BACKUPFORGE_PASSWORD": "do not tell"})

    assert "do not tell" not in repr(settings)


def test_colours_can_be_turned_off() -> None:
    """NO_COLOR with any value turns them off (https://no-color.org), as does a terminal that has none."""
    assert colours_wanted({})
    assert colours_wanted({"NO_COLOR": ""})
    assert not colours_wanted({"NO_COLOR": "1"})
    assert not colours_wanted({"TERM": "dumb"})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"secret\n", b"secret"),
        (b"secret\r\nsecond line\n", b"secret"),
        (b" spaces stay \n", b" spaces stay "),
        (b"", b""),
    ],
)
def test_a_password_file(tmp_path: Path, content: bytes, expected: bytes) -> None:
    """The password is the first line, without its end."""
    file = tmp_path / "password"
    file.write_bytes(content)

    assert PasswordSource(file=str(file)).read("") == expected


def test_a_password_file_that_is_not_there() -> None:
    """A file that cannot be read is an error with its name."""
    with pytest.raises(BackupForgeError, match=r"cannot read the password file /dev/null/nowhere: Not a directory"):
        PasswordSource(file="/dev/null/nowhere").read("")


def test_a_password_command_is_split_but_runs_in_no_shell() -> None:
    """Quotes group words; nothing else means anything."""
    assert PasswordSource(command="printf '%s\\n' 'two words; $HOME'").read("") == b"two words; $HOME"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("false secret", "the password command false failed with exit status 1"),
        ("/dev/null/program secret", "cannot run the password command /dev/null/program: Not a directory"),
        ("unclosed 'secret", "the password command does not parse: No closing quotation"),
        ("  ", "the password command is empty"),
    ],
)
def test_a_password_command_that_fails(command: str, message: str) -> None:
    """The error names the program, never its arguments."""
    with pytest.raises(BackupForgeError) as raised:
        PasswordSource(command=command).read("")

    assert str(raised.value) == message


def test_two_sources_of_one_level_exclude_each_other() -> None:
    """Whether a file or a command counts is not guessed."""
    with pytest.raises(UsageError, match="more than one source"):
        one_of(PasswordSource(file="a", command="b"), option="--password-")


def test_an_empty_password_is_not_chosen() -> None:
    """A new repository never has an empty password."""
    with pytest.raises(UsageError, match="empty"):
        PasswordSource(value=b"").read_new("")


def test_only_settings_read_the_environment() -> None:
    """No other module of the program looks at the environment."""
    root = Path(__file__).resolve().parent.parent.parent
    found = subprocess.run(
        ["grep", "-rlE", r"os\.(environ|getenv)", "--include=*.py", "bfrepo", "cli"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.stdout.split() == ["cli/settings.py"]


def test_the_default_environment_is_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without another one, the settings come from the environment of the process as it is now."""
    monkeypatch.setitem(os.environ, "BACKUPFORGE_REPOSITORY", "/now")

    assert resolve(Flags()).repository == "/now"


def test_options_of_the_storage(profiles: dict[str, str], tmp_path: Path) -> None:
    """What the command line says counts after what the profile says, option by option."""
    (tmp_path / "backupforge" / "config.toml").write_text(
        '[profile.far]\noptions = ["s3.region=here", "s3.profile=backup"]\nlimit-upload = "1M"\nlimit-download = "2M"\n'
    )
    flags = Flags(profile="far", option=("s3.region=there",), limit_download="500K")
    found = resolve(flags, profiles)

    assert (found.storage.s3.region, found.storage.s3.profile) == ("there", "backup")
    assert (found.limit_upload, found.limit_download) == (1 << 20, 500 << 10)
    assert (resolve(Flags(), profiles).limit_upload, resolve(Flags(), profiles).limit_download) == (None, None)


@pytest.mark.parametrize("line", ['options = ["s3.regoin=x"]', 'limit-upload = "fast"', 'limit-download = "0"'])
def test_a_profile_says_nonsense_of_the_storage(profiles: dict[str, str], tmp_path: Path, line: str) -> None:
    """A mistake is found when the profile is read, and named with the file and the key."""
    (tmp_path / "backupforge" / "config.toml").write_text(f"[profile.far]\n{line}\n")
    with pytest.raises(InvalidValue, match=rf"config\.toml: {line.partition(' ')[0]}: "):
        resolve(Flags(profile="far"), profiles)


def test_credentials_come_from_the_environment(profiles: dict[str, str]) -> None:
    """Users and passwords of servers are taken from variables, and no text shows them."""
    variables = {
        "BACKUPFORGE_REST_USERNAME": "alice",
        "BACKUPFORGE_REST_PASSWORD": "hunter2",
        "BACKUPFORGE_SFTP_PASSWORD": "hunter3",
    }
    found = resolve(Flags(), {**profiles, **variables})

    assert (found.storage.rest.user, found.storage.rest.password) == ("alice", "hunter2")
    assert found.storage.sftp.password == "hunter3"
    assert "hunter" not in repr(found) + repr(found.storage)
