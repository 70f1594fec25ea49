"""`cache`: what is kept on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from bfrepo.core.errors import BackupForgeError, UsageError
from bfrepo.core.units import format_size, parse_span
from cli.app import App, pass_app
from cli.exit_codes import DONE, FAILED, INCOMPLETE, INTERRUPTED, USAGE
from cli.options import Group
from cli.render import local_time, short, shown, table

if TYPE_CHECKING:
    from bfrepo.operations.caches import CachedRepository, CacheKind

_CODES = (DONE, FAILED, USAGE, INTERRUPTED)
_KINDS: Final[tuple[CacheKind, ...]] = ("index", "objects", "catalogue")


@click.pass_context
def _list_by_default(context: click.Context) -> None:
    """`cache` alone shows what there is."""
    if context.invoked_subcommand is None:
        context.invoke(list_command)


run = Group(
    "cache",
    callback=_list_by_default,
    invoke_without_command=True,
    help="""Show and remove what is kept on this machine.

    Of each repository that is the index, sealed like the repository itself; of one that is far away also snapshots and
    directories, as they are stored; and the catalogue of file names if somebody asked for one. All of it is made again
    when it is needed. Without COMMAND it is listed.""",
    short_help="Show and remove what is kept on this machine.",
)


@run.command(
    "list",
    short_help="Show what is kept, and how large it is.",
    examples=[("backupforge cache list", "all repositories, least recently used first")],
    exit_codes=_CODES,
)
@pass_app
def list_command(app: App) -> None:
    """Show of which repositories something is kept: ID, location, size and last use, which is exact to a day."""
    caches = _caches(app)
    app.output.document([_fields(each) for each in caches])
    if not caches:
        app.output.say("nothing is kept")
        return
    rows = [
        (
            short(each.id),
            local_time(each.last_used)[:10],
            *(format_size(each.sizes[kind]) if kind in each.sizes else "-" for kind in _KINDS),
            shown(each.location) or "-",
        )
        for each in caches
    ]
    app.output.result(
        table(("ID", "Last used", "Index", "Objects", "Catalogue", "Location"), rows, "<<>>><", app.output.style)
    )
    app.output.say(f"{format_size(sum(each.size for each in caches))} in {shown(str(app.settings.cache_dir))}")


@run.command(
    "remove",
    short_help="Remove what is kept.",
    examples=[
        ("backupforge cache remove 9b21d0e7", "of one repository, by its ID from 'cache list'"),
        ("backupforge cache remove --older-than 30d", "of those that nobody has used for so long"),
        ("backupforge cache remove --all", "everything"),
    ],
    exit_codes=(*_CODES[:3], INCOMPLETE, INTERRUPTED),
)
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--all", "everything", is_flag=True, help="Of all repositories.")
@click.option("--older-than", metavar="TIME", help="Of those that were last used so long ago, such as 30d.")
@pass_app
def remove_command(app: App, ids: Sequence[str], everything: bool, older_than: str | None) -> int:
    """Remove what is kept, whatever it is. Repositories themselves are not touched, and nor is any other file.

    A catalogue that somebody uses at the moment stays, and the exit code is 3.
    """
    from bfrepo.operations.caches import remove_cache

    chosen = _choose(app, ids, everything=everything, older_than=older_than)
    removed = []
    for each in chosen:
        try:
            remove_cache(each)
            removed.append(each)
        except BackupForgeError as error:
            app.output.notice("error", b"", str(error))
    app.output.document({"message_type": "cache_removed", "removed": [_fields(each) for each in removed]})
    freed = format_size(sum(each.size for each in removed))
    app.output.say(f"removed what was kept of {len(removed)} repositor{'y' if len(removed) == 1 else 'ies'}, {freed}")
    return DONE if len(removed) == len(chosen) else INCOMPLETE


def _choose(app: App, ids: Sequence[str], *, everything: bool, older_than: str | None) -> list[CachedRepository]:
    from bfrepo.core.ids import resolve_prefix

    if bool(ids) + everything + (older_than is not None) != 1:
        raise UsageError("say what to remove: IDs, or --older-than, or --all", hint="see them with 'cache list'")
    caches = {each.id: each for each in _caches(app)}
    if ids:
        return [caches[found] for found in dict.fromkeys(resolve_prefix(each, caches, what="cache") for each in ids)]
    if older_than is not None:
        limit = app.clock.now() - parse_span(older_than)
        return [each for each in caches.values() if each.last_used < limit]
    return list(caches.values())


def _caches(app: App) -> list[CachedRepository]:
    from bfrepo.operations.caches import list_caches

    return list_caches(app.settings.cache_dir) if app.settings.cache_dir is not None else []


def _fields(cached: CachedRepository) -> dict[str, Any]:
    return {
        "id": cached.id.hex(),
        "location": cached.location,
        "folder": str(cached.folder),
        "sizes": dict(cached.sizes),
        "size": cached.size,
        "last_used": cached.last_used.isoformat(),
    }
