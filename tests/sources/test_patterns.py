"""The language of patterns, as backupforge-exclude(7) states it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.core.errors import InvalidPattern
from bfrepo.sources.exclude import ExcludeRules
from bfrepo.sources.patterns import PatternList, parse_gitignore, parse_pattern, to_text
from tests.support.listing import list_files


def matches(pattern: str, path: str, *, ignore_case: bool = False) -> bool:
    """Whether a pattern fits a path; a path that ends in a slash is a directory's."""
    patterns = PatternList([parse_pattern(pattern, origin="test", ignore_case=ignore_case)])
    return patterns.verdict(path, path[path.rfind("/", 0, -1) + 1 :]) is True


TABLE = [
    # a name fits at any depth, and only the whole name
    ("foo", "/foo", True),
    ("foo", "/a/b/foo", True),
    ("foo", "/a/foo/", True),
    ("foo", "/a/foobar", False),
    ("foo", "/a/barfoo", False),
    ("foo", "/foo/bar", False),
    ("foo", "/a/Foo", False),
    (".cache", "/home/me/.cache/", True),
    # stars and question marks stay inside one name
    ("*.o", "/a/x.o", True),
    ("*.o", "/a/.o", True),
    ("*.o", "/a/x.o.c", False),
    ("*.o", "/x.o/y", False),
    ("*", "/anything", True),
    ("*", "/.hidden", True),
    ("a*b*c", "/a-b-c", True),
    ("a*b*c", "/abc", True),
    ("a*b*c", "/acb", False),
    ("*a*", "/bab", True),
    ("*ab", "/abab", True),
    ("*aab", "/aaab", True),
    ("a*a", "/a", False),
    ("a**b", "/a-b", True),
    ("?", "/a", True),
    ("?", "/ab", False),
    ("?", "/é", True),
    ("??", "/é", False),
    ("?", "/\udcff", True),
    ("file?.txt", "/file1.txt", True),
    ("file?.txt", "/file.txt", False),
    ("*", "/two\nlines", True),
    ("two?lines", "/two\nlines", True),
    # sets
    ("[abc]", "/b", True),
    ("[abc]", "/d", False),
    ("[a-c]x", "/bx", True),
    ("[!a]", "/b", True),
    ("[!a]", "/a", False),
    ("[^a]", "/a", False),
    ("[]]", "/]", True),
    ("[!]]", "/]", False),
    ("[]-]", "/-", True),
    ("[a-]", "/-", True),
    ("[[]", "/[", True),
    ("[é-ü]", "/ö", True),
    ("[\\]]", "/]", True),
    ("[\\a-c]", "/b", True),
    ("[[:digit:]]", "/7", True),
    ("[[:digit:]x]", "/x", True),
    ("[![:digit:]]", "/7", False),
    ("[&&~~||-]", "/|", True),
    # backslashes
    ("\\*", "/*", True),
    ("\\*", "/a", False),
    ("\\!a", "/!a", True),
    ("\\[a]", "/[a]", True),
    ("a\\b", "/ab", True),
    # a leading slash is the root
    ("/foo", "/foo", True),
    ("/foo", "/a/foo", False),
    ("/home/*/.cache", "/home/me/.cache/", True),
    ("/home/*/.cache", "/home/me/x/.cache/", False),
    ("/home/*", "/home/", False),
    ("/*", "/a", True),
    ("/*", "/a/b", False),
    # a slash inside: the parts fit one after the other, at any depth
    ("foo/bar", "/foo/bar", True),
    ("foo/bar", "/a/b/foo/bar", True),
    ("foo/bar", "/a/xfoo/bar", False),
    ("foo/bar", "/foo/x/bar", False),
    ("foo/bar", "/foo/bar/x", False),
    ("foo/*", "/a/foo/x", True),
    ("foo/*", "/a/foo/", False),
    ("*/x", "/a/b/x", True),
    ("*/x", "/x", False),
    # a slash at the end: only directories
    ("foo/", "/a/foo/", True),
    ("foo/", "/a/foo", False),
    ("/a/foo/", "/a/foo/", True),
    ("/a/foo/", "/a/foo", False),
    # two stars between slashes: any number of directories, none included
    ("foo/**/bar", "/foo/bar", True),
    ("foo/**/bar", "/x/foo/a/b/bar", True),
    ("foo/**/bar", "/foox/bar", False),
    ("foo/**/bar", "/foo/xbar", False),
    ("/foo/**/bar", "/x/foo/bar", False),
    ("/foo/**/bar", "/foox/bar", False),
    ("**/foo", "/foo", True),
    ("/**/foo", "/a/b/foo", True),
    ("foo/**", "/foo/", False),
    ("foo/**", "/foo/a", True),
    ("foo/**", "/x/foo/a/b/", True),
    ("foo/**", "/foox/a", False),
    ("/a/**/b/**/c", "/a/b/c", True),
    ("/a/**/b/**/c", "/a/x/b/b/x/c", True),
    ("/a/**/b/**/c", "/a/xb/c", False),
    ("/a/**/**/c", "/a/c", True),
    ("**/a/**/a/**", "/a/x/a/y", True),
    ("**/a/**/a/**", "/a/x/a/", False),
    ("**", "/a", True),
    ("/a/**/", "/a/b/", True),
    ("/a/**/", "/a/b", False),
    ("/a/**/", "/a/", False),
    # tidied up
    ("foo//bar", "/foo/bar", True),
    ("./foo/./bar", "/foo/bar", True),
    # nothing else has a meaning
    ("{a,b}", "/a", False),
    ("{a,b}", "/{a,b}", True),
    ("$HOME", "/$HOME", True),
    ("~", "/~", True),
    ("a.b", "/axb", False),
    ("(a|b)+", "/(a|b)+", True),
    (" a ", "/ a ", True),
    ("#a", "/#a", True),
]


@pytest.mark.parametrize(("pattern", "path", "expected"), TABLE)
def test_pattern_and_path(pattern: str, path: str, expected: bool) -> None:
    """Each line of the table holds."""
    assert matches(pattern, path) is expected


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.JPG", "/a/x.jpg", True),
        ("/Home/[A-C]x", "/hOME/bX", True),
        ("É", "/é", True),
        ("[!A]", "/a", False),
        ("\udcff", "/\udcff", True),
    ],
)
def test_ignoring_case(pattern: str, path: str, expected: bool) -> None:
    """Capital and small letters are equal, beyond ASCII too."""
    assert matches(pattern, path, ignore_case=True) is expected


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "it names nothing"),
        ("!", "it names nothing"),
        ("/", "it names nothing"),
        ("//", "it names nothing"),
        (".", "it names nothing"),
        ("a/../b", "a path in a backup never has '..' in it"),
        ("[", "a '[' is never closed"),
        ("a[b", "a '[' is never closed"),
        ("[]", "a '[' is never closed"),
        ("[!]", "a '[' is never closed"),
        ("[a/b]", "a '[' is never closed"),
        ("[a\\", "a '[' is never closed"),
        ("[z-a]", "the range z-a is the wrong way round"),
        ("[[:word:]]", "there is no character class [:word:]"),
        ("a\\", "there is nothing behind the last backslash"),
        ("a\\/b", "there is nothing behind the last backslash"),
        ("a\0b", "no name has a NUL in it"),
    ],
)
def test_a_pattern_that_does_not_parse(pattern: str, reason: str) -> None:
    """The message has the pattern, where it stands and what is wrong with it."""
    with pytest.raises(InvalidPattern) as caught:
        parse_pattern(pattern, origin="exclude.txt, line 3")

    assert str(caught.value) == f"exclude.txt, line 3: pattern {pattern!r}: {reason}"


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        (["*.o"], "/a.c", None),
        (["*.o", "!keep.o"], "/a.o", True),
        (["*.o", "!keep.o"], "/keep.o", False),
        (["!keep.o", "*.o"], "/keep.o", True),
        (["*", "!*.c", "/x/*", "!/x/y"], "/a.c", False),
        (["*", "!*.c", "/x/*", "!/x/y"], "/x/a.c", True),
        (["*", "!*.c", "/x/*", "!/x/y"], "/x/y", False),
        (["*", "!*/"], "/a/", False),
        (["*", "!*/"], "/a", True),
    ],
)
def test_the_last_pattern_that_fits_decides(patterns: list[str], path: str, expected: bool | None) -> None:
    """Later patterns overrule earlier ones, whichever way."""
    rules = PatternList([parse_pattern(pattern, origin="test") for pattern in patterns])

    assert rules.verdict(path, path[path.rfind("/", 0, -1) + 1 :]) is expected


def test_no_patterns_decide_nothing() -> None:
    """An empty list is false and fits nothing."""
    assert (bool(PatternList([])), PatternList([]).verdict("/a", "a")) == (False, None)


NAMES = st.text("ab*?.[]!-\\^é\udc80\n", min_size=1, max_size=6)
PATHS = st.lists(st.text("ab.é\udc80\n", min_size=1, max_size=5), min_size=1, max_size=5)
SIMPLE = st.lists(st.text("ab*?", min_size=1, max_size=5), min_size=1, max_size=5)


def fits_name(pattern: str, name: str) -> bool:
    """A slow and obvious matcher for one part of a path."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(fits_name(pattern[1:], name[skip:]) for skip in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and fits_name(pattern[1:], name[1:])


def fits_parts(pattern: list[str], path: list[str]) -> bool:
    """The same for a whole path."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        if len(pattern) == 1:
            return bool(path)
        return any(fits_parts(pattern[1:], path[skip:]) for skip in range(len(path) + 1))
    return bool(path) and fits_name(pattern[0], path[0]) and fits_parts(pattern[1:], path[1:])


@given(SIMPLE, PATHS, st.booleans())
def test_expressions_mean_what_the_slow_matcher_does(pattern: list[str], path: list[str], anchored: bool) -> None:
    """Stars, question marks and double stars are translated without a fault, for patterns from the root and others."""
    text = "/".join(pattern)
    expected = fits_parts(pattern if anchored else ["**", *pattern], path)

    assert matches(f"/{text}" if anchored else text, "/" + "/".join(path)) is expected


@given(st.text(), PATHS, st.booleans())
def test_any_text_is_a_pattern_or_invalid(pattern: str, path: list[str], ignore_case: bool) -> None:
    """Whatever is written as a pattern either works or raises InvalidPattern."""
    try:
        parsed = parse_pattern(pattern, origin="test", ignore_case=ignore_case)
    except InvalidPattern:
        return
    text = "/" + "/".join(path)

    assert PatternList([parsed]).verdict(text, path[-1]) in (None, not parsed.negated)
    assert PatternList([parsed], below=True).verdict(text, text) in (None, not parsed.negated)
    assert parsed.leads_through(path) in (True, False)


@given(st.lists(NAMES, min_size=1, max_size=4), PATHS)
def test_special_characters_anywhere_are_a_pattern_or_invalid(pattern: list[str], path: list[str]) -> None:
    """The same for text that is mostly special characters."""
    test_any_text_is_a_pattern_or_invalid.hypothesis.inner_test("/".join(pattern), path, False)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a*a*a*a*a*a*a*a*a*a*b", "/" + "a" * 255),
        ("/**/a/**/a/**/a/**/a/**/a/**/b", "/a" * 2000),
        ("*a/*a/*a/*a/*a/b", "/aaaa" * 800),
        ("?*?*?*?*?*?*?*?*x", "/" + "a" * 255),
    ],
)
def test_no_pattern_is_slow(pattern: str, path: str) -> None:
    """A pattern made to backtrack answers at once all the same."""
    begun = time.perf_counter()

    assert matches(pattern, path) is False
    assert time.perf_counter() - begun < 1.0


def test_names_are_seen_with_a_character_for_each_foreign_byte() -> None:
    """What is UTF-8 is text, and each byte that is not becomes one character."""
    assert to_text(b"\xc3\xa9\xff\xc3") == "é\udcff\udcc3"


@pytest.mark.parametrize(
    ("lines", "path", "expected"),
    [
        (b"foo", "/foo", True),
        (b"foo/bar", "/a/foo/bar", None),
        (b"foo/bar", "/foo/bar", True),
        (b"\xef\xbb\xbffoo\r\n", "/foo", True),
        (b"foo  ", "/foo", True),
        (b"foo\\ ", "/foo ", True),
        (b" foo", "/ foo", True),
        (b"#foo", "/#foo", None),
        (b"\\#foo", "/#foo", True),
        (b"\n\n!\n/\n[\nfoo", "/foo", True),
        (b"*\n!keep", "/keep", False),
        (b"\xff", "/\udcff", True),
    ],
)
def test_lines_of_a_gitignore(lines: bytes, path: str, expected: bool | None) -> None:
    """A .gitignore is read as git reads it; a line that does not parse is passed over."""
    assert parse_gitignore(lines).verdict(path, path[path.rfind("/", 0, -1) + 1 :]) is expected


IGNORE_LINES = [
    *("*", "**", "a", "b", "foo", "*.o", "/a", "/foo", "a/b", "foo/", "foo/*", "foo/**", "**/a", "a/**/b", "a/**"),
    *("!a", "!keep", "!foo/", "!/a/b", "[ab]", "[!a]*", "fo?", "x\\ y", "\\#h", "#h", "sp\\ ", "sp ", "**/foo/*"),
    *("*/", "**/", "!*/", "/*", "a*b", "f**o", "[[:alpha:]]", "[x", "a\\", "[]-]", "/", "//", "*/a", "\\[x\\]"),
    *("foo/**/", "a/*/b", "**/**/a", "[z-a]", "a//b", "a/**b", " a", "!*", "[[:foo:]]", "[\\]a]"),
]
IGNORED_NAMES = ["a", "b", "foo", "foo.o", "bar", "x y", "a.b", "[x]", "*", "keep", "#h", "fo", "sp ", "-"]


def fill(directory: Path, depth: int, rng: random.Random) -> None:
    """Make a small tree with .gitignore files."""
    for name in rng.sample(IGNORED_NAMES, rng.randint(1, 5)):
        if depth < 3 and rng.random() < 0.5:
            (directory / name).mkdir()
            fill(directory / name, depth + 1, rng)
        else:
            (directory / name).touch()
    if depth == 0 or rng.random() < 0.3:
        lines = [rng.choice(IGNORE_LINES) for _ in range(rng.randint(1, 4))]
        (directory / ".gitignore").write_text("\n".join(lines) + rng.choice(["", "\n", "\r\n"]))


@pytest.mark.parametrize("seed", range(40))
def test_gitignore_is_what_git_makes_of_it(tmp_path: Path, seed: int) -> None:
    """In random trees with random .gitignore files exactly the files stay that git would not ignore."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    fill(tmp_path, 0, random.Random(seed))
    git = ["git", "-c", "core.excludesFile=/dev/null", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q", "--template="], check=True)
    listed = subprocess.run([*git, "ls-files", "-oz", "--exclude-standard"], check=True, capture_output=True).stdout

    ours = list_files(tmp_path, rules=ExcludeRules(gitignore=True)).under(os.fsencode(tmp_path))

    files = [path for path in ours if not path.endswith("/") and not path.startswith(".git/")]
    assert sorted(files) == sorted(os.fsdecode(path) for path in listed.split(b"\0") if path)


MANUAL = Path(__file__).resolve().parents[2] / "man/backupforge-exclude.7"


def rows_of_the_manual() -> list[tuple[str, str, bool]]:
    """The examples in the table at the end of the manual page: pattern, path, whether it fits."""
    table = MANUAL.read_text().split("\n_\n")[1].split("\n.TE")[0].replace(r"\('e", "é")
    rows = []
    for line in table.split("\n"):
        pattern, fitting, others = line.split("\t")
        for paths, expected in ((fitting, True), (others, False)):
            rows += [
                (pattern, path.split()[-1] + ("/" if "directory" in path else ""), expected)
                for path in paths.split(", ")
            ]
    return rows


@pytest.mark.parametrize(("pattern", "path", "expected"), rows_of_the_manual())
def test_the_manual_tells_the_truth(pattern: str, path: str, expected: bool) -> None:
    """Each example of backupforge-exclude(7) is as it says."""
    assert matches(pattern, path) is expected


def test_the_manual_is_sound() -> None:
    """The formatter of manual pages has no warning about it."""
    if shutil.which("groff") is None:
        pytest.skip("needs groff")
    command = ["groff", "-man", "-t", "-ww", "-z", "-Tutf8", str(MANUAL)]

    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""
