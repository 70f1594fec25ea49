"""Profiles: what `config.toml` may say under `[profile.NAME]`, typed, and how it is read.

Nothing is passed over in silence: an unknown word, a value of another type, or a file that another user could have
written commands into is an error that names the file, the profile and the key.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from bfrepo.core.errors import InvalidValue

DEFAULT_PROFILE: Final = "default"

Command: TypeAlias = str | tuple[str, ...]
"""A line for the shell, or a program and its arguments."""

Count: TypeAlias = Annotated[int, Meta(ge=1)] | Literal["unlimited"]

_TYPE_WORDS: Final = {
    "str": "a text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
"""The words of messages of msgspec, as people who write TOML know them."""


class ForgetTable(Struct, frozen=True, kw_only=True, rename="kebab"):
    """`[profile.NAME.forget]`: which snapshots to keep, in the words of the options of `forget`."""

    keep_last: Count | None = None
    keep_hourly: Count | None = None
    keep_daily: Count | None = None
    keep_weekly: Count | None = None
    keep_monthly: Count | None = None
    keep_yearly: Count | None = None
    keep_within: str | None = None
    keep_within_hourly: str | None = None
    keep_within_daily: str | None = None
    keep_within_weekly: str | None = None
    keep_within_monthly: str | None = None
    keep_within_yearly: str | None = None
    keep_tag: tuple[str, ...] = ()
    all_snapshots: bool = False
    after_incomplete: bool = False


class PruneTable(Struct, frozen=True, kw_only=True, rename="kebab"):
    """`[profile.NAME.prune]`, in the words of the options of `prune`."""

    grace: str | None = None
    max_unused: str | None = None


class CheckTable(Struct, frozen=True, kw_only=True, rename="kebab"):
    """`[profile.NAME.check]`: how much of the data to read each time."""

    read_data_subset: str = "512M"


class Profile(Struct, frozen=True, kw_only=True, rename="kebab"):
    """Everything a profile may set. Paths are as written but for "~/", which is the user's home by now."""

    inherits: str | None = None
    repository: str | None = None
    repository_hot: str | None = None
    password_file: str | None = None
    password_command: str | None = None
    cache_dir: str | None = None
    options: tuple[str, ...] = ()
    limit_upload: str | None = None
    limit_download: str | None = None
    catalogue: bool = False
    paths: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    iexclude: tuple[str, ...] = ()
    exclude_file: tuple[str, ...] = ()
    iexclude_file: tuple[str, ...] = ()
    exclude_if_present: tuple[str, ...] = ()
    exclude_larger_than: str | None = None
    exclude_caches: bool = False
    gitignore: bool = False
    one_file_system: bool = False
    tags: tuple[str, ...] = ()
    label: str = ""
    host: str | None = None
    forget: ForgetTable | None = None
    prune: PruneTable | bool | None = None
    check: CheckTable | bool = True
    before: tuple[Command, ...] = ()
    after: tuple[Command, ...] = ()
    failure: tuple[Command, ...] = ()
    hook_timeout: str = "1h"

    @property
    def runs_commands(self) -> bool:
        """Whether somebody who may write to the file could make us run what they like."""
        return bool(self.password_command or self.before or self.after or self.failure)


_TABLES: Final[Mapping[str, type[Struct]]] = {"forget": ForgetTable, "prune": PruneTable, "check": CheckTable}

_HOME_PATHS: Final = ("repository", "repository-hot", "password-file", "cache-dir")
_HOME_LISTS: Final = ("paths", "exclude-file", "iexclude-file")
_PASSWORDS: Final = ("password-file", "password-command")


def keys_of(kind: type[Struct]) -> tuple[str, ...]:
    """The keys that a table of this kind may have, in order."""
    return tuple(field.encode_name for field in msgspec.structs.fields(kind))


def load_profile(path: Path, name: str, home: str) -> Profile:
    """The profile of this name. Raises InvalidValue where there is none, or it makes no sense."""
    profile = find_profile(path, name, home)
    if profile is None:
        raise InvalidValue(
            f"there is no profile {name!r} in {path}", hint=f"add a table [profile.{name}] to it, or check the name"
        )
    return profile


def find_profile(path: Path, name: str, home: str) -> Profile | None:
    """The same, but None where the file has no such profile. Raises InvalidValue, also for a file that is not there."""
    tables = _read(path)
    if name not in tables:
        return None
    where = _Where(path, name)
    table = _inherit(tables, where)
    _refuse_unknown(table, Profile, where, "")
    profile = _convert(_with_home(table, home), where)
    _judge(profile, where)
    if profile.runs_commands:
        _refuse_foreign_hands(path)
    return profile


class _Where:
    """The place of a mistake, for messages."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name

    def mistake(self, key: str, what: str, hint: str | None = None) -> InvalidValue:
        return InvalidValue(f"profile {self.name!r} in {self.path}: {key}: {what}", hint=hint)


def _read(path: Path) -> Mapping[str, Any]:
    """All tables under `profile`, by name."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidValue(f"cannot read the profiles in {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidValue(f"the profiles in {path} do not parse: {error}") from error
    tables = document.get("profile", {})
    if not isinstance(tables, dict):
        raise InvalidValue(f"the profiles in {path} do not parse: 'profile' is no table")
    return tables


def _inherit(tables: Mapping[str, Any], where: _Where) -> dict[str, Any]:
    """The profile's table over that of its base. What it sets replaces what the base says, lists and tables whole.

    A base has no base itself: then nothing can go round in circles, and two tables are all there is to read.
    """
    table = _table(tables, where.name, where)
    base_name = table.get("inherits")
    if not isinstance(base_name, str):
        return table
    base = _table(tables, base_name, where)
    if "inherits" in base:
        raise where.mistake("inherits", f"{base_name!r} inherits itself", "a profile that others inherit must not")
    if any(key in table for key in _PASSWORDS):
        base = {key: value for key, value in base.items() if key not in _PASSWORDS}
    return {**base, **table}


def _table(tables: Mapping[str, Any], name: str, where: _Where) -> dict[str, Any]:
    if name not in tables:
        raise where.mistake("inherits", f"there is no profile {name!r}", f"there are {', '.join(sorted(tables))}")
    table = tables[name]
    if not isinstance(table, dict):
        raise InvalidValue(f"profile {name!r} in {where.path} is no table", hint=f"write [profile.{name}]")
    return table


def _refuse_unknown(table: Mapping[str, Any], kind: type[Struct], where: _Where, prefix: str) -> None:
    known = keys_of(kind)
    for key, value in table.items():
        if key in ("password", "passphrase"):
            raise where.mistake(
                prefix + key,
                "a password does not belong in this file, which gets copied and shared",
                "put it into a file that only you can read and name that with password-file, or use password-command",
            )
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise where.mistake(prefix + key, "there is no such setting", hint)
        if isinstance(value, dict) and key in _TABLES:
            _refuse_unknown(value, _TABLES[key], where, f"{prefix}{key}.")


def _with_home(table: Mapping[str, Any], home: str) -> dict[str, Any]:
    """The table with "~/" as the user's home where a path may stand."""

    def at_home(value: Any) -> Any:
        return f"{home}{value[1:]}" if home and isinstance(value, str) and value.startswith("~/") else value

    def expanded(key: str, value: Any) -> Any:
        if key in _HOME_LISTS and isinstance(value, list):
            return [at_home(each) for each in value]
        return at_home(value) if key in _HOME_PATHS else value

    return {key: expanded(key, value) for key, value in table.items()}


def _convert(table: Mapping[str, Any], where: _Where) -> Profile:
    try:
        return msgspec.convert(table, Profile)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$.")
        raise where.mistake(place.rstrip("`"), _in_plain_words(what)) from None


def _in_plain_words(message: str) -> str:
    """What msgspec found, such as "Expected `bool | null`, got `str`", for people who write TOML."""

    def worded(match: re.Match[str]) -> str:
        return " or ".join(_TYPE_WORDS.get(each, each) for each in match[1].split(" | ") if each != "null")

    return re.sub(r"`([^`]+)`", worded, message[:1].lower() + message[1:])


def _judge(profile: Profile, where: _Where) -> None:
    """What the types cannot say."""
    for key in ("paths", "exclude-file", "iexclude-file"):
        for each in getattr(profile, key.replace("-", "_")):
            if not each.startswith("/"):
                raise where.mistake(key, f"{each!r} is not absolute", "begin it with / or ~/: it runs from anywhere")
    _judge_storage(profile, where)
    for key, commands in (("before", profile.before), ("after", profile.after), ("failure", profile.failure)):
        if not all(each.strip() if isinstance(each, str) else each and each[0] for each in commands):
            raise where.mistake(key, "an empty command")
    if profile.forget is not None:
        _judge_forget(profile, profile.forget, where)


def _judge_storage(profile: Profile, where: _Where) -> None:
    from bfrepo.core.units import parse_rate
    from bfrepo.storage.options import parse_options

    try:
        parse_options(profile.options)
    except InvalidValue as error:
        raise where.mistake("options", str(error), error.hint) from error
    for key, rate in (("limit-upload", profile.limit_upload), ("limit-download", profile.limit_download)):
        try:
            if rate is not None:
                parse_rate(rate)
        except InvalidValue as error:
            raise where.mistake(key, str(error), error.hint) from error


def _judge_forget(profile: Profile, table: ForgetTable, where: _Where) -> None:
    if not any(value for key, value in _settings_of(table) if key.startswith("keep-")):
        raise where.mistake("forget", "it does not say what to keep", "set keep-last, keep-daily, keep-within, ...")
    if not profile.paths and not table.all_snapshots:
        raise where.mistake(
            "forget",
            "without paths the profile has no snapshots of its own",
            "set paths, or all-snapshots = true to apply the rules to every snapshot in the repository",
        )


def _settings_of(table: Struct) -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(table):
        yield field.encode_name, getattr(table, field.name)


def _refuse_foreign_hands(path: Path) -> None:
    """A profile that runs commands must be in a file that nobody but us and the superuser can change."""
    real = path.resolve()
    for each in dict.fromkeys((real, real.parent, path.parent)):
        found = each.stat()
        sticky = each.is_dir() and found.st_mode & stat.S_ISVTX
        if found.st_uid not in (0, os.geteuid()):
            raise InvalidValue(
                f"{each} belongs to another user, whose commands would run as you",
                hint="a profile with commands must be in a file of your own, or of the superuser",
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
            raise InvalidValue(
                f"{each} can be changed by other users, whose commands would run as you", hint=f"run: chmod go-w {each}"
            )
