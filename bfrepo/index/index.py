"""Loading the index: which objects are new, what they say of packs, and the table that results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from bfrepo.core.errors import StorageError, StorageObjectMissing
from bfrepo.index.cache import CacheHeader, IndexCache
from bfrepo.index.format import IndexContent, PackFlag, PackState
from bfrepo.index.table import BlobTable
from bfrepo.pack.format import decode_directory

_MOST_LISTINGS = 10

ReadIndex = Callable[[Iterable[str]], Iterable[tuple[str, IndexContent]]]
"""Loads index objects by name, in any order. Raises StorageObjectMissing when one is gone by now."""


class Index:
    """What all index objects say together. Changed only by its owner's thread; the table may be read from any."""

    def __init__(self, cache: IndexCache | None = None) -> None:
        self.table = BlobTable()
        """Replaced, never emptied, when the index has to be read anew."""
        self.objects: set[str] = set()
        self.flags: dict[bytes, PackFlag] = {}
        self.revoked: set[bytes] = set()
        self._cache = cache

    def refresh(self, listing: Callable[[], set[str]], read: ReadIndex, *, remember: bool = True) -> None:
        """Take in the index objects that are listed and not known yet, through the cache where there is one.

        Unless `remember` is set the cache stays as it is: for whoever looks again and again.

        Objects are merged by writing the new one before the old ones go: a reader that meets one that is gone lists
        again. Where an object that was taken in earlier is gone, so may be packs it named, and everything is read anew.
        """
        for _ in range(_MOST_LISTINGS):
            present = listing()
            try:
                self._take_in(present, read, remember=remember)
            except StorageObjectMissing:
                continue
            return
        raise StorageError("index objects keep disappearing while they are read", hint="try again in a while")

    def _take_in(self, present: set[str], read: ReadIndex, *, remember: bool) -> None:
        if not self.objects <= present:
            self._clear()
        if not self.objects:
            self._load_cache(present)
        new = present - self.objects
        for name, content in read(sorted(new)):
            self.add(name, content)
        if new and remember:
            self._save_cache()
        self.apply_flags()

    def _clear(self) -> None:
        self.table = BlobTable()
        self.objects, self.flags, self.revoked = set(), {}, set()

    def add(self, name: str, content: IndexContent) -> None:
        """Take in one index object."""
        for entry in content.packs:
            self.table.add_pack(entry.id, entry.size, decode_directory(entry.directory, pack=entry.id.hex()[:8]))
        self.flags.update({flag.id: flag for flag in content.flags})
        self.revoked.update(content.revoked)
        self.objects.add(name)

    def note_written(self, names: set[str]) -> None:
        """Count index objects as taken in whose packs were added to the table when they were written."""
        if names - self.objects:
            self.objects |= names
            self._save_cache()

    def active_flags(self) -> dict[bytes, list[PackFlag]]:
        """The flags that are not taken back, by pack ID."""
        active: dict[bytes, list[PackFlag]] = defaultdict(list)
        for flag in self.flags.values():
            if flag.id not in self.revoked:
                active[flag.pack].append(flag)
        return active

    def apply_flags(self) -> None:
        """Set the state of every pack from the flags, then prefer blobs in live packs."""
        active = self.active_flags()
        for pack_id in {flag.pack for flag in self.flags.values()}:
            states = {flag.state for flag in active.get(pack_id, ())}
            doomed, condemned = "doomed" in states, "condemned" in states
            self.table.set_state(
                pack_id, PackState.DOOMED if doomed else PackState.CONDEMNED if condemned else PackState.LIVE
            )
        self.table.prefer_live()

    def _load_cache(self, present: set[str]) -> None:
        cached = self._cache.load() if self._cache else None
        if cached is None or not set(cached[0].objects) <= present:
            return
        header, self.table = cached
        self.objects = set(header.objects)
        self.flags = {flag.id: flag for flag in header.flags}
        self.revoked = set(header.revoked)

    def _save_cache(self) -> None:
        if self._cache is None:
            return
        header = CacheHeader(
            objects=sorted(self.objects), flags=list(self.flags.values()), revoked=sorted(self.revoked)
        )
        try:
            self._cache.save(header, self.table)
        except OSError:
            self._cache = None  # no room or no permission for a cache: go on without one
