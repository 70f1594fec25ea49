"""What the flags of each command do, as far as the command line has a part in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.program import PASSWORD, Bf
from tests.support.trees import look


def names(bf: Bf, snapshot: str = "latest") -> set[str]:
    """The last parts of all paths in a snapshot."""
    return {line["name"] for line in bf("ls", "-R", "--json", snapshot).lines}


# ---- init


def test_init_refuses_a_repository(bf: Bf, backed_up: str) -> None:
    """There is never a second repository in the same place, and nobody is asked for a password first."""
    ran = bf("init")

    assert ran.status == 1
    assert "already" in ran.err


def test_init_refuses_a_place_that_is_not_empty(bf: Bf, repository: Path) -> None:
    """A directory with something in it is left as it is."""
    repository.mkdir()
    (repository / "precious").write_text("data")

    assert bf("init").status == 1
    assert [each.name for each in repository.iterdir()] == ["precious"]


def test_init_says_what_was_made(bf: Bf) -> None:
    """The options arrive in the configuration."""
    made = bf(
        "init", "--json", "--compression", "lz4", "--chunker", "fixed:1M", "--pack-size", "8M", "--kdf", "strong"
    ).document

    assert made["encryption"] == "aes-256-gcm"
    assert (made["compression"], made["chunker"], made["pack_size"]) == ("lz4", "fixed:1M", 8 << 20)


def test_a_chunker_can_be_copied(bf: Bf, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository with a copied chunker cuts at the same places; the other's password has variables of its own."""
    from bfrepo.core.clock import SystemClock
    from bfrepo.repository.repository import open_repository
    from bfrepo.storage.local import LocalBackend

    bf("init", "--chunker", "fastcdc:64K:256K:1M")
    monkeypatch.setenv("BACKUPFORGE_FROM_PASSWORD", PASSWORD)
    monkeypatch.setenv("BACKUPFORGE_PASSWORD", "another one")
    second = tmp_path / "second"

    assert bf("init", "-r", second, "--copy-chunker-from", repository).status == 0
    opened = [
        open_repository(LocalBackend(path), SystemClock(), lambda secret=secret: secret)  # type: ignore[misc]
        for path, secret in ((repository, PASSWORD.encode()), (second, b"another one"))
    ]
    assert opened[0].config.seed == opened[1].config.seed
    assert opened[0].config.chunker == opened[1].config.chunker
    assert opened[0].config.repository_id != opened[1].config.repository_id
    for each in opened:
        each.close()


def test_a_password_without_encryption(bf: Bf, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gives a password expects encryption, both when a repository is made and when it is opened."""
    assert bf("init", "--encryption", "none").status == 2
    assert not repository.exists()

    monkeypatch.delenv("BACKUPFORGE_PASSWORD")
    assert bf("init", "--encryption", "none").status == 0
    assert bf("list").status == 0
    monkeypatch.setenv("BACKUPFORGE_PASSWORD", PASSWORD)
    assert bf("list").status == 1


# ---- backup


def test_what_a_snapshot_records(bf: Bf, backed_up: str, files: Path) -> None:
    """Tags, label, host, time and parent are as they were given."""
    bf(
        "backup", files, "--tag", "a,b", "--tag", "c", "--label", "by hand", "--host", "elsewhere",
        "--time", "2021-02-03 04:05:06", "--parent", backed_up[:8], "--exclude", "*.o",
    )  # fmt: skip

    recorded = next(each for each in bf("list", "--json").document if each["id"] != backed_up)
    assert recorded["tags"] == ["a", "b", "c"]
    assert (recorded["label"], recorded["hostname"], recorded["parent"]) == ("by hand", "elsewhere", backed_up)
    assert recorded["time"] == "2021-02-03T04:05:06+00:00"
    assert recorded["excludes"] == ["*.o"]
    assert recorded["paths"] == [str(files)]


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        (["--exclude", "*.bin"], {"b.bin"}),
        (["--iexclude", "*.BIN"], {"b.bin"}),
        (["--exclude-larger-than", "1K"], {"b.bin"}),
        (["--exclude-caches"], {"cached"}),
        (["--exclude-if-present", "a.txt"], {"b.bin", "sub", "c.txt", "CACHEDIR.TAG", "cached", ".gitignore", "cache"}),
        (["--gitignore"], {"b.bin"}),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_what_is_left_out(bf: Bf, backed_up: str, files: Path, flags: list[str], missing: set[str]) -> None:
    """Each exclude option reaches the rules."""
    (files / "cache").mkdir()
    (files / "cache" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    (files / "cache" / "cached").write_text("again and again\n")
    (files / ".git").mkdir()
    (files / ".gitignore").write_text("b.bin\n")
    bf("backup", files)
    everything = names(bf)

    assert bf("backup", files, *flags).status == 0
    assert everything - names(bf) - {".git"} == missing


def test_an_exclude_file(bf: Bf, backed_up: str, files: Path, tmp_path: Path) -> None:
    """Patterns of a file count like those of the command line."""
    patterns = tmp_path / "patterns"
    patterns.write_text("# remarks and blank lines say nothing\n\n*.txt\n")

    bf("backup", files, "--exclude-file", patterns)

    assert {"a.txt", "c.txt"} & names(bf) == set()
    assert "b.bin" in names(bf)


@pytest.mark.parametrize(
    ("flag", "content"),
    [("--files-from", "{0}/*.txt\n"), ("--files-from-verbatim", "{0}/a.txt\n"), ("--files-from-raw", "{0}/a.txt\0")],
)
def test_paths_from_a_file(bf: Bf, backed_up: str, files: Path, tmp_path: Path, flag: str, content: str) -> None:
    """What to back up may come from a list in one of three forms."""
    listed = tmp_path / "list"
    listed.write_text(content.format(files))

    assert bf("backup", flag, listed).status == 0
    assert {"a.txt"} <= names(bf)
    assert "b.bin" not in names(bf)


def test_paths_from_standard_input(process: Bf, backed_up: str, files: Path, bf: Bf) -> None:
    """A list called - is read from standard input."""
    assert process("backup", "--files-from-raw", "-", stdin=os.fsencode(files / "b.bin") + b"\0").status == 0
    assert "b.bin" in names(bf)


def test_a_dry_run_stores_nothing(bf: Bf, backed_up: str, files: Path, repository: Path) -> None:
    """--dry-run says what would be stored, and leaves the repository as it is."""
    (files / "new.bin").write_bytes(os.urandom(5000))
    before = look(repository)

    ran = bf("backup", "--dry-run", "-v", files)

    assert look(repository) == before
    assert "new.bin" in ran.out
    assert "Would add to the repository" in ran.out
    assert bf("backup", "--dry-run", "--json", files).summary["data_added"] >= 5000


def test_nothing_changed_nothing_made(bf: Bf, backed_up: str, files: Path) -> None:
    """--skip-if-unchanged makes no second snapshot of the same."""
    bf("backup", files)
    count = len(bf("list", "--json").document)

    ran = bf("backup", "--skip-if-unchanged", files)

    assert "nothing has changed: no snapshot was made" in ran.out
    assert len(bf("list", "--json").document) == count


def test_standard_input(process: Bf, bf: Bf, backed_up: str, tmp_path: Path) -> None:
    """What is piped in is a file in the snapshot, with the name that was asked for."""
    ran = process("backup", "--stdin", "--stdin-filename", "dumps/shop.sql", stdin=b"insert into shop\n")

    assert ran.status == 0
    assert bf("restore", "latest:dumps", "--target", tmp_path / "out").status == 0
    assert (tmp_path / "out" / "shop.sql").read_bytes() == b"insert into shop\n"


def test_a_command_whose_output_is_kept(bf: Bf, backed_up: str, tmp_path: Path) -> None:
    """What a command prints is a file in the snapshot; a command that fails makes none."""
    count = len(bf("list", "--json").document)

    failed = bf("backup", "--stdin-from-command", "--", "sh", "-c", "echo half; exit 7")
    assert failed.status == 1
    assert "exit status 7" in failed.err
    assert len(bf("list", "--json").document) == count

    assert bf("backup", "--stdin-from-command", "--", "printf", "%s", "--version").status == 0
    bf("restore", "latest:stdin", "--target", tmp_path / "out")
    assert (tmp_path / "out" / "stdin").read_text() == "--version"


# ---- list, ls


@pytest.fixture
def many(bf: Bf, files: Path) -> dict[str, str]:
    """Four snapshots, by name: two hosts, two tags, two sets of paths."""
    bf("init")
    made = {}
    for name, arguments in {
        "one": [files, "--host", "a", "--tag", "x"],
        "two": [files, "--host", "a", "--tag", "x,y"],
        "three": [files, "--host", "b"],
        "four": [files / "sub", "--host", "a"],
    }.items():
        made[bf("backup", "--json", *arguments).summary["snapshot_id"]] = name
    return made


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["one", "two", "three", "four"]),
        (["--host", "a"], ["one", "two", "four"]),
        (["--tag", "x"], ["one", "two"]),
        (["--tag", "x,y"], ["two"]),
        (["--tag", "y", "--host", "a"], ["two"]),
        (["--path", "{files}/sub"], ["four"]),
        (["--latest", "1"], ["two", "three", "four"]),
        (["--latest", "1", "--group-by", "host"], ["three", "four"]),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_filters(bf: Bf, many: dict[str, str], files: Path, arguments: list[str], expected: list[str]) -> None:
    """Host, tag and path narrow down the list, --latest leaves the last of each host and paths, or of each group."""
    listed = bf("list", "--json", *(each.format(files=files) for each in arguments)).document
    snapshots = [each for group in listed for each in group["snapshots"]] if "--group-by" in arguments else listed

    assert [many[each["id"]] for each in snapshots] == expected


def test_groups(bf: Bf, many: dict[str, str]) -> None:
    """Groups stand under what they have in common."""
    ran = bf("list", "--group-by", "host")
    grouped = bf("snapshots", "--group-by", "host", "--json").document

    assert ran.out.index("Snapshots for host a") < ran.out.index("Snapshots for host b")
    assert [(each["group_key"]["hostname"], len(each["snapshots"])) for each in grouped] == [("a", 3), ("b", 1)]


def test_latest_goes_by_the_filter(bf: Bf, many: dict[str, str], tmp_path: Path) -> None:
    """`latest` and `latest~1` are those of the snapshots that match."""
    newest = bf("restore", "latest", "--host", "b", "--json", "--target", tmp_path / "b").summary["snapshot_id"]
    before = bf("restore", "latest~1", "--host", "a", "--json", "--target", tmp_path / "a").summary["snapshot_id"]

    assert (many[newest], many[before]) == ("three", "two")


@pytest.mark.parametrize("what", ["packs", "index", "keys", "blobs"])
def test_lists_of_ids(bf: Bf, what: str, files: Path, repository: Path) -> None:
    """Each kind of object is listed by whole IDs, one a line."""
    bf("init")
    bf("backup", files)

    listed = bf("list", what).out.split()

    assert listed == bf("list", what, "--json").document
    assert {len(each) for each in listed} == {64}
    if what != "blobs":
        assert set(listed) == {path.name for path in (repository / what).rglob("*") if path.is_file()}


def test_an_empty_repository_lists_nothing(bf: Bf) -> None:
    """No snapshots are no error."""
    bf("init")

    assert bf("list").out == "no snapshots yet\n"
    assert bf("list", "--host", "nobody").out == "no snapshots match\n"
    assert bf("list", "--json").out == "[]\n"


def test_a_long_listing(bf: Bf, backed_up: str, files: Path) -> None:
    """-l shows type, permissions, owner, size, time, and where a symlink leads."""
    (files / "link").symlink_to("a.txt")
    bf("backup", files)

    lines = bf("ls", "-l", "latest", files).out.splitlines()

    assert lines[0].startswith("-rw-r--r-- ")
    assert lines[0].endswith(f"6 B 2020-09-13 12:26:40 {files}/a.txt")
    assert lines[2].startswith("lrwxrwxrwx ")
    assert lines[2].endswith(f"{files}/link -> a.txt")
    assert lines[3].startswith("drwx")


@pytest.mark.parametrize(("key", "first"), [("size", "b.bin"), ("time", "sub"), ("name", "a.txt")])
def test_sorted_listings(bf: Bf, files: Path, key: str, first: str) -> None:
    """The largest or the newest stands first."""
    os.utime(files / "sub", (1_700_000_000, 1_700_000_000))
    bf("init")
    bf("backup", files)

    assert bf("ls", "--sort", key, "latest", files).out.splitlines()[0] == f"{files}/{first}"


def test_a_path_is_given_once(bf: Bf, backed_up: str, files: Path) -> None:
    """A path behind the colon and one as an argument are one too many."""
    assert bf("ls", f"latest:{files}", "sub").status == 2


# ---- restore


def test_restore_options_arrive(bf: Bf, backed_up: str, files: Path, tmp_path: Path) -> None:
    """Patterns choose, --dry-run changes nothing, --delete deletes, --verify reads back."""
    target = tmp_path / "out"
    what = f"latest:{files}"

    assert "Would write" in bf("restore", what, "--target", target, "--dry-run").out
    assert not target.exists()

    bf("restore", what, "--target", target, "--include", "*.txt", "--exclude", "c.txt")
    assert {path.name for path in target.rglob("*") if path.is_file()} == {"a.txt"}

    (target / "extra").write_text("too much")
    restored = bf("restore", what, "--target", target, "--delete", "--verify", "--json").summary
    assert (restored["files_restored"], restored["files_unchanged"], restored["files_deleted"]) == (2, 1, 1)
    assert restored["bytes_verified"] == restored["total_bytes"] > 0
    assert look(target) == look(files)


def test_a_target_that_is_a_file(bf: Bf, backed_up: str, files: Path, tmp_path: Path) -> None:
    """A file in the place of the target is an error, and stays as it is."""
    target = tmp_path / "file"
    target.write_text("precious")

    ran = bf("restore", f"latest:{files}", "--target", target)

    assert ran.status == 1
    assert str(target) in ran.err
    assert target.read_text() == "precious"


def test_a_path_that_is_not_in_the_snapshot(bf: Bf, backed_up: str, tmp_path: Path) -> None:
    """What the snapshot does not have is not found, with a hint how to look."""
    ran = bf("restore", "latest:/no/such/path", "--target", tmp_path / "out")

    assert ran.status == 1
    assert "backupforge ls" in ran.err
    assert not (tmp_path / "out").exists()


# ---- key


def test_the_life_of_passwords(bf: Bf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a password, use it, replace the first, remove the second; the last one stays."""
    second, third = tmp_path / "second", tmp_path / "third"
    second.write_text("second\n")
    third.write_text("third\n")
    bf("init", "--label", "first")

    added = bf("key", "add", "--label", "laptop", "--new-password-file", second, "--json").document["id"]
    listed = bf("key", "list", "--json").document
    assert {each["label"]: each["current"] for each in listed} == {"first": True, "laptop": False}

    changed = bf("key", "passwd", "--new-password-file", third, "--json").document
    assert bf("list").status == 12
    monkeypatch.setenv("BACKUPFORGE_PASSWORD", "third")
    listed = bf("key", "list", "--json").document
    assert {each["id"]: each["label"] for each in listed} == {changed["id"]: "first", added: "laptop"}

    assert bf("key", "remove", changed["id"][:8]).status == 1
    assert bf("key", "remove", added[:8]).status == 0
    last = bf("key", "remove", changed["id"][:8])
    assert last.status == 1
    assert "is the last one" in last.err
    assert bf("list").status == 0


def test_a_repository_without_passwords(bf: Bf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without encryption there is no password to list, to add or to change."""
    monkeypatch.delenv("BACKUPFORGE_PASSWORD")
    bf("init", "--encryption", "none")

    assert "not encrypted" in bf("key", "list").out
    assert [bf("key", *words).status for words in (["add"], ["passwd"], ["remove", "12345678"])] == [1, 1, 1]


# ---- doctor


def test_doctor_is_content_with_this_machine(bf: Bf, backed_up: str) -> None:
    """Where the tests run, everything is there that a backup needs."""
    ran = bf("doctor", "--json")

    assert ran.status == 0
    assert [each["what"] for each in ran.document if not each["ok"] and not each["optional"]] == []
    assert any(each["what"] == "repository" and each["ok"] for each in ran.document)


def test_doctor_says_what_is_missing_and_how_to_get_it(bf: Bf, tmp_path: Path) -> None:
    """A cache that cannot be written and a repository that cannot be reached are named, with a remedy."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")

    ran = bf("doctor", "--cache-dir", blocked / "cache")

    assert ran.status == 1
    assert "missing   cache" in ran.out
    assert "--no-cache" in ran.out
    assert "missing   repository: there is no repository in" in ran.out


def test_doctor_knows_every_compiled_module() -> None:
    """A C extension that is added is looked for."""
    from cli.commands.doctor import kernels
    from tests.support.program import ROOT

    sources = (ROOT / "bfrepo").rglob("*.c")
    assert set(kernels()) == {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources}


def test_only_what_was_asked_for_counts_as_changed(bf: Bf, backed_up: str, files: Path) -> None:
    """--skip-if-unchanged does not care about the directories above the paths, and notices every change in them."""
    bf("backup", files)
    (files.parent / "a neighbour").write_text("made meanwhile")
    assert "no snapshot was made" in bf("backup", "--skip-if-unchanged", files).out

    files.chmod(0o700)
    assert "saved" in bf("backup", "--skip-if-unchanged", files).out
