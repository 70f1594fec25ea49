"""Where words go: results to stdout, remarks and errors to stderr, and with --json nothing but JSON to stdout."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from bfrepo.core.errors import BackupForgeError
from bfrepo.core.names import shown_name, unshown_base64
from cli.log import LogFile
from cli.render import Style, shown, style_for

Notice = Literal["warning", "error"]

_LABELS: Final = {"warning": "warning:", "error": "error:"}


class Output:
    """Writes whole lines, from any thread.

    With --json, `document` writes the one document of a command; a command that works for long sets `streaming` and
    writes lines instead. With `outlives_readers` work goes on when nobody reads any more what is said about it;
    otherwise that is a BrokenPipeError. Remarks, warnings, errors and summaries go to the log as well, if there is one.
    """

    def __init__(self, *, as_json: bool, quiet: bool, verbosity: int, log: LogFile | None = None) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbosity = verbosity
        self.streaming = False
        self.outlives_readers = False
        self.style: Style = style_for(sys.stdout)
        self.error_style: Style = style_for(sys.stderr)
        self._log = log
        self._lock = threading.Lock()
        self._status_lines = 0

    def result(self, lines: str | Iterable[str]) -> None:
        """What the command was asked for, as text."""
        if not self.as_json:
            self._write(sys.stdout, f"{lines}\n" if isinstance(lines, str) else "".join(f"{line}\n" for line in lines))

    def raw(self, text: str) -> None:
        """Lines that are made ready already, in whatever format was asked for."""
        self._write(sys.stdout, text)

    def say(self, line: str = "") -> None:
        """What is good to know, unless --quiet."""
        if line:
            self.record("info", line)
        if not self.quiet:
            self.result(line)

    def remark(self, line: str) -> None:
        """What is good to know but no part of the result, to stderr, unless --quiet or --json."""
        self.record("info", line)
        if not (self.quiet or self.as_json):
            self._write(sys.stderr, f"{line}\n")

    def urgent(self, line: str) -> None:
        """What somebody asked to see right now: to stderr, also with --quiet."""
        self.record("info", line)
        self._write(sys.stderr, f"{line}\n")

    def complain(self, lines: Iterable[str]) -> None:
        """What is wrong, in several lines, to stderr, also with --quiet."""
        if not self.as_json:
            text = "".join(f"{line}\n" for line in lines)
            self._write(sys.stderr, text)
            for line in text.splitlines():
                self.record("error", line)

    def document(self, content: Any) -> None:
        """The one JSON document of a command that ends at once."""
        if self.as_json:
            self._write(sys.stdout, json.dumps(content, indent=2) + "\n")

    def line(self, message_type: str, fields: Mapping[str, Any]) -> None:
        """One JSON line of a command that works for a while."""
        if self.as_json:
            if message_type not in ("item", "status"):
                self.record("error" if message_type == "error" else "info", "", fields)
            self._write(sys.stdout, json_line({"message_type": message_type, **fields}))

    def notice(self, kind: Notice, path: bytes, message: str) -> None:
        """Something about one item, also with --quiet."""
        what = f"{shown(path)}: {shown(message)}" if path else shown(message)
        self.record(kind, what)
        if self.as_json:
            text = json_line({"message_type": kind, **(path_fields(path) if path else {}), "message": message})
            self._write(sys.stdout if self.streaming else sys.stderr, text)
            return
        style = self.error_style
        label = style.yellow(_LABELS[kind]) if kind == "warning" else style.red(_LABELS[kind])
        self._write(sys.stderr, f"{label} {what}\n")

    def record(self, level: str, message: str, fields: Mapping[str, Any] | None = None) -> None:
        """A line in the log and nowhere else. A log that cannot be written is given up: the work is worth more."""
        log = self._log
        if log is None:
            return
        try:
            log.write(level, message, fields)
        except BackupForgeError as error:
            self._log = None
            self.notice("warning", b"", f"{error}: from here on nothing is logged")

    def draw_status(self, lines: Sequence[str]) -> None:
        """Put the status block below everything on the terminal; whatever is written next takes its place."""
        with self._lock:
            sys.stderr.write(self._erasure() + "\n".join(lines))
            sys.stderr.flush()
            self._status_lines = len(lines)

    def _write(self, stream: Any, text: str) -> None:
        with self._lock:
            try:
                if self._status_lines:
                    sys.stderr.write(self._erasure())
                    sys.stderr.flush()
                stream.write(text)
                stream.flush()
            except BrokenPipeError:
                if not self.outlives_readers:
                    raise
                _silence(stream)

    def _erasure(self) -> str:
        """What takes the status block off the terminal: up to its first line, then all from there on."""
        up = self._status_lines - 1
        erasure = ("\r" + (f"\x1b[{up}A" if up > 0 else "") + "\x1b[J") if self._status_lines else ""
        self._status_lines = 0
        return erasure


def _silence(stream: Any) -> None:
    """Let what is written from now on, and what is left in the buffer, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def json_line(content: Mapping[str, Any]) -> str:
    """A JSON object on a line. Pure ASCII: no locale can break it, and no terminal acts on what is in it."""
    return json.dumps(content, separators=(",", ":")) + "\n"


def path_fields(path: bytes, key: str = "path") -> dict[str, str]:
    """A raw path as JSON can have it: a string, and base64 of the bytes beside it where they are not UTF-8."""
    text, raw = shown_name(path), unshown_base64(path)
    return {key: text} if raw is None else {key: text, f"{key}_raw": raw}
