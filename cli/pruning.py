"""What a prune is going to do, and what it did, as people and programs read it; for all commands that prune."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bfrepo.core.units import format_count, format_duration, format_size
from cli.output import Output
from cli.render import table

if TYPE_CHECKING:
    from bfrepo.operations.prune import PrunePlan, PruneResult


def plan_fields(plan: PrunePlan) -> dict[str, Any]:
    """The plan as JSON has it: how many packs and bytes, and which packs."""
    groups = {
        "delete": plan.delete, "condemn": plan.condemn, "waiting": plan.waiting,
        "repack": {pack.id: pack.size for pack in plan.repack}, "rescue": {pack.id: pack.size for pack in plan.rescue},
    }  # fmt: skip
    return {
        "packs": plan.packs,
        "total_size": plan.total_size,
        "used_size": plan.used,
        "duplicate_size": plan.duplicate,
        "unused_size": plan.unused,
        "size_after": plan.size_after,
        "moved_size": plan.moved,
        **{
            name: {"count": len(packs), "size": sum(packs.values()), "packs": [pack.hex() for pack in packs]}
            for name, packs in groups.items()
        },
        "revive": {"count": len(plan.revive), "packs": [pack.hex() for pack in plan.revive]},
        "damaged": [pack.hex() for pack in plan.suspicious],
        "archived_unused_size": plan.archived_unused,
    }


def result_fields(result: PruneResult) -> dict[str, Any]:
    """The result as JSON has it, with the plan it began with."""
    return {
        "plan": plan_fields(result.plan),
        "deleted": {"count": result.deleted, "size": result.deleted_size},
        "condemned": {"count": result.condemned, "size": result.condemned_size},
        "repacked": {"count": result.repacked, "written_size": result.written},
        "revived": result.revived,
        "spared": result.spared,
        "locked": result.locked,
        "problems": result.problems,
        "index_objects": {"replaced": result.merged.replaced, "written": result.merged.written},
        "total_duration": round(result.duration_s, 3),
    }


def show_plan(output: Output, plan: PrunePlan, grace: timedelta) -> None:
    """What is there, and what is to become of it."""
    content = [
        ("needed", plan.used), ("needed, a second time", plan.duplicate), ("not needed", plan.unused),
        ("together", plan.total_size),
    ]  # fmt: skip
    rows = [(name, format_size(size), _percent(size, plan.total_size)) for name, size in content]
    output.result(table(("Content", "Size", ""), rows, "<>>", output.style))
    steps = [(name, format_count(count), format_size(size)) for name, count, size in _steps(plan, grace) if count]
    if steps:
        output.result("")
        output.result(table(("Packs", "Count", "Size"), steps, "<>>", output.style))
    if plan.archived_unused:
        output.result("")
        output.result(
            f"{format_size(plan.archived_unused)} that nobody needs stay in archived packs, which are not read"
        )
    if plan.suspicious:
        count = len(plan.suspicious)
        output.notice("warning", b"", f"{count} packs that snapshots need are damaged: run 'backupforge check'")


def _steps(plan: PrunePlan, grace: timedelta) -> Iterator[tuple[str, int, int]]:
    after = f"in {span(grace)}" if grace else "at once"
    yield "delete now", len(plan.delete), plan.delete_size
    yield f"delete {after}, if still not needed", len(plan.condemn), plan.condemn_size
    yield f"copy what is needed ({format_size(plan.moved)}), delete {after}", len(plan.repack), plan.repack_size
    yield "copy what is needed, delete (left by a prune)", len(plan.rescue), sum(pack.size for pack in plan.rescue)
    yield "to be deleted, but needed again: keep", len(plan.revive), 0
    yield "wait for the end of their grace time", len(plan.waiting), plan.waiting_size
    keep = plan.packs - sum(map(len, (plan.delete, plan.condemn, plan.repack, plan.rescue, plan.waiting)))
    yield "keep", keep, plan.total_size - _leaving(plan)


def _leaving(plan: PrunePlan) -> int:
    moved = sum(pack.size for pack in (*plan.repack, *plan.rescue))
    return plan.delete_size + plan.condemn_size + plan.waiting_size + moved


def show_result(output: Output, result: PruneResult, grace: timedelta) -> None:
    """What was done, in sentences."""
    for line in _sentences(result, grace):
        output.say(line)


def _sentences(result: PruneResult, grace: timedelta) -> Iterator[str]:
    freed = result.deleted_size - result.written
    if result.deleted:
        yield f"deleted {_packs(result.deleted)}, {format_size(result.deleted_size)}"
    if result.repacked or result.written:
        yield f"repacked {_packs(result.repacked)}, writing {format_size(result.written)}"
    if result.revived or result.spared:
        yield f"kept {_packs(result.revived + result.spared)} that were to go and are needed"
    if result.condemned:
        size = format_size(result.condemned_size)
        yield f"condemned {_packs(result.condemned)}, {size}: a prune in {span(grace)} or later deletes them"
    if result.merged.written:
        yield f"joined {result.merged.replaced} index objects in {result.merged.written}"
    if result.locked:
        yield f"locked {result.locked:,} objects for the whole time again"
    verb = "freed" if freed >= 0 else "took"
    yield f"{verb} {format_size(abs(freed))} in {format_duration(result.duration_s)}"
    waiting = result.condemned_size + result.plan.waiting_size
    if waiting and grace:
        yield f"another {format_size(waiting)} can be freed at once with --grace 0"


def span(time: timedelta) -> str:
    """A time span in the largest unit that fits it exactly: "24h", "7d"."""
    seconds = int(time.total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0 and (unit != "d" or seconds > size):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _packs(count: int) -> str:
    return f"{format_count(count)} pack{'' if count == 1 else 's'}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else ""
