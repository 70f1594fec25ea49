"""The rules by which backups and prunes share a repository, reduced to one blob, and every order of their calls.

The blob x is held by packs. The index says of each pack who condemned it and who doomed it. There are three actors:
one forgets the first snapshot; a backup needs x; a prune has no grace time. Each call of the storage is one step, and
any actor may make the next. Safe means: while there is a snapshot, x is in a pack that exists and that the index names.

What a backup or a prune decides between two calls is a choice of the model wherever the rules leave it open (which pack
to condemn, whether to go on at all), so that all programs which keep to the rules are covered, not only ours. Real code
runs in test_every_interleaving.py beside this; docs/concurrency.md has the rules in words.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_NOBODY: frozenset[str] = frozenset()
_MOST_PASSES = 3


class Flags(NamedTuple):
    """Who condemned a pack, and who doomed it."""

    condemned: frozenset[str] = _NOBODY
    doomed: frozenset[str] = _NOBODY


class Actor(NamedTuple):
    """Who it is, where it stands, and what it remembers."""

    kind: str
    name: str
    at: str
    memory: Any = None


class State(NamedTuple):
    """The storage and all actors."""

    packs: frozenset[str]
    named: tuple[tuple[str, Flags], ...]
    snapshots: frozenset[str]
    claims: frozenset[str]
    actors: tuple[Actor, ...]

    def is_safe(self) -> bool:
        """Whether x is there for every snapshot."""
        return not self.snapshots or any(pack in self.packs for pack, _ in self.named)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is done; each rule can be left out, and then something is lost in some order.

    `crashes` lets backups and prunes die after any call.
    """

    writes_claim: bool = True
    claims_before_snapshots: bool = True
    looks_at_index_again: bool = True
    takes_back_only_its_own_doom: bool = True
    crashes: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many states there are, and the way to one that is not safe."""

    states: int
    way: tuple[State, ...] = ()


def forget() -> Actor:
    """Removes the first snapshot."""
    return Actor("forget", "", "begin")


def backup(name: str) -> Actor:
    """Makes a snapshot that needs x."""
    return Actor("backup", name, "read", 0)


def prune(name: str) -> Actor:
    """Condemns, dooms and deletes what it can."""
    return Actor("prune", name, "claims")


def explore(packs: Iterable[str], actors: Iterable[Actor], rules: Rules, *, most_states: int = 4_000_000) -> Outcome:
    """Every order. Raises AssertionError when there are too many states."""
    packs = frozenset(packs)
    index = {pack: Flags() for pack in packs}
    begin = State(packs, _frozen(index), frozenset({"first"}), frozenset(), tuple(actors))
    came_from: dict[State, State | None] = {begin: None}
    todo = deque([begin])
    while todo:
        state = todo.popleft()
        if not state.is_safe():
            return Outcome(len(came_from), tuple(_way_to(state, came_from)))
        for following in _steps(state, rules):
            if following not in came_from:
                came_from[following] = state
                todo.append(following)
        assert len(came_from) <= most_states
    return Outcome(len(came_from))


def _way_to(state: State, came_from: Mapping[State, State | None]) -> list[State]:
    way = []
    at: State | None = state
    while at is not None:
        way.append(at)
        at = came_from[at]
    return way[::-1]


def _frozen(index: Mapping[str, Flags]) -> tuple[tuple[str, Flags], ...]:
    return tuple(sorted(index.items(), key=lambda item: item[0]))


def _steps(state: State, rules: Rules) -> Iterator[State]:
    for number, actor in enumerate(state.actors):
        if actor.at == "done":
            continue
        move = _Move(state, number, actor, rules)
        if rules.crashes and actor.kind != "forget" and actor.at not in ("read", "claims"):
            yield move.to("done")
        yield from {"forget": move.forget, "backup": move.backup, "prune": move.prune}[actor.kind]()


class _Move:
    """What one actor can do next."""

    def __init__(self, state: State, number: int, actor: Actor, rules: Rules) -> None:
        self._state = state
        self._number = number
        self._actor = actor
        self._rules = rules
        self._index = dict(state.named)

    def to(
        self, at: str, memory: Any = None, *, flags: tuple[str, Flags | None] | None = None, **changes: Any
    ) -> State:
        """The state in which this actor stands `at` a step; `flags` are a pack's, None when it leaves the index."""
        actors = list(self._state.actors)
        actors[self._number] = self._actor._replace(at=at, memory=memory)
        if flags is not None:
            index = {**self._index}
            pack, new = flags
            if new is None:
                index.pop(pack, None)
            else:
                index[pack] = new
            changes["named"] = _frozen(index)
        return self._state._replace(actors=tuple(actors), **changes)

    def _live(self) -> list[str]:
        return [pack for pack, flags in self._index.items() if not flags.condemned and not flags.doomed]

    def _condemned(self) -> list[str]:
        return [pack for pack, flags in self._index.items() if flags.condemned and not flags.doomed]

    def _doomed(self) -> list[str]:
        return [pack for pack, flags in self._index.items() if flags.doomed]

    def forget(self) -> Iterator[State]:
        """One step of a forget."""
        yield self.to("done", snapshots=self._state.snapshots - {"first"})

    def backup(self) -> Iterator[State]:
        """One step of a backup: deduplicate against live packs, or store; claim, look, mend; snapshot; unclaim."""
        state, name, passes = self._state, self._actor.name, self._actor.memory
        at = self._actor.at
        if at == "read":
            yield self.to("claim" if self._live() else "save pack", passes)
        elif at == "save pack":
            yield self.to("save index", passes, packs=state.packs | {f"{name}{passes}"})
        elif at == "save index":
            known = name in state.claims
            yield self.to("look" if known else "claim", passes + 1, flags=(f"{name}{passes}", Flags()))
        elif at == "claim":
            yield self.to("look", passes, claims=state.claims | {name} if self._rules.writes_claim else state.claims)
        elif at == "look":
            if self._live() or self._condemned():
                yield self.to("snapshot", passes)
            elif passes < _MOST_PASSES:
                yield self.to("save pack", passes)
        elif at == "snapshot":
            yield self.to("unclaim", passes, snapshots=state.snapshots | {name})
        elif at == "unclaim":
            yield self.to("done", claims=state.claims - {name})

    def prune(self) -> Iterator[State]:
        """One step of a prune: mark, condemn, mark, doom, look, delete; or take back, or copy what only it can save."""
        at, memory = self._actor.at, self._actor.memory
        state = self._state
        roots = (state.claims, state.snapshots)
        first, second = roots if self._rules.claims_before_snapshots else roots[::-1]
        if at in ("claims", "claims again", "claims at last"):
            pack = memory
            yield self.to(at.replace("claims", "snapshots"), (pack, bool(first)))
        elif at in ("snapshots", "snapshots again", "snapshots at last"):
            pack, needed = memory
            yield self.to(at.replace("snapshots", "decide"), (pack, needed or bool(second)))
        elif at == "decide":
            yield from self._decide(needed=memory[1])
        elif at == "decide again":
            yield self._decide_again(*memory)
        elif at == "decide at last":
            yield self._decide_at_last(*memory)
        else:
            yield self._act(at, memory)

    def _decide(self, *, needed: bool) -> Iterator[State]:
        """After the first look. A prune may also leave it at that."""
        live, condemned, doomed = self._live(), self._condemned(), self._doomed()
        yield self.to("done")
        if needed and not live:
            yield from (self.to("revive", (pack, self._index[pack].condemned)) for pack in condemned)
            if not condemned:
                yield from (self.to("copy", pack) for pack in doomed)
            return
        if not needed or len(live) > 1:
            yield from (self.to(step, pack) for pack in live for step in ("condemn", "doom"))
        yield from (self.to("claims again", pack) for pack in condemned)
        yield from (self.to("doom", pack) for pack in doomed)  # another's, who may be dead

    def _decide_again(self, pack: str, needed: bool) -> State:
        if pack not in self._condemned():
            return self.to("done")
        if needed and not set(self._live()) - {pack}:
            return self.to("revive", (pack, self._index[pack].condemned))
        return self.to("doom", pack)

    def _decide_at_last(self, pack: str, needed: bool) -> State:
        others = set(self._live()) - {pack} if self._rules.looks_at_index_again else {"any"}
        return self.to("undoom" if needed and not others else "delete", pack)

    def _act(self, at: str, memory: Any) -> State:
        state, name = self._state, self._actor.name
        if at == "copy":
            if memory not in state.packs:
                return self.to("done")
            return self.to("index copy", packs=state.packs | {f"{name}copy"})
        if at == "index copy":
            return self.to("done", flags=(f"{name}copy", Flags()))
        if at == "revive":
            pack, seen = memory
            return self.to("done", flags=self._changed(pack, condemned=lambda by: by - seen))
        if at == "condemn":
            return self.to("claims again", memory, flags=self._changed(memory, condemned=lambda by: by | {name}))
        if at == "doom":
            return self.to("claims at last", memory, flags=self._changed(memory, doomed=lambda by: by | {name}))
        if at == "undoom":
            own = self._rules.takes_back_only_its_own_doom
            return self.to("done", flags=self._changed(memory, doomed=lambda by: by - {name} if own else _NOBODY))
        if at == "delete":
            return self.to("forget pack", memory, packs=state.packs - {memory})
        if at == "forget pack":
            return self.to("done", flags=(memory, None))
        raise AssertionError(at)

    def _changed(self, pack: str, **changes: Any) -> tuple[str, Flags | None]:
        """A pack's flags after a record of this actor was added; there is nothing to say of one that is gone."""
        flags = self._index.get(pack)
        if flags is None:
            return pack, None
        return pack, flags._replace(**{kind: change(getattr(flags, kind)) for kind, change in changes.items()})
