"""What is looked for by name."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bfrepo.core.errors import InvalidPattern
from bfrepo.data.node import Node
from bfrepo.sources.query import NameQuery

PATTERNS = [
    "*.txt", "/a/b", "b", "a/*", "**/b", "a/**", "/**", "?", "[ab]*", "!b", "\\[x]", "x\\\\[ab]", "a/./b/", "*é*",
    "report-20[0-9][0-9].p?f", "\udcff*x", "İstanbul", "straße",
]  # fmt: skip


@pytest.mark.parametrize(
    ("patterns", "path", "is_dir", "expected"),
    [
        (["*.conf"], b"/etc/a.conf", False, True),
        (["*.conf"], b"/etc/a.conf/b", False, False),
        (["etc/*.conf"], b"/srv/etc/a.conf", False, True),
        (["/etc/*.conf"], b"/srv/etc/a.conf", False, False),
        (["/srv/**/a.conf"], b"/srv/x/y/a.conf", False, True),
        (["etc/"], b"/etc", True, True),
        (["etc/"], b"/etc", False, False),
        (["*.py", "!test_*"], b"/a/test_b.py", False, False),
        (["*.py", "!test_*"], b"/a/b.py", False, True),
        (["!b"], b"/a", False, False),
    ],
)
def test_paths(patterns: list[str], path: bytes, is_dir: bool, expected: bool) -> None:
    """Patterns mean what they mean for excludes."""
    assert NameQuery(patterns).fits(path, is_dir=is_dir) is expected


def test_letters_of_any_size() -> None:
    """Capital and small letters are equal only where that is asked for, beyond ASCII too."""
    assert not NameQuery(["ÉCOLE*"]).fits("/école".encode(), is_dir=False)
    assert NameQuery(["ÉCOLE*"], ignore_case=True).fits("/école".encode(), is_dir=False)


def test_times() -> None:
    """The limits themselves are within the limits."""
    nodes = [Node(name=b"a", mtime_ns=number) for number in range(5)]

    assert [node.mtime_ns for node in NameQuery(["a"], oldest_ns=1, newest_ns=3).select(nodes)] == [1, 2, 3]
    assert NameQuery(["!a"]).select(nodes) == []


def test_a_pattern_that_does_not_parse() -> None:
    """It is refused before anything is read."""
    with pytest.raises(InvalidPattern, match=r"find: pattern '\[a'"):
        NameQuery(["[a"])


@example(["*é*"], "e\u0301é", False)
@example(["straße"], "STRASSE", True)
@example(["*lit*"], "aLİT", True)
@given(
    st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3),
    st.text(st.sampled_from("abxßSé.[]İi\\\udcff"), min_size=1, max_size=8).filter(
        lambda name: name not in (".", "..")
    ),
    st.booleans(),
)
def test_what_fits_comes_into_question(patterns: list[str], name: str, ignore_case: bool) -> None:
    """No path fits of which the name alone would be passed over, or lacks the texts of all patterns."""
    raw = name.encode(errors="surrogateescape")
    query = NameQuery(patterns, ignore_case=ignore_case)

    if query.fits(b"/a/b/" + raw, is_dir=False):
        assert query.may_fit(raw)
        if not ignore_case:
            assert any(all(text in name for text in literals) for literals in query.literals)
