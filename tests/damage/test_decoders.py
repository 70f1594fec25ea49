"""Random bytes into every decoder of small things: an error of ours or a value, in bounded memory; never a crash."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.checker.content import content_fault
from bfrepo.core.errors import MissingBlob
from bfrepo.core.ids import ID_SIZE, BlobKind
from bfrepo.core.units import MIB
from bfrepo.crypto.hashing import object_name
from bfrepo.crypto.kdf import KdfParams
from bfrepo.crypto.keys import Keys, SlotInfo, make_slot, open_slot, slot_info
from bfrepo.crypto.seal import associated_data, seal
from bfrepo.data.node import Node
from bfrepo.data.records import load_records, record_blobs, split_ids
from bfrepo.data.references import content_ids
from bfrepo.data.snapshot import decode_claim, decode_snapshot
from bfrepo.data.tree import decode_tree, load_tree
from bfrepo.index.cache import CacheHeader, IndexCache
from bfrepo.index.format import PackFlag, decode_index
from bfrepo.index.index import Index
from bfrepo.index.table import BlobTable
from bfrepo.pack.format import PackDirectory
from bfrepo.repository.config import decode_config, decode_head, encode_config, new_config
from bfrepo.repository.objects import ObjectStore
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.blobs import MemoryBlobs
from tests.support.damage import encode_tree
from tests.support.fuzz import changed, edited, ids, survives
from tests.support.repositories import START, cheap_kdf_params

SECRET = Keys(b"\4" * 32)
REPOSITORY_ID = b"\3" * ID_SIZE
INFO = SlotInfo(label="first", host="here", created=START.isoformat())
TIME = START.isoformat()


class Blobs(MemoryBlobs):
    """Gives out whatever blobs it is told to."""

    def __init__(self, contents: Mapping[bytes, bytes]) -> None:
        super().__init__()
        self._contents = contents

    def load(self, kind: BlobKind, blob_id: bytes) -> bytes:
        """See BlobLoader."""
        if blob_id not in self._contents:
            raise MissingBlob("not among the blobs of the test")
        return self._contents[blob_id]


CONFIG = new_config(created=TIME)


@given(edited(encode_config(CONFIG, SECRET)))
def test_config(data: bytes) -> None:
    """`config`, before anything is opened."""
    survives(lambda: decode_config(decode_head(data, location="here"), SECRET, location="here"))


SEALED_CONFIG = {
    "chunker": "fastcdc",
    "seed": bytes(32),
    "compression": "zstd:3",
    "pack_size": 64 * MIB,
    "created": TIME,
}


@given(changed(SEALED_CONFIG) | st.text().map(lambda text: msgspec.msgpack.encode({**SEALED_CONFIG, "chunker": text})))
def test_the_sealed_part_of_config(content: bytes) -> None:
    """The sealed part of `config`, well sealed."""
    head = decode_head(encode_config(CONFIG, SECRET), location="here")
    bound_to = associated_data(CONFIG.repository_id, "config") + head.stored.header()
    head.stored.sealed = seal(SECRET.object_sealer(), content, bound_to)
    survives(lambda: decode_config(head, SECRET, location="here"))


@pytest.fixture(scope="module")
def slot() -> bytes:
    """A key slot that takes no time to open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bfrepo.crypto.keys.kdf_params", cheap_kdf_params)
        return make_slot(SECRET, b"password", INFO, REPOSITORY_ID)


@given(st.data())
def test_a_key_slot(slot: bytes, data: st.DataObject) -> None:
    """A password slot, with its costs left alone."""
    stored = data.draw(edited(slot))
    with pytest.MonkeyPatch.context() as patch:
        # what a slot may ask of the machine is bounded by KdfParams, and still too much for a test
        patch.setattr("bfrepo.crypto.keys.derive_slot_key", lambda password, params: bytes(32))
        survives(lambda: open_slot(stored, b"password", REPOSITORY_ID, name="00" * 32))
    survives(lambda: slot_info(stored, SECRET, REPOSITORY_ID, name="00" * 32))


@given(st.integers(1, 2), st.integers(8, 64), st.integers(1, 64), st.binary(min_size=8, max_size=64))
def test_the_costs_in_a_key_slot(time_cost: int, memory_kib: int, lanes: int, salt: bytes) -> None:
    """Costs that each are within bounds may make no sense together."""
    from bfrepo.crypto.kdf import derive_slot_key

    costs = KdfParams(time_cost=time_cost, memory_kib=memory_kib, lanes=lanes, salt=salt)
    survives(lambda: derive_slot_key(b"password", costs))


def flag(pack: bytes) -> PackFlag:
    """A flag on a pack."""
    return PackFlag(id=b"\5" * 16, state="doomed", pack=pack, time=TIME)


INDEX: dict[str, Any] = {
    "version": 1,
    "packs": [{"id": b"\1" * 32, "size": 1000, "directory": PackDirectory.empty(BlobKind.DATA).encode()}],
    "flags": [msgspec.to_builtins(flag(b"\1" * 32), builtin_types=(bytes,))],
    "revoked": [b"\6" * 16],
}


@given(changed(INDEX))
def test_an_index_object(content: bytes) -> None:
    """The content of an index object, and taking it in."""
    index = Index()

    def take_in() -> None:
        index.add("name", decode_index(content, name="00" * 32))
        index.apply_flags()

    survives(take_in)


SNAPSHOT: dict[str, Any] = {
    "version": 1, "time": TIME, "tree": b"\1" * 32, "paths": [b"/data"], "hostname": "here", "username": "me",
    "excludes": [], "tags": ["a"], "label": "", "parent": b"", "program": "tests", "summary": {"files": 1},
}  # fmt: skip


@given(changed(SNAPSHOT))
def test_a_snapshot(content: bytes) -> None:
    """The content of a snapshot."""
    survives(lambda: decode_snapshot(content, name="00" * 32).when)


CLAIM: dict[str, Any] = {"version": 1, "tree": b"\1" * 32, "snapshot": b"\2" * 32, "time": TIME, "hostname": "here"}


@given(changed(CLAIM))
def test_a_claim(content: bytes) -> None:
    """The content of a claim."""
    survives(lambda: decode_claim(content, name="00" * 32))


NODE = msgspec.to_builtins(
    Node(name=b"name", size=32, content=b"\1" * 32, xattrs=[(b"user.a", b"b")], holes=bytes(16)), builtin_types=(bytes,)
)
nodes = changed({**NODE, "t": "dir", "e": b"\2" * 32, "O": 1, "H": 1, "k": b"target"}).map(
    lambda node: b"\x93\x01\x91" + node + b"\xc4\x00"
)


@given(edited(encode_tree([Node(name=b"a"), Node(name=b"b", type="dir", subtree=b"\1" * 32)])) | nodes)
def test_a_tree(content: bytes) -> None:
    """A blob that should be a tree."""
    survives(lambda: decode_tree(bytes(32), content))
    survives(lambda: load_tree(Blobs({bytes(32): content}), bytes(32)))


@given(st.lists(st.sampled_from([b"\0" * 32, b"\1" * 32, b"\2" * 32, b"short"]), max_size=4), st.binary(), st.binary())
def test_a_tree_of_several_blobs(parts: list[bytes], first: bytes, second: bytes) -> None:
    """A tree whose parts are missing, itself, or no trees."""
    root = msgspec.msgpack.encode([1, [], b"".join(parts)])
    blobs = Blobs({b"\0" * 32: root, b"\1" * 32: encode_tree([Node(name=first or b"a")]), b"\2" * 32: second})
    survives(lambda: load_tree(blobs, b"\0" * 32))


@given(st.dictionaries(ids, st.binary(), max_size=4), st.integers(-2, 6), st.data())
def test_lists_of_records(blobs: dict[bytes, bytes], depth: int, data: st.DataObject) -> None:
    """Lists of IDs and holes, direct and indirect."""
    known = st.lists(st.sampled_from([*sorted(blobs), bytes(32)])).map(b"".join)
    packed = data.draw(st.binary() | known)
    survives(lambda: load_records(Blobs(blobs), packed, depth))
    survives(lambda: list(record_blobs(Blobs(blobs), packed, depth)))
    survives(lambda: split_ids(packed))
    survives(lambda: content_ids(Blobs(blobs), Node(name=b"a", content=packed, content_depth=depth)))


@given(st.integers(0, (1 << 63) - 1), st.binary(), st.lists(st.integers(-1, 1 << 32)))
def test_holes_and_sizes(size: int, holes: bytes, blob_sizes: list[int]) -> None:
    """Holes and blob sizes of a file."""
    survives(lambda: content_fault(size, holes, blob_sizes))


@pytest.mark.parametrize("keys", [SECRET, Keys(None)])
@given(data=st.data())
def test_a_sealed_object(keys: Keys, data: st.DataObject) -> None:
    """A small object under its right name, whatever its bytes."""
    backend = MemoryBackend()
    store = ObjectStore(backend, keys.object_sealer(), REPOSITORY_ID)
    _, valid = store.encode(ObjectKind.INDEX, b"content" * 20)
    stored = data.draw(edited(valid) | st.binary().map(lambda more: valid[:8] + more))
    backend.save(ObjectKind.INDEX, object_name(stored), stored)
    survives(lambda: store.load(ObjectKind.INDEX, object_name(stored)))


def test_an_object_that_claims_to_be_large() -> None:
    """A few bytes that say they hold a gigabyte are refused before memory is taken for it."""
    backend = MemoryBackend()
    store = ObjectStore(backend, Keys(None).object_sealer(), REPOSITORY_ID)
    frame = zstandard.ZstdCompressor().compress(b"a" * 1000)
    claims = frame[:4] + bytes([0xA0]) + (1 << 29).to_bytes(4, "little") + frame[7:]
    stored = store.encode(ObjectKind.INDEX, b"")[1][:8] + claims
    assert zstandard.frame_content_size(claims) == 1 << 29
    backend.save(ObjectKind.INDEX, object_name(stored), stored)
    survives(lambda: store.load(ObjectKind.INDEX, object_name(stored)))


def cache_bytes(keys: Keys) -> bytes:
    """What IndexCache writes."""
    table, directory = BlobTable(), PackDirectory.empty(BlobKind.DATA)
    table.add_pack(b"\1" * 32, 1000, directory)
    with tempfile.TemporaryDirectory() as folder:
        IndexCache(Path(folder), keys.cache_sealer(), REPOSITORY_ID).save(
            CacheHeader(objects=["00" * 32], flags=[flag(b"\1" * 32)], revoked=[]), table
        )
        return (Path(folder) / "index").read_bytes()


@pytest.mark.parametrize("keys", [SECRET, Keys(None)])
def test_the_index_cache(keys: Keys, tmp_path: Path) -> None:
    """A damaged cache is no error at all: it is as if there were none, never one that says something else."""
    valid = cache_bytes(keys)
    cache = IndexCache(tmp_path, keys.cache_sealer(), REPOSITORY_ID)
    (tmp_path / "index").write_bytes(valid)
    loaded = cache.load()
    assert loaded is not None
    whole = (loaded[0], list(loaded[1].packs()))

    @given(edited(valid) | st.binary().map(lambda more: valid[:8] + more))
    def load(stored: bytes) -> None:
        (tmp_path / "index").write_bytes(stored)
        survives(cache.load)
        loaded = cache.load()
        assert loaded is None or (loaded[0], list(loaded[1].packs())) == whole

    load()
