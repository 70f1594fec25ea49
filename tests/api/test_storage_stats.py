"""Statistics of storage: measured in the background, kept, and the same as what the commands tell."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from api.app import make_app
from api.services.measuring import Measurer
from api.services.storage import TreeSizes
from api.state import SERVICES
from bfrepo.core.progress import Quiet
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.operations.stats import stats, total_sizes
from tests.support.backups import incompressible
from tests.support.server import Client, Stage
from tests.support.sources import Item
from tests.support.stored import Stored, take_up

LINKED = Item(content=b"linked" * 1000, links=2, inode=7)


def fill(stored: Stored) -> None:
    """Two snapshots, of which the second has most of the first."""
    tree: dict[str, Item | bytes] = {"a/one": incompressible(1, 50_000), "a/two": LINKED, "a/b/three": LINKED}
    stored.back_up(tree)
    stored.back_up({**tree, "c": incompressible(2, 20_000)})


def measure(stage: Stage) -> None:
    """What the server does in the background, now."""
    services = make_app(stage.config, stage.clock)[SERVICES]
    services.measurer.run(lambda: False)
    services.opened.close()
    services.catalogue.close()
    services.database.close()


def test_total_is_that_of_stats(stage: Stage) -> None:
    """What is added up quickly is what `stats` adds up snapshot by snapshot, hard links included."""
    stored = take_up(stage)
    fill(stored)
    with stored.open() as repository:
        snapshots = load_snapshots(repository)
        whole = stats(repository, snapshots, Quiet(), lambda: False)
        quick = total_sizes(repository, snapshots, Quiet(), lambda: False)
    assert quick == whole.total


def test_stats(any_stage: Stage) -> None:
    """Each repository is shown as it was measured last, with the sum of those that were, and what it was over time."""
    one, two = take_up(any_stage, name="one"), take_up(any_stage, name="two")
    take_up(any_stage, "beta", name="theirs").back_up({"x": incompressible(3, 1000)})
    fill(one)

    async def before(client: Client) -> None:
        answer = (await client.ask("GET", "/api/storage/stats", who="alpha.viewer")).value
        assert [(each["measured"], each["sums"]) for each in answer["repositories"]] == [(None, None)] * 2
        assert answer["total"]["ratio"] is None

    any_stage.run(before)
    measure(any_stage)
    measure(any_stage)  # nothing is due

    async def after(client: Client) -> None:
        answer = (await client.ask("GET", "/api/storage/stats", who="alpha.viewer")).value
        first, second = (each["sums"] for each in answer["repositories"])
        assert first["snapshots"] == 2
        assert first["logical_bytes"] == 2 * 56_000 + 20_000
        assert 76_000 < first["unique_bytes"] < first["logical_bytes"]
        assert first["stored_bytes"] > 70_000
        assert first["ratio"] == round(first["logical_bytes"] / first["stored_bytes"], 4)
        assert (second["snapshots"], second["logical_bytes"], second["ratio"]) == (0, 0, None)
        assert answer["total"] == first
        history = (await client.ask("GET", "/api/storage/history?limit=1", who="alpha.viewer")).value
        more = (
            await client.ask("GET", f"/api/storage/history?cursor={history['next_cursor']}", who="alpha.viewer")
        ).value
        assert {each["repository"] for each in (*history["items"], *more["items"])} == {one.id, two.id}
        only = (await client.ask("GET", f"/api/storage/history?repository={one.id}", who="alpha.viewer")).value
        assert [each["logical_bytes"] for each in only["items"]] == [first["logical_bytes"]]
        late = "/api/storage/history?after=2100-01-01T00:00:00Z"
        assert (await client.ask("GET", late, who="alpha.viewer")).value["items"] == []

    any_stage.run(after)


def test_largest(stage: Stage) -> None:
    """The entries of a directory are told with all below them, the largest first, also those that are not UTF-8."""
    stored = take_up(stage)
    snapshot = stored.back_up({
        "big/deep/er/x": incompressible(1, 90_000), "big/y": incompressible(2, 10_000),
        "small/\udce9": b"12345", "file": incompressible(3, 50_000), "none": Item(type="fifo"),
    })  # fmt: skip

    async def talk(client: Client) -> None:
        async def ask(**query: str) -> Any:
            params = {"snapshot": snapshot, **query}
            return (await client.ask("GET", "/api/storage/largest", who="alpha.viewer", params=params)).value

        top = await ask(limit="3")
        assert [(item["name"], item["size"], item["files"]) for item in top["items"]] == [
            ("big", 100_000, 2), ("file", 50_000, 1), ("small", 5, 1),
        ]  # fmt: skip
        assert (top["size"], top["files"], top["entries"], top["complete"]) == (150_005, 4, 4, True)
        assert (await ask(path="big"))["items"][0]["name"] == "deep"
        assert (await ask(path="small"))["items"][0]["name_raw"] == "6Q=="
        assert (await ask(path="file"))["size"] == 50_000

    stage.run(talk)


def test_largest_takes_its_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is more to add up than one request may, it says so, and those that follow go on until it is done."""
    stored = take_up(stage)
    snapshot = stored.back_up({f"top/{number}/{each}": b"x" for number in range(20) for each in range(3)})

    class Hurried:
        """A clock that goes on whenever it is looked at."""

        seconds = 0.0

        def monotonic(self) -> float:
            self.seconds += 0.2
            return self.seconds

    monkeypatch.setattr(TreeSizes, "__init__", _hurry(TreeSizes.__init__, Hurried()))

    async def talk(client: Client) -> None:
        seen = []
        for _ in range(40):
            params = {"snapshot": snapshot}
            answer = (await client.ask("GET", "/api/storage/largest", who="alpha.viewer", params=params)).value
            seen.append(answer["size"])
            if answer["complete"]:
                break
        assert len(seen) > 1
        assert (seen == sorted(seen), seen[-1]) == (True, 60)

    stage.run(talk)


def _hurry(init: Any, clock: Any) -> Any:
    def hurried(self: TreeSizes, _clock: Any) -> None:
        init(self, clock)

    return hurried


def test_a_repository_that_cannot_be_read_is_left_alone(stage: Stage) -> None:
    """One that fails does not keep others from being measured."""
    stored, other = take_up(stage, name="one"), take_up(stage, name="two")
    (stored.folder / "config").unlink()
    measure(stage)

    async def talk(client: Client) -> None:
        items = (await client.ask("GET", "/api/storage/history", who="alpha.viewer")).value["items"]
        assert [each["repository"] for each in items] == [other.id]

    stage.run(talk)


def test_measuring_ends_when_it_is_told(stage: Stage) -> None:
    """A server that ends does not wait until all is added up."""
    take_up(stage)
    stop = threading.Event()
    stop.set()
    services = make_app(stage.config, stage.clock)[SERVICES]
    assert isinstance(services.measurer, Measurer)
    services.measurer.run(stop.is_set)
    services.opened.close()
    services.database.close()
