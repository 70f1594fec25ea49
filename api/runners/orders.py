"""What a runner and the process that carries out a run tell each other, as lines of JSON through pipes.

First comes the order, then nothing but answers to questions for room; the runner's end of the pipe stays open for as
long as it lives. Back come events, and at last one of the kind "end". Secrets are in the order, and so in no command
line and no file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from api.config import ServerConfig
from api.services.allowances import AllowedHost, Cluster
from api.services.jobspecs import JobSpec, RestoreSpec
from api.services.locations import Opening

Command = tuple[str, ...]

END: Final = "end"


class Hooks(msgspec.Struct, kw_only=True):
    """Commands around a run, as the operator has written them down."""

    before: tuple[Command, ...] = ()
    after: tuple[Command, ...] = ()
    failure: tuple[Command, ...] = ()


class Place(msgspec.Struct, kw_only=True):
    """The settings of the server that opening a repository depends on."""

    data: str
    allowed_locations: tuple[str, ...]

    def config(self) -> ServerConfig:
        """They as settings. The process has no business in the database."""
        return ServerConfig(data=Path(self.data), database="", allowed_locations=self.allowed_locations)


class Order(msgspec.Struct, kw_only=True):
    """What to do: a job, or a restore. Its paths have been looked at: they may be read or written.

    `host` is where the paths of the job are, None for this machine.
    """

    name: str
    place: Place
    opening: Opening
    job: JobSpec | None = None
    restore: RestoreSpec | None = None
    host: AllowedHost | None = None
    cluster: Cluster | None = None
    hooks: Hooks = msgspec.field(default_factory=Hooks)
    metered: bool = False
    """Whether the process asks for room before it stores: see `room`."""


class Line(msgspec.Struct):
    """One event."""

    kind: str
    data: dict[str, Any]
