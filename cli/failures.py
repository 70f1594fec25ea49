"""How an error ends the program: one readable line and a hint, or one JSON object; a traceback only with --debug."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import click

from bfrepo.core.errors import BackupForgeError, Interrupted, UsageError
from cli.exit_codes import FAILED, USAGE
from cli.output import json_line
from cli.render import shown, style_for


def report_failure(error: Exception, arguments: Sequence[str]) -> int:
    """Write the error to stderr; the exit status. Looks at the arguments itself, as they may be what did not parse."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return USAGE
    failure = _describe(error)
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--debug" in own:
        traceback.print_exception(error)
    if "--json" in own:
        code, hint = type(failure).code, failure.hint
        document = {"message_type": "exit_error", "code": failure.exit_status, "error": code, "message": str(failure)}
        sys.stderr.write(json_line({**document, "hint": hint} if hint else document))
    else:
        style = style_for(sys.stderr)
        sys.stderr.write(f"{style.red('error:')} {shown(str(failure))}\n")
        if failure.hint:
            sys.stderr.write(f"{style.dim('hint:')} {shown(failure.hint)}\n")
    sys.stderr.flush()
    return failure.exit_status


class InternalError(BackupForgeError):
    """Something nobody expected: a bug here, or in what we use."""

    code = "internal-error"
    exit_status = FAILED


def _describe(error: Exception) -> BackupForgeError:
    """Any exception as one of ours."""
    if isinstance(error, BackupForgeError):
        return error
    if isinstance(error, click.Abort):
        return Interrupted("interrupted")
    if isinstance(error, click.ClickException):
        return UsageError(error.format_message().rstrip("."), hint=_usage_hint(error))
    name = type(error).__name__
    return InternalError(
        f"internal error: {name}: {error}" if str(error) else f"internal error: {name}",
        hint="run it again with --debug to see where it happened, and please report it",
    )


def _usage_hint(error: click.ClickException) -> str | None:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"see '{context.command_path} --help'" if context else None
