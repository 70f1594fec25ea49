"""The snapshots of repositories, decoded and encoded once, and listed anew while somebody asks for them.

A list that is ten seconds old is still given out, while a new one is made meanwhile: who asks never waits for a listing
but the first time, or after a pause. What this server changes itself shows at once. Every method blocks.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from api.problems import Problem
from api.services.names import raw
from api.services.opened import OpenRepositories
from api.services.repositories import Known
from bfrepo.core.clock import Clock
from bfrepo.core.names import name_base64, shown_name
from bfrepo.data.snapshot import Snapshot, SnapshotSummary
from bfrepo.operations.snapshots import load_snapshots

log: Final = logging.getLogger("backupforge.server")

FRESH_S: Final = 10.0
STALE_S: Final = 600.0
_MOST_SNAPSHOTS: Final = 300_000
"""Snapshots that are kept, at about 2 KiB each; the list that was asked for last is kept in any case."""
_MOST_FILTERS: Final = 16
_THREADS: Final = 2


class SnapshotView(msgspec.Struct, kw_only=True):
    """A snapshot. `paths_raw` has its paths in base64 where one of them is not UTF-8.

    Snapshots never change: one that gets other tags has another ID, and the one that it comes from as `original`.
    """

    id: str
    repository: str
    time: datetime
    hostname: str
    username: str
    paths: list[str]
    paths_raw: list[str] | UnsetType = UNSET
    tags: list[str]
    label: str
    excludes: list[str]
    parent: str | None
    original: str | None
    program: str
    summary: SnapshotSummary


class Filter(NamedTuple):
    """Which snapshots are wanted; None wants any. `path` is raw; times are in seconds since 1970, both included."""

    host: str | None = None
    tag: str | None = None
    path: bytes | None = None
    after: float | None = None
    before: float | None = None

    def matches(self, snapshot: Snapshot, when: float) -> bool:
        """Whether it is."""
        return (
            (self.host is None or snapshot.hostname == self.host)
            and (self.tag is None or self.tag in snapshot.tags)
            and (self.path is None or self.path in snapshot.paths)
            and (self.after is None or when >= self.after)
            and (self.before is None or when <= self.before)
        )


class SnapshotList:
    """The snapshots of a repository at one moment, oldest first. Never changes; thread-safe.

    `keys` are their times and IDs, `encoded` their views as JSON, `listed_at` is by the monotonic clock.
    """

    def __init__(self, repository_id: str, snapshots: Mapping[bytes, Snapshot], listed_at: float) -> None:
        self.snapshots = snapshots
        self.listed_at = listed_at
        keys = {(each.when.timestamp(), key.hex()): (key, each) for key, each in snapshots.items()}
        in_order = sorted(keys.items(), key=_first)
        self.keys = [key for key, _ in in_order]
        self.encoded = [msgspec.Raw(msgspec.json.encode(view_of(repository_id, *each))) for _, each in in_order]
        self._values = [each for _, (_, each) in in_order]
        self._all = range(len(in_order))
        self._found: OrderedDict[Filter, list[int]] = OrderedDict()
        self._lock = threading.Lock()

    def newest(self, wanted: Filter, before: tuple[float, str] | None) -> Iterator[int]:
        """Positions of those wanted, newest first, from the one before a key on."""
        positions = self._matching(wanted)
        keys = self.keys
        end = len(positions) if before is None else bisect_left(positions, before, key=keys.__getitem__)
        return (positions[at] for at in range(end - 1, -1, -1))

    def _matching(self, wanted: Filter) -> list[int] | range:
        if wanted == Filter():
            return self._all
        with self._lock:
            found = self._found.get(wanted)
        if found is None:
            pairs = zip(self._values, self.keys, strict=True)
            found = [at for at, (each, key) in enumerate(pairs) if wanted.matches(each, key[0])]
            with self._lock:
                self._found[wanted] = found
                while len(self._found) > _MOST_FILTERS:
                    self._found.popitem(last=False)
        return found


@dataclass(slots=True)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    found: SnapshotList | None = None
    refreshing: bool = False
    failed: Problem | None = None
    failed_at: float = 0.0


class Catalogue:
    """Lists of snapshots. Thread-safe; `close` it."""

    def __init__(self, opened: OpenRepositories, clock: Clock) -> None:
        self._opened = opened
        self._clock = clock
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="catalogue")

    def get(self, tenant_id: str, known: Known, max_age_s: float = STALE_S) -> SnapshotList:
        """The snapshots of a repository, as they were so long ago at most. Raises Problem, which names it."""
        entry = self._entry((tenant_id, known.id))
        found = entry.found
        age = float("inf") if found is None else self._clock.monotonic() - found.listed_at
        if found is None or age > max_age_s:
            return self._load(tenant_id, known, entry, max_age_s)
        if age > FRESH_S:
            self._refresh_soon(tenant_id, known, entry)
        return found

    def change(self, tenant_id: str, known: Known, change: Callable[[dict[bytes, Snapshot]], None]) -> None:
        """Let a list show what this server has just done."""
        entry = self._entry((tenant_id, known.id))
        with entry.lock:
            if entry.found is not None:
                snapshots = dict(entry.found.snapshots)
                change(snapshots)
                entry.found = SnapshotList(known.id, snapshots, entry.found.listed_at)

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(cancel_futures=True)

    def _entry(self, key: tuple[str, str]) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            return entry

    def _load(self, tenant_id: str, known: Known, entry: _Entry, max_age_s: float = FRESH_S) -> SnapshotList:
        with entry.lock:
            now = self._clock.monotonic()
            held = entry.found
            if held is not None and now - held.listed_at <= max_age_s:  # somebody else was quicker
                return held
            if entry.failed is not None and now - entry.failed_at <= FRESH_S:
                raise entry.failed
            try:
                with self._opened.use(tenant_id, known) as opened:
                    found = load_snapshots(opened.repository, _warn, held=held.snapshots if held else {})
            except Problem as problem:
                entry.failed, entry.failed_at = problem, now
                raise
            entry.failed = None
            if held is not None and found.keys() == held.snapshots.keys():
                held.listed_at = now
                return held
            entry.found = SnapshotList(known.id, found, now)
        self._make_room()
        return entry.found

    def _make_room(self) -> None:
        with self._lock:
            count = sum(len(entry.found.keys) for entry in self._entries.values() if entry.found)
            while count > _MOST_SNAPSHOTS and len(self._entries) > 1:
                _key, entry = self._entries.popitem(last=False)
                count -= len(entry.found.keys) if entry.found else 0

    def _refresh_soon(self, tenant_id: str, known: Known, entry: _Entry) -> None:
        with self._lock:
            if entry.refreshing:
                return
            entry.refreshing = True
        self._pool.submit(partial(self._refresh, tenant_id, known, entry))

    def _refresh(self, tenant_id: str, known: Known, entry: _Entry) -> None:
        try:
            self._load(tenant_id, known, entry)
        except Problem as problem:
            log.warning("%s", problem.detail)
            entry.found = None  # the next who asks is told
        finally:
            entry.refreshing = False


def view_of(repository_id: str, identifier: bytes, snapshot: Snapshot) -> SnapshotView:
    """The snapshot as clients see it."""
    all_text = all(raw(path) is UNSET for path in snapshot.paths)
    return SnapshotView(
        id=identifier.hex(),
        repository=repository_id,
        time=snapshot.when,
        hostname=snapshot.hostname,
        username=snapshot.username,
        paths=[shown_name(path) for path in snapshot.paths],
        paths_raw=UNSET if all_text else [name_base64(path) for path in snapshot.paths],
        tags=snapshot.tags,
        label=snapshot.label,
        excludes=snapshot.excludes,
        parent=snapshot.parent.hex() or None,
        original=snapshot.original.hex() or None,
        program=snapshot.program,
        summary=snapshot.summary,
    )


def _first(pair: tuple[tuple[float, str], object]) -> tuple[float, str]:
    return pair[0]


def _warn(name: str, error: Exception) -> None:
    log.warning("snapshot %s cannot be read: %s", name[:8], error)
