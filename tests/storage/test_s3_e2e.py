"""Life with repositories in S3: the commands, kill -9 and many clients at once, on `rclone serve s3`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import rclone
from tests.support.buckets import KEY, RCLONE_KEYS, SECRET
from tests.support.remote import Remote, RemoteSuite


class TestS3(RemoteSuite):
    @pytest.fixture
    def remote(self, tmp_path: Path) -> Iterator[Remote]:
        """rclone, serving a folder with a bucket."""
        root = tmp_path / "served"
        (root / "bucket").mkdir(parents=True)
        with rclone.serve("s3", root, environment=RCLONE_KEYS) as server:
            environment = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
            yield Remote(f"s3:{server.url}bucket", environment, secrets=(SECRET,))
