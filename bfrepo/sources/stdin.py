"""One file out of a stream: what somebody pipes in, or what a command writes to its standard output.

The tree holds the file and the directories of its name, nothing else. How long it is, nobody knows before its end:
see UNKNOWN_SIZE.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bfrepo.core.clock import Clock
from bfrepo.core.errors import InvalidValue, SourceError
from bfrepo.data.node import Node, NodeType
from bfrepo.localfs.metadata import Owners
from bfrepo.sources.base import UNKNOWN_SIZE, Entry

_PIPE_SIZE = 1 << 20
"""Bytes a command may be ahead of the reader: the most that Linux gives everybody (/proc/sys/fs/pipe-max-size)."""

_PATIENCE_S = 5.0
"""How long a command that is no longer wanted may take to end before it is killed."""


class Stream(Protocol):
    """What a file is read from: an open file, a pipe, standard input."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the beginning of `buffer`; 0 at the end."""

    def close(self) -> None:
        """Release it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _StreamStat:
    type: NodeType
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    inode: int = 0
    device: int = 0
    links: int = 1

    @property
    def ctime_ns(self) -> int:
        return self.mtime_ns


class StreamSource:
    """A stream as a file. It can be opened once, and is closed with the file."""

    def __init__(self, stream: Stream, filename: bytes, *, clock: Clock, owners: Owners) -> None:
        """`filename` is a path from the root of the tree. Raises InvalidValue when it is none."""
        self._stream: Stream | None = stream
        self._tree = StreamTree(filename, clock, owners)

    @property
    def paths(self) -> tuple[bytes, ...]:
        """The file's path in the tree."""
        return (self._tree.path,)

    def open_root(self) -> StreamDirectory:
        """See Source.open_root. Opening the file a second time raises SourceError."""
        return self._tree.root(self._open)

    def _open(self, node: Node) -> StreamFile:
        stream, self._stream = self._stream, None
        if stream is None:
            raise SourceError("the stream has been read already", hint="run the backup again with a new one")
        return StreamFile(stream, node)


class CommandSource:
    """What a command writes, as a file. Each time the file is opened, the command runs.

    Its standard input is empty and its standard error is ours. Messages name the program but never its arguments,
    which may hold a password.
    """

    def __init__(self, argv: Sequence[str], filename: bytes, *, clock: Clock, owners: Owners) -> None:
        """Raises InvalidValue when there is no command, or `filename` is no path."""
        if not argv:
            raise InvalidValue("there is no command to run", hint="write it after --")
        self._argv = list(argv)
        self._tree = StreamTree(filename, clock, owners)

    @property
    def paths(self) -> tuple[bytes, ...]:
        """The file's path in the tree."""
        return (self._tree.path,)

    def open_root(self) -> StreamDirectory:
        """See Source.open_root. Opening the file raises SourceError when the command cannot be run."""
        return self._tree.root(self._run)

    def _run(self, node: Node) -> CommandFile:
        program = self._argv[0]
        reader, writer = os.pipe()
        with contextlib.suppress(OSError):  # refused above the user's share of memory for pipes
            fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        output = open(reader, "rb", buffering=0)  # noqa: SIM115 (closed with the file)
        try:
            process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=writer)
        except OSError as error:
            output.close()
            raise SourceError(f"cannot run {program}: {error.strerror}", hint="nothing was backed up") from None
        finally:
            os.close(writer)
        return CommandFile(process, output, program, node)


class StreamFile:
    """A file that is read from its beginning to its end, once."""

    def __init__(self, stream: Stream, node: Node) -> None:
        self._stream = stream
        self._node = node
        self._position = 0
        self._closed = False

    def node(self) -> Node:
        """See OpenFile.node. The size is UNKNOWN_SIZE."""
        return self._node

    def extents(self, size: int) -> Iterator[tuple[int, int]]:
        """See OpenFile.extents. A stream has no holes."""
        return iter([(0, size)] if size else [])

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """See OpenFile.read_into. Raises SourceError for any offset but where the last read ended."""
        if offset != self._position:
            raise SourceError(f"a stream cannot be read from byte {offset} on, it is at byte {self._position}")
        total = 0
        while total < len(buffer):
            read = self._stream.readinto(buffer[total:])
            if not read:
                self._at_end()
                break
            total += read
        self._position += total
        return total

    def changed(self, node: Node) -> bool:
        """See OpenFile.changed. A stream only ever goes on."""
        return False

    def close(self) -> None:
        """See OpenFile.close."""
        if not self._closed:
            self._closed = True
            self._stream.close()

    def _at_end(self) -> None:
        """Called where the stream ends."""


class CommandFile(StreamFile):
    """The output of a running command. Its end is only good when the command's is."""

    def __init__(self, process: subprocess.Popen[bytes], output: Stream, program: str, node: Node) -> None:
        super().__init__(output, node)
        self._process = process
        self._program = program

    def close(self) -> None:
        """See OpenFile.close. A command that has not ended is told to."""
        super().close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _at_end(self) -> None:
        status = self._process.wait()
        if status != 0:
            raise SourceError(f"{self._program} {_describe(status)}", hint="what it wrote was not kept as a snapshot")


def _describe(status: int) -> str:
    if status > 0:
        return f"failed with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


class StreamTree:
    """The file's path, and the nodes on it: made now, by the user who runs this."""

    def __init__(self, filename: bytes, clock: Clock, owners: Owners) -> None:
        names = [name for name in filename.split(b"/") if name not in (b"", b".")]
        if not names or b".." in names or b"\0" in filename:
            raise InvalidValue(f"{os.fsdecode(filename)!r} cannot be the name of a file in a snapshot")
        self._names = names
        self.path = b"/" + b"/".join(names)
        self._mtime_ns = int(clock.now().timestamp() * 1_000_000) * 1000
        self._owners = owners

    def root(self, open_file: Callable[[Node], StreamFile]) -> StreamDirectory:
        """The root; opening the file calls `open_file` with its node."""
        return StreamDirectory(self, open_file, 0)

    def node(self, depth: int) -> Node:
        """That of the name at `depth`."""
        stat = self.stat(depth)
        return Node(
            name=self._names[depth],
            type=stat.type,
            mode=stat.mode,
            uid=stat.uid,
            gid=stat.gid,
            user=self._owners.user(stat.uid),
            group=self._owners.group(stat.gid),
            mtime_ns=stat.mtime_ns,
            ctime_ns=stat.ctime_ns,
            size=stat.size,
        )

    def stat(self, depth: int) -> _StreamStat:
        """What listing tells of the name at `depth`."""
        owner = {"uid": os.getuid(), "gid": os.getgid(), "mtime_ns": self._mtime_ns}
        if depth == len(self._names) - 1:
            return _StreamStat(type="file", mode=0o644, size=UNKNOWN_SIZE, **owner)
        return _StreamStat(type="dir", mode=0o755, **owner)

    def path_to(self, depth: int) -> bytes:
        """The path of the first `depth` names."""
        return b"/" + b"/".join(self._names[:depth])


class StreamDirectory:
    """A directory on the way to the file, or the root."""

    def __init__(self, tree: StreamTree, open_file: Callable[[Node], StreamFile], depth: int) -> None:
        self._tree = tree
        self._open_file = open_file
        self._depth = depth

    @property
    def path(self) -> bytes:
        return self._tree.path_to(self._depth)

    def node(self) -> Node | None:
        """See Directory.node."""
        return self._tree.node(self._depth - 1) if self._depth else None

    def entries(self) -> list[_StreamEntry]:
        """See Directory.entries."""
        return [_StreamEntry(self._tree, self._open_file, self._depth)]

    def read_small(self, entries: Sequence[Entry], limit: int, buffer: memoryview) -> list[None]:
        """See Directory.read_small. A stream is always read by itself."""
        return [None] * len(entries)

    def close(self) -> None:
        """There is nothing to release."""


class _StreamEntry:
    """The one name in a directory."""

    def __init__(self, tree: StreamTree, open_file: Callable[[Node], StreamFile], depth: int) -> None:
        self._tree = tree
        self._open_file = open_file
        self._depth = depth

    @property
    def name(self) -> bytes:
        return self.node().name

    @property
    def path(self) -> bytes:
        return self._tree.path_to(self._depth + 1)

    @property
    def stat(self) -> _StreamStat:
        return self._tree.stat(self._depth)

    def node(self) -> Node:
        return self._tree.node(self._depth)

    def open_file(self) -> StreamFile:
        return self._open_file(self.node())

    def open_directory(self) -> StreamDirectory:
        return StreamDirectory(self._tree, self._open_file, self._depth + 1)
