"""Reading a pack without any index: its directory from its end, and the whole of it for a check."""

from __future__ import annotations

from bfrepo.core.errors import DamagedObject
from bfrepo.core.protocols import Buffer
from bfrepo.pack.format import HEAD_SIZE, TAIL_SIZE, PackCipher, PackDirectory, parse_head, parse_tail
from bfrepo.storage.base import Backend, ObjectKind

_TAIL_GUESS = 64 << 10
"""Bytes read from the end at first:

the directory of a pack of large chunks fits, one of small files takes a second read.
"""


def read_cipher(backend: Backend, name: str, pack_key: bytes | None, repository_id: bytes) -> PackCipher:
    """What opens the frames of a pack: one small read."""
    return make_cipher(backend.read(ObjectKind.PACK, name, 0, HEAD_SIZE), name, pack_key, repository_id)


def make_cipher(head: bytes, name: str, pack_key: bytes | None, repository_id: bytes) -> PackCipher:
    """What opens the frames of a pack that begins with `head`. Raises DamagedObject or UnsupportedFormat."""
    return PackCipher(pack_key, parse_head(head, pack=name[:8], encrypted=pack_key is not None), repository_id)


def read_directory(
    backend: Backend, name: str, size: int, pack_key: bytes | None, repository_id: bytes
) -> tuple[PackCipher, PackDirectory]:
    """A pack's directory, read from the pack itself.

    Raises DamagedObject when it is not one or its lengths do not add up.
    """
    if size < HEAD_SIZE + TAIL_SIZE:
        raise DamagedObject(f"pack {name[:8]}: {size} bytes are too few for a pack")
    cipher = read_cipher(backend, name, pack_key, repository_id)
    guess = min(size - HEAD_SIZE, _TAIL_GUESS)
    tail = backend.read(ObjectKind.PACK, name, size - guess, guess)
    length = parse_tail(tail[-TAIL_SIZE:], pack=name[:8], size=size)
    if length + TAIL_SIZE <= guess:
        sealed: Buffer = memoryview(tail)[-TAIL_SIZE - length : -TAIL_SIZE]
    else:
        sealed = backend.read(ObjectKind.PACK, name, size - TAIL_SIZE - length, length)
    directory = cipher.open_directory(sealed, pack=name[:8])
    check_size(directory, len(sealed), size, pack=name[:8])
    return cipher, directory


def check_size(directory: PackDirectory, sealed_directory: int, size: int, *, pack: str) -> None:
    """Raise DamagedObject unless head, frames, directory and tail are all there is."""
    if HEAD_SIZE + sum(directory.stored_sizes) + sealed_directory + TAIL_SIZE != size:
        raise DamagedObject(f"pack {pack}: its parts do not add up to its {size} bytes")
