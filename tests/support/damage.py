"""A small repository with two snapshots, and the words to damage one place of it and to check it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from bfrepo.checker.findings import Finding
from bfrepo.checker.sampling import Everything, Sample
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.core.units import KIB
from bfrepo.data.node import Node
from bfrepo.data.snapshot import SNAPSHOT_VERSION, Claim, Snapshot, encode_claim, encode_snapshot
from bfrepo.index.format import IndexContent, PackEntry, PackFlag, decode_index, encode_index
from bfrepo.index.table import FramePlace, PackInfo
from bfrepo.operations.check import CheckOptions, CheckResult, check
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.pack.format import decode_directory
from bfrepo.repository.config import Encryption
from bfrepo.repository.repository import Repository, open_repository
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, never, run_backup
from tests.support.repositories import (
    PASSWORD,
    START,
    FakeClock,
    make_repository,
    names,
    reopen,
    saver_options,
    stored_objects,
)
from tests.support.sources import Item, sparse, written

EVERYTHING = Everything()

EARLY = incompressible(1, 1000)
LATE = incompressible(2, 1000)
LEAF = b"a leaf\n" * 100

OLD_FILES: dict[str, Item | bytes] = {
    "/data/deep/down/leaf": LEAF,
    "/data/early": EARLY,
    **{f"/data/filler/{number:02}": incompressible(100 + number, 200 * KIB) for number in range(14)},
    "/data/last/late": LATE,
    "/data/sparse": sparse(b"x" * 5000 + bytes(10_000) + b"y" * 5000, (5000, 10_000)),
}
NEW_FILES: dict[str, Item | bytes] = {
    **OLD_FILES,
    "/data/deep/down/leaf": written(b"another leaf\n" * 100),
    "/data/new": incompressible(3, 50 * KIB),
}
"""What the second snapshot holds: one file is changed, one is new."""


@dataclass(frozen=True)
class SmallRepository:
    """A repository at rest, its snapshots, and its packs in the order they were written.

    Both snapshots need the packs of the old one, only the new one needs the last pack of each kind.
    """

    backend: MemoryBackend
    old: bytes
    new: bytes
    written: tuple[PackInfo, ...]

    def open(self) -> Repository:
        """The repository, with its index."""
        return reopen(self.backend)

    def copy(self) -> MemoryBackend:
        """One like it, to be changed."""
        return copy_of(self.backend)

    def frame_of(self, content: bytes) -> FramePlace:
        """Where the frame is that holds the one blob with this content."""
        repository = self.open()
        return repository.index.table.frame(repository.loader.place(repository.blob_hash(content)).frame)

    def packs(self, kind: BlobKind) -> list[bytes]:
        """The packs of a kind, in the order they were written."""
        return [pack.id for pack in self.written if pack.kind is kind]

    def tree_of(self, snapshot: bytes) -> bytes:
        """The root tree of a snapshot."""
        return self.snapshots()[snapshot].tree

    def snapshots(self) -> dict[bytes, Snapshot]:
        """Every snapshot by its ID."""
        return load_snapshots(self.open())


def make_small_repository(
    encryption: Encryption = "aes-256-gcm",
    *,
    old_files: Mapping[str, Item | bytes] = OLD_FILES,
    new_files: Mapping[str, Item | bytes] = NEW_FILES,
) -> SmallRepository:
    """Made by two backups: two data packs of two frames each and a tree pack, then a smaller pack of each kind."""
    clock = FakeClock()
    repository = make_repository(encryption=encryption, pack_size=1500 * KIB, clock=clock)
    old = run_backup(repository, old_files).snapshot_id
    first = list(reopen(repository.backend).index.table.packs())
    clock.advance(3600)
    new = run_backup(repository, new_files).snapshot_id
    if old is None or new is None or not isinstance(repository.backend, MemoryBackend):
        raise AssertionError("a backup made no snapshot")
    known = {pack.id for pack in first}
    second = [pack for pack in reopen(repository.backend).index.table.packs() if pack.id not in known]
    return SmallRepository(repository.backend, old, new, (*first, *second))


def copy_of(backend: Backend) -> MemoryBackend:
    """Every object, in a backend of its own."""
    copy = MemoryBackend()
    for kind, name, data in stored_objects(backend):
        copy.save(kind, name, data)
    return copy


def replace_object(backend: MemoryBackend, kind: ObjectKind, name: str, data: bytes) -> None:
    """Other bytes under the same name, which no backend would do."""
    backend.delete(kind, name)
    backend.save(kind, name, data)


def flipped(data: bytes, position: int, mask: int = 0x01) -> bytes:
    """`data` with one byte changed."""
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


def run_check(where: Backend | Repository, read: Sample | None = None) -> CheckResult:
    """Check a repository, opened anew when it is given as a backend."""
    repository = where if isinstance(where, Repository) else reopen_unread(where)
    return check(repository, CheckOptions(read=read), Quiet(), never)


def reopen_unread(backend: Backend) -> Repository:
    """The repository without its index, which may not be readable."""
    return open_repository(backend, FakeClock(), lambda: PASSWORD)


def only_error(result: CheckResult) -> Finding:
    """The one error that was found; fails when there is none, or another finding beside it."""
    assert [finding.severity for finding in result.findings] == ["error"], result.findings
    return result.findings[0]


def affected(finding: Finding) -> set[bytes]:
    """The IDs of the snapshots that depend on what was found."""
    return {snapshot.id for snapshot in finding.snapshots}


def the_name(backend: Backend, kind: ObjectKind) -> str:
    """The name of the one object of a kind."""
    (name,) = names(backend, kind)
    return name


def indexes(repository: Repository) -> dict[str, IndexContent]:
    """Every index object by name."""
    return {
        name: decode_index(repository.objects.load(ObjectKind.INDEX, name), name=name)
        for name in repository.index_names()
    }


def index_of(small: SmallRepository, pack: bytes) -> str:
    """The index object that names a pack."""
    return next(
        name for name, content in indexes(small.open()).items() if pack in {entry.id for entry in content.packs}
    )


def rewrite_index(
    small: SmallRepository, backend: MemoryBackend, pack: bytes, change: Callable[[PackEntry], PackEntry]
) -> None:
    """Put an index object in the place of another, well sealed, that says something else of one pack."""
    repository, name = reopen_unread(backend), index_of(small, pack)
    content = indexes(repository)[name]
    content.packs = [change(entry) if entry.id == pack else entry for entry in content.packs]
    backend.delete(ObjectKind.INDEX, name)
    repository.objects.save(ObjectKind.INDEX, encode_index(content))


def swap_blob_sizes(entry: PackEntry) -> PackEntry:
    """The same pack with two neighbours' sizes exchanged: all adds up, and their offsets are wrong."""
    directory = decode_directory(entry.directory, pack="test")
    sizes = directory.blob_sizes
    at = next(at for at in range(len(sizes) - 1) if sizes[at] != sizes[at + 1])
    sizes[at], sizes[at + 1] = sizes[at + 1], sizes[at]
    return msgspec.structs.replace(entry, directory=directory.encode())


def save_flag(repository: Repository, pack: bytes, state: Literal["condemned", "doomed"]) -> None:
    """What a prune writes about a pack."""
    flag = PackFlag(id=os.urandom(16), state=state, pack=pack, time=START.isoformat())
    repository.objects.save(ObjectKind.INDEX, encode_index(IndexContent(flags=[flag])))


def save_blob(repository: Repository, kind: BlobKind, content: bytes) -> bytes:
    """A blob in a pack of its own, in the index."""
    saver = repository.make_saver(saver_options(repository))
    blob_id = saver.save(kind, content)
    saver.flush()
    saver.close()
    return blob_id


def save_snapshot(repository: Repository, tree: bytes) -> bytes:
    """A snapshot of any tree, sound or not."""
    snapshot = Snapshot(version=SNAPSHOT_VERSION, time=START.isoformat(), tree=tree)
    return bytes.fromhex(repository.objects.save(ObjectKind.SNAPSHOT, encode_snapshot(snapshot)))


def save_snapshot_of(repository: Repository, nodes: Sequence[Node]) -> bytes:
    """A snapshot with these nodes in its root."""
    return save_snapshot(repository, save_blob(repository, BlobKind.TREE, encode_tree(nodes)))


def encode_tree(nodes: Sequence[Node]) -> bytes:
    """A tree blob, whatever is in it (see data/tree.py)."""
    return msgspec.msgpack.encode([1, list(nodes), b""])


def save_claim(repository: Repository, snapshot: bytes, *, time: str = START.isoformat()) -> str:
    """The claim of a backup that is to make `snapshot`."""
    claim = Claim(version=SNAPSHOT_VERSION, tree=b"\0" * 32, snapshot=snapshot, time=time)
    return repository.objects.save(ObjectKind.CLAIM, encode_claim(claim))
