"""Repositories on a REST server, in everyday life and when things go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rclone import serve
from tests.support.remote import Remote, RemoteSuite

USER, WORD = "keeper", "tests-only-password"


class TestRclone(RemoteSuite):
    """On `rclone serve restic`, told to remember nothing: what it remembers of an upload under way is wrong later."""

    @pytest.fixture
    def remote(self, tmp_path: Path) -> Iterator[Remote]:
        variables = {"RCLONE_USER": USER, "RCLONE_PASS": WORD}
        with serve("restic", tmp_path / "served", "--cache-objects=false", environment=variables) as server:
            yield Remote(f"rest:http://{USER}:{WORD}@127.0.0.1:{server.port}", secrets=(WORD,))
