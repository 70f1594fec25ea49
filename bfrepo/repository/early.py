"""Asking a storage that is far away for what opens a repository while the program is still getting ready.

To load what a command consists of takes as long as some round trips, and to find the first key slot takes four of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bfrepo.core.errors import BackupForgeError
from bfrepo.storage.base import CONFIG_NAME, Backend, ObjectInfo, ObjectKind
from bfrepo.storage.forwarding import ForwardingBackend


class EarlyBackend(ForwardingBackend):
    """Passes everything on to `inner`, but for the first reads of `open_repository`, which it has begun by itself.

    These are the config, the listing of key slots unless this machine knows which one fits, and the first slot. Each is
    given out once; all calls after that are new ones. An error of the config is given out, too; what else failed is
    asked for anew by whoever wants it. Thread rule and errors are those of `inner`.
    """

    def __init__(self, inner: Backend, cache_dir: Path | None) -> None:
        super().__init__(inner)
        self._cache_dir = cache_dir
        self._config: bytes | BackupForgeError | None = None
        self._config_known = threading.Event()
        self._slots: list[ObjectInfo] | None = None
        self._slot: tuple[str, bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="open-ahead", daemon=True)
        self._thread.start()

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """See `Backend.load`."""
        if kind is ObjectKind.CONFIG:
            self._config_known.wait()
            with self._lock:
                config, self._config = self._config, None
            if isinstance(config, BackupForgeError):
                raise config
            if config is not None:
                return config
        elif kind is ObjectKind.KEY:
            self._thread.join()
            with self._lock:
                if self._slot is not None and self._slot[0] == name:
                    (_, data), self._slot = self._slot, None
                    return data
        return self._inner.load(kind, name)

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        """See `Backend.list`."""
        found = None
        if kind is ObjectKind.KEY:
            self._thread.join()
            with self._lock:
                found, self._slots = self._slots, None
        yield from self._inner.list(kind) if found is None else found

    def _work(self) -> None:
        with suppress(BackupForgeError):
            name = self._find_slot(self._read_config())
            if name is not None:
                self._slot = name, self._inner.load(ObjectKind.KEY, name)

    def _read_config(self) -> bytes:
        try:
            data = self._inner.load(ObjectKind.CONFIG, CONFIG_NAME)
            self._config = data
            return data
        except BackupForgeError as error:
            self._config = error
            raise
        finally:
            self._config_known.set()

    def _find_slot(self, config: bytes) -> str | None:
        """The slot that is going to be tried first; None where nothing is encrypted."""
        # To load these takes as long as the answer of the storage, so that is asked for first.
        from bfrepo.repository.config import decode_head  # noqa: PLC0415
        from bfrepo.repository.usual_slot import UsualSlot  # noqa: PLC0415

        head = decode_head(config, location=self.location)
        if head.encryption == "none":
            return None
        usual = UsualSlot(self._cache_dir / head.repository_id.hex() if self._cache_dir is not None else None)
        if usual.name is not None:
            return usual.name
        self._slots = [*self._inner.list(ObjectKind.KEY)]
        return self._slots[0].name if self._slots else None
