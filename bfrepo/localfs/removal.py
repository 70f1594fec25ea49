"""Removing what stands in a restore's way, or is too much in its target: by descriptor, and never through a symlink."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from bfrepo.localfs._scan import Stat, scan, stat_at
from bfrepo.localfs.target import Directories, Directory

Selection: TypeAlias = Callable[[bytes, bool], tuple[bool, bool]]
"""(path, is it a directory) -> (is it selected, may it contain what is).

Paths begin with a slash, at the root of the restore.
"""


@dataclass(slots=True)
class _Level:
    directory: Directory
    device: int
    entries: Iterator[Stat]
    selected: bool
    kept: bool


def remove(directories: Directories, parent: Directory, name: bytes, selection: Selection, *, force: bool) -> bool:
    """Remove an entry with all that is selected in it; whether nothing of it is left.

    A directory stays when something in it does, and what is mounted below it is never entered. `force` takes the entry
    itself, but not what it contains, as selected. Raises OSError for the first thing that cannot be removed.
    """
    stat = stat_at(directories.open(parent), name)
    path = parent.path + b"/" + name
    if stat.type != "dir":
        if not (force or selection(path, False)[0]):
            return False
        os.unlink(name, dir_fd=directories.open(parent))
        return True
    selected, may_contain = selection(path, True)
    if not (selected or may_contain or force):
        return False
    return _remove_directory(directories, parent, stat, selection, selected or force)


def make_way(directories: Directories, parent: Directory, name: bytes, within: Selection | None) -> None:
    """Remove what stands where something else must be made, if anything does.

    A directory goes only when it is empty, or with what `within` selects in it. Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        if within is not None:
            remove(directories, parent, name, within, force=True)
            return
        fd = directories.open(parent)
        try:
            os.unlink(name, dir_fd=fd)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=fd)


def _remove_directory(
    directories: Directories, parent: Directory, stat: Stat, selection: Selection, selected: bool
) -> bool:
    levels = [_enter(directories, parent, stat, selected)]
    while True:
        level = levels[-1]
        entry = next(level.entries, None)
        if entry is None:
            levels.pop()
            gone = _leave(directories, level)
            if not levels:
                return gone
            levels[-1].kept |= not gone
        elif entry.type != "dir":
            _remove_file(directories, level, entry.name, selection)
        else:
            chosen, may_contain = selection(level.directory.path + b"/" + entry.name, True)
            if entry.device == level.device and (chosen or may_contain):
                levels.append(_enter(directories, level.directory, entry, chosen))
            else:
                level.kept = True


def _enter(directories: Directories, parent: Directory, stat: Stat, selected: bool) -> _Level:
    directory = Directory(parent, stat.name, made=False)
    entries, unknown = scan(directories.open(directory))
    return _Level(directory, stat.device, iter(entries), selected, bool(unknown))


def _leave(directories: Directories, level: _Level) -> bool:
    directories.forget(level.directory)
    if level.kept or not level.selected or level.directory.parent is None:
        return False
    os.rmdir(level.directory.name, dir_fd=directories.open(level.directory.parent))
    return True


def _remove_file(directories: Directories, level: _Level, name: bytes, selection: Selection) -> None:
    if selection(level.directory.path + b"/" + name, False)[0]:
        os.unlink(name, dir_fd=directories.open(level.directory))
    else:
        level.kept = True
