"""`prune`: free the space that no snapshot needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bfrepo.core.units import parse_size, parse_span
from cli.app import App, pass_app
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.options import command
from cli.pruning import plan_fields, result_fields, show_plan, show_result

if TYPE_CHECKING:
    from bfrepo.operations.prune import PruneOptions


@command(
    "prune",
    short_help="Free the space that no snapshot needs.",
    examples=[
        ("backupforge prune", "what is not needed goes with the first prune after 24 hours"),
        ("backupforge prune --dry-run", "what would be done?"),
        ("backupforge prune --grace 0", "all of it at once, because the disk is full"),
        ("backupforge prune --max-unused unlimited", "copy nothing: only delete packs nobody needs anything of"),
        ("backupforge prune --max-repack-size 20G", "copy at most so much today"),
    ],
    exit_codes=WORK_CODES,
)
@click.option(
    "--max-unused", metavar="SIZE|P%|unlimited", default="5%", show_default=True,
    help="How much may stay that nobody needs, in packs of which something is needed.",
)  # fmt: skip
@click.option("--max-repack-size", metavar="SIZE", help="Copy at most so much out of such packs.")
@click.option(
    "--grace", metavar="TIME", default="24h", show_default=True,
    help="How long packs stay that nobody needs any more: 30m, 12h, 7d; 0 deletes them now.",
)  # fmt: skip
@click.option("--dry-run", "-n", is_flag=True, help="Only show what would be done.")
@click.option("--unsafe-allow-remove-all", is_flag=True, help="Allow to delete everything when no snapshot is left.")
@pass_app
def run(
    app: App, max_unused: str, max_repack_size: str | None, grace: str, dry_run: bool, unsafe_allow_remove_all: bool
) -> int:
    """Free the space that no snapshot needs.

    Backups and other prunes may run at the same time. Packs that nobody needs are condemned, and deleted by the first
    prune after the grace time; until then a backup that needs them can have them back. What is needed of packs that
    are mostly waste is copied to new ones.
    """
    options = prune_options(max_unused, max_repack_size, grace, allow_remove_all=unsafe_allow_remove_all)
    return _plan_only(app, options) if dry_run else _prune(app, options)


def prune_options(
    max_unused: str, max_repack_size: str | None, grace: str, *, allow_remove_all: bool = False
) -> PruneOptions:
    """What the texts of the options ask for. Raises InvalidValue."""
    from bfrepo.operations.prune import PruneOptions, UnusedLimit

    return PruneOptions(
        grace=parse_span(grace),
        max_unused=UnusedLimit.parse(max_unused),
        max_repack_size=None if max_repack_size is None else parse_size(max_repack_size),
        allow_remove_all=allow_remove_all,
    )


def _plan_only(app: App, options: PruneOptions) -> int:
    from bfrepo.operations.prune import plan_prune

    with app.open_repository() as repository, app.working(unit="trees", streaming=False) as work:
        plan = plan_prune(repository, options, work.display, work.cancelled)
    app.output.document({"dry_run": True, **plan_fields(plan)})
    show_plan(app.output, plan, options.grace)
    app.output.say()
    app.output.say("nothing was changed")
    return DONE


def _prune(app: App, options: PruneOptions) -> int:
    from bfrepo.operations.prune import PrunePlan, prune

    def on_plan(plan: PrunePlan) -> None:
        if not app.output.quiet:
            show_plan(app.output, plan, options.grace)
            app.output.say()

    with app.open_repository() as repository, app.working(unit="trees") as work:
        result = prune(repository, options, work.display, work.cancelled, on_plan=on_plan)
    app.output.line("summary", result_fields(result))
    show_result(app.output, result, options.grace)
    return INCOMPLETE if result.problems else DONE
