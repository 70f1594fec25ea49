"""What the server opens for a tenant, and what it does not, whoever asks: docs/decisions/0021.

    store:NAME          a store of the tenant's own on this server, as the data plane serves it
    anything else       only below a location that the operator of the server has allowed

The server reaches networks and folders that a tenant does not, and has keys of its own: SSH keys, a cloud's role. So it
goes nowhere just because a tenant says so, and lends nobody its keys for S3.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import msgspec

from api.config import ServerConfig
from api.fields import GivenPassword, Slug
from api.problems import Problem
from api.services.store_backend import StoreBackend
from bfrepo.core.clock import Clock
from bfrepo.core.errors import InvalidValue, UsageError
from bfrepo.repository.repository import Repository, open_repository
from bfrepo.storage.base import Backend
from bfrepo.storage.location import (
    LocalLocation,
    Location,
    MemoryLocation,
    RestLocation,
    S3Location,
    open_backend,
    parse_location,
)
from bfrepo.storage.options import RestOptions, S3Options, StorageOptions

STORE: Final = "store:"
_STORE: Final = re.compile(r"store:([a-z0-9][a-z0-9-]{0,62})")


class Secrets(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What opens a repository. `password` is null for one that is not encrypted; the others are for its storage."""

    password: GivenPassword | None = None
    s3_access_key: GivenPassword | None = None
    s3_secret_key: GivenPassword | None = None
    rest_user: GivenPassword | None = None
    rest_password: GivenPassword | None = None

    def __repr__(self) -> str:
        return "Secrets(...)"


class Opening(msgspec.Struct, kw_only=True):
    """A tenant's repository: where it is, what opens it, and whether the tenant may only add to its stores."""

    tenant_id: str
    location: str
    secrets: Secrets
    append_only: bool


def open_to(
    config: ServerConfig, clock: Clock, opening: Opening, *, take_room: Callable[[int], None] | None = None
) -> Repository:
    """The repository, for the caller to close; its index is not read yet. Blocks.

    Before something is written to a store of the server's, `take_room` is called with its size.
    Raises Problem for a location that is not allowed, and the library's errors.
    """
    backend, far = make_backend(
        config,
        clock,
        opening.tenant_id,
        opening.location,
        opening.secrets,
        append_only=opening.append_only,
        take_room=take_room,
    )
    cache = config.caches / opening.tenant_id if far else None
    try:
        return open_repository(backend, clock, lambda: password_of(opening.secrets), cache_dir=cache, keep_objects=far)
    except BaseException:
        backend.close()
        raise


def password_of(secrets: Secrets) -> bytes:
    """What opens a repository that is encrypted. Raises UsageError when there is none."""
    if secrets.password is None:
        raise UsageError("the repository is encrypted, and no password was given")
    return secrets.password.encode()


def store_name(text: str) -> Slug | None:
    """The store that a location names, None for other locations. Raises InvalidValue for what cannot be one."""
    if not text.startswith(STORE):
        return None
    match = _STORE.fullmatch(text)
    if match is None:
        raise InvalidValue(f"{text!r} names no store", hint="write store:NAME, with a-z, 0-9 and - in the name")
    return match[1]


def make_backend(
    config: ServerConfig,
    clock: Clock,
    tenant_id: str,
    text: str,
    secrets: Secrets,
    *,
    append_only: bool,
    take_room: Callable[[int], None] | None = None,
) -> tuple[Backend, bool]:
    """The storage at a location, and whether it is far away. Nothing is looked at yet.

    Raises Problem for a location that is not allowed, InvalidValue for what is none.
    """
    name = store_name(text)
    if name is not None:
        root = config.stores / tenant_id / name
        return StoreBackend(root, name, append_only=append_only, take_room=take_room), False
    location = parse_location(text)
    _check(config, tenant_id, location)
    _check_secrets(location, secrets)
    options = StorageOptions(
        s3=S3Options(access_key=secrets.s3_access_key, secret_key=secrets.s3_secret_key),
        rest=RestOptions(user=secrets.rest_user, password=secrets.rest_password),
    )
    return open_backend(location, options=options, clock=clock), location.remote


def _check(config: ServerConfig, tenant_id: str, location: Location) -> None:
    if isinstance(location, RestLocation) and location.user is not None:
        raise Problem(
            HTTPStatus.BAD_REQUEST, "secret-in-location", "a location has neither user nor password",
            hint="send rest_user and rest_password among the secrets",
        )  # fmt: skip
    rules = [rule.replace("{tenant}", tenant_id) for rule in config.allowed_locations]
    if isinstance(location, MemoryLocation) or not any(_is_below(location, rule) for rule in rules):
        raise Problem(
            HTTPStatus.FORBIDDEN, "location-not-allowed", f"this server does not open {location.shown}",
            hint="use store:NAME, or have the server's operator start it with --allow-location",
        )  # fmt: skip


def _is_below(location: Location, rule: str) -> bool:
    if isinstance(location, LocalLocation):
        return rule.startswith("/") and _is_path_below(location.path, rule)
    beginning = _normal(rule).rstrip("/")
    return not _climbs(location.shown) and f"{location.shown.rstrip('/')}/".startswith(f"{beginning}/")


def _is_path_below(path: Path, rule: str) -> bool:
    """By where symlinks lead, not by how it is written."""
    if not path.is_absolute() or ".." in path.parts:
        return False
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(rule))


def _normal(rule: str) -> str:
    """The rule as locations are shown; one that names a server alone is no location, and stays as it is."""
    try:
        return parse_location(rule).shown
    except InvalidValue:
        return rule


def _climbs(text: str) -> bool:
    """Whether any part leads upwards, however often it is percent-encoded."""
    while (plain := unquote(text)) != text:
        text = plain
    return any(part in (".", "..") for part in re.split(r"[/\\]", text))


def _check_secrets(location: Location, secrets: Secrets) -> None:
    if isinstance(location, S3Location) and not (secrets.s3_access_key and secrets.s3_secret_key):
        raise Problem(HTTPStatus.BAD_REQUEST, "no-keys", "S3 needs keys of your own: s3_access_key and s3_secret_key")
