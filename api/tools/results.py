"""What tools answer. Their fields become the output schemas that clients are told.

Times are ISO 8601 with zone, sizes in bytes. `path_raw` is base64 of a path that is not UTF-8; then `path` only shows
it. `next_offset` is where the next page begins, None at the end.
"""

from __future__ import annotations

from typing import NotRequired

# Python's own TypedDict is not enough before 3.12 for who makes schemas of it; the SDK brings this one along.
from typing_extensions import TypedDict


class PathView(TypedDict):
    """A path."""

    path: str
    path_raw: NotRequired[str]


class SnapshotView(TypedDict):
    """A snapshot in a list; the first of its paths, and how many there are."""

    id: str
    time: str
    host: str
    user: str
    tags: list[str]
    label: NotRequired[str]
    paths: list[PathView]
    paths_count: int
    files: int
    size: int


class SnapshotPage(TypedDict):
    """Snapshots, the newest first. `unreadable` are damaged ones."""

    repository: str
    snapshots: list[SnapshotView]
    total: int
    unreadable: int
    next_offset: int | None


class SnapshotDetails(SnapshotView):
    """All about a snapshot: also what its backup did."""

    excludes: list[str]
    parent: str | None
    original: str | None
    program: str
    files_new: int
    files_changed: int
    files_unmodified: int
    directories: int
    data_added: int
    data_stored: int
    duration_s: float
    errors: int


class EntryView(PathView):
    """A file, a directory or anything else that has a name."""

    type: str
    size: int
    mode: str
    owner: str
    group: str
    mtime: str
    link_target: NotRequired[str]
    link_target_raw: NotRequired[str]


class DirectoryPage(TypedDict):
    """What is at a path: the entry, and if it is a directory what is in it."""

    snapshot_id: str
    entry: EntryView
    entries: list[EntryView]
    total: int
    next_offset: int | None


class FileContent(PathView):
    """A part of a file: text where it is UTF-8, else base64."""

    snapshot_id: str
    size: int
    offset: int
    length: int
    encoding: str
    content: str
    next_offset: int | None


class MatchView(PathView):
    """An entry that was looked for, and the snapshot that has it."""

    snapshot_id: str
    snapshot_time: str
    type: str
    size: int
    mtime: str


class MatchPage(TypedDict):
    """What was found, by snapshot, the newest first. `problems` are directories that cannot be read."""

    matches: list[MatchView]
    problems: list[str]
    next_offset: int | None


class VersionView(TypedDict):
    """A version of a path on one host: what it was in `snapshots` snapshots, from the first of them to the last."""

    host: str
    change: str
    type: str | None
    size: int | None
    mtime: str | None
    snapshots: int
    first_snapshot: str
    first_time: str
    last_snapshot: str
    last_time: str


class VersionPage(PathView):
    """The versions of a path, in the order in which they came up."""

    versions: list[VersionView]
    problems: list[str]
    next_offset: int | None


class ChangeView(PathView):
    """An entry that is not the same in both snapshots."""

    kind: str
    type: str
    size_before: NotRequired[int]
    size_after: NotRequired[int]
    fields: NotRequired[list[str]]


class DifferencePage(TypedDict):
    """What differs; the sums are of everything, not of this page."""

    before: str
    after: str
    changes: list[ChangeView]
    files_added: int
    bytes_added: int
    files_removed: int
    bytes_removed: int
    files_changed: int
    bytes_before: int
    bytes_after: int
    problems: list[str]
    next_offset: int | None


class SizesView(TypedDict):
    """What snapshots cost: files as a restore writes them, their different blobs, and what those take in the store."""

    files: int
    restore_size: int
    unique: int
    stored: int


class StatsView(TypedDict):
    """The snapshots that were asked for, each and together."""

    repository: str
    snapshots: dict[str, SizesView]
    total: SizesView
    packs: int
    repository_size: int
    problems: list[str]


class FindingView(TypedDict):
    """One thing that is wrong, or worth a note, and what depends on it."""

    kind: str
    severity: str
    message: str
    hint: str | None
    snapshots: list[str]
    files: list[PathView]
    files_count: int


class CheckView(TypedDict):
    """What a check found, errors first."""

    errors: int
    findings: list[FindingView]
    findings_count: int
    snapshots: int
    packs: int
    packs_read: int
    bytes_read: int
    duration_s: float


class BackupView(TypedDict):
    """What a backup did."""

    snapshot_id: str | None
    files_new: int
    files_changed: int
    files_unmodified: int
    size: int
    data_added: int
    data_stored: int
    duration_s: float
    errors: int
    problems: list[str]


class RestoreView(TypedDict):
    """What a restore did, or on a dry run would do. `skipped` was there already and is left alone."""

    snapshot_id: str
    target: str
    dry_run: bool
    created: int
    updated: int
    unchanged: int
    skipped: int
    bytes_written: int
    errors: int
    problems: list[str]


class ForgetView(TypedDict):
    """The snapshots that were removed. Their space is freed by a prune."""

    removed: list[str]


class PrunePlanView(TypedDict):
    """What a prune would do now."""

    total_size: int
    used: int
    unused: int
    packs: int
    delete_now: int
    delete_later: int
    waiting: int
    repack: int
    copied: int


class PruneView(TypedDict):
    """What a prune did."""

    deleted: int
    deleted_size: int
    condemned: int
    condemned_size: int
    repacked: int
    written: int
    duration_s: float
    problems: list[str]


class GuestView(TypedDict):
    """A guest of a Proxmox cluster. `lock` is why it cannot be changed just now, empty if it can."""

    id: int
    kind: str
    name: str
    node: str
    status: str
    lock: str
    tags: list[str]
    pool: str
    disk: int
    memory: int


class GuestPage(TypedDict):
    """Guests, by ID."""

    guests: list[GuestView]
    total: int
    next_offset: int | None


class GuestSnapshot(TypedDict):
    """A snapshot of a guest."""

    id: str
    time: str


class GuestStatus(TypedDict):
    """A guest and the newest of its snapshots."""

    guest: GuestView
    snapshots: list[GuestSnapshot]
    snapshots_count: int


class GuestRestoreView(TypedDict):
    """What a restore of a guest did."""

    snapshot_id: str
    id: int
    node: str
    started: bool
    problems: list[str]
