"""A web server that answers what a test has told it to, in that order, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One answer. `length` is what is announced, if that is not what is sent, -1 for nothing at all.

    A `status` of 0 hangs up.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None


@dataclass(frozen=True)
class Asked:
    """One request. Names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def s3_error(status: int, code: str, text: str = "Some words of the server.", **headers: str) -> Answer:
    """An error as S3 has them."""
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{text}</Message></Error>"
    return Answer(status, body.encode(), {"Content-Type": "application/xml", **headers})


def s3_listing(*keys: str, more: str = "") -> Answer:
    """A page of a listing; `more` is what it says of further pages."""
    contents = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
    last = more or "<IsTruncated>false</IsTruncated>"
    return Answer(200, f"<ListBucketResult>{contents}{last}</ListBucketResult>".encode())


class Answering:
    """The server: `url`, and what was asked. Without an answer left it repeats the last one."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self._answers: deque[Answer] = deque()
        self._last = Answer()
        self._lock = threading.Lock()

    def will(self, *answers: Answer) -> None:
        """Answer so from now on; what was asked is forgotten."""
        with self._lock:
            self._answers = deque(answers)
            self.asked.clear()

    def answer(self, asked: Asked) -> Answer:
        """The next answer."""
        with self._lock:
            self.asked.append(asked)
            if self._answers:
                self._last = self._answers.popleft()
            return self._last


@contextmanager
def serve() -> Iterator[Answering]:
    """A server for the time of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            found = answering.answer(Asked(self.command, self.path, headers, body))
            if not found.status:
                self.close_connection = True
                return
            self.send_response(found.status)
            length = len(found.body) if found.length is None else found.length
            announced = {"Content-Length": str(length)} if length >= 0 else {}
            for name, value in {**announced, **found.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(found.body)
            self.close_connection = length != len(found.body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 - the names of http.server

        def log_message(self, format: str, *arguments: Any) -> None:
            """Says nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Clients hang up when they have seen enough."""

    with Server(("127.0.0.1", 0), Handler) as server:
        answering = Answering(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield answering
        finally:
            server.shutdown()
            thread.join()
