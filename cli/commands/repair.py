"""`repair`: mend the index, packs and snapshots. Each plans first, shows its plan, and then does it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bfrepo.core.errors import UsageError
from bfrepo.core.units import format_count, format_size
from cli.app import App, pass_app
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.options import Group
from cli.output import Output, path_fields
from cli.render import local_time, short, shown
from cli.warming import warm_up, warm_up_option

if TYPE_CHECKING:
    from bfrepo.operations.mending import LostPath
    from bfrepo.operations.repair_hot import HotRepairPlan
    from bfrepo.operations.repair_index import IndexRepairPlan, LeftAlone
    from bfrepo.operations.repair_packs import PackRepairPlan
    from bfrepo.operations.repair_snapshots import SnapshotRepairPlan
    from bfrepo.operations.warming import WarmUp
    from bfrepo.repository.quarantine import Quarantine
    from bfrepo.repository.repository import Repository

_SHOWN: Final = 20

run = Group(
    "repair",
    help="""Mend what is damaged: plan first, destroy nothing.

    In this order, as far as 'backupforge check' asks for it: index, packs, snapshots. Whatever leaves the repository
    is copied to a local folder first. Backups may go on meanwhile.""",
    short_help="Mend what is damaged: plan first, destroy nothing.",
)

_DRY_RUN = click.option("--dry-run", is_flag=True, help="Only show what would be done.")
_QUARANTINE = click.option(
    "--quarantine",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to put what is taken out of the repository.  [default: ~/.local/state/backupforge/quarantine/ID]",
)


@run.command(
    "index",
    short_help="Make the index again from the packs.",
    examples=[
        ("backupforge repair index --dry-run", "what would be done?"),
        ("backupforge repair index", "mend what is missing or cannot be read"),
        ("backupforge repair index --read-all", "compare the index with every pack as well"),
    ],
    exit_codes=WORK_CODES,
)
@click.option("--read-all", is_flag=True, help="Read the directory of every pack, not only where something is wrong.")
@_DRY_RUN
@_QUARANTINE
@pass_app
def index_command(app: App, read_all: bool, dry_run: bool, quarantine: Path | None) -> int:
    """Make the index again from the packs, which say themselves what they hold.

    Index objects that are damaged are replaced, packs that the index does not name are named again, and what is said
    of packs that are gone is dropped. Nothing else of the index changes.
    """
    from bfrepo.operations.repair_index import plan_index_repair, repair_index

    with app.open_repository() as repository, app.working(unit="packs") as work:
        plan = plan_index_repair(repository, work.display, work.cancelled, read_all=read_all)
        _show_index(app.output, plan)
        place = _quarantine(app, repository, quarantine)
        if not (dry_run or plan.does_nothing):
            repair_index(repository, plan, place)
    _finish(app.output, place, dry_run=dry_run, does_nothing=plan.does_nothing, nothing="the index is whole")
    return INCOMPLETE if plan.left else DONE


@run.command(
    "packs",
    short_help="Save what is intact in damaged packs.",
    examples=[
        ("backupforge repair packs 3f2a1b2c", "one that 'check' has named"),
        ("backupforge repair packs --dry-run", "read every pack, and say what would be done"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("packs", nargs=-1, metavar="[ID]...")
@_DRY_RUN
@_QUARANTINE
@pass_app
def packs_command(app: App, packs: tuple[str, ...], dry_run: bool, quarantine: Path | None) -> int:
    """Save what is intact in damaged packs; without an ID all packs are read.

    What can be proved is copied to new packs. The rest counts as lost from then on, so that a backup that meets the
    same content stores it again, which makes old snapshots whole. The damaged pack goes with the next prune.
    """
    from bfrepo.operations.repair_packs import plan_pack_repair, repair_packs

    if app.settings.repository_hot:  # damage there must not be taken for damage of the repository
        hot = _make_hot_right(app, dry_run=dry_run, waiting=warm_up(app.output, None))
        if dry_run and not hot.does_nothing:
            app.output.say("Nothing was changed (dry run): packs are looked at when the hot part is right")
            return DONE
    with app.open_repository() as repository, app.working(unit="packs") as work:
        plan = plan_pack_repair(repository, packs, work.display, work.cancelled)
        _show_packs(app.output, plan)
        place = _quarantine(app, repository, quarantine)
        if not (dry_run or plan.does_nothing):
            repair_packs(repository, plan, place, work.display, work.cancelled)
    _finish(app.output, place, dry_run=dry_run, does_nothing=plan.does_nothing, nothing="no pack is damaged")
    if plan.lost and not dry_run:
        app.output.say(
            "Next: back up the same files again, which stores what is lost, or 'backupforge repair snapshots'"
        )
    return INCOMPLETE if plan.left or plan.lost else DONE


@run.command(
    "snapshots",
    short_help="Make snapshots again without what is lost.",
    examples=[
        ("backupforge repair snapshots --dry-run", "what is lost, and what would be done?"),
        ("backupforge repair snapshots", "a new snapshot beside each that lacks something"),
        ("backupforge repair snapshots --forget", "and move the damaged ones out of the repository"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("snapshots", nargs=-1, metavar="[SNAPSHOT]...")
@click.option("--forget", is_flag=True, help="Move damaged snapshots out when the new ones are there.")
@_DRY_RUN
@_QUARANTINE
@pass_app
def snapshots_command(
    app: App, snapshots: tuple[str, ...], forget: bool, dry_run: bool, quarantine: Path | None
) -> int:
    """Make snapshots again without what is lost; without an ID all snapshots are looked at.

    First back up the same files again, if they are still there: that makes the snapshots whole. What is lost after that
    is left out of the new snapshot, which has the tag "repaired": files that lack content, and what was in directories
    that cannot be read.
    """
    from bfrepo.operations.repair_snapshots import plan_snapshot_repair, repair_snapshots

    with app.open_repository() as repository, app.working(unit="items") as work:
        plan = plan_snapshot_repair(repository, snapshots, work.display, work.cancelled, forget=forget)
        _show_snapshots(app.output, plan)
        place = _quarantine(app, repository, quarantine)
        made: dict[bytes, bytes] = {}
        if not (dry_run or plan.does_nothing):
            made = repair_snapshots(repository, plan, place, work.display)
    for old, new in made.items():
        app.output.line("snapshot_repaired", {"id": new.hex(), "original": old.hex()})
        app.output.say(f"snapshot {short(new)} stands for {short(old)}")
    _finish(app.output, place, dry_run=dry_run, does_nothing=plan.does_nothing, nothing=_nothing_to_repair(plan))
    remaining = not forget and any(each.nothing_left for each in plan.damaged)
    return INCOMPLETE if plan.left or remaining or (plan.unreadable and not forget) else DONE


@run.command(
    "hot",
    short_help="Make the hot part of a repository in cold storage.",
    examples=[
        ("backupforge repair hot -r s3:s3.amazonaws.com/cold --repository-hot /srv/hot", "make it, or mend it"),
        ("backupforge repair hot -r s3:s3.amazonaws.com/cold --repository-hot /srv/hot --dry-run", "is it right?"),
    ],
    exit_codes=WORK_CODES,
)
@_DRY_RUN
@warm_up_option
@pass_app
def hot_command(app: App, dry_run: bool, warm_up_wait: str | None) -> int:
    """Make the hot part of a repository in cold storage from its cold part, or make it right again.

    The hot part, which --repository-hot names, is a copy of everything but file data, so that only restoring reads the
    cold part. Whatever is missing or damaged in it is copied; what does not belong there is deleted. The cold part is
    only read.
    """
    plan = _make_hot_right(app, dry_run=dry_run, waiting=warm_up(app.output, warm_up_wait))
    app.output.line("summary", {"dry_run": dry_run, "changed": not (dry_run or plan.does_nothing)})
    if plan.does_nothing:
        app.output.say("Nothing to do: the hot part is right")
    else:
        app.output.say("Nothing was changed (dry run)" if dry_run else "Done")
    return DONE


def _make_hot_right(app: App, *, dry_run: bool, waiting: WarmUp) -> HotRepairPlan:
    from bfrepo.operations.repair_hot import plan_hot_repair, repair_hot

    place = app.settings.repository_hot
    if not place:
        raise UsageError(
            "no hot part was given", hint="use --repository-hot, or the environment variable BACKUPFORGE_REPOSITORY_HOT"
        )
    with (
        app.open_repository(app.settings.location) as repository,
        closing(app.open_storage(place)) as hot,
        app.working(unit="objects") as work,
    ):
        plan = plan_hot_repair(repository, hot, work.display, work.cancelled)
        _show_hot(app.output, plan, hot.location)
        if not (dry_run or plan.does_nothing):
            repair_hot(repository, hot, plan, work.display, work.cancelled, waiting)
    return plan


def _show_hot(output: Output, plan: HotRepairPlan, place: str) -> None:
    groups = {"missing": plan.missing, "damaged": plan.damaged, "surplus": plan.surplus}
    output.line(
        "plan",
        {
            "repair": "hot",
            "new": plan.is_new,
            "kept": plan.kept,
            **{name: {"count": len(found), "size": sum(found.values())} for name, found in groups.items()},
        },
    )
    if plan.is_new:
        output.say(f"make a hot part in {shown(place)}")
    verbs = {"missing": "copy", "damaged": "replace damaged", "surplus": "delete what does not belong there:"}
    for name, found in groups.items():
        if found:
            output.say(f"{verbs[name]} {_count(len(found), 'object')} ({format_size(sum(found.values()))})")


def _quarantine(app: App, repository: Repository, folder: Path | None) -> Quarantine:
    from bfrepo.repository.quarantine import Quarantine

    return Quarantine(folder or app.settings.quarantine / repository.id.hex())


def _finish(output: Output, place: Quarantine, *, dry_run: bool, does_nothing: bool, nothing: str) -> None:
    output.line(
        "summary",
        {
            "dry_run": dry_run,
            "changed": not (dry_run or does_nothing),
            "quarantined": [path_fields(bytes(path)) for path in place.kept],
        },
    )
    if place.kept:
        output.say(f"{_count(len(place.kept), 'object')} taken out, kept in {shown(bytes(place.folder))}")
    if does_nothing:
        output.say(f"Nothing to do: {nothing}")
    else:
        output.say("Nothing was changed (dry run)" if dry_run else "Done")


def _show_index(output: Output, plan: IndexRepairPlan) -> None:
    output.line(
        "plan",
        {
            "repair": "index",
            "damaged": [{"id": name, "problem": problem} for name, problem in plan.damaged.items()],
            **{
                key: [pack.hex() for pack in packs]
                for key, packs in (
                    ("named_again", plan.named_again),
                    ("corrected", plan.corrected),
                    ("gone", plan.gone),
                )
            },
            "left": _left_fields(plan.left),
        },
    )
    for problem in plan.damaged.values():
        output.say(f"replace {shown(problem)}")
    _say_packs(output, "name again", "that no readable index object names", plan.named_again)
    _say_packs(output, "correct what is said of", "", plan.corrected)
    _say_packs(output, "drop what is said of", "that the storage does not have", plan.gone)
    _say_left(output, "pack", plan.left)


def _show_packs(output: Output, plan: PackRepairPlan) -> None:
    output.line(
        "plan",
        {
            "repair": "packs",
            "packs_whole": len(plan.proved),
            "damaged": [
                {
                    "id": each.id.hex(),
                    "problem": each.reason,
                    "missing": each.stored is None,
                    "blobs": each.blobs,
                    "blobs_saved": len(each.saved),
                    "bytes_saved": each.saved_size,
                    "blobs_lost": len(each.lost),
                }
                for each in plan.damaged
            ],
            "blobs_lost": len(plan.lost),
            "left": _left_fields(plan.left),
        },
    )
    for each in plan.damaged:
        output.say(f"give up pack {short(each.id)}, which {shown(each.reason)}")
        if each.stored is not None:
            output.say(f"  save {_count(len(each.saved), 'blob')} of {each.blobs:,} ({format_size(each.saved_size)})")
        output.say(f"  lost: {_count(len(each.lost), 'blob')}" if each.lost else "  nothing in it is lost")
    _say_left(output, "pack", plan.left)


def _show_snapshots(output: Output, plan: SnapshotRepairPlan) -> None:
    output.line(
        "plan",
        {
            "repair": "snapshots",
            "snapshots": plan.looked_at,
            "damaged": [
                {
                    "id": each.id.hex(),
                    "time": each.snapshot.time,
                    "lost": [{**path_fields(path), "what": what} for path, what in each.lost],
                    "nothing_left": each.nothing_left,
                    **({"repaired_as": each.successor.hex()} if each.successor else {}),
                }
                for each in plan.damaged
            ],
            "unreadable": [{"id": each.hex(), "problem": problem} for each, problem in plan.unreadable.items()],
            "claims": [{"id": each.hex(), "problem": problem} for each, problem in plan.claims.items()],
            "left": _left_fields(plan.left),
            "forget": plan.forget,
        },
    )
    for each in plan.damaged:
        output.say(f"snapshot {short(each.id)} of {local_time(each.snapshot.when)} lacks {_lacks(each.lost)}")
        for path, what in each.lost[:_SHOWN]:
            output.say(f"  {shown(path)}{_WHAT[what]}")
        if len(each.lost) > _SHOWN:
            output.say(f"  and {format_count(len(each.lost) - _SHOWN)} more (--json lists them)")
        if each.nothing_left:
            output.say("  nothing is left to make a new snapshot of")
        elif each.successor is not None:
            output.say(
                f"  is repaired already: snapshot {short(each.successor)}" + (", so it goes" if plan.forget else "")
            )
        else:
            output.say("  make a new snapshot without that" + (", and move this one out" if plan.forget else ""))
    for problem in plan.unreadable.values():
        output.say(f"{'move out' if plan.forget else 'leave (--forget moves it out)'} {shown(problem)}")
    for problem in plan.claims.values():
        output.say(f"move out {shown(problem)}")
    _say_left(output, "snapshot", plan.left)


_WHAT: Final = {"file": "", "directory": ": all that is in it", "entries": ": some of what is in it"}


def _lacks(lost: Sequence[LostPath]) -> str:
    files = sum(each.what == "file" for each in lost)
    counts = [
        _count(files, "file") if files else "",
        _count(len(lost) - files, "directory", "directories") if len(lost) > files else "",
    ]
    return " and ".join(filter(None, counts))


def _nothing_to_repair(plan: SnapshotRepairPlan) -> str:
    if plan.damaged or plan.unreadable:
        return "what can be repaired is; --forget moves damaged snapshots out"
    return "no snapshot lacks anything" if not plan.left else "nothing is known to be damaged"


def _say_packs(output: Output, what: str, which: str, packs: Sequence[bytes]) -> None:
    if not packs:
        return
    names = ", ".join(map(short, packs[:_SHOWN]))
    more = f" and {format_count(len(packs) - _SHOWN)} more" if len(packs) > _SHOWN else ""
    output.say(f"{what} {_count(len(packs), 'pack')}{' ' + which if which else ''}: {names}{more}")


def _say_left(output: Output, word: str, left: Iterable[LeftAlone]) -> None:
    for each in left:
        output.notice("warning", b"", f"{word} {short(each.id)} is left alone: {each.reason}")


def _left_fields(left: Iterable[LeftAlone]) -> list[dict[str, Any]]:
    return [{"id": each.id.hex(), "reason": each.reason} for each in left]


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{format_count(number)} {one if number == 1 else many or one + 's'}"
