"""Repositories on REST servers, for tests of what such a server may do to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from blake3 import blake3

from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.location import RestLocation
from bfrepo.storage.options import RestOptions
from bfrepo.storage.rest import RestBackend
from tests.support.rest_server import RestServer

USER, WORD = "keeper", "tests-only-password"
AS_SERVER = {"RCLONE_USER": USER, "RCLONE_PASS": WORD}
"""The variables that tell rclone whom to let in."""

PLACE = "/me/repo/"


def location(port: int, path: str = PLACE, *, word: str | None = WORD, scheme: str = "http") -> RestLocation:
    """Where a repository is on a server of this machine."""
    return RestLocation(f"{scheme}://127.0.0.1:{port}{path}", USER, word)


def backend_on(server: RestServer, *, options: RestOptions | None = None, stuck_after_s: float = 20) -> RestBackend:
    """A backend that nobody has called yet."""
    return RestBackend(location(server.port), options or RestOptions(), stuck_after_s=stuck_after_s)


@contextmanager
def created_on(server: RestServer, *, stuck_after_s: float = 20) -> Iterator[RestBackend]:
    """A backend on which `create` was called; what was asked until then is forgotten."""
    backend = backend_on(server, stuck_after_s=stuck_after_s)
    backend.create()
    server.requests.clear()
    try:
        yield backend
    finally:
        backend.close()


def calls(backend: Backend, name: str) -> dict[str, Callable[[], object]]:
    """A call of each kind on a pack, by the method it makes a request with."""
    return {
        "GET": lambda: backend.load(ObjectKind.PACK, name),
        "HEAD": lambda: backend.size(ObjectKind.PACK, name),
        "POST": lambda: backend.save(ObjectKind.PACK, blake3(b"new").hexdigest(), b"new"),
        "DELETE": lambda: backend.delete(ObjectKind.PACK, name),
    }
