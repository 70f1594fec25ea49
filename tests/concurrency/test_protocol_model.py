"""The protocol of backups and prunes, every order of every call of an abstract model (docs/concurrency.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.support.campaign import is_campaign
from tests.support.protocol_model import Actor, Outcome, Rules, backup, explore, forget, prune

FEW: list[tuple[str, list[Actor]]] = [
    ("P", [forget(), backup("b"), prune("r")]),
    ("P", [forget(), backup("b"), prune("r"), prune("q")]),
    ("P", [forget(), backup("b"), backup("c"), prune("r")]),
    ("PQ", [prune("r"), prune("q"), prune("s")]),
]
MANY: list[tuple[str, list[Actor]]] = [
    ("PQ", [forget(), backup("b"), prune("r"), prune("q")]),
    ("PQZ", [prune("r"), prune("q"), prune("s")]),
    ("P", [forget(), backup("b"), backup("c"), prune("r"), prune("q")]),
]
BROKEN = {
    "no claim": replace(Rules(), writes_claim=False),
    "snapshots before claims": replace(Rules(), claims_before_snapshots=False),
    "no second look at the index": replace(Rules(), looks_at_index_again=False),
    "takes back the doom of others": replace(Rules(), takes_back_only_its_own_doom=False),
}


def names(case: tuple[str, Sequence[Actor]]) -> str:
    """For the names of tests."""
    packs, actors = case
    return f"{len(packs)} packs, {', '.join(actor.kind for actor in actors)}"


def told(outcome: Outcome) -> str:
    """The way to where it went wrong, a state a line."""
    return "\n".join(map(str, outcome.way))


@pytest.mark.parametrize("case", FEW, ids=names)
@pytest.mark.parametrize("crashes", [False, True], ids=["", "crashes"])
def test_nothing_is_lost(case: tuple[str, Sequence[Actor]], crashes: bool) -> None:
    """INV-8: in no order of calls of a few actors, whoever dies after whichever call, is what is needed gone."""
    outcome = explore(*case, Rules(crashes=crashes))
    assert outcome.way == (), told(outcome)


@pytest.mark.slow
@pytest.mark.parametrize("case", MANY, ids=names)
@pytest.mark.parametrize("crashes", [False, True], ids=["", "crashes"])
def test_nothing_is_lost_among_many(case: tuple[str, Sequence[Actor]], crashes: bool) -> None:
    """INV-8: the same for two backups and two prunes beside a forget, and for three prunes and three copies."""
    if crashes and len(case[1]) > 4 and not is_campaign():
        pytest.skip("a million states: only in a campaign")
    outcome = explore(*case, Rules(crashes=crashes))
    assert outcome.way == (), told(outcome)


@pytest.mark.parametrize("rules", BROKEN.values(), ids=BROKEN.keys())
def test_every_rule_is_needed(rules: Rules) -> None:
    """The model can fail: without any one of the rules, some order loses data."""
    assert any(explore(*case, rules).way for case in [*FEW, *MANY])
