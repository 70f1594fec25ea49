"""What this machine keeps of repositories: the index, objects of those that are far away, and the catalogue if any.

Each repository has a folder by its ID. All of it can be made again, and nothing else in the folder is ever touched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TypeAlias

from bfrepo.catalogue.file import FILE_NAME, SUFFIXES, remove_file
from bfrepo.core.errors import TargetError
from bfrepo.core.ids import is_object_name
from bfrepo.storage.cache import CACHED_KINDS, PARTIAL

CacheKind: TypeAlias = Literal["index", "objects", "catalogue"]

_LOCATION: Final = "location"
_INDEX: Final = re.compile(r"index(\.\d+\.part)?|location|slot")
_CATALOGUE: Final = frozenset(f"{FILE_NAME}{suffix}" for suffix in SUFFIXES)


@dataclass(frozen=True, slots=True)
class CachedRepository:
    """What is kept of one repository. `location` is where it was when last seen, empty where that is not known.

    `sizes` are bytes by kind. `last_used` is exact to a day, as systems note the time of reading no better.
    """

    id: bytes
    folder: Path
    location: str
    sizes: dict[CacheKind, int]
    last_used: datetime

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(self.sizes.values())


def list_caches(cache_dir: Path) -> list[CachedRepository]:
    """What is kept below the cache's directory, least recently used first."""
    try:
        folders = [each for each in cache_dir.iterdir() if is_object_name(each.name) and not each.is_symlink()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TargetError(f"cannot read the cache in {cache_dir}: {error.strerror}") from error
    found = filter(None, map(_look, folders))
    return sorted(found, key=lambda each: (each.last_used, each.id))


def remove_cache(cached: CachedRepository) -> None:
    """Remove what is kept of a repository, and its folder if nothing else is in it.

    Raises CatalogueInUse while somebody looks something up, and TargetError for what cannot be removed.
    """
    try:
        remove_file(cached.folder)
        for path, _ in _files(cached.folder):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise TargetError(f"cannot remove the cache in {cached.folder}: {error.strerror}") from error
    for folder in (*_object_folders(cached.folder), cached.folder):
        with suppress(OSError):  # something else is in it
            folder.rmdir()


def _look(folder: Path) -> CachedRepository | None:
    """What a folder holds; None if that is nothing of ours, or going just now."""
    sizes: dict[CacheKind, int] = {}
    used = 0.0
    with suppress(OSError):
        for path, kind in _files(folder):
            found = path.stat()
            sizes[kind] = sizes.get(kind, 0) + found.st_size
            if path.name != _LOCATION:  # which is read by who lists, not by who uses
                used = max(used, found.st_atime, found.st_mtime)
    if not sizes:
        return None
    return CachedRepository(
        bytes.fromhex(folder.name), folder, _read_location(folder), sizes, datetime.fromtimestamp(used, UTC)
    )


def _files(folder: Path) -> Iterator[tuple[Path, CacheKind]]:
    """The files of ours in a folder."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file():
            continue
        if path.name in _CATALOGUE:
            yield path, "catalogue"
        elif _INDEX.fullmatch(path.name):
            yield path, "index"
    for objects in _object_folders(folder):
        for path in objects.iterdir():
            if (is_object_name(path.name) or path.suffix == PARTIAL) and path.is_file() and not path.is_symlink():
                yield path, "objects"


def _object_folders(folder: Path) -> list[Path]:
    """The folders for objects of a storage that are there."""
    folders = (folder / kind.value for kind in CACHED_KINDS)
    return [each for each in folders if each.is_dir() and not each.is_symlink()]


def _read_location(folder: Path) -> str:
    try:
        return os.fsdecode((folder / _LOCATION).read_bytes()).removesuffix("\n")
    except OSError:
        return ""
