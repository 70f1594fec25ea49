"""Restoring to another host: what is to be written goes there as one tar stream, into its own tar.

What exists there is listed first, so only what differs is sent. Names come from trees, where each is a name and no
path; tar takes no member out of its directory, makes symlinks that lead elsewhere last, and replaces a symlink that
stands where a directory goes: so nothing is written but below the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final

from bfrepo.core.errors import BackupForgeError, Interrupted, SourceError, TargetError, UsageError
from bfrepo.core.progress import Reporter
from bfrepo.data.node import Node
from bfrepo.data.selection import SnapshotFilter, find_node, split_path
from bfrepo.exporter.content import Holes, needed_frames, write_entries
from bfrepo.exporter.entries import Entry, walk_entries
from bfrepo.exporter.sinks import JoinedSink
from bfrepo.exporter.tarwriter import TarWriter
from bfrepo.operations.remote_plan import Existing, RemotePlan
from bfrepo.operations.restore import ReportingObserver, RestoreResult
from bfrepo.operations.snapshots import open_snapshot
from bfrepo.operations.warming import NeededPacks, Warmer, WarmUp, reading_directories
from bfrepo.repository.repository import Repository
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.restorer.report import Report, RestoreSummary
from bfrepo.sources.ssh.host import HostLink
from bfrepo.sources.ssh.lister import Lister
from bfrepo.sources.ssh.place import RemoteHost
from bfrepo.sources.ssh.unpack import Unpacking, no_tools, prepare_target
from bfrepo.ssh.config import SshSettings
from bfrepo.ssh.errors import SshError

_USUAL: Final = WarmUp()
_AGAIN: Final = "restore again: what is complete there is not sent twice"


@dataclass(frozen=True, slots=True)
class RemoteTarget:
    """The host, how to get in, and whether to be root there, by sudo."""

    host: RemoteHost
    settings: SshSettings
    sudo: bool = False


def restore_to_host(
    repository: Repository,
    what: str,
    chosen: SnapshotFilter,
    target: RemoteTarget,
    options: RestoreOptions,
    reporter: Reporter,
    cancelled: Callable[[], bool],
    warm_up: WarmUp = _USUAL,
) -> RestoreResult:
    """Restore "SNAPSHOT[:PATH]" into `options.target`, a path of the host; see `restore`.

    A file counts as unchanged there when its size, time, mode and owner are those of the snapshot; it is sent whole or
    not at all. It ends at the first content that is damaged. Raises UsageError for what cannot be done on another
    host, TargetError when the host has no GNU tar or find, or the connection breaks, and what `restore` raises.
    """
    _refuse(options)
    begun = repository.clock.monotonic()
    name, path = split_path(what)
    snapshot_id, snapshot = open_snapshot(repository, name, chosen, reporter)
    node = reading_directories(lambda: find_node(repository.loader, snapshot.tree, path))
    with closing(HostLink(target.host, target.settings, sudo=target.sudo)) as link:
        existing = _look(link, options, sudo=target.sudo)
        work = _Sending(repository, node, options, existing, reporter, cancelled)
        try:
            summary = work.preview() if options.dry_run else work.run(link, warm_up)
        except Interrupted as error:
            raise Interrupted("the restore was interrupted", hint=error.hint or _AGAIN) from error
    return RestoreResult(snapshot_id, path, summary, repository.clock.monotonic() - begun)


def _refuse(options: RestoreOptions) -> None:
    for wanted, option, why in (
        (options.delete, "--delete", "nothing is deleted on another host: restore into an empty directory"),
        (options.verify, "--verify", "back the host up afterwards: what is equal is stored only once"),
        (not options.sparse, "--no-sparse", "holes are made by the tar of the host"),
    ):
        if wanted:
            raise UsageError(f"{option} is for targets of this machine", hint=why)


def _look(link: HostLink, options: RestoreOptions, *, sudo: bool) -> Existing:
    """What there is in the target, which is made."""
    try:
        path = prepare_target(link, options.target, make=not options.dry_run)
        if path is None:
            return Existing(options.target, {})
        listing = Lister(link, [path], one_file_system=False, sudo=sudo).list()
    except SourceError as error:
        raise TargetError(str(error).replace("cannot back up", "cannot restore to"), hint=error.hint) from error
    except SshError as error:
        raise TargetError(str(error), hint=error.hint) from error
    if not listing.has_tar or not listing.now_ns:
        raise no_tools(link)
    return Existing(path, listing.inside)


class _Sending:
    """One restore."""

    def __init__(
        self,
        repository: Repository,
        node: Node,
        options: RestoreOptions,
        existing: Existing,
        reporter: Reporter,
        cancelled: Callable[[], bool],
    ) -> None:
        self._repository = repository
        self._loader = repository.loader
        self._node = node
        self._options = options
        self._existing = existing
        self._reporter = reporter
        self._cancelled = cancelled
        self._flags = 0

    def preview(self) -> RestoreSummary:
        """What would be sent."""
        report = Report(ReportingObserver(self._reporter))
        for entry in self._entries(report):
            self._count(entry, report)
        return report.summary

    def run(self, link: HostLink, warm_up: WarmUp) -> RestoreSummary:
        """Send it."""
        warmer = Warmer(self._repository.backend, self._repository.clock, self._reporter, self._cancelled)
        if warmer.expects_archived():
            warmer.warm(reading_directories(self._needed), warm_up)
        report = Report(ReportingObserver(self._reporter))
        options = self._options
        unpacking = Unpacking(link, self._existing.top, xattrs=options.xattrs, numeric_ids=options.numeric_ids)
        try:
            self._send(unpacking, report)
            for path, why in unpacking.end():
                report.failed(path, why)
        except SshError as error:
            raise TargetError(str(error), hint=_AGAIN) from error
        finally:
            unpacking.close()
        if self._flags:
            self._reporter.warn(b"", f"inode flags of {self._flags} items are not set on another host")
        return report.summary

    def _send(self, unpacking: Unpacking, report: Report) -> None:
        sink = JoinedSink(unpacking.write)
        writer = TarWriter(sink)
        try:
            write_entries(self._loader, self._entries(report), _Counting(writer, self._count, report), self._cancelled)
            writer.finish()
            sink.flush()
        except SshError:
            raise
        except BaseException:
            with suppress(BackupForgeError):
                writer.abort()
            raise

    def _entries(self, report: Report) -> Iterator[Entry]:
        plan = RemotePlan(self._options, self._existing, report)
        for entry in plan.entries(walk_entries(self._loader, self._node)):
            if entry.node.type == "socket":
                self._reporter.warn(b"/" + entry.path, "left out: tar cannot hold a socket")
            else:
                yield entry

    def _needed(self) -> dict[bytes, int]:
        needed = NeededPacks(self._loader.table)
        for frames in needed_frames(self._loader, walk_entries(self._loader, self._node)):
            needed.add(frames)
        return needed.sizes

    def _count(self, entry: Entry, report: Report) -> None:
        node = entry.node
        self._flags += bool(node.flags)
        size = node.size if node.type == "file" and entry.link is None else 0
        if size:
            report.planned(size)
            report.moved(size, size)
        exists = self._existing.at(entry.path) is not None
        report.item(node.type, entry.path, "updated" if exists else "created", size)


class _Counting:
    """Counts what goes to a writer; see EntryWriter."""

    def __init__(self, writer: TarWriter, count: Callable[[Entry, Report], None], report: Report) -> None:
        self._writer = writer
        self._count = count
        self._report = report
        self.wants_content = writer.wants_content
        self.data = writer.data

    def begin(self, entry: Entry, holes: Holes) -> None:
        """See EntryWriter."""
        self._count(entry, self._report)
        self._writer.begin(entry, holes)
