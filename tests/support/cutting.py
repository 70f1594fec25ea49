"""A connection between a client and a server that somebody cuts, slows down or lets fall silent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Line:
    """What passes through. `port` is where clients connect. All may be changed at any time.

    `up` and `down` are how many more bytes of one connection may pass to the server and to the client before the line
    is cut; None for any number. `cuts` is how often that still happens. `flips` is how often one bit is changed there
    in place of that; the bytes are counted anew then.
    """

    port: int
    up: int | None = None
    down: int | None = None
    cuts: int = 0
    flips: int = 0
    made: int = 0
    """Connections so far."""
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def line_to(server_port: int) -> Iterator[Line]:
    """A way to the server on that port of this machine, for the time of the block."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        line = Line(listening.getsockname()[1])
        ends: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                line.made += 1
                server = socket.create_connection(("127.0.0.1", server_port))
                ends.extend((client, server))
                for source, target, way in ((client, server, "up"), (server, client, "down")):
                    thread = threading.Thread(target=_pass_on, args=(line, source, target, way))
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
            for end in ends:
                _shut(end)
            for thread in threads:
                thread.join()
            for end in ends:
                end.close()


def _pass_on(line: Line, source: socket.socket, target: socket.socket, way: str) -> None:
    passed = 0
    with suppress(OSError):
        while data := source.recv(1 << 16):
            with line.lock:
                most = getattr(line, way)
                over = most is not None and passed + len(data) > most
                cut, flip = over and line.cuts > 0, over and line.flips > 0
                line.cuts -= cut
                line.flips -= flip and not cut
            if flip and not cut:
                data, passed = _flipped(data, most - passed), -len(data)
            target.sendall(data[: most - passed] if cut else data)
            if cut:
                break
            passed += len(data)
    _shut(source)
    _shut(target)


def _flipped(data: bytes, at: int) -> bytes:
    """The same with one other bit."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
