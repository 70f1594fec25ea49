"""What holds for every test: who may run it, how hard the property tests try, and what is left of it."""

from __future__ import annotations

import ctypes
import os

import pytest
from hypothesis import HealthCheck, settings

# The conformance suite is imported by the tests of each backend; without this its asserts would not show their values.
pytest.register_assert_rewrite("tests.storage.conformance")

# Hypothesis would call a test slow on a busy machine where it is only waiting; the time limit of pytest is the limit.
settings.register_profile(
    "default", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=5000)
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is marked `root` for anybody else."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs the superuser"))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Lets go of what a test had in memory, as thousands run in one process."""
    callspec = getattr(item, "callspec", None)
    for value in callspec.params.values() if callspec else ():
        if isinstance(value, BaseException):  # it stays, and with it all that was around when it was raised
            value.__traceback__ = value.__context__ = value.__cause__ = None
    if nextitem is None or nextitem.path != item.path:
        give_memory_back()


def give_memory_back() -> None:
    """Has glibc return what is free: each of the many threads that a test starts has memory of its own put by."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
