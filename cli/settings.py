"""What a run of the program goes by: option, else environment variable, else profile, else default.

The only place that reads the environment. Profiles are tables in `config.toml`:

    [profile.NAME]
    repository = "/srv/backup"
    password-file = "~/.config/backupforge/password"
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bfrepo.core.errors import InvalidValue, UsageError
from cli.options import Flags
from cli.passwords import PasswordSource, one_of

PROFILE_KEYS: Final = ("repository", "password-file", "password-command", "cache-dir")

VARIABLES: Final = {
    "BACKUPFORGE_REPOSITORY": "location of the repository",
    "BACKUPFORGE_PASSWORD": "the password itself",
    "BACKUPFORGE_PASSWORD_FILE": "a file that holds the password",
    "BACKUPFORGE_PASSWORD_COMMAND": "a command that prints the password",
    "BACKUPFORGE_FROM_PASSWORD": "the password of the other repository",
    "BACKUPFORGE_FROM_PASSWORD_FILE": "a file that holds the password of the other repository",
    "BACKUPFORGE_FROM_PASSWORD_COMMAND": "a command that prints the password of the other repository",
    "BACKUPFORGE_CACHE_DIR": "where the cache of the index is kept",
    "XDG_CACHE_HOME": "the folder that holds the cache's folder by default",
    "XDG_CONFIG_HOME": "the folder that holds `backupforge/config.toml`",
    "NO_COLOR": "no colours, with any value but an empty one",
    "TERM": "no colours when it is `dumb`",
}
"""Every variable that means something to this program, for the documentation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of this run. `cache_dir` is None where there is to be no cache."""

    repository: str | None
    password: PasswordSource
    cache_dir: Path | None
    json: bool
    quiet: bool
    verbosity: int
    progress: bool
    environment: Mapping[str, str] = field(repr=False)

    @property
    def location(self) -> str:
        """The repository's location. Raises UsageError when nobody said where it is."""
        if not self.repository:
            raise UsageError(
                "no repository was given",
                hint="use --repository, or set the environment variable BACKUPFORGE_REPOSITORY",
            )
        return self.repository

    def other_password(self, file: str | None, command: str | None) -> PasswordSource:
        """The password of another repository than the one that is worked on."""
        return one_of(
            PasswordSource(file=file, command=command),
            _password_of(self.environment, "BACKUPFORGE_FROM_PASSWORD"),
            option="--from-password-",
        )


def resolve(flags: Flags, environment: Mapping[str, str] = os.environ) -> Settings:
    """Put the settings together. Raises InvalidValue or UsageError."""
    profile = _profile(flags.profile, environment)
    password = one_of(
        PasswordSource(file=flags.password_file, command=flags.password_command),
        _password_of(environment, "BACKUPFORGE_PASSWORD"),
        PasswordSource(file=_home(profile.get("password-file"), environment), command=profile.get("password-command")),
        option="--password-",
    )
    cache = flags.cache_dir or environment.get("BACKUPFORGE_CACHE_DIR") or _home(profile.get("cache-dir"), environment)
    return Settings(
        repository=flags.repository or environment.get("BACKUPFORGE_REPOSITORY") or profile.get("repository"),
        password=password,
        cache_dir=None if flags.no_cache else Path(cache) if cache else _xdg("CACHE", ".cache", environment),
        json=flags.json,
        quiet=flags.quiet,
        verbosity=flags.verbose,
        progress=not (flags.no_progress or flags.quiet),
        environment=environment,
    )


def colours_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the user's terminal shows colours and the user did not ask for none."""
    return not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def _password_of(environment: Mapping[str, str], name: str) -> PasswordSource:
    value = environment.get(name)
    return PasswordSource(
        file=environment.get(f"{name}_FILE") or None,
        command=environment.get(f"{name}_COMMAND") or None,
        value=os.fsencode(value) if value else None,
    )


def _xdg(kind: str, default: str, environment: Mapping[str, str]) -> Path:
    """Our folder by the XDG rules. A relative value does not count, says the specification."""
    base = environment.get(f"XDG_{kind}_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / default) / "backupforge"


def _profile(name: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The settings of a profile. Raises InvalidValue when there is none of that name, or it does not parse."""
    if name is None:
        return {}
    import tomllib

    path = _xdg("CONFIG", ".config", environment) / "config.toml"
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidValue(f"cannot read the profiles in {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidValue(f"the profiles in {path} do not parse: {error}") from error
    profiles = document.get("profile")
    profile = profiles.get(name) if isinstance(profiles, dict) else None
    if not isinstance(profile, dict):
        raise InvalidValue(f"there is no profile {name!r} in {path}", hint=f"add a table [profile.{name}] to it")
    for key, value in profile.items():
        if key not in PROFILE_KEYS or not isinstance(value, str):
            raise InvalidValue(
                f"profile {name!r} in {path}: {key!r} is no setting with a text as its value",
                hint=f"a profile may set {', '.join(PROFILE_KEYS)}",
            )
    return profile


def _home(path: str | None, environment: Mapping[str, str]) -> str | None:
    """A path of a profile, where "~/" is the user's home."""
    home = environment.get("HOME", "")
    return f"{home}{path[1:]}" if path and home and path.startswith("~/") else path
