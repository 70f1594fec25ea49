"""`rewrite`: drop paths from old snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bfrepo.core.errors import UsageError
from bfrepo.core.units import format_count, format_size
from cli.app import App, pass_app
from cli.chosen import choose_snapshots
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.options import command, filter_options
from cli.output import Output
from cli.render import local_time, short, shown
from cli.values import snapshot_filter

if TYPE_CHECKING:
    from bfrepo.operations.rewrite import RewriteOptions, RewriteResult, Rewritten


@command(
    "rewrite",
    short_help="Drop paths from old snapshots.",
    examples=[
        ("backupforge rewrite --exclude '*.iso' --dry-run", "what would be dropped from all snapshots?"),
        ("backupforge rewrite --exclude /home/me/.ssh --forget", "from all of them, and the originals go"),
        ("backupforge rewrite --exclude-file patterns --host web1 latest", "from one snapshot, beside the original"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("snapshots", nargs=-1, metavar="[SNAPSHOT...]")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Drop what matches; see backupforge-exclude(7).")
@click.option("--iexclude", multiple=True, metavar="PATTERN", help="The same, capital or small letters alike.")
@click.option("--exclude-file", multiple=True, type=click.Path(), metavar="FILE", help="Patterns to drop, one a line.")
@click.option(
    "--iexclude-file",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="The same, capital or small letters alike.",
)
@click.option("--forget", is_flag=True, help="Remove the originals.")
@click.option("-n", "--dry-run", is_flag=True, help="Change nothing; say what would be dropped.")
@filter_options
@pass_app
def run(app: App, /, snapshots: Sequence[str], **flags: Any) -> int:
    """Drop paths from old snapshots: from those that are named, or from all that match the filters.

    A new snapshot is made of each that has such a path. The originals stay, and the new ones are tagged 'rewrite',
    unless --forget removes the originals. What only they needed is freed by 'backupforge prune'. The files' data is not
    read; all directories are, and if one of them cannot be, nothing is changed.
    """
    from bfrepo.operations.rewrite import rewrite

    options = _options(flags, app.settings.environment)
    chosen = snapshot_filter(flags["hosts"], flags["tags"], flags["paths"])

    def on_rewritten(done: Rewritten) -> None:
        _show_one(app.output, done, dry_run=options.dry_run)

    with app.open_repository() as repository, app.working(unit="directories") as work:
        found = choose_snapshots(repository, snapshots, chosen, work)
        result = rewrite(repository, found, options, work.display, work.cancelled, on_rewritten)
    _show(app.output, result, options)
    return INCOMPLETE if work.display.progress.errors else DONE


def _options(flags: Mapping[str, Any], environment: Mapping[str, str]) -> RewriteOptions:
    from bfrepo.operations.rewrite import RewriteOptions
    from bfrepo.sources.exclude import ExcludeRules

    rules = ExcludeRules.from_options(
        environment=environment,
        exclude=flags["exclude"],
        iexclude=flags["iexclude"],
        exclude_files=[Path(each) for each in flags["exclude_file"]],
        iexclude_files=[Path(each) for each in flags["iexclude_file"]],
    )
    if not rules:
        raise UsageError("nothing to drop was given", hint="say what to drop, for instance with --exclude '*.iso'")
    return RewriteOptions(
        rules=rules,
        patterns=(*flags["exclude"], *flags["iexclude"]),
        forget=flags["forget"],
        dry_run=flags["dry_run"],
    )


def _show_one(output: Output, done: Rewritten, *, dry_run: bool) -> None:
    before, after = done.old.summary, done.new.summary
    files, size = max(before.files - after.files, 0), max(before.size - after.size, 0)
    new = {"new_snapshot_id": done.new_id.hex()} if done.new_id else {}
    output.line(
        "would_rewrite" if dry_run else "rewritten",
        {"old_snapshot_id": done.old_id.hex(), **new, "files_dropped": files, "bytes_dropped": size},
    )
    dropped = f"{format_count(files)} file{'' if files == 1 else 's'}, {format_size(size)}"
    what = f"{short(done.old_id)} of {local_time(done.old.when)}, {shown(done.old.hostname)}"
    if dry_run:
        output.result(f"would rewrite {what}, without {dropped}")
    else:
        output.say(f"rewrote {what} as {short(done.new_id)}, without {dropped}")


def _show(output: Output, result: RewriteResult, options: RewriteOptions) -> None:
    count = len(result.rewritten)
    counts = {"snapshots_rewritten": count, "snapshots_unchanged": result.unchanged}
    output.line("summary", {**counts, "snapshots_done_before": result.done_before, "dry_run": options.dry_run})
    before = f", {format_count(result.done_before)} were rewritten before" if result.done_before else ""
    verb = "would be rewritten" if options.dry_run else "rewritten"
    output.say(
        f"{format_count(count)} snapshot{'' if count == 1 else 's'} {verb}, "
        f"{format_count(result.unchanged)} with nothing to drop{before}"
    )
    if options.dry_run:
        output.say("dry run: nothing was changed")
    elif options.forget and count:
        output.say("'backupforge prune' frees the space that nothing needs any more")
    elif count or result.done_before:
        output.say("the originals are still there: the same command with --forget removes them")
