"""`find`, `history` and `cache` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bfrepo.catalogue.file import FILE_NAME
from tests.support.program import PASSWORD, Bf


@pytest.fixture
def twice(bf: Bf, backed_up: str, files: Path) -> list[str]:
    """Two snapshots of `files`, between which a file changed; their IDs."""
    (files / "a.txt").write_text("another text\n")
    second: str = bf("backup", "--json", "--host", "elsewhere", files).summary["snapshot_id"]
    return [backed_up, second]


def catalogues(home: Path) -> list[Path]:
    """The files of all catalogues."""
    return list((home / "cache").rglob(FILE_NAME))


# ---- find


def test_find_groups_by_snapshot(bf: Bf, twice: list[str], files: Path) -> None:
    """Each snapshot is named once, oldest first, with the paths in it; how many there are goes to stderr."""
    ran = bf("find", "*.txt")

    blocks = ran.out.split("\n\n")
    assert ran.status == 0
    assert [block.split()[:2] for block in blocks] == [["snapshot", identifier[:8]] for identifier in twice]
    for block in blocks:
        assert block.splitlines()[1:] == [f"{files}/a.txt", f"{files}/sub/c.txt"]
    assert ran.err == "4 matches in 2 of 2 snapshots\n"


def test_find_in_detail(bf: Bf, twice: list[str], files: Path) -> None:
    """The lines are those of `ls -l`."""
    lines = bf("find", "-l", "b.bin", "--snapshot", twice[0][:8]).out.splitlines()

    assert lines[1:] == [line for line in bf("ls", "-l", twice[0], str(files)).out.splitlines() if "b.bin" in line]


def test_find_as_json(bf: Bf, twice: list[str], files: Path) -> None:
    """A line for each match, as `ls` has it, with the snapshot; then a summary."""
    ran = bf("find", "--json", "-i", "A.TXT")

    assert [line["snapshot_id"] for line in ran.lines[:-1]] == twice
    assert [line["size"] for line in ran.lines[:-1]] == [6, 13]
    assert {line["path"] for line in ran.lines[:-1]} == {f"{files}/a.txt"}
    assert ran.summary == {"message_type": "summary", "snapshots": 2, "matches": 2, "snapshots_searched": 2}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--host", "elsewhere"], [1]),
        (["--snapshot", "latest"], [1]),
        (["--snapshot", "latest", "--snapshot", "latest~1"], [0, 1]),
        (["--newest", "2020-09-14"], [0]),
        (["--oldest", "2020-09-14"], [1]),
        (["--newest", "2020-09-13 12:26:40", "--oldest", "2020-09-13 12:26:40"], [0]),
        (["--path", "/nowhere"], []),
    ],
)
def test_find_only_some(bf: Bf, twice: list[str], flags: list[str], expected: list[int]) -> None:
    """Filters say which snapshots are searched, and limits which times count."""
    found = bf("find", "--json", "a.txt", *flags).lines

    assert [line["snapshot_id"] for line in found[:-1]] == [twice[number] for number in expected]


def test_find_by_what_is_used(bf: Bf, twice: list[str], files: Path) -> None:
    """IDs of packs, blobs and trees in place of patterns."""
    packs = bf("list", "packs").out.split()

    found = [line for pack in packs for line in bf("find", "--json", "--pack", pack[:8]).lines[:-1]]

    files_found = {line["path"]: line["object_id"] for line in found if line["type"] == "file"}
    assert set(files_found) == {f"{files}/a.txt", f"{files}/b.bin", f"{files}/sub/c.txt"}
    ran = bf("find", "--blob", files_found[f"{files}/b.bin"])
    assert ran.out.count(f"{files}/b.bin  {files_found[f'{files}/b.bin'][:8]}\n") == 2
    root = bf("list", "--json").document[0]["tree"]
    assert [line["path"] for line in bf("find", "--json", "--tree", root[:10]).lines[:-1]] == ["/"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 2),
        (["[a"], 2),
        (["--pack", "x"], 2),
        (["--pack", "00000000"], 1),
        (["--blob", "00000000", "--ignore-case"], 2),
        (["a", "--newest", "tomorrow"], 2),
        (["a", "--snapshot", "00000000"], 1),
    ],
)
def test_find_refuses(bf: Bf, backed_up: str, arguments: list[str], status: int) -> None:
    """What makes no sense ends before anything is read."""
    ran = bf("find", *arguments)

    assert (ran.status, ran.out) == (status, "")
    assert ran.err


def test_nothing_found(bf: Bf, backed_up: str) -> None:
    """That is no error."""
    ran = bf("find", "nothing")

    assert (ran.status, ran.out, ran.err) == (0, "", "nothing found in 1 snapshot\n")


def test_names_do_no_harm(bf: Bf, backed_up: str, files: Path) -> None:
    """What would confuse a terminal is escaped, in `find` and in `history`."""
    (files / "evil\x1b[31m").write_text("x")
    bf("backup", files)

    for ran in (bf("find", "evil*"), bf("history", files / "evil\x1b[31m"), bf("history", files / "no\x1b[31m")):
        assert ran.status == 0
        assert "\x1b" not in ran.out


# ---- the catalogue


def test_a_catalogue_is_made_when_asked_for(bf: Bf, twice: list[str], clean_environment: Path, files: Path) -> None:
    """No name is written to this machine until somebody asks; from then on the catalogue is used and kept up to
    date.
    """
    home = clean_environment
    bf("find", "a.txt")
    bf("find", "--no-catalogue", "a.txt")
    bf("history", files / "a.txt")
    assert catalogues(home) == []

    first = bf("find", "--catalogue", "a.txt")
    (catalogue,) = catalogues(home)
    assert b"c.txt" in catalogue.read_bytes()
    (files / "later.txt").write_text("x")
    bf("backup", files)
    assert bf("find", "a.txt").out.startswith(first.out)
    assert b"later.txt" in catalogue.read_bytes()
    assert bf("find", "--no-catalogue", "later.txt").out == bf("find", "later.txt").out != ""


def test_a_profile_may_ask_for_it(bf: Bf, twice: list[str], clean_environment: Path) -> None:
    """`catalogue = true` does what --catalogue does, and --no-catalogue beats it."""
    config = clean_environment / "config" / "backupforge"
    config.mkdir(parents=True)
    (config / "config.toml").write_text("[profile.mine]\ncatalogue = true\n")

    bf("find", "--profile", "mine", "--no-catalogue", "a.txt")
    assert catalogues(clean_environment) == []
    bf("history", "--profile", "mine", "/x")
    assert len(catalogues(clean_environment)) == 1


def test_a_catalogue_that_cannot_be(bf: Bf, twice: list[str]) -> None:
    """Who wants no cache and a catalogue is told that there is none, and gets the answer."""
    ran = bf("find", "--no-cache", "--catalogue", "a.txt")

    assert ran.status == 0
    assert "warning" in ran.err
    assert ran.out == bf("find", "a.txt").out


def test_a_damaged_snapshot_is_named(bf: Bf, twice: list[str], repository: Path) -> None:
    """One that cannot be read is reported, the others are searched, and the exit code says so."""
    (repository / "snapshots" / twice[0]).chmod(0o600)
    (repository / "snapshots" / twice[0]).write_bytes(b"garbage")

    for flag in ("--no-catalogue", "--catalogue"):
        for ran in (bf("find", flag, "a.txt"), bf("history", flag, "/")):
            assert twice[0][:8] in ran.err
        assert bf("find", flag, "a.txt").status == 3


# ---- history


def test_history_of_a_file(bf: Bf, twice: list[str], files: Path) -> None:
    """A line for each version, with the host where there are several."""
    bf("backup", "--host", "elsewhere", files)
    lines = bf("history", files / "a.txt").out.splitlines()

    assert lines[0].split()[:3] == ["Host", "First", "seen"]
    assert [line.split()[5:8:2] for line in lines[1:]] == [["1", "new"], ["2", "new"]]
    assert "6 B" in lines[1]
    assert "13 B" in lines[2]
    assert "Host" not in bf("history", "--host", "elsewhere", files / "a.txt").out


def test_history_as_json(bf: Bf, twice: list[str], files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One document, with the snapshots of each version; a relative path counts from the working directory."""
    monkeypatch.chdir(files)
    (files / "a.txt").unlink()
    bf("backup", "--host", "elsewhere", files)

    found = bf("history", "--json", "a.txt", "--host", "elsewhere").document

    assert found["path"] == f"{files}/a.txt"
    assert [version["change"] for version in found["versions"]] == ["new", "removed"]
    assert found["versions"][0]["snapshots"] == [twice[1]]
    assert found["versions"][0]["entry"]["size"] == 13
    assert found["versions"][1]["entry"] is None


def test_history_of_nothing(bf: Bf, twice: list[str]) -> None:
    """A path that is nowhere is no error; the root is none that has a history."""
    assert "none of 2 snapshots" in bf("history", "/nowhere").out
    assert bf("history", "/").status == 2


# ---- cache


def test_cache_shows_what_is_kept(bf: Bf, backed_up: str, repository: Path) -> None:
    """Each repository with its location; the catalogue only where there is one."""
    bf("list", "blobs")
    (kept,) = bf("cache", "--json").document
    assert kept["location"] == str(repository)
    assert set(kept["sizes"]) == {"index"}

    bf("find", "--catalogue", "x")
    assert set(bf("cache", "list", "--json").document[0]["sizes"]) == {"index", "catalogue"}
    table = bf("cache").out.splitlines()
    assert table[1].split()[0] == kept["id"][:8]
    assert table[1].endswith(str(repository))
    assert bf("cache", "--no-cache").out == "nothing is kept\n"


def test_cache_is_removed(bf: Bf, backed_up: str, clean_environment: Path) -> None:
    """By ID, by age or all of it; the repository works as before."""
    bf("find", "--catalogue", "x")
    (kept,) = bf("cache", "--json").document

    assert bf("cache", "remove", "--older-than", "1d", "--json").document["removed"] == []
    assert bf("cache", "remove", kept["id"][:8]).status == 0
    assert catalogues(clean_environment) == []
    assert bf("cache").out == "nothing is kept\n"
    assert bf("find", "a.txt").status == 0
    assert bf("cache", "remove", "--all", "--json").document["removed"][0]["id"] == kept["id"]


@pytest.mark.parametrize("arguments", [[], ["--all", "00000000"], ["--older-than", "x"], ["1234"]])
def test_cache_remove_refuses(bf: Bf, backed_up: str, arguments: list[str]) -> None:
    """What to remove must be said in one way."""
    assert bf("cache", "remove", *arguments).status == 2


def test_no_secret_is_kept(bf: Bf, backed_up: str, clean_environment: Path) -> None:
    """Without a catalogue nothing that is kept on this machine tells a name, and nothing ever the password (INV-5)."""
    bf("find", "a.txt")
    bf("list", "blobs")
    kept = b"".join(path.read_bytes() for path in (clean_environment / "cache").rglob("*") if path.is_file())

    assert len(kept) > 100
    assert b"a.txt" not in kept
    bf("find", "--catalogue", "a.txt")
    kept = b"".join(path.read_bytes() for path in (clean_environment / "cache").rglob("*") if path.is_file())
    assert b"a.txt" in kept
    assert PASSWORD.encode() not in kept
