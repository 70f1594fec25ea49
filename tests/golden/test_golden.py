"""A repository of each format that was ever released, which every later version must read."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import msgspec
import pytest
import zstandard

from bfrepo.core.errors import WrongPassword
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.local import LocalBackend
from tests.golden.make_golden import ARCHIVE, PASSWORDS, SECOND_TREE
from tests.golden.manifest import Manifest, describe
from tests.support.backups import run_backup
from tests.support.repositories import reopen
from tests.support.restoring import expected, misnamed, restored, restored_snapshots
from tests.support.sources import Item

pytestmark = pytest.mark.skipif(not ARCHIVE.exists(), reason="format 1 is not final yet")

KINDS = ["encrypted", "plain"]


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """The repositories, unpacked."""
    with tarfile.open(fileobj=BytesIO(zstandard.ZstdDecompressor().decompress(ARCHIVE.read_bytes()))) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture
def manifest(golden: Path) -> dict[str, Manifest]:
    """What they hold."""
    found: dict[str, Manifest] = msgspec.json.decode((golden / "manifest.json").read_bytes())
    return found


def features(manifest: Manifest) -> Iterator[bool]:
    """Whether the repository has what it is there for."""
    files = [node for snapshot in manifest["snapshots"].values() for node in snapshot["files"].values()]
    yield manifest["codecs"] == ["LZ4", "NONE", "ZSTD"]
    yield {kind for _, _, kind, _, _ in manifest["packs"]} == {"DATA", "TREE"}
    yield {state for _, _, _, state, _ in manifest["packs"]} == {"LIVE", "CONDEMNED"}
    yield {node["t"] for node in files if "t" in node} == {"dir", "symlink", "fifo", "socket", "blockdev", "chardev"}
    lists = "O" if manifest["config"][1] == "fixed:4K" else "H"  # few chunks of changing length are enough
    yield all(any(key in node for node in files) for key in ("h", "H", "x", "l", "k", "r", lists))
    yield len(manifest["snapshots"]) == 2
    yield len(manifest["claims"]) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_every_feature(manifest: dict[str, Manifest], kind: str) -> None:
    """The golden repositories have every feature of the format, or reading them proves little."""
    assert [number for number, there in enumerate(features(manifest[kind])) if not there] == []
    assert ARCHIVE.stat().st_size < 200_000


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_read(golden: Path, manifest: dict[str, Manifest], kind: str) -> None:
    """Every object, blob, node and field is read, and is what it was when it was written."""
    repository = reopen(LocalBackend(golden / kind), password=PASSWORDS[0])
    assert misnamed(repository.backend) == []
    assert describe(repository) == manifest[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_it_restores(golden: Path, kind: str) -> None:
    """Its latest snapshot gives back what went in."""
    repository = reopen(LocalBackend(golden / kind), password=PASSWORDS[0])
    assert list(restored_snapshots(repository).values())[-1] == expected(SECOND_TREE)


def test_passwords(golden: Path) -> None:
    """Both its passwords open it, and no other."""
    backend = LocalBackend(golden / "encrypted")
    assert len({reopen(backend, password=password).id for password in PASSWORDS}) == 1
    with pytest.raises(WrongPassword):
        reopen(backend, password=b"Golden")


@pytest.mark.parametrize("kind", KINDS)
def test_a_backup_onto_it(golden: Path, kind: str) -> None:
    """A backup onto it uses what is there, and changes nothing of it (INV-3)."""
    backend = LocalBackend(golden / kind)
    before = {(each, info.name): info.size for each in ObjectKind for info in backend.list(each)}
    repository = reopen(backend, password=PASSWORDS[0])
    tree: dict[str, Item | bytes] = {**SECOND_TREE, "srv/today": b"today"}
    result = run_backup(repository, tree, paths=(b"/srv",), hostname="golden-host")
    assert result.stored.bytes_new < result.stored.bytes_known / 3  # a condemned pack is not relied on
    assert restored(reopen(backend, password=PASSWORDS[0]).loader, result.snapshot.tree) == expected(tree)
    after = {(each, info.name): info.size for each in ObjectKind for info in backend.list(each)}
    assert before.items() <= after.items()
