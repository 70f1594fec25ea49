"""Life with repositories on a REST server: the commands, kill -9 and many clients at once, on `rclone serve restic`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import rclone
from tests.support.remote import Remote, RemoteSuite
from tests.support.rest_places import AS_SERVER, USER, WORD


class TestRest(RemoteSuite):
    @pytest.fixture
    def remote(self, tmp_path: Path) -> Iterator[Remote]:
        """rclone, which replaces what is there, in place."""
        (tmp_path / "served").mkdir()
        with rclone.serve("restic", tmp_path / "served", environment=AS_SERVER) as server:
            yield Remote(f"rest:http://{USER}:{WORD}@127.0.0.1:{server.port}", secrets=(WORD,))
