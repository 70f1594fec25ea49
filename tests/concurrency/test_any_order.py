"""Several clients as processes on one repository, given orders in any order, waited for in another, killed at any time.

The model is what the trees of the seeds hold: a snapshot has the seed of its tree for a label. No snapshot that
finished ever loses a byte (INV-8), wherever anybody dies (INV-2); what is copied stands by itself; and when time has
gone by, what no snapshot needs is gone.

A normal run takes less than a minute; CAMPAIGN_SECONDS says otherwise.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from time import monotonic
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from bfrepo.core.clock import SystemClock
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.local import LocalBackend
from tests.support.campaign import campaign_s
from tests.support.client import PACK_SIZE, Answer, Order
from tests.support.clients import Client, clients, quick_folder, wrong_with, wrong_with_all
from tests.support.repositories import make_repository, names
from tests.support.wholeness import unreferenced

NORMALLY_S = 45.0
CLIENTS = 4
ORDERS_AT_ONCE = 20
"""Hypothesis knows no end but a number; when time is over the rest of so many does nothing."""
HOUR_S = 3600
WEEK_S = 8 * 24 * HOUR_S

who = st.integers(0, CLIENTS - 1)
picks = st.integers(0, 1_000_000)
seeds = st.integers(0, 40)
graces = st.sampled_from([0, 0, HOUR_S])


class Machine(RuleBasedStateMachine):
    """A repository, a second one to copy to, and what each is known to hold."""

    folder: ClassVar[Path]
    crowd: ClassVar[list[Client]]
    until: ClassVar[float]
    counted: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(dir=self.folder))
        self.places = {name: self.base / name for name in ("repository", "target")}
        for place in self.places.values():
            make_repository(LocalBackend(place), pack_size=PACK_SIZE, clock=SystemClock()).close()
        self.finished: dict[str, set[bytes]] = {name: set() for name in self.places}
        self.ahead_s = 0
        self.tags = count()

    # ---- orders

    @rule(client=who, seed=seeds)
    def back_up(self, client: int, seed: int) -> None:
        """A backup begins."""
        self.give(client, "backup", seed=seed, host=f"host-{client % 2}")

    @rule(client=who, grace_s=graces, max_unused=st.sampled_from(["0%", "5%", "unlimited"]))
    def prune(self, client: int, grace_s: int, max_unused: str) -> None:
        """A prune begins, perhaps beside others."""
        self.give(client, "prune", grace_s=grace_s, max_unused=max_unused)

    @rule(client=who, pick=picks)
    def forget(self, client: int, pick: int) -> None:
        """Somebody begins to remove a snapshot, which from now on need not be there."""
        for identifier in self.pick(pick):
            if self.give(client, "forget", snapshots=[identifier.hex()]):
                self.finished["repository"].discard(identifier)

    @rule(client=who, pick=picks)
    def copy(self, client: int, pick: int) -> None:
        """A snapshot, and those of its neighbours, begin to be copied."""
        wanted = [each.hex() for at in (pick, pick + 1) for each in self.pick(at)]
        self.give(client, "copy", target=str(self.places["target"]), snapshots=wanted)

    @rule(client=who, pick=picks)
    def tag(self, client: int, pick: int) -> None:
        """A snapshot begins to be replaced by itself with a tag more."""
        for identifier in self.pick(pick):
            self.give(client, "tag", snapshots=[identifier.hex()], tag=f"tag-{next(self.tags)}")

    @rule(client=who)
    def repair(self, client: int) -> None:
        """A repair begins, of a repository that has no damage."""
        self.give(client, "repair", quarantine=str(self.base / "quarantine"))

    # ---- what happens

    @rule(client=who)
    def wait(self, client: int) -> None:
        """A client is done."""
        if not self.crowd[client].is_idle:
            self.finish(self.crowd[client])

    @rule(client=who)
    def kill(self, client: int) -> None:
        """A client dies at whatever it is at."""
        if not self.crowd[client].is_idle:
            self.crowd[client].kill()
            self.finish(self.crowd[client])

    @rule(hours=st.sampled_from([1, 2, 24]))
    def let_time_pass(self, hours: int) -> None:
        """For orders to come."""
        self.ahead_s += hours * HOUR_S

    @rule(pick=picks)
    def read(self, pick: int) -> None:
        """A snapshot restores exactly while everybody is at work."""
        for identifier in self.pick(pick):
            assert wrong_with(self.places["repository"], identifier) == ""

    @rule(pick=picks)
    def lose_an_index_object(self, pick: int) -> None:
        """Damage, when nobody is at work: the index is made again from the packs (INV-6)."""
        self.finish_all()
        backend = LocalBackend(self.places["repository"])
        present = sorted(names(backend, ObjectKind.INDEX))
        if present and self.goes_on():
            backend.delete(ObjectKind.INDEX, present[pick % len(present)])
            self.give(0, "repair", begun=True, quarantine=str(self.base / "quarantine"))
            assert self.finish(self.crowd[0])["lost"] == 0
            assert self.whole() == []

    def teardown(self) -> None:
        """Everybody comes to an end; nothing is lost; time passes, and what nobody needs is gone."""
        self.finish_all()
        assert self.whole() == []
        if self.finished["repository"] and self.goes_on():
            for _ in range(2):
                self.ahead_s += WEEK_S
                self.give(0, "prune", begun=True, grace_s=HOUR_S, max_unused="unlimited")
                assert "error" not in self.finish(self.crowd[0])
            assert unreferenced(LocalBackend(self.places["repository"])) == set()
            assert self.whole() == []
            self.counted["runs"] += 1
        shutil.rmtree(self.base)

    # ---- how

    def goes_on(self) -> bool:
        """Whether there is time left; what comes after it does nothing."""
        return monotonic() < self.until

    def give(self, client: int, deed: str, *, begun: bool = False, **more: object) -> bool:
        """Give an order to a client, when it is done with the one before; what has begun is brought to an end."""
        if not (begun or self.goes_on()):
            return False
        if not self.crowd[client].is_idle:
            self.finish(self.crowd[client])
        order: Order = {
            "do": deed, "repository": str(self.places["repository"]), "cache": str(self.base / "cache"),
            "ahead_s": self.ahead_s, **more,
        }  # fmt: skip
        self.crowd[client].give(order)
        return True

    def finish(self, client: Client) -> Answer:
        """Wait for a client, and remember what it says it has done."""
        order = client.order
        assert order is not None
        answer = client.wait()
        deed = order["do"]
        if answer is None or "error" in answer:
            self.counted[f"{deed} killed" if answer is None else f"{deed}: {answer['error'].partition(':')[0]}"] += 1
            return answer or {"error": "killed"}
        self.counted[deed] += 1
        if deed == "backup":
            self.finished["repository"].add(bytes.fromhex(answer["snapshot"]))
        if deed == "copy":
            self.finished["target"].update(bytes.fromhex(new) for new in answer["copied"].values())
        return answer

    def finish_all(self) -> None:
        """Wait for everybody."""
        for client in self.crowd:
            if not client.is_idle:
                self.finish(client)

    def pick(self, number: int) -> list[bytes]:
        """One of the snapshots that have to be there, if there is any."""
        present = sorted(self.finished["repository"])
        return [present[number % len(present)]] if present else []

    def whole(self) -> list[str]:
        """What is wrong with both repositories, while nobody is at work."""
        return [wrong for name, place in self.places.items() for wrong in wrong_with_all(place, self.finished[name])]


@pytest.fixture
def crowd() -> Iterator[None]:
    """The clients, and a place for the repositories."""
    with quick_folder() as folder, clients(CLIENTS, folder) as made:
        Machine.folder, Machine.crowd, Machine.counted = folder, made, Counter()
        Machine.until = monotonic() + campaign_s(NORMALLY_S)
        yield


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("crowd")
def test_any_order_of_anything() -> None:
    """INV-8, INV-2: whatever is begun, waited for and killed in whatever order, no finished snapshot loses a byte."""
    while monotonic() < Machine.until:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=ORDERS_AT_ONCE,
                stateful_step_count=40,
                deadline=None,
                database=None,
                phases=[Phase.generate],  # what others do meanwhile is not to be repeated
                suppress_health_check=list(HealthCheck),
            ),
        )
    print(dict(Machine.counted))
    assert min(Machine.counted[deed] for deed in ("backup", "prune", "forget", "copy", "tag", "repair", "runs")) >= 3
