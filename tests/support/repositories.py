"""Repositories for tests: in memory unless told otherwise, with a clock of their own and a KDF that takes no time.

An area whose tests open encrypted repositories calls `use_fast_kdf` in a fixture of its conftest.py. The cheap costs
exist here only: the program has no profile that is quicker than its default.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from bfrepo.chunker.base import ChunkerParams
from bfrepo.compression import Compression
from bfrepo.core.clock import Clock
from bfrepo.core.units import KIB
from bfrepo.crypto.kdf import KdfParams
from bfrepo.repository.config import Encryption, new_config
from bfrepo.repository.repository import Repository, init_repository, open_repository
from bfrepo.repository.saver import SaverOptions
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend

PASSWORD = b"correct horse battery staple"

SMALL_CHUNKS = ChunkerParams("fastcdc", 4 * KIB, 8 * KIB, 16 * KIB)
"""Chunks so small that a file of a few hundred KiB has many."""

START = datetime(2024, 5, 17, 12, 0, tzinfo=UTC)


@dataclass
class FakeClock:
    """A clock that stands still until it is told otherwise."""

    time: datetime = START
    seconds: float = 0.0

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Let time go by on both faces."""
        self.time += timedelta(seconds=seconds)
        self.seconds += seconds


def cheap_kdf_params(profile: Literal["default", "strong"], salt: bytes) -> KdfParams:
    """What `kdf_params` gives, at a thousandth of the cost."""
    return KdfParams(time_cost=1 if profile == "default" else 2, memory_kib=8, lanes=1, salt=salt)


def use_fast_kdf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key slots that are made during the test take no time to open."""
    monkeypatch.setattr("bfrepo.crypto.keys.kdf_params", cheap_kdf_params)


def make_repository(
    backend: Backend | None = None,
    *,
    encryption: Encryption = "none",
    password: bytes = PASSWORD,
    chunker: ChunkerParams = SMALL_CHUNKS,
    compression: str = "zstd:3",
    pack_size: int | None = None,
    seed: bytes = b"\x05" * 32,
    clock: Clock | None = None,
    cache_dir: Path | None = None,
) -> Repository:
    """A new repository. `pack_size` may be smaller than the format allows, so that little data makes several packs."""
    clock = clock or FakeClock()
    config = new_config(
        encryption=encryption,
        chunker=chunker,
        compression=Compression.parse(compression),
        seed=seed,
        created=clock.now().isoformat(),
    )
    secret = None if encryption == "none" else password
    repository = init_repository(
        backend or MemoryBackend(), config, clock, password=secret, label="first", host="here", cache_dir=cache_dir
    )
    return with_pack_size(repository, pack_size)


def reopen(
    backend: Backend,
    *,
    password: bytes = PASSWORD,
    pack_size: int | None = None,
    clock: Clock | None = None,
    cache_dir: Path | None = None,
    keep_objects: bool = False,
) -> Repository:
    """The repository on `backend`, as another process would open it, with its index."""
    repository = open_repository(
        backend, clock or FakeClock(), lambda: password, cache_dir=cache_dir, keep_objects=keep_objects
    )
    repository.refresh_index()
    return with_pack_size(repository, pack_size)


def with_pack_size(repository: Repository, pack_size: int | None) -> Repository:
    """Set the size at which packs are finished, without the lower bound that the format has."""
    if pack_size is not None:
        repository.config = replace(repository.config, pack_size=pack_size)
    return repository


def saver_options(repository: Repository, *, workers: int = 1, verify: bool = True) -> SaverOptions:
    """How the repository says that blobs are stored."""
    return SaverOptions(repository.config.compression, repository.config.pack_size, workers, verify)


def names(backend: Backend, kind: ObjectKind) -> set[str]:
    """The names of all objects of a kind."""
    return {info.name for info in backend.list(kind)}


def stored_objects(backend: Backend) -> Iterator[tuple[ObjectKind, str, bytes]]:
    """Every object with its bytes."""
    for kind in ObjectKind:
        for info in backend.list(kind):
            yield kind, info.name, backend.load(kind, info.name)
