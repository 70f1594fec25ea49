"""What a catalogue says of the snapshots that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bfrepo.catalogue.catalogue import Catalogue
from bfrepo.core.errors import Interrupted
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Progress
from bfrepo.data.identity import identity_of
from bfrepo.data.node import Node
from bfrepo.data.tree import TREE_VERSION
from bfrepo.sources.query import NameQuery
from tests.support.backups import never
from tests.support.cataloguing import Directory, count, letters, root_of, search, snapshot_id, tables, take_in
from tests.support.trees import TreeMaker

FIRST: Directory = {"srv": {"notes.txt": "1", "old": {"report.pdf": "x"}}, "etc": {"passwd": "root"}}
SECOND: Directory = {"srv": {"notes.txt": "2", "new": {"report.pdf": "x"}}, "etc": {"passwd": "root"}}


@pytest.fixture
def make() -> TreeMaker:
    """Makes trees in memory."""
    return TreeMaker()


def test_where_a_name_is(catalogue: Catalogue, make: TreeMaker) -> None:
    """It is found in each snapshot where it is, at its path there; in one that is not asked for it is not."""
    take_in(catalogue, make, a=FIRST, b=SECOND)

    assert search(catalogue, "report.pdf") == {"a": {"/srv/old/report.pdf"}, "b": {"/srv/new/report.pdf"}}
    assert search(catalogue, "report.pdf", snapshots="b") == {"b": {"/srv/new/report.pdf"}}
    assert search(catalogue, "/srv/old/*") == {"a": {"/srv/old/report.pdf"}, "b": set()}


def test_a_directory_in_two_places(catalogue: Catalogue, make: TreeMaker) -> None:
    """Equal directories are one tree, and what is in it is found at every path that leads to it."""
    inner: Directory = {"deep": {"x": "1"}}
    take_in(catalogue, make, a={"one": inner, "two": {"three": inner}})

    assert search(catalogue, "x") == {"a": {"/one/deep/x", "/two/three/deep/x"}}


@pytest.mark.parametrize(
    ("pattern", "ignore_case", "expected"),
    [
        ("*eport*", False, {"report.pdf"}),
        ("REPORT.*", False, set()),
        ("REPORT.*", True, {"report.pdf"}),
        ("r?", False, {"rc"}),
        ('*"quoted"*', False, {'a "quoted" name'}),
        ("*école*", False, {"l'école"}),
        ("*ÉCOLE*", True, {"l'école"}),
        ("*straße*", True, {"Straße"}),
        ("istanbul", True, {"İstanbul"}),
        ("*\udcffbin*", False, {"a\udcffbin"}),
        ("*bin", False, {"a\udcffbin"}),
        ("*AND*", False, {"this AND that"}),
        ("[r]eport*", False, {"report.pdf"}),
        ("\\[abc]", False, {"[abc]"}),
        ("*", False, {"report.pdf", "rc", 'a "quoted" name', "l'école", "Straße", "İstanbul", "a\udcffbin",
                      "this AND that", "[abc]"}),
    ],
)  # fmt: skip
def test_names_of_all_kinds(
    catalogue: Catalogue, make: TreeMaker, pattern: str, ignore_case: bool, expected: set[str]
) -> None:
    """The search for parts of names passes nothing over that a pattern fits, whatever the letters."""
    names = ["report.pdf", "rc", 'a "quoted" name', "l'école", "Straße", "İstanbul", "a\udcffbin", "this AND that",
             "[abc]"]  # fmt: skip
    take_in(catalogue, make, a=dict.fromkeys(names, "content"))

    found = search(catalogue, pattern, ignore_case=ignore_case)

    assert found == {"a": {f"/{name}" for name in expected}}


def test_large_directories(catalogue: Catalogue, make: TreeMaker) -> None:
    """A directory that is kept in parts is one directory, for who searches and for who follows a path."""
    many = {f"file-{number:05}": "" for number in range(5000)}
    take_in(catalogue, make, a={"big": many}, b={"big": {**many, "file-02500": "changed"}})

    assert search(catalogue, "file-0250?")["a"] == {f"/big/file-0250{digit}" for digit in range(10)}
    found = catalogue.trace([b"big", b"file-02500"], [snapshot_id("a"), snapshot_id("b")])
    assert [each.node.size for each in found.values() if each is not None] == [0, 7]


def test_rows_are_shared(catalogue: Catalogue, make: TreeMaker, tmp_path: Path) -> None:
    """What a snapshot has in common with those that are there costs no row."""
    take_in(catalogue, make, a=FIRST)
    before = {table: count(tmp_path, table) for table in ("trees", "entries", "nodes")}
    take_in(catalogue, make, b=FIRST, c={**FIRST, "etc": {"passwd": "changed"}})

    assert letters(catalogue) == "abc"
    assert {table: count(tmp_path, table) - before[table] for table in before} == {"trees": 2, "entries": 3, "nodes": 2}


def test_paths(catalogue: Catalogue, make: TreeMaker) -> None:
    """A path is followed in every snapshot asked for; where it leads nowhere the answer is None."""
    take_in(catalogue, make, a=FIRST, b=SECOND)
    wanted = [snapshot_id(letter) for letter in "abc"]

    old = catalogue.trace([b"srv", b"old"], wanted)
    notes = catalogue.trace([b"srv", b"notes.txt"], wanted)

    assert set(old) == set(notes) == set(wanted[:2])
    assert old[wanted[0]] is not None
    assert old[wanted[1]] is None
    assert len({each.identity for each in notes.values() if each}) == 2
    assert set(catalogue.trace([b"srv", b"notes.txt", b"x"], wanted).values()) == {None}
    assert set(catalogue.trace([b"unheard of"], wanted).values()) == {None}


def test_what_is_shown_of_an_entry(catalogue: Catalogue) -> None:
    """Everything that lists show comes back as the tree has it, and so does what versions go by."""
    make = TreeMaker()
    node = make.node(
        b"tty\xff", "chardev", mode=0o4755, uid=4_000_000_000, gid=7, user="jö", group="tty", mtime_ns=-(1 << 63),
        rdev=0x0405, target=b"\x00to", size=(1 << 63) - 1,
    )  # fmt: skip
    catalogue.add({snapshot_id("a"): (make.tree(node), b"")}, make.blobs, Progress(), never)

    entry = catalogue.trace([node.name], [snapshot_id("a")])[snapshot_id("a")]

    assert entry is not None
    assert (entry.node, entry.identity) == (node, identity_of(node))


def test_dropped_snapshots_are_gone(catalogue: Catalogue, make: TreeMaker, tmp_path: Path) -> None:
    """A snapshot that is dropped is not found, and what only it had is swept out: no name of it is left."""
    take_in(catalogue, make, a=FIRST, b=SECOND)

    catalogue.drop([snapshot_id("a")])

    assert search(catalogue, "*") == {"b": {f"/{path}" for path in (
        "srv", "etc", "srv/new", "srv/notes.txt", "srv/new/report.pdf", "etc/passwd",
    )}}  # fmt: skip
    with tables(tmp_path) as connection:
        assert (b"old",) not in connection.execute("SELECT name FROM names").fetchall()
        assert not connection.execute("SELECT rowid FROM names_fts WHERE names_fts MATCH 'old'").fetchall()
        connection.execute("INSERT INTO names_fts (names_fts) VALUES ('integrity-check')")
    assert count(tmp_path, "trees") == 4
    assert count(tmp_path, "nodes") == count(tmp_path, "entries") == 6


def test_sweeping_waits_for_a_tenth(catalogue: Catalogue, make: TreeMaker, tmp_path: Path) -> None:
    """To look for what nobody needs takes time, so the trees of few dropped snapshots stay a while."""
    content: dict[str, Any] = {letter: {f"only in {letter}": "x"} for letter in "abcdefghijklmnopqrstu"}
    take_in(catalogue, make, **content)

    catalogue.drop([snapshot_id("a")])
    assert (len(letters(catalogue)), count(tmp_path, "names")) == (20, 21)
    catalogue.drop([snapshot_id("b")])

    assert (len(letters(catalogue)), count(tmp_path, "names")) == (19, 19)


def test_what_was_swept_out_can_come_back(catalogue: Catalogue, make: TreeMaker) -> None:
    """A snapshot that is taken in after its trees were swept out is there with everything."""
    take_in(catalogue, make, a=FIRST, b=SECOND)
    catalogue.drop([snapshot_id("a"), snapshot_id("b")])

    take_in(catalogue, make, c=FIRST)

    assert search(catalogue, "report.pdf", "passwd") == {"c": {"/srv/old/report.pdf", "/etc/passwd"}}


def test_a_damaged_snapshot_is_left_out(catalogue: Catalogue, make: TreeMaker) -> None:
    """One with a directory that cannot be read is not there at all; those before and after it are."""
    lost = root_of(make, {"lost": "x"})
    damaged = {"a": FIRST, "b": {"whole": {"w": "1"}, "broken": {"lost": "x"}, "srv": FIRST["srv"]}, "c": SECOND}
    rows = {snapshot_id(letter): (root_of(make, content), b"") for letter, content in damaged.items()}
    make.blobs.damaged.add(lost)

    catalogue.add(rows, make.blobs, Progress(), never)

    assert letters(catalogue) == "ac"
    assert search(catalogue, "w", "notes.txt") == {"a": {"/srv/notes.txt"}, "c": {"/srv/notes.txt"}}


def test_it_can_be_stopped(catalogue: Catalogue, make: TreeMaker) -> None:
    """Whoever presses Ctrl-C while a snapshot is taken in leaves no half of it."""
    answers = iter([False, True])

    with pytest.raises(Interrupted):
        take_in(catalogue, make, cancelled=lambda: next(answers), a=FIRST)

    assert letters(catalogue) == ""
    take_in(catalogue, make, b=FIRST)
    assert search(catalogue, "notes.txt") == {"b": {"/srv/notes.txt"}}


def test_hostile_trees_make_no_circle(catalogue: Catalogue, make: TreeMaker) -> None:
    """A directory that pretends to be in parts, one of which is listed twice, ends well."""
    part = make.tree(make.file("x"))
    twice = make.blobs.save(BlobKind.TREE, msgspec.msgpack.encode([TREE_VERSION, [], part + part]))
    catalogue.add({snapshot_id("a"): (twice, b"")}, make.blobs, Progress(), never)

    assert search(catalogue, "x") == {"a": {"/x"}}


def test_the_bodies_of_snapshots(catalogue: Catalogue, make: TreeMaker) -> None:
    """The snapshots themselves come back as they went in, so that nobody has to read them."""
    take_in(catalogue, make, a=FIRST)

    assert catalogue.snapshots() == {snapshot_id("a"): b"body of a"}


def test_a_broad_search_over_many_snapshots(catalogue: Catalogue, make: TreeMaker) -> None:
    """Entries that trees share are one object, however many trees there are."""
    same = {f"same-{number}": str(number) for number in range(20)}
    content: dict[str, Any] = {letter: {**same, letter: letter} for letter in "abcd"}
    take_in(catalogue, make, **content)

    trail, _ = catalogue.search(NameQuery(["*"]), {snapshot_id("a")})

    nodes: list[Node] = [found.node for entries in trail.entries.values() for found in entries]
    assert len(nodes) == 84
    assert len({id(node) for node in nodes}) == 24
