"""Running the command line in tests: what a run said, and what a process of its own needs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent

PASSWORD = "a secret of the tests"


@dataclass(frozen=True)
class Ran:
    """How a run of the program ended, and what it said."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        """The last of the JSON lines."""
        last = self.lines[-1]
        assert last["message_type"] == "summary"
        return last


Bf = Callable[..., Ran]
"""Runs one command line."""


def process_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that finds the program."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}
