"""Making a repository."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bfrepo.chunker.base import ChunkerParams
from bfrepo.compression import Compression
from bfrepo.core.clock import Clock
from bfrepo.core.errors import RepositoryExists, RepositoryNotFound
from bfrepo.repository.config import DEFAULT_PACK_SIZE, Config, Encryption, new_config
from bfrepo.repository.repository import KdfProfile, init_repository, read_head
from bfrepo.storage.base import Backend


@dataclass(frozen=True, slots=True, kw_only=True)
class InitOptions:
    """What kind of repository to make.

    `pack_size` is in bytes. `like` is the configuration of a repository whose chunker is copied, secret seed and all,
    so that what is copied between the two deduplicates; `chunker` does not count then.
    """

    encryption: Encryption = "aes-256-gcm"
    chunker: ChunkerParams | None = None
    compression: Compression | None = None
    pack_size: int = DEFAULT_PACK_SIZE
    kdf: KdfProfile = "default"
    like: Config | None = None
    label: str = ""
    host: str = ""


def init(
    backend: Backend,
    options: InitOptions,
    clock: Clock,
    password: Callable[[], bytes],
    *,
    cache_dir: Path | None = None,
) -> Config:
    """Make a repository; its configuration. `password` is asked after a first look, unless there is no encryption.

    Where the storage is far away `cache_dir` is told which password opens it.
    Raises RepositoryExists when the place is not empty, InvalidValue for sizes out of range.
    """
    config = new_config(
        encryption=options.encryption,
        chunker=options.like.chunker if options.like else options.chunker,
        compression=options.compression,
        pack_size=options.pack_size,
        seed=options.like.seed if options.like else None,
        created=clock.now().isoformat(timespec="seconds"),
    )
    _refuse_existing(backend)
    secret = None if options.encryption == "none" else password()
    init_repository(
        backend,
        config,
        clock,
        password=secret,
        label=options.label,
        host=options.host,
        kdf=options.kdf,
        cache_dir=cache_dir,
    ).close()
    return config


def _refuse_existing(backend: Backend) -> None:
    """Say so before anybody thinks up a password."""
    try:
        read_head(backend)
    except RepositoryNotFound:
        return
    raise RepositoryExists(
        f"there is a repository in {backend.location} already", hint="use it, or choose another place"
    )
