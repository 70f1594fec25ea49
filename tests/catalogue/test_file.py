"""The catalogue's file: who may use it, and what becomes of one that is damaged, old or in use."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bfrepo.catalogue.catalogue import Catalogue, open_catalogue
from bfrepo.catalogue.file import FILE_NAME, CatalogueInUse, remove_file
from tests.support.cataloguing import letters, search, snapshot_id, tables, take_in
from tests.support.program import ROOT
from tests.support.trees import TreeMaker


def reopen(folder: Path) -> Catalogue:
    """The catalogue that is there, or an empty one in its place."""
    catalogue = open_catalogue(folder, make=False)
    assert catalogue is not None
    return catalogue


@pytest.fixture
def filled(tmp_path: Path, catalogue: Catalogue) -> Path:
    """The folder of a catalogue that has a snapshot and is closed."""
    take_in(catalogue, TreeMaker(), a={f"name-{number}": str(number) for number in range(500)})
    catalogue.close()
    return tmp_path


def test_none_is_made_unless_asked(tmp_path: Path) -> None:
    """Names of files are written in the clear only for who wants that."""
    assert open_catalogue(tmp_path / "folder", make=False) is None
    assert not (tmp_path / "folder").exists()


def test_nobody_else_reads_it(tmp_path: Path) -> None:
    """Whatever the umask says, the file, its log, and a folder that is made for it are the user's alone."""
    folder = tmp_path / "folder"
    before = os.umask(0)
    try:
        catalogue = open_catalogue(folder, make=True)
        assert catalogue is not None
        take_in(catalogue, TreeMaker(), a={"x": "1"})
        found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.iterdir()]}
        catalogue.close()
    finally:
        os.umask(before)

    assert found == {"folder": 0o700, FILE_NAME: 0o600, f"{FILE_NAME}-wal": 0o600, f"{FILE_NAME}-shm": 0o600}


def test_it_is_there_the_next_time(filled: Path) -> None:
    """Who opens it later finds what is in it."""
    with reopen(filled) as catalogue:
        assert letters(catalogue) == "a"
        assert search(catalogue, "name-77") == {"a": {"/name-77"}}


@pytest.mark.parametrize("damage", ["another version", "no database", "empty", "cut", "a table is gone"])
def test_it_is_made_again(filled: Path, damage: str) -> None:
    """One of another version, or damaged, answers nothing, and whoever opens it next has an empty one."""
    path = filled / FILE_NAME
    if damage == "another version":
        with tables(filled) as connection:
            connection.execute("PRAGMA user_version = 999")
    elif damage == "a table is gone":
        with tables(filled) as connection:
            connection.execute("DROP TABLE links")
    else:
        data = path.read_bytes()
        path.write_bytes({"no database": b"garbage" * 1000, "empty": b"", "cut": data[: len(data) // 3]}[damage])

    catalogue = open_catalogue(filled, make=False)
    assert catalogue is not None
    with catalogue:
        assert search(catalogue, "name-77", "*") == {}
    with reopen(filled) as catalogue:
        assert letters(catalogue) == ""
        take_in(catalogue, TreeMaker(), b={"x": "1"})
        assert search(catalogue, "x") == {"b": {"/x"}}


def test_garbage_in_every_page(filled: Path) -> None:
    """Whichever page is overwritten, there is an answer that is right, or none."""
    path = filled / FILE_NAME
    whole = path.read_bytes()
    for at in range(0, len(whole), 4096):
        path.write_bytes(whole[:at] + b"\xa5" * 4096 + whole[at + 4096 :])
        with reopen(filled) as catalogue:
            assert search(catalogue, "name-77") in ({}, {"a": {"/name-77"}}), at
        remove_file(filled)
        path.write_bytes(whole)


def test_it_is_not_removed_while_in_use(filled: Path) -> None:
    """Who uses it goes on undisturbed, and who wants it gone is told."""
    with reopen(filled) as catalogue:
        with pytest.raises(CatalogueInUse):
            remove_file(filled)
        assert letters(catalogue) == "a"
    remove_file(filled)

    assert list(filled.iterdir()) == []
    remove_file(filled)


def test_it_is_not_replaced_while_in_use(filled: Path) -> None:
    """A newer version that finds an old one in use does without."""
    with reopen(filled) as catalogue:
        with tables(filled) as connection:
            connection.execute("PRAGMA user_version = 999")
        assert open_catalogue(filled, make=True) is None
        assert letters(catalogue) == "a"


def test_who_cannot_write_waits_and_does_without(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process writes, nothing is taken in, and what is there is found all the same."""
    monkeypatch.setattr("bfrepo.catalogue.file._BUSY_S", 0.05)
    with reopen(filled) as catalogue, tables(filled) as connection:
        connection.execute("BEGIN IMMEDIATE")
        take_in(catalogue, TreeMaker(), b={"x": "1"})
        catalogue.drop([snapshot_id("a")])

        assert search(catalogue, "name-77") == {"a": {"/name-77"}}
        connection.execute("ROLLBACK")
        take_in(catalogue, TreeMaker(), b={"x": "1"})
        assert letters(catalogue) == "ab"


def test_there_is_none_where_it_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No permission, no room, or no SQLite that can search parts of names is no error."""
    (tmp_path / "file").write_text("in the way")
    assert open_catalogue(tmp_path / "file", make=True) is None

    def fail(connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("no such tokenizer: trigram")

    monkeypatch.setattr("bfrepo.catalogue.schema.make_tables", fail)
    assert open_catalogue(tmp_path / "folder", make=True) is None


def test_many_at_once(tmp_path: Path) -> None:
    """Several who take in the same snapshots, drop some and search all see whole snapshots, or none."""
    make = TreeMaker()
    content: dict[str, Any] = {
        letter: {"dir": {f"only-{letter}": letter}, "all": {"shared": "x"}} for letter in "abcdefgh"
    }

    def work(number: int) -> None:
        for turn in range(10):
            catalogue = open_catalogue(tmp_path, make=True)
            if catalogue is None:
                continue  # it was just being made
            with catalogue:
                own = {letter: content[letter] for letter in "abcdefgh"[number : number + 4]}
                take_in(catalogue, make, **own)
                for letter, found in search(catalogue, "shared", "only-*", snapshots="abcdefgh").items():
                    assert found == {"/all/shared", f"/dir/only-{letter}"}
                if turn % 3 == number % 3:
                    catalogue.drop([snapshot_id(next(iter(own)))])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    with reopen(tmp_path) as catalogue:
        take_in(catalogue, make, **content)
        assert letters(catalogue) == "abcdefgh"
        assert search(catalogue, "only-*", snapshots="h") == {"h": {"/dir/only-h"}}


_DIES = """
import os, sys
from pathlib import Path
from bfrepo.catalogue.catalogue import open_catalogue
from tests.support.cataloguing import take_in
from tests.support.trees import TreeMaker

make = TreeMaker()
load, left = make.blobs.load, int(sys.argv[2])
def dying(kind, blob_id):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    return load(kind, blob_id)
make.blobs.load = dying
catalogue = open_catalogue(Path(sys.argv[1]), make=True)
take_in(catalogue, make, a={"one": {"x": "1"}})
take_in(catalogue, make, b={"one": {"x": "1"}, "two": {"three": {"x": "2"}}})
"""


@pytest.mark.parametrize(("loads", "expected"), [(1, ""), (2, "a"), (4, "a"), (5, "ab")])
def test_a_crash_leaves_whole_snapshots(tmp_path: Path, loads: int, expected: str) -> None:
    """Who dies while taking in a snapshot leaves those before it, and nothing of it."""
    subprocess.run([sys.executable, "-c", _DIES, tmp_path, str(loads)], cwd=ROOT, check=False)

    with reopen(tmp_path) as catalogue:
        assert letters(catalogue) == expected
        found = {"a": {"/one/x"}, "b": {"/one/x", "/two/three/x"}}
        assert search(catalogue, "x") == {letter: found[letter] for letter in expected}
