"""Statistics of storage: the last measurements, their history, and what is large in a snapshot. Every method blocks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from heapq import nlargest
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import RowMapping, func, select

from api.db.engine import Database
from api.db.schema import measurements, repositories
from api.db.tenancy import Tenancy
from api.fields import utc
from api.identity import Caller
from api.paging import Paged, cut_page, page_of
from api.problems import not_found
from api.services.contents import PlaceQuery, RepositoryId, node_at, path_of
from api.services.names import raw
from api.services.opened import Opened, OpenRepositories
from api.services.repositories import Repositories
from api.services.snapshots import Snapshots
from bfrepo.core.clock import Clock
from bfrepo.core.names import shown_name
from bfrepo.data.node import Node, NodeType
from bfrepo.data.tree import load_tree

_AT_ONCE_S: Final = 1.5
"""How long one request adds up; what it has found is kept for the next."""
_MOST_TREES: Final = 200_000
"""Directories whose sizes are kept, at about 200 bytes each."""


_MEASURED: Final = tuple(
    measurements.c[name] for name in ("at", "snapshots", "logical_bytes", "unique_bytes", "stored_bytes")
)


class StatsQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One repository, or all."""

    repository: RepositoryId | None = None


class HistoryQuery(Paged, kw_only=True, forbid_unknown_fields=True):
    """Of one repository, or all, and of some time."""

    repository: RepositoryId | None = None
    after: Annotated[datetime, Meta(tz=True)] | None = None
    before: Annotated[datetime, Meta(tz=True)] | None = None


class LargestQuery(PlaceQuery, kw_only=True, forbid_unknown_fields=True):
    """A directory of a snapshot, and how many of its entries are wanted."""

    snapshot: Annotated[str, Meta(max_length=64)]
    limit: Annotated[int, Meta(ge=1, le=500)] = 100


class Sums(msgspec.Struct, kw_only=True):
    """Bytes of all files as restores of all snapshots would write them, of different content, and of what is stored.

    Ratios are logical to unique, unique to stored, and logical to stored; null where nothing is stored.
    """

    snapshots: int
    logical_bytes: int
    unique_bytes: int
    stored_bytes: int
    dedup_ratio: float | None
    compression_ratio: float | None
    ratio: float | None


class RepositoryStats(msgspec.Struct, kw_only=True):
    """A repository when it was measured last; nulls before it was for the first time."""

    repository: str
    name: str
    measured: datetime | None
    sums: Sums | None


class StorageStats(msgspec.Struct):
    """Each repository, and all that were measured in total."""

    repositories: list[RepositoryStats]
    total: Sums


class Measurement(msgspec.Struct, kw_only=True):
    """A repository at a time."""

    repository: str
    at: datetime
    snapshots: int
    logical_bytes: int
    unique_bytes: int
    stored_bytes: int


class History(msgspec.Struct):
    """Some measurements, the oldest first."""

    items: list[Measurement]
    next_cursor: str


class Large(msgspec.Struct, kw_only=True):
    """An entry of a directory, with all below it. `files` are names: hard links count each."""

    name: str
    name_raw: str | UnsetType = UNSET
    type: NodeType
    size: int
    files: int
    complete: bool


class Largest(msgspec.Struct, kw_only=True):
    """A directory's largest entries, and all of it.

    Where something is not `complete`, it is larger: adding up takes a while, and goes on when it is asked for again.
    """

    path: str
    path_raw: str | UnsetType = UNSET
    size: int
    files: int
    complete: bool
    entries: int
    items: list[Large]


class Storage:
    """Statistics of tenants' storage. Thread-safe."""

    def __init__(
        self,
        database: Database,
        repositories: Repositories,
        snapshots: Snapshots,
        opened: OpenRepositories,
        clock: Clock,
    ) -> None:
        self._database = database
        self._repositories = repositories
        self._snapshots = snapshots
        self._opened = opened
        self._sizes = TreeSizes(clock)

    def stats(self, caller: Caller, query: StatsQuery) -> StorageStats:
        """The last measurement of each repository. Raises Problem for one that is not there."""
        mine = Tenancy(caller.tenant_id)
        newer = measurements.alias()
        newest = select(func.max(newer.c.id)).where(newer.c.repository_id == repositories.c.id)
        last = measurements.c.id == newest.correlate(repositories).scalar_subquery()
        columns = (repositories.c.id, repositories.c.name, *_MEASURED)
        wanted = mine.select(repositories, *columns).select_from(repositories.outerjoin(measurements, last))
        wanted = wanted.order_by(repositories.c.created)
        if query.repository is not None:
            wanted = wanted.where(repositories.c.id == query.repository)
        with self._database.read() as connection:
            rows = connection.execute(wanted).all()
        if query.repository is not None and not rows:
            raise not_found("repository")
        shown_rows = [_stats(*row) for row in rows]
        return StorageStats(shown_rows, _total([each.sums for each in shown_rows if each.sums]))

    def history(self, caller: Caller, query: HistoryQuery) -> History:
        """Measurements page by page. Raises Problem for a repository that is not there."""
        wanted = Tenancy(caller.tenant_id).select(measurements)
        if query.repository is not None:
            self._repositories.known(caller.tenant_id, query.repository)
            wanted = wanted.where(measurements.c.repository_id == query.repository)
        if query.after is not None:
            wanted = wanted.where(measurements.c.at >= query.after.timestamp())
        if query.before is not None:
            wanted = wanted.where(measurements.c.at <= query.before.timestamp())
        wanted = page_of(wanted, (measurements.c.at, measurements.c.id), query)
        with self._database.read() as connection:
            rows = connection.execute(wanted).mappings().all()
        shown_rows, cursor = cut_page(rows, query, lambda row: (row["at"], row["id"]))
        return History([_measurement(row) for row in shown_rows], cursor)

    def largest(self, caller: Caller, query: LargestQuery) -> Largest:
        """What is large at a path of a snapshot, as far as it is known in a moment. Raises Problem."""
        found = self._snapshots.find(caller, query.snapshot, query.repository)
        path = path_of(query)
        with self._opened.use(caller.tenant_id, found.known) as opened:
            opened.know(found.listed_at)
            node = node_at(opened, found.snapshot.tree, path)
            entries = opened.trees.load(node.subtree).nodes if node.type == "dir" else [node]
            sizes = self._sizes.of(opened, found.known.id, entries)
        pairs = nlargest(query.limit, zip(entries, sizes, strict=True), key=lambda pair: pair[1].size)
        return Largest(
            path=shown_name(b"/" + path),
            path_raw=raw(b"/" + path),
            size=sum(each.size for each in sizes),
            files=sum(each.files for each in sizes),
            complete=all(each.complete for each in sizes),
            entries=len(entries),
            items=[_large(*pair) for pair in pairs],
        )


class Size(msgspec.Struct, frozen=True, gc=False):
    """What an entry comes to, with all below it, or what of it is known."""

    size: int = 0
    files: int = 0
    complete: bool = True


class TreeSizes:
    """Sizes of trees, added up a while at a time, and kept. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: OrderedDict[tuple[str, bytes], Size] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, opened: Opened, repository_id: str, nodes: Sequence[Node]) -> list[Size]:
        """The sizes of entries. Raises what reading raises."""
        until = self._clock.monotonic() + _AT_ONCE_S
        return [self._of(opened, repository_id, node, until) for node in nodes]

    def _of(self, opened: Opened, repository_id: str, top: Node, until: float) -> Size:
        done = self._get(repository_id, top)
        if done is not None:
            return done
        sums: list[list[Any]] = [[b"", [top], 0, 0, True]]  # tree, what is left of it, and its sums until now
        while True:
            tree_id, left, size, files, complete = frame = sums[-1]
            if left:
                node = left.pop()
                known = self._get(repository_id, node)
                if known is None and self._clock.monotonic() < until:
                    sums.append([node.subtree, list(load_tree(opened.views, node.subtree)), 0, 0, True])
                    continue
                known = known or Size(complete=False)
                frame[2:] = size + known.size, files + known.files, complete and known.complete
                continue
            done = Size(size, files, complete)
            sums.pop()
            if not sums:
                return done
            if complete:
                self._keep(repository_id, tree_id, done)
            above = sums[-1]
            above[2:] = above[2] + size, above[3] + files, above[4] and complete

    def _get(self, repository_id: str, node: Node) -> Size | None:
        if node.type != "dir":
            return Size(node.size, int(node.type == "file"))
        with self._lock:
            return self._known.get((repository_id, node.subtree))

    def _keep(self, repository_id: str, tree_id: bytes, size: Size) -> None:
        with self._lock:
            self._known[repository_id, tree_id] = size
            if len(self._known) > _MOST_TREES:
                self._known.popitem(last=False)


def _large(node: Node, size: Size) -> Large:
    return Large(
        name=shown_name(node.name),
        name_raw=raw(node.name),
        type=node.type,
        size=size.size,
        files=size.files,
        complete=size.complete,
    )


def _stats(
    key: str, name: str, at: float | None, snapshots: int, logical: int, unique: int, stored: int
) -> RepositoryStats:
    if at is None:
        return RepositoryStats(repository=key, name=name, measured=None, sums=None)
    return RepositoryStats(repository=key, name=name, measured=utc(at), sums=_sums(snapshots, logical, unique, stored))


def _total(parts: Sequence[Sums]) -> Sums:
    return _sums(
        sum(each.snapshots for each in parts),
        sum(each.logical_bytes for each in parts),
        sum(each.unique_bytes for each in parts),
        sum(each.stored_bytes for each in parts),
    )


def _sums(snapshots: int, logical: int, unique: int, stored: int) -> Sums:
    return Sums(
        snapshots=snapshots,
        logical_bytes=logical,
        unique_bytes=unique,
        stored_bytes=stored,
        dedup_ratio=_ratio(logical, unique),
        compression_ratio=_ratio(unique, stored),
        ratio=_ratio(logical, stored),
    )


def _ratio(much: int, less: int) -> float | None:
    return round(much / less, 4) if less else None


def _measurement(row: RowMapping) -> Measurement:
    return Measurement(
        repository=row["repository_id"],
        at=utc(row["at"]),
        snapshots=row["snapshots"],
        logical_bytes=row["logical_bytes"],
        unique_bytes=row["unique_bytes"],
        stored_bytes=row["stored_bytes"],
    )
