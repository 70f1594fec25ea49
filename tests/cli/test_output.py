"""What goes where: JSON for programs, text for people, and nothing that harms a terminal."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from cli.output import path_fields
from cli.render import Style, bar, cut, shown, table
from tests.support.program import Bf

HOSTILE = b"\x1b[2Jcleared\n\xff\xe2\x80\xae.txt"


@pytest.fixture
def hostile_files(files: Path) -> Path:
    """Files whose names would clear the screen, break the line, and turn the text around."""
    with open(os.fsencode(files) + b"/" + HOSTILE, "wb") as file:
        file.write(b"content")
    return files


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain name", "plain name"),
        ("naïve ☃ 雪", "naïve ☃ 雪"),
        (r"back\slash", r"back\slash"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x1b[31m\\", r"\x1b[31m\\"),
        (b"\xff\xfe", r"\xff\xfe"),
        ("\x9b0m", r"\u009b0m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\U000e0041", r"\U000e0041"),
        (b"", ""),
    ],
)
def test_names_are_shown_harmlessly(text: str | bytes, expected: str) -> None:
    """Control characters, invalid bytes and invisible characters become escapes; everything else stays."""
    assert shown(text) == expected


def test_hostile_names_on_every_way_out(bf: Bf, hostile_files: Path, tmp_path: Path) -> None:
    """No command lets an escape code or an invalid byte of a file's name through."""
    bf("init")
    target = tmp_path / "restored"
    label = "\x1b]0;owned\x07"

    said = [
        bf("backup", "-vv", hostile_files, "--label", label, "--tag", label, "--host", label),
        bf("list"),
        bf("list", "--group-by", "host,tags"),
        bf("ls", "-l", "-R", "latest"),
        bf("restore", "-v", "latest", "--target", target),
        bf("backup", os.fsdecode(os.fsencode(hostile_files) + b"/missing" + HOSTILE), hostile_files),
        bf("ls", "latest", os.fsdecode(b"/missing" + HOSTILE)),
        bf("list", "-r", "/dev/null/nowhere\x1b[2J"),
    ]

    assert [ran for ran in said if "\x1b" in ran.out + ran.err or "\x07" in ran.out + ran.err] == []
    assert [ran.status for ran in said] == [0, 0, 0, 0, 0, 3, 1, 2]
    assert r"\x1b[2Jcleared\n\xff\u202e.txt" in said[3].out


def test_raw_paths_in_json(bf: Bf, hostile_files: Path) -> None:
    """A path that is not UTF-8 comes as a string that any program can read, and exactly, in base64."""
    bf("init")
    bf("backup", hostile_files)

    listed = bf("ls", "--json", "latest", hostile_files).lines
    hostile = next(each for each in listed if "path_raw" in each)

    assert base64.b64decode(hostile["path_raw"]) == os.fsencode(hostile_files) + b"/" + HOSTILE
    assert base64.b64decode(hostile["name_raw"]) == HOSTILE
    assert hostile["path"].endswith("\ufffd\u202e.txt")
    assert [each["name"] for each in listed if "path_raw" not in each] == ["a.txt", "b.bin", "sub"]


def test_path_fields_of_a_clean_path() -> None:
    """A path that is UTF-8 needs no second form."""
    assert path_fields("/ä".encode()) == {"path": "/ä"}


def test_json_lines_parse_and_are_alone_on_stdout(process: Bf, files: Path, tmp_path: Path) -> None:
    """Commands that take a while write JSON lines with a message type, the last of them the summary."""
    process("init", "--json")
    runs = [
        process("backup", "--json", "-vv", files, tmp_path / "missing"),
        process("restore", "--json", "-v", "latest", "--target", tmp_path / "restored"),
        process("check", "--json", "--read-data"),
    ]

    assert [ran.err for ran in runs] == ["", "", ""]
    assert [ran.status for ran in runs] == [3, 0, 0]
    types = [{line["message_type"] for line in ran.lines} - {"status"} for ran in runs]
    assert types == [{"item", "error", "summary"}, {"item", "summary"}, {"summary"}]


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["list", "--group-by", "host"],
        ["list", "packs"],
        ["list", "blobs"],
        ["stats"],
        ["stats", "--mode", "raw-data"],
        ["key", "list"],
        ["version"],
        ["doctor"],
    ],
    ids=" ".join,
)
def test_one_json_document(bf: Bf, backed_up: str, arguments: list[str]) -> None:
    """Commands that end at once write exactly one JSON document."""
    ran = bf(*arguments, "--json")

    assert isinstance(json.loads(ran.out), dict | list)
    assert ran.err == ""


def test_a_fatal_error_is_one_object_on_stderr(bf: Bf) -> None:
    """With --json an error that ends the command is one JSON object, with a stable word for programs."""
    ran = bf("list", "--json")

    assert ran.out == ""
    error = json.loads(ran.err)
    assert (error["message_type"], error["code"], error["error"]) == ("exit_error", 10, "no-repository")
    assert "there is no repository" in error["message"]
    assert "init" in error["hint"]


def test_wrong_usage_with_json(bf: Bf) -> None:
    """What click itself finds wrong is an object of the same form."""
    error = json.loads(bf("--json", "list", "--frobnicate").err)

    assert (error["code"], error["error"]) == (2, "wrong-usage")
    assert error["hint"] == "see 'backupforge list --help'"


def test_quiet_says_only_what_was_asked_for(bf: Bf, backed_up: str, files: Path, tmp_path: Path) -> None:
    """With --quiet a backup that went well says nothing, a list lists, and what went wrong is said."""
    assert bf("-q", "backup", files).out == ""
    assert backed_up[:8] in bf("list", "-q").out
    assert "missing" in bf("-q", "backup", files, tmp_path / "missing").err


def test_verbose_lists_items(bf: Bf, backed_up: str, files: Path) -> None:
    """-v lists what is new or changed, -vv what is unmodified as well."""
    (files / "a.txt").write_text("changed\n")

    once = bf("backup", "-v", "--ignore-ctime", files)
    twice = bf("backup", "-vv", "--ignore-ctime", files)

    assert f"changed    {files}/a.txt, 8 B\n" in once.out
    assert "b.bin" not in once.out
    assert f"unmodified {files}/b.bin, 10.0 KiB\n" in twice.out


def test_internal_errors_are_one_line(bf: Bf, backed_up: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody expected is one line and a hint; --debug shows where it happened."""

    def fail(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("nobody expected this")

    monkeypatch.setattr("bfrepo.operations.snapshots.load_snapshots", fail)

    ran, debugged = bf("list"), bf("list", "--debug")

    assert ran.status == debugged.status == 1
    assert ran.err.splitlines()[0] == "error: internal error: ZeroDivisionError: nobody expected this"
    assert "--debug" in ran.err.splitlines()[1]
    assert "Traceback" not in ran.err
    assert "Traceback" in debugged.err


def test_global_options_in_both_places(
    bf: Bf, backed_up: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Global options count in front of the command and behind it, where they overrule those in front."""
    monkeypatch.delenv("BACKUPFORGE_REPOSITORY")

    before = bf("-r", repository, "--json", "list").document
    behind = bf("list", "-r", repository, "--json").document
    both = bf("-r", "/dev/null/nowhere", "list", "--json", "--repository", repository).document

    assert before == behind == both
    assert before[0]["id"] == backed_up


def test_global_options_of_a_group(bf: Bf, backed_up: str, repository: Path) -> None:
    """A command of a command takes them as well, in all three places."""
    listed = [bf(*words).document for words in (["--json", "key", "list"], ["key", "--json", "list"])]

    assert listed[0] == listed[1] == bf("key", "list", "--json").document


def test_table_aligns_and_keeps_lines_of_a_cell_together() -> None:
    """Columns are as wide as their widest line; numbers stand to the right."""
    lines = table(("Name", "Size"), [("a", "1"), ("long\nname", "22")], "<>", Style(coloured=False))

    assert lines == ["Name  Size", "a        1", "long    22", "name"]


@pytest.mark.parametrize(("part", "expected"), [(0, ""), (1, "█"), (4, "████"), (0.5, "▌"), (2.125, "██▏")])
def test_bars_are_drawn_in_eighths(part: float, expected: str) -> None:
    """A bar is as long as its share, to an eighth of a character."""
    assert bar(part, 4, 4) == expected


def test_cut_keeps_the_end_of_a_path() -> None:
    """What does not fit loses its middle."""
    assert cut("/srv/data/archive/2024/report.pdf", 20) == "/srv/d…24/report.pdf"
    assert cut("short", 20) == "short"
    assert cut("anything", 2) == "an"


def test_colours_only_where_wanted() -> None:
    """Without colours the text is as it is."""
    assert Style(coloured=False).red("x") == "x"
    assert Style(coloured=True).red("x") == "\x1b[31;1mx\x1b[0m"
