"""What may be said about a storage beyond its location: `-o s3.storage-class=STANDARD_IA`, or `options` of a profile.

Secrets are no options: they come from the environment or from the files of the service's own tools.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from bfrepo.core.errors import InvalidValue

if TYPE_CHECKING:
    from bfrepo.ssh.config import SshSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """For `s3:` locations. None leaves the matter to the service, or to AWS's own environment and files."""

    region: str | None = None
    profile: str | None = None
    path_style: bool | None = None
    storage_class: str | None = None
    """For packs of data alone; everything else has to be at hand at all times."""
    restore_days: int = 7
    """How long copies stay that were brought back from an archive."""
    restore_tier: str = "Standard"
    """How fast they are made: Expedited, Standard or Bulk."""
    sse: str | None = None
    sse_kms_key_id: str | None = None
    object_lock_mode: str | None = None
    object_lock_days: int | None = None
    ca_file: str | None = None
    connections: int = 8
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    """Both replace whatever AWS's environment and files say. They are no options that can be written down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SftpOptions:
    """For `sftp:` locations. None leaves the matter to `~/.ssh/config`."""

    identity_file: str | None = None
    known_hosts: str | None = None
    config_file: str | None = None
    connections: int = 4
    password: str | None = field(default=None, repr=False)
    """Only for servers that take no key. Never given as `name=value`: such a text can be read by everybody."""

    def ssh(self) -> SshSettings:
        """The same for any connection by SSH. Raises UsageError where paramiko is not installed."""
        from bfrepo.ssh.config import SshSettings  # noqa: PLC0415 - needs paramiko, which not everybody has

        return SshSettings(
            identity_file=self.identity_file,
            known_hosts=self.known_hosts,
            config_file=self.config_file,
            password=self.password,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RestOptions:
    """For `rest:` locations.

    `ca_file` is trusted instead of the system's authorities. `client_certificate` is a PEM file with a certificate and
    its key. `user` and `password` count where the location has none; they are no options that can be written down.
    """

    ca_file: str | None = None
    client_certificate: str | None = None
    connections: int = 8
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    """All of them; what does not concern the storage at hand is not looked at."""

    s3: S3Options = field(default_factory=S3Options)
    sftp: SftpOptions = field(default_factory=SftpOptions)
    rest: RestOptions = field(default_factory=RestOptions)


_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})


def option_names() -> list[str]:
    """Every name that `parse_options` knows. What no `repr` may show is not among them: it would be in argv."""
    return [
        f"{group.name}.{_shown(each.name)}"
        for group in fields(StorageOptions)
        for each in fields(_default_group(group.name))
        if each.repr
    ]


def parse_options(pairs: Iterable[str]) -> StorageOptions:
    """Options from `name=value` texts; a later one counts. Raises InvalidValue for a name or value that cannot be."""
    options = StorageOptions()
    for pair in pairs:
        name, equals, text = pair.partition("=")
        group_name, _, key = name.strip().partition(".")
        if not equals or name.strip() not in option_names():
            raise InvalidValue(f"{name!r} is no option of a storage", hint=_nearest(name))
        group = getattr(options, group_name)
        value = _parse_value(pair, str(_types(group)[_field(key)]), text.strip())
        options = replace(options, **{group_name: replace(group, **{_field(key): value})})
    return options


def _types(group: Any) -> dict[str, Any]:
    return {each.name: each.type for each in fields(group)}


def _parse_value(pair: str, kind: str, text: str) -> str | int | bool:
    if kind.startswith("bool"):
        if text.lower() not in _TRUE | _FALSE:
            raise InvalidValue(f"{pair!r}: the value is true or false")
        return text.lower() in _TRUE
    if kind.startswith("int"):
        if not text.isdecimal() or not 0 < int(text) < 100_000:
            raise InvalidValue(f"{pair!r}: the value is a number from 1 on")
        return int(text)
    if not text:
        raise InvalidValue(f"{pair!r}: the value is missing")
    return text


def _nearest(name: str) -> str:
    close = get_close_matches(name, option_names(), n=1)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(option_names())}"


def _default_group(name: str) -> Any:
    return getattr(StorageOptions(), name)


def _shown(name: str) -> str:
    return name.replace("_", "-")


def _field(key: str) -> str:
    return key.replace("-", "_")
