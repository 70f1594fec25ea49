"""Buckets for tests: places in them, the keys to them, and clients that are not made anew for each test."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final

from bfrepo.storage.location import S3Location
from bfrepo.storage.options import S3Options
from bfrepo.storage.s3_client import make_client

KEY: Final = "AKIAEXAMPLEOFTESTS"
SECRET: Final = "this/is+the/secret+key/of/tests"
BUCKET: Final = "bucket"
RCLONE_KEYS: Final = {"RCLONE_AUTH_KEY": f'"{KEY},{SECRET}"'}
"""What tells rclone's server to take these keys alone."""
PLAIN: Final = S3Options()

_numbers = count()


def key_variables(folder: Path) -> dict[str, str]:
    """An environment with the keys, and with nothing of AWS's own settings of this machine."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(folder / "aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "aws-credentials"),
    }


def new_location(url: str, bucket: str = BUCKET) -> S3Location:
    """A place in the bucket that nobody has used."""
    return S3Location(url, bucket, f"tests/{next(_numbers)}")


@cache
def _client_for(location: S3Location, options: S3Options) -> Any:
    return make_client(location, options)


def client_for(location: S3Location, options: S3Options = PLAIN) -> Any:
    """The one client for a bucket: to make one takes botocore as long as a test takes."""
    return _client_for(replace(location, prefix=""), options)


def put(location: S3Location, path: str, data: bytes) -> None:
    """Put something at a path below a place."""
    client_for(location).put_object(Bucket=location.bucket, Key=f"{location.prefix}/{path}", Body=data)


def head(location: S3Location, path: str) -> Any:
    """What the server knows of what is at a path."""
    return client_for(location).head_object(Bucket=location.bucket, Key=f"{location.prefix}/{path}")
