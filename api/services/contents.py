"""What is in snapshots: directories, files, archives and differences, for who asks over HTTP. Every method blocks.

Directories and files are read through `bfrepo.vfs` and its bounded caches, archives through the operation of `dump`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from http import HTTPStatus
from itertools import islice
from operator import attrgetter
from typing import Annotated, Final, Literal

import msgspec
from blake3 import blake3
from msgspec import UNSET, Meta, UnsetType

from api.identity import Caller
from api.paging import Paged, decode_cursor, encode_cursor
from api.problems import Problem, not_found
from api.services.names import Path, raw, raw_path
from api.services.opened import Opened, OpenRepositories
from api.services.repositories import Known, naming
from api.services.snapshots import Found, Snapshots
from bfrepo.core.errors import UsageError
from bfrepo.core.names import name_base64, shown_name
from bfrepo.core.progress import Quiet
from bfrepo.core.protocols import Buffer
from bfrepo.data.attributes import entry_time
from bfrepo.data.difference import Change, ChangeKind
from bfrepo.data.node import Node, NodeType
from bfrepo.exporter.sinks import Sink
from bfrepo.operations.diff import ComparedPlace, Diff
from bfrepo.operations.dump import DumpedPlace, archive_for, dump
from bfrepo.operations.warming import WarmUp
from bfrepo.vfs.file import File

ArchiveFormat = Literal["tar", "zip"]

_BATCH: Final = 500
_name = attrgetter("name")

RepositoryId = Annotated[str, Meta(max_length=64)]


class PlaceQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A place in a snapshot: `path`, or for one that is not UTF-8 `path_raw`; neither is for all of it.

    `repository` is needed only for a snapshot that several repositories have.
    """

    path: Path | None = None
    path_raw: Path | None = None
    repository: RepositoryId | None = None


class TreeQuery(Paged, kw_only=True, forbid_unknown_fields=True):
    """A directory, page by page; else as for any place."""

    path: Path | None = None
    path_raw: Path | None = None
    repository: RepositoryId | None = None


class ArchiveQuery(PlaceQuery, kw_only=True, forbid_unknown_fields=True):
    """What is wanted as an archive."""

    format: ArchiveFormat = "tar"


class DiffQuery(PlaceQuery, kw_only=True, forbid_unknown_fields=True):
    """What is compared; with `metadata` also where only owners, modes, times and the like differ."""

    metadata: bool = False


class Entry(msgspec.Struct, kw_only=True):
    """An entry of a directory. What ends in `_raw` is base64, for names that are not UTF-8."""

    name: str
    name_raw: str | UnsetType = UNSET
    type: NodeType
    mode: int
    uid: int
    gid: int
    user: str
    group: str
    size: int
    mtime: datetime
    mtime_ns: int
    links: int
    target: str | UnsetType = UNSET
    target_raw: str | UnsetType = UNSET


class Tree(msgspec.Struct, kw_only=True):
    """What is at a path: the entry itself, and by name what is in it if it is a directory."""

    path: str
    path_raw: str | UnsetType = UNSET
    entry: Entry
    items: list[Entry]
    next_cursor: str


class Difference(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A line of a comparison: an entry that is not the same in both. `fields` names the metadata that differs."""

    message_type: Literal["change"] = "change"
    path: str
    path_raw: str | UnsetType = UNSET
    kind: ChangeKind
    type: NodeType
    size_before: int | UnsetType = UNSET
    size_after: int | UnsetType = UNSET
    fields: tuple[str, ...] = ()


@dataclass(slots=True)
class OpenFile:
    """A file of a snapshot that can be read. `etag` is the same exactly for the same content. To be closed, once."""

    file: File
    name: bytes
    etag: str
    read: Callable[[int, int], list[Buffer]]
    close: Callable[[], None]


class Contents:
    """Looks into snapshots. Thread-safe."""

    def __init__(self, snapshots: Snapshots, opened: OpenRepositories) -> None:
        self._snapshots = snapshots
        self._opened = opened

    def tree(self, caller: Caller, snapshot_id: str, query: TreeQuery) -> Tree:
        """A page of a directory. Raises Problem: 404 also for a path that is not there."""
        path, last = path_of(query), _last_name(query.cursor)
        with self._looking(caller, snapshot_id, query.repository) as (found, opened):
            node = node_at(opened, found.snapshot.tree, path)
            nodes = opened.trees.load(node.subtree).nodes if node.type == "dir" else []
        start = bisect_right(nodes, last, key=_name) if last else 0
        page = nodes[start : start + query.limit]
        more = start + query.limit < len(nodes)
        return Tree(
            path=shown_name(b"/" + path),
            path_raw=raw(b"/" + path),
            entry=entry_of(node),
            items=list(map(entry_of, page)),
            next_cursor=encode_cursor((name_base64(page[-1].name),)) if more else "",
        )

    def open_file(self, caller: Caller, snapshot_id: str, query: PlaceQuery) -> OpenFile:
        """A file, until it is closed. Raises Problem: 409 for what is no file."""
        found = self._snapshots.find(caller, snapshot_id, query.repository)
        opened = self._opened.take(caller.tenant_id, found.known)
        close = partial(self._opened.give_back, caller.tenant_id, found.known)
        try:
            with naming(found.known.name):
                opened.know(found.listed_at)
                node = node_at(opened, found.snapshot.tree, path_of(query))
                if node.type != "file":
                    raise Problem(
                        HTTPStatus.CONFLICT, "no-file", f"that is a {node.type}", hint="ask for its /tree or /archive"
                    )
                file = File(opened.views, node)
        except BaseException:
            close()
            raise
        return OpenFile(file, node.name, _etag(node), partial(_read, file, found.known), close)

    def archive(
        self, caller: Caller, snapshot_id: str, query: ArchiveQuery, sink: Sink, gone: Callable[[], bool]
    ) -> None:
        """Write what is at a path as an archive. `gone` tells that nobody reads any more.

        Raises Problem, Interrupted, BrokenPipeError.
        """
        with self._looking(caller, snapshot_id, query.repository) as (found, opened):
            node = node_at(opened, found.snapshot.tree, path_of(query))
            place = DumpedPlace(found.id, path_of(query), node)
            form = archive_for(node, query.format)
            dump(opened.repository, place, form, sink, Quiet(), gone, WarmUp(wait=timedelta(0)))
            sink.flush()

    def diff(
        self, caller: Caller, snapshot_id: str, other_id: str, query: DiffQuery, sink: Sink, gone: Callable[[], bool]
    ) -> None:
        """Write what differs from one snapshot to another of the same repository: a line of JSON for each entry, and
        one with the sums, which comes last and so says that nothing is missing.

        Raises Problem, BrokenPipeError.
        """
        path = path_of(query)
        with self._looking(caller, snapshot_id, query.repository) as (found, opened):
            other = self._snapshots.find(caller, other_id, found.known.id)
            opened.know(other.listed_at)
            sides = [ComparedPlace(each.id, path, node_at(opened, each.snapshot.tree, path)) for each in (found, other)]
            if (sides[0].node.type == "dir") != (sides[1].node.type == "dir"):
                raise UsageError("a directory can only be compared with a directory")
            errors: list[str] = []
            comparison = Diff(
                opened.repository, *sides, metadata=query.metadata, on_error=lambda where, text: errors.append(text)
            )
            lines = map(_difference, comparison.changes())
            while (batch := list(islice(lines, _BATCH))) and not gone():
                sink.write(msgspec.json.Encoder().encode_lines(batch))
            sink.write(msgspec.json.encode(_sums(comparison, errors)) + b"\n")
            sink.flush()

    @contextmanager
    def _looking(self, caller: Caller, snapshot_id: str, repository_id: str | None) -> Iterator[tuple[Found, Opened]]:
        found = self._snapshots.find(caller, snapshot_id, repository_id)
        with self._opened.use(caller.tenant_id, found.known) as opened:
            opened.know(found.listed_at)
            yield found, opened


def entry_of(node: Node) -> Entry:
    """The entry as clients see it."""
    entry = Entry(
        name=shown_name(node.name),
        name_raw=raw(node.name),
        type=node.type,
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        user=node.user,
        group=node.group,
        size=node.size,
        mtime=entry_time(node.mtime_ns),
        mtime_ns=node.mtime_ns,
        links=node.links,
    )
    if node.type == "symlink":
        entry.target, entry.target_raw = shown_name(node.target), raw(node.target)
    return entry


def node_at(opened: Opened, root: bytes, path: bytes) -> Node:
    """What is at a raw path below a tree. Raises Problem."""
    node = opened.trees.find(root, path)
    if node is None:
        raise not_found("path in the snapshot")
    return node


def _read(file: File, known: Known, offset: int, size: int) -> list[Buffer]:
    with naming(known.name):
        file.advance(offset, size)
        return file.pieces(offset, size)


def path_of(query: PlaceQuery | TreeQuery) -> bytes:
    """The raw path that a request names, without slashes around it. Raises Problem."""
    return (raw_path(query.path, query.path_raw) or b"").strip(b"/")


def _last_name(cursor: str) -> bytes:
    key = decode_cursor(cursor, (str,))
    return (raw_path(None, str(key[0])) if key else None) or b""


def _etag(node: Node) -> str:
    """A strong one: the blobs and holes of a file are its content, whatever it is called."""
    parts = (node.size, node.content, node.content_depth, node.holes, node.holes_depth)
    return f'"{blake3(msgspec.msgpack.encode(parts)).hexdigest(length=16)}"'


def _difference(change: Change) -> Difference:
    node = change.after or change.before
    line = Difference(
        path=shown_name(change.path),
        path_raw=raw(change.path),
        kind=change.kind,
        type=node.type if node is not None else "file",
        fields=change.fields,
    )
    if change.before is not None and change.before.type == "file":
        line.size_before = change.before.size
    if change.after is not None and change.after.type == "file":
        line.size_after = change.after.size
    return line


def _sums(comparison: Diff, errors: list[str]) -> dict[str, object]:
    return {
        "message_type": "statistics",
        **msgspec.to_builtins(comparison.summary),
        "added_blobs": msgspec.to_builtins(comparison.added_blobs()),
        "removed_blobs": msgspec.to_builtins(comparison.removed_blobs()),
        "errors": errors[:100],
    }
