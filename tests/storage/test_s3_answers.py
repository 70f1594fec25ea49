"""What servers of S3 can answer, and what is made of it: a server that says whatever a test wants it to."""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from bfrepo.core.errors import (
    DamagedObject,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageObjectArchived,
    StorageObjectExists,
    StorageObjectMissing,
    UsageError,
)
from bfrepo.storage import s3, s3_client, s3_transfer
from bfrepo.storage.abilities import delete_many, extend_lock
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.location import S3Location, parse_location
from bfrepo.storage.options import S3Options
from bfrepo.storage.s3 import S3Backend
from bfrepo.storage.s3_client import make_client
from bfrepo.storage.s3_errors import BucketMissing
from tests.storage.conformance import CONFIG, MIB, PACK, name_of, names
from tests.support import answering
from tests.support.answering import Answer, Answering, Asked, s3_error, s3_listing
from tests.support.buckets import KEY, SECRET, client_for

pytestmark = pytest.mark.usefixtures("s3_keys")

NAME = name_of(b"x")
FINE = Answer(200, headers={"ETag": '"e"'})
CUT = Answer(200, length=-1)
STARTED = Answer(200, b"<Result><UploadId>u</UploadId><ETag>e</ETag></Result>", {"ETag": '"e"'})


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    """The server."""
    with answering.serve() as server:
        yield server


@pytest.fixture
def backend(server: Answering, monkeypatch: pytest.MonkeyPatch) -> S3Backend:
    """A repository on it."""
    monkeypatch.setattr(s3, "make_client", client_for)
    return S3Backend(S3Location(server.url, "bucket", "x"), S3Options())


# --- refusals

REFUSALS = [
    (s3_error(403, "AccessDenied"), StorageDenied),
    (s3_error(403, "InvalidAccessKeyId"), StorageDenied),
    (s3_error(403, "SignatureDoesNotMatch"), StorageDenied),
    (s3_error(403, "RequestTimeTooSkewed"), StorageDenied),
    (s3_error(400, "ExpiredToken"), StorageDenied),
    (s3_error(400, "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu'"), StorageDenied),
    (s3_error(400, "InvalidStorageClass"), StorageDenied),
    (s3_error(405, "MethodNotAllowed"), StorageDenied),
    (s3_error(403, "QuotaExceeded"), StorageFull),
    (s3_error(403, "AccessDenied", "Cannot upload files, storage cap exceeded."), StorageFull),
    (s3_error(507, "XMinioStorageFull"), StorageFull),
    (Answer(507), StorageFull),
    (s3_error(500, "InternalError"), StorageError),
    (s3_error(503, "SlowDown"), StorageError),
    (s3_error(400, "RequestTimeout"), StorageError),
    (s3_error(429, "TooManyRequests"), StorageError),
    (s3_error(400, "BadDigest"), StorageError),
    (s3_error(404, "NoSuchBucket"), BucketMissing),
    (Answer(502, b"<html>proxy</html>"), StorageError),
    (Answer(0), StorageError),
]


@pytest.mark.parametrize(("answer", "expected"), REFUSALS)
def test_refusals(server: Answering, backend: S3Backend, answer: Answer, expected: type[StorageError]) -> None:
    """Every call makes the same of what a server says, names the thing and the place, and asks once."""
    calls: list[tuple[str, Callable[[], object]]] = [
        ("pack", lambda: backend.load(PACK, NAME)),
        ("pack", lambda: backend.read(PACK, NAME, 0, 1)),
        ("pack", lambda: backend.save(PACK, NAME, b"x")),
        ("pack", lambda: backend.delete(PACK, NAME)),
        ("packs", lambda: delete_many(backend, PACK, [NAME])),
        ("packs", lambda: list(backend.list(PACK))),
        ("repository", backend.create),
    ]
    for subject, call in calls:
        server.will(answer)
        with pytest.raises(StorageError) as caught:
            call()
        assert type(caught.value) is expected
        assert subject in str(caught.value)
        assert backend.location in str(caught.value)
        assert SECRET not in f"{caught.value}{caught.value.hint}"
        assert len(server.asked) == 1


def test_what_the_server_said_is_told(server: Answering, backend: S3Backend) -> None:
    """A message has the server's own code and words, the hint what to do about it."""
    server.will(s3_error(400, "AuthorizationHeaderMalformed", "The region 'a' is wrong; expecting 'b'."))
    with pytest.raises(StorageDenied) as caught:
        backend.load(PACK, NAME)
    assert "the region 'a' is wrong; expecting 'b' (AuthorizationHeaderMalformed)" in str(caught.value)
    assert "s3.region" in str(caught.value.hint)


def test_another_region(server: Answering, backend: S3Backend) -> None:
    """A bucket in another region than was thought is asked again as one of that; if it says no to that, it is final."""
    elsewhere = s3_error(301, "PermanentRedirect", **{"x-amz-bucket-region": "eu-west-1"})
    server.will(elsewhere, s3_listing())
    backend.create()
    assert "/eu-west-1/" in server.asked[-1].headers["authorization"]
    server.will(elsewhere)
    with pytest.raises(StorageDenied) as caught:
        backend.create()
    assert "s3.region" in str(caught.value.hint)


def test_retry_after(server: Answering, backend: S3Backend) -> None:
    """How long a server wants to be left alone is passed on to whoever tries again."""
    for wait, expected in (("7", 7.0), ("Wed, 21 Oct 2015 07:28:00 GMT", None)):
        server.will(s3_error(503, "SlowDown", **{"Retry-After": wait}))
        with pytest.raises(StorageError) as caught:
            backend.load(PACK, NAME)
        assert caught.value.retry_after_s == expected


def test_missing(server: Answering, backend: S3Backend) -> None:
    """Only what is read can be missing: to a listing, or to what is written, a 404 is a storage that fails."""
    missing = s3_error(404, "NoSuchKey")
    reads: list[Callable[[], object]] = [lambda: backend.load(PACK, NAME), lambda: backend.read(PACK, NAME, 0, 1)]
    for read in reads:
        server.will(missing)
        with pytest.raises(StorageObjectMissing, match=NAME[:8]):
            read()
    for other in (lambda: backend.save(PACK, NAME, b"x"), lambda: list(backend.list(PACK)), backend.create):
        server.will(missing)
        with pytest.raises(StorageError) as caught:
            other()
        assert type(caught.value) is StorageError


def test_missing_to_a_head(server: Answering, backend: S3Backend) -> None:
    """The answer to a HEAD does not say what is missing: a look at the bucket does."""
    server.will(Answer(404), s3_listing())
    with pytest.raises(StorageObjectMissing):
        backend.size(PACK, NAME)
    server.will(Answer(404), s3_error(404, "NoSuchBucket"))
    with pytest.raises(BucketMissing):
        backend.size(PACK, NAME)


def test_archived(server: Answering, backend: S3Backend) -> None:
    """An archived object is neither missing nor forbidden."""
    server.will(s3_error(403, "InvalidObjectState"))
    with pytest.raises(StorageObjectArchived):
        backend.load(PACK, NAME)


def test_some_that_were_not_deleted(server: Answering, backend: S3Backend) -> None:
    """Of many deletions one that failed is an error that names it; one that was not there is none."""
    key = f"x/packs/{NAME[:2]}/{NAME}"
    for code, expected in (("AccessDenied", StorageDenied), ("InternalError", StorageError)):
        error = f"<Error><Key>{key}</Key><Code>{code}</Code><Message>no</Message></Error>"
        server.will(Answer(200, f"<DeleteResult>{error}</DeleteResult>".encode()))
        with pytest.raises(StorageError, match=NAME[:8]) as caught:
            delete_many(backend, PACK, [NAME])
        assert type(caught.value) is expected
    gone = f"<Error><Key>{key}</Key><Code>NoSuchKey</Code><Message>no</Message></Error>"
    server.will(Answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode()))
    delete_many(backend, PACK, [NAME])


def test_answers_that_say_nothing(server: Answering, backend: S3Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut within its headers, or comes from who answers 200 to everybody, is an error: never an empty listing,
    an empty object, a size, nor something stored or deleted."""
    monkeypatch.setattr(s3_transfer, "_ONE_REQUEST", MIB)

    def in_parts() -> None:
        upload = backend.upload(PACK)
        upload.write(bytes(2 * MIB))
        try:
            upload.commit(NAME)
        finally:
            upload.abort()

    calls: list[Callable[[], object]] = [
        lambda: list(backend.list(PACK)),
        backend.create,
        lambda: backend.load(CONFIG, "config"),
        lambda: backend.size(PACK, NAME),
        lambda: backend.read(PACK, NAME, 0, 1),
        lambda: backend.read(PACK, NAME, 0, 0),
        lambda: backend.save(PACK, NAME, b"x"),
        lambda: backend.save(CONFIG, "config", b"x"),
        lambda: delete_many(backend, PACK, [NAME]),
        in_parts,
    ]
    for call in calls:
        server.will(CUT)
        with pytest.raises(StorageError, match=r"incomplete|connection was closed") as caught:
            call()
        assert type(caught.value) is StorageError
        assert backend.location in str(caught.value)


# --- ranges


def part(body: bytes, told: str, *, length: int | None = None) -> Answer:
    """A part of an object, and what is told of it."""
    return Answer(206, body, {"Content-Range": told}, length)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (part(b"34", "bytes 3-4/10"), None),
        (part(b"34", "bytes 3-4/*"), None),
        (part(b"01", "bytes 0-1/10"), StorageError),
        (part(b"345", "bytes 3-5/10"), StorageError),
        (Answer(200, b"0123456789"), StorageError),
        (Answer(200, b"34"), StorageError),
        (part(b"3", "bytes 3-3/4"), DamagedObject),
        (s3_error(416, "InvalidRange"), DamagedObject),
        (part(b"3", "bytes 3-4/10", length=2), StorageError),
        (part(b"", "bytes 3-4/10", length=2), StorageError),
    ],
)
def test_ranges(server: Answering, backend: S3Backend, answer: Answer, expected: type[Exception] | None) -> None:
    """Exactly the range that was asked for counts: never other bytes, never fewer."""
    buffer = bytearray(2)

    def read_into() -> bytes:
        backend.read_into(PACK, NAME, 3, memoryview(buffer))
        return bytes(buffer)

    reads: list[Callable[[], bytes]] = [lambda: backend.read(PACK, NAME, 3, 2), read_into]
    for read in reads:
        server.will(answer)
        if expected is None:
            assert read() == b"34"
        else:
            with pytest.raises(expected, match=NAME[:8]) as caught:
                read()
            assert type(caught.value) is expected
        assert server.asked[0].headers["range"] == "bytes=3-4"


def test_a_range_from_the_beginning(server: Answering, backend: S3Backend) -> None:
    """All of an object may come without a word of a range, but not more than was asked for."""
    server.will(Answer(200, b"01"))
    assert backend.read(PACK, NAME, 0, 2) == b"01"
    server.will(Answer(200, b"012"))
    with pytest.raises(StorageError, match="another range"):
        backend.read(PACK, NAME, 0, 2)


def test_a_whole_object_that_is_cut(server: Answering, backend: S3Backend) -> None:
    """What ends before the announced length is a failure, and no shorter object."""
    server.will(Answer(200, b"short", length=100))
    with pytest.raises(StorageError, match=NAME[:8]):
        backend.load(PACK, NAME)


# --- listings


def test_listings_that_do_not_go_on(server: Answering, backend: S3Backend) -> None:
    """A page that is not the last and says no further, or the same again, is an error and no shorter listing."""
    key = f"x/packs/{NAME[:2]}/{NAME}"
    again = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    for pages in ([s3_listing(key, more="<IsTruncated>true</IsTruncated>")], [s3_listing(key, more=again)]):
        server.will(*pages)
        with pytest.raises(StorageError, match="does not go on"):
            list(backend.list(PACK))


def test_a_listing_that_tells_an_object_twice(server: Answering, backend: S3Backend) -> None:
    """As a server may that replaces it just then, also where a page ends: it is one object."""
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    first, second = (f"x/packs/{name[:2]}/{name}" for name in sorted([NAME, name_of(b"y")]))
    server.will(s3_listing(first, first, more=more), s3_listing(first, second, second))
    assert [info.name for info in backend.list(PACK)] == sorted([NAME, name_of(b"y")])


def test_a_listing_in_pages(server: Answering, backend: S3Backend) -> None:
    """Pages follow each other by the token of the one before; one that fails ends it with an error."""
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    first, second = (f"x/packs/{name[:2]}/{name}" for name in (NAME, name_of(b"y")))
    server.will(s3_listing(first, more=more), s3_listing(second))
    assert names(backend, PACK) == {NAME, name_of(b"y")}
    assert ["continuation-token=t" in asked.path for asked in server.asked] == [False, True]
    server.will(s3_listing(first, more=more), s3_error(500, "InternalError"))
    listing = backend.list(PACK)
    assert next(listing).name == NAME
    with pytest.raises(StorageError):
        next(listing)


# --- config


def test_config_is_created_on_a_condition(server: Answering, backend: S3Backend) -> None:
    """The save of a config asks the server to refuse if there is one, whoever was faster."""
    server.will(s3_listing(), FINE)
    backend.save(CONFIG, "config", b"x")
    assert server.asked[-1].headers["if-none-match"] == "*"
    for answer in (s3_error(412, "PreconditionFailed"), s3_error(409, "ConditionalRequestConflict")):
        server.will(s3_listing(), answer)
        with pytest.raises(StorageObjectExists):
            backend.save(CONFIG, "config", b"x")


@pytest.mark.parametrize("answer", [s3_error(501, "NotImplemented"), s3_error(400, "InvalidArgument"), Answer(501)])
def test_servers_without_conditions(server: Answering, backend: S3Backend, answer: Answer) -> None:
    """Where the server knows no conditions a look has to do."""
    server.will(s3_listing(), answer, FINE)
    backend.save(CONFIG, "config", b"x")
    assert [asked.method for asked in server.asked] == ["GET", "PUT", "PUT"]
    assert "if-none-match" not in server.asked[-1].headers
    server.will(s3_listing("x/config"))
    with pytest.raises(StorageObjectExists):
        backend.save(CONFIG, "config", b"x")


# --- what is sent


def test_nothing_that_only_aws_understands(server: Answering, backend: S3Backend) -> None:
    """Uploads are signed with their hash, have no checksum in a trailer, and do not wait to be let in."""
    for size in (10, 2 * MIB):
        data = bytes(size)
        server.will(FINE)
        upload = backend.upload(PACK)
        upload.write(data)
        upload.commit(name_of(data))
        (asked,) = server.asked
        assert asked.body == data
        assert asked.headers["x-amz-content-sha256"] == hashlib.sha256(data).hexdigest()
        assert asked.headers["content-md5"] == md5_of(data)
        assert (
            not {"expect", "x-amz-trailer", "content-encoding", "x-amz-sdk-checksum-algorithm"} & asked.headers.keys()
        )
        assert not checksums(asked)


def test_checksums_that_everybody_has(server: Answering, backend: S3Backend) -> None:
    """Where a checksum has to be it is an MD5: not every server knows another."""
    server.will(Answer(200, b"<DeleteResult><Deleted><Key>k</Key></Deleted></DeleteResult>"))
    delete_many(backend, PACK, [NAME])
    (asked,) = server.asked
    assert asked.headers["content-md5"] == md5_of(asked.body)
    assert not checksums(asked)


def checksums(asked: Asked) -> list[str]:
    """What only AWS and its nearest relatives understand."""
    return [name for name in asked.headers if name.startswith(("x-amz-checksum-", "x-amz-sdk-checksum-"))]


def md5_of(data: bytes) -> str:
    """The header for a body."""
    return base64.b64encode(hashlib.md5(data).digest()).decode()  # noqa: S324 - no secret


def test_checksums_with_locks(server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locked objects come with an MD5, which servers ask for then: small ones, large ones, each part, new dates."""
    monkeypatch.setattr(s3_transfer, "_ONE_REQUEST", 3 * MIB)
    monkeypatch.setattr(s3_transfer, "_PART", 2 * MIB)
    options = S3Options(object_lock_mode="Compliance", object_lock_days=1)
    with closing(S3Backend(S3Location(server.url, "bucket", "x"), options)) as backend:
        for size in (10, 2 * MIB, 5 * MIB):
            data = bytes(range(250)) * (size // 250)
            server.will(STARTED)
            upload = backend.upload(PACK)
            upload.write(data)
            upload.commit(name_of(data))
            bodies = [asked for asked in server.asked if asked.method == "PUT"]
            assert sorted(asked.headers["content-md5"] for asked in bodies) == sorted(
                md5_of(asked.body) for asked in bodies
            )
            assert server.asked[0].headers["x-amz-object-lock-mode"] == "COMPLIANCE"
        server.will(FINE)
        extend_lock(backend, ObjectKind.SNAPSHOT, NAME)
        assert server.asked[0].headers["content-md5"] == md5_of(server.asked[0].body)
        server.will(s3_error(404, "NoSuchKey"))
        with pytest.raises(StorageObjectMissing):
            extend_lock(backend, PACK, NAME)


def test_an_upload_that_could_not_be_completed(
    server: Answering, backend: S3Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the answer that joins the parts counts, though it came with a 200; the parts are dropped."""
    monkeypatch.setattr(s3_transfer, "_ONE_REQUEST", MIB)
    server.will(STARTED, STARTED, Answer(200, s3_error(200, "InternalError").body), Answer(204))
    upload = backend.upload(PACK)
    upload.write(bytes(2 * MIB))
    with pytest.raises(StorageError):
        upload.commit(name_of(bytes(2 * MIB)))
    upload.abort()
    assert [asked.method for asked in server.asked] == ["POST", "PUT", "POST", "DELETE"]


# --- keys


def test_keys_for_a_time(server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token of keys that are good for a time is sent with them."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the token")
    server.will(s3_listing())
    with closing(S3Backend(S3Location(server.url, "bucket", "x"), S3Options())) as backend:
        backend.create()
    assert server.asked[0].headers["x-amz-security-token"] == "the token"
    assert KEY in server.asked[0].headers["authorization"]
    assert SECRET not in str(server.asked)


def test_the_role_of_a_machine(server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys of anybody's own the machine is asked for those of its role."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
    keys = (
        b'{"Code":"Success","AccessKeyId":"ASIAOFTHEROLE","SecretAccessKey":"s","Token":"t",'
        b'"Expiration":"2999-01-01T00:00:00Z"}'
    )
    server.will(Answer(200, b"imds"), Answer(200, b"role"), Answer(200, keys), s3_listing())
    with closing(S3Backend(S3Location(server.url, "bucket", "x"), S3Options())) as backend:
        backend.create()
    assert "ASIAOFTHEROLE" in server.asked[-1].headers["authorization"]
    assert server.asked[-1].headers["x-amz-security-token"] == "t"


# --- servers and how to reach them


AWS = "s3.eu-west-1.amazonaws.com"
B2 = "s3.us-west-004.backblazeb2.com"
WASABI = "s3.eu-central-1.wasabisys.com"


@pytest.mark.parametrize(
    ("host", "options", "url", "region"),
    [
        ("s3.amazonaws.com", S3Options(), "bucket.s3.amazonaws.com", "us-east-1"),
        ("s3.amazonaws.com", S3Options(region="eu-west-1"), f"bucket.{AWS}", "eu-west-1"),
        (AWS, S3Options(), f"bucket.{AWS}", "eu-west-1"),
        ("s3-eu-west-1.amazonaws.com", S3Options(), "bucket.s3-eu-west-1.amazonaws.com", "eu-west-1"),
        (AWS, S3Options(path_style=True), f"{AWS}/bucket", "eu-west-1"),
        ("minio.lan:9000", S3Options(), "minio.lan:9000/bucket", "us-east-1"),
        ("minio.lan:9000", S3Options(path_style=False), "bucket.minio.lan:9000", "us-east-1"),
        ("[::1]:9000", S3Options(region="here"), "[::1]:9000/bucket", "here"),
        (B2, S3Options(), f"{B2}/bucket", "us-west-004"),
        (WASABI, S3Options(), f"{WASABI}/bucket", "eu-central-1"),
    ],
)
def test_endpoints(host: str, options: S3Options, url: str, region: str) -> None:
    """Where requests go, by which style, and for which region they are signed."""
    location = parse_location(f"s3:{host}/bucket/x")
    assert isinstance(location, S3Location)
    client = make_client(location, options)
    signed = client.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "k"})
    assert signed.partition("?")[0] == f"https://{url}/k"
    assert client.meta.region_name == region


def test_a_region_of_aws_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS's own settings count where neither the options nor the location name a region."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-south-2")
    assert make_client(S3Location("https://s3.amazonaws.com", "b", ""), S3Options()).meta.region_name == "eu-south-2"
    named = S3Location("https://s3.eu-west-1.amazonaws.com", "b", "")
    assert make_client(named, S3Options()).meta.region_name == "eu-west-1"


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who did not install what S3 takes is told how to."""
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(UsageError, match="botocore") as caught:
        s3_client.make_client(S3Location("https://host", "b", ""), S3Options())
    assert caught.value.hint == "pip install 'backupforge[s3]'"


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not there is a storage that fails for now."""
    with (
        closing(S3Backend(S3Location("http://127.0.0.1:1", "b", ""), S3Options())) as backend,
        pytest.raises(StorageError, match=r"127\.0\.0\.1:1") as caught,
    ):
        backend.create()
    assert type(caught.value) is StorageError


def test_a_bucket_that_cannot_be(server: Answering) -> None:
    """A bucket with a name that no bucket has is refused before anything is asked."""
    server.will(FINE)
    with (
        closing(S3Backend(S3Location(server.url, "no_bucket!", ""), S3Options())) as backend,
        pytest.raises(StorageDenied, match="no_bucket!") as caught,
    ):
        backend.create()
    assert caught.value.hint
    assert server.asked == []
