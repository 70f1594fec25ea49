"""Running the real prune with as few words as a test has to spare."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from bfrepo.core.clock import Clock
from bfrepo.core.progress import Quiet, Reporter
from bfrepo.operations.prune import PruneOptions, PrunePlan, PruneResult, UnusedLimit, plan_prune, prune
from bfrepo.storage.base import Backend
from tests.support.backups import never
from tests.support.repositories import reopen

NOTHING_UNUSED = UnusedLimit(size=0)


def prune_options(
    *,
    grace_h: float = 0,
    max_unused: UnusedLimit = NOTHING_UNUSED,
    max_repack_size: int | None = None,
    allow_remove_all: bool = False,
) -> PruneOptions:
    """Options for a prune that wastes neither time nor space; one worker, so that it is repeatable."""
    return PruneOptions(
        grace=timedelta(hours=grace_h),
        max_unused=max_unused,
        max_repack_size=max_repack_size,
        allow_remove_all=allow_remove_all,
        workers=1,
    )


def run_prune(
    backend: Backend,
    *,
    pack_size: int | None = None,
    clock: Clock | None = None,
    reporter: Reporter | None = None,
    cancelled: Callable[[], bool] = never,
    grace_h: float = 0,
    max_unused: UnusedLimit = NOTHING_UNUSED,
    max_repack_size: int | None = None,
    allow_remove_all: bool = False,
) -> PruneResult:
    """A prune by a new process, without a grace time unless it is given one."""
    options = prune_options(
        grace_h=grace_h, max_unused=max_unused, max_repack_size=max_repack_size, allow_remove_all=allow_remove_all
    )
    return prune(reopen(backend, pack_size=pack_size, clock=clock), options, reporter or Quiet(), cancelled)


def plan_of(
    backend: Backend,
    *,
    pack_size: int | None = None,
    clock: Clock | None = None,
    grace_h: float = 0,
    max_unused: UnusedLimit = NOTHING_UNUSED,
    max_repack_size: int | None = None,
) -> PrunePlan:
    """What a prune by a new process would do."""
    options = prune_options(grace_h=grace_h, max_unused=max_unused, max_repack_size=max_repack_size)
    return plan_prune(reopen(backend, pack_size=pack_size, clock=clock), options, Quiet(), never)
