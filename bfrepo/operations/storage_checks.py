"""What a storage that is tried out is asked: the promises of storage/base.py that users can do something about.

A new backend is held to far more of them by `tests/storage/conformance.py`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Final

from bfrepo.core.concurrency import map_at_once
from bfrepo.core.errors import DamagedObject, Interrupted, StorageError, StorageObjectExists, StorageObjectMissing
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import MIB
from bfrepo.crypto.hashing import object_name
from bfrepo.storage.base import CONFIG_NAME, Backend, ObjectInfo, ObjectKind
from bfrepo.storage.layout import DIRECTORY_KINDS

_MANY: Final = 1100
"""Objects for the listing: S3 and its relatives give a thousand names at a time."""
_TIMES: Final = 20
_RIVALS: Final = 8
_LARGE: Final = 6 * MIB
"""More than the least size of a part in S3, and than a window of TCP or SSH."""
_PIECE: Final = MIB


class BrokenPromise(Exception):
    """A storage does not do what it should; `warning` says that one can live with it."""

    def __init__(self, message: str, *, warning: bool = False) -> None:
        super().__init__(message)
        self.warning = warning


class Promises:
    """Asks for one promise after the other; `first` and `second` are two clients. `stored` is all that may be there."""

    def __init__(self, first: Backend, second: Backend, cancelled: Callable[[], bool]) -> None:
        self.stored: set[tuple[ObjectKind, str]] = set()
        self._first = first
        self._second = second
        self._cancelled = cancelled

    def each(self) -> Iterator[tuple[str, str, Callable[[], None]]]:
        """Every promise: its stable name, what it says in words, and what asks for it.

        That raises BrokenPromise, Interrupted, and what a storage raises that fails.
        """
        yield "objects", "what is stored is read back", self._check_objects
        yield "ranges", "parts of objects are read exactly", self._check_ranges
        yield "missing", "what is not there is said to be missing", self._check_missing
        yield "visible", "what one client stores, others see at once", self._check_visible
        yield "listing", f"a listing of {_MANY:,} objects names each once", self._check_listing
        yield "uploads", "uploads are seen whole or not at all", self._check_uploads
        yield "atomic", "who reads while others write gets whole objects", self._check_atomic
        yield "exclusive", "of several that make a repository one succeeds", self._check_exclusive
        yield "deletion", "what is deleted is gone at once", self._check_deletion

    def save(self, kind: ObjectKind, content: bytes) -> str:
        """Store an object through the first client; its name."""
        name = object_name(content)
        self.stored.add((kind, name))
        self._first.save(kind, name, content)
        return name

    def at_once(self, do: Callable[[bytes], object] | Callable[[str], object], items: Sequence[bytes | str]) -> None:
        """Do something with each item, as many at a time as the storage likes."""

        def one(item: bytes | str) -> None:
            self.go_on()
            do(item)  # type: ignore[arg-type]

        for _ in map_at_once(one, items, threads=self._first.connections, name="probe"):
            pass

    def go_on(self) -> None:
        """Raises Interrupted when the user wants it to end."""
        if self._cancelled():
            raise Interrupted("the probe was interrupted", hint="what it had stored was removed again")

    def _check_objects(self) -> None:
        for kind in DIRECTORY_KINDS:
            for content in (os.urandom(1000), b""):
                name = self.save(kind, content)
                _expect(self._first.load(kind, name) == content, f"{kind.value}: other bytes came back")
                _expect(self._first.size(kind, name) == len(content), f"{kind.value}: the size is wrong")

    def _check_ranges(self) -> None:
        content = os.urandom(100_000)
        name = self.save(ObjectKind.PACK, content)
        for offset, length in ((0, 1), (0, 100_000), (99_999, 1), (12_345, 54_321)):
            buffer = bytearray(length)
            self._first.read_into(ObjectKind.PACK, name, offset, memoryview(buffer))
            _expect(buffer == content[offset : offset + length], f"{length} bytes at {offset} are not right")
        for offset in (99_999, 200_000):
            try:
                self._first.read(ObjectKind.PACK, name, offset, 2)
            except DamagedObject:
                continue
            raise BrokenPromise("a range beyond the end of an object is not refused")

    def _check_missing(self) -> None:
        name = object_name(os.urandom(100))
        calls: tuple[Callable[[], object], ...] = (
            lambda: self._first.load(ObjectKind.INDEX, name),
            lambda: self._first.size(ObjectKind.INDEX, name),
            lambda: self._first.read(ObjectKind.PACK, name, 0, 1),
        )
        for call in calls:
            with _missing_expected("an object that was never stored was read"):
                call()
        self._first.delete(ObjectKind.INDEX, name)

    def _check_visible(self) -> None:
        for _ in range(_TIMES):
            self.go_on()
            content = os.urandom(100)
            name = self.save(ObjectKind.SNAPSHOT, content)
            try:
                _expect(self._second.load(ObjectKind.SNAPSHOT, name) == content, "another client reads other bytes")
            except StorageObjectMissing:
                raise BrokenPromise("another client does not find what was just stored") from None
            listed = {info.name for info in self._second.list(ObjectKind.SNAPSHOT)}
            _expect(name in listed, "another client's listing leaves out what was just stored")

    def _check_listing(self) -> None:
        contents = [b"%d" % number for number in range(_MANY)]
        self.at_once(partial(self.save, ObjectKind.INDEX), contents)
        expected = {object_name(content): len(content) for content in contents}
        found = [info for info in self._second.list(ObjectKind.INDEX) if info.name in expected]
        names = [info.name for info in found]
        _expect(len(names) == len(set(names)), "some objects are listed twice")
        _expect(len(names) == _MANY, f"only {len(names)} of {_MANY} objects are listed")
        _expect(all(info.size == expected[info.name] for info in found), "some objects are listed with a wrong size")

    def _check_uploads(self) -> None:
        content = os.urandom(_LARGE)
        name = object_name(content)
        self.stored.add((ObjectKind.PACK, name))
        upload = self._first.upload(ObjectKind.PACK)
        try:
            write_all_of(upload.write, content)
            with _missing_expected("an upload can be read before it is complete"):
                self._second.size(ObjectKind.PACK, name)
            upload.commit(name)
        finally:
            upload.abort()
        _expect(self._second.load(ObjectKind.PACK, name) == content, "an upload came back with other bytes")
        listed = [*self._second.list(ObjectKind.PACK)]
        upload = self._first.upload(ObjectKind.PACK)
        write_all_of(upload.write, content)
        upload.abort()
        _expect(_same(listed, [*self._second.list(ObjectKind.PACK)]), "an upload that was given up has left something")

    def _check_atomic(self) -> None:
        troubles: list[StorageError] = []
        for _ in range(3):
            self.go_on()
            content = os.urandom(_LARGE)
            name = object_name(content)
            stored = threading.Event()
            with ThreadPoolExecutor(1, thread_name_prefix="probe") as pool:
                reading = pool.submit(self._watch, name, stored)
                try:
                    self.save(ObjectKind.PACK, content)
                finally:
                    stored.set()
                troubles += reading.result()
        if troubles:
            raise BrokenPromise(f"reading fails for a moment: {troubles[0]}", warning=True)

    def _watch(self, name: str, stored: threading.Event) -> list[StorageError]:
        """Read an object again and again while it is being stored; the errors that were none when it was there."""
        troubles: list[StorageError] = []
        while not stored.is_set():
            try:
                data = self._second.load(ObjectKind.PACK, name)
            except StorageObjectMissing:
                continue
            except StorageError as error:
                troubles.append(error)
            else:
                _expect(object_name(data) == name, "a part of an object was read while it was being stored")
        _expect(object_name(self._second.load(ObjectKind.PACK, name)) == name, "an object is not what was stored")
        return troubles

    def _check_exclusive(self) -> None:
        together = threading.Barrier(_RIVALS)
        self.stored.add((ObjectKind.CONFIG, CONFIG_NAME))
        troubles: list[StorageError] = []

        def save(number: int) -> bytes | None:
            content = b"rival %d" % number
            together.wait()
            try:
                (self._first, self._second)[number % 2].save(ObjectKind.CONFIG, CONFIG_NAME, content)
            except StorageObjectExists:
                return None
            except StorageError as error:
                troubles.append(error)
                return None
            return content

        with ThreadPoolExecutor(_RIVALS, thread_name_prefix="probe") as pool:
            winners = [each for each in pool.map(save, range(_RIVALS)) if each is not None]
        _expect(bool(winners), f"nobody could store a config{f': {troubles[0]}' if troubles else ''}")
        if len(winners) > 1:
            raise BrokenPromise(
                f"{len(winners)} of {_RIVALS} succeeded: do not run 'init' twice at a time", warning=True
            )
        kept = self._second.load(ObjectKind.CONFIG, CONFIG_NAME)
        _expect(kept == winners[0], "the config is not that of the client that succeeded")
        if troubles:
            raise BrokenPromise(f"one succeeded, but others failed for a moment: {troubles[0]}", warning=True)

    def _check_deletion(self) -> None:
        for _ in range(_TIMES):
            self.go_on()
            content = os.urandom(100)
            name = self.save(ObjectKind.CLAIM, content)
            for _ in range(2):
                self._first.delete(ObjectKind.CLAIM, name)
            with _missing_expected("another client still reads what was deleted"):
                self._second.load(ObjectKind.CLAIM, name)
            listed = {info.name for info in self._second.list(ObjectKind.CLAIM)}
            _expect(name not in listed, "another client's listing still names what was deleted")
        self.save(ObjectKind.CLAIM, content)
        _expect(self._second.load(ObjectKind.CLAIM, name) == content, "what was deleted cannot be stored again")


def write_all_of(write: Callable[[Buffer], None], content: bytes) -> None:
    """Write in pieces, as packs are."""
    view = memoryview(content)
    for start in range(0, len(view), _PIECE):
        write(view[start : start + _PIECE])


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BrokenPromise(otherwise)


@contextmanager
def _missing_expected(otherwise: str) -> Iterator[None]:
    try:
        yield
    except StorageObjectMissing:
        return
    raise BrokenPromise(otherwise)


def _same(before: Sequence[ObjectInfo], after: Sequence[ObjectInfo]) -> bool:
    return {info.name for info in before} == {info.name for info in after}
