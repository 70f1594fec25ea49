"""Names of files where only text fits, as in JSON and URLs: most are UTF-8; of the others all bytes are told in base64.

"name": "caf\\ufffd", "name_raw": "Y2Fm6Q=="
"""

from __future__ import annotations

import base64
from typing import Final

_URL_SAFE: Final = str.maketrans("-_", "+/")


def shown_name(name: bytes) -> str:
    """The name as text; what is not UTF-8 in it is shown as U+FFFD."""
    return name.decode(errors="replace")


def name_base64(name: bytes) -> str:
    """All of its bytes."""
    return base64.b64encode(name).decode("ascii")


def unshown_base64(name: bytes) -> str | None:
    """All of its bytes where the text does not tell them, because they are not UTF-8; None where it does."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return name_base64(name)
    return None


def name_of_base64(text: str) -> bytes:
    """The name; also of URL-safe base64, and without padding. Raises ValueError."""
    return base64.b64decode(text.translate(_URL_SAFE) + "=" * (-len(text) % 4), validate=True)
