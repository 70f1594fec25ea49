"""The paths that a backup was asked for: lists in files, absolute and tidy form, and the tree they make together."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator

from bfrepo.core.errors import InvalidValue


class Wanted:
    """What is asked for below one directory: all of it, or only what leads to some paths. One for each name on the
    way to a path.
    """

    __slots__ = ("children", "whole")

    def __init__(self, *, whole: bool = False) -> None:
        self.whole = whole
        self.children: dict[bytes, Wanted] = {}

    @classmethod
    def from_paths(cls, paths: Iterable[bytes]) -> Wanted:
        """The tree of absolute paths in tidy form. Paths may repeat and lie in one another."""
        root = cls()
        for path in paths:
            place = root
            for name in parts_of(path):
                place = place.children.setdefault(name, cls())
            place.whole = True
        return root


def parts_of(path: bytes) -> list[bytes]:
    """The names an absolute path is made of; none for the root."""
    return [name for name in path.split(b"/") if name]


def absolute_path(path: bytes, cwd: bytes) -> bytes:
    """`path` from `cwd`, without ".", ".." and doubled slashes. Symlinks stay as they are: a/link/.. is a.

    Raises InvalidValue for an empty path and for one with a NUL.
    """
    if not path or b"\0" in path:
        raise InvalidValue(f"{os.fsdecode(path)!r} is not a path")
    parts: list[bytes] = []
    for name in parts_of(path if path.startswith(b"/") else cwd + b"/" + path):
        if name == b"..":
            del parts[-1:]
        elif name != b".":
            parts.append(name)
    return b"/" + b"/".join(parts)


def paths_from_patterns(data: bytes) -> list[bytes]:
    """`--files-from`: a pattern a line, expanded as a shell would but for hidden names, which `*` fits too; `**` is
    any depth.

    Blank lines and those that begin with "#" say nothing; spaces around a line do not count. A pattern that nothing
    fits is given back as it is, so that it is reported as missing. Raises InvalidValue for a NUL.
    """
    _refuse_nul(data, "--files-from")
    paths: list[bytes] = []
    for line in map(bytes.strip, data.split(b"\n")):
        if line and not line.startswith(b"#"):
            paths += _expand(line)
    return paths


def paths_from_lines(data: bytes) -> list[bytes]:
    """`--files-from-verbatim`: a path a line, exactly as it stands there; empty lines say nothing. Raises
    InvalidValue for a NUL.
    """
    _refuse_nul(data, "--files-from-verbatim")
    return [line for line in data.split(b"\n") if line]


def paths_from_raw(data: bytes) -> list[bytes]:
    """`--files-from-raw`: paths that each end with a NUL, as `find -print0` writes them. Raises InvalidValue for an
    empty one.
    """
    paths = data.removesuffix(b"\0").split(b"\0") if data else []
    if b"" in paths:
        raise InvalidValue("--files-from-raw: there is an empty path in the list")
    return paths


def _expand(line: bytes) -> Iterator[bytes]:
    found = sorted(glob.iglob(line, recursive=True, include_hidden=True)) if glob.has_magic(line) else []
    return iter(found or [line])


def _refuse_nul(data: bytes, option: str) -> None:
    if b"\0" in data:
        raise InvalidValue(
            f"{option}: there is a NUL in the list", hint="lists of paths that end with NUL need --files-from-raw"
        )
