"""S3 over a line that is cut, and over one that changes bytes: errors that pass, and nothing that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from bfrepo.core.errors import StorageError
from bfrepo.storage.location import S3Location
from bfrepo.storage.retry import RetryingBackend, RetryPolicy
from bfrepo.storage.s3 import S3Backend
from tests.storage.conformance import MIB, PACK, name_of, names, stored
from tests.support.backups import incompressible, run_backup
from tests.support.buckets import BUCKET, PLAIN, new_location
from tests.support.cutting import Line, line_to
from tests.support.repositories import make_repository, reopen
from tests.support.restoring import expected, restored_snapshots
from tests.support.sources import Item

pytestmark = pytest.mark.usefixtures("s3_keys")

DATA = incompressible(1, 3 * MIB)
TREE: dict[str, Item | bytes] = {f"data/{number}": incompressible(number, 300_000) for number in range(12)}


@pytest.fixture
def line(rclone_url: str) -> Iterator[Line]:
    """The way to rclone's server."""
    with line_to(int(rclone_url.rpartition(":")[2])) as line:
        yield line


@pytest.fixture
def backend(line: Line) -> Iterator[S3Backend]:
    """An empty repository behind the line."""
    location = new_location(f"http://127.0.0.1:{line.port}")
    with closing(S3Backend(location, PLAIN)) as backend:
        backend.create()
        yield backend


def test_an_upload_that_is_cut(line: Line, backend: S3Backend) -> None:
    """Of a pack that is cut on its way nothing is seen; when the line is whole again its commit can be made again."""
    upload = backend.upload(PACK)
    upload.write(DATA)
    line.up, line.cuts = MIB, 1
    with pytest.raises(StorageError, match=name_of(DATA)[:8]) as caught:
        upload.commit(name_of(DATA))
    assert type(caught.value) is StorageError
    assert names(backend, PACK) == set()
    upload.commit(name_of(DATA))
    assert backend.load(PACK, name_of(DATA)) == DATA


@pytest.mark.parametrize("passes", [0, 100, MIB])
def test_a_read_that_is_cut(line: Line, backend: S3Backend, passes: int) -> None:
    """An answer that is cut anywhere is a failure and no shorter object, and the next one is whole."""
    name = stored(backend, PACK, DATA)
    backend._client.close()  # the next request takes a new connection, for which the bytes are counted
    buffer = bytearray(len(DATA))
    line.down, line.cuts = passes, 3
    reads: list[Callable[[], object]] = [
        lambda: backend.load(PACK, name),
        lambda: backend.read(PACK, name, 0, len(DATA)),
        lambda: backend.read_into(PACK, name, 0, memoryview(buffer)),
    ]
    for read in reads:
        with pytest.raises(StorageError) as caught:
            read()
        assert type(caught.value) is StorageError
    assert not line.cuts
    backend.read_into(PACK, name, 0, memoryview(buffer))
    assert buffer == DATA


def test_bytes_that_change_on_the_way(rclone_url: str) -> None:
    """A body of which one bit has changed is refused, and nothing of it is stored. (moto does not look.)"""

    def flip(request: Any, **_: object) -> None:
        body = bytearray(request.body if isinstance(request.body, bytes) else request.body.read())
        body[len(body) // 2] ^= 1
        request.body = bytes(body)

    with closing(S3Backend(new_location(rclone_url), PLAIN)) as backend:
        events = backend._client.meta.events
        events.register("before-send.s3.PutObject", flip)
        for size in (1000, 2 * MIB):
            data = DATA[:size]
            with pytest.raises(StorageError) as caught:
                stored(backend, PACK, data)
            assert type(caught.value) is StorageError
            assert names(backend, PACK) == set()
        events.unregister("before-send.s3.PutObject", flip)
        assert backend.load(PACK, stored(backend, PACK, DATA)) == DATA


def test_a_line_that_is_cut_again_and_again(line: Line) -> None:
    """A backup and a restore over a line that keeps being cut complete, and everything is right."""
    location = S3Location(f"http://127.0.0.1:{line.port}", BUCKET, new_location("").prefix)
    policy = RetryPolicy(random=lambda: 0.002)
    with closing(RetryingBackend(S3Backend(location, PLAIN), policy)) as backend:
        make_repository(backend, encryption="none", pack_size=MIB)
        line.up, line.down, line.cuts = 200_000, 100_000, 12
        run_backup(reopen(backend, pack_size=MIB), TREE, workers=2)
        assert line.cuts == 0
        line.cuts = 12
        found = [*restored_snapshots(reopen(backend)).values()]
        assert line.cuts == 0
    assert found == [expected(TREE)]
