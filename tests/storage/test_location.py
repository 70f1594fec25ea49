from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.core.errors import InvalidValue
from bfrepo.storage.limit import LimitedBackend, Limits
from bfrepo.storage.local import LocalBackend
from bfrepo.storage.location import (
    LocalLocation,
    Location,
    MemoryLocation,
    RestLocation,
    S3Location,
    SftpLocation,
    open_backend,
    parse_location,
)
from bfrepo.storage.memory import MemoryBackend
from bfrepo.storage.retry import RetryingBackend
from tests.storage.conformance import PACK, names, stored


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/backup", LocalLocation(Path("/srv/backup"))),
        ("backup", LocalLocation(Path("backup"))),
        ("./s3:odd", LocalLocation(Path("./s3:odd"))),
        ("/srv/a:b", LocalLocation(Path("/srv/a:b"))),
        ("/srv/me@home", LocalLocation(Path("/srv/me@home"))),
        ("memory:", MemoryLocation()),
        ("s3:https://host/bucket", S3Location("https://host", "bucket", "")),
        ("s3:http://127.0.0.1:9000/bucket/a/b/", S3Location("http://127.0.0.1:9000", "bucket", "a/b")),
        ("s3:https://[::1]:9000/bucket", S3Location("https://[::1]:9000", "bucket", "")),
        (
            "s3:s3.eu-central-1.amazonaws.com/bucket/prefix",
            S3Location("https://s3.eu-central-1.amazonaws.com", "bucket", "prefix"),
        ),
        ("sftp:host:/srv", SftpLocation(None, "host", None, "/srv")),
        ("sftp:me@host:backup", SftpLocation("me", "host", None, "backup")),
        ("sftp:me@host:2222:/srv/repo", SftpLocation("me", "host", 2222, "/srv/repo")),
        ("sftp:me@[::1]:2222:/srv", SftpLocation("me", "::1", 2222, "/srv")),
        ("sftp:me@corp@host:/srv", SftpLocation("me@corp", "host", None, "/srv")),
        ("sftp://me@host:2222//srv/repo", SftpLocation("me", "host", 2222, "/srv/repo")),
        ("sftp://host/backup", SftpLocation(None, "host", None, "backup")),
        ("rest:https://host/", RestLocation("https://host/", None, None)),
        ("rest:http://host:8000/a/repo", RestLocation("http://host:8000/a/repo/", None, None)),
        ("rest:https://me:p%40ss%2Fword@host:8000/repo/", RestLocation("https://host:8000/repo/", "me", "p@ss/word")),
        ("rest:https://me@host/repo/", RestLocation("https://host/repo/", "me", None)),
    ],
)
def test_locations_parse(text: str, expected: Location) -> None:
    """Every form that the manual names is understood."""
    assert parse_location(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\0b",
        "a\nb",
        "b2:bucket",
        "file:///srv",
        "S3:https://host/bucket",
        "memory:name",
        "s3:",
        "s3:https://host",
        "s3:https:///bucket",
        "s3://bucket/prefix",
        "s3:ftp://host/bucket",
        "s3:https://host:port/bucket",
        "s3:https://host/bucket?x=y",
        "sftp:",
        "sftp:host",
        "sftp:host:",
        "sftp:host:99999:/srv",
        "sftp:host:0:/srv",
        "sftp://host",
        "sftp://host:99999//srv",
        "rest:",
        "rest:host/path",
        "rest:ftp://host/",
        "rest:https://host:0/",
        "rest:https://host/#x",
        "rest:https://[::1/",
    ],
)
def test_nonsense_is_refused_with_a_hint(text: str) -> None:
    """What is no location is an InvalidValue that says how one is written."""
    with pytest.raises(InvalidValue) as caught:
        parse_location(text)
    assert caught.value.hint or "is a path or a URL" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/backup", "/srv/backup"),
        ("memory:", "memory:"),
        ("s3:host/bucket/prefix/", "s3:https://host/bucket/prefix"),
        ("sftp:me@host:2222:/srv", "sftp:me@host:2222:/srv"),
        ("sftp://[::1]//srv", "sftp:[::1]:/srv"),
        ("rest:https://me:secret@host/repo/", "rest:https://me:***@host/repo/"),
        ("rest:https://me@host/repo/", "rest:https://me@host/repo/"),
        ("rest:https://host/repo/", "rest:https://host/repo/"),
    ],
)
def test_locations_are_shown_as_they_are_written(text: str, shown: str) -> None:
    """People see a location in the form they would write, with stars for a password."""
    assert parse_location(text).shown == shown


def test_path_that_is_no_text_can_be_shown() -> None:
    """A path of bytes that are not UTF-8 is shown in characters that every terminal and JSON can take."""
    assert parse_location("/srv/\udcff").shown == "/srv/\\xff"


@pytest.mark.parametrize(
    "template",
    [
        "rest:https://me:{}@host/repo/",
        "rest:https://me:{}@host:port/repo/",
        "rest:https://:{}@host/",
        "rest:ftp://me:{}@host/",
        "rest:me:{}@host/",
        "https://me:{}@host/repo/",
        "sftp:me:{}@host:/srv",
        "sftp://me:{}@host//srv",
        "s3:https://key:{}@host/bucket",
        "s3:key:{}@host/bucket",
    ],
)
@given(password=st.text(st.sampled_from("Zß%/@:?#[]"), max_size=6))
def test_no_password_is_ever_told(template: str, password: str) -> None:
    """Neither a message, a hint, `shown` nor a repr tells a password, encoded or not, in a right or wrong location."""
    secret = f"Q{password}Q"
    try:
        location = parse_location(template.format(secret))
    except InvalidValue as error:
        told = f"{error} {error.hint}"
    else:
        told = f"{location.shown} {location!r}"
    assert "Q" not in told


@pytest.mark.parametrize(
    "text", ["s3:http://127.0.0.1:1/bucket", "sftp:me@127.0.0.1:/srv", "rest:http://me:secret@127.0.0.1:1/repo/"]
)
def test_remote_storage_is_tried_again(text: str) -> None:
    """What is behind a network is opened without asking it for anything, limited inside and retried outside."""
    location = parse_location(text)
    plain, limited = open_backend(location), open_backend(location, limits=Limits(1000, None))
    assert location.remote
    assert isinstance(plain, RetryingBackend)
    assert isinstance(limited, RetryingBackend)
    assert isinstance(limited._inner, LimitedBackend)
    assert "secret" not in plain.location
    for backend in (plain, limited):
        backend.close()


@pytest.mark.parametrize("text", ["memory:", "/srv"])
def test_storage_at_hand_is_not(text: str) -> None:
    """A disk that fails goes on failing: what is at hand is not tried again. A limit holds there, too."""
    location = parse_location(text)
    assert not location.remote
    assert isinstance(open_backend(location), LocalBackend | MemoryBackend)
    assert isinstance(open_backend(location, limits=Limits(None, 1000)), LimitedBackend)


def test_path_opens_a_directory(tmp_path: Path) -> None:
    """A path gives a backend for that directory, and opening it touches nothing."""
    backend = open_backend(parse_location(str(tmp_path / "repo")))
    assert backend.location == str(tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


def test_memory_is_new_each_time() -> None:
    """Two stores in memory share nothing."""
    first, second = (open_backend(parse_location("memory:")) for _ in range(2))
    name = stored(first, PACK, b"x")
    assert (names(first, PACK), names(second, PACK)) == ({name}, set())
