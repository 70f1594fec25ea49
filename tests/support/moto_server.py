"""moto as a second implementation of S3, in a process of its own: `serve()` gives its URL.

It checks no keys unless told to: with `enforce` it asks for those of users that IAM has, and holds them to policies.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

_TIME_LIMIT_S: Final = 30.0

_numbers = count()

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

    def enforce(self) -> None:
        """From now on keys have to be those of a user, and their policies count."""
        self._post("/moto-api/reset-auth", b"0", content="text/plain")

    def user(self, *statements: object) -> tuple[str, str]:
        """The keys of a new user to whom a policy of these statements applies."""
        iam = self.client("iam")
        name = f"user-{next(_numbers)}"
        iam.create_user(UserName=name)
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        iam.put_user_policy(UserName=name, PolicyName="policy", PolicyDocument=policy)
        keys = iam.create_access_key(UserName=name)["AccessKey"]
        return keys["AccessKeyId"], keys["SecretAccessKey"]

    def restores_take(self, *, looks: int) -> None:
        """What is asked for comes back from the archive when it was looked at so often.

        moto counts all looks at an object. It takes one that was looked at less often than this before it is asked for
        as back at once, and any other as on its way until it was looked at as often again.
        """
        transition = {"progression": "manual", "times": looks}
        body = json.dumps({"model_name": "s3::keyrestore", "transition": transition})
        self._post("/moto-api/state-manager/set-transition", body.encode(), content="application/json")

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

    def _post(self, path: str, data: bytes, *, content: str) -> None:
        request = urllib.request.Request(self.url + path, data, {"Content-Type": content})
        with urllib.request.urlopen(request, timeout=_TIME_LIMIT_S) as answer:
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
