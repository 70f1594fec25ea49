"""What commands that read file data say of packs that are archived, and how they wait for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bfrepo.core.units import format_count, format_size, parse_span
from cli.output import Output

if TYPE_CHECKING:
    from bfrepo.operations.warming import ArchivedPacks, WarmUp

F = TypeVar("F", bound=Callable[..., Any])


def warm_up_option(function: F) -> F:
    """--warm-up-wait, for commands that read file data."""
    return click.option(
        "--warm-up-wait",
        metavar="SPAN",
        help="How long to wait for an archive to bring back what is needed, such as 30m or 12h; with 0 only ask for it."
        "  [default: as long as it takes]",
    )(function)


def warm_up(output: Output, wait: str | None) -> WarmUp:
    """How a command waits; what is archived is told to whoever looks on. Raises InvalidValue."""
    from bfrepo.operations.warming import WarmUp

    return WarmUp(wait=parse_span(wait) if wait is not None else None, tell=lambda packs: tell_waiting(output, packs))


def tell_waiting(output: Output, packs: ArchivedPacks) -> None:
    """What is asked for, if anything is."""
    if not packs.count:
        return
    if output.streaming:
        output.line("archived", archived_fields(packs))
    asked = f", {format_count(len(packs.warming))} asked for already" if packs.warming else ""
    doing = "asking for what is not asked for yet, and waiting" if packs.cold else "waiting"
    output.remark(
        f"{_in_archive(packs)}{asked}; {doing}. That may take hours: stop it if you like, "
        "and run it again later, which goes on from there."
    )


def say_archived(output: Output, packs: ArchivedPacks | None) -> None:
    """What a command that is no dry run would have to wait for."""
    if packs is None:
        return
    output.line("archived", archived_fields(packs))
    if packs.count:
        output.say(f"{_in_archive(packs)} and would be asked for first")


def archived_fields(packs: ArchivedPacks) -> dict[str, int]:
    return {
        "packs_needed": packs.needed,
        "bytes_needed": packs.needed_size,
        "packs_archived": packs.count,
        "bytes_archived": packs.size,
        "packs_asked_for": len(packs.warming),
        "bytes_asked_for": sum(packs.warming.values()),
    }


def _in_archive(packs: ArchivedPacks) -> str:
    verb = "is" if packs.count == 1 else "are"
    return (
        f"{format_count(packs.count)} of {_packs(packs.needed)} ({format_size(packs.size)} of "
        f"{format_size(packs.needed_size)}) {verb} archived"
    )


def _packs(count: int) -> str:
    return f"{format_count(count)} pack{'' if count == 1 else 's'} needed"
