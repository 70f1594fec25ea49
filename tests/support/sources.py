"""A source out of a dictionary: what the archiver sees of a file system, each moment under the test's control."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from zlib import crc32

from bfrepo.data.node import Node, NodeType

ENOUGH_AGO = 1_600_000_000_000_000_000
"""A time (ns) long before any backup of the tests: files of this age are not racy."""


@dataclass(frozen=True)
class Item:
    """One entry. `content` is what a file holds, its holes as zeros; `holes` are (offset, length).

    `open_error` is raised when it is opened or looked at closely, `read_error` when it is read; `on_read` is called
    before its first byte is read; `torn` makes it look as if it had been written to while it was read.
    """

    type: NodeType = "file"
    content: bytes = b""
    holes: tuple[tuple[int, int], ...] = ()
    mode: int = 0o644
    uid: int = 1000
    gid: int = 1000
    mtime_ns: int = ENOUGH_AGO
    ctime_ns: int = ENOUGH_AGO
    inode: int = 0
    device: int = 7
    links: int = 1
    rdev: int = 0
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    open_error: OSError | None = None
    read_error: OSError | None = None
    on_read: Callable[[], None] | None = None
    torn: bool = False
    length: int | None = None

    @property
    def size(self) -> int:
        """What a look tells; `length` where that is to differ from what reading gives."""
        if self.type != "file":
            return 0
        return len(self.content) if self.length is None else self.length

    def node(self, name: bytes) -> Node:
        """Everything but content, holes and subtree."""
        return Node(
            name=name,
            type=self.type,
            mode=self.mode,
            uid=self.uid,
            gid=self.gid,
            mtime_ns=self.mtime_ns,
            ctime_ns=self.ctime_ns,
            inode=self.inode,
            device=self.device if self.links > 1 else 0,
            links=self.links,
            size=self.size,
            rdev=self.rdev,
            target=self.target,
            xattrs=list(self.xattrs),
        )


def folder(**fields: object) -> Item:
    """A directory."""
    return replace(Item(type="dir", mode=0o755), **fields)  # type: ignore[arg-type]


def written(content: bytes, *, again: int = 1) -> Item:
    """A file as it is after it was written to for the `again`-th time: its times say so."""
    later = ENOUGH_AGO + again * 1_000_000_000
    return Item(content=content, mtime_ns=later, ctime_ns=later)


def sparse(content: bytes, *holes: tuple[int, int]) -> Item:
    """A file with holes, which must be zeros in `content`."""
    return Item(content=content, holes=holes)


@dataclass
class _Folder:
    item: Item
    children: dict[bytes, _Folder] = field(default_factory=dict)


class DictSource:
    """A tree from slash-separated paths to items or, for plain files, to bytes; missing directories are made up.

    An inode number of 0 is replaced by one that depends on the path alone. `opened` collects the paths of the files
    that were opened to be read; `list_errors` are raised when that directory is listed.
    """

    def __init__(
        self, tree: Mapping[str, Item | bytes], *, list_errors: Mapping[str, OSError] | None = None, small: bool = False
    ) -> None:
        self.opened: list[bytes] = []
        self.open_now = 0
        self._list_errors = {path.encode(): error for path, error in (list_errors or {}).items()}
        self._small = small
        self._root = _Folder(folder())
        for path, item in sorted(tree.items()):
            self._add(path.encode(errors="surrogateescape"), item)

    def _add(self, path: bytes, item: Item | bytes) -> None:
        if isinstance(item, bytes):
            item = Item(content=item)
        if not item.inode:
            item = replace(item, inode=crc32(path))
        at = self._root
        *above, name = path.strip(b"/").split(b"/")
        for each in above:
            at = at.children.setdefault(each, _Folder(folder(inode=1)))
        known = at.children.get(name)
        at.children[name] = _Folder(item, known.children if known else {})

    def open_root(self) -> DictDirectory:
        """See Source.open_root."""
        return DictDirectory(self, self._root, b"", root=True)

    def entries_of(self, found: _Folder, path: bytes) -> list[DictEntry]:
        """What a directory holds, sorted, or the error it was given."""
        error = self._list_errors.get(path)
        if error is not None:
            raise error
        return [DictEntry(self, name, path + b"/" + name, found.children[name]) for name in sorted(found.children)]

    @property
    def small(self) -> bool:
        """Whether small files are read many at a time."""
        return self._small


class DictDirectory:
    """See Directory."""

    def __init__(self, source: DictSource, found: _Folder, path: bytes, *, root: bool = False) -> None:
        self._source = source
        self._found = found
        self._root = root
        self._open = True
        self.path = path or b"/"
        self._prefix = path
        source.open_now += 1

    def node(self) -> Node | None:
        return None if self._root else self._found.item.node(self._prefix.rpartition(b"/")[2])

    def entries(self) -> Sequence[DictEntry]:
        return self._source.entries_of(self._found, self._prefix)

    def read_small(
        self, entries: Sequence[object], limit: int, buffer: memoryview
    ) -> Sequence[tuple[Node, int] | None]:
        """See Directory.read_small: one after the other while they fit."""
        results: list[tuple[Node, int] | None] = []
        at = 0
        for entry in entries:
            if not isinstance(entry, DictEntry):
                raise AssertionError("an entry of another source")
            item = entry.item
            plain = self._source.small and not (item.holes or item.open_error or item.read_error or item.torn)
            if not plain or item.on_read or item.length is not None or len(item.content) > limit:
                results.append(None)
                continue
            if at + len(item.content) > len(buffer):
                break
            self._source.opened.append(entry.path)
            buffer[at : at + len(item.content)] = item.content
            at += len(item.content)
            results.append((item.node(entry.name), len(item.content)))
        return results or [None]

    def close(self) -> None:
        if self._open:
            self._open = False
            self._source.open_now -= 1


class DictEntry:
    """See Entry; it is its own Stat."""

    def __init__(self, source: DictSource, name: bytes, path: bytes, found: _Folder) -> None:
        self._source = source
        self._found = found
        self.name = name
        self.path = path
        self.item = found.item

    @property
    def stat(self) -> Item:
        return self.item

    def node(self) -> Node:
        if self.item.open_error:
            raise self.item.open_error
        return self.item.node(self.name)

    def open_file(self) -> DictFile:
        if self.item.open_error:
            raise self.item.open_error
        self._source.opened.append(self.path)
        return DictFile(self.item, self.name)

    def open_directory(self) -> DictDirectory:
        if self.item.open_error:
            raise self.item.open_error
        return DictDirectory(self._source, self._found, self.path)


class DictFile:
    """See OpenFile."""

    def __init__(self, item: Item, name: bytes) -> None:
        self._item = item
        self._name = name
        self._read = False

    def node(self) -> Node:
        return self._item.node(self._name)

    def extents(self, size: int) -> Iterator[tuple[int, int]]:
        position = 0
        for offset, length in self._item.holes:
            if offset > position:
                yield position, offset - position
            position = offset + length
        if position < size:
            yield position, size - position

    def read_into(self, buffer: memoryview, offset: int) -> int:
        if not self._read:
            self._read = True
            if self._item.on_read is not None:
                self._item.on_read()
        if self._item.read_error:
            raise self._item.read_error
        found = self._item.content[offset : offset + len(buffer)]
        buffer[: len(found)] = found
        return len(found)

    def changed(self, node: Node) -> bool:
        del node
        return self._item.torn

    def close(self) -> None:
        """Nothing is open."""
