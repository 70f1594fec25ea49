"""Bringing objects back from the archives of S3: Glacier Flexible Retrieval, Glacier Deep Archive, and what else speaks
the same requests.

    RestoreObject       asks for a copy that stays for `s3.restore-days`, made as fast as `s3.restore-tier` says. The
                        object itself stays where it is
    HEAD                `x-amz-restore` tells whether the copy is being made, or is there; without it a class that is an
                        archive is cold. Of Intelligent-Tiering `x-amz-archive-status` says so; it takes no days, as
                        the object itself comes back
    listing             tells classes, a thousand objects at a time, but not what was brought back

Source: Amazon S3 API Reference, RestoreObject and HeadObject; Amazon S3 User Guide, "Working with archived objects".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from bfrepo.storage.base import ObjectKind
from bfrepo.storage.layout import describe
from bfrepo.storage.options import S3Options
from bfrepo.storage.s3_errors import code_of, translated
from bfrepo.storage.warming import Warmth

_ARCHIVES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes that cannot be read. GLACIER_IR can."""

_SAMPLE: Final = 1000
"""What one listing request gives at most."""

_NOTHING_TO_DO: Final = frozenset({"RestoreAlreadyInProgress", "InvalidObjectState"})
"""It is asked for already, or in no archive."""


class S3Archive:
    """The archived packs of one repository in a bucket. See `Archive`.

    `key_of` gives the key of an object, `prefix` begins those of all packs.
    """

    def __init__(
        self,
        client: Any,
        bucket: str,
        prefix: str,
        key_of: Callable[[ObjectKind, str], str],
        location: str,
        options: S3Options,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._key_of = key_of
        self._location = location
        self._options = options
        self._without_days: set[str] = set()
        self._seen: bool | None = None

    def note(self, page: Mapping[str, Any]) -> None:
        """Take notice of a page of somebody's listing of packs, which saves `holds_any` its request, once."""
        self._seen = bool(self._seen) or _holds_archived(page)

    def holds_any(self) -> bool:
        """See `Archive.holds_any`."""
        seen, self._seen = self._seen, None
        if seen is not None:
            return seen
        with translated("cannot list packs", self._location):
            page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=_SAMPLE)
        return _holds_archived(page)

    def warmth(self, name: str) -> Warmth:
        """See `Archive.warmth`."""
        with translated(describe(ObjectKind.PACK, name), self._location, reads=True):
            head = self._client.head_object(Bucket=self._bucket, Key=self._key_of(ObjectKind.PACK, name))
        restore = head.get("Restore", "")
        if 'ongoing-request="true"' in restore:
            return Warmth.WARMING
        if head.get("ArchiveStatus"):
            self._without_days.add(name)
            return Warmth.COLD
        return Warmth.COLD if head.get("StorageClass") in _ARCHIVES and not restore else Warmth.READY

    def request(self, name: str) -> None:
        """See `Archive.request`."""
        wanted: dict[str, object] = {"GlacierJobParameters": {"Tier": self._options.restore_tier}}
        if name not in self._without_days:
            wanted["Days"] = self._options.restore_days
        with translated(describe(ObjectKind.PACK, name), self._location, reads=True):
            try:
                self._client.restore_object(
                    Bucket=self._bucket, Key=self._key_of(ObjectKind.PACK, name), RestoreRequest=wanted
                )
            except self._client.exceptions.ClientError as error:
                if code_of(error) not in _NOTHING_TO_DO:
                    raise


def _holds_archived(page: Mapping[str, Any]) -> bool:
    return any(each.get("StorageClass") in _ARCHIVES for each in page.get("Contents", ()))
