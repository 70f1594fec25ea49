"""Packs in an archive: what services offer where keeping is cheap and reading takes hours.

An archived object is listed and has its size, but reading it raises StorageObjectArchived. Whoever wants to read it
asks for a copy first, which is at hand after minutes or days, and for some days.

A backend that may have archived objects has `archive`. A wrapper has it too, and gives what `archive_of` gives for what
it wraps, so that the ability of one is not lost in the other.
"""

from __future__ import annotations

import enum
from typing import Protocol, runtime_checkable

from bfrepo.storage.base import Backend


class Warmth(enum.Enum):
    """Whether a pack can be read: at once, as soon as the copy that was asked for is made, or not until one is."""

    READY = "ready"
    WARMING = "warming"
    COLD = "cold"


class Archive(Protocol):
    """The archived packs of one backend, by their names. All methods may be called from any thread.

    They raise StorageObjectMissing for a pack that is not there, StorageDenied and StorageError.
    """

    def holds_any(self) -> bool:
        """Whether some of the packs are archived, by a look at up to a thousand of them.

        Names are hashes, so a thousand are a fair sample: an archive of any size shows, and it takes one request.
        """

    def warmth(self, name: str) -> Warmth:
        """Whether a pack can be read now. One request at most."""

    def request(self, name: str) -> None:
        """Ask for a copy of a pack. One that is asked for already, or at hand, is no error. The service may charge."""


@runtime_checkable
class Archiver(Protocol):
    """A backend that may have archived packs."""

    @property
    def archive(self) -> Archive | None:
        """How to bring them back; None where there is no such thing."""


def archive_of(backend: Backend) -> Archive | None:
    """The archive of a backend, if it can have one."""
    return backend.archive if isinstance(backend, Archiver) else None
