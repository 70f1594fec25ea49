"""What of a snapshot has to be sent to another host, compared with what there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from bfrepo.core.errors import TargetError
from bfrepo.data.node import Node, Stat
from bfrepo.exporter.entries import Entry
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.restorer.report import Outcome, Report


@dataclass(frozen=True, slots=True)
class Existing:
    """What there is below `top`, a path of the host: by directory and name."""

    top: bytes
    inside: Mapping[bytes, Mapping[bytes, Stat]]

    def at(self, path: bytes) -> Stat | None:
        """What there is at a path that begins at `top`."""
        above, _, name = (self.top.rstrip(b"/") + b"/" + path).rpartition(b"/")
        return self.inside.get(above or b"/", {}).get(name)


class RemotePlan:
    """Goes over entries once, in their order."""

    def __init__(self, options: RestoreOptions, existing: Existing, report: Report) -> None:
        """`report` hears of what stays as it is, and of what cannot be."""
        self._options = options
        self._existing = existing
        self._report = report
        self._above: list[Entry] = []
        """Directories on the way down that nobody has wanted yet."""
        self._left_out = b""
        self._sent_as: dict[bytes, bytes | None] = {}
        """First names of files: as what they are there, None where they are not."""

    def entries(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Those to be sent."""
        for entry in entries:
            if self._left_out and entry.path.startswith(self._left_out):
                continue
            self._left_out = b""
            while self._above and not entry.path.startswith(self._above[-1].path + b"/"):
                self._above.pop()
            if entry.node.type == "dir":
                yield from self._directory(entry)
            else:
                yield from self._other(entry)

    def _directory(self, entry: Entry) -> Iterator[Entry]:
        selected, may_contain = self._options.selection(b"/" + entry.path, True)
        there = self._existing.at(entry.path)
        if not may_contain and not selected:
            self._left_out = entry.path + b"/"
        elif there is not None and there.type != "dir" and not self._replaces(entry.node, there):
            self._report.failed(entry.path, TargetError("something that is no directory is in its place"))
            self._left_out = entry.path + b"/"
        elif not selected:
            self._above.append(entry)
        elif there is None or self._replaces(entry.node, there):
            yield from self._wanted(entry)
        else:
            self._report.item("dir", entry.path, "skipped")

    def _other(self, entry: Entry) -> Iterator[Entry]:
        node = entry.node
        selected, _ = self._options.selection(b"/" + entry.path, False)
        if not selected:
            self._note(entry, None)
            return
        first = entry.path if entry.link is None else self._sent_as.get(entry.link)
        there = self._existing.at(entry.path)
        if there is not None and not self._replaces(node, there) and not self._is_apart(first, entry, there):
            outcome: Outcome = "unchanged" if self._options.overwrite == "if-changed" else "skipped"
            self._report.item(node.type, entry.path, outcome, node.size)
            self._note(entry, entry.path)
            return
        if first is None:
            self._sent_as[entry.link or b""] = first = entry.path
        self._note(entry, entry.path)
        yield from self._wanted(Entry(entry.path, node, None if first == entry.path else first))

    def _wanted(self, entry: Entry) -> Iterator[Entry]:
        for above in self._above:
            there = self._existing.at(above.path)
            if there is None or self._replaces(above.node, there):
                yield above
        self._above.clear()
        yield entry

    def _replaces(self, node: Node, there: Stat) -> bool:
        """Whether what is in the snapshot goes in the place of what is there."""
        match self._options.overwrite:
            case "always":
                return True
            case "never":
                return False
            case "if-newer":
                return node.mtime_ns > there.mtime_ns
        return node.type != "file" or not _alike(node, there)

    def _is_apart(self, first: bytes | None, entry: Entry, there: Stat) -> bool:
        """Whether what should be two names of one file is not, and may be made so."""
        if self._options.overwrite != "if-changed" or entry.link is None or first is None:
            return False
        other = self._existing.at(first)
        return other is None or (other.inode, other.device) != (there.inode, there.device)

    def _note(self, entry: Entry, name: bytes | None) -> None:
        if entry.node.links > 1 and entry.link is None:
            self._sent_as[entry.path] = name


def _alike(node: Node, there: Stat) -> bool:
    return there.type == "file" and (node.size, node.mtime_ns, node.mode, node.uid, node.gid) == (
        there.size,
        there.mtime_ns,
        there.mode,
        there.uid,
        there.gid,
    )
