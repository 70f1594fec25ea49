"""Names of files in JSON and in URLs: text where they are UTF-8, and otherwise in base64 beside what can be shown.

"name": "caf\\ufffd", "name_raw": "Y2Fm6Q=="        in answers, as --json of the commands has it
?path_raw=Y2Fm6Q==                                  in requests, instead of ?path=; also with URL-safe base64
"""

from __future__ import annotations

import base64
import binascii
from http import HTTPStatus
from typing import Final

from msgspec import UNSET, UnsetType

from api.problems import Problem

_URL_SAFE: Final = str.maketrans("-_", "+/")

Path = str
"""Of a place in a snapshot, in a query. A request's first line has 8 KiB at most: in base64 every path fits."""


def shown(name: bytes) -> str:
    """The name as text; what is not UTF-8 in it is shown as U+FFFD."""
    return name.decode(errors="replace")


def encoded(name: bytes) -> str:
    """Its bytes in base64."""
    return base64.b64encode(name).decode("ascii")


def raw(name: bytes) -> str | UnsetType:
    """The same where the name is not UTF-8, nothing where it is."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return encoded(name)
    return UNSET


def raw_path(path: str | None, path_raw: str | None) -> bytes | None:
    """The path that a request names one way or the other, None if it names none. Raises Problem."""
    if path_raw is None:
        return None if path is None else path.encode()
    if path is not None:
        raise Problem(HTTPStatus.BAD_REQUEST, "two-paths", "send either path or path_raw")
    try:
        return base64.b64decode(path_raw.translate(_URL_SAFE) + "=" * (-len(path_raw) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(HTTPStatus.BAD_REQUEST, "invalid-path", "path_raw is no base64") from error
