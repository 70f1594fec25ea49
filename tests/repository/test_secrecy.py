"""What an encrypted repository shows to whoever stores it: nothing (INV-5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bfrepo.core.ids import BlobKind
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, run_backup
from tests.support.repositories import SMALL_CHUNKS, make_repository, names, reopen, stored_objects
from tests.support.restoring import restored_nodes
from tests.support.sources import Item, folder

SECRETS = [
    b"secret-name", b"secret-folder", b"secret-target", b"secret.xattr", b"secret-value", b"secret-content",
    b"secret-host", b"secret-user", b"secret-tag", b"secret-label", b"secret-exclude", b"secret-program",
]  # fmt: skip
NOISE = incompressible(9, 60_000)
TREE: Mapping[str, Item | bytes] = {
    "secret-folder/secret-name": b"secret-content",
    "secret-folder/link": Item(type="symlink", target=b"secret-target"),
    "secret-folder/attributes": Item(xattrs=((b"user.secret.xattr", b"secret-value"),)),
    "secret-folder/noise": NOISE,
    "secret-folder/empty": folder(),
}


def backed_up(encryption: str, cache_dir: Path | None = None) -> MemoryBackend:
    """A repository that is full of secrets, nothing of it compressed."""
    backend = MemoryBackend()
    repository = make_repository(
        backend, encryption=encryption, compression="none", chunker=SMALL_CHUNKS, cache_dir=cache_dir  # type: ignore[arg-type]
    )  # fmt: skip
    run_backup(
        repository, TREE, paths=(b"/secret-folder",), hostname="secret-host", username="secret-user",
        tags=("secret-tag",), label="secret-label", excludes=("secret-exclude",), program="secret-program",
    )  # fmt: skip
    return backend


def everything(backend: MemoryBackend) -> bytes:
    """All that whoever stores it can read: names and bytes."""
    return b"\n".join(name.encode() + b"\n" + data for _, name, data in stored_objects(backend))


def test_no_secret_in_any_byte() -> None:
    """INV-5: no name, target, attribute, content, host, user, tag or label is in any stored byte."""
    shown = everything(backed_up("aes-256-gcm"))
    assert [secret for secret in SECRETS if secret in shown] == []
    assert [at for at in range(0, len(NOISE) - 16, 1000) if NOISE[at : at + 16] in shown] == []


def test_the_search_finds_what_is_there() -> None:
    """The search for secrets finds them where nothing is encrypted: packs are not compressed here."""
    shown = everything(backed_up("none"))
    in_packs = [
        b"secret-name",
        b"secret-folder",
        b"secret-target",
        b"user.secret.xattr",
        b"secret-value",
        b"secret-content",
    ]
    assert [secret for secret in in_packs if secret not in shown] == []


def test_no_blob_id_is_shown() -> None:
    """INV-5: the IDs of blobs and trees are in no stored byte, so the storage cannot tell which are equal."""
    backend = backed_up("aes-256-gcm")
    shown = everything(backend)
    table = reopen(backend).index.table
    assert len(table) > 5
    assert [blob_id.hex() for blob_id, _ in table.blobs() if blob_id in shown or blob_id.hex().encode() in shown] == []


def test_equal_files_in_two_repositories() -> None:
    """INV-5: one file has different IDs, chunks and stored bytes in two repositories."""
    one, other = backed_up("aes-256-gcm"), backed_up("aes-256-gcm")
    blobs = [{blob_id for blob_id, _ in reopen(backend).index.table.blobs()} for backend in (one, other)]
    assert blobs[0] & blobs[1] == set()
    assert names(one, ObjectKind.PACK) & names(other, ObjectKind.PACK) == set()


def test_plain_ids_can_be_reproduced() -> None:
    """Without encryption a blob's ID is its BLAKE3 hash, as any tool computes it."""
    from blake3 import blake3

    repository = reopen(backed_up("none"))
    assert blake3(b"secret-content").digest() in repository.index.table


def test_frames_hide_sizes() -> None:
    """INV-5: many small files make one frame, whose length tells none of theirs; no length is stored in the clear."""
    backend = MemoryBackend()
    repository = make_repository(backend, encryption="aes-256-gcm", compression="none")
    run_backup(repository, {f"data/{number}": incompressible(number, 1000 + 37 * number) for number in range(50)})
    table = reopen(backend).index.table
    data_packs = [pack for pack in table.packs() if pack.kind is BlobKind.DATA]
    assert [(pack.blobs, len(pack.frames)) for pack in data_packs] == [(50, 1)]


def test_equal_trees_look_different() -> None:
    """INV-5: two objects with the same content are stored as different bytes."""
    repository = make_repository(encryption="aes-256-gcm")
    assert repository.objects.encode(ObjectKind.SNAPSHOT, b"x") != repository.objects.encode(ObjectKind.SNAPSHOT, b"x")


def test_local_cache_is_sealed(tmp_path: Path) -> None:
    """INV-5: no file in the local cache shows an ID of a blob, a name or a content; its name is the repository's ID."""
    backend = backed_up("aes-256-gcm")
    repository = reopen(backend, cache_dir=tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    folder = repository.id.hex()
    assert [str(path.relative_to(tmp_path)) for path in files] == [f"{folder}/index", f"{folder}/location"]
    shown = b"".join(path.read_bytes() for path in files)
    assert len(shown) > 100
    assert [blob_id.hex() for blob_id, _ in repository.index.table.blobs() if blob_id in shown] == []
    assert [secret for secret in SECRETS if secret in shown] == []
    assert [path.stat().st_mode & 0o077 for path in tmp_path.rglob("*") if path.is_dir()] == [0]


def test_the_key_shows_it_all() -> None:
    """With the key, all of it is there."""
    repository = reopen(backed_up("aes-256-gcm"))
    from bfrepo.operations.snapshots import load_snapshots

    (snapshot,) = load_snapshots(repository).values()
    nodes = restored_nodes(repository.loader, snapshot.tree)
    assert set(nodes) == {"/secret-folder", *("/" + path for path in TREE)}
