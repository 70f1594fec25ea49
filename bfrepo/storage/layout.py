"""Where an object lies below the repository's root, the same in every kind of storage.

    config               keys/<id>          packs/<first 2 hex digits of id>/<id>
    index/<id>           snapshots/<id>     claims/<id>

`<id>` is 64 lower-case hex digits. Packs are spread over 256 directories, because there may be millions of them and
some file systems and network shares list large directories slowly. `tmp/` belongs to the local backend. `parity/` and
`log/` are reserved for later versions. Whatever else lies there is not ours and is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from bfrepo.core.ids import is_object_name, short_id
from bfrepo.storage.base import CONFIG_NAME, ObjectKind

DIRECTORY_KINDS = tuple(kind for kind in ObjectKind if kind is not ObjectKind.CONFIG)
"""The kinds that have a directory of their own, named by the kind's value."""

USUAL: Final[Mapping[ObjectKind, str]] = MappingProxyType({})
"""Every kind in the directory of its name."""

OF_RESTIC: Final[Mapping[ObjectKind, str]] = MappingProxyType({ObjectKind.PACK: "data"})
"""Where a restic repository has its packs."""

_KIND_OF_DIRECTORY = {kind.value: kind for kind in DIRECTORY_KINDS}


def object_path(kind: ObjectKind, name: str) -> str:
    """The object's path, with slashes, relative to the root. Raises ValueError for a name that no object can have."""
    if kind is ObjectKind.CONFIG:
        if name != CONFIG_NAME:
            raise ValueError(f"the config object is called {CONFIG_NAME!r}, not {name!r}")
        return CONFIG_NAME
    if not is_object_name(name):
        raise ValueError(f"{name!r} is not the name of a stored object")
    if kind is ObjectKind.PACK:
        return f"{kind.value}/{name[:2]}/{name}"
    return f"{kind.value}/{name}"


def path_in(folders: Mapping[ObjectKind, str], kind: ObjectKind, name: str) -> str:
    """As `object_path`, where some kinds have another directory than the usual one."""
    path, folder = object_path(kind, name), folders.get(kind)
    return path if folder is None else folder + path[len(kind.value) :]


def parse_object_path(path: str) -> tuple[ObjectKind, str] | None:
    """The kind and name of the object at `path` (relative, with slashes), or None where no object of ours can lie."""
    if path == CONFIG_NAME:
        return ObjectKind.CONFIG, CONFIG_NAME
    directory, _, rest = path.partition("/")
    kind = _KIND_OF_DIRECTORY.get(directory)
    name = rest.rpartition("/")[2]
    if kind is None or not is_object_name(name) or object_path(kind, name) != path:
        return None
    return kind, name


def describe(kind: ObjectKind, name: str) -> str:
    """The object as messages name it: "pack 3f2a1b2c", "config"."""
    if kind is ObjectKind.CONFIG:
        return CONFIG_NAME
    return f"{kind.value.removesuffix('s')} {short_id(bytes.fromhex(name))}"
