"""So many bytes a second, measured by a clock that goes on only while somebody waits."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfrepo.core.errors import Interrupted
from bfrepo.storage.limit import Bucket, LimitedBackend, Limits
from bfrepo.storage.memory import MemoryBackend
from bfrepo.storage.pausing import Pausing
from tests.storage.conformance import PACK, BackendConformance, Place, stored, uploaded
from tests.support.repositories import FakeClock

MIB = 1 << 20


def pausing_of(clock: FakeClock) -> Pausing:
    """Waiting that moves the clock."""
    return Pausing(clock=clock, sleep=clock.advance)


class TestLimitedBackend(BackendConformance):
    """A storage that does what it should does so behind limits."""

    @pytest.fixture
    def place(self) -> Place:
        memory, limits = MemoryBackend(), Limits(MIB, MIB, pausing_of(FakeClock()))
        return Place(open=lambda: LimitedBackend(memory, limits))


@pytest.fixture
def clock() -> FakeClock:
    """A clock that goes on only while somebody waits."""
    return FakeClock()


@pytest.fixture
def limited(clock: FakeClock) -> LimitedBackend:
    """1 MiB a second up, 4 MiB a second down."""
    return LimitedBackend(MemoryBackend(), Limits(MIB, 4 * MIB, pausing_of(clock)))


def test_uploads_take_their_time(clock: FakeClock, limited: LimitedBackend) -> None:
    """Bytes that are sent take the time that the rate gives them, but for one second's worth that was unused."""
    uploaded(limited, PACK, bytes(8 * MIB))
    assert clock.seconds == pytest.approx(7)
    stored(limited, PACK, bytes(3 * MIB))
    assert clock.seconds == pytest.approx(10)


def test_downloads_take_their_time(clock: FakeClock, limited: LimitedBackend) -> None:
    """Bytes that arrive take the time that their own rate gives them, however they are read."""
    name = stored(limited, PACK, bytes(8 * MIB))
    clock.advance(10)
    begun = clock.seconds
    limited.load(PACK, name)
    limited.read(PACK, name, 0, 4 * MIB)
    limited.read_into(PACK, name, 4 * MIB, memoryview(bytearray(4 * MIB)))
    assert clock.seconds - begun == pytest.approx(3)


def test_pieces_are_small(clock: FakeClock) -> None:
    """A large write goes in pieces that each take a quarter of a second at most, so that the line is used evenly."""
    sizes: list[tuple[float, int]] = []

    class Notes(MemoryBackend):
        def upload(self, kind, *, cold=False):  # type: ignore[no-untyped-def]
            upload = super().upload(kind)

            class Noted:
                def write(self, data: memoryview) -> None:
                    sizes.append((clock.seconds, len(data)))
                    upload.write(data)

                commit, abort = upload.commit, upload.abort

            return Noted()

    backend = LimitedBackend(Notes(), Limits(100_000, None, pausing_of(clock)))
    uploaded(backend, PACK, bytes(1_000_000))
    assert max(size for _, size in sizes) == 25_000
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(sizes)]
    assert max(gaps) == pytest.approx(0.25)


def test_no_limit_takes_no_time(clock: FakeClock) -> None:
    """Each direction has a limit of its own, or none."""
    limited = LimitedBackend(MemoryBackend(), Limits(None, 1, pausing_of(clock)))
    name = uploaded(limited, PACK, bytes(MIB))
    stored(limited, PACK, bytes(100))
    assert clock.seconds == 0
    limited.read(PACK, name, 0, 11)
    assert clock.seconds == pytest.approx(10)


def test_storages_share_the_limits(clock: FakeClock) -> None:
    """Two storages that are opened with the same limits have the rate together, as two ends of a copy do."""
    limits = Limits(MIB, None, pausing_of(clock))
    for backend in (LimitedBackend(MemoryBackend(), limits), LimitedBackend(MemoryBackend(), limits)):
        uploaded(backend, PACK, bytes(4 * MIB))
    assert clock.seconds == pytest.approx(7)


@settings(max_examples=200)
@given(
    rate=st.integers(1, 10**9),
    steps=st.lists(st.tuples(st.floats(0, 100), st.integers(0, 10**8)), min_size=1, max_size=20),
)
def test_the_rate_holds(rate: int, steps: list[tuple[float, int]]) -> None:
    """However bytes and pauses follow each other, no more passes from any moment on than the rate allows."""
    clock = FakeClock()
    # A sleep of any length is one step here: the limit must not depend on how finely a wait is cut.
    bucket = Bucket(rate, Pausing(clock=clock, sleep=lambda seconds: clock.advance(max(seconds, 0.1))))
    passed: list[tuple[float, int]] = []
    for pause, size in steps[:6]:
        clock.advance(pause)
        begun = clock.seconds
        bucket.take(min(size, 20 * rate))
        passed.append((begun, min(size, 20 * rate)))
    for first in range(len(passed)):
        taken = sum(size for _, size in passed[first:])
        assert taken <= rate * (clock.seconds - passed[first][0] + 1.001) + 1


def test_threads_share_the_rate() -> None:
    """Many threads at once get the rate together, not each."""
    clock, lock, waited = FakeClock(), threading.Lock(), []

    class Standing:
        """Time that does not move: what a thread would have to wait is only noted."""

        def wait(self, seconds: float, reason: str) -> None:
            with lock:
                waited.append(seconds)

        def now(self) -> float:
            return clock.seconds

    bucket = Bucket(1000, Standing())  # type: ignore[arg-type]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: bucket.take(500), range(40)))
    assert sorted(waited) == pytest.approx([0.5 * number for number in range(1, 39)])


def test_waiting_ends_when_the_user_wants(clock: FakeClock) -> None:
    """Who asks to stop does not wait for bandwidth."""
    pausing = Pausing(clock=clock, sleep=clock.advance, cancelled=lambda: clock.seconds > 2)
    limited = LimitedBackend(MemoryBackend(), Limits(1, None, pausing))
    with pytest.raises(Interrupted, match="limited"):
        stored(limited, PACK, bytes(1000))
    assert clock.seconds < 2.3
