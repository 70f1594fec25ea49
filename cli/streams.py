"""What a command reads from or writes to: a file that is named, or a standard stream."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from typing import TYPE_CHECKING

from bfrepo.core.errors import SourceError, UsageError
from cli.render import shown

if TYPE_CHECKING:
    from bfrepo.exporter.sinks import Sink


@contextmanager
def open_input(file: str) -> Iterator[FileIO]:
    """An archive to read, "-" for standard input. Raises UsageError where that is a terminal, and SourceError."""
    if file == "-":
        if sys.stdin.isatty():
            raise UsageError("there is nothing to read on a terminal", hint="pipe an archive in, or name a file")
        with open(0, "rb", buffering=0, closefd=False) as stream:
            yield stream
        return
    try:
        stream = open(file, "rb", buffering=0)  # noqa: SIM115 (an error while it is read is no failure to open it)
    except OSError as error:
        raise SourceError(f"cannot read {shown(file)}: {error.strerror}") from error
    with stream:
        yield stream


@contextmanager
def open_output(file: str | None, what: str) -> Iterator[Sink]:
    """Where to write, None for standard output. Raises UsageError where that is a terminal; `what` would go there."""
    from bfrepo.exporter.sinks import StreamSink, open_file_sink

    if file is not None:
        with open_file_sink(os.fsencode(file)) as sink:
            yield sink
    elif sys.stdout.isatty():
        raise not_to_a_terminal(what)
    else:
        yield StreamSink(sys.stdout.fileno())


def not_to_a_terminal(what: str) -> UsageError:
    """The error for `what` that is about to be written to a terminal."""
    return UsageError(f"{what} does not belong on a terminal", hint="pipe it to a program, or use --output FILE")
