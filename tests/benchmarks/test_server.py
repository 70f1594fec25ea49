"""The parts of benchmarks/server.py that compute and judge; the server is not run here."""

from __future__ import annotations

import json

from benchmarks import server
from benchmarks.server import Figure


def figure(median_ms: float, per_cpu_second: float) -> Figure:
    """What one path gave."""
    return Figure(median_ms, 2 * median_ms, per_cpu_second / 2, per_cpu_second, 1000)


def test_what_must_be() -> None:
    """Both the median and the throughput count, and only for what has to be quick."""
    assert server.verdict("snapshots", figure(9, 500)) == "met"
    assert server.verdict("snapshots", figure(11, 900)) == "missed"
    assert server.verdict("statistics", figure(1, 499)) == "missed"
    assert server.verdict("health", figure(100, 1)) == "-"


def test_everything_is_shown() -> None:
    """The table and the JSON have every figure."""
    figures = {name: figure(2, 600) for name in server.PATHS}
    assert all(name in server.table(figures) for name in server.PATHS)
    document = json.loads(server.as_json(figures, 10, 5))
    assert [each["request"] for each in document["figures"]] == list(server.PATHS)
    assert document["snapshots"] == 10
