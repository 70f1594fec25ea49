"""Every interleaving of the storage calls of several real programs, explored without running each of them anew.

A program that only depends on the answers of its storage is a tree: which call it makes next follows from the answers
it got so far. That tree is learned by running the real code, in a thread that stops at each call, and only once for
each history of answers. A situation is then a handful of numbers (which objects exist, and where in its tree each
program stands), so that millions of situations can be looked at where running each order would take days. If a program
ever makes another call after the same answers, NotRepeatable says so.

What is covered: a call happens at once, and calls happen in any order that each program for itself would make them in.
With `reads_wait` a deletion can also come between listing an object and reading it, or between two reads; without it a
program reads what it has just listed before anybody else has a turn. With `slow_listings` a listing takes a while, and
shows or does not show, in every combination, what is written or deleted meanwhile: that is all that storage/base.py
promises of one. With `crashes` every program may also die after each change that it made. Situations that are equal for
all that follows are explored once: the same objects, and every program with the same history. Nothing is left out
beyond that, unless `most_preemptions` bounds how often a program that could go on has to wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

from bfrepo.core.errors import StorageObjectMissing
from bfrepo.core.protocols import Buffer
from bfrepo.storage.base import ObjectInfo, ObjectKind, Upload
from bfrepo.storage.layout import describe
from bfrepo.storage.memory import MemoryBackend
from tests.support.scheduler import Abandoned, Actor, Program, belongs_to

Verb: TypeAlias = Literal["begin", "list", "look", "save", "delete"]

_MOST_PAUSED = 64
"""Runs of programs that are kept at their last call, to go on from there and not from the beginning."""


class NotRepeatable(AssertionError):
    """A program made another call than before after the same answers: nothing can be learned of it."""


class Call(NamedTuple):
    """What a program asks of its storage: of a kind (its number) when it lists, else of an object (its number)."""

    verb: Verb
    subject: int


class Objects:
    """Every object that any program has ever written, by a number that is also its bit in a set of objects."""

    def __init__(self) -> None:
        self.names: list[tuple[ObjectKind, str]] = []
        self.data: list[bytes | None] = []
        self.masks = dict.fromkeys(ObjectKind, 0)
        self._numbers: dict[tuple[ObjectKind, str], int] = {}

    def number(self, kind: ObjectKind, name: str) -> int:
        """The number of an object, whether or not it was ever written."""
        known = self._numbers.get((kind, name))
        if known is None:
            known = self._numbers[kind, name] = len(self.names)
            self.names.append((kind, name))
            self.data.append(None)
            self.masks[kind] |= 1 << known
        return known

    def add(self, kind: ObjectKind, name: str, data: bytes) -> int:
        """The number of an object that is being written."""
        number = self.number(kind, name)
        if self.data[number] is None:
            self.data[number] = data
        return number

    def content(self, number: int) -> bytes:
        """The bytes of an object that was written."""
        data = self.data[number]
        if data is None:
            raise AssertionError(f"{self.names[number]} was never written")
        return data

    def among(self, present: int, kind: ObjectKind) -> Iterator[int]:
        """The objects of one kind out of a set."""
        return bits(present & self.masks[kind])

    def disk(self, present: int) -> MemoryBackend:
        """A storage with the objects of a set."""
        backend = MemoryBackend()
        for number in bits(present):
            kind, name = self.names[number]
            backend.save(kind, name, self.content(number))
        return backend

    def everything(self) -> MemoryBackend:
        """A storage with all that ever was."""
        return self.disk(sum(1 << number for number, data in enumerate(self.data) if data is not None))


def bits(mask: int) -> Iterator[int]:
    """The numbers in a set of numbers."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


@dataclass(slots=True)
class _Place:
    """Where in its tree a program stands: about to make `call`, or at its end. `after` leads on by answer."""

    number: int
    call: Call | None
    above: _Place | None = None
    answer: int = 0
    after: dict[int, int] = field(default_factory=dict)
    changed: bool = False
    error: BaseException | None = None


class Learned:
    """One program as a tree of calls and answers. An answer is the set of objects that are listed, or whether one is
    there.
    """

    def __init__(self, name: str, program: Program, objects: Objects) -> None:
        self.name = name
        self.places: list[_Place] = [_Place(0, Call("begin", 0))]
        self.runs = 0
        self._program = program
        self._objects = objects
        self._paused: dict[int, _Session] = {}

    def next(self, at: int, answer: int) -> int:
        """Where the program stands after an answer."""
        place = self.places[at]
        known = place.after.get(answer)
        return self._learn(place, answer) if known is None else known

    def errors(self) -> list[BaseException]:
        """What the program raised at any of its ends."""
        return [place.error for place in self.places if place.error is not None]

    def close(self) -> None:
        """End the runs that are kept."""
        while self._paused:
            self._paused.popitem()[1].abandon()

    def _learn(self, place: _Place, answer: int) -> int:
        session = self._paused.pop(place.number, None) or self._replay(place)
        call, error = session.answer(answer)
        new = _Place(len(self.places), call, place, answer, error=error)
        new.changed = place.call is not None and place.call.verb in ("save", "delete")
        self.places.append(new)
        place.after[answer] = new.number
        if call is not None:
            self._paused[new.number] = session
            if len(self._paused) > _MOST_PAUSED:
                self._paused.pop(next(iter(self._paused))).abandon()
        return new.number

    def _replay(self, place: _Place) -> _Session:
        """The program run from its beginning to a place it was at before."""
        path: list[_Place] = []
        at: _Place | None = place
        while at is not None:
            path.append(at)
            at = at.above
        path.reverse()
        self.runs += 1
        session = _Session(self.name, self._program, self._objects)
        for before, after in pairwise(path):
            call, _ = session.answer(after.answer)
            if call != after.call:
                raise NotRepeatable(f"{self.name}: {call} in place of {after.call} after {before.call}")
        return session


class _Session:
    """One run of a program, that waits for an answer at each of its calls."""

    def __init__(self, name: str, program: Program, objects: Objects) -> None:
        self._actor = Actor(name, program)
        self._objects = objects
        self._one_call = threading.Lock()
        self._asked = threading.Semaphore(0)
        self._answered = threading.Semaphore(0)
        self._call: Call | None = Call("begin", 0)
        self._answer = 0
        self._abandoned = False
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        belongs_to(self._thread, self._actor)
        self._thread.start()
        self._asked.acquire()

    def answer(self, answer: int) -> tuple[Call | None, BaseException | None]:
        """Answer the call that is waited at: the next one, or None and what the program raised."""
        self._answer = answer
        self._answered.release()
        self._asked.acquire()
        return self._call, self._actor.error

    def abandon(self) -> None:
        """End the run where it is."""
        self._abandoned = True
        self._answered.release()
        self._thread.join()

    def ask(self, call: Call) -> int:
        """Wait for the answer to a call. Called by the program's threads."""
        with self._one_call:
            if self._abandoned:
                raise Abandoned
            self._call = call
            self._asked.release()
            self._answered.acquire()
            if self._abandoned:
                raise Abandoned
            return self._answer

    def _live(self) -> None:
        try:
            self.ask(Call("begin", 0))
            self._actor.program(_LearningBackend(self, self._objects))
        except Abandoned:
            pass
        except BaseException as error:
            self._actor.error = error
        finally:
            belongs_to(threading.current_thread(), None)
            self._call = None
            self._asked.release()


class _LearningBackend:
    """A program's way to the storage. Any of its threads may call, one after the other."""

    connections = 1
    location = "memory:"

    def __init__(self, session: _Session, objects: Objects) -> None:
        self._session = session
        self._objects = objects

    def create(self) -> None:
        raise AssertionError("a repository that is explored exists already")

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        answer = self._session.ask(Call("list", KINDS.index(kind)))
        objects = self._objects
        found = [ObjectInfo(objects.names[each][1], len(objects.content(each))) for each in bits(answer)]
        return iter(sorted(found, key=lambda info: info.name))

    def size(self, kind: ObjectKind, name: str) -> int:
        return len(self.load(kind, name))

    def load(self, kind: ObjectKind, name: str) -> bytes:
        number = self._objects.number(kind, name)
        if not self._session.ask(Call("look", number)):
            raise StorageObjectMissing(f"{describe(kind, name)} is missing")
        return self._objects.content(number)

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        return self.load(kind, name)[offset : offset + length]

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        buffer.cast("B")[:] = self.load(kind, name)[offset : offset + buffer.nbytes]

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        self._session.ask(Call("save", self._objects.add(kind, name, bytes(data))))

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        return _Collected(self, kind)

    def delete(self, kind: ObjectKind, name: str) -> None:
        self._session.ask(Call("delete", self._objects.number(kind, name)))

    def close(self) -> None:
        """The objects stay."""


class _Collected:
    """An upload: nothing of it is seen before its end."""

    def __init__(self, backend: _LearningBackend, kind: ObjectKind) -> None:
        self._backend, self._kind, self._data = backend, kind, bytearray()

    def write(self, data: Buffer) -> None:
        self._data += data

    def commit(self, name: str) -> None:
        self._backend.save(self._kind, name, self._data)

    def abort(self) -> None:
        self._data.clear()


KINDS = tuple(ObjectKind)

_ENDED = -1
"""The place of a program that has ended or died: nothing that follows depends on how."""


class Situation(NamedTuple):
    """Which objects exist, where each program stands, whose turn it was last, and how often one that could go on had
    to wait. `listings` are those that have begun, by program: what one shows in any case, and what it may show.
    """

    present: int
    places: tuple[int, ...]
    last: int
    preemptions: int
    listings: tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Explored:
    """How much was looked at: situations, ends, calls of real code; and the order that went wrong, if one did."""

    situations: int
    ends: int
    runs: int
    calls: int
    wrong: str = ""
    steps: tuple[str, ...] = ()
    complete: bool = True


class Explorer:
    """Explores what several programs can do to one storage."""

    def __init__(
        self,
        disk: MemoryBackend,
        programs: Mapping[str, Program],
        *,
        reads_wait: bool = False,
        crashes: bool = False,
        slow_listings: bool = False,
        most_preemptions: int | None = None,
    ) -> None:
        self.objects = Objects()
        self.first = 0
        for kind in KINDS:
            for info in sorted(disk.list(kind), key=lambda info: info.name):
                self.first |= 1 << self.objects.add(kind, info.name, disk.load(kind, info.name))
        self.programs = [Learned(name, program, self.objects) for name, program in programs.items()]
        self._reads_wait = reads_wait
        self._crashes = crashes
        self._slow_listings = slow_listings
        self._most_preemptions = most_preemptions

    def run(self, judge: Callable[[int], str], judge_end: Callable[[int], str], *, most_situations: int) -> Explored:
        """Look at every situation: `judge` is told which objects exist, `judge_end` the same when all have ended.

        Both give what is wrong, or nothing. Stops at the first that is wrong, and when there are too many situations.
        """
        try:
            return self._search(judge, judge_end, most_situations)
        finally:
            for program in self.programs:
                program.close()

    def _search(self, judge: Callable[[int], str], judge_end: Callable[[int], str], most: int) -> Explored:
        count = len(self.programs)
        begin = Situation(self.first, (0,) * count, -1, 0, (None,) * count)
        # Hashes in place of situations: of ten million, two share one with a probability of 1 in 300,000.
        seen = {hash(begin)}
        path = [(begin, "", self._successors(begin))]
        ends = 0
        while path:
            _, _, successors = path[-1]
            step = next(successors, None)
            if step is None:
                path.pop()
                continue
            what, situation = step
            key = hash(situation)
            if key in seen:
                continue
            seen.add(key)
            over = all(place == _ENDED for place in situation.places)
            ends += over
            wrong = judge_end(situation.present) if over else judge(situation.present)
            path.append((situation, what, self._successors(situation)))
            if wrong or len(seen) >= most:
                steps = tuple(what for _, what, _ in path[1:])
                return self._explored(len(seen), ends, wrong, steps, complete=False)
        return self._explored(len(seen), ends, "", (), complete=True)

    def _explored(self, situations: int, ends: int, wrong: str, steps: tuple[str, ...], *, complete: bool) -> Explored:
        runs = sum(program.runs for program in self.programs)
        calls = sum(len(program.places) for program in self.programs)
        return Explored(situations, ends, runs, calls, wrong, steps, complete)

    def _successors(self, situation: Situation) -> Iterator[tuple[str, Situation]]:
        _, places, last, preemptions, _ = situation
        may_go_on = last >= 0 and places[last] != _ENDED
        for number, program in enumerate(self.programs):
            if places[number] == _ENDED:
                continue
            if self._most_preemptions is not None:
                waited = preemptions + (may_go_on and number != last)
                if waited > self._most_preemptions:
                    continue
                situation = situation._replace(last=number, preemptions=waited)
            place = program.places[places[number]]
            if self._crashes and place.changed:
                yield f"{program.name}: dies", _moved(situation, number, _ENDED)
            yield from self._steps(situation, number, place)

    def _steps(self, situation: Situation, number: int, place: _Place) -> Iterator[tuple[str, Situation]]:
        """What a program's next call can lead to."""
        program = self.programs[number]
        told = self._tell(program, place)
        verb, subject = place.call or Call("begin", 0)
        if verb != "list" or not self._slow_listings:
            situation, at = self._make(situation, program, place)
            yield told, self._read_on(situation, number, at)
            return
        mask = self.objects.masks[KINDS[subject]]
        begun = situation.listings[number]
        if begun is None:
            shown = situation.present & mask
            yield f"{told}, begins", _listing(situation, number, (shown, shown))
            return
        certain, possible = begun[0] & mask, begun[1] & mask
        ended = _listing(situation, number, None)
        for more in _subsets(possible & ~certain):
            at = self._go_on(program, place, certain | more)
            yield f"{told}: {(certain | more).bit_count()}", self._read_on(ended, number, at)

    def _read_on(self, situation: Situation, number: int, at: int) -> Situation:
        """What comes of it when the program also makes the reads that follow at once, unless those wait."""
        program = self.programs[number]
        while not self._reads_wait and at != _ENDED:
            place = program.places[at]
            if place.call is None or place.call.verb != "look":
                break
            situation, at = self._make(situation, program, place)
        return _moved(situation, number, at)

    def _make(self, situation: Situation, program: Learned, place: _Place) -> tuple[Situation, int]:
        """Make a call at once: the situation but for the program's place, and that place."""
        verb, subject = place.call or Call("begin", 0)
        answer, bit = 0, 1 << subject
        if verb == "list":
            answer = situation.present & self.objects.masks[KINDS[subject]]
        elif verb == "look":
            answer = situation.present >> subject & 1
        elif verb == "save":
            situation = _changed(situation, situation.present | bit, shown=0, possible=bit)
        elif verb == "delete":
            situation = _changed(situation, situation.present & ~bit, shown=bit, possible=0)
        return situation, self._go_on(program, place, answer)

    @staticmethod
    def _go_on(program: Learned, place: _Place, answer: int) -> int:
        at = program.next(place.number, answer)
        return _ENDED if program.places[at].call is None else at

    def _tell(self, program: Learned, place: _Place) -> str:
        call = place.call
        if call is None or call.verb == "begin":
            return f"{program.name}: begins"
        if call.verb == "list":
            return f"{program.name}: list {KINDS[call.subject].value}"
        kind, name = self.objects.names[call.subject]
        return f"{program.name}: {call.verb} {kind.value}/{name[:12]}"


def _moved(situation: Situation, number: int, at: int) -> Situation:
    places = situation.places
    return situation._replace(places=(*places[:number], at, *places[number + 1 :]))


def _listing(situation: Situation, number: int, listing: tuple[int, int] | None) -> Situation:
    listings = situation.listings
    return situation._replace(listings=(*listings[:number], listing, *listings[number + 1 :]))


def _changed(situation: Situation, present: int, *, shown: int, possible: int) -> Situation:
    """After a change, of which listings under way may or may not know: `shown` is no longer shown in any case."""
    listings = tuple(
        None if listing is None else (listing[0] & ~shown, listing[1] | possible) for listing in situation.listings
    )
    return situation._replace(present=present, listings=listings)


def _subsets(mask: int) -> Iterator[int]:
    """All sets of some of the members of a set."""
    subset = mask
    while True:
        yield subset
        if not subset:
            return
        subset = (subset - 1) & mask
