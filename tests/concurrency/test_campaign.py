"""Ten backups in loops while two prunes run without end and snapshots are forgotten, each a process of its own (INV-8).

Every snapshot that a backup said it had made restores exactly, at once and at the end. Then the same with kill -9 for
whoever is at work. As long as CAMPAIGN_SECONDS says, each; a normal run takes seconds.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import pytest

from bfrepo.core.clock import SystemClock
from bfrepo.storage.local import LocalBackend
from tests.support.campaign import campaign_s
from tests.support.client import PACK_SIZE, Order
from tests.support.clients import Client, clients, quick_folder, wrong_with, wrong_with_all
from tests.support.repositories import make_repository
from tests.support.wholeness import unreferenced

BACKUPS = 10
KEPT = 3
"""Snapshots of each client that are not forgotten."""
NORMALLY_S = 8.0
BETWEEN_KILLS_S = 0.3


@dataclass
class Campaign:
    """What happened so far. Driven by a thread for each client."""

    folder: Path
    seconds: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    finished: dict[bytes, str] = field(default_factory=dict)
    """Snapshots that nobody has begun to forget, with the client that made each."""
    counted: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.until = monotonic() + self.seconds
        self.seeds = iter(range(1_000_000))

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    def goes_on(self) -> bool:
        """Whether there is time left, and nothing wrong."""
        return monotonic() < self.until and not self.wrong and not self.failures

    def order(self, deed: str, **more: object) -> Order:
        """An order on the repository."""
        return {"do": deed, "repository": str(self.repository), "cache": str(self.folder / "cache"), **more}

    def carry_out(self, client: Client, order: Order) -> dict[str, object] | None:
        """Give an order and wait; None when the client was killed or could not do it."""
        client.give(order)
        answer = client.wait()
        with self.lock:
            if answer is None:
                self.counted[f"{order['do']} killed"] += 1
            elif "error" in answer:
                self.counted[f"{order['do']} failed"] += 1
                self.errors[answer["error"]] += 1
            else:
                self.counted[order["do"]] += 1
                return answer
        return None

    def back_up(self, client: Client) -> None:
        """A loop of backups, each looked at when it is done."""
        while self.goes_on():
            with self.lock:
                seed = next(self.seeds)
            answer = self.carry_out(client, self.order("backup", seed=seed, host=client.name))
            if answer is None:
                continue
            identifier = bytes.fromhex(str(answer["snapshot"]))
            with self.lock:
                self.finished[identifier] = client.name
            wrong = wrong_with(self.repository, identifier)
            if wrong:
                self.wrong.append(wrong)

    def prune(self, client: Client, grace_s: float) -> None:
        """A loop of prunes."""
        while self.goes_on():
            self.carry_out(client, self.order("prune", grace_s=grace_s, max_unused="0%"))

    def forget(self, client: Client) -> None:
        """A loop that forgets what each client has too many of, the oldest first."""
        while self.goes_on():
            with self.lock:
                old = [
                    each
                    for name in {*self.finished.values()}
                    for each in [made for made, by in self.finished.items() if by == name][:-KEPT]
                ]
                for each in old:
                    del self.finished[each]
            if old:
                self.carry_out(client, self.order("forget", snapshots=[each.hex() for each in old]))
            sleep(0.05)

    def kill(self, victims: list[Client]) -> None:
        """kill -9 for one after the other."""
        chance = random.Random(self.seconds)
        while self.goes_on():
            sleep(chance.random() * 2 * BETWEEN_KILLS_S)
            chance.choice(victims).kill()

    def run(self, *deeds: Callable[[], None]) -> None:
        """All deeds at once, until the time is over."""

        def guarded(deed: Callable[[], None]) -> None:
            try:
                deed()
            except BaseException as error:
                self.failures.append(error)

        threads = [threading.Thread(target=guarded, args=(deed,)) for deed in deeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def wage(folder: Path, grace_s: float, *, kills: bool) -> Campaign:
    """A campaign, to its end."""
    make_repository(LocalBackend(folder / "repository"), pack_size=PACK_SIZE, clock=SystemClock()).close()
    campaign = Campaign(folder, campaign_s(NORMALLY_S))
    with clients(BACKUPS + 3, folder) as crowd:
        backups, (pruner, other, forgetter) = crowd[:BACKUPS], crowd[BACKUPS:]
        deeds: list[Callable[[], None]] = [lambda client=client: campaign.back_up(client) for client in backups]  # type: ignore[misc]
        deeds += [lambda: campaign.prune(pruner, grace_s), lambda: campaign.prune(other, grace_s)]
        deeds.append(lambda: campaign.forget(forgetter))
        if kills:
            deeds.append(lambda: campaign.kill([*backups, pruner, pruner, other, forgetter]))
        campaign.run(*deeds)
    return campaign


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [False, True], ids=["", "kill -9"])
@pytest.mark.parametrize("grace_s", [0, 1], ids=["no grace", "grace of a second"])
def test_ten_backups_beside_prunes(grace_s: float, kills: bool) -> None:
    """INV-8, INV-2: every snapshot that finished restores exactly, and so does every one that anybody finds."""
    with quick_folder() as folder:
        campaign = wage(folder, grace_s, kills=kills)
        print(dict(campaign.counted), dict(campaign.errors))
        assert campaign.failures == []
        assert campaign.wrong == []
        assert wrong_with_all(campaign.repository, set(campaign.finished)) == []
        assert campaign.counted["backup"] >= BACKUPS
        assert campaign.counted["prune"] >= 2
        assert campaign.counted["backup failed"] <= campaign.counted["backup"] / 2

        week_s = 8 * 24 * 3600  # what dead backups have claimed lapses
        with clients(1, folder / "cache") as (last,):
            for ahead_s in (week_s, 2 * week_s):
                last.give(campaign.order("prune", grace_s=3600, ahead_s=ahead_s))
                assert "error" not in (last.wait() or {})
        assert unreferenced(LocalBackend(campaign.repository)) == set()
        assert wrong_with_all(campaign.repository, set(campaign.finished)) == []
