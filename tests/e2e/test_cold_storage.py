"""Cold storage as a user meets it: two directories, and a bucket of which packs go to an archive."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import moto_server
from tests.support.command import Command, with_password
from tests.support.moto_server import Moto
from tests.support.program import Ran

BUCKET = "cold"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Something to back up."""
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "big").write_bytes(bytes(range(256)) * 4000)
    (folder / "sub" / "note").write_text("hello\n")
    return folder


def same(source: Path, target: Path) -> bool:
    """Whether everything was restored, below the whole path of what was backed up."""
    restored = target / str(source).lstrip("/")
    return all(
        (restored / path.relative_to(source)).read_bytes() == path.read_bytes()
        for path in source.rglob("*")
        if path.is_file()
    )


# --- two directories


@pytest.fixture
def bf(tmp_path: Path) -> Command:
    """A command whose environment names both parts."""
    return replace(with_password(tmp_path), environment={"BACKUPFORGE_REPOSITORY_HOT": str(tmp_path / "hot")})


def test_two_directories(bf: Command, source: Path, tmp_path: Path) -> None:
    """Every command works with the two parts, the hot one stays small, and the cold one is complete."""
    hot = tmp_path / "hot"
    bf("init")
    bf("backup", source)
    (source / "sub" / "note").write_text("changed\n")
    bf("backup", source)
    assert len([path for path in (hot / "packs").rglob("*") if path.is_file()]) == 2
    assert len(bf.objects("packs")) == 4
    bf("check", "--read-data")
    bf("forget", "--keep-last", "1")
    bf("prune", "--grace", "0")
    bf("restore", "latest", "--target", tmp_path / "out")
    assert same(source, tmp_path / "out")
    alone = replace(bf, environment={})
    alone("check", "--read-data")
    alone("restore", "latest", "--target", tmp_path / "alone")
    assert same(source, tmp_path / "alone")


def test_the_hot_part_is_lost(bf: Command, source: Path, tmp_path: Path) -> None:
    """Without its hot part the repository is whole; `repair hot` makes it again, and says when there is no need."""
    hot = tmp_path / "hot"
    bf("init")
    bf("backup", source)
    before = contents(hot)
    shutil.rmtree(hot)
    ran = bf("list", status=1)
    assert "repair hot" in ran.err
    assert "copy" in bf("repair", "hot", "--dry-run").out
    assert not hot.exists()
    bf("repair", "hot")
    assert contents(hot) == before
    assert "Nothing to do" in bf("repair", "hot").out
    bf("check")


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_damage_of_the_hot_part_is_no_damage_of_the_repository(bf: Command, source: Path, tmp_path: Path) -> None:
    """`repair packs` first makes the hot part right, and gives up nothing that the cold part has."""
    bf("init")
    bf("backup", source)
    (pack,) = [path for path in (tmp_path / "hot" / "packs").rglob("*") if path.is_file()]
    pack.chmod(0o600)
    pack.write_bytes(bytes(len(pack.read_bytes())))
    bf("check", status=1)
    assert "replace damaged" in bf("repair", "packs", "--dry-run").out
    bf("check", status=1)
    assert "no pack is damaged" in bf("repair", "packs").out
    bf("check", "--read-data")


def test_which_part_is_which(bf: Command, source: Path, tmp_path: Path) -> None:
    """Whoever names the hot part as the repository is told what to write."""
    bf("init")
    ran = bf("-r", tmp_path / "hot", "backup", source, status=2)
    assert "--repository-hot" in ran.err


def test_copy_to_a_repository_in_two_places(bf: Command, source: Path, tmp_path: Path) -> None:
    """Copies go to both parts of the target, too."""
    plain = replace(bf, environment={"BACKUPFORGE_TO_PASSWORD": bf.variables()["BACKUPFORGE_PASSWORD"]})
    plain("init")
    plain("backup", source)
    to, to_hot = tmp_path / "to", tmp_path / "to-hot"
    plain("init", "-r", to, "--repository-hot", to_hot)
    plain("copy", "--to", to, "--to-hot", to_hot)
    plain("check", "--read-data", "-r", to, "--repository-hot", to_hot)
    assert contents(to_hot)["config"].endswith((to / "config").read_bytes())
    assert {name for name in contents(to_hot) if name.startswith("snapshots/")}


# --- a bucket


@dataclass(frozen=True)
class Bucket:
    """A repository in a bucket, whose packs of file data go to Glacier as soon as they are stored."""

    moto: Moto
    command: Command
    prefix: str

    def __call__(self, *arguments: str | Path, status: int = 0) -> Ran:
        return self.command("-o", "s3.storage-class=GLACIER", *arguments, status=status)

    def objects(self) -> list[Any]:
        answer = self.moto.client().list_objects_v2(Bucket=BUCKET, Prefix=self.prefix)
        return list(answer["Contents"])

    def archived(self) -> list[Any]:
        return [each for each in self.objects() if each["StorageClass"] == "GLACIER"]

    def archive_all_packs(self) -> None:
        """What a rule of the bucket does to old packs, whatever they hold."""
        client = self.moto.client()
        for each in self.objects():
            if "/packs/" in each["Key"] and each["StorageClass"] != "GLACIER":
                key = each["Key"]
                source = {"Bucket": BUCKET, "Key": key}
                client.copy_object(Bucket=BUCKET, Key=key, CopySource=source, StorageClass="GLACIER")

    def until_back(self, *arguments: str | Path) -> list[Ran]:
        """Run a command that does not wait again and again, until all is at hand."""
        runs = []
        for _ in range(20):
            line = self.command.line(*arguments, "--warm-up-wait", "0", "--json")
            runs.append(run(self.command, line))
            if runs[-1].status == 0:
                return runs
        raise AssertionError(runs[-1])


def run(command: Command, line: list[Any]) -> Ran:
    """Run a command, however it ends."""
    import subprocess

    done = subprocess.run(
        line, env=command.variables(), cwd=command.home, capture_output=True, timeout=60, stdin=subprocess.DEVNULL
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    """moto's server, with a bucket."""
    with moto_server.serve() as server:
        server.client().create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture
def bucket(moto: Moto, tmp_path: Path, source: Path) -> Bucket:
    """A repository with one backup, and copies that are at hand when they were looked at twice."""
    moto.restores_take(looks=2)
    prefix = tmp_path.name
    command = replace(
        with_password(tmp_path),
        environment={
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLEOFTESTS",
            "AWS_SECRET_ACCESS_KEY": "this/is+the/secret+key/of/tests",
            "AWS_EC2_METADATA_DISABLED": "true",
            "BACKUPFORGE_REPOSITORY": f"s3:{moto.url}/{BUCKET}/{prefix}",
        },
    )
    made = Bucket(moto, command, prefix)
    made("init")
    made("backup", source)
    return made


@pytest.mark.slow
def test_glacier(bucket: Bucket, source: Path, tmp_path: Path) -> None:
    """File data is in Glacier and nothing else; everything but restoring works; a restore asks, and goes on later."""
    assert {each["Key"].split("/")[1] for each in bucket.archived()} == {"packs"}
    assert len(bucket.archived()) == 1
    bucket("list")
    bucket("ls", "latest")
    (source / "more").write_text("more\n")
    bucket("backup", source)
    bucket("check")
    bucket("prune")

    dry = bucket("restore", "latest", "--target", tmp_path / "out", "--dry-run", "--json")
    (told,) = [line for line in dry.lines if line["message_type"] == "archived"]
    assert (told["packs_archived"], told["packs_asked_for"]) == (2, 0)
    assert told["bytes_archived"] == sum(each["Size"] for each in bucket.archived())
    assert "archived and would be asked for" in bucket("restore", "latest", "-t", tmp_path / "out", "--dry-run").out

    first, *_, last = bucket.until_back("restore", "latest", "--target", tmp_path / "out")
    assert first.status == 1
    assert json.loads(first.err.splitlines()[-1])["error"] == "still-archived"
    assert last.summary["files_restored"] == 3
    assert same(source, tmp_path / "out")
    bucket("restore", "latest", "--target", tmp_path / "again")  # what is at hand is not waited for
    assert same(source, tmp_path / "again")


@pytest.mark.slow
def test_glacier_check_dump_and_copy(bucket: Bucket, source: Path, tmp_path: Path) -> None:
    """Check, dump and copy ask for what they read."""
    runs = bucket.until_back("check", "--read-data")
    assert len(runs) > 1
    assert runs[-1].summary["packs_archived"] == 0
    bucket("dump", "latest", str(source / "sub" / "note"), "--output", tmp_path / "note")
    assert (tmp_path / "note").read_text() == "hello\n"
    local = replace(bucket.command, environment={"BACKUPFORGE_REPOSITORY": str(tmp_path / "to")})
    local("init")
    password = local.variables()["BACKUPFORGE_PASSWORD"]
    copying = replace(bucket.command, environment={**bucket.command.environment, "BACKUPFORGE_TO_PASSWORD": password})
    copying("copy", "--to", tmp_path / "to")
    local("check", "--read-data")


@pytest.mark.slow
def test_every_pack_is_archived(bucket: Bucket, source: Path, tmp_path: Path) -> None:
    """Where a rule of the bucket archives directories as well, the hot part has them; it can be made afterwards."""
    bucket.archive_all_packs()
    assert "repair hot" in bucket("restore", "latest", "-t", tmp_path / "out", "--no-cache", status=1).err
    hot = tmp_path / "hot"
    bucket.until_back("repair", "hot", "--repository-hot", hot)
    environment = {**bucket.command.environment, "BACKUPFORGE_REPOSITORY_HOT": str(hot)}
    both = replace(bucket, command=replace(bucket.command, environment=environment))
    (source / "more").write_text("more\n")
    both("backup", source)
    both.archive_all_packs()
    assert "more" in both("ls", "latest", "--recursive", "--no-cache").out
    both("check", "--no-cache")
    both("prune", "--no-cache")
    both.until_back("restore", "latest", "--target", tmp_path / "out", "--no-cache")
    assert same(source, tmp_path / "out")
