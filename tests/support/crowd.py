"""Backups in loops while two prunes run without end and snapshots are forgotten, each a process of its own (INV-8)."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic, sleep

from bfrepo.core.clock import SystemClock
from bfrepo.storage.location import open_backend, parse_location
from tests.support.client import PACK_SIZE, Order
from tests.support.clients import Client, clients, wrong_with, wrong_with_all
from tests.support.repositories import make_repository
from tests.support.wholeness import unreferenced

KEPT = 3
"""Snapshots of each client that are not forgotten."""
BETWEEN_KILLS_S = 0.3


@dataclass
class Campaign:
    """What happened so far. Driven by a thread for each client."""

    repository: str
    """Where it is: a path, or any other location."""
    cache: Path
    seconds: float
    least: int = 0
    """Backups that are waited for, on machines that are slow."""
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

    def goes_on(self) -> bool:
        """Whether there is time left, and nothing wrong."""
        more = monotonic() < self.until or self.counted["backup"] < self.least
        return more and not self.wrong and not self.failures

    def order(self, deed: str, **more: object) -> Order:
        """An order on the repository."""
        return {"do": deed, "repository": self.repository, "cache": str(self.cache), **more}

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
            late = monotonic() > self.until  # then whoever is still needed gets some peace
            sleep(chance.random() * 2 * BETWEEN_KILLS_S * (10 if late else 1))
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


def wage(
    location: str, folder: Path, seconds: float, grace_s: float, *, kills: bool, backups: int, least: int = 0
) -> Campaign:
    """A campaign on a new repository at `location`, to its end; `folder` is for sockets and caches."""
    backend = open_backend(parse_location(location))
    make_repository(backend, pack_size=PACK_SIZE, clock=SystemClock()).close()
    campaign = Campaign(location, folder / "cache", seconds, least)
    with clients(backups + 3, folder) as crowd:
        writers, (pruner, other, forgetter) = crowd[:backups], crowd[backups:]
        deeds: list[Callable[[], None]] = [partial(campaign.back_up, client) for client in writers]
        deeds += [partial(campaign.prune, pruner, grace_s), partial(campaign.prune, other, grace_s)]
        deeds.append(partial(campaign.forget, forgetter))
        if kills:
            deeds.append(partial(campaign.kill, [*writers, pruner, pruner, other, forgetter]))
        campaign.run(*deeds)
    return campaign


def judge(campaign: Campaign) -> None:
    """Nothing is lost, and when what dead backups have claimed has lapsed, nothing is left that nobody needs."""
    print(dict(campaign.counted), dict(campaign.errors))
    assert campaign.failures == []
    assert campaign.wrong == []
    assert wrong_with_all(campaign.repository, set(campaign.finished)) == []
    assert campaign.counted["backup failed"] <= campaign.counted["backup"] / 2
    week_s = 8 * 24 * 3600
    with clients(1, campaign.cache) as (last,):
        for ahead_s in (week_s, 2 * week_s):
            last.give(campaign.order("prune", grace_s=3600, ahead_s=ahead_s))
            assert "error" not in (last.wait() or {})
    assert unreferenced(open_backend(parse_location(campaign.repository))) == set()
    assert wrong_with_all(campaign.repository, set(campaign.finished)) == []
