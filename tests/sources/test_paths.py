"""Lists of paths, and what they make together."""

from __future__ import annotations

from pathlib import Path

import pytest

from bfrepo.core.errors import InvalidValue
from bfrepo.sources.paths import (
    Wanted,
    absolute_path,
    paths_from_lines,
    paths_from_patterns,
    paths_from_raw,
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"a", b"/here/now/a"),
        (b"/a", b"/a"),
        (b"/", b"/"),
        (b"//a//b/", b"/a/b"),
        (b".", b"/here/now"),
        (b"..", b"/here"),
        (b"../../../..", b"/"),
        (b"./a/../b/.", b"/here/now/b"),
        (b"...", b"/here/now/..."),
        (b" \n\xff", b"/here/now/ \n\xff"),
    ],
)
def test_absolute_paths(path: bytes, expected: bytes) -> None:
    """Relative paths count from the working directory; dots and doubled slashes go."""
    assert absolute_path(path, b"/here/now") == expected


@pytest.mark.parametrize("path", [b"", b"a\0b"])
def test_what_is_no_path(path: bytes) -> None:
    """Nothing at all and a NUL are errors."""
    with pytest.raises(InvalidValue, match="is not a path"):
        absolute_path(path, b"/")


def test_paths_make_a_tree() -> None:
    """Paths that repeat and lie in one another are one tree, in which each is marked."""
    tree = Wanted.from_paths([b"/a/b", b"/a", b"/a/b", b"/c/d/e"])

    assert (tree.whole, sorted(tree.children)) == (False, [b"a", b"c"])
    assert (tree.children[b"a"].whole, tree.children[b"a"].children[b"b"].whole) == (True, True)
    assert (tree.children[b"c"].whole, tree.children[b"c"].children[b"d"].children[b"e"].whole) == (False, True)
    assert Wanted.from_paths([b"/"]).whole is True


def test_patterns_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are expanded as by a shell, hidden names included, in order; what nothing fits stays as it is."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.c", "a.c", ".c", "x", "d/e/f.c"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()

    found = paths_from_patterns(b"# comment\n\n  *.c \r\n/no/such*\n[[]\nd/**/f.c\n%s/x\n" % str(tmp_path).encode())

    assert found == [b".c", b"a.c", b"b.c", b"/no/such*", b"[[]", b"d/e/f.c", str(tmp_path).encode() + b"/x"]


def test_lines_are_taken_as_they_are() -> None:
    """Nothing but the end of the line and empty lines has a meaning."""
    assert paths_from_lines(b"#a\n\n b \n*\n\xff\r\nlast") == [b"#a", b" b ", b"*", b"\xff\r", b"last"]


def test_raw_paths_end_with_nul() -> None:
    """Everything but NUL is part of a path; the last NUL may be missing."""
    assert paths_from_raw(b"a\nb\0 c\0") == [b"a\nb", b" c"]
    assert paths_from_raw(b"a\0b") == [b"a", b"b"]
    assert paths_from_raw(b"") == []


@pytest.mark.parametrize("data", [b"a\0\0b\0", b"\0", b"\0a"])
def test_an_empty_raw_path_is_an_error(data: bytes) -> None:
    """Two NULs in a row are the sign of a list gone wrong."""
    with pytest.raises(InvalidValue, match="empty path"):
        paths_from_raw(data)


def test_a_nul_in_lines_is_an_error() -> None:
    """The hint says which option such a list needs."""
    for read in (paths_from_lines, paths_from_patterns):
        with pytest.raises(InvalidValue, match="NUL") as caught:
            read(b"a\0b\0")
        assert caught.value.hint is not None
        assert "--files-from-raw" in caught.value.hint
