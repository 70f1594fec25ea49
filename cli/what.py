"""What a backup is about: from arguments and options to a source."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bfrepo.core.clock import Clock
from bfrepo.core.errors import InvalidValue, UsageError
from bfrepo.core.progress import Reporter
from bfrepo.core.units import parse_size
from bfrepo.localfs.metadata import Owners
from bfrepo.sources.base import Source, StreamedSource
from bfrepo.sources.exclude import ExcludeRules
from bfrepo.sources.filesystem import FileSystemSource
from bfrepo.sources.paths import paths_from_lines, paths_from_patterns, paths_from_raw
from bfrepo.sources.ssh.place import is_remote, parse_remote, parse_remotes
from bfrepo.sources.stdin import CommandSource, StreamSource

if TYPE_CHECKING:
    from bfrepo.storage.options import SftpOptions

OnError: TypeAlias = Callable[[bytes, OSError], None]
Flags: TypeAlias = Mapping[str, Any]
"""The options of `backup` by the names of their parameters."""

_ONLY_HERE = (
    "stdin", "with_atime", "exclude_caches", "exclude_if_present", "gitignore", "files_from", "files_from_verbatim",
    "files_from_raw",
)  # fmt: skip
"""Options that have no meaning for other hosts, or for which files would have to be read before they are listed."""

_LISTS = {
    "files_from": paths_from_patterns,
    "files_from_verbatim": paths_from_lines,
    "files_from_raw": paths_from_raw,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class What:
    """What to back up: how to open it, its paths in the snapshot, and whether it may be looked at beside the backup.

    `host` is where it comes from, None for this machine; `read_once` says that it cannot be read twice.
    """

    open_source: Callable[[OnError], Source | StreamedSource]
    paths: tuple[bytes, ...]
    host: str | None = None
    read_once: bool = False
    excludes: tuple[str, ...] = ()
    can_be_scanned: bool = False


def choose_source(
    arguments: Sequence[str], flags: Flags, *, clock: Clock, environment: Mapping[str, str], ssh: SftpOptions
) -> What:
    """What the command line asks to be backed up; `ssh` is for what is on other hosts.

    Raises UsageError, InvalidValue or InvalidPattern.
    """
    if arguments and is_remote(arguments[0]):
        return _remote(arguments, flags, clock, environment, ssh)
    if flags["remote_sudo"]:
        raise UsageError("--remote-sudo is for other hosts", hint="name one: backupforge backup ssh://host/path")
    if flags["stdin"] or flags["stdin_from_command"]:
        return _stream(arguments, flags, clock)
    paths = [os.fsencode(each) for each in arguments] + _listed_paths(flags)
    if not paths:
        raise UsageError("nothing to back up was given", hint="name files or directories: backupforge backup PATH...")
    return _files(paths, flags, environment)


def ignore_errors(path: bytes, error: OSError) -> None:
    """For who looks at a source beside the backup, which reports the same."""


def report_to(reporter: Reporter, asked_for: Collection[bytes]) -> OnError:
    """What the source cannot look at is a problem, unless it has just gone and nobody asked for it by name."""

    def report(path: bytes, error: OSError) -> None:
        if isinstance(error, FileNotFoundError) and path not in asked_for:
            reporter.warn(path, "vanished before it could be read")
        else:
            reporter.problem(path, error.strerror or str(error))

    return report


def username() -> str:
    """Who makes the snapshot: a name, or the number where there is none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _rules(flags: Flags, environment: Mapping[str, str]) -> ExcludeRules:
    return ExcludeRules.from_options(
        environment=environment,
        exclude=flags["exclude"],
        iexclude=flags["iexclude"],
        exclude_files=[Path(each) for each in flags["exclude_file"]],
        iexclude_files=[Path(each) for each in flags["iexclude_file"]],
        caches=flags["exclude_caches"],
        if_present=flags["exclude_if_present"],
        larger_than=parse_size(flags["exclude_larger_than"]) if flags["exclude_larger_than"] else None,
        gitignore=flags["gitignore"],
    )


def _remote(
    arguments: Sequence[str], flags: Flags, clock: Clock, environment: Mapping[str, str], ssh: SftpOptions
) -> What:
    """What is on another host."""
    from bfrepo.sources.ssh.output import RemoteCommandSource
    from bfrepo.sources.ssh.source import SshSource

    settings = ssh.ssh()
    sudo: bool = flags["remote_sudo"]
    if flags["stdin_from_command"]:
        host, path = parse_remote(arguments[0])
        if path:
            raise UsageError("a command has no path", hint=f"write {host.shown} --stdin-from-command -- PROGRAM ...")
        filename = os.fsencode(flags["stdin_filename"])
        command = RemoteCommandSource(host, arguments[1:], filename, settings, sudo=sudo, clock=clock, owners=Owners())
        return What(open_source=lambda on_error: command, paths=command.paths, host=host.name, read_once=True)
    for name in _ONLY_HERE:
        if flags[name]:
            raise UsageError(f"--{name.replace('_', '-')} is for files of this machine, not for those of other hosts")
    host, paths = parse_remotes(arguments)
    rules, one_file_system = _rules(flags, environment), flags["one_file_system"]

    source = SshSource(
        host, paths, settings, rules=rules, one_file_system=one_file_system, sudo=sudo, on_error=ignore_errors
    )
    source.begin()  # while the repository is opened

    def open_source(on_error: OnError) -> SshSource:
        source.on_error = on_error
        return source

    return What(open_source=open_source, paths=paths, host=host.name, excludes=(*flags["exclude"], *flags["iexclude"]))


def _files(paths: list[bytes], flags: Flags, environment: Mapping[str, str]) -> What:
    rules = _rules(flags, environment)
    owners = Owners()

    def open_source(on_error: OnError) -> FileSystemSource:
        return FileSystemSource(
            paths,
            rules=rules,
            one_file_system=flags["one_file_system"],
            with_atime=flags["with_atime"],
            owners=owners,
            on_error=on_error,
        )

    return What(
        open_source=open_source,
        paths=open_source(ignore_errors).paths,
        excludes=(*flags["exclude"], *flags["iexclude"]),
        can_be_scanned=True,
    )


def _listed_paths(flags: Flags) -> list[bytes]:
    """The paths out of --files-from and its siblings."""
    return [path for name, parse in _LISTS.items() for file in flags[name] for path in parse(_read_list(file))]


def _read_list(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise InvalidValue(f"cannot read the list of paths in {file}: {error.strerror}") from error


def _stream(arguments: Sequence[str], flags: Flags, clock: Clock) -> What:
    if flags["stdin"] and flags["stdin_from_command"]:
        raise UsageError("--stdin and --stdin-from-command exclude each other")
    if any(flags[name] for name in _LISTS):
        raise UsageError("a list of paths and standard input exclude each other")
    filename = os.fsencode(flags["stdin_filename"])
    if flags["stdin_from_command"]:
        command = CommandSource(arguments, filename, clock=clock, owners=Owners())
        return What(open_source=lambda on_error: command, paths=command.paths, read_once=True)
    if arguments:
        raise UsageError("--stdin takes no paths", hint="for a program's output: --stdin-from-command -- PROGRAM ...")
    stream = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 (as long as the program runs)
    source = StreamSource(stream, filename, clock=clock, owners=Owners())
    return What(open_source=lambda on_error: source, paths=source.paths, read_once=True)
