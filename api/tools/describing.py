"""Snapshots, entries, versions, changes and findings as clients see them, each of a bounded size."""

from __future__ import annotations

import stat
from datetime import timedelta
from typing import Final, cast

from api.tools.bounds import cut, first_of, message, name_fields
from api.tools.results import (
    BackupView,
    ChangeView,
    EntryView,
    FindingView,
    MatchView,
    PathView,
    SizesView,
    SnapshotDetails,
    SnapshotView,
    VersionView,
)
from bfrepo.checker.findings import Finding
from bfrepo.data.attributes import TYPE_BITS, entry_time
from bfrepo.data.difference import Change
from bfrepo.data.node import Node
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.backup import BackupResult
from bfrepo.operations.find import Match
from bfrepo.operations.history import PathVersion
from bfrepo.operations.stats import Sizes

_FEW: Final = 10
_MANY: Final = 100
_LISTED: Final = 20


def path_view(path: bytes) -> PathView:
    """A path."""
    return cast("PathView", name_fields(path))


def time_of(ns: int) -> str:
    """A time in ns since 1970, as ISO 8601; the nearest that can be said where it is too far away."""
    return (entry_time(ns) + timedelta(microseconds=ns % 10**9 // 1000)).isoformat()


def snapshot_view(identifier: bytes, snapshot: Snapshot, *, most: int = _FEW) -> SnapshotView:
    """A snapshot in a list, with up to `most` of its paths and tags."""
    view = SnapshotView(
        id=identifier.hex(),
        time=snapshot.time,
        host=cut(snapshot.hostname),
        user=cut(snapshot.username),
        tags=first_of(snapshot.tags, most, cut),
        paths=first_of(snapshot.paths, most, path_view),
        paths_count=len(snapshot.paths),
        files=snapshot.summary.files,
        size=snapshot.summary.size,
    )
    if snapshot.label:
        view["label"] = cut(snapshot.label)
    return view


def snapshot_details(identifier: bytes, snapshot: Snapshot) -> SnapshotDetails:
    """All about a snapshot, as far as it has sense to say."""
    summary = snapshot.summary
    return SnapshotDetails(
        **snapshot_view(identifier, snapshot, most=_MANY),
        excludes=first_of(snapshot.excludes, _MANY, cut),
        parent=snapshot.parent.hex() or None,
        original=snapshot.original.hex() or None,
        program=cut(snapshot.program),
        files_new=summary.files_new,
        files_changed=summary.files_changed,
        files_unmodified=summary.files_unmodified,
        directories=summary.dirs,
        data_added=summary.data_added,
        data_stored=summary.data_stored,
        duration_s=round(summary.duration, 3),
        errors=summary.errors,
    )


def entry_view(path: bytes, node: Node) -> EntryView:
    """An entry at a path."""
    named = path_view(path)
    view = EntryView(
        path=named["path"],
        type=node.type,
        size=node.size,
        mode=stat.filemode(TYPE_BITS[node.type] | node.mode),
        owner=cut(node.user) or str(node.uid),
        group=cut(node.group) or str(node.gid),
        mtime=time_of(node.mtime_ns),
    )
    if "path_raw" in named:
        view["path_raw"] = named["path_raw"]
    if node.type == "symlink":
        view.update(cast("EntryView", name_fields(node.target, "link_target")))
    return view


def match_view(identifier: bytes, snapshot: Snapshot, match: Match) -> MatchView:
    """What was found in a snapshot."""
    node = match.node
    return MatchView(
        **path_view(match.path),
        snapshot_id=identifier.hex(),
        snapshot_time=snapshot.time,
        type=node.type,
        size=node.size,
        mtime=time_of(node.mtime_ns),
    )


def version_view(version: PathVersion) -> VersionView:
    """A version of a path."""
    (first, one), (last, other) = (
        each(version.snapshots.items(), key=lambda item: (item[1].when, item[0])) for each in (min, max)
    )
    node = version.node
    return VersionView(
        host=cut(version.hostname),
        change=version.change,
        type=node.type if node is not None else None,
        size=node.size if node is not None else None,
        mtime=time_of(node.mtime_ns) if node is not None else None,
        snapshots=len(version.snapshots),
        first_snapshot=first.hex(),
        first_time=one.time,
        last_snapshot=last.hex(),
        last_time=other.time,
    )


def change_view(change: Change) -> ChangeView:
    """A line of a comparison."""
    node = change.after or change.before or Node(name=b"?")
    named = path_view(change.path)
    view = ChangeView(path=named["path"], kind=change.kind, type=node.type)
    if "path_raw" in named:
        view["path_raw"] = named["path_raw"]
    if change.before is not None and change.before.type == "file":
        view["size_before"] = change.before.size
    if change.after is not None and change.after.type == "file":
        view["size_after"] = change.after.size
    if change.fields:
        view["fields"] = list(change.fields)
    return view


def sizes_view(sizes: Sizes) -> SizesView:
    """What snapshots cost."""
    return SizesView(files=sizes.files, restore_size=sizes.restore_size, unique=sizes.unique, stored=sizes.stored)


def finding_view(finding: Finding) -> FindingView:
    """Something that a check found."""
    return FindingView(
        kind=finding.kind,
        severity=finding.severity,
        message=message(finding.message),
        hint=finding.hint,
        snapshots=[each.id.hex() for each in finding.snapshots[:_LISTED]],
        files=first_of(finding.files, _LISTED, path_view),
        files_count=finding.files_count,
    )


def backup_view(result: BackupResult, problems: list[str]) -> BackupView:
    """What a backup did, and what was wrong meanwhile."""
    summary = result.snapshot.summary
    return BackupView(
        snapshot_id=result.snapshot_id.hex() if result.snapshot_id else None,
        files_new=summary.files_new,
        files_changed=summary.files_changed,
        files_unmodified=summary.files_unmodified,
        size=summary.size,
        data_added=summary.data_added,
        data_stored=summary.data_stored,
        duration_s=round(result.duration_s, 3),
        errors=summary.errors,
        problems=problems,
    )
