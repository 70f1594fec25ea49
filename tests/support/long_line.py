"""A line to a server that is long and narrow: what is sent arrives later, and no faster than the line takes it.

It knows nothing of what passes but for the heads of HTTP requests, which it notes with their time. A connection costs a
round trip more before anything arrives, as it does between machines. Packets are not lost, and no connection begins
slowly, which it would between machines: so a tool that makes many of them is shown better than it is.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

_PIECE: Final = 64 << 10
_ON_THE_WAY: Final = 4 << 20
"""Bytes of a connection that are on their way at most, as long as the line takes them at all."""
_METHODS: Final = (b"GET ", b"PUT ", b"POST ", b"HEAD ", b"DELETE ")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """One request of HTTP, when its head was complete at the client's end: seconds of the monotonic clock."""

    at: float
    connection: int
    method: str
    path: str


@dataclass
class LongLine:
    """A line to the server on `server_port` of this machine. Clients connect to `port`.

    `round_trip_s` is the latency there and back; `rate` is bytes a second each way, of all connections together, None
    for any number. Both may be changed at any time.
    """

    server_port: int
    round_trip_s: float = 0.05
    rate: float | None = 20e6
    port: int = 0
    connections: int = 0
    """How many were made so far."""
    up: int = 0
    down: int = 0
    """Bytes that passed so far, to the server and to the client."""
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    free_at: dict[str, float] = field(default_factory=lambda: {"up": 0.0, "down": 0.0})
    """When the line has room again, each way."""

    def forget(self) -> None:
        """Count from nothing again."""
        with self.lock:
            self.connections = self.up = self.down = 0
            self.requests.clear()

    def leaves(self, way: str, size: int) -> float:
        """Take bytes onto the line; when the last of them is at the other end."""
        with self.lock:
            begins = max(time.monotonic(), self.free_at[way])
            self.free_at[way] = begins + (size / self.rate if self.rate else 0)
            setattr(self, way, getattr(self, way) + size)
            return self.free_at[way] + self.round_trip_s / 2


@contextmanager
def long_line_to(server_port: int, round_trip_s: float = 0.05, rate: float | None = 20e6) -> Iterator[LongLine]:
    """A line to the server on that port of this machine, for the time of the block."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        line = LongLine(server_port, round_trip_s, rate, listening.getsockname()[1])
        ends: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                line.connections += 1
                ends.append(client)
                thread = threading.Thread(target=_connect, args=(line, client, line.connections, ends, threads))
                threads.append(thread)
                thread.start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield line
        finally:
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            accepting.join()
            while ends or threads:
                for end in ends:
                    _shut(end)
                for thread in list(threads):
                    thread.join(0.1)
                    if not thread.is_alive():
                        threads.remove(thread)
                if not threads:
                    while ends:
                        ends.pop().close()


def _connect(
    line: LongLine, client: socket.socket, number: int, ends: list[socket.socket], threads: list[threading.Thread]
) -> None:
    """The server hears of a connection when the client may send its first byte on it."""
    time.sleep(line.round_trip_s)
    try:
        server = socket.create_connection(("127.0.0.1", line.server_port))
    except OSError:
        _shut(client)
        return
    ends.append(server)
    for end in (client, server):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ways = (
        _Way(line, "up", client, server, HttpHeads(line, number)),
        _Way(line, "down", server, client, None),
    )
    for way in ways:
        for work in (way.take, way.deliver):
            thread = threading.Thread(target=work)
            threads.append(thread)
            thread.start()


class _Way:
    """One direction of a connection: one thread takes what is sent, another delivers it when its time has come."""

    def __init__(
        self, line: LongLine, name: str, source: socket.socket, target: socket.socket, heads: HttpHeads | None
    ) -> None:
        self._line = line
        self._name = name
        self._source = source
        self._target = target
        self._heads = heads
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._changed = threading.Condition()

    def take(self) -> None:
        """Until the sender has nothing more to say."""
        data = b"more"
        while data:
            with self._changed:
                self._changed.wait_for(lambda: self._size < _ON_THE_WAY)
            try:
                data = self._source.recv(_PIECE)
            except OSError:
                data = b""
            if self._heads is not None:
                self._heads.pass_by(data)
            due = self._line.leaves(self._name, len(data))
            with self._changed:
                self._under_way.append((due, data))
                self._size += len(data)
                self._changed.notify_all()

    def deliver(self) -> None:
        """Until there is nothing more, or nobody who wants it."""
        wanted = True
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._under_way)
                due, data = self._under_way.popleft()
            if not data:
                break
            if wanted:
                time.sleep(max(0.0, due - time.monotonic()))
                try:
                    self._target.sendall(data)
                except OSError:
                    wanted = False
                    _shut(self._source)
            with self._changed:
                self._size -= len(data)
                self._changed.notify_all()
        with suppress(OSError):
            self._target.shutdown(socket.SHUT_WR)


class HttpHeads:
    """Finds the heads of HTTP/1.1 requests in what a client sends, if that is HTTP, and notes them."""

    def __init__(self, line: LongLine, connection: int) -> None:
        self._line = line
        self._connection = connection
        self._head = b""
        self._skip = 0
        """Bytes of a body that are yet to come."""
        self._chunked = False
        self._is_http = True

    def pass_by(self, data: bytes) -> None:
        """The next bytes."""
        while data and self._is_http:
            if self._skip:
                passed = min(self._skip, len(data))
                self._skip -= passed
                data = data[passed:]
            elif self._chunked:
                data = self._pass_chunk_size(data)
            else:
                data = self._pass_head(data)

    def _pass_chunk_size(self, data: bytes) -> bytes:
        """Up to the bytes of the chunk, and behind the line's end after them. Trailers follow the chunk of size 0."""
        self._head += data
        size, end, rest = self._head.partition(b"\r\n")
        if not end:
            return b""
        length = int(size.partition(b";")[0], 16)
        if length:
            self._head, self._skip = b"", length + 2
            return rest
        _, end, rest = (end + rest).partition(b"\r\n\r\n")
        if not end:
            return b""
        self._head, self._chunked = b"", False
        return rest

    def _pass_head(self, data: bytes) -> bytes:
        self._head += data
        if len(self._head) >= 8 and not self._head.startswith(_METHODS):
            self._is_http = False
            return b""
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            return b""
        method, path = head.split(b" ", 2)[:2]
        with self._line.lock:
            self._line.requests.append(Request(time.monotonic(), self._connection, method.decode(), path.decode()))
        length = _LENGTH.search(head)
        self._skip = int(length[1]) if length else 0
        self._chunked = _CHUNKED.search(head) is not None
        self._head = b""
        return rest


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
