"""Where a repository can be: what a backend is told, and what people are shown of it, which is never a password."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeAlias


@dataclass(frozen=True, slots=True)
class LocalLocation:
    """A directory of this machine, or of whatever is mounted there."""

    path: Path

    remote: ClassVar[bool] = False

    @property
    def shown(self) -> str:
        """The path as it was given, printable whatever bytes it holds."""
        return os.fsencode(self.path).decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket and the prefix in it. `endpoint` is the URL of the server without a path; keys are never in it."""

    endpoint: str
    bucket: str
    prefix: str

    remote: ClassVar[bool] = True

    @property
    def shown(self) -> str:
        """The location as a URL."""
        return "s3:" + "/".join(part for part in (self.endpoint, self.bucket, self.prefix) if part)


@dataclass(frozen=True, slots=True)
class SftpLocation:
    """A directory behind SSH. `user` and `port` are None where SSH's own settings decide; a relative `path` is in the
    user's home."""

    user: str | None
    host: str
    port: int | None
    path: str

    remote: ClassVar[bool] = True

    @property
    def shown(self) -> str:
        """The location in the form of scp."""
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"sftp:{user}{bracketed(self.host)}{port}:{self.path}"


@dataclass(frozen=True, slots=True)
class RestLocation:
    """A repository behind HTTP. `url` ends with a slash and holds neither user nor password."""

    url: str
    user: str | None
    password: str | None = field(repr=False)

    remote: ClassVar[bool] = True

    @property
    def shown(self) -> str:
        """The location as a URL, with stars for the password."""
        if self.user is None:
            return f"rest:{self.url}"
        scheme, _, rest = self.url.partition("://")
        return f"rest:{scheme}://{self.user}{':***' if self.password is not None else ''}@{rest}"


@dataclass(frozen=True, slots=True)
class MemoryLocation:
    """A store that begins empty and ends with the process."""

    remote: ClassVar[bool] = False

    @property
    def shown(self) -> str:
        """The location as it is written."""
        return "memory:"


Location: TypeAlias = LocalLocation | S3Location | SftpLocation | RestLocation | MemoryLocation
"""Where a repository is. Each has `shown`, the text for people, without a password, and says whether it is `remote`:
whether its calls take long, may fail for a while, and are worth saving."""


def bracketed(host: str) -> str:
    """An IPv6 address as URLs want it."""
    return f"[{host}]" if ":" in host else host
