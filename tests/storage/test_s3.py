"""S3, against two servers that have nothing in common: the conformance suite, and what is special about S3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from bfrepo.core.errors import StorageError, StorageObjectExists
from bfrepo.storage import s3
from bfrepo.storage.base import Backend
from bfrepo.storage.location import S3Location
from bfrepo.storage.options import S3Options
from bfrepo.storage.retry import RetryingBackend, RetryPolicy
from bfrepo.storage.s3 import S3Backend
from bfrepo.storage.s3_client import make_client
from tests.storage.conformance import CONFIG, BackendConformance, Place, run_at_once
from tests.support import moto_server, rclone
from tests.support.moto_server import Moto

KEY: Final = "AKIAEXAMPLEOFTESTS"
SECRET: Final = "this/is+the/secret+key/of/tests"
BUCKET: Final = "bucket"
PLAIN: Final = S3Options()

numbers = count()


@cache
def _client_for(location: S3Location, options: S3Options) -> Any:
    return make_client(location, options)


def client_for(location: S3Location, options: S3Options = PLAIN) -> Any:
    """The one client for a bucket: to make one takes botocore as long as a test takes here."""
    return _client_for(replace(location, prefix=""), options)


def new_location(url: str) -> S3Location:
    """A place in the bucket that nobody has used."""
    return S3Location(url, BUCKET, f"tests/{next(numbers)}")


def patient(backend: Backend) -> Backend:
    """The backend as programs use it."""
    return RetryingBackend(backend, RetryPolicy())


def new_place(url: str) -> Place:
    """The same for the conformance suite."""
    location = new_location(url)

    def plant(path: str, data: bytes) -> None:
        client_for(location).put_object(Bucket=BUCKET, Key=f"{location.prefix}/{path}", Body=data)

    return Place(open=lambda: S3Backend(location, PLAIN), plant=plant)


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keys in the environment, and nothing of AWS's own settings on this machine."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "aws-credentials"),
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    """moto's server, with a bucket."""
    with moto_server.serve() as server:
        server.client().create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture(scope="module")
def rclone_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """rclone's server, with a bucket, without a slash at the end of its URL."""
    root = tmp_path_factory.mktemp("rclone")
    (root / BUCKET).mkdir()
    with rclone.serve("s3", root, environment={"RCLONE_AUTH_KEY": f'"{KEY},{SECRET}"'}) as server:
        yield server.url.rstrip("/")


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
    def place(self, moto: Moto) -> Place:
        return new_place(moto.url)

    @pytest.mark.slow
    def test_large_upload(self, backend: Backend) -> None:
        super().test_large_upload(backend)

    @pytest.mark.slow
    def test_threads_read_while_others_write(self, backend: Backend) -> None:
        super().test_threads_read_while_others_write(backend)


@pytest.mark.usefixtures("one_client")
class TestRclone(S3Conformance):
    @pytest.fixture
    def place(self, rclone_url: str) -> Place:
        return new_place(rclone_url)

    def test_one_of_many_configs_wins(self, backend: Backend, place: Place) -> None:
        """rclone does not know conditional PUTs: of configs saved at the same moment more than one may seem to win.

        What stays is whole and that of one of them, and nobody wins later.
        """
        contents = [bytes([number]) * 1000 for number in range(8)]
        results = run_at_once([partial(backend.save, CONFIG, "config", data) for data in contents])
        assert all(result is None or isinstance(result, StorageError) for result in results)
        winners = [data for data, result in zip(contents, results, strict=True) if result is None]
        kept = backend.load(CONFIG, "config")
        assert kept in winners
        with pytest.raises(StorageObjectExists):
            backend.save(CONFIG, "config", b"later")
        assert backend.load(CONFIG, "config") == kept
