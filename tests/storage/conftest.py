from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.buckets import BUCKET, RCLONE_KEYS, key_variables


@pytest.fixture
def s3_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keys for buckets in the environment, and nothing of AWS's own settings on this machine."""
    for name, value in key_variables(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """moto's server, with a bucket. No slash at the end."""
    from tests.support import moto_server

    with moto_server.serve() as server:
        server.client().create_bucket(Bucket=BUCKET)
        yield server.url


@pytest.fixture(scope="session")
def rclone_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """rclone's server, with a bucket. No slash at the end."""
    from tests.support import rclone

    root = tmp_path_factory.mktemp("rclone")
    (root / BUCKET).mkdir()
    with rclone.serve("s3", root, environment=RCLONE_KEYS) as server:
        yield server.url.rstrip("/")
