"""A file out of a snapshot as a stream of bytes, or a directory as an archive."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias

from bfrepo.core.errors import BackupForgeError, UsageError
from bfrepo.core.progress import Progress, Reporter
from bfrepo.data.node import Node
from bfrepo.data.selection import SnapshotFilter, find_node
from bfrepo.exporter.content import EntryWriter, Holes, needed_frames, write_entries
from bfrepo.exporter.entries import Entry, walk_entries
from bfrepo.exporter.raw import RawWriter
from bfrepo.exporter.sinks import Sink
from bfrepo.exporter.tarwriter import TarWriter
from bfrepo.exporter.zipwriter import ZipWriter, is_text, zip_name
from bfrepo.operations.snapshots import open_snapshot
from bfrepo.operations.warming import NeededPacks, Warmer, WarmUp, reading_directories
from bfrepo.repository.repository import Repository

Archive: TypeAlias = Literal["tar", "zip"]

_NOT_IN: Final[dict[Archive, tuple[str, ...]]] = {
    "tar": ("socket",),
    "zip": ("socket", "fifo", "chardev", "blockdev"),
}
_USUAL: Final = WarmUp()


@dataclass(frozen=True, slots=True)
class DumpedPlace:
    """What is to be written: a snapshot, the raw path in it (empty for all of it), and what is there."""

    snapshot_id: bytes
    path: bytes
    node: Node


@dataclass(slots=True)
class DumpResult:
    """What was written; `size` is the bytes of the files. `lost` says in words what the archive does not keep, and of
    how many entries; `left_out` counts entries that it does not have.
    """

    files: int = 0
    dirs: int = 0
    others: int = 0
    size: int = 0
    left_out: int = 0
    lost: dict[str, int] = field(default_factory=dict)


class _Writer(EntryWriter, Protocol):
    def finish(self) -> None: ...
    def abort(self) -> None: ...


def find_dump(
    repository: Repository, snapshot: str, path: bytes, chosen: SnapshotFilter, reporter: Reporter
) -> DumpedPlace:
    """What is at a raw path of a snapshot. `chosen` narrows down what "latest" means.

    Raises ObjectNotFound, AmbiguousPrefix or InvalidValue when it is not clear what is meant, and what reading raises.
    """
    snapshot_id, found = open_snapshot(repository, snapshot, chosen, reporter)
    return DumpedPlace(snapshot_id, path, find_node(repository.loader, found.tree, path))


def archive_for(node: Node, wanted: Archive | None) -> Archive | None:
    """How an entry is written: a directory as tar unless something else is wanted, a file as it is (None).

    Raises UsageError for what has no content.
    """
    if wanted is None and node.type not in ("file", "dir"):
        raise UsageError(f"a {node.type} has no content to write", hint="keep it in an archive with --archive tar")
    return wanted or ("tar" if node.type == "dir" else None)


def dump(
    repository: Repository,
    place: DumpedPlace,
    archive: Archive | None,
    sink: Sink,
    reporter: Reporter,
    cancelled: Callable[[], bool],
    warm_up: WarmUp = _USUAL,
) -> DumpResult:
    """Write a place to a sink, in the form that `archive_for` says.

    Names in an archive start in the directory that is written. What an archive cannot hold is left out with a warning.
    Packs that a storage keeps in an archive of its own are waited for before anything is written, as `warm_up` says.
    Raises DamagedObject, which names the file, at the first byte that is not as it was backed up: what was written
    until then is right, and an archive is visibly not complete. Raises StillArchived, Interrupted, BrokenPipeError
    when nobody reads any more, TargetError, and what the storage raises.
    """
    warmer = Warmer(repository.backend, repository.clock, reporter, cancelled)
    if warmer.expects_archived():
        warmer.warm(reading_directories(lambda: _needed(repository, place.node)), warm_up)
    result = DumpResult()
    entries = walk_entries(repository.loader, place.node)
    if archive is None:
        reporter.progress.bytes_total = place.node.size
    else:
        entries = _kept(entries, archive, result, reporter)
    writer = _open_writer(archive, sink)
    try:
        write_entries(repository.loader, entries, _Counting(writer, archive, result, reporter.progress), cancelled)
        writer.finish()
    except BaseException:
        with contextlib.suppress(BrokenPipeError, BackupForgeError):
            writer.abort()
        raise
    return result


def _needed(repository: Repository, node: Node) -> dict[bytes, int]:
    """The packs that hold the content, with their sizes."""
    needed = NeededPacks(repository.loader.table)
    for frames in needed_frames(repository.loader, walk_entries(repository.loader, node)):
        needed.add(frames)
    return needed.sizes


def _open_writer(archive: Archive | None, sink: Sink) -> _Writer:
    if archive is None:
        return RawWriter(sink)
    return TarWriter(sink) if archive == "tar" else ZipWriter(sink)


def _kept(entries: Iterable[Entry], archive: Archive, result: DumpResult, reporter: Reporter) -> Iterator[Entry]:
    """The entries that the archive can hold."""
    unknown = _NOT_IN[archive]
    names: set[str] = set()
    for entry in entries:
        reason = ""
        if entry.node.type in unknown:
            reason = f"a {archive} archive cannot hold a {entry.node.type}"
        elif archive == "zip":
            name = zip_name(entry)
            if name in names:
                reason = "written as zip has names, it has the name of another entry"
            names.add(name)
        if reason:
            result.left_out += 1
            reporter.warn(b"/" + entry.path, f"left out: {reason}")
        else:
            yield entry


class _Counting:
    """Counts what goes to a writer."""

    def __init__(self, writer: EntryWriter, archive: Archive | None, result: DumpResult, progress: Progress) -> None:
        self._writer = writer
        self._archive = archive
        self._result = result
        self._progress = progress
        self.wants_content = writer.wants_content

    def begin(self, entry: Entry, holes: Holes) -> None:
        """See EntryWriter."""
        node, result = entry.node, self._result
        if node.type == "file":
            result.files += 1
            result.size += node.size
        elif node.type == "dir":
            result.dirs += 1
        else:
            result.others += 1
        for what in _lost(entry, self._archive):
            result.lost[what] = result.lost.get(what, 0) + 1
        self._progress.files_done += 1
        self._progress.current = entry.path
        self._writer.begin(entry, holes)

    def data(self, offset: int, content: bytes) -> None:
        """See EntryWriter."""
        self._progress.bytes_done += len(content)
        self._writer.data(offset, content)


def _lost(entry: Entry, archive: Archive | None) -> Iterator[str]:
    """What an archive does not keep of an entry."""
    if archive is not None and entry.node.flags:
        yield "inode flags"
    if archive == "zip":
        if entry.node.xattrs:
            yield "extended attributes"
        if entry.link is not None:
            yield "hard links"
        if not is_text(entry.path):
            yield "names that are not UTF-8"
