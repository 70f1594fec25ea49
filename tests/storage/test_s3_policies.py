"""The policies of the documentation are enough for what they are for, and for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from bfrepo.core.errors import StorageDenied
from bfrepo.core.progress import Quiet
from bfrepo.operations.forget import remove_snapshots
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.location import S3Location
from bfrepo.storage.options import S3Options
from bfrepo.storage.s3 import S3Backend
from tests.support import moto_server
from tests.support.backups import incompressible, run_backup
from tests.support.program import ROOT
from tests.support.real_pruning import run_prune
from tests.support.repositories import make_repository, names, reopen
from tests.support.restoring import expected, restored_snapshots
from tests.support.sources import Item

PAGE: Final = ROOT / "docs" / "how-to" / "s3.md"
FOR_BATCHES: Final = {"Effect": "Allow", "Action": "s3:DeleteObject", "Resource": "arn:aws:s3:::my-backups"}
"""What moto wants for DeleteObjects beside the permission for each object, and AWS does not."""
OLD: dict[str, Item | bytes] = {"data/old": incompressible(1, 30_000)}
NEW: dict[str, Item | bytes] = {"data/new": incompressible(2, 30_000)}


def policies() -> list[Any]:
    """Those on the page, in the order in which they stand there."""
    found = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)]
    return [each["Statement"] for each in found if "Statement" in each]


@dataclass(frozen=True)
class People:
    """What each of them sees of the repository."""

    machine: Backend
    reader: Backend
    tidier: Backend


@pytest.fixture
def people(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[People]:
    """A bucket with the users of the page, each held to the policy there."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with moto_server.serve() as moto:
        moto.client().create_bucket(Bucket="my-backups")
        machine, reader, tidier = policies()
        keys = [moto.user(*machine), moto.user(*reader), moto.user(*tidier, FOR_BATCHES)]
        moto.enforce()

        def backend(user: int, prefix: str = "web1") -> S3Backend:
            for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys[user], strict=True):
                monkeypatch.setenv(name, value)
            return S3Backend(S3Location(moto.url, "my-backups", prefix), S3Options())

        with closing(backend(0)) as machine, closing(backend(1)) as reader, closing(backend(2)) as tidier:
            yield People(machine, reader, tidier)


def content(backend: Backend) -> dict[ObjectKind, set[str]]:
    """All there is."""
    return {kind: names(backend, kind) for kind in ObjectKind}


def refused(call: Callable[[], object], backend: Backend) -> None:
    """The call is denied, and changes nothing."""
    before = content(backend)
    with pytest.raises(StorageDenied):
        call()
    assert content(backend) == before


def test_the_policies_of_the_page(people: People) -> None:
    """Each user can do what the page says, with that policy alone, and what it does not say is refused."""
    refused(lambda: make_repository(people.reader), people.reader)
    make_repository(people.tidier).close()

    first = run_backup(reopen(people.machine), OLD).snapshot_id
    run_backup(reopen(people.machine), NEW)
    assert names(people.machine, ObjectKind.CLAIM) == set()
    assert first is not None
    found = [*restored_snapshots(reopen(people.reader)).values()]
    assert sorted(map(sorted, found)) == sorted([sorted(expected(OLD)), sorted(expected(NEW))])

    refused(lambda: run_backup(reopen(people.reader), {"data/x": b"another"}), people.reader)
    for backend in (people.reader, people.machine):
        refused(partial(remove_snapshots, reopen(backend), [first], Quiet()), backend)
        refused(partial(run_prune, backend), backend)
        for kind in (ObjectKind.PACK, ObjectKind.INDEX, ObjectKind.KEY, ObjectKind.CONFIG):
            for name in names(backend, kind):
                refused(partial(backend.delete, kind, name), backend)

    remove_snapshots(reopen(people.tidier), [first], Quiet())
    assert run_prune(people.tidier).deleted
    assert [*restored_snapshots(reopen(people.machine)).values()] == [expected(NEW)]


def test_nobody_reaches_other_prefixes() -> None:
    """What a policy allows on objects it allows below the prefix alone; it names no action but those that are used."""
    for statements in policies():
        for statement in statements:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert statement["Effect"] == "Allow"
            assert not [action for action in actions if "*" in action]
            where = "arn:aws:s3:::my-backups" + ("" if actions == ["s3:ListBucket"] else "/web1/")
            assert statement["Resource"].startswith(where)
    assert len(policies()) == 3
