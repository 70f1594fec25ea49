"""Showing how far long work is: a block at the bottom of a terminal, a line a minute in a log, status lines in JSON.

A thread of its own reads the counters; the work never waits for the display.
"""

from __future__ import annotations

import queue
import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal

from bfrepo.core.clock import Clock
from bfrepo.core.progress import Change, Progress
from bfrepo.core.units import format_count, format_duration, format_size
from cli.output import Output, path_fields
from cli.render import cut, shown

_TERMINAL_S: Final = 0.1
_JSON_S: Final = 1.0
_LOG_S: Final = 60.0
_SPEED_WINDOW_S: Final = 5.0

_Wake = Literal["stop", "now"] | tuple[Literal["announce"], str]

_UNTOUCHED: Final = ("unmodified", "unchanged")


class Display:
    """A reporter (see bfrepo.core.progress.Reporter) that shows what it is told. Its methods are for any thread."""

    def __init__(self, output: Output, clock: Clock, *, unit: str, shows_progress: bool) -> None:
        self.progress = Progress()
        self.wants_items = output.verbosity > 0
        self._output = output
        self._unit = unit
        self._clock = clock
        self._started = clock.monotonic()
        self._samples: deque[tuple[float, int]] = deque([(self._started, 0)])
        self._terminal = shows_progress and not output.as_json and sys.stderr.isatty()
        self._interval = _interval(output, shows_progress=shows_progress, terminal=self._terminal)
        self._wakes: queue.SimpleQueue[_Wake] = queue.SimpleQueue()  # the one queue that a signal handler may use
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    @property
    def wants_totals(self) -> bool:
        """Whether it is worth finding out how much there is to do."""
        return self._terminal or (self._output.as_json and self._interval is not None)

    def start(self) -> None:
        """Begin to show."""
        self._ticker.start()

    def stop(self) -> None:
        """End showing, and leave the terminal clean."""
        self._wakes.put("stop")
        self._ticker.join()
        if self._terminal:
            self._output.draw_status([])

    def show_now(self) -> None:
        """Show a line of progress at once, whatever is shown otherwise. Safe in a signal handler."""
        self._wakes.put("now")

    def announce(self, line: str) -> None:
        """Say something to whoever looks on. Safe in a signal handler."""
        self._wakes.put(("announce", line))

    def item(self, path: bytes, change: Change, size: int) -> None:
        """See Reporter. -v lists what was done, -vv also what was left as it is."""
        if change in _UNTOUCHED and self._output.verbosity < 2:
            return
        if self._output.as_json:
            self._output.line("item", {**path_fields(path), "change": change, "size": size})
        else:
            suffix = f", {format_size(size)}" if size else ""
            self._output.say(f"{change:<10} {shown(path)}{suffix}")

    def warn(self, path: bytes, message: str) -> None:
        """See Reporter."""
        self._output.notice("warning", path, message)

    def problem(self, path: bytes, message: str) -> None:
        """See Reporter."""
        self.progress.errors += 1
        self._output.notice("error", path, message)

    def _tick(self) -> None:
        while True:
            wake: _Wake | None = None
            try:
                wake = self._wakes.get(timeout=self._interval)
            except queue.Empty:
                self._sample()
            if wake == "stop":
                return
            if isinstance(wake, tuple):
                self._output.remark(wake[1])
            elif self._output.as_json:
                self._output.line("status", self._status())
            elif wake == "now" or not self._terminal:
                self._output.urgent(self._summary_line())
            else:
                self._output.draw_status(self._block())

    def _sample(self) -> None:
        now = self._clock.monotonic()
        self._samples.append((now, self.progress.bytes_done))
        while len(self._samples) > 2 and self._samples[0][0] < now - _SPEED_WINDOW_S:
            self._samples.popleft()

    def _speed(self) -> float:
        """Bytes per second of late."""
        then, before = self._samples[0]
        elapsed = self._clock.monotonic() - then
        return (self.progress.bytes_done - before) / elapsed if elapsed > 0 else 0.0

    def _remaining(self) -> float | None:
        """Seconds to go, by the speed since the start."""
        progress, elapsed = self.progress, self._clock.monotonic() - self._started
        if not progress.bytes_total or not progress.bytes_done:
            return None
        return max(progress.bytes_total - progress.bytes_done, 0) * elapsed / progress.bytes_done

    def _summary_line(self) -> str:
        progress = self.progress
        parts = [f"[{format_duration(self._clock.monotonic() - self._started)}]"]
        if progress.bytes_total:
            parts.append(f"{min(100 * progress.bytes_done / progress.bytes_total, 100):.0f}%")
        parts.append(_of(format_count(progress.files_done), progress.files_total, format_count, f" {self._unit}"))
        parts.append(_of(format_size(progress.bytes_done), progress.bytes_total, format_size, ""))
        parts.append(f"{format_size(self._speed())}/s")
        remaining = self._remaining()
        if remaining is not None:
            parts.append(f"ETA {_whole_seconds(remaining)}")
        if progress.errors:
            parts.append(f"{format_count(progress.errors)} errors")
        return "  ".join(parts)

    def _block(self) -> list[str]:
        width = max(shutil.get_terminal_size().columns - 1, 20)
        lines = [self._summary_line()[:width]]
        if self.progress.current:
            lines.append(cut(shown(self.progress.current), width))
        return lines

    def _status(self) -> dict[str, Any]:
        progress = self.progress
        remaining = self._remaining()
        return {
            "seconds_elapsed": round(self._clock.monotonic() - self._started, 1),
            **({} if remaining is None else {"seconds_remaining": round(remaining, 1)}),
            **({"percent_done": min(progress.bytes_done / progress.bytes_total, 1)} if progress.bytes_total else {}),
            **({} if progress.files_total is None else {"total_files": progress.files_total}),
            **({} if progress.bytes_total is None else {"total_bytes": progress.bytes_total}),
            "files_done": progress.files_done,
            "bytes_done": progress.bytes_done,
            "error_count": progress.errors,
            **(path_fields(progress.current, "current_file") if progress.current else {}),
        }


def _interval(output: Output, *, shows_progress: bool, terminal: bool) -> float | None:
    """Seconds between two looks at the counters; None for never, unless somebody asks."""
    if not shows_progress or (output.as_json and not output.streaming):
        return None
    return _JSON_S if output.as_json else _TERMINAL_S if terminal else _LOG_S


def _whole_seconds(seconds: float) -> str:
    """An estimate is not good to the tenth of a second."""
    return format_duration(seconds) if seconds >= 60 else f"{round(seconds)} s"


def _of(done: str, total: int | None, form: Callable[[int], str], unit: str) -> str:
    return f"{done}{unit}" if total is None else f"{done} / {form(total)}{unit}"
