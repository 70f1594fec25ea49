"""`forget`, `tag` and `rewrite`, as far as the command line has a part in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.program import Bf, Ran

DAYS = ["2024-03-01 23:30:00", "2024-03-02 12:00:00", "2024-03-02 23:30:00", "2024-03-03 23:30:00"]


@pytest.fixture
def four(bf: Bf, files: Path) -> list[str]:
    """A repository with a snapshot of each of four times on three days; their IDs."""
    assert bf("init").status == 0
    return [bf("backup", "--json", "--time", when, files).summary["snapshot_id"] for when in DAYS]


def ids(bf: Bf) -> list[str]:
    """The snapshots there are, oldest first."""
    return [each["id"] for each in bf("list", "--json").document]


def actions(ran: Ran) -> list[tuple[str, str]]:
    """What the table says becomes of each snapshot."""
    rows = [line.split() for line in ran.out.splitlines() if line.startswith(("keep ", "remove "))]
    return [(row[0], row[1]) for row in rows]


# ---- forget


def test_forget_shows_what_it_keeps_and_why(bf: Bf, four: list[str]) -> None:
    """A table of each group says of every snapshot what becomes of it; a dry run removes nothing."""
    ran = bf("forget", "--keep-daily", "2", "--keep-last", "1", "--dry-run")

    assert ran.status == 0
    assert actions(ran) == list(zip(("remove", "remove", "keep", "keep"), (each[:8] for each in four), strict=True))
    assert "daily snapshot" in ran.out
    assert "last snapshot, daily snapshot" in ran.out
    assert "2 snapshots would be kept, 2 would be removed" in ran.out
    assert "nothing was removed" in ran.out
    assert ids(bf) == four


def test_forget_removes(bf: Bf, four: list[str]) -> None:
    """Without --dry-run what is not kept goes, and what to do next is said."""
    ran = bf("forget", "--keep-daily", "2")

    assert ran.status == 0
    assert "2 snapshots kept, 2 removed" in ran.out
    assert "backupforge prune" in ran.out
    assert ids(bf) == four[2:]


def test_forget_quietly(bf: Bf, four: list[str]) -> None:
    """With --quiet a run that removes says nothing on stdout, for a timer; a dry run still says what was asked for."""
    assert len(actions(bf("forget", "-q", "--keep-last", "1", "-n"))) == 4
    assert bf("forget", "-q", "--keep-last", "1").out == ""
    assert ids(bf) == four[3:]


def test_forget_json(bf: Bf, four: list[str]) -> None:
    """A line for each group with the reasons, and a summary of what was removed."""
    ran = bf("forget", "--json", "--keep-within", "1d")
    (group,) = (line for line in ran.lines if line["message_type"] == "group")

    assert group["group_key"]["paths"]
    assert [(each["id"], each["reasons"]) for each in group["keep"]] == [(four[3], ["within 1d"])]
    assert [each["id"] for each in group["remove"]] == four[:3]
    assert ran.summary == {"message_type": "summary", "removed": four[:3], "dry_run": False}


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (["--keep-hourly", "2"], [2, 3]),
        (["--keep-weekly", "unlimited"], [0, 3]),
        (["--keep-monthly", "1"], [3]),
        (["--keep-yearly", "1"], [3]),
        (["--keep-within-hourly", "1d12h"], [1, 2, 3]),
        (["--keep-within-daily", "2d1h"], [0, 2, 3]),
        (["--keep-within-weekly", "1y"], [0, 3]),
        (["--keep-within-monthly", "1y"], [0, 3]),
        (["--keep-within-yearly", "1y"], [0, 3]),
        (["--keep-tag", ""], [0, 1, 2, 3]),
        (["--keep-last", "1", "--keep-tag", "a,b", "--keep-tag", "c"], [3]),
    ],
    ids=lambda each: " ".join(map(str, each)),
)
def test_rules(bf: Bf, four: list[str], flags: list[str], kept: list[int]) -> None:
    """Each option is the rule of its name."""
    rows = actions(bf("forget", "-n", *flags))

    assert [identifier for action, identifier in rows if action == "keep"] == [four[number][:8] for number in kept]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no rule says what to keep"),
        (["--keep-last", "0"], "no rule says what to keep"),
        (["--keep-within", "0d"], "no rule says what to keep"),
        (["--keep-last", "-1"], "not a count"),
        (["--keep-within", "1w"], "not a duration"),
        (["--keep-last", "1", "--group-by", "size"], "cannot group by size"),
        (["--unsafe-allow-remove-all"], "needs a filter"),
        (["--keep-last", "1", "--unsafe-allow-remove-all"], "needs a filter"),
        (["latest", "--keep-last", "1"], "not both"),
        (["latest", "--host", "h", "--unsafe-allow-remove-all"], "not both"),
        (["--keep-last", "1", "--grace", "0"], "add --prune"),
    ],
)
def test_forget_refuses(bf: Bf, four: list[str], arguments: list[str], message: str) -> None:
    """What makes no sense is wrong usage, and nothing is removed."""
    ran = bf("forget", *arguments)

    assert ran.status == 2
    assert message in ran.err
    assert ids(bf) == four


def test_a_misspelt_tag(bf: Bf, four: list[str]) -> None:
    """Rules that would keep nothing remove nothing, and the hint says what to look for."""
    ran = bf("forget", "--keep-tag", "kepe")

    assert ran.status == 1
    assert "none of the 4 snapshots of host" in ran.err
    assert "misspelt" in ran.err
    assert ids(bf) == four


def test_an_untagged_filter_is_no_filter_for_all(bf: Bf, four: list[str]) -> None:
    """A filter by a variable that is empty chooses snapshots without tags, not all."""
    bf("tag", "--add", "precious", four[0])

    ran = bf("forget", "--tag", "", "--unsafe-allow-remove-all")

    assert ran.status == 0
    assert [each["tags"] for each in bf("list", "--json").document] == [["precious"]]


def test_all_of_a_path(bf: Bf, four: list[str], files: Path) -> None:
    """Everything that a filter chooses goes when that is asked for, and only that."""
    other = bf("backup", "--json", files / "sub").summary["snapshot_id"]

    assert bf("forget", "--path", files, "--unsafe-allow-remove-all").status == 0
    assert ids(bf) == [other]


def test_forget_by_name(bf: Bf, four: list[str]) -> None:
    """Snapshots that are named go, each by its own line."""
    assert "would remove" in bf("forget", "-n", "latest").out
    ran = bf("forget", four[0][:8], "latest~1")

    assert ran.status == 0
    assert ran.out.count("removed snapshot") == 2
    assert ids(bf) == [four[1], four[3]]


def test_a_snapshot_that_cannot_be_read(bf: Bf, four: list[str], repository: Path) -> None:
    """Rules stop and name it; another snapshot can be removed by its ID."""
    path = repository / "snapshots" / four[1]
    path.chmod(0o600)
    path.write_bytes(b"damaged")

    ran = bf("forget", "--keep-last", "1")
    assert (ran.status, four[1][:8] in ran.err, "nothing was removed" in ran.err) == (1, True, True)
    assert bf("forget", four[0]).status == 0
    assert len(list((repository / "snapshots").iterdir())) == 3


def test_times_in_another_zone(bf: Bf, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules go by the zone that a snapshot was made in, so the table shows it where it is another."""
    import time

    bf("init")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        bf("backup", "--time", "2024-03-01 05:00:00", files)
    finally:
        monkeypatch.setenv("TZ", "UTC")
        time.tzset()

    assert "2024-03-01 05:00:00+09:00" in bf("forget", "--keep-last", "1", "-n").out
    assert "2024-02-29 20:00:00" in bf("list").out


def test_from_the_future(bf: Bf, four: list[str], files: Path) -> None:
    """A snapshot from the future is kept, and told on stderr."""
    bf("backup", "--time", "2999-01-01", files)

    ran = bf("forget", "--keep-last", "1")

    assert "1 snapshot from the future" in ran.err
    assert "in the future" in ran.out
    assert len(ids(bf)) == 2
    assert four[3] in ids(bf)


def test_forget_and_prune(bf: Bf, four: list[str], repository: Path, files: Path) -> None:
    """With --prune the space is freed, as the options of prune say."""
    (files / "b.bin").unlink()
    last = bf("backup", "--json", files).summary["snapshot_id"]
    packs = {path for path in (repository / "packs").rglob("*") if path.is_file()}

    ran = bf("forget", "--json", "--keep-last", "1", "--prune", "--grace", "0", "--max-unused", "0")

    assert ran.summary["removed"] == four
    assert ran.summary["prune"]["deleted"]["count"] > 0
    assert packs - set((repository / "packs").rglob("*"))
    assert ids(bf) == [last]
    assert bf("check", "--read-data").status == 0
    assert bf("forget", "--keep-last", "1", "--prune", "-n").status == 0


def test_nothing_to_forget(bf: Bf) -> None:
    """An empty repository is no error, and is not pruned."""
    bf("init")

    ran = bf("forget", "--keep-last", "1", "--prune")

    assert (ran.status, ran.out) == (0, "no snapshots yet\n")


# ---- tag


def test_tag(bf: Bf, four: list[str]) -> None:
    """The snapshot named gets the tags and the label, a new ID, and remembers the old one."""
    ran = bf("tag", "latest", "--add", "a,b", "--add", "c", "--label", "a remark")

    assert ran.status == 0
    assert "1 snapshot changed, 0 left alone" in ran.out
    changed = bf("list", "--json").document[-1]
    assert (changed["tags"], changed["label"], changed["original"]) == (["a", "b", "c"], "a remark", four[3])
    assert ids(bf)[:3] == four[:3]


def test_tag_by_filter(bf: Bf, four: list[str]) -> None:
    """Without names all that match the filters change; those that have it already are left alone."""
    bf("tag", "--set", "nightly", *four[:2])

    ran = bf("tag", "--json", "--tag", "nightly", "--remove", "nightly", "--add", "daily")

    assert [line["message_type"] for line in ran.lines] == ["changed", "changed", "summary"]
    assert [each["tags"] for each in bf("list", "--json").document] == [["daily"], ["daily"], [], []]
    assert bf("tag", "--set", "", "--json").summary == {
        "message_type": "summary", "snapshots_changed": 2, "snapshots_unchanged": 2,
    }  # fmt: skip


@pytest.mark.parametrize("flags", [[], ["--set", "a", "--add", "b"], ["--add", ""]])
def test_tag_refuses(bf: Bf, four: list[str], flags: list[str]) -> None:
    """What changes nothing, or contradicts itself, is wrong usage."""
    assert bf("tag", *flags).status == 2
    assert ids(bf) == four


@pytest.mark.parametrize(
    "arguments", [["tag", "--add", "a"], ["rewrite", "--exclude", "a.txt"]], ids=["tag", "rewrite"]
)
def test_others_beside_one_that_cannot_be_read(bf: Bf, four: list[str], repository: Path, arguments: list[str]) -> None:
    """It is named, the others are changed, and the exit code says that one is missing."""
    path = repository / "snapshots" / four[0]
    path.chmod(0o600)
    path.write_bytes(b"damaged")

    ran = bf(*arguments)

    assert ran.status == 3
    assert four[0][:8] in ran.err
    assert "3 snapshots" in ran.out


# ---- rewrite


def names(bf: Bf, snapshot: str = "latest") -> set[str]:
    """The last parts of all paths in a snapshot."""
    return {line["name"] for line in bf("ls", "-R", "--json", snapshot).lines}


@pytest.mark.parametrize(
    ("flag", "pattern"),
    [("--exclude", "*.bin"), ("--iexclude", "*.BIN"), ("--exclude-file", ""), ("--iexclude-file", "")],
)
def test_rewrite(bf: Bf, backed_up: str, tmp_path: Path, flag: str, pattern: str) -> None:
    """Each option names what is dropped; the original stays beside the new snapshot."""
    listed = tmp_path / "patterns"
    listed.write_text("# remarks\n*.bin\n" if flag == "--exclude-file" else "B.BIN\n")

    ran = bf("rewrite", flag, pattern or listed)

    assert ran.status == 0
    assert "without 1 file, 10.0 KiB" in ran.out
    assert "with --forget" in ran.out
    new = next(each for each in bf("list", "--json").document if each["id"] != backed_up)
    assert (new["tags"], new["original"], new["summary"]["files"]) == (["rewrite"], backed_up, 2)
    assert "b.bin" in names(bf, backed_up)
    assert "b.bin" not in names(bf, new["id"])


def test_rewrite_and_forget(bf: Bf, backed_up: str) -> None:
    """With --forget only the new snapshot is left, and it is whole."""
    ran = bf("rewrite", "--json", "--forget", "--exclude", "*.bin")

    (new,) = ids(bf)
    assert ran.lines[0] == {
        "message_type": "rewritten", "old_snapshot_id": backed_up, "new_snapshot_id": new, "files_dropped": 1,
        "bytes_dropped": 10240,
    }  # fmt: skip
    assert ran.summary["snapshots_rewritten"] == 1
    assert bf("check", "--read-data").status == 0


def test_rewrite_dry_run(bf: Bf, backed_up: str) -> None:
    """What would be dropped is said, and nothing changes."""
    ran = bf("rewrite", "-n", "--exclude", "*.bin")

    assert "would rewrite" in ran.out
    assert "nothing was changed" in ran.out
    assert ids(bf) == [backed_up]


def test_rewrite_refuses(bf: Bf, backed_up: str) -> None:
    """Nothing to drop is wrong usage; nothing left is a problem, and the snapshot stays."""
    assert bf("rewrite").status == 2
    assert bf("rewrite", "--forget", "--exclude", "*").status == 3
    assert ids(bf) == [backed_up]
