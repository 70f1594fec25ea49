"""The conformance suite for S3, against two servers that have nothing in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial

import pytest

from bfrepo.core.errors import StorageError, StorageObjectExists, StorageObjectMissing
from bfrepo.storage import s3
from bfrepo.storage.base import Backend
from bfrepo.storage.options import S3Options
from bfrepo.storage.retry import RetryingBackend, RetryPolicy
from bfrepo.storage.s3 import S3Backend
from tests.storage.conformance import CONFIG, PACK, BackendConformance, Place, run_at_once, stored
from tests.support import moto_server
from tests.support.buckets import BUCKET, PLAIN, client_for, new_location, put

pytestmark = pytest.mark.usefixtures("s3_keys")


def patient(backend: Backend) -> Backend:
    """The backend as programs use it."""
    return RetryingBackend(backend, RetryPolicy())


def new_place(url: str) -> Place:
    """An empty place in the bucket."""
    location = new_location(url)
    return Place(open=lambda: S3Backend(location, PLAIN), plant=partial(put, location))


@pytest.fixture
def one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """All backends of a test share a client."""
    monkeypatch.setattr(s3, "make_client", client_for)


class S3Conformance(BackendConformance):
    """Both servers answer 500 now and then when requests for one object meet, so those tests have the usual retries."""

    def test_the_same_object_from_many_writers(self, backend: Backend, place: Place) -> None:
        super().test_the_same_object_from_many_writers(patient(backend), Place(lambda: patient(place.open())))

    def test_threads_read_while_others_write(self, backend: Backend) -> None:
        super().test_threads_read_while_others_write(patient(backend))


@pytest.mark.usefixtures("one_client")
class TestMoto(S3Conformance):
    @pytest.fixture
    def place(self, moto_url: str) -> Place:
        return new_place(moto_url)

    @pytest.fixture
    def denied(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
        """A server of its own, because one that was told to ask for keys does so for ever."""
        with moto_server.serve() as moto:
            moto.client().create_bucket(Bucket=BUCKET)
            location = new_location(moto.url)
            key, secret = moto.user({"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"})
            with closing(S3Backend(location, PLAIN)) as backend:
                stored(backend, PACK, b"kept")
            moto.enforce()
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
            with closing(S3Backend(location, S3Options(connections=1))) as backend:  # no client is made for that yet
                yield backend

    @pytest.mark.slow
    def test_large_upload(self, backend: Backend) -> None:
        super().test_large_upload(backend)

    @pytest.mark.slow
    def test_threads_read_while_others_write(self, backend: Backend) -> None:
        super().test_threads_read_while_others_write(backend)


@pytest.mark.usefixtures("one_client")
class TestRclone(S3Conformance):
    replaces_at_once = False  # it removes an object when one of two PUTs of it at the same moment fails

    @pytest.fixture
    def place(self, rclone_url: str) -> Place:
        return new_place(rclone_url)

    def test_one_of_many_configs_wins(self, backend: Backend, place: Place) -> None:
        """rclone does not know conditional PUTs: of configs saved at the same moment more than one may seem to win.

        What stays is whole and that of one of them, and nobody wins later. Where rclone fails with one of the PUTs, it
        removes what the others have written: then there is none, and somebody heard of an error.
        """
        contents = [bytes([number]) * 1000 for number in range(8)]
        results = run_at_once([partial(backend.save, CONFIG, "config", data) for data in contents])
        assert all(result is None or isinstance(result, StorageError) for result in results)
        winners = [data for data, result in zip(contents, results, strict=True) if result is None]
        if any(result is not None and not isinstance(result, StorageObjectExists) for result in results):
            try:
                backend.load(CONFIG, "config")
            except StorageObjectMissing:
                backend.save(CONFIG, "config", b"again")
                winners = [b"again"]
        kept = backend.load(CONFIG, "config")
        assert kept in winners
        with pytest.raises(StorageObjectExists):
            backend.save(CONFIG, "config", b"later")
        assert backend.load(CONFIG, "config") == kept
