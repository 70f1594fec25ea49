"""Going through a source as the archiver does, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from bfrepo.data.node import Node
from bfrepo.localfs.metadata import Owners
from bfrepo.sources.base import Directory, Entry, OpenFile, Source
from bfrepo.sources.exclude import ExcludeRules
from bfrepo.sources.filesystem import FileSystemSource

NOBODY = 65534


@dataclass
class Listing:
    """Nodes by path, what files hold, and (path, errno) of what was reported."""

    nodes: dict[bytes, Node] = field(default_factory=dict)
    contents: dict[bytes, bytes] = field(default_factory=dict)
    errors: list[tuple[bytes, int | None]] = field(default_factory=list)

    def under(self, top: bytes) -> list[str]:
        """Paths below `top`, in order, as text; directories with a slash behind them."""
        return [
            os.fsdecode(path[len(top) + 1 :]) + ("/" if node.type == "dir" else "")
            for path, node in sorted(self.nodes.items())
            if path.startswith(top + b"/")
        ]


def list_files(
    *paths: str | os.PathLike[str] | bytes,
    rules: ExcludeRules | None = None,
    one_file_system: bool = False,
    with_atime: bool = False,
) -> Listing:
    """Everything a FileSystemSource gives for `paths`."""
    listing = Listing()
    source = FileSystemSource(
        [os.fsencode(path) for path in paths],
        rules=rules or ExcludeRules(),
        one_file_system=one_file_system,
        with_atime=with_atime,
        owners=Owners(),
        on_error=lambda path, error: listing.errors.append((path, error.errno)),
    )
    list_source(source, listing)
    return listing


def list_source(source: Source, listing: Listing) -> None:
    """Add everything a source gives, without recursion; what cannot be opened is reported, as by the archiver."""
    root = source.open_root()
    stack: list[tuple[Directory, Iterator[Entry]]] = [(root, iter(root.entries()))]
    while stack:
        directory, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            directory.close()
            stack.pop()
            continue
        try:
            child = _take(entry, listing)
            if child is not None:
                stack.append((child, iter(child.entries())))
        except OSError as error:
            listing.errors.append((entry.path, error.errno))


def _take(entry: Entry, listing: Listing) -> Directory | None:
    if entry.stat.type == "dir":
        directory = entry.open_directory()
        node = directory.node()
        assert node is not None
        listing.nodes[entry.path] = node
        return directory
    if entry.stat.type == "file":
        file = entry.open_file()
        node = listing.nodes[entry.path] = file.node()
        listing.contents[entry.path] = read_all(file, node.size)
        file.close()
    else:
        listing.nodes[entry.path] = entry.node()
    return None


def read_all(file: OpenFile, size: int, step: int = 1 << 16) -> bytes:
    """What a file of this size holds, holes as zeros, read in pieces of `step` bytes until one is short."""
    content = bytearray()
    buffer = memoryview(bytearray(step))
    for start, length in file.extents(size):
        content += bytes(start - len(content))
        while len(content) < start + length:
            wanted = min(step, start + length - len(content))
            read = file.read_into(buffer[:wanted], len(content))
            content += buffer[:read]
            if read < wanted:
                return bytes(content)
    return bytes(content) + bytes(size - len(content))


def entry_of(paths: Sequence[bytes], path: bytes) -> Entry:
    """One entry of a FileSystemSource, with its directories left open."""
    source = FileSystemSource(
        paths, rules=ExcludeRules(), one_file_system=False, with_atime=False, owners=Owners(), on_error=_refuse
    )
    directory: Directory = source.open_root()
    *above, name = path.strip(b"/").split(b"/")
    for part in above:
        directory = _find(directory, part).open_directory()
    return _find(directory, name)


def _find(directory: Directory, name: bytes) -> Entry:
    return next(entry for entry in directory.entries() if entry.name == name)


def _refuse(path: bytes, error: OSError) -> None:
    raise error


@contextmanager
def as_nobody() -> Iterator[None]:
    """Do something without the rights of the superuser."""
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
