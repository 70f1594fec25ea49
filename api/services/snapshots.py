"""Snapshots of a tenant's repositories: lists of them, their tags, and forgetting them. Every method blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from api.db.engine import Database
from api.identity import Caller
from api.paging import Paged, decode_cursor, encode_cursor
from api.problems import Problem, not_found
from api.services.audit import Origin, record
from api.services.catalogue import STALE_S, Catalogue, Filter, SnapshotList, SnapshotView, view_of
from api.services.names import Path, raw_path
from api.services.opened import OpenRepositories
from api.services.repositories import Known, Repositories
from api.services.store_backend import StoreBackend
from bfrepo.core.progress import Quiet
from bfrepo.data.snapshot import Snapshot, decode_snapshot
from bfrepo.operations.forget import remove_snapshots
from bfrepo.operations.tag import TagChange, change_tags
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind

_ID: Final = re.compile(r"[0-9a-f]{64}")


class SnapshotQuery(Paged, kw_only=True, forbid_unknown_fields=True):
    """Which snapshots: of one repository, host or tag, that have a path among what was backed up, or of some time."""

    path: Path | None = None
    path_raw: Path | None = None
    repository: Annotated[str, Meta(max_length=64)] | None = None
    host: Annotated[str, Meta(max_length=255)] | None = None
    tag: Annotated[str, Meta(max_length=255)] | None = None
    after: Annotated[datetime, Meta(tz=True)] | None = None
    before: Annotated[datetime, Meta(tz=True)] | None = None


class Unavailable(msgspec.Struct):
    """A repository whose snapshots are not in a list, and why."""

    repository: str
    name: str
    code: str
    detail: str


class SnapshotPage(msgspec.Struct):
    """Some snapshots, the newest first. `unavailable` are repositories that cannot be read just now."""

    items: list[SnapshotView]
    next_cursor: str
    unavailable: list[Unavailable]


class EncodedPage(msgspec.Struct):
    """A SnapshotPage whose items are JSON already."""

    items: list[msgspec.Raw]
    next_cursor: str
    unavailable: list[Unavailable]


@dataclass(frozen=True, slots=True)
class Found:
    """A snapshot, its ID, the repository it is in, and when that was listed, by the monotonic clock."""

    known: Known
    id: bytes
    snapshot: Snapshot
    listed_at: float


_Row = tuple[tuple[float, str, str], SnapshotList, int]


class Snapshots:
    """Snapshots of tenants. Thread-safe."""

    def __init__(
        self, database: Database, repositories: Repositories, opened: OpenRepositories, catalogue: Catalogue
    ) -> None:
        self._database = database
        self._repositories = repositories
        self._opened = opened
        self._catalogue = catalogue

    def page(self, caller: Caller, query: SnapshotQuery) -> EncodedPage:
        """Snapshots of all the tenant's repositories, or of one.

        Raises Problem when that one cannot be read; in a list of all it is told beside the others.
        """
        wanted = Filter(
            query.host, query.tag, raw_path(query.path, query.path_raw), _seconds(query.after), _seconds(query.before)
        )
        before = decode_cursor(query.cursor, (float, str, str))
        unavailable: list[Unavailable] = []
        rows: list[Iterator[_Row]] = []
        for known in self._repositories.known(caller.tenant_id, query.repository):
            try:
                found = self._catalogue.get(caller.tenant_id, known)
            except Problem as problem:
                if query.repository is not None:
                    raise
                unavailable.append(Unavailable(known.id, known.name, problem.code, problem.detail))
                continue
            rows.append(_rows(known, found, wanted, before))
        page = list(islice(merge(*rows, key=_key, reverse=True), query.limit + 1))
        shown = page[: query.limit]
        cursor = encode_cursor(shown[-1][0]) if len(page) > query.limit else ""
        return EncodedPage([found.encoded[at] for _, found, at in shown], cursor, unavailable)

    def find(self, caller: Caller, snapshot_id: str, repository_id: str | None = None) -> Found:
        """The snapshot with this ID in any of the tenant's repositories, or in that one.

        Raises Problem: 404 where no repository that can be read has it.
        """
        if not _ID.fullmatch(snapshot_id):
            raise not_found("snapshot")
        known = self._repositories.known(caller.tenant_id, repository_id)
        key, problem = bytes.fromhex(snapshot_id), not_found("snapshot")
        for max_age_s in (STALE_S, 0.0):  # one that is not known may have been made just now
            for each in known:
                try:
                    found = self._catalogue.get(caller.tenant_id, each, max_age_s)
                except Problem as error:
                    problem = error
                    continue
                if key in found.snapshots:
                    return Found(each, key, found.snapshots[key], found.listed_at)
        raise problem

    def get(self, caller: Caller, snapshot_id: str, repository_id: str | None = None) -> SnapshotView:
        """One snapshot. Raises Problem."""
        found = self.find(caller, snapshot_id, repository_id)
        return view_of(found.known.id, found.id, found.snapshot)

    def change(
        self, origin: Origin, caller: Caller, snapshot_id: str, repository_id: str | None,
        tags: Sequence[str] | None, label: str | None,
    ) -> SnapshotView:  # fmt: skip
        """Give a snapshot other tags or another label: the snapshot that takes its place.

        Raises Problem: 404 also when somebody has removed it meanwhile.
        """
        if tags is None and label is None:
            raise Problem(HTTPStatus.BAD_REQUEST, "nothing-to-change", "send tags, label, or both")
        found = self.find(caller, snapshot_id, repository_id)
        wanted = TagChange(replace=None if tags is None else frozenset(tags), label=label)
        with self._opened.use(caller.tenant_id, found.known) as opened, opened.lock:
            repository = opened.repository
            self._refuse_append_only(caller, repository)
            result = change_tags(repository, {found.id: found.snapshot}, wanted, Quiet(), _never)
            if result.unchanged:
                return view_of(found.known.id, found.id, found.snapshot)
            if not result.changed:
                raise not_found("snapshot")
            new_id = result.changed[found.id]
            content = repository.objects.load(ObjectKind.SNAPSHOT, new_id.hex())
            snapshot = decode_snapshot(content, name=new_id.hex())

        def replace(snapshots: dict[bytes, Snapshot]) -> None:
            snapshots.pop(found.id, None)
            snapshots[new_id] = snapshot

        self._catalogue.change(caller.tenant_id, found.known, replace)
        self._note(origin, "snapshot.change", found, new_id.hex())
        return view_of(found.known.id, new_id, snapshot)

    def forget(self, origin: Origin, caller: Caller, snapshot_id: str, repository_id: str | None) -> None:
        """Remove a snapshot. What nothing else needs is for prune. Raises Problem."""
        found = self.find(caller, snapshot_id, repository_id)
        with self._opened.use(caller.tenant_id, found.known) as opened, opened.lock:
            self._refuse_append_only(caller, opened.repository)
            remove_snapshots(opened.repository, [found.id], Quiet())

        def remove(snapshots: dict[bytes, Snapshot]) -> None:
            snapshots.pop(found.id, None)

        self._catalogue.change(caller.tenant_id, found.known, remove)
        self._note(origin, "snapshot.forget", found, found.known.id)

    def _refuse_append_only(self, caller: Caller, repository: Repository) -> None:
        if isinstance(repository.backend, StoreBackend) and self._repositories.is_append_only(caller.tenant_id):
            raise Problem(HTTPStatus.FORBIDDEN, "append-only", "the tenant is append-only: nothing in its stores goes")

    def _note(self, origin: Origin, action: str, found: Found, detail: str) -> None:
        with self._database.write() as connection:
            record(connection, origin, action, found.id.hex(), detail)


def _rows(known: Known, found: SnapshotList, wanted: Filter, before: tuple[Any, ...] | None) -> Iterator[_Row]:
    """The rows of one repository, newest first, from behind a cursor on."""
    key = None
    if before is not None:  # of equal snapshots in several repositories, that with the greater ID comes first
        when, identifier, repository_id = before
        key = (when, identifier + "~" if known.id < repository_id else identifier)
    for at in found.newest(wanted, key):
        yield (*found.keys[at], known.id), found, at


def _key(row: _Row) -> tuple[float, str, str]:
    return row[0]


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def _never() -> bool:
    return False
