"""Input that nobody would write, and how a decoder must take it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from hypothesis import strategies as st

from bfrepo.core.errors import BackupForgeError
from bfrepo.core.ids import ID_SIZE
from bfrepo.core.units import MIB

MOST_MEMORY = 32 * MIB
"""What a decoder may take for the few hundred bytes it is given."""

ids = st.binary(min_size=ID_SIZE, max_size=ID_SIZE)

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary() | ids,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def edited(valid: bytes) -> st.SearchStrategy[bytes]:
    """Random bytes, nesting without end, or `valid` with pieces of it replaced, taken out or put in."""
    edit = st.tuples(st.integers(0, len(valid)), st.integers(0, 4) | st.integers(0, len(valid)), st.binary(max_size=40))

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = valid
        for position, taken_out, put_in in edits:
            data = data[:position] + put_in + data[position + taken_out :]
        return data

    endless = st.sampled_from([b"\x91", b"\x81\xa1a", b"[", b'{"a":']).map(lambda piece: piece * 5000)
    return st.binary() | endless | st.lists(edit, min_size=1, max_size=3).map(apply)


def changed(valid: Mapping[str, Any]) -> st.SearchStrategy[bytes]:
    """A MessagePack map like `valid` with some values replaced by anything at all, or edited as bytes."""
    replaced = st.dictionaries(st.sampled_from(sorted(valid)), values, min_size=1)
    whole = replaced.map(lambda new: msgspec.msgpack.encode({**valid, **new}))
    return whole | edited(msgspec.msgpack.encode(valid))


def survives(decode: Callable[[], object]) -> None:
    """Fails unless `decode` ends with a value or with an error of ours, within bounded memory."""
    tracemalloc.start()
    try:
        with suppress(BackupForgeError):
            decode()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MOST_MEMORY
