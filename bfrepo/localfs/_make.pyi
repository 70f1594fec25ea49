"""Types of the kernel in _make.c."""

from collections.abc import Sequence
from typing import TypeAlias

from bfrepo.core.protocols import Buffer

_NewFile: TypeAlias = tuple[int, bytes, Buffer, int, int, int, int, int]
"""(dir_fd, name, content, mode, uid, gid, atime_ns, mtime_ns); an owner of -1 is left as it is."""

def make_files(files: Sequence[_NewFile], /) -> list[tuple[int, int, int]]:
    """Make regular files with content and metadata; never follows a symlink, never touches what exists.

    Returns, for each file that did not become what it should be, its index, the errno that says why it could not be
    made, and the errno of metadata that could not be set on a file that is otherwise complete; one of the two is 0.
    Nothing is left behind of a file that could not be made. Works without the GIL: the contents must not change
    meanwhile, and no descriptor be closed.
    """
