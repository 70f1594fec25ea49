"""Streams and commands as files."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from datetime import UTC, datetime

import pytest

from bfrepo.core.errors import InvalidValue, SourceError
from bfrepo.localfs.metadata import Owners
from bfrepo.sources.base import UNKNOWN_SIZE, Directory, OpenFile, Source
from bfrepo.sources.stdin import CommandSource, StreamSource
from tests.support.listing import Listing, list_source, read_all


class StoppedClock:
    """A clock that stands still."""

    def now(self) -> datetime:
        return datetime(2024, 2, 29, 12, 0, 0, 123456, UTC)

    def monotonic(self) -> float:
        return 0.0


def command(*argv: str, filename: bytes = b"stdin") -> CommandSource:
    """A source that runs a command."""
    return CommandSource(argv, filename, clock=StoppedClock(), owners=Owners())


def python(code: str) -> CommandSource:
    """A source that runs a few lines of Python."""
    return command(sys.executable, "-c", code)


def stream(content: bytes, filename: bytes = b"stdin") -> StreamSource:
    """A source that reads from memory."""
    return StreamSource(io.BytesIO(content), filename, clock=StoppedClock(), owners=Owners())


def open_only_file(source: Source) -> OpenFile:
    """The one file in a source."""
    directory: Directory = source.open_root()
    while True:
        (entry,) = directory.entries()
        if entry.stat.type == "file":
            return entry.open_file()
        directory = entry.open_directory()


def content_of(source: Source, step: int = 1 << 16) -> bytes:
    """What the one file in a source holds, read in pieces of `step` bytes."""
    file = open_only_file(source)
    try:
        return read_all(file, UNKNOWN_SIZE, step)
    finally:
        file.close()


def test_a_stream_is_a_file() -> None:
    """The tree holds the file under its name, owned by whoever runs the backup, made now."""
    listing = Listing()
    list_source(stream(b"hello"), listing)
    node = listing.nodes[b"/stdin"]

    assert listing.contents == {b"/stdin": b"hello"}
    assert (node.name, node.type, node.mode, node.size) == (b"stdin", "file", 0o644, UNKNOWN_SIZE)
    assert (node.uid, node.gid, node.user) == (os.getuid(), os.getgid(), Owners().user(os.getuid()))
    assert (node.mtime_ns, node.ctime_ns) == (1_709_208_000_123_456_000, 1_709_208_000_123_456_000)


def test_a_filename_may_have_directories() -> None:
    """Each part of the name but the last is a directory."""
    source = stream(b"x", b"/db//dump/./all.sql")
    listing = Listing()
    list_source(source, listing)

    assert source.paths == (b"/db/dump/all.sql",)
    assert [(path, node.name, node.type, node.mode) for path, node in listing.nodes.items()] == [
        (b"/db", b"db", "dir", 0o755),
        (b"/db/dump", b"dump", "dir", 0o755),
        (b"/db/dump/all.sql", b"all.sql", "file", 0o644),
    ]


def test_the_root_has_no_node() -> None:
    """As with any source."""
    root = stream(b"").open_root()

    assert (root.path, root.node()) == (b"/", None)


@pytest.mark.parametrize("filename", [b"", b"/", b".", b"a/../b", b"a\0"])
def test_what_is_no_filename(filename: bytes) -> None:
    """A name that cannot be in a snapshot is refused before anything is read."""
    with pytest.raises(InvalidValue, match="cannot be the name of a file"):
        stream(b"", filename)


@pytest.mark.parametrize("step", [1, 3, 10, 11, 100])
def test_reading_in_pieces(step: int) -> None:
    """Reads are full up to the end, also where the stream gives less at a time."""
    assert content_of(stream(b"0123456789"), step) == b"0123456789"


def test_a_pipe_is_read_until_its_end() -> None:
    """A pipe that gives little by little fills the buffer all the same."""
    file = open_only_file(python("import os, time\nfor _ in range(5): os.write(1, b'ab'); time.sleep(0.01)"))
    buffer = memoryview(bytearray(8))

    assert (file.read_into(buffer, 0), bytes(buffer)) == (8, b"abababab")
    assert (file.read_into(buffer, 8), file.read_into(buffer, 10)) == (2, 0)
    file.close()


def test_a_stream_cannot_go_back() -> None:
    """Reading anywhere but on is an error, not other bytes."""
    file = open_only_file(stream(b"0123456789"))
    file.read_into(memoryview(bytearray(5)), 0)

    with pytest.raises(SourceError, match="cannot be read from byte 0 on"):
        file.read_into(memoryview(bytearray(5)), 0)


def test_a_stream_is_never_changed() -> None:
    """There is nothing to compare."""
    file = open_only_file(stream(b"x"))

    assert file.changed(file.node()) is False


def test_a_stream_is_read_by_itself() -> None:
    """It is never read together with other small files."""
    root = stream(b"x").open_root()

    assert root.read_small(root.entries(), 100, memoryview(bytearray(100))) == [None]


def test_a_stream_is_closed_with_the_file() -> None:
    """Closing is idempotent."""
    content = io.BytesIO(b"x")
    file = open_only_file(StreamSource(content, b"a", clock=StoppedClock(), owners=Owners()))
    file.close()
    file.close()

    assert content.closed is True


def test_a_stream_is_not_read_twice() -> None:
    """A second pass would find an empty file and must fail instead."""
    source = stream(b"x")
    open_only_file(source).close()

    with pytest.raises(SourceError, match="has been read already"):
        open_only_file(source)


def test_the_output_of_a_command_is_a_file() -> None:
    """All it writes is the content, whatever the size."""
    source = python("import sys; sys.stdout.buffer.write(bytes(range(256)) * 20000)")

    assert content_of(source, 1 << 20) == bytes(range(256)) * 20000


def test_a_command_reads_nothing() -> None:
    """Its standard input is empty: it cannot take what was meant for somebody else, nor wait for it."""
    assert content_of(python("import sys; print(len(sys.stdin.read()))")) == b"0\n"


def test_a_command_may_run_again() -> None:
    """A second pass runs it again."""
    source = command("echo", "hello")

    assert [content_of(source) for _ in range(2)] == [b"hello\n"] * 2


def test_a_command_that_fails_is_an_error_at_its_end() -> None:
    """Whatever it wrote before, the read that meets the end raises, with the exit status and without the arguments."""
    with pytest.raises(SourceError) as caught:
        content_of(command("sh", "-c", "echo secret; exit 3"))

    assert str(caught.value) == "sh failed with exit status 3"


@pytest.mark.parametrize(("number", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGRTMIN + 1, "signal 35")])
def test_a_command_that_is_killed_is_an_error(number: int, name: str) -> None:
    """The message names the signal."""
    with pytest.raises(SourceError, match=f"sh was killed by {name}"):
        content_of(command("sh", "-c", f"kill -{int(number)} $$"))


def test_a_command_that_cannot_be_run() -> None:
    """Not found and not executable are errors before anything is read, and leave no descriptor."""
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(SourceError) as caught:
        open_only_file(command("no-such-command", "--password=secret"))
    with pytest.raises(SourceError, match="cannot run /: Permission denied"):
        open_only_file(command("/"))
    assert str(caught.value) == "cannot run no-such-command: No such file or directory"
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_command_at_all() -> None:
    """An empty command line is wrong usage."""
    with pytest.raises(InvalidValue, match="no command to run"):
        command()


def test_closing_early_ends_the_command() -> None:
    """A command whose output is no longer wanted is told to end, and waited for."""
    file = open_only_file(python("import time; print('started', flush=True); time.sleep(600)"))
    file.read_into(memoryview(bytearray(8)), 0)
    begun = time.monotonic()
    file.close()

    assert time.monotonic() - begun < 5
    assert not any("time.sleep(600)" in line for line in _commands_of_children())


def test_a_command_that_will_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while there is no asking."""
    monkeypatch.setattr("bfrepo.sources.stdin._PATIENCE_S", 0.1)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('started', flush=True); time.sleep(601)"
    file = open_only_file(python(code))
    file.read_into(memoryview(bytearray(8)), 0)
    file.close()

    assert not any("time.sleep(601)" in line for line in _commands_of_children())


def _commands_of_children() -> list[str]:
    """The command lines of the processes that this one has started and that have not been waited for."""
    with open(f"/proc/self/task/{os.getpid()}/children") as children:
        pids = children.read().split()
    found = []
    for pid in pids:
        with open(f"/proc/{pid}/cmdline") as line:
            found.append(line.read())
    return found
