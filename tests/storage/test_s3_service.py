"""What is special about S3: many keys, large objects, classes, locks, encryption, archives of nobody's asking."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bfrepo.core.errors import (
    InvalidValue,
    RepositoryExists,
    StorageDenied,
    StorageError,
    StorageObjectArchived,
)
from bfrepo.storage import s3, s3_transfer
from bfrepo.storage.abilities import delete_limit, delete_many, extend_lock, locks
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.layout import object_path
from bfrepo.storage.location import S3Location
from bfrepo.storage.options import S3Options
from bfrepo.storage.s3 import S3Backend
from bfrepo.storage.s3_errors import BucketMissing
from tests.storage.conformance import CONFIG, MIB, PACK, name_of, names, stored
from tests.support import rclone
from tests.support.buckets import BUCKET, KEY, PLAIN, RCLONE_KEYS, SECRET, client_for, head, new_location, put
from tests.support.repositories import START, FakeClock

pytestmark = pytest.mark.usefixtures("s3_keys")

LOCKED = S3Options(object_lock_mode="governance", object_lock_days=30)


@pytest.fixture(params=["moto", "rclone"])
def location(request: pytest.FixtureRequest) -> S3Location:
    """A place on each of the two servers."""
    return new_location(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def backend(location: S3Location, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Backend]:
    """An empty repository there, with a client that others have used."""
    monkeypatch.setattr(s3, "make_client", client_for)
    with closing(S3Backend(location, PLAIN)) as backend:
        backend.create()
        yield backend


def upload(backend: Backend, data: bytes, *, cold: bool = False) -> str:
    """Upload a pack, as a backup does."""
    upload = backend.upload(PACK, cold=cold)
    try:
        for start in range(0, len(data), MIB):
            upload.write(data[start : start + MIB])
        upload.commit(name_of(data))
    finally:
        upload.abort()
    return name_of(data)


def unfinished(location: S3Location) -> list[Any]:
    """Uploads in parts that were neither completed nor aborted."""
    answer = client_for(location).list_multipart_uploads(Bucket=location.bucket)
    return [each for each in answer.get("Uploads", ()) if each["Key"].startswith(location.prefix)]


# --- many keys


def test_more_keys_than_a_page_has(tmp_path: Path) -> None:
    """A listing goes on after the first thousand keys, and packs are deleted a thousand at a time."""
    expected = {name_of(b"%d" % number) for number in range(2_100)}
    for name in expected:
        path = tmp_path / BUCKET / "x" / object_path(PACK, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    with (
        rclone.serve("s3", tmp_path, environment=RCLONE_KEYS) as server,
        closing(S3Backend(S3Location(server.url, BUCKET, "x"), PLAIN)) as backend,
    ):
        assert names(backend, PACK) == expected
        gone = sorted(expected)[: delete_limit(backend)]
        delete_many(backend, PACK, gone)
        assert names(backend, PACK) == expected - set(gone)
        assert len(gone) == 1000


def test_deleting_many(backend: S3Backend) -> None:
    """Of many that are deleted with one request some may be gone already; no name is as good as none."""
    kept, *gone = [stored(backend, PACK, b"%d" % number) for number in range(5)]
    delete_many(backend, PACK, [])
    delete_many(backend, PACK, [*gone, name_of(b"never there")])
    delete_many(backend, PACK, gone)
    assert names(backend, PACK) == {kept}
    with pytest.raises(ValueError, match="name"):
        delete_many(backend, PACK, ["no name"])


# --- large objects


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of more than 6 MiB go in parts, as small as S3 allows."""
    monkeypatch.setattr(s3_transfer, "_ONE_REQUEST", 6 * MIB)
    monkeypatch.setattr(s3_transfer, "_PART", 5 * MIB)


DATA = b"".join(number.to_bytes(4, "little") * 1024 for number in range(17 * 256 + 1))
"""17 MiB and 4 KiB, no two stretches of which are the same."""


@pytest.mark.usefixtures("small_parts")
def test_in_parts(backend: S3Backend, location: S3Location) -> None:
    """A large pack goes in parts, of which nothing is left but the pack."""
    name = upload(backend, DATA)
    assert backend.size(PACK, name) == len(DATA)
    assert backend.load(PACK, name) == DATA
    assert unfinished(location) == []


@pytest.mark.usefixtures("small_parts")
def test_a_part_that_fails(backend: S3Backend, location: S3Location, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a part fails nothing is left of the others, and the commit may be made again."""
    send, failures = backend._client.upload_part, [ConnectionResetError("cut")]

    def upload_part(**arguments: Any) -> Any:
        if arguments["PartNumber"] == 2 and failures:
            raise failures.pop()
        return send(**arguments)

    monkeypatch.setattr(backend._client, "upload_part", upload_part)
    upload = backend.upload(PACK)
    upload.write(DATA)
    with pytest.raises(StorageError, match=name_of(DATA)[:8]):
        upload.commit(name_of(DATA))
    assert unfinished(location) == []
    assert names(backend, PACK) == set()
    upload.commit(name_of(DATA))
    assert backend.load(PACK, name_of(DATA)) == DATA


@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1, 3 * MIB])
def test_sizes_around_the_bounds(backend: S3Backend, size: int) -> None:
    """Objects in memory, in a file, and at the bound between them arrive as they are."""
    data = DATA[:size]
    assert backend.load(PACK, upload(backend, data)) == data


def test_no_room_for_temporary_files(rclone_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where packs cannot wait on this machine the error names the place, and how to choose another."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with closing(S3Backend(new_location(rclone_url), PLAIN)) as backend:
        upload = backend.upload(PACK)
        with pytest.raises(StorageError, match="nowhere") as caught:
            upload.write(DATA)
        upload.abort()
    assert "TMPDIR" in str(caught.value.hint)


# --- what options say of objects


def test_class_of_data_packs_alone(moto_url: str) -> None:
    """The storage class is for packs that may be cold: whatever else there is stays at hand."""
    location = new_location(moto_url)
    with closing(S3Backend(location, S3Options(storage_class="STANDARD_IA"))) as backend:
        backend.save(CONFIG, "config", b"config")
        cold, hot = upload(backend, b"data", cold=True), upload(backend, b"trees")
        index = stored(backend, ObjectKind.INDEX, b"index")
    classes = {
        path: head(location, path).get("StorageClass", "STANDARD")
        for path in ("config", object_path(PACK, cold), object_path(PACK, hot), object_path(ObjectKind.INDEX, index))
    }
    assert [path for path, each in classes.items() if each != "STANDARD"] == [object_path(PACK, cold)]
    assert classes[object_path(PACK, cold)] == "STANDARD_IA"


@pytest.mark.usefixtures("small_parts")
def test_encryption_by_the_server(moto_url: str) -> None:
    """Every object asks for the encryption that the options name, in parts or whole."""
    location = new_location(moto_url)
    options = S3Options(sse="aws:kms", sse_kms_key_id="a-key")
    with closing(S3Backend(location, options)) as backend:
        backend.save(CONFIG, "config", b"config")
        packs = [upload(backend, data) for data in (b"small", DATA)]
    for path in ("config", *(object_path(PACK, name) for name in packs)):
        found = head(location, path)
        assert (found["ServerSideEncryption"], found["SSEKMSKeyId"]) == ("aws:kms", "a-key")


def test_an_archived_object(moto_url: str) -> None:
    """An object that went to an archive says so, and is neither missing nor forbidden."""
    location = new_location(moto_url)
    with closing(S3Backend(location, S3Options(storage_class="GLACIER"))) as backend:
        name = upload(backend, b"frozen", cold=True)
        with pytest.raises(StorageObjectArchived, match=name[:8]):
            backend.read(PACK, name, 0, 3)


# --- locks


@pytest.fixture
def vault(moto_url: str) -> S3Location:
    """A place in a bucket that can lock objects."""
    location = new_location(moto_url, "vault")
    client = client_for(location)
    if "vault" not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket="vault", ObjectLockEnabledForBucket=True)
    return location


def locked_until(location: S3Location, path: str) -> datetime | None:
    """When the lock of an object ends."""
    found = head(location, path)
    assert found.get("ObjectLockMode", "GOVERNANCE") == "GOVERNANCE"
    until = found.get("ObjectLockRetainUntilDate")
    return until.astimezone(UTC) if until is not None else None


def test_locked_objects(vault: S3Location) -> None:
    """All that is needed to read packs is locked for so many days, but no claims; a deletion only hides it."""
    clock = FakeClock(START + timedelta(days=10_000))  # moto knows what time it is, and takes no date in the past
    with closing(S3Backend(vault, LOCKED, clock=clock)) as backend:
        assert locks(backend)
        backend.create()
        backend.save(CONFIG, "config", b"config")
        packs = [upload(backend, data) for data in (b"small", DATA)]
        paths = ["config", *(object_path(PACK, name) for name in packs)]
        paths += [
            object_path(kind, stored(backend, kind, b"x"))
            for kind in (ObjectKind.KEY, ObjectKind.INDEX, ObjectKind.SNAPSHOT)
        ]
        claim = object_path(ObjectKind.CLAIM, stored(backend, ObjectKind.CLAIM, b"x"))
        until = clock.now() + timedelta(days=30)
        assert [locked_until(vault, path) for path in paths] == [until] * len(paths)
        assert locked_until(vault, claim) is None

        delete_many(backend, PACK, packs[:1])
        backend.delete(PACK, packs[1])
        assert names(backend, PACK) == set()
        versions = client_for(vault).list_object_versions(Bucket="vault", Prefix=f"{vault.prefix}/packs/")["Versions"]
        assert sorted(each["Size"] for each in versions) == [5, len(DATA)]


def test_extending_a_lock(vault: S3Location) -> None:
    """A lock begins anew when it is extended; claims have none."""
    clock = FakeClock(START + timedelta(days=10_000))
    with closing(S3Backend(vault, LOCKED, clock=clock)) as backend:
        name = stored(backend, PACK, b"x")
        claim = stored(backend, ObjectKind.CLAIM, b"x")
        clock.advance(20 * 24 * 3600)
        extend_lock(backend, PACK, name)
        extend_lock(backend, ObjectKind.CLAIM, claim)
    assert locked_until(vault, object_path(PACK, name)) == clock.now() + timedelta(days=30)
    assert locked_until(vault, object_path(ObjectKind.CLAIM, claim)) is None


def test_without_locks(moto_url: str) -> None:
    """Nothing is locked unless it is wanted, and nothing asked for when a lock is to be extended."""
    location = new_location(moto_url)
    with closing(S3Backend(location, PLAIN)) as backend:
        assert not locks(backend)
        extend_lock(backend, PACK, name_of(b"never there"))
        path = object_path(PACK, stored(backend, PACK, b"x"))
    assert locked_until(location, path) is None


@pytest.mark.parametrize(
    "options",
    [
        S3Options(object_lock_mode="governance"),
        S3Options(object_lock_days=3),
        S3Options(object_lock_mode="for ever", object_lock_days=3),
    ],
)
def test_half_a_lock(options: S3Options) -> None:
    """A mode without days, days without a mode, and a mode that there is none of are refused."""
    with pytest.raises(InvalidValue, match="mode and a number of days") as caught:
        S3Backend(new_location("http://127.0.0.1:1"), options)
    assert "s3.object-lock-days" in str(caught.value.hint)


# --- the place


def test_a_folder_that_a_console_made(moto_url: str) -> None:
    """The mark of an empty folder is nothing; a repository is made there, and not beside anything else."""
    location = new_location(moto_url)
    put(location, "", b"")
    with closing(S3Backend(location, PLAIN)) as backend:
        backend.create()
        put(location, "a", b"x")
        with pytest.raises(RepositoryExists):
            backend.create()


def test_neighbours_with_longer_names(moto_url: str) -> None:
    """A prefix is a folder: what begins with the same letters is not in it."""
    location = new_location(moto_url)
    put(S3Location(location.endpoint, BUCKET, f"{location.prefix}-other"), "config", b"x")
    with closing(S3Backend(location, PLAIN)) as backend:
        backend.create()
        assert names(backend, CONFIG) == set()


def test_a_whole_bucket(moto_url: str) -> None:
    """A repository may have a bucket for itself, without a prefix."""
    client_for(S3Location(moto_url, "alone", "")).create_bucket(Bucket="alone")
    with closing(S3Backend(S3Location(moto_url, "alone", ""), PLAIN)) as backend:
        backend.create()
        name = stored(backend, PACK, b"x")
        assert names(backend, PACK) == {name}
        with pytest.raises(RepositoryExists):
            backend.create()


def test_no_bucket(rclone_url: str, moto_url: str) -> None:
    """A bucket that is not there is a storage that refuses, never an empty one nor a missing object."""
    for url in (rclone_url, moto_url):
        with closing(S3Backend(S3Location(url, "nowhere", "x"), PLAIN)) as backend:
            for call in (
                backend.create,
                lambda backend=backend: list(backend.list(PACK)),
                lambda backend=backend: backend.load(CONFIG, "config"),
                lambda backend=backend: backend.size(CONFIG, "config"),
                lambda backend=backend: backend.save(PACK, name_of(b"x"), b"x"),
                lambda backend=backend: backend.save(CONFIG, "config", b"x"),
            ):
                with pytest.raises(BucketMissing, match="NoSuchBucket") as caught:
                    call()
                assert "make the bucket first" in str(caught.value.hint)


# --- keys


@pytest.mark.parametrize(("key", "secret"), [(KEY, "a wrong one"), ("AKIAUNKNOWN", SECRET)])
def test_wrong_keys(rclone_url: str, monkeypatch: pytest.MonkeyPatch, key: str, secret: str) -> None:
    """Keys that the server does not take are a refusal, which says where keys come from and tells none."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with closing(S3Backend(new_location(rclone_url), PLAIN)) as backend:
        for call in (backend.create, lambda: backend.size(CONFIG, "config"), lambda: list(backend.list(PACK))):
            with pytest.raises(StorageDenied) as caught:
                call()
            assert "AWS_ACCESS_KEY_ID" in str(caught.value.hint)
            assert secret not in f"{caught.value}{caught.value.hint}{backend!r}"


def test_no_keys(rclone_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any keys nothing is sent, and the error says where they are looked for."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with (
        closing(S3Backend(new_location(rclone_url), PLAIN)) as backend,
        pytest.raises(StorageDenied, match="no access keys") as caught,
    ):
        backend.create()
    assert "AWS_ACCESS_KEY_ID" in str(caught.value.hint)


def test_half_the_keys(rclone_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One key of two is as good as none."""
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageDenied), closing(S3Backend(new_location(rclone_url), PLAIN)) as backend:
        backend.create()


def test_keys_of_a_profile(rclone_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A profile of AWS's own files has keys, and another one has none."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "aws-credentials").write_text(f"[tests]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    with closing(S3Backend(new_location(rclone_url), S3Options(profile="tests"))) as backend:
        backend.create()
    with pytest.raises(InvalidValue, match="'others'"):
        S3Backend(new_location(rclone_url), S3Options(profile="others"))
