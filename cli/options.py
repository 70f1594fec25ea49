"""What all commands share in how they are declared: global options, help with examples and exit codes.

Nothing here imports the library, so that help and completion answer at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from cli.exit_codes import MEANINGS

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Flags:
    """The global options as the command line gave them; None or False where it gave none."""

    repository: str | None = None
    repository_hot: str | None = None
    password_file: str | None = None
    password_command: str | None = None
    profile: str | None = None
    option: tuple[str, ...] = ()
    limit_upload: str | None = None
    limit_download: str | None = None
    cache_dir: str | None = None
    no_cache: bool = False
    json: bool = False
    quiet: bool = False
    verbose: int = 0
    no_progress: bool = False
    log_file: str | None = None
    log_json: bool = False
    debug: bool = False


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Note a global option. One behind the command's name comes later and so overrules one in front of it.

    What may be repeated adds up.
    """
    name, flags = parameter.name or "", context.ensure_object(Flags)
    if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
        setattr(flags, name, (*getattr(flags, name), *value) if parameter.multiple else value)


def _global_option(*names: str, **settings: Any) -> Callable[[Collection[str]], click.Option]:
    """Makes the option, without those of its names that are taken by a command's own options."""
    return lambda taken: click.Option(
        [name for name in names if name not in taken], expose_value=False, callback=_keep, **settings
    )


_GLOBAL_OPTIONS = (
    _global_option(
        "-r", "--repository", "--repo", metavar="URL", help="Where the repository is.  [env: BACKUPFORGE_REPOSITORY]"
    ),
    _global_option(
        "--repository-hot",
        "--repo-hot",
        metavar="URL",
        help="Where a copy of all but file data is, if the repository is in cold storage.  "
        "[env: BACKUPFORGE_REPOSITORY_HOT]",
    ),
    _global_option(
        "--password-file",
        type=click.Path(),
        metavar="FILE",
        help="Read the password from the first line of a file.  [env: BACKUPFORGE_PASSWORD_FILE]",
    ),
    _global_option(
        "--password-command",
        metavar="COMMAND",
        help="Run a command that prints the password.  [env: BACKUPFORGE_PASSWORD_COMMAND]",
    ),
    _global_option(
        "-o",
        "--option",
        multiple=True,
        metavar="NAME=VALUE",
        help="Set an option of the storage, such as s3.region=eu-central-1; may be repeated.",
    ),
    _global_option("--limit-upload", metavar="RATE", help="Send so many bytes a second at most, such as 500K or 10M."),
    _global_option("--limit-download", metavar="RATE", help="Receive so many bytes a second at most."),
    _global_option("--profile", metavar="NAME", help="Take settings from this profile in config.toml."),
    _global_option(
        "--cache-dir",
        type=click.Path(),
        metavar="DIR",
        help="Where to keep the cache.  [env: BACKUPFORGE_CACHE_DIR]",
    ),
    _global_option("--no-cache", is_flag=True, help="Keep no cache."),
    _global_option("--json", is_flag=True, help="Write JSON, for programs."),
    _global_option("-q", "--quiet", is_flag=True, help="Say only what was asked for, and what went wrong."),
    _global_option("-v", "--verbose", count=True, help="Say more; -vv also lists what is unchanged."),
    _global_option("--no-progress", is_flag=True, help="Show no progress."),
    _global_option(
        "--log-file", type=click.Path(), metavar="FILE", help="Add what is said, with the time, to the end of a file."
    ),
    _global_option("--log-json", is_flag=True, help="Write that file as JSON lines."),
    _global_option("--debug", is_flag=True, help="Show where in the program an error came from."),
)


def global_options(own: Iterable[click.Parameter] = ()) -> list[click.Option]:
    """New instances of the options that every command takes, in front of its name or behind it.

    Where one of a command's own has the same short name, behind the command's name it means that one.
    """
    taken = {name for parameter in own for name in parameter.opts}
    return [make(taken) for make in _GLOBAL_OPTIONS]


class Command(click.Command):
    """A command with examples and exit codes in its help, which takes the global options too."""

    def __init__(
        self, *args: Any, examples: Sequence[tuple[str, str]] = (), exit_codes: Sequence[int] = (), **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.exit_codes = exit_codes
        self.own_params = list(self.params)
        self.params.extend(global_options(self.own_params))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options; the global ones have their place in the program's help."""
        options = [each for each in self.own_params if isinstance(each, click.Option)]
        shown = [each for each in (*options, self.get_help_option(ctx)) if each is not None]
        records = [record for record in (each.get_help_record(ctx) for each in shown) if record is not None]
        with formatter.section("Options"):
            formatter.write_dl(records)
        formatter.write_paragraph()
        formatter.write_text(
            "Global options, such as --repository, --json or --quiet, may stand here as well: see 'backupforge --help'."
        )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples and exit codes."""
        if self.examples:
            with formatter.section("Examples"):
                for line in _example_lines(self.examples):
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
        if self.exit_codes:
            with formatter.section("Exit codes"):
                formatter.write_dl([(str(code), MEANINGS[code]) for code in self.exit_codes])


class Group(click.Group):
    """A command with commands of its own, all of them as Command describes."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.own_params = list(self.params)
        self.params.extend(global_options())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands; the global options have their place in the program's help."""
        self.format_commands(ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text(f"'{ctx.command_path} COMMAND --help' shows options, examples and exit codes.")


def _example_lines(examples: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Each example under a line that says what it is for."""
    for text, purpose in examples:
        yield f"# {purpose}"
        yield text


def command(
    name: str, *, examples: Sequence[tuple[str, str]], exit_codes: Sequence[int], **settings: Any
) -> Callable[[Callable[..., Any]], Command]:
    """A decorator for a command; `examples` are (line, what it is for)."""
    return click.command(name, cls=Command, examples=examples, exit_codes=exit_codes, **settings)


def filter_options(function: F) -> F:
    """--host, --tag and --path, which narrow down the snapshots that are meant."""
    for option in (
        click.option(
            "--path",
            "paths",
            multiple=True,
            metavar="PATH",
            help="Only snapshots of this path; repeat for all of several.",
        ),
        click.option(
            "--tag",
            "tags",
            multiple=True,
            metavar="TAG[,TAG]",
            help="Only snapshots with all these tags; repeat for alternatives.",
        ),
        click.option(
            "--host", "hosts", multiple=True, metavar="NAME", help="Only snapshots of this host; may be repeated."
        ),
    ):
        function = option(function)
    return function


def other_password_options(which: str) -> Callable[[F], F]:
    """--from-password-file and --from-password-command, or "to": the password of another repository."""

    def add(function: F) -> F:
        for option in (
            click.option(
                f"--{which}-password-command",
                metavar="COMMAND",
                help=f"Its password.  [env: BACKUPFORGE_{which.upper()}_PASSWORD_COMMAND]",
            ),
            click.option(
                f"--{which}-password-file",
                type=click.Path(),
                metavar="FILE",
                help=f"Its password.  [env: BACKUPFORGE_{which.upper()}_PASSWORD_FILE]",
            ),
        ):
            function = option(function)
        return function

    return add
