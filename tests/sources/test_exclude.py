"""What a backup leaves out of real trees, and what a restore picks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bfrepo.core.errors import InvalidPattern, InvalidValue
from bfrepo.sources.exclude import ExcludeRules, PathFilter, Tag, read_patterns
from tests.support.listing import as_nobody, list_files

SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55"


def make(top: Path, *paths: str, content: str = "x") -> None:
    """Make files, and directories for names that end in a slash."""
    for path in paths:
        place = top / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            place.mkdir(exist_ok=True)
        else:
            place.write_text(content)


def kept(top: Path, rules: ExcludeRules) -> list[str]:
    """What of a tree is backed up under these rules."""
    listing = list_files(top, rules=rules)
    assert listing.errors == []
    return listing.under(os.fsencode(top))


def options(**given: object) -> ExcludeRules:
    """The rules of a command line, without an environment."""
    return ExcludeRules.from_options(environment={}, **given)  # type: ignore[arg-type]


def test_no_rules_leave_out_nothing(tmp_path: Path) -> None:
    """Rules that say nothing are false."""
    make(tmp_path, "a", "d/b")

    assert (bool(options()), kept(tmp_path, options())) == (False, ["a", "d/", "d/b"])


def test_a_directory_that_fits_is_not_entered(tmp_path: Path) -> None:
    """What lies in an excluded directory cannot come back; in one that is not itself excluded it can."""
    make(tmp_path, "out/keep", "in/a", "in/keep", "keep")

    assert kept(tmp_path, options(exclude=["out", "!keep"])) == ["in/", "in/a", "in/keep", "keep"]
    assert kept(tmp_path, options(exclude=["in/*", "!keep"])) == ["in/", "in/keep", "keep", "out/", "out/keep"]


def test_case_matters_only_to_exclude(tmp_path: Path) -> None:
    """--iexclude fits capital letters too."""
    make(tmp_path, "a.JPG", "a.jpg")

    assert kept(tmp_path, options(exclude=["*.jpg"])) == ["a.JPG"]
    assert kept(tmp_path, options(iexclude=["*.jpg"])) == []


def test_an_anchored_pattern_counts_from_the_root(tmp_path: Path) -> None:
    """A leading slash is the root of the file system, wherever the backup begins."""
    make(tmp_path, "a", "d/a")

    assert kept(tmp_path, options(exclude=[f"{tmp_path}/a"])) == ["d/", "d/a"]
    assert kept(tmp_path, options(exclude=["/a"])) == ["a", "d/", "d/a"]


def test_patterns_of_the_command_line_overrule_those_of_files(tmp_path: Path) -> None:
    """Files come first, so that a run can make an exception."""
    make(tmp_path, "tree/a.o", "tree/b.o")
    (tmp_path / "rules").write_text("*.o\n")

    rules = options(exclude=["!b.o"], exclude_files=[tmp_path / "rules"])

    assert kept(tmp_path / "tree", rules) == ["b.o"]


@pytest.mark.root
def test_what_is_excluded_is_not_touched(tmp_path: Path) -> None:
    """A name that may not even be looked at is no error when it is excluded."""
    make(tmp_path, "d/secret")
    tmp_path.chmod(0o755)
    for directory in tmp_path.parents[:-2]:
        directory.chmod(0o755)
    (tmp_path / "d").chmod(0o744)
    with as_nobody():
        reported = list_files(tmp_path).errors
        excluded = list_files(tmp_path, rules=options(exclude=["secret"])).errors

    assert ([path for path, _ in reported], excluded) == ([os.fsencode(tmp_path / "d/secret")], [])


def test_lines_of_exclude_files(tmp_path: Path) -> None:
    """Comments, blank lines and surrounding spaces do not count; $NAME is put in as it is, and $$ is a dollar."""
    (tmp_path / "rules").write_bytes(
        b"\xef\xbb\xbf# comment\r\n\r\n  *.o  \n$HOME/x\n${ODD}y\n$$a\n~$*.docx\n\\#b\n!keep\n\xff\n"
    )
    environment = {"HOME": "/home/me", "ODD": "/[odd]*"}
    patterns = list(read_patterns([tmp_path / "rules"], environment=environment))
    steps = [pattern.steps for pattern in patterns]

    assert steps == [
        (r"[^/]*\.o",),
        ("home", "me", "x"),
        (r"\[odd\]\*y",),
        (r"\$a",),
        (r"\~\$[^/]*\.docx".replace(r"\~", "\\~"),),
        (r"\#b",),
        ("keep",),
        ("\udcff",),
    ]
    assert [pattern.negated for pattern in patterns].index(True) == 6


def test_the_command_line_knows_no_variables(tmp_path: Path) -> None:
    """There the shell has put them in already."""
    make(tmp_path, "$HOME")

    assert kept(tmp_path, ExcludeRules.from_options(environment={"HOME": "/x"}, exclude=["$HOME"])) == []


def test_an_unknown_variable_is_an_error(tmp_path: Path) -> None:
    """An empty value would make another pattern of it, perhaps one for everything."""
    (tmp_path / "rules").write_text("a\n\n$NOWHERE/*\n")

    with pytest.raises(InvalidPattern, match=r"rules, line 3: .*no environment variable NOWHERE"):
        options(exclude_files=[tmp_path / "rules"])


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    """The message has file, line and pattern."""
    (tmp_path / "rules").write_text("a\n[b\n")

    with pytest.raises(InvalidPattern, match=r"rules, line 2: pattern '\[b'"):
        options(iexclude_files=[tmp_path / "rules"])


@pytest.mark.parametrize("name", ["missing", "."])
def test_an_exclude_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str) -> None:
    """A backup does not begin without the rules it was given."""
    with pytest.raises(InvalidValue, match="exclude file"):
        options(exclude_files=[tmp_path / name])


def test_cache_directories(tmp_path: Path) -> None:
    """Of a directory with the tag only the tag is kept, and only with the right signature."""
    make(tmp_path, "cache/a", "cache/sub/b", "false/a", "plain/a")
    make(tmp_path, "cache/CACHEDIR.TAG", content=SIGNATURE + "\n# made by a test")
    make(tmp_path, "false/CACHEDIR.TAG", content=SIGNATURE[:-1])

    assert kept(tmp_path, options(caches=True)) == [
        *("cache/", "cache/CACHEDIR.TAG", "false/", "false/CACHEDIR.TAG", "false/a", "plain/", "plain/a"),
    ]


def test_a_tag_that_is_a_symlink_is_none(tmp_path: Path) -> None:
    """The standard asks for an ordinary file."""
    make(tmp_path, "cache/a")
    make(tmp_path, "tag", content=SIGNATURE)
    (tmp_path / "cache/CACHEDIR.TAG").symlink_to("../tag")

    assert "cache/a" in kept(tmp_path, options(caches=True))


def test_directories_with_a_mark_of_ones_own(tmp_path: Path) -> None:
    """A name alone is enough, of whatever kind; with a header the file must begin with it."""
    make(tmp_path, "one/.nobackup/", "one/a", "two/.nobackup", "two/a")
    make(tmp_path, "three/mark", "three/a", content="yes: really")

    assert kept(tmp_path, options(if_present=[".nobackup", "mark:no"])) == [
        *("one/", "one/.nobackup/", "three/", "three/a", "three/mark", "two/", "two/.nobackup"),
    ]
    assert "three/a" not in kept(tmp_path, options(if_present=["mark:yes: "]))


def test_a_mark_that_is_excluded_still_counts(tmp_path: Path) -> None:
    """Leaving out the file that marks a directory does not bring back what it marks."""
    make(tmp_path, "d/.nobackup", "d/a")

    assert kept(tmp_path, options(if_present=[".nobackup"], exclude=[".nobackup"])) == ["d/"]


@pytest.mark.parametrize("text", ["", ":header", "a/b", "..", "a\0"])
def test_a_mark_must_be_a_name(text: str) -> None:
    """A path or nothing at all is an error."""
    with pytest.raises(InvalidPattern, match="--exclude-if-present"):
        Tag.parse(text)


def test_large_files(tmp_path: Path) -> None:
    """Files above the limit are left out; at the limit they stay, and directories always do."""
    make(tmp_path, "d/", "small")
    (tmp_path / "at").write_bytes(b"x" * 100)
    (tmp_path / "above").write_bytes(b"x" * 101)

    assert kept(tmp_path, options(larger_than=100)) == ["at", "d/", "small"]
    assert kept(tmp_path, options(larger_than=0)) == ["d/"]


def test_gitignore_of_every_level(tmp_path: Path) -> None:
    """Files below count first, a .git of its own begins anew, and .git itself is kept."""
    make(tmp_path, "a.o", "keep.o", "sub/a.o", "sub/b.o", "other/a.o", ".git/HEAD", "other/.git/HEAD")
    make(tmp_path, ".gitignore", content="*.o\n!keep.o\n")
    make(tmp_path, "sub/.gitignore", content="!/b.o\n")

    assert kept(tmp_path, options(gitignore=True)) == [
        *(".git/", ".git/HEAD", ".gitignore", "keep.o", "other/", "other/.git/", "other/.git/HEAD", "other/a.o"),
        *("sub/", "sub/.gitignore", "sub/b.o"),
    ]


def test_gitignore_counts_above_the_path_that_was_asked_for(tmp_path: Path) -> None:
    """A backup of part of a working tree obeys what is written at its top."""
    make(tmp_path, "sub/a.o", "sub/a.c", "ignored/a")
    make(tmp_path, ".gitignore", content="*.o\nignored\n")

    listing = list_files(tmp_path / "sub", tmp_path / "ignored", rules=options(gitignore=True))

    assert listing.under(os.fsencode(tmp_path)) == ["sub/", "sub/a.c"]


def test_gitignore_is_obeyed_though_it_is_excluded(tmp_path: Path) -> None:
    """Leaving out the .gitignore files and .git does not bring back what they ignore."""
    make(tmp_path, "a.o", "inner/.git/HEAD", "inner/a.o")
    make(tmp_path, ".gitignore", content="*.o\n")

    assert kept(tmp_path, options(gitignore=True, exclude=[".git*"])) == ["inner/", "inner/a.o"]


@pytest.mark.parametrize("kind", ["symlink", "directory", "enormous"])
def test_a_gitignore_that_is_no_list_is_not_obeyed(tmp_path: Path, kind: str) -> None:
    """A symlink, which git does not follow either, a directory, and more than anybody writes."""
    make(tmp_path, "a.o")
    make(tmp_path, "list", content="*.o\n" + ("#" * 99 + "\n") * 11_000)
    if kind == "symlink":
        (tmp_path / "list").write_text("*.o\n")
        (tmp_path / ".gitignore").symlink_to("list")
    elif kind == "directory":
        (tmp_path / ".gitignore").mkdir()
    else:
        (tmp_path / "list").rename(tmp_path / ".gitignore")

    assert "a.o" in kept(tmp_path, options(gitignore=True))


@pytest.mark.parametrize(
    ("include", "exclude", "path", "expected"),
    [
        ([], [], "/a", (True, False)),
        ([], [], "/a/", (True, True)),
        ([], ["*.o"], "/a/x.o", (False, False)),
        ([], ["*.o"], "/a/x.c", (True, False)),
        ([], ["out"], "/out/", (False, False)),
        ([], ["out"], "/out/a/b", (False, False)),
        ([], ["out", "!keep"], "/keep", (True, False)),
        (["/home/me"], [], "/", (False, True)),
        (["/home/me"], [], "/home/", (False, True)),
        (["/home/me"], [], "/home/me/", (True, True)),
        (["/home/me"], [], "/home/me/a/b", (True, False)),
        (["/home/me"], [], "/home/you/", (False, False)),
        (["/home/me"], [], "/etc/", (False, False)),
        (["/home/me"], [], "/home", (False, False)),
        (["/home/*/x"], [], "/home/anyone/", (False, True)),
        (["/home/*/x"], [], "/home/anyone/y/", (False, False)),
        (["/home/**/x"], [], "/home/a/b/c/", (False, True)),
        (["/home/**/x"], [], "/etc/", (False, False)),
        (["*.c"], [], "/any/where/", (False, True)),
        (["*.c"], [], "/any/where/x.c", (True, False)),
        (["*.c"], [], "/any/where/x.o", (False, False)),
        (["sub/"], [], "/a/sub/", (True, True)),
        (["sub/"], [], "/a/sub", (False, False)),
        (["sub/"], [], "/a/sub/x", (True, False)),
        (["/home", "!*.o"], [], "/home/a.o", (False, False)),
        (["/home", "!/home/you"], [], "/home/you/x", (False, False)),
        (["/home"], ["*.o"], "/home/a.o", (False, False)),
        (["/home"], ["*.o"], "/home/a.c", (True, False)),
    ],
)
def test_picking_paths_of_a_snapshot(
    include: list[str], exclude: list[str], path: str, expected: tuple[bool, bool]
) -> None:
    """Each line of the table holds: whether the path is wanted, and whether anything below it may be."""
    is_dir = path.endswith("/")
    chosen = PathFilter(include=include, exclude=exclude).selects(os.fsencode(path.rstrip("/") or "/"), is_dir)

    assert chosen == expected


def test_a_filter_with_a_bad_pattern() -> None:
    """The message says which option it is."""
    with pytest.raises(InvalidPattern, match=r"--include: pattern '\['"):
        PathFilter(include=["["])
    with pytest.raises(InvalidPattern, match=r"--exclude: pattern '\['"):
        PathFilter(exclude=["["])
