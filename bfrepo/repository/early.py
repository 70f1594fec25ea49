"""Asking a storage that is far away for what opens a repository while the program is still getting ready.

To load what a command consists of takes as long as some round trips, and so does finding the first key slot. Config and
slot are asked for at once, each on a connection of its own, which are at hand then for what comes next.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bfrepo.core.errors import BackupForgeError
from bfrepo.repository.usual_slot import usual_slot_at
from bfrepo.storage.base import CONFIG_NAME, Backend, ObjectInfo, ObjectKind
from bfrepo.storage.forwarding import ForwardingBackend


class EarlyBackend(ForwardingBackend):
    """Passes everything on to `inner`, but for the first reads of `open_repository`, which it has begun by itself.

    These are the config, the listing of key slots unless this machine knows which one fits there, and the first slot.
    Each is given out once; all calls after that are new ones. An error of the config is given out, too; what else
    failed is asked for anew by whoever wants it. Thread rule and errors are those of `inner`.
    """

    def __init__(self, inner: Backend, cache_dir: Path | None) -> None:
        super().__init__(inner)
        self._cache_dir = cache_dir
        self._config: bytes | BackupForgeError | None = None
        self._slots: list[ObjectInfo] | None = None
        self._slot: tuple[str, bytes] | None = None
        self._lock = threading.Lock()
        self._config_thread = threading.Thread(target=self._read_config, name="open-config", daemon=True)
        self._slot_thread = threading.Thread(target=self._read_slot, name="open-slot", daemon=True)
        self._config_thread.start()
        self._slot_thread.start()

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """See `Backend.load`."""
        if kind is ObjectKind.CONFIG:
            self._config_thread.join()
            with self._lock:
                config, self._config = self._config, None
            if isinstance(config, BackupForgeError):
                raise config
            if config is not None:
                return config
        elif kind is ObjectKind.KEY:
            self._slot_thread.join()
            with self._lock:
                if self._slot is not None and self._slot[0] == name:
                    (_, data), self._slot = self._slot, None
                    return data
        return self._inner.load(kind, name)

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        """See `Backend.list`."""
        found = None
        if kind is ObjectKind.KEY:
            self._slot_thread.join()
            with self._lock:
                found, self._slots = self._slots, None
        yield from self._inner.list(kind) if found is None else found

    def _read_config(self) -> None:
        try:
            self._config = self._inner.load(ObjectKind.CONFIG, CONFIG_NAME)
        except BackupForgeError as error:
            self._config = error

    def _read_slot(self) -> None:
        """The slot that is going to be tried first. There is none where nothing is encrypted."""
        with suppress(BackupForgeError):
            name = usual_slot_at(self._cache_dir, self.location)
            if name is None:
                self._slots = [*self._inner.list(ObjectKind.KEY)]
                name = self._slots[0].name if self._slots else None
            if name is not None:
                self._slot = name, self._inner.load(ObjectKind.KEY, name)
