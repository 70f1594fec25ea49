"""What commands that look something up across snapshots have in common: the snapshots that are meant, the catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from cli.app import App, Work
from cli.values import snapshot_filter

if TYPE_CHECKING:
    from bfrepo.catalogue.catalogue import Catalogue
    from bfrepo.data.snapshot import Snapshot
    from bfrepo.repository.repository import Repository

catalogue_option = click.option(
    "--catalogue/--no-catalogue",
    default=None,
    help="Keep the names of all files on this machine, readable without a password, and look them up there; or do not "
    "use what is there.  [default: use it where there is one]",
)


@dataclass(frozen=True, slots=True)
class Lookup:
    """An open repository, the snapshots that are meant, and its catalogue if there is one to use."""

    repository: Repository
    snapshots: Mapping[bytes, Snapshot]
    catalogue: Catalogue | None
    work: Work


@contextmanager
def looking_up(
    app: App,
    *,
    catalogue: bool | None,
    names: Sequence[str] = (),
    hosts: Sequence[str],
    tags: Sequence[str],
    paths: Sequence[str],
    streaming: bool = True,
) -> Iterator[Lookup]:
    """Open the repository and find out which snapshots are meant: those named, or all that match the filters.

    A snapshot that cannot be read is reported.
    """
    from bfrepo.data.selection import find_snapshot
    from bfrepo.operations.catalogue import open_repository_catalogue, update_catalogue
    from bfrepo.operations.snapshots import load_snapshots

    chosen = snapshot_filter(hosts, tags, paths)
    profile = app.settings.profile
    wanted = catalogue if catalogue is not None else bool(profile and profile.catalogue)
    with ExitStack() as stack:
        repository = stack.enter_context(app.open_repository())
        work = stack.enter_context(app.working(streaming=streaming))

        def on_error(name: str, error: Exception) -> None:
            work.display.problem(b"", str(error))

        kept = open_repository_catalogue(repository, make=wanted) if catalogue is not False else None
        if kept is None:
            if catalogue:
                app.output.notice("warning", b"", "there can be no catalogue here, so directories are read")
            known = load_snapshots(repository, on_error)
        else:
            stack.enter_context(kept)
            known = update_catalogue(repository, kept, work.display, work.cancelled, on_error)
        if names:
            picked = {find_snapshot(name, known, chosen) for name in names}
            snapshots = {identifier: each for identifier, each in known.items() if identifier in picked}
        else:
            snapshots = chosen.apply(known)
        yield Lookup(repository, snapshots, kept, work)
