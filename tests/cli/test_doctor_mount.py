"""What `doctor` says about mounting."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.program import Bf

_NOBODY: Final = 65534

Findings = dict[str, dict[str, Any]]


@pytest.fixture
def findings(bf: Bf) -> Callable[[], Findings]:
    """Runs `doctor`; its findings about FUSE by what they begin with."""

    def examine() -> Findings:
        ran = bf("doctor", "--json")
        return {line["what"].partition(",")[0]: line for line in ran.document if "mount" in line["what"]}

    return examine


def test_fusermount3_is_missing(findings: Callable[[], Findings], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fusermount3 the package is named that has it."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = findings()["fusermount3"]
    assert (found["ok"], found["optional"]) == (False, True)
    assert "fuse3" in found["remedy"]


def test_fusermount3_has_no_rights(
    findings: Callable[[], Findings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who is not root needs one that is setuid."""
    (tmp_path / "fusermount3").touch(mode=0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(tmp_path / name))
    monkeypatch.setattr(os, "geteuid", lambda: _NOBODY)
    assert f"chmod u+s {tmp_path}/fusermount3" in findings()["fusermount3"]["remedy"]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert findings()["fusermount3"]["ok"]


def test_the_device_is_shut(findings: Callable[[], Findings], monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is there and may not be opened wants other rights, not a module."""
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, *rest: "fuse" not in str(path) and allowed(path, *rest))
    found = findings()["/dev/fuse"]
    assert not found["ok"]
    assert "chmod" in found["remedy"]


def test_others_are_not_allowed(findings: Callable[[], Findings], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root is told what --allow-other takes; a line that is a comment does not count."""
    monkeypatch.setattr(os, "geteuid", lambda: _NOBODY)
    read, conf = Path.read_text, "#user_allow_other\nmount_max = 1000\n"
    monkeypatch.setattr(
        Path, "read_text", lambda path, **rest: conf if path == Path("/etc/fuse.conf") else read(path, **rest)
    )
    assert "/etc/fuse.conf" in findings()["user_allow_other"]["remedy"]
    conf = "mount_max = 1000\n user_allow_other \n"
    assert findings()["user_allow_other"]["ok"]


def test_libfuse_does_not_load(findings: Callable[[], Findings], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pyfuse3 that is there and does not load says why."""
    monkeypatch.setitem(sys.modules, "pyfuse3", None)
    monkeypatch.setattr("cli.commands.doctor.find_spec", lambda name: object())
    found = findings()["libfuse"]
    assert not found["ok"]
    assert "pyfuse3" in found["detail"]
