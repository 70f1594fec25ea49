"""The tools that only look: snapshots, directories, files, searches, differences, sums and checks. Everything blocks.

Raises what the operations raise. Nothing here can change a repository or write a file.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from api.tools.bounds import MOST_READ, page_of
from api.tools.describing import (
    change_view,
    entry_view,
    finding_view,
    match_view,
    path_view,
    sizes_view,
    snapshot_details,
    snapshot_view,
    version_view,
)
from api.tools.reporting import Notes
from api.tools.repository import ServedRepository
from api.tools.results import (
    ChangeView,
    CheckView,
    DifferencePage,
    DirectoryPage,
    FileContent,
    MatchPage,
    SnapshotDetails,
    SnapshotPage,
    StatsView,
    VersionPage,
)
from bfrepo.checker.sampling import Everything, parse_sample
from bfrepo.core.errors import UsageError
from bfrepo.data.difference import Change
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.check import CheckOptions, check
from bfrepo.operations.diff import ComparedPlace, Diff
from bfrepo.operations.find import Match, SnapshotMatches, find_names
from bfrepo.operations.history import history
from bfrepo.operations.stats import stats, total_sizes
from bfrepo.sources.query import NameQuery
from bfrepo.vfs.file import File

Cancelled = Callable[[], bool]

_MOST_FINDINGS: Final = 50


class Reading:
    """Looks into one repository. For one thread at a time."""

    def __init__(self, served: ServedRepository) -> None:
        self._served = served

    def list_snapshots(self, host: str | None, tag: str | None, path: bytes, offset: int, limit: int) -> SnapshotPage:
        """A page of snapshots, the newest first."""
        found = self._served.chosen(host, tag, path)
        newest = reversed(found.items())
        page, following = page_of(newest, offset, limit, lambda item: snapshot_view(*item))
        return SnapshotPage(
            repository=self._served.repository.location,
            snapshots=page,
            total=len(found),
            unreadable=self._served.unreadable,
            next_offset=following,
        )

    def get_snapshot(self, snapshot: str) -> SnapshotDetails:
        """All about one."""
        return snapshot_details(*self._served.find(snapshot))

    def list_directory(self, snapshot: str, path: bytes, offset: int, limit: int) -> DirectoryPage:
        """A page of a directory, by name; of anything else the entry alone."""
        identifier, found = self._served.find(snapshot)
        node = self._served.node_at(found.tree, path)
        top = b"/" + path.strip(b"/")
        nodes = self._served.trees.load(node.subtree).nodes if node.type == "dir" else []
        below = top.rstrip(b"/") + b"/"
        page, following = page_of(nodes, offset, limit, lambda each: entry_view(below + each.name, each))
        return DirectoryPage(
            snapshot_id=identifier.hex(),
            entry=entry_view(top, node),
            entries=page,
            total=len(nodes),
            next_offset=following,
        )

    def read_file(self, snapshot: str, path: bytes, offset: int, length: int) -> FileContent:
        """Some of a file. Raises UsageError for what is no file."""
        identifier, found = self._served.find(snapshot)
        node = self._served.node_at(found.tree, path)
        if node.type != "file":
            raise UsageError(f"that is a {node.type}, which has no content", hint="list it instead")
        data = bytes(File(self._served.views, node).read(offset, min(length, MOST_READ)))
        encoding, content, taken = _as_text(data)
        end = offset + taken
        return FileContent(
            **path_view(b"/" + path.strip(b"/")),
            snapshot_id=identifier.hex(),
            size=node.size,
            offset=offset,
            length=taken,
            encoding=encoding,
            content=content,
            next_offset=end if taken and end < node.size else None,
        )

    def find_files(
        self,
        patterns: Sequence[str],
        ignore_case: bool,
        snapshot: str | None,
        host: str | None,
        tag: str | None,
        offset: int,
        limit: int,
        notes: Notes,
        cancelled: Cancelled,
    ) -> MatchPage:
        """A page of what patterns fit, in one snapshot or in all of them, the newest first."""
        query = NameQuery(patterns, ignore_case=ignore_case)
        found = dict([self._served.find(snapshot)]) if snapshot else self._served.chosen(host, tag, b"")
        newest = dict(reversed(found.items()))
        matches = _matches(find_names(self._served.repository, newest, query, notes, cancelled))
        page, following = page_of(matches, offset, limit, lambda each: match_view(*each))
        return MatchPage(matches=page, problems=notes.problems, next_offset=following)

    def file_history(
        self, path: bytes, host: str | None, offset: int, limit: int, notes: Notes, cancelled: Cancelled
    ) -> VersionPage:
        """A page of the versions of a path."""
        snapshots = self._served.chosen(host, None, b"")
        versions = history(self._served.repository, snapshots, path, notes, cancelled)
        page, following = page_of(versions, offset, limit, version_view)
        return VersionPage(
            **path_view(b"/" + path.strip(b"/")), versions=page, problems=notes.problems, next_offset=following
        )

    def diff_snapshots(
        self,
        before: str,
        after: str,
        path: bytes,
        metadata: bool,
        offset: int,
        limit: int,
        notes: Notes,
        cancelled: Cancelled,
    ) -> DifferencePage:
        """A page of what differs, and the sums of all of it."""
        one, other = self._place(before, path), self._place(after, path)
        if (one.node.type == "dir") != (other.node.type == "dir"):
            raise UsageError("a directory can only be compared with a directory")
        work = Diff(self._served.repository, one, other, metadata=metadata, on_error=notes.problem)
        changes = _until(work.changes(), notes, cancelled)
        page, following = page_of(changes, offset, limit, _rooted(path))
        for _ in changes:  # the sums are complete when it has ended
            pass
        summary = work.summary
        return DifferencePage(
            before=one.snapshot_id.hex(),
            after=other.snapshot_id.hex(),
            changes=page,
            files_added=summary.added.files,
            bytes_added=summary.added.size,
            files_removed=summary.removed.files,
            bytes_removed=summary.removed.size,
            files_changed=summary.changed_files,
            bytes_before=summary.size_before,
            bytes_after=summary.size_after,
            problems=notes.problems,
            next_offset=following,
        )

    def repository_stats(self, snapshots: Sequence[str], notes: Notes, cancelled: Cancelled) -> StatsView:
        """What some snapshots cost, each and together; without any, all of them together."""
        repository = self._served.repository
        chosen = dict(self._served.find(name) for name in snapshots)
        if chosen:
            result = stats(repository, chosen, notes, cancelled)
            each, total = result.snapshots, result.total
        else:
            each, total = {}, total_sizes(repository, self._served.snapshots(), notes, cancelled)
        packs = list(repository.index.table.packs())
        return StatsView(
            repository=repository.location,
            snapshots={identifier.hex(): sizes_view(sizes) for identifier, sizes in each.items()},
            total=sizes_view(total),
            packs=len(packs),
            repository_size=sum(pack.size for pack in packs),
            problems=notes.problems,
        )

    def check_repository(self, read_data: str, notes: Notes, cancelled: Cancelled) -> CheckView:
        """Whether everything is there; `read_data` says how much of it to read: "", "all", "1/7", "5%" or "2G"."""
        read = Everything() if read_data == "all" else parse_sample(read_data) if read_data else None
        result = check(self._served.repository, CheckOptions(read=read), notes, cancelled)
        findings, _ = page_of(result.findings, 0, _MOST_FINDINGS, finding_view)
        return CheckView(
            errors=result.errors,
            findings=findings,
            findings_count=len(result.findings),
            snapshots=result.snapshots,
            packs=result.packs,
            packs_read=len(result.packs_read),
            bytes_read=result.bytes_read,
            duration_s=round(result.duration_s, 3),
        )

    def _place(self, snapshot: str, path: bytes) -> ComparedPlace:
        identifier, found = self._served.find(snapshot)
        return ComparedPlace(identifier, path, self._served.node_at(found.tree, path))


def _as_text(data: bytes) -> tuple[str, str, int]:
    """How it is written, what stands there, and how many bytes that are: a character that is cut is left for later."""
    if b"\0" not in data:
        try:
            return "utf-8", data.decode(), len(data)
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and error.start:
                return "utf-8", data[: error.start].decode(), error.start
    return "base64", base64.b64encode(data).decode("ascii"), len(data)


def _matches(found: Iterator[SnapshotMatches]) -> Iterator[tuple[bytes, Snapshot, Match]]:
    for each in found:
        for match in each.matches:
            yield each.snapshot_id, each.snapshot, match


def _rooted(path: bytes) -> Callable[[Change], ChangeView]:
    """Shows changes with their paths from the root on, rather than from the place that is compared."""
    top = b"/" + path.strip(b"/") if path.strip(b"/") else b""
    return lambda change: change_view(change._replace(path=top + change.path if change.path != b"/" else top or b"/"))


def _until(changes: Iterator[Change], notes: Notes, cancelled: Cancelled) -> Iterator[Change]:
    """Counts, and ends when nobody waits any more."""
    for change in changes:
        if cancelled():
            return
        notes.progress.files_done += 1
        yield change
