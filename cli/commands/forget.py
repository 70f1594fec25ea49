"""`forget`: remove snapshots, by rules or by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from bfrepo.core.errors import UsageError
from bfrepo.core.units import format_count
from cli.app import App, Work, pass_app
from cli.commands.list import group_key, group_title, snapshot_document
from cli.commands.prune import prune_options
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.options import command, filter_options
from cli.output import Output
from cli.pruning import plan_fields, result_fields, show_plan, show_result
from cli.render import local_time, short, shown, table
from cli.values import snapshot_filter, split_tags

if TYPE_CHECKING:
    from bfrepo.data.retention import RetentionRules
    from bfrepo.data.selection import SnapshotFilter
    from bfrepo.data.snapshot import Snapshot
    from bfrepo.operations.forget import ForgetGroup, ForgetOptions, ForgetPlan
    from bfrepo.operations.prune import PruneOptions, PrunePlan, PruneResult
    from bfrepo.repository.repository import Repository

_COUNTS: Final = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_SPANS: Final = ("within", "within_hourly", "within_daily", "within_weekly", "within_monthly", "within_yearly")
_PRUNE_OPTIONS: Final = ("grace", "max_unused", "max_repack_size")


@command(
    "forget",
    short_help="Remove snapshots by rules, and say why each is kept.",
    examples=[
        ("backupforge forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run", "what would be removed?"),
        ("backupforge forget --keep-within 7d --keep-monthly 12 --prune", "remove, and free the space"),
        ("backupforge forget --keep-last 10 --keep-tag forever", "never those with this tag"),
        ("backupforge forget 4f2a1b9c latest~3", "these two"),
        ("backupforge forget --host old-laptop --unsafe-allow-remove-all", "everything of a host"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("snapshots", nargs=-1, metavar="[SNAPSHOT...]")
@click.option("--keep-last", metavar="N", help="Keep the last N snapshots; N may be 'unlimited' here and below.")
@click.option("--keep-hourly", metavar="N", help="Keep the last of each of the last N hours that have one.")
@click.option("--keep-daily", metavar="N", help="The same for days.")
@click.option("--keep-weekly", metavar="N", help="The same for weeks, Monday to Sunday.")
@click.option("--keep-monthly", metavar="N", help="The same for months.")
@click.option("--keep-yearly", metavar="N", help="The same for years.")
@click.option(
    "--keep-within", metavar="TIME", help="Keep all that are at most so much older than the latest, such as 1y5m7d2h."
)
@click.option("--keep-within-hourly", metavar="TIME", help="Of those keep the last of each hour.")
@click.option("--keep-within-daily", metavar="TIME", help="The same for days.")
@click.option("--keep-within-weekly", metavar="TIME", help="The same for weeks.")
@click.option("--keep-within-monthly", metavar="TIME", help="The same for months.")
@click.option("--keep-within-yearly", metavar="TIME", help="The same for years.")
@click.option(
    "--keep-tag",
    "keep_tags",
    multiple=True,
    metavar="TAG[,TAG]",
    help="Keep all that have all these tags; repeat for alternatives; '' is for those without tags.",
)
@click.option(
    "--group-by",
    default="host,paths",
    show_default=True,
    metavar="KEYS",
    help="Apply the rules to each group by itself: any of host,paths,tags; '' for one group of all.",
)
@click.option("--unsafe-allow-remove-all", is_flag=True, help="Allow to leave none of what the filters choose.")
@click.option("-n", "--dry-run", is_flag=True, help="Remove nothing; show what would be removed.")
@click.option("--prune", is_flag=True, help="Then free space, as 'backupforge prune' does; see there for these three:")
@click.option("--grace", metavar="TIME", help="How long packs stay that nobody needs any more.")
@click.option("--max-unused", metavar="SIZE|P%|unlimited", help="How much may stay that nobody needs.")
@click.option("--max-repack-size", metavar="SIZE", help="Copy at most so much.")
@filter_options
@pass_app
def run(app: App, /, snapshots: Sequence[str], **flags: Any) -> int:
    """Remove snapshots by rules, and say why each is kept; or those that are named.

    A snapshot stays if one of the rules keeps it. The rules apply to the snapshots of each host and its paths by
    themselves. What the snapshots alone needed is freed by 'backupforge prune'.

    Hours, days and weeks are those of the zone that a snapshot was made in. One from the future stays and counts for no
    rule. Nothing is removed when a snapshot cannot be read, or when the rules would keep nothing of a group.
    """
    from bfrepo.operations.forget import check_options

    chosen = snapshot_filter(flags["hosts"], flags["tags"], flags["paths"])
    options = _options(flags)
    pruning = _pruning(flags)
    if not snapshots:
        check_options(options, chosen)
    elif options.rules or options.allow_remove_all:
        raise UsageError("name snapshots to remove, or say by rules what to keep, but not both")
    with app.open_repository() as repository:
        with app.working(unit="snapshots") as work:
            if snapshots:
                removed = _remove_named(app, repository, work, snapshots, chosen, dry_run=flags["dry_run"])
            else:
                removed = _remove_by_rules(app, repository, work, options, chosen, dry_run=flags["dry_run"])
        result = plan = None
        if pruning is not None and removed is not None:
            if flags["dry_run"]:
                plan = _plan_prune(app, repository, pruning, removed)
            else:
                result = _prune(app, repository, pruning)
    _say_what_now(app.output, removed=bool(removed), pruned=flags["prune"], dry_run=flags["dry_run"])
    app.output.line("summary", _summary_fields(removed or [], result, plan, dry_run=flags["dry_run"]))
    return INCOMPLETE if result is not None and result.problems else DONE


def _options(flags: Mapping[str, Any]) -> ForgetOptions:
    from bfrepo.operations.forget import ForgetOptions
    from bfrepo.operations.listing import parse_group_by

    return ForgetOptions(
        rules=_rules(flags),
        group_by=parse_group_by(flags["group_by"]),
        allow_remove_all=flags["unsafe_allow_remove_all"],
    )


def _rules(flags: Mapping[str, Any]) -> RetentionRules:
    from bfrepo.data.retention import Duration, RetentionRules, parse_count

    counts = {name: parse_count(flags[f"keep_{name}"]) for name in _COUNTS if flags[f"keep_{name}"] is not None}
    spans = {name: Duration.parse(flags[f"keep_{name}"]) for name in _SPANS if flags[f"keep_{name}"] is not None}
    rules: dict[str, Any] = {**counts, **spans}
    return RetentionRules(**rules, tags=tuple(frozenset(split_tags([each])) for each in flags["keep_tags"]))


def _pruning(flags: Mapping[str, Any]) -> PruneOptions | None:
    """How to prune afterwards, if that is to be."""
    given = [name for name in _PRUNE_OPTIONS if flags[name] is not None]
    if given and not flags["prune"]:
        raise UsageError(f"--{given[0].replace('_', '-')} is for pruning", hint="add --prune")
    if not flags["prune"]:
        return None
    return prune_options(
        flags["max_unused"] or "5%",
        flags["max_repack_size"],
        flags["grace"] or "24h",
        allow_remove_all=flags["unsafe_allow_remove_all"],
    )


def _remove_named(
    app: App, repository: Repository, work: Work, names: Sequence[str], chosen: SnapshotFilter, *, dry_run: bool
) -> list[bytes] | None:
    from bfrepo.operations.forget import find_named_snapshots, remove_snapshots

    found = find_named_snapshots(repository, names, chosen)
    if not dry_run:
        remove_snapshots(repository, found, work.display, work.cancelled)
    for identifier, snapshot in found.items():
        app.output.say(f"{'would remove' if dry_run else 'removed'} {_text(identifier, snapshot)}")
    return list(found)


def _remove_by_rules(
    app: App, repository: Repository, work: Work, options: ForgetOptions, chosen: SnapshotFilter, *, dry_run: bool
) -> list[bytes] | None:
    """What was removed; None when there are no snapshots at all."""
    from bfrepo.operations.forget import load_all_snapshots, plan_forget, remove_snapshots

    known = load_all_snapshots(repository)
    plan = plan_forget(chosen.apply(known), options, app.clock.now())
    _show(app.output, plan, dry_run=dry_run)
    if not dry_run:
        remove_snapshots(repository, plan.removed, work.display, work.cancelled)
    if not plan.groups:
        app.output.say("no snapshots match" if known else "no snapshots yet")
    else:
        verbs = ("would be kept", "would be removed") if dry_run else ("kept", "removed")
        app.output.say(f"{_count(len(plan.kept))} {verbs[0]}, {format_count(len(plan.removed))} {verbs[1]}")
    return plan.removed if known else None


def _say_what_now(output: Output, *, removed: bool, pruned: bool, dry_run: bool) -> None:
    if dry_run:
        output.say("dry run: nothing was removed" + (" or pruned" if pruned else ""))
    elif removed and not pruned:
        output.say("'backupforge prune' frees the space that nothing needs any more")


def _prune(app: App, repository: Repository, options: PruneOptions) -> PruneResult:
    from bfrepo.operations.prune import prune

    with app.working(unit="trees") as work:
        result = prune(repository, options, work.display, work.cancelled)
    show_result(app.output, result, options.grace)
    return result


def _plan_prune(app: App, repository: Repository, options: PruneOptions, forgotten: Sequence[bytes]) -> PrunePlan:
    """What the prune would do, shown."""
    from bfrepo.operations.prune import plan_prune

    with app.working(unit="trees") as work:
        plan = plan_prune(repository, options, work.display, work.cancelled, forgotten=forgotten)
    show_plan(app.output, plan, options.grace)
    return plan


def _show(output: Output, plan: ForgetPlan, *, dry_run: bool) -> None:
    """The plan, before anything is removed; with --quiet only if it is all that was asked for."""
    for group in plan.groups:
        output.line("group", _group_fields(group))
        for line in _group_lines(output, group):
            if dry_run:
                output.result(line)
            else:
                output.say(line)
    for warning in plan.warnings:
        output.notice("warning", b"", warning)


def _group_lines(output: Output, each: ForgetGroup) -> Iterator[str]:
    """The table of a group; columns that would be empty or say the same in every line are left out."""
    group, decisions = each.group, each.decisions
    title = group_title(group)
    if title:
        yield output.style.bold(f"Snapshots for {title}")
    snapshots = [decision.snapshot for decision in decisions]
    columns = {
        "": ["keep" if decision.kept else "remove" for decision in decisions],
        "ID": [short(decision.id) for decision in decisions],
        "Time": [_own_time(snapshot.when) for snapshot in snapshots],
        "Host": [shown(snapshot.hostname) if group.host is None else "" for snapshot in snapshots],
        "Tags": [",".join(map(shown, snapshot.tags)) for snapshot in snapshots],
        "Label": [shown(snapshot.label) for snapshot in snapshots],
        "Paths": ["\n".join(map(shown, snapshot.paths)) if group.paths is None else "" for snapshot in snapshots],
        "Why": [", ".join(map(shown, decision.reasons)) for decision in decisions],
    }
    columns = {heading: cells for heading, cells in columns.items() if any(cells)}
    yield from table(list(columns), list(zip(*columns.values(), strict=True)), "<" * len(columns), output.style)
    yield ""


def _own_time(when: datetime) -> str:
    """The time that the rules go by: in the zone it was made in, which is named where it is not ours."""
    local = local_time(when)
    return local if local == f"{when:%Y-%m-%d %H:%M:%S}" else when.isoformat(sep=" ", timespec="seconds")


def _group_fields(each: ForgetGroup) -> dict[str, Any]:
    kept = [decision for decision in each.decisions if decision.kept]
    return {
        "group_key": group_key(each.group),
        "keep": [{**snapshot_document(one.id, one.snapshot), "reasons": list(one.reasons)} for one in kept],
        "remove": [snapshot_document(one.id, one.snapshot) for one in each.decisions if not one.kept],
    }


def _summary_fields(
    removed: Sequence[bytes], result: PruneResult | None, plan: PrunePlan | None, *, dry_run: bool
) -> dict[str, Any]:
    return {
        "removed": [identifier.hex() for identifier in removed],
        **({"prune": result_fields(result)} if result is not None else {}),
        **({"prune": {"plan": plan_fields(plan)}} if plan is not None else {}),
        "dry_run": dry_run,
    }


def _text(identifier: bytes, snapshot: Snapshot) -> str:
    paths = ", ".join(map(shown, snapshot.paths))
    return f"snapshot {short(identifier)} of {local_time(snapshot.when)}, {shown(snapshot.hostname)}: {paths}"


def _count(number: int) -> str:
    return f"{format_count(number)} snapshot{'' if number == 1 else 's'}"
