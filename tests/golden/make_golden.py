"""Makes the golden repositories of format 1: python -m tests.golden.make_golden

Run it only for a format that has none yet: what is in the archive is what every later version must read, byte for byte.
It writes `format1.tar.zst`, a tar file of two repositories (`encrypted/`, `plain/`) and the manifest of what they hold.

Between them they have every feature of the format: data and tree packs, several of each; frames compressed with zstd
and lz4 and frames that are not; frames of one blob and of many; index objects with packs, with flags of both states and
with revoked flags, a blob in two packs; two snapshots, the second with a parent; all types of nodes; holes, xattrs and
names that are no text; a file whose list of chunks, and one whose list of holes, is kept in blobs of its own; a
directory in parts; a claim that was left behind; two key slots.
"""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import msgspec
import zstandard
from blake3 import blake3

from bfrepo.archiver.archiver import Archiver
from bfrepo.archiver.filesaver import FileSaver
from bfrepo.archiver.parent import ParentPolicy, ParentTree
from bfrepo.chunker.base import ChunkerParams
from bfrepo.compression import Compression
from bfrepo.core.progress import Quiet
from bfrepo.data.snapshot import Claim, Snapshot, SnapshotSummary, encode_claim, encode_snapshot
from bfrepo.index.format import IndexContent, PackFlag, encode_index
from bfrepo.index.table import BlobTable
from bfrepo.repository.config import Encryption, new_config
from bfrepo.repository.repository import Repository, init_repository
from bfrepo.repository.saver import Saver, SaverOptions
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.local import LocalBackend
from tests.golden.manifest import Manifest, describe
from tests.support.backups import incompressible, never
from tests.support.repositories import FakeClock, cheap_kdf_params
from tests.support.sources import DictSource, Item, folder, sparse, written

ARCHIVE = Path(__file__).with_name("format1.tar.zst")
PASSWORDS = (b"golden", "zweites Paßwort".encode())
CHUNKERS: Mapping[Encryption, str] = {"aes-256-gcm": "fastcdc:4K:8K:16K", "none": "fixed:4K"}
SECOND = datetime(2024, 5, 18, 12, 0, tzinfo=UTC)

ATTRIBUTES = ((b"security.capability", bytes(range(20))), (b"user.empty", b""))

FIRST_TREE: Mapping[str, Item | bytes] = {
    "srv/text": b"The quick brown fox jumps over the lazy dog.\n" * 40,
    "srv/noise": incompressible(1, 30_000),
    "srv/empty": b"",
    "srv/big": b"".join(number.to_bytes(4, "big") + bytes(4092) for number in range(300)),
    "srv/hole": sparse(bytes(1 << 20) + b"end" + bytes(4096), (0, 1 << 20), ((1 << 20) + 3, 4096)),
    "srv/sieve": sparse((bytes(8) + b"x" * 8) * 700, *((number * 16, 8) for number in range(700))),
    "srv/\udcff\udcfe\n": b"a name that is no text",
    "srv/types/link": Item(type="symlink", target=b"../text\xff"),
    "srv/types/fifo": Item(type="fifo", mode=0o600),
    "srv/types/socket": Item(type="socket"),
    "srv/types/block": Item(type="blockdev", rdev=2049),
    "srv/types/char": Item(type="chardev", rdev=1281, uid=0, gid=6),
    "srv/types/suid": Item(content=b"#!", mode=0o4755, xattrs=ATTRIBUTES),
    "srv/types/linked-1": Item(content=b"one file", inode=77, links=2),
    "srv/types/linked-2": Item(content=b"one file", inode=77, links=2),
    "srv/types/old": Item(content=b"before 1970", mtime_ns=-1_000_000_001, ctime_ns=5),
    "srv/void": folder(mode=0o1777),
    **{f"srv/many/{number:04}": b"" for number in range(4200)},
}  # fmt: skip
SECOND_TREE: Mapping[str, Item | bytes] = {
    **FIRST_TREE, "srv/text": written(b"changed"), "srv/new": incompressible(2, 3000)
}  # fmt: skip


def main() -> None:
    """Write the archive."""
    with tempfile.TemporaryDirectory() as name:
        folder_path = Path(name)
        manifests = {
            "encrypted": make_repository(folder_path / "encrypted", "aes-256-gcm"),
            "plain": make_repository(folder_path / "plain", "none"),
        }
        (folder_path / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifests)))
        ARCHIVE.write_bytes(zstandard.ZstdCompressor(level=19).compress(tar(folder_path)))
    print(f"{ARCHIVE.name}: {ARCHIVE.stat().st_size} bytes")


def tar(folder_path: Path) -> bytes:
    """All files below a folder, without anything of this machine or moment."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(folder_path.rglob("*")):
            info = tarfile.TarInfo(str(path.relative_to(folder_path)))
            info.mode = 0o755 if path.is_dir() else 0o644
            if path.is_dir():
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                info.size = path.stat().st_size
                archive.addfile(info, io.BytesIO(path.read_bytes()))
    return buffer.getvalue()


def make_repository(path: Path, encryption: Encryption) -> Manifest:
    """One repository, and what is in it."""
    # The costs are recorded in the slot: reading it is the same work, only less of it.
    with patch("bfrepo.crypto.keys.kdf_params", cheap_kdf_params):
        return _make_repository(path, encryption)


def _make_repository(path: Path, encryption: Encryption) -> Manifest:
    config = new_config(
        encryption=encryption,
        chunker=ChunkerParams.parse(CHUNKERS[encryption]),
        compression=Compression.parse("zstd:3"),
        pack_size=4 << 20,
        seed=blake3(b"golden").digest(),
        created=FakeClock().now().isoformat(),
    )
    password = None if encryption == "none" else PASSWORDS[0]
    repository = init_repository(
        LocalBackend(path), config, FakeClock(), password=password, label="first", host="golden-host"
    )
    if encryption != "none":
        repository.add_slot(PASSWORDS[1], label="second", host="golden-host")
    first = back_up(repository, FIRST_TREE, "zstd:3", b"", None, FakeClock().now())
    second = back_up(repository, SECOND_TREE, "lz4", bytes.fromhex(first[0]), first[1], SECOND)
    copy_blobs(repository, second[1].tree)
    write_flags(repository)
    write_claim(repository, second)
    repository.close()
    return describe(repository)


def back_up(
    repository: Repository,
    tree: Mapping[str, Item | bytes],
    compression: str,
    parent_id: bytes,
    parent: Snapshot | None,
    when: datetime,
) -> tuple[str, Snapshot]:
    """A snapshot of a tree; its name and content."""
    repository.refresh_index()
    saver = repository.make_saver(SaverOptions(Compression.parse(compression), 30_000, 1))
    before = ParentTree(repository.loader, saver, ParentPolicy(started_ns=1 << 62)) if parent else None
    files = FileSaver(saver, repository.config.make_chunker(), never)
    archiver = Archiver(saver, files, before, Quiet(), never)
    root = archiver.save(DictSource(tree), parent.tree if parent else b"")
    saver.flush()
    saver.close()
    snapshot = Snapshot(
        version=1,
        time=when.isoformat(),
        tree=root,
        paths=[b"/srv"],
        hostname="golden-host",
        username="somebody",
        excludes=["*.tmp"],
        tags=["golden", "test"],
        label="format 1",
        parent=parent_id,
        program="backupforge",
        summary=SnapshotSummary(files_new=archiver.stats.files_new, size=archiver.stats.size, duration=1.5),
        unknown={"later": {"than": [1]}} if parent else {},
    )
    return repository.objects.save(ObjectKind.SNAPSHOT, encode_snapshot(snapshot)), snapshot


def copy_blobs(repository: Repository, root: bytes) -> None:
    """Store some trees once more, so that they are in two packs, and frames that are not compressed."""
    repository.refresh_index()
    trees = [
        (blob_id, repository.index.table.kind_of(place.frame)) for blob_id, place in repository.index.table.blobs()
    ]
    saver = Saver(
        repository.backend, BlobTable(), repository.objects, repository.blob_hash, repository.keys.pack_key,
        repository.id, repository.clock, SaverOptions(Compression.parse("none"), 4 << 20, 1),
    )  # fmt: skip
    for blob_id, kind in sorted(trees):
        data = repository.loader.load(kind, blob_id)
        if blob_id == root or len(data) < 3000:
            saver.save(kind, data)
    saver.flush()
    saver.close()


def write_flags(repository: Repository) -> None:
    """Flags of both states, two of them taken back in an object of their own, one about a pack that is gone."""
    repository.refresh_index()
    packs = [pack.id for pack in sorted(repository.index.table.packs(), key=lambda pack: pack.size)][:3]
    when = SECOND.isoformat()
    flags = [
        PackFlag(id=bytes([number]) * 16, state="doomed" if number == 2 else "condemned", pack=pack_id, time=when)
        for number, pack_id in enumerate([*packs, bytes(32)])
    ]
    objects = repository.objects
    objects.save(ObjectKind.INDEX, encode_index(IndexContent(flags=flags)))
    objects.save(ObjectKind.INDEX, encode_index(IndexContent(revoked=[flag.id for flag in flags[1:3]])))


def write_claim(repository: Repository, second: tuple[str, Snapshot]) -> None:
    """What a backup leaves that died before it could remove its claim."""
    name, snapshot = second
    claim = Claim(
        version=1, tree=snapshot.tree, snapshot=bytes.fromhex(name), time=snapshot.time, hostname="golden-host"
    )
    repository.objects.save(ObjectKind.CLAIM, encode_claim(claim))


if __name__ == "__main__":
    if ARCHIVE.exists() and "--again" not in sys.argv:
        raise SystemExit(f"{ARCHIVE.name} exists: a format that is released does not change")
    main()
