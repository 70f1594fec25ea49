"""moto as a second implementation of S3, in a process of its own: `serve()` gives its URL.

It checks no keys unless told to: with `enforce` it asks for those of users that IAM has, and holds them to policies.
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

_TIME_LIMIT_S: Final = 30.0

_PROGRAM: Final = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("%s:%d" % server.get_host_and_port(), flush=True)
sys.stdin.read()
server.stop()
"""


@dataclass(frozen=True)
class Moto:
    """A running server; its URL has no slash at its end."""

    url: str

    def reset(self) -> None:
        """Forget everything."""
        self._post("/moto-api/reset")

    def enforce(self, after: int) -> None:
        """From the request after so many on, keys have to be those of a user, whose policies count."""
        self._post("/moto-api/reset-auth", str(after).encode())

    def client(self, service: str = "s3", *, key: str = "anybody", secret: str = "anything") -> Any:
        """A client of botocore for whatever a test has to arrange."""
        import botocore.session

        return botocore.session.Session().create_client(
            service,
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )

    def _post(self, path: str, data: bytes = b"") -> None:
        with urllib.request.urlopen(self.url + path, data=data, timeout=_TIME_LIMIT_S) as answer:
            answer.read()


@contextmanager
def serve() -> Iterator[Moto]:
    """A server for the time of the block."""
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().decode().strip()
            assert address, "moto did not start"
            moto = Moto(f"http://{address}")
            _wait_for(moto.url)
            yield moto
        finally:
            process.kill()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + _TIME_LIMIT_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=1) as answer:
                answer.read()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
