"""Names of files in JSON and in URLs: text where they are UTF-8, and otherwise in base64 beside what can be shown.

"name": "caf\\ufffd", "name_raw": "Y2Fm6Q=="        in answers, as --json of the commands has it
?path_raw=Y2Fm6Q==                                  in requests, instead of ?path=; also with URL-safe base64
"""

from __future__ import annotations

from http import HTTPStatus

from msgspec import UNSET, UnsetType

from api.problems import Problem
from bfrepo.core.names import name_of_base64, unshown_base64

Path = str
"""Of a place in a snapshot, in a query. A request's first line has 8 KiB at most: in base64 every path fits."""


def raw(name: bytes) -> str | UnsetType:
    """All of its bytes in base64 where the name is not UTF-8, nothing where it is."""
    return unshown_base64(name) or UNSET


def raw_path(path: str | None, path_raw: str | None) -> bytes | None:
    """The path that a request names one way or the other, None if it names none. Raises Problem."""
    if path_raw is None:
        return None if path is None else path.encode()
    if path is not None:
        raise Problem(HTTPStatus.BAD_REQUEST, "two-paths", "send either path or path_raw")
    try:
        return name_of_base64(path_raw)
    except ValueError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, "invalid-path", "path_raw is no base64") from error
