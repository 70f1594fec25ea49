"""What goes wrong with S3, as errors of ours.

    the server says                                        we say
    404 for an object that is read                         StorageObjectMissing
    404 NoSuchBucket                                       BucketMissing: the storage is gone, not the object
    403 InvalidObjectState                                 StorageObjectArchived
    412, 409 while a config is saved                       StorageObjectExists
    507; codes and texts about quotas and caps             StorageFull
    403; expired or unknown keys; a wrong region or clock  StorageDenied
    other 400s, such as an unknown storage class           StorageDenied: asking again changes nothing
    408, 429, 5xx, "slow down"; anything about the network StorageError, which may be tried again

A message has the server's own code and text, and never a key: neither is in what servers and botocore say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from bfrepo.core.errors import (
    BackupForgeError,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageObjectArchived,
    StorageObjectMissing,
)

_KEY_HINT: Final = (
    "look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or at the profile, and at what the keys may do (docs: S3)"
)
_HINTS: Final = {
    "NoSuchBucket": "make the bucket first, or look at how its name is spelled",
    "ExpiredToken": "get new keys: these were for a time that is over",
    "TokenRefreshRequired": "get new keys: these were for a time that is over",
    "RequestTimeTooSkewed": "set this machine's clock: the server refuses requests from another time",
    "RequestExpired": "set this machine's clock: the server refuses requests from another time",
    "AuthorizationHeaderMalformed": "name the bucket's region: -o s3.region=NAME",
    "PermanentRedirect": "name the bucket's region: -o s3.region=NAME",
    "IllegalLocationConstraintException": "name the bucket's region: -o s3.region=NAME",
}
_MISSING: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_FULL: Final = frozenset(
    {
        "QuotaExceeded",
        "InsufficientStorage",
        "XMinioStorageFull",
        "XMinioAdminBucketQuotaExceeded",
        "storage_cap_exceeded",
    }
)
_FULL_TEXT: Final = re.compile(r"quota|storage cap|insufficient (storage|space)|no space left", re.IGNORECASE)
_TEMPORARY: Final = frozenset(
    {
        "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded",
        "BadDigest", "IncompleteBody", "OperationAborted", "XAmzContentSHA256Mismatch", "NoSuchUpload",
    }
)  # fmt: skip
"""Codes that come with a 400 or 404 and mean an accident on the way."""
_TEMPORARY_STATUS: Final = frozenset({408, 409, 425, 429})

_SECONDS: Final = re.compile(r"\d{1,6}")
"""Of what Retry-After may hold; the other form, a date, is not met with S3."""

_MOST_TEXT: Final = 200


class BucketMissing(StorageDenied):
    """There is no such bucket, most likely because its name is misspelled. A refusal: to wait for it makes no sense."""

    code = "no-bucket"


class IncompleteAnswer(Exception):
    """What arrived is not all of an answer, or none that a server of S3 gives. `translated` makes a StorageError of it.

    HTTP takes a connection that is cut within the headers for the end of them: what should follow is then missing
    without a word, and a listing without entries, or an object without bytes, must not be believed.
    """


@contextmanager
def translated(subject: str, location: str, *, reads: bool = False) -> Iterator[None]:
    """Raises our errors for those of botocore; `subject` is what the block is about, as messages name it.

    Where the block `reads` one object, a 404 says that it is missing. Otherwise it is an error like any other: nobody
    may take it for an empty listing.
    """
    try:
        yield
    except BackupForgeError:
        raise
    except Exception as error:
        if reads and status_of(error) == 404 and code_of(error) in _MISSING:
            raise StorageObjectMissing(f"{subject} is missing in {location}") from error
        found = _translate(error, f"{subject} in {location}")
        if found is None:
            raise
        raise found from error


def required(answer: Any, field: str) -> Any:
    """A field that every answer of this kind has. Raises IncompleteAnswer."""
    try:
        return answer[field]
    except KeyError:
        raise IncompleteAnswer(f"the answer of the server is incomplete: it has no {field}") from None


def check_length(answer: Any) -> None:
    """Raises IncompleteAnswer where the answer does not tell how many bytes follow."""
    if "transfer-encoding" not in answer["ResponseMetadata"].get("HTTPHeaders", {}):
        required(answer, "ContentLength")


def status_of(error: Exception) -> int:
    """The HTTP status of an answer that botocore raised as an error; 0 where there was no answer."""
    status: int = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status


def code_of(error: Exception) -> str:
    """The code of S3 in such an answer, the status where it has none."""
    code: str = _response(error).get("Error", {}).get("Code", "")
    return code


def _response(error: Exception) -> Any:
    """What the server answered, parsed; empty where it did not."""
    return getattr(error, "response", None) or {}


def error_of(code: str, text: str, status: int, message: str, *, retry_after_s: float | None = None) -> StorageError:
    """The error for an answer that says no to something."""
    hint = _HINTS.get(code)
    if code == "NoSuchBucket":
        return BucketMissing(message, hint=hint)
    if code == "InvalidObjectState":
        return StorageObjectArchived(message)
    if status == 507 or code in _FULL or (status in (400, 403) and _FULL_TEXT.search(text)):
        return StorageFull(message, hint="make room in the bucket, or raise its quota, and run it again")
    if code in _TEMPORARY or status in _TEMPORARY_STATUS or not 300 <= status < 500 or status == 404:
        return StorageError(message, hint=hint, retry_after_s=retry_after_s)
    return StorageDenied(message, hint=hint or (_KEY_HINT if status in (401, 403) else None))


def _translate(error: Exception, where: str) -> BackupForgeError | None:
    from botocore import exceptions as failures  # noqa: PLC0415 - loaded already, or there would be no error of it
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    if isinstance(error, failures.ClientError):
        return _of_answer(error.response, where)
    if isinstance(error, (failures.NoCredentialsError, failures.PartialCredentialsError)):
        return StorageDenied(f"{where}: no access keys were found", hint=_KEY_HINT)
    if isinstance(error, _refusals(failures)):
        return StorageDenied(f"{where}: {_plain(str(error))}", hint=_KEY_HINT)
    if isinstance(error, (failures.ParamValidationError, failures.InvalidDNSNameError)):
        return StorageDenied(f"{where}: {_plain(str(error))}", hint="look at how the location is spelled")
    if isinstance(error, failures.SSLError):
        return StorageError(
            f"{where}: {_plain(str(error))}", hint="a server with a certificate of its own needs -o s3.ca-file=FILE"
        )
    if isinstance(error, (failures.BotoCoreError, HTTPError, IncompleteAnswer, OSError)):
        return StorageError(f"{where}: {_plain(str(error))}")
    return None


def _refusals(failures: Any) -> tuple[type[Exception], ...]:
    """What botocore raises when it has keys, but cannot make use of them."""
    return (
        failures.CredentialRetrievalError, failures.SSOError, failures.LoginError, failures.TokenRetrievalError,
        failures.NoAuthTokenError, failures.InvalidConfigError, failures.ConfigParseError, failures.ProfileNotFound,
    )  # fmt: skip


def _of_answer(response: Any, where: str) -> StorageError:
    found = response.get("Error", {})
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code, text = str(found.get("Code", "")), _plain(str(found.get("Message", "")))
    said = f"{text} ({code})" if code and code != str(status) else f"{text} (HTTP {status})"
    wait = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", "")
    return error_of(
        code, text, status, f"{where}: {said}", retry_after_s=float(wait) if _SECONDS.fullmatch(wait) else None
    )


def _plain(text: str) -> str:
    """One short line without a full stop."""
    line = " ".join(text.split())[:_MOST_TEXT].rstrip(".")
    return line[:1].lower() + line[1:]
