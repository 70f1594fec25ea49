"""Packs in the archives of S3, against moto, which archives and restores like Glacier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bfrepo.core.errors import StorageError, StorageObjectArchived, StorageObjectMissing
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.location import S3Location
from bfrepo.storage.options import S3Options, StorageOptions, parse_options
from bfrepo.storage.s3 import S3Backend
from bfrepo.storage.warming import Warmth, archive_of
from tests.storage.conformance import PACK, name_of, names, stored
from tests.support import moto_server
from tests.support.moto_server import Moto

BUCKET = "archive"
GLACIER = S3Options(storage_class="GLACIER")


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keys in the environment, and nothing of AWS's own settings on this machine."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLEOFTESTS",
        "AWS_SECRET_ACCESS_KEY": "this/is+the/secret+key/of/tests",
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


@pytest.fixture
def location(moto: Moto, request: pytest.FixtureRequest) -> S3Location:
    """A place in the bucket for each test."""
    moto.restores_take(looks=2)
    return S3Location(moto.url, BUCKET, name_of(request.node.nodeid.encode())[:12])


@pytest.fixture
def backend(location: S3Location) -> Iterator[S3Backend]:
    """With GLACIER for file data."""
    with closing(S3Backend(location, GLACIER)) as backend:
        backend.create()
        yield backend


def archived(backend: S3Backend, data: bytes) -> str:
    """A pack of file data; its name."""
    upload = backend.upload(PACK, cold=True)
    upload.write(data)
    upload.commit(name_of(data))
    return name_of(data)


def looked_at(backend: S3Backend, name: str) -> list[Warmth]:
    """How warm a pack is, until it is ready."""
    found = [backend.archive.warmth(name)]
    while found[-1] is Warmth.WARMING:
        found.append(backend.archive.warmth(name))
        assert len(found) < 20
    return found


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
def test_from_cold_to_ready(location: S3Location, storage_class: str) -> None:
    """A pack of file data is cold, then on its way, then it can be read; everything else can always be read."""
    with closing(S3Backend(location, replace(GLACIER, storage_class=storage_class))) as backend:
        backend.create()
        assert not backend.archive.holds_any()
        tree, data = stored(backend, PACK, b"a tree"), archived(backend, b"file data")
        assert backend.archive.holds_any()
        assert backend.archive.warmth(tree) is Warmth.READY
        assert backend.load(PACK, tree) == b"a tree"
        assert looked_at(backend, data) == [Warmth.COLD]
        with pytest.raises(StorageObjectArchived):
            backend.load(PACK, data)
        with pytest.raises(StorageObjectArchived):
            backend.read(PACK, data, 0, 4)
        backend.archive.request(data)
        found = looked_at(backend, data)
        assert (found[0], found[-1]) == (Warmth.WARMING, Warmth.READY)
        assert backend.load(PACK, data) == b"file data"
        assert backend.size(PACK, data) == 9
        assert names(backend, PACK) == {tree, data}


def test_a_listing_shows_it(backend: S3Backend) -> None:
    """Who has listed packs need not ask whether some are archived; the next time it is looked at anew."""
    data = archived(backend, b"file data")
    assert names(backend, PACK) == {data}
    backend.delete(PACK, data)
    assert backend.archive.holds_any(), "as the listing showed"
    assert not backend.archive.holds_any(), "as it is now"


def test_asking_twice_is_harmless(backend: S3Backend) -> None:
    """What is asked for already, at hand, or in no archive can be asked for."""
    data, tree = archived(backend, b"file data"), stored(backend, PACK, b"a tree")
    backend.archive.request(data)
    backend.archive.request(data)
    looked_at(backend, data)
    backend.archive.request(data)
    backend.archive.request(tree)


def test_packs_that_are_not_there(backend: S3Backend) -> None:
    """A pack that is gone is missing, whatever is asked of it."""
    nobody = name_of(b"nobody wrote this")
    with pytest.raises(StorageObjectMissing):
        backend.archive.warmth(nobody)
    with pytest.raises(StorageObjectMissing):
        backend.archive.request(nobody)


def test_no_bucket(moto: Moto) -> None:
    """A storage that is gone altogether is an error, and nobody takes it for one without an archive."""
    with (
        closing(S3Backend(S3Location(moto.url, "nowhere", "x"), GLACIER)) as backend,
        pytest.raises(StorageError, match="nowhere"),
    ):
        backend.archive.holds_any()


class _Client:
    """Answers as AWS does where moto does not go along, and keeps what was asked for."""

    class exceptions:  # noqa: N801 - named by botocore
        ClientError = KeyError

    def __init__(self, **head: object) -> None:
        self._head = head
        self.asked: list[Any] = []

    def head_object(self, **_: object) -> dict[str, object]:
        return self._head

    def restore_object(self, *, RestoreRequest: Any, **_: object) -> None:  # noqa: N803 - as above
        self.asked.append(RestoreRequest)


def archive_on(client: _Client, options: S3Options) -> Any:
    """The archive of a bucket behind this client."""
    from bfrepo.storage.s3_restore import S3Archive

    return S3Archive(client, BUCKET, "packs/", lambda kind, name: f"{kind.value}/{name}", "s3:somewhere", options)


def test_what_is_asked_for() -> None:
    """The request has the days and the tier that the options say."""
    options = parse_options(["s3.restore-days=3", "s3.restore-tier=Bulk"])
    assert isinstance(options, StorageOptions)
    client = _Client(StorageClass="GLACIER")
    archive = archive_on(client, options.s3)
    assert archive.warmth("ab" * 32) is Warmth.COLD
    archive.request("ab" * 32)
    assert client.asked == [{"Days": 3, "GlacierJobParameters": {"Tier": "Bulk"}}]


def test_intelligent_tiering() -> None:
    """What S3 itself has moved to an archive is cold, and comes back for good: then no days may be said."""
    client = _Client(StorageClass="INTELLIGENT_TIERING", ArchiveStatus="ARCHIVE_ACCESS")
    archive = archive_on(client, S3Options())
    assert archive.warmth("ab" * 32) is Warmth.COLD
    archive.request("ab" * 32)
    assert client.asked == [{"GlacierJobParameters": {"Tier": "Standard"}}]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ({}, Warmth.READY),
        ({"StorageClass": "GLACIER_IR"}, Warmth.READY),
        ({"StorageClass": "INTELLIGENT_TIERING"}, Warmth.READY),
        ({"StorageClass": "INTELLIGENT_TIERING", "ArchiveStatus": "DEEP_ARCHIVE_ACCESS"}, Warmth.COLD),
        ({"StorageClass": "DEEP_ARCHIVE", "Restore": 'ongoing-request="true"'}, Warmth.WARMING),
        (
            {
                "StorageClass": "INTELLIGENT_TIERING",
                "ArchiveStatus": "ARCHIVE_ACCESS",
                "Restore": 'ongoing-request="true"',
            },
            Warmth.WARMING,
        ),
        (
            {
                "StorageClass": "GLACIER",
                "Restore": 'ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"',
            },
            Warmth.READY,
        ),
    ],
)
def test_what_heads_say(head: dict[str, object], expected: Warmth) -> None:
    """The headers of AWS are understood."""
    assert archive_on(_Client(**head), S3Options()).warmth("ab" * 32) is expected


def test_it_is_found_behind_wrappers(location: S3Location) -> None:
    """The storage as a command opens it, with retries around it, still has its archive."""
    from bfrepo.storage.location import open_backend

    with closing(open_backend(location, options=StorageOptions(s3=GLACIER))) as wrapped:
        wrapped.create()
        upload = wrapped.upload(ObjectKind.PACK, cold=True)
        upload.write(b"file data")
        upload.commit(name_of(b"file data"))
        archive = archive_of(wrapped)
        assert archive is not None
        assert archive.holds_any()
        assert archive.warmth(name_of(b"file data")) is Warmth.COLD
