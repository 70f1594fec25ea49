"""A backend whose writes vanish: a dry run does all the work but the storing."""

from __future__ import annotations

from bfrepo.core.protocols import Buffer
from bfrepo.storage.base import ObjectKind, Upload
from bfrepo.storage.readonly import ReadOnlyBackend


class DiscardingBackend(ReadOnlyBackend):
    """Reads from `inner`, and takes every object without keeping it. Thread rule and errors are those of `inner`."""

    def create(self) -> None:
        """Makes nothing."""

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        """Keeps nothing."""

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        """An upload that keeps nothing."""
        return _Nowhere()

    def delete(self, kind: ObjectKind, name: str) -> None:
        """Deletes nothing."""


class _Nowhere:
    def write(self, data: Buffer) -> None:
        """Keeps nothing."""

    def commit(self, name: str) -> None:
        """Keeps nothing."""

    def abort(self) -> None:
        """Has nothing to drop."""
