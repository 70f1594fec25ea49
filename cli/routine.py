"""From a profile to the routine that `run` runs: what to back up, what to keep, which hooks."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bfrepo.checker.sampling import parse_sample
from bfrepo.core.clock import Clock
from bfrepo.core.errors import InvalidValue, UsageError
from bfrepo.core.units import parse_span
from bfrepo.data.retention import UNLIMITED, Duration, RetentionRules
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.backup import BackupOptions
from bfrepo.operations.check import CheckOptions
from bfrepo.operations.forget import ForgetOptions
from bfrepo.operations.hooks import Hooks
from bfrepo.operations.prune import PruneOptions
from bfrepo.operations.routine import BackupStep, ForgetStep, Routine
from bfrepo.repository.prune import UnusedLimit
from bfrepo.storage.location import LocalLocation, parse_location
from cli.profiles import CheckTable, ForgetTable, Profile
from cli.settings import Settings
from cli.values import split_tags
from cli.version import PROGRAM
from cli.what import What, choose_source, report_to, username


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A routine, where its repository is, in a form to show, and what it backs up; None when that is nothing."""

    routine: Routine
    location: str
    what: What | None


def make_plan(name: str, settings: Settings, clock: Clock, *, dry_run: bool) -> Plan:
    """The routine of the settings' profile. Raises UsageError, InvalidValue or InvalidPattern for what makes no sense.

    Nothing is read but lists of patterns, and no command is run.
    """
    profile = settings.profile
    if profile is None:
        raise UsageError("no profile was given", hint="name one: backupforge run PROFILE")
    location = parse_location(settings.location).shown
    what = _what(profile, settings, clock) if profile.paths else None
    routine = Routine(
        name=name,
        hooks=_hooks(profile, settings.environment),
        backup=_backup_step(profile, what, dry_run=dry_run) if what else None,
        forget=_forget_step(profile.forget, _own_snapshots(profile, what)) if profile.forget else None,
        prune=_prune_options(profile),
        check=_check_options(profile),
        dry_run=dry_run,
    )
    return Plan(routine=routine, location=location, what=what)


def require_schedulable(name: str, settings: Settings, clock: Clock) -> None:
    """Raise UsageError for a profile that could not run without somebody at a terminal, from any directory."""
    location = parse_location(settings.location)
    if isinstance(location, LocalLocation) and not location.path.is_absolute():
        raise InvalidValue(
            f"profile {name!r}: the repository {location.shown} is relative to a directory that nobody names",
            hint="write its whole path",
        )
    make_plan(name, settings, clock, dry_run=False)


def _hooks(profile: Profile, environment: Mapping[str, str]) -> Hooks:
    return Hooks(
        before=profile.before,
        after=profile.after,
        failure=profile.failure,
        environment=environment,
        timeout_s=parse_span(profile.hook_timeout).total_seconds(),
        output=sys.stderr.fileno(),
    )


def _what(profile: Profile, settings: Settings, clock: Clock) -> What:
    """As `backup` would understand the same as options."""
    flags: dict[str, Any] = {
        "exclude": profile.exclude,
        "iexclude": profile.iexclude,
        "exclude_file": profile.exclude_file,
        "iexclude_file": profile.iexclude_file,
        "exclude_caches": profile.exclude_caches,
        "exclude_if_present": profile.exclude_if_present,
        "exclude_larger_than": profile.exclude_larger_than,
        "gitignore": profile.gitignore,
        "one_file_system": profile.one_file_system,
        "with_atime": False,
        "stdin": False,
        "stdin_from_command": False,
        "files_from": (),
        "files_from_verbatim": (),
        "files_from_raw": (),
        "remote_sudo": False,
    }
    return choose_source(profile.paths, flags, clock=clock, environment=settings.environment, ssh=settings.storage.sftp)


def _backup_step(profile: Profile, what: What, *, dry_run: bool) -> BackupStep:
    options = BackupOptions(
        paths=what.paths,
        hostname=_host(profile, what),
        username=username(),
        program=PROGRAM,
        excludes=what.excludes,
        tags=split_tags(profile.tags),
        label=profile.label,
        dry_run=dry_run,
    )
    return BackupStep(options=options, open_source=lambda reporter: what.open_source(report_to(reporter, what.paths)))


def _host(profile: Profile, what: What) -> str:
    return profile.host or what.host or socket.gethostname()


def _own_snapshots(profile: Profile, what: What | None) -> Callable[[Snapshot], bool]:
    """Whether a snapshot is one that this profile makes: with its host, exactly its paths, and its tags."""
    if what is None or (profile.forget and profile.forget.all_snapshots):
        return lambda snapshot: True
    host, paths, tags = _host(profile, what), set(what.paths), set(split_tags(profile.tags))
    return lambda snapshot: snapshot.hostname == host and set(snapshot.paths) == paths and tags <= set(snapshot.tags)


def _forget_step(table: ForgetTable, concerns: Callable[[Snapshot], bool]) -> ForgetStep:
    rules = RetentionRules(
        last=_count(table.keep_last),
        hourly=_count(table.keep_hourly),
        daily=_count(table.keep_daily),
        weekly=_count(table.keep_weekly),
        monthly=_count(table.keep_monthly),
        yearly=_count(table.keep_yearly),
        within=_span(table.keep_within),
        within_hourly=_span(table.keep_within_hourly),
        within_daily=_span(table.keep_within_daily),
        within_weekly=_span(table.keep_within_weekly),
        within_monthly=_span(table.keep_within_monthly),
        within_yearly=_span(table.keep_within_yearly),
        tags=tuple(frozenset(split_tags([each])) for each in table.keep_tag),
    )
    return ForgetStep(options=ForgetOptions(rules=rules), concerns=concerns, after_incomplete=table.after_incomplete)


def _count(value: int | str | None) -> int | None:
    return UNLIMITED if isinstance(value, str) else value


def _span(text: str | None) -> Duration | None:
    return None if text is None else Duration.parse(text)


def _prune_options(profile: Profile) -> PruneOptions | None:
    """Pruning goes with forgetting unless the profile says otherwise."""
    table = profile.prune if profile.prune is not None else profile.forget is not None
    if isinstance(table, bool):
        return PruneOptions() if table else None
    defaults = PruneOptions()
    return PruneOptions(
        grace=defaults.grace if table.grace is None else parse_span(table.grace),
        max_unused=defaults.max_unused if table.max_unused is None else UnusedLimit.parse(table.max_unused),
    )


def _check_options(profile: Profile) -> CheckOptions | None:
    if profile.check is False:
        return None
    table = CheckTable() if isinstance(profile.check, bool) else profile.check
    return CheckOptions(read=parse_sample(table.read_data_subset))
