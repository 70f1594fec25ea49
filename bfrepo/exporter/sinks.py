"""Where what is dumped goes: a stream, such as a pipe, or a file that appears when it is complete."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from bfrepo.core.errors import TargetError
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import KIB, MIB

_JOINED: Final = 256 * KIB
"""Small pieces are joined until they are as many bytes; a piece that is as long is written from where it is."""
_PIPE_SIZE: Final = MIB
_ZEROS: Final = bytes(256 * KIB)


class Sink(Protocol):
    """Takes bytes in order. Used by one thread."""

    def write(self, data: Buffer) -> None:
        """The next bytes, which the caller does not change any more. Raises BrokenPipeError, TargetError."""

    def zeros(self, count: int) -> None:
        """As many zeros, or a hole."""

    def flush(self) -> None:
        """Nothing is held back any longer."""


class JoinedSink:
    """Passes on to `send`, joining small pieces: each costs a system call or a packet."""

    def __init__(self, send: Callable[[Buffer], None]) -> None:
        self._send = send
        self._waiting: list[Buffer] = []
        self._size = 0

    def write(self, data: Buffer) -> None:
        """See Sink. Raises what `send` raises, as all of this does."""
        if len(data) >= _JOINED:
            self.flush()
            self._send(data)
            return
        self._waiting.append(data)
        self._size += len(data)
        if self._size >= _JOINED:
            self.flush()

    def zeros(self, count: int) -> None:
        """See Sink."""
        while count:
            part = min(count, len(_ZEROS))
            self.write(_ZEROS if part == len(_ZEROS) else bytes(part))
            count -= part

    def flush(self) -> None:
        """See Sink."""
        waiting, self._waiting, self._size = self._waiting, [], 0
        if waiting:
            self._send(b"".join(waiting))


class StreamSink(JoinedSink):
    """Writes to a descriptor, which stays open."""

    def __init__(self, fd: int) -> None:
        super().__init__(self._write_all)
        self._fd = fd
        with contextlib.suppress(OSError):  # no pipe, or a user who has enough of them: it works with the usual size
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)

    def _write_all(self, data: Buffer) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise TargetError(f"cannot write: {os.strerror(error.errno or 0)}") from error


class FileSink(StreamSink):
    """Writes to a regular file that is new, where long runs of zeros are holes."""

    def zeros(self, count: int) -> None:
        """See Sink."""
        if count < _JOINED:
            super().zeros(count)
            return
        self.flush()
        end = os.lseek(self._fd, count, os.SEEK_CUR)
        os.ftruncate(self._fd, end)


@contextlib.contextmanager
def open_file_sink(path: bytes) -> Iterator[Sink]:
    """A new file, for its owner alone, which gets its name when the block has ended well: before that, and after an
    error, there is what was there before. A pipe or a device is written to as it is. Raises TargetError.
    """
    try:
        with _open_special(path) if _is_special(path) else _open_new(os.path.realpath(path)) as sink:
            yield sink
            sink.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise TargetError(f"cannot write {os.fsdecode(path)}: {os.strerror(error.errno or 0)}") from error


def _is_special(path: bytes) -> bool:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode)


@contextlib.contextmanager
def _open_special(path: bytes) -> Iterator[Sink]:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        yield StreamSink(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _open_new(path: bytes) -> Iterator[Sink]:
    folder, name = os.path.split(path)
    fd, temporary = tempfile.mkstemp(prefix=b"." + name[:200] + b".", dir=folder)
    try:
        try:
            sink = FileSink(fd)
            yield sink
            sink.flush()
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
