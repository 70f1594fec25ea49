"""Small sealed objects: index, snapshots and claims. Compressed, sealed, named by the hash of what is stored.

    8 magic "BFOBJ", a zero and the version as 2 bytes, big-endian (1) | sealed zstd frame of the content

The kind is associated data, so an index never opens as a snapshot. The name is checked on every load, before the seal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import zstandard

from bfrepo.core.errors import BackupForgeError, DamagedObject, Interrupted, UnsupportedFormat
from bfrepo.crypto.hashing import object_name
from bfrepo.crypto.seal import Sealer, associated_data, seal, unseal
from bfrepo.pack.format import expand_bounded
from bfrepo.storage.base import Backend, ObjectKind

_MAGIC: Final = b"BFOBJ\x00\x00\x01"
MAX_OBJECT: Final = 1 << 30
"""Most plaintext bytes a small object may have."""


class ObjectStore:
    """Saves and loads sealed objects. May be used from several threads."""

    def __init__(self, backend: Backend, sealer: Sealer, repository_id: bytes) -> None:
        self._backend = backend
        self._sealer = sealer
        self._repository_id = repository_id

    def encode(self, kind: ObjectKind, content: bytes) -> tuple[str, bytes]:
        """The name and the stored bytes of an object, before it is saved."""
        packed = zstandard.ZstdCompressor(level=6).compress(content)
        data = _MAGIC + seal(self._sealer, packed, self._associated(kind))
        return object_name(data), data

    def save(self, kind: ObjectKind, content: bytes) -> str:
        """Store an object; its name."""
        name, data = self.encode(kind, content)
        self._backend.save(kind, name, data)
        return name

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """An object's content. Raises StorageObjectMissing, DamagedObject or UnsupportedFormat."""
        data = self._backend.load(kind, name)
        what = f"{describe(kind)} {name[:8]} in {self._backend.location}"
        if object_name(data) != name:
            raise DamagedObject(f"{what}: its bytes are not those that were written")
        if data[:5] != _MAGIC[:5]:
            raise DamagedObject(f"{what}: does not start like one")
        if data[:8] != _MAGIC:
            raise UnsupportedFormat(f"{what}: its version is not known to this program", hint="use a newer backupforge")
        try:
            packed = unseal(self._sealer, memoryview(data)[8:], self._associated(kind))
            return expand_bounded(packed, MAX_OBJECT)
        except DamagedObject as error:
            raise DamagedObject(f"{what}: {error}") from error

    def load_many(self, kind: ObjectKind, names: Iterable[str]) -> Iterator[tuple[str, bytes | BackupForgeError]]:
        """Several objects in order, each with its content or what is wrong with it.

        As many are read at once as the storage likes, and few ahead of whoever takes them: they may be large.
        """
        wanted = list(names)
        connections = min(self._backend.connections, len(wanted))
        if connections < 2:
            yield from ((name, self._try_load(kind, name)) for name in wanted)
            return
        ahead: deque[tuple[str, Future[bytes | BackupForgeError]]] = deque()
        with ThreadPoolExecutor(connections, thread_name_prefix="objects") as pool:
            for name in wanted:
                ahead.append((name, pool.submit(self._try_load, kind, name)))
                if len(ahead) > 2 * connections:
                    first, content = ahead.popleft()
                    yield first, content.result()
            while ahead:
                first, content = ahead.popleft()
                yield first, content.result()

    def _try_load(self, kind: ObjectKind, name: str) -> bytes | BackupForgeError:
        try:
            return self.load(kind, name)
        except Interrupted:
            raise  # this says nothing about the object
        except BackupForgeError as error:
            return error

    def _associated(self, kind: ObjectKind) -> bytes:
        return associated_data(self._repository_id, kind.value)


def describe(kind: ObjectKind) -> str:
    """The kind as a word for messages: "index", "snapshot", "pack"..."""
    return kind.name.lower()
