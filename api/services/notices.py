"""Notifications: where they may go, how their addresses are kept, and what they say.

Addresses are apprise's URLs, of two kinds: mail (`mailtos://`) and webhooks (`jsons://`, and `json://` without TLS).
They have passwords in them, so the database has them sealed and answers show kind and host alone. They are sent by a
process that connects to public addresses and to those the operator allows: `runners.notify`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from api.config import ServerKeys
from bfrepo.core.errors import InvalidValue
from bfrepo.crypto.seal import AesGcm, seal, unseal

Target = Annotated[str, Meta(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)")]

MOST_TARGETS: Final = 10
_SCHEMES: Final = ("mailto", "mailtos", "json", "jsons")


class Notice(msgspec.Struct, kw_only=True):
    """What one notification says, where to, and which networks beside the public one it may enter."""

    title: str
    body: str
    failed: bool
    targets: tuple[str, ...]
    networks: tuple[str, ...]


def check_target(target: str) -> None:
    """Raises InvalidValue, which never repeats the address."""
    try:
        parts = urlsplit(target)
        usable = parts.scheme in _SCHEMES and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise InvalidValue(
            "a notification goes to a mail address or a webhook",
            hint="write mailtos://user:password@host?to=me@example.org or jsons://host/path",
        )


def shown_target(target: str) -> str:
    """Its kind and host."""
    parts = urlsplit(target)
    return f"{parts.scheme}://{parts.hostname}"


def seal_targets(keys: ServerKeys, tenant_id: str, job_id: str, targets: tuple[str, ...]) -> bytes:
    """The addresses as the database keeps them; in another row they do not open."""
    return seal(AesGcm(keys.sealing), msgspec.json.encode(targets), _bound_to(tenant_id, job_id))


def unseal_targets(keys: ServerKeys, tenant_id: str, job_id: str, sealed: bytes) -> tuple[str, ...]:
    """The addresses again. Raises DamagedObject for what another server has sealed."""
    plain = unseal(AesGcm(keys.sealing), sealed, _bound_to(tenant_id, job_id))
    return msgspec.json.decode(plain, type=tuple[str, ...])


def describe(name: str, state: str, error: str, result: dict[str, Any]) -> tuple[str, str]:
    """Title and text about a run that has ended."""
    lines = [error] if error else []
    lines += [f"{key}: {value}" for key, value in result.items() if isinstance(value, str | int | float)]
    return f"BackupForge: {name}: {state}", "\n".join(lines) or state


def _bound_to(tenant_id: str, job_id: str) -> bytes:
    return msgspec.json.encode(["targets", tenant_id, job_id])
