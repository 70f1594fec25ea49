"""How things look as text: names that cannot do harm, tables, colours, bars.

What comes from a repository or a file system may hold anything, escape codes included. It goes through `shown` before
it goes to a terminal, always.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, TextIO

from bfrepo.core.ids import short_id
from cli.settings import colours_wanted

_NAMED_ESCAPES: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\"}
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"


def shown(text: str | bytes) -> str:
    """The text on one line, as it is when it is harmless.

    Otherwise control characters, invalid bytes and whatever else is invisible become backslash escapes, and a
    backslash is doubled, so that different names never look the same.
    """
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    return text if text.isprintable() else "".join(map(_shown_character, text))


def _shown_character(character: str) -> str:
    if character in _NAMED_ESCAPES:
        return _NAMED_ESCAPES[character]
    if character.isprintable():
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode keeps it
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


class Style:
    """Colours, or none."""

    def __init__(self, *, coloured: bool) -> None:
        self._coloured = coloured

    def bold(self, text: str) -> str:
        """For headings."""
        return self._wrap("1", text)

    def dim(self, text: str) -> str:
        """For what is beside the point."""
        return self._wrap("2", text)

    def red(self, text: str) -> str:
        """For what went wrong."""
        return self._wrap("31;1", text)

    def yellow(self, text: str) -> str:
        """For what to look at."""
        return self._wrap("33;1", text)

    def green(self, text: str) -> str:
        """For what went well."""
        return self._wrap("32", text)

    def _wrap(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._coloured else text


def style_for(stream: TextIO) -> Style:
    """Colours on a terminal whose user did not ask for none (https://no-color.org)."""
    return Style(coloured=stream.isatty() and colours_wanted())


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], align: str, style: Style) -> list[str]:
    """Lines with aligned columns. `align` has a "<" or ">" for each; a cell may have several lines."""
    split = [[cell.split("\n") for cell in row] for row in rows]
    widths = [
        max([len(heading), *(len(line) for row in split for line in row[column])])
        for column, heading in enumerate(headings)
    ]
    lines = [style.bold(_line(headings, widths, align))]
    for row in split:
        height = max(map(len, row))
        lines += [_line([cell[at] if at < len(cell) else "" for cell in row], widths, align) for at in range(height)]
    return lines


def _line(cells: Sequence[str], widths: Sequence[int], align: str) -> str:
    return "  ".join(f"{cell:{side}{width}}" for cell, width, side in zip(cells, widths, align, strict=True)).rstrip()


def bar(part: float, whole: float, width: int) -> str:
    """A horizontal bar of at most `width` characters, drawn in eighths of one."""
    eighths = round(8 * width * part / whole) if whole else 0
    full, rest = divmod(eighths, 8)
    return _EIGHTHS[8] * full + (_EIGHTHS[rest] if rest else "")


def cut(text: str, width: int) -> str:
    """At most `width` characters, with an ellipsis in the middle of what is longer: a path's end says the most."""
    if len(text) <= width:
        return text
    if width < 3:
        return text[:width]
    head = (width - 1) // 3
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def local_time(when: datetime) -> str:
    """A time in this machine's zone, to the second."""
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}"


def short(identifier: bytes) -> str:
    """An ID as people see it, a dash for none."""
    return short_id(identifier) if identifier else "-"
