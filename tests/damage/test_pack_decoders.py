"""Random bytes where a pack, its parts, its frames or a whole repository should be: an error of ours or a value."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.compression import Codec, Compression, Compressor, Expander
from bfrepo.core.ids import ID_SIZE, BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import MIB
from bfrepo.crypto.hashing import object_name
from bfrepo.crypto.keys import Keys
from bfrepo.data.node import Node
from bfrepo.index.format import IndexContent, PackEntry, encode_index
from bfrepo.index.index import Index
from bfrepo.index.table import FramePlace
from bfrepo.operations.check import check_without_key
from bfrepo.pack.format import HEAD_SIZE, PackCipher, decode_directory, expand_bounded, parse_head, parse_tail
from bfrepo.pack.reader import read_directory
from bfrepo.pack.writer import FinishedPack, FrameSealer, PackWriter
from bfrepo.repository.loader import Loader, open_frame
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import never, run_backup
from tests.support.damage import (
    EVERYTHING,
    copy_of,
    encode_tree,
    reopen_unread,
    replace_object,
    run_check,
    save_blob,
    save_snapshot,
)
from tests.support.fuzz import edited, ids, survives
from tests.support.repositories import FakeClock, make_repository, names

REPOSITORY_ID = b"\3" * ID_SIZE
KEYS = [Keys(b"\4" * 32), Keys(None)]


def write_pack(backend: MemoryBackend, keys: Keys, repository_id: bytes = REPOSITORY_ID) -> FinishedPack:
    """A small pack of two frames."""
    writer = PackWriter(backend.upload(ObjectKind.PACK), keys.pack_key, repository_id, BlobKind.DATA)
    sealer = FrameSealer(Compressor(Compression()), verify=True)
    for content in (b"first" * 50, b"second" * 50):
        sealer.add(writer, sealer.compress(memoryview(content)), object_id(content), array("I", [len(content)]))
    return writer.finish()


def object_id(content: Buffer) -> bytes:
    """The ID of a blob where nothing is encrypted."""
    return bytes.fromhex(object_name(content))


@given(
    st.binary() | st.binary(min_size=HEAD_SIZE, max_size=HEAD_SIZE) | edited(b"BFPACK\0\1\1" + bytes(32)), st.booleans()
)
def test_the_head_of_a_pack(head: bytes, encrypted: bool) -> None:
    """The first bytes."""
    survives(lambda: parse_head(head, pack="00000000", encrypted=encrypted))


@given(
    st.binary(min_size=8, max_size=8) | st.binary(min_size=4, max_size=4).map(lambda n: n + b"BFPE"),
    st.integers(0, 1 << 33),
)
def test_the_tail_of_a_pack(tail: bytes, size: int) -> None:
    """The last bytes."""
    survives(lambda: parse_tail(tail, pack="00000000", size=size))


@given(edited(write_pack(MemoryBackend(), KEYS[1]).directory.encode()))
def test_a_directory(data: bytes) -> None:
    """The plaintext of a directory, and an index that has it."""
    entry = PackEntry(id=bytes(32), size=1000, directory=data)
    survives(lambda: decode_directory(data, pack="00000000").encode())
    survives(lambda: Index().add("name", IndexContent(packs=[entry])))


@given(st.binary(), st.integers(0, 1 << 30))
def test_what_should_be_compressed(packed: bytes, limit: int) -> None:
    """Bytes that should be a zstd frame."""
    survives(lambda: expand_bounded(packed, limit))
    survives(lambda: expand_bounded(b"\x28\xb5\x2f\xfd" + packed, limit))


@pytest.mark.parametrize("codec", list(Codec))
@given(data=st.data())
def test_a_frame(codec: Codec, data: st.DataObject) -> None:
    """The stored bytes of a frame, sealed or not, and a length that may not be its own."""
    plain = b"some content " * 100
    compressor = Compressor(Compression(codec, 3 if codec is Codec.ZSTD else 0))
    valid = bytes(compressor.compress(memoryview(plain))[1])
    stored = data.draw(edited(valid))
    size = data.draw(st.just(len(plain)) | st.integers(0, 4 * MIB))
    place = FramePlace("00" * 32, BlobKind.DATA, 0, 0, len(stored), size, codec)
    for keys in KEYS:
        cipher = PackCipher(keys.pack_key, bytes(32), REPOSITORY_ID)
        packed, out = bytearray(len(stored) + 1), memoryview(bytearray(size))
        survives(lambda: open_frame(cipher, place, memoryview(stored), packed, Expander(), out))  # noqa: B023


@pytest.mark.parametrize("keys", KEYS)
@given(data=st.data())
def test_a_pack(keys: Keys, data: st.DataObject) -> None:
    """A pack read without any index, and its blobs through an index that trusts it (INV-4)."""
    backend = MemoryBackend()
    valid = backend.load(ObjectKind.PACK, write_pack(backend, keys).name)
    stored = data.draw(edited(valid))
    name = object_name(stored)
    backend.save(ObjectKind.PACK, name, stored)

    def read() -> None:
        _, directory = read_directory(backend, name, len(stored), keys.pack_key, REPOSITORY_ID)
        index = Index()
        index.add("name", IndexContent(packs=[PackEntry(bytes.fromhex(name), len(stored), directory.encode())]))
        loader = Loader(backend, index.table, object_id, keys.pack_key, REPOSITORY_ID)
        for blob_id, _ in index.table.blobs():
            assert object_id(loader.load(BlobKind.DATA, blob_id)) == blob_id

    survives(read)


# --- whole repositories, forged by somebody who may write whatever has the right name


@pytest.fixture(scope="module")
def plain() -> Repository:
    """A repository without encryption: anybody can forge what is in it."""
    repository = make_repository()
    run_backup(repository, {"/data/file": b"content" * 100, "/data/other": b"more" * 100})
    return repository


def check_survives(backend: MemoryBackend) -> None:
    """Fails unless every check ends with findings."""
    for read in (None, EVERYTHING):
        survives(lambda: run_check(backend, read))  # noqa: B023
    survives(lambda: check_without_key(backend, FakeClock(), Quiet(), never))


@given(st.data())
def test_a_forged_pack(plain: Repository, data: st.DataObject) -> None:
    """Any bytes in the place of a pack, or in a further one that an index describes as it likes."""
    backend = copy_of(plain.backend)
    name = data.draw(st.sampled_from(sorted(names(backend, ObjectKind.PACK))))
    stored = data.draw(edited(backend.load(ObjectKind.PACK, name)))
    if data.draw(st.booleans()):
        replace_object(backend, ObjectKind.PACK, name, stored)
    else:
        backend.save(ObjectKind.PACK, object_name(stored), stored)
        directory = data.draw(edited(write_pack(MemoryBackend(), KEYS[1]).directory.encode()))
        entry = PackEntry(bytes.fromhex(object_name(stored)), data.draw(st.integers(0, 1 << 40)), directory)
        reopen_unread(backend).objects.save(ObjectKind.INDEX, encode_index(IndexContent(packs=[entry])))
    check_survives(backend)


@given(st.data())
def test_a_forged_tree(plain: Repository, data: st.DataObject) -> None:
    """A snapshot whose root is any blob, in the index and under its right ID."""
    backend = copy_of(plain.backend)
    repository = reopen_unread(backend)
    repository.refresh_index()
    known = [blob_id for blob_id, _ in repository.index.table.blobs()]
    node = st.builds(
        Node,
        name=st.just(b"name"),
        type=st.sampled_from(["file", "dir", "symlink"]),
        size=st.integers(0, 5000),
        content=st.lists(st.sampled_from(known) | ids, max_size=2).map(b"".join),
        content_depth=st.integers(0, 4),
        holes=st.binary(max_size=32) | st.sampled_from(known),
        holes_depth=st.integers(0, 4),
        subtree=st.sampled_from(known) | ids | st.binary(),
    )
    root = data.draw(node.map(lambda node: encode_tree([node])) | edited(encode_tree([])))
    tree = save_blob(repository, BlobKind.TREE, root)
    save_snapshot(repository, data.draw(st.just(tree) | ids))
    check_survives(backend)
