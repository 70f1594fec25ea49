"""So many bytes a second and no more, up and down, whatever number of connections share them.

Bytes are counted where they enter and leave the storage: uploads a small piece at a time before it is sent, downloads
when they have arrived. A request that was answered at the speed of the line is paid for by a pause before the next one,
so the rate holds over seconds, not over milliseconds. Listings, headers and what a transport adds are not counted.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final

from bfrepo.core.protocols import Buffer
from bfrepo.core.units import KIB
from bfrepo.storage.abilities import send_by_upload
from bfrepo.storage.base import Backend, ObjectKind, Upload
from bfrepo.storage.forwarding import ForwardingBackend
from bfrepo.storage.pausing import Pausing
from bfrepo.storage.spool import Spool

_CREDIT_S: Final = 1.0
"""Time for which unused rate is kept: after a pause that much may go at once."""

_PIECES_A_SECOND: Final = 4
_LARGEST_PIECE: Final = 256 * KIB
_SMALLEST_PIECE: Final = 4 * KIB


class Bucket:
    """Lets `rate` bytes pass a second. Any thread may take; all of them together get the rate, in their order."""

    def __init__(self, rate: int, pausing: Pausing) -> None:
        self.piece = min(max(rate // _PIECES_A_SECOND, _SMALLEST_PIECE), _LARGEST_PIECE)
        """Bytes worth taking at once: so many that the pauses stay short, so few that there are not too many."""
        self._rate = rate
        self._pausing = pausing
        self._lock = threading.Lock()
        self._paid_until = pausing.now() - _CREDIT_S

    def take(self, size: int) -> None:
        """Return when `size` bytes have had the time that they take. Raises Interrupted."""
        with self._lock:
            now = self._pausing.now()
            self._paid_until = max(self._paid_until, now - _CREDIT_S) + size / self._rate
            pause = self._paid_until - now
        if pause > 0:
            self._pausing.wait(pause, "the rate of transfers is limited")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes a second to the storage and from it; None where there is no limit.

    All backends that share the object share the rates.
    """

    upload: int | None
    download: int | None
    pausing: Pausing = field(default_factory=Pausing)
    up: Bucket | None = field(init=False, repr=False)
    down: Bucket | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "up", Bucket(self.upload, self.pausing) if self.upload else None)
        object.__setattr__(self, "down", Bucket(self.download, self.pausing) if self.download else None)


class LimitedBackend(ForwardingBackend):
    """Passes everything on to `inner`, no faster than the limits allow. Thread rule and errors are those of `inner`."""

    def __init__(self, inner: Backend, limits: Limits) -> None:
        super().__init__(inner)
        self._up = limits.up
        self._down = limits.down

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """See `Backend.load`."""
        data = self._inner.load(kind, name)
        self._has_come(len(data))
        return data

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        """See `Backend.read`."""
        data = self._inner.read(kind, name, offset, length)
        self._has_come(length)
        return data

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        """See `Backend.read_into`."""
        self._inner.read_into(kind, name, offset, buffer)
        self._has_come(buffer.nbytes)

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        """See `Backend.save`."""
        if self._up is not None:
            self._up.take(memoryview(data).nbytes)
        self._inner.save(kind, name, data)

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        """See `Backend.upload`."""
        upload = self._inner.upload(kind, cold=cold)
        return _LimitedUpload(upload, self._up) if self._up is not None else upload

    def send(self, kind: ObjectKind, name: str, spool: Spool, *, cold: bool) -> None:
        """See `SpoolSender`. Where there is a limit it goes piece by piece."""
        if self._up is None:
            super().send(kind, name, spool, cold=cold)
        else:
            send_by_upload(self, kind, name, spool, cold=cold)

    def _has_come(self, size: int) -> None:
        if self._down is not None:
            self._down.take(size)


class _LimitedUpload:
    __slots__ = ("_bucket", "_inner")

    def __init__(self, inner: Upload, bucket: Bucket) -> None:
        self._inner = inner
        self._bucket = bucket

    def write(self, data: Buffer) -> None:
        rest = memoryview(data).cast("B")
        if not rest:
            self._inner.write(rest)  # which refuses it if the upload has ended
        while rest:
            piece, rest = rest[: self._bucket.piece], rest[self._bucket.piece :]
            self._bucket.take(len(piece))
            self._inner.write(piece)

    def commit(self, name: str) -> None:
        self._inner.commit(name)

    def abort(self) -> None:
        self._inner.abort()
