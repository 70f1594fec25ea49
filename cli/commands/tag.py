"""`tag`: change tags and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from bfrepo.core.units import format_count
from cli.app import App, pass_app
from cli.chosen import choose_snapshots
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.options import command, filter_options
from cli.render import local_time, short, shown
from cli.values import snapshot_filter, split_tags

if TYPE_CHECKING:
    from bfrepo.operations.tag import TagChange


@command(
    "tag",
    short_help="Change tags and labels of snapshots.",
    examples=[
        ("backupforge tag --add forever latest", "tag the last snapshot"),
        ("backupforge tag --tag nightly --remove nightly --add daily", "rename a tag wherever it is"),
        ("backupforge tag --set a,b 4f2a1b9c", "these tags and no others; '' for none"),
        ("backupforge tag --label 'before the upgrade' latest~1", "a remark for people"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("snapshots", nargs=-1, metavar="[SNAPSHOT...]")
@click.option("--add", multiple=True, metavar="TAG[,TAG]", help="Add these tags; may be repeated.")
@click.option("--remove", multiple=True, metavar="TAG[,TAG]", help="Remove these tags; may be repeated.")
@click.option("--set", "replace", multiple=True, metavar="TAG[,TAG]", help="These tags instead of all; '' for none.")
@click.option("--label", metavar="TEXT", help="This label; '' for none.")
@filter_options
@pass_app
def run(
    app: App,
    snapshots: Sequence[str],
    add: Sequence[str],
    remove: Sequence[str],
    replace: Sequence[str],
    label: str | None,
    hosts: Sequence[str],
    tags: Sequence[str],
    paths: Sequence[str],
) -> int:
    """Change tags and labels of snapshots: of those that are named, or of all that match the filters.

    Nothing that is stored ever changes, so a new snapshot takes the place of each old one: it has another ID, and says
    which its original was. Should the program die just between, there are both, and doing it again changes the other.
    """
    from bfrepo.operations.tag import change_tags

    change = _change(add, remove, replace, label)
    chosen = snapshot_filter(hosts, tags, paths)
    output = app.output
    with app.open_repository() as repository, app.working(unit="snapshots") as work:
        found = choose_snapshots(repository, snapshots, chosen, work)

        def on_changed(old: bytes, new: bytes) -> None:
            snapshot = found[old]
            now, label = change.tags_of(snapshot), change.label_of(snapshot)
            ids = {"old_snapshot_id": old.hex(), "new_snapshot_id": new.hex()}
            output.line("changed", {**ids, "tags": now, "label": label})
            what = f"tags {','.join(map(shown, now)) or '(none)'}" + (f", label {shown(label)}" if label else "")
            output.say(f"{short(old)} of {local_time(snapshot.when)} is now {short(new)}: {what}")

        result = change_tags(repository, found, change, work.display, work.cancelled, on_changed)
    changed = len(result.changed)
    output.line("summary", {"snapshots_changed": changed, "snapshots_unchanged": result.unchanged})
    output.say(
        f"{format_count(changed)} snapshot{'' if changed == 1 else 's'} changed, "
        f"{format_count(result.unchanged)} left alone"
        if found
        else "no snapshots match"
    )
    return INCOMPLETE if work.display.progress.errors else DONE


def _change(add: Sequence[str], remove: Sequence[str], replace: Sequence[str], label: str | None) -> TagChange:
    from bfrepo.operations.tag import TagChange

    return TagChange(
        add=frozenset(split_tags(add)),
        remove=frozenset(split_tags(remove)),
        replace=frozenset(split_tags(replace)) if replace else None,
        label=label,
    )
