"""What the command lines of benchmarks have in common."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks.running import BenchmarkError, note


def common_options(program: str, purpose: str | None, peers: str, corpus: str) -> argparse.ArgumentParser:
    """A command line with the options of all comparisons. `peers` and `corpus` say what those directories hold."""
    made = argparse.ArgumentParser(prog=program, description=(purpose or "").splitlines()[0], allow_abbrev=False)
    add = made.add_argument
    add("--peers", type=existing_directory, required=True, metavar="DIR", help=f"holds {peers}")
    add("--corpus", type=existing_directory, required=True, metavar="DIR", help=f"holds {corpus}")
    add("--work", type=existing_directory, default="/dev/shm", metavar="DIR", help="(default: %(default)s)")
    add("--rounds", type=positive, default=3, metavar="N", help="how often to run everything (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write every figure to FILE as well")
    add("--backupforge", type=shlex.split, default=["backupforge"], metavar="CMD", help="how backupforge is started")
    return made


def names_option(made: argparse.ArgumentParser, flag: str, names: Sequence[str]) -> None:
    """An option that takes some of the names; all of them by default."""
    made.add_argument(flag, type=names_among(names), default=list(names), metavar="NAMES", help=",".join(names))


def names_among(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """An argparse type: a comma-separated list of some of the allowed names, kept in the allowed order."""

    def parse(text: str) -> list[str]:
        given = text.split(",")
        unknown = [name for name in given if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(allowed)}")
        return [name for name in allowed if name in given]

    return parse


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def existing_directory(text: str) -> Path:
    """An argparse type: a directory that is there."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a directory")
    return path.resolve()


def exit_status(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, work: Callable[[argparse.Namespace], None]
) -> int:
    """Does the work of a program of this folder. Returns its exit status: 0 done, 1 failed, 130 interrupted.

    argparse exits with 2 for wrong usage.
    """
    arguments = parser.parse_args(argv)
    try:
        work(arguments)
    except BenchmarkError as error:
        note(f"{parser.prog}: {error}")
        return 1
    except KeyboardInterrupt:
        note(f"{parser.prog}: interrupted; nothing is left behind")
        return 130
    return 0


def start(main: Callable[[], int]) -> NoReturn:
    """Runs a program and exits. SIGTERM ends it like Ctrl-C: mounts ended, children killed, directories removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
