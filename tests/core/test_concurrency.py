"""How many threads are used."""

from __future__ import annotations

import os

import pytest

from bfrepo.core.concurrency import native_threads


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (2, 2), (6, 6), (64, 8)])
def test_a_thread_for_each_core(monkeypatch: pytest.MonkeyPatch, cores: int, threads: int) -> None:
    """There is a thread for each core that the process may use, but two at least and eight at most."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert native_threads() == threads
