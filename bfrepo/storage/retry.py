"""Calls that fail are made again, until the storage answers or patience has run out.

What is tried again     Every StorageError but its permanent subclasses; see storage/base.py. DamagedObject never: other
                        bytes would be another object. The one exception is `load`, where the name tells what the bytes
                        must hash to: what a network has changed on the way is asked for again, and what stays wrong is
                        returned as it is, for whoever knows what to say about it.
When                    After a random time between nothing and a bound that doubles from 0.5 s to 30 s ("full jitter":
                        M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015; it spreads out clients
                        that have failed at the same moment). A storage that says how long to wait is obeyed.
For how long            15 minutes from a call's first failure; one minute as long as nothing was ever answered, because
                        then the location is probably wrong.

Listings are taken in whole before the first item is passed on, and a listing that breaks off is begun anew: what has
arrived of it until then counts for nothing. An error is never a shorter listing.

Uploads wait in a spool until their commit, which sends them, from their beginning each time. So nothing is lost that
fails half-way, and whoever writes does not wait for the network.

The save of `config` is the one call that must not simply be made twice. When a second try is told that there is a
config already, it may be the one that the first try has stored before its answer was lost: it is compared.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from blake3 import blake3

from bfrepo.core.errors import (
    StorageDenied,
    StorageError,
    StorageFull,
    StorageObjectArchived,
    StorageObjectExists,
    StorageObjectMissing,
)
from bfrepo.core.protocols import Buffer
from bfrepo.storage.abilities import delete_many, extend_lock, present, send, take
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind, Upload
from bfrepo.storage.forwarding import ForwardingBackend
from bfrepo.storage.layout import object_path
from bfrepo.storage.pausing import Pausing
from bfrepo.storage.spool import Spool
from bfrepo.storage.warming import Archive, Warmth, archive_of

T = TypeVar("T")

_PERMANENT: Final = (StorageObjectMissing, StorageObjectExists, StorageObjectArchived, StorageDenied, StorageFull)

_FIRST_BOUND_S: Final = 0.5
_LAST_BOUND_S: Final = 30.0
_PATIENCE_S: Final = 15 * 60.0
_FIRST_PATIENCE_S: Final = 60.0
_SAY_AFTER_S: Final = 5.0
_SAY_EVERY_S: Final = 60.0
_MOST_LOADS: Final = 3


def _say_nothing(message: str) -> None:
    """For who has nobody to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How to go about it.

    `notify` gets a line for the user when the storage has not answered for some seconds, about once a minute from then
    on, and when it answers again; any thread calls it. `random` gives numbers from 0 to 1.
    """

    pausing: Pausing = field(default_factory=Pausing)
    random: Callable[[], float] = random.random
    notify: Callable[[str], None] = _say_nothing


class RetryingBackend(ForwardingBackend):
    """Passes everything on to `inner`, again and again if need be.

    Thread rule and errors are those of `inner`; besides, every call raises Interrupted when the user wants the work to
    end while the storage does not answer.
    """

    def __init__(self, inner: Backend, policy: RetryPolicy) -> None:
        super().__init__(inner)
        self._attempts = _Attempts(inner.location, policy)

    def create(self) -> None:
        """See `Backend.create`. What a try that failed has left is the empty frame that the next one accepts."""
        self._attempts.make(self._inner.create)

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        """See `Backend.list`. Nothing is asked for before the first item is, and then everything."""
        yield from self._attempts.make(lambda: [*self._inner.list(kind)])

    def size(self, kind: ObjectKind, name: str) -> int:
        """See `Backend.size`."""
        return self._attempts.make(lambda: self._inner.size(kind, name))

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """See `Backend.load`."""
        data = self._attempts.make(lambda: self._inner.load(kind, name))
        if kind is ObjectKind.CONFIG:
            return data
        for _ in range(_MOST_LOADS - 1):
            if blake3(data).hexdigest() == name:
                break
            data = self._attempts.make(lambda: self._inner.load(kind, name))
        return data

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        """See `Backend.read`."""
        return self._attempts.make(lambda: self._inner.read(kind, name, offset, length))

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        """See `Backend.read_into`."""
        self._attempts.make(lambda: self._inner.read_into(kind, name, offset, buffer))

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        """See `Backend.save`."""
        if kind is ObjectKind.CONFIG:
            self._save_config(name, bytes(data))
        else:
            self._attempts.make(lambda: self._inner.save(kind, name, data))

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        """See `Backend.upload`. Nothing is sent before the commit, so that is what raises whatever goes wrong there.

        StorageError of a `write` means that this machine has no room for what is to be uploaded.
        """
        if kind is ObjectKind.CONFIG:
            raise ValueError("config is saved whole, never uploaded")
        return _RetryingUpload(self._inner, self._attempts, kind, cold=cold)

    def delete(self, kind: ObjectKind, name: str) -> None:
        """See `Backend.delete`."""
        self._attempts.make(lambda: self._inner.delete(kind, name))

    def delete_many(self, kind: ObjectKind, names: Sequence[str]) -> None:
        """See `BatchDeleter`."""
        self._attempts.make(lambda: delete_many(self._inner, kind, names))

    def present(self, kind: ObjectKind, names: Collection[str]) -> set[str]:
        """See `Prober`."""
        return self._attempts.make(lambda: present(self._inner, kind, names))

    def take(self, kind: ObjectKind, name: str) -> bool:
        """See `Taker`."""
        return self._attempts.make(lambda: take(self._inner, kind, name))

    def send(self, kind: ObjectKind, name: str, spool: Spool, *, cold: bool) -> None:
        """See `SpoolSender`."""
        self._attempts.make(lambda: send(self._inner, kind, name, spool, cold=cold))

    def extend_lock(self, kind: ObjectKind, name: str) -> None:
        """See `Locker`."""
        self._attempts.make(lambda: extend_lock(self._inner, kind, name))

    @property
    def archive(self) -> Archive | None:
        """See `Archiver`."""
        archive = archive_of(self._inner)
        return _RetryingArchive(archive, self._attempts) if archive is not None else None

    def _save_config(self, name: str, data: bytes) -> None:
        tries = 0

        def save() -> None:
            nonlocal tries
            tries += 1
            try:
                self._inner.save(ObjectKind.CONFIG, name, data)
            except StorageObjectExists:
                if tries == 1 or self._inner.load(ObjectKind.CONFIG, name) != data:
                    raise

        self._attempts.make(save)


class _Attempts:
    """Makes calls, and knows when the storage last answered and what the user was told. For any thread."""

    def __init__(self, location: str, policy: RetryPolicy) -> None:
        self._location = location
        self._policy = policy
        self._pausing = policy.pausing
        self._lock = threading.Lock()
        self._answered = False
        self._said_at: float | None = None

    def make(self, call: Callable[[], T]) -> T:
        """What `call` returns when it succeeds. Raises what it raises when another try will not help, StorageError when
        patience has run out, and Interrupted."""
        begun = failed = None
        tries = 0
        while True:
            tried = self._pausing.now()
            begun = tried if begun is None else begun
            try:
                result = call()
            except _PERMANENT:
                self._note_answer()
                raise
            except StorageError as error:
                failed = self._pausing.now() if failed is None else failed
                tries += 1
                self._pause(error, tries, begun, failed)
            else:
                self._note_answer()
                return result

    def _pause(self, error: StorageError, tries: int, begun: float, failed: float) -> None:
        """Wait before the next try. `begun` is when the first one was, `failed` when it had failed."""
        now = self._pausing.now()
        left = failed + (_PATIENCE_S if self._answered else _FIRST_PATIENCE_S) - now
        bound = min(_LAST_BOUND_S, _FIRST_BOUND_S * 2 ** min(tries - 1, 10))
        pause = max(self._policy.random() * bound, error.retry_after_s or 0)
        if left <= 0 or (error.retry_after_s or 0) > left:
            raise StorageError(
                f"{error} (tried {tries} times in {_in_words(now - begun)})",
                hint=error.hint or "check the location, the network and the storage; what was stored is kept",
            ) from error
        pause = min(pause, left)
        if now + pause - begun >= _SAY_AFTER_S:
            self._say(error, left)
        self._pausing.wait(pause, str(error))

    def _say(self, error: StorageError, left: float) -> None:
        """Tell the user, once for all threads."""
        now = self._pausing.now()
        with self._lock:
            if self._said_at is not None and now - self._said_at < _SAY_EVERY_S:
                return
            self._said_at = now
        self._policy.notify(f"the storage does not answer, trying again for {_in_words(left)}: {error}")

    def _note_answer(self) -> None:
        if self._answered and self._said_at is None:  # as nearly always: no lock for that
            return
        with self._lock:
            self._answered = True
            said, self._said_at = self._said_at is not None, None
        if said:
            self._policy.notify(f"{self._location} answers again")


class _RetryingUpload:
    """A spool that is sent when it is complete."""

    __slots__ = ("_attempts", "_cold", "_inner", "_kind", "_spool")

    def __init__(self, inner: Backend, attempts: _Attempts, kind: ObjectKind, *, cold: bool) -> None:
        self._inner = inner
        self._attempts = attempts
        self._kind = kind
        self._cold = cold
        self._spool: Spool | None = Spool()

    def write(self, data: Buffer) -> None:
        self._open_spool().write(data)

    def commit(self, name: str) -> None:
        spool = self._open_spool()
        try:
            object_path(self._kind, name)  # refuses what is no name before anything is sent
            self._attempts.make(lambda: send(self._inner, self._kind, name, spool, cold=self._cold))
        finally:
            self.abort()

    def abort(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _open_spool(self) -> Spool:
        if self._spool is None:
            raise ValueError("the upload has ended")
        return self._spool


class _RetryingArchive:
    """See `Archive`."""

    def __init__(self, inner: Archive, attempts: _Attempts) -> None:
        self._inner = inner
        self._attempts = attempts

    def holds_any(self) -> bool:
        return self._attempts.make(self._inner.holds_any)

    def warmth(self, name: str) -> Warmth:
        return self._attempts.make(lambda: self._inner.warmth(name))

    def request(self, name: str) -> None:
        self._attempts.make(lambda: self._inner.request(name))


def _in_words(seconds: float) -> str:
    return f"{round(seconds / 60)} min" if seconds >= 90 else f"{round(seconds)} s"
