"""Patterns for names and paths: what `*`, `?`, `[...]`, `**`, `/` and `!` mean, for people who know them from restic
or git.

backupforge-exclude(7) states the rules for users. A pattern becomes a regular expression over text: names are decoded
from UTF-8, and every byte that is not UTF-8 becomes one character of its own (Python's "surrogateescape"), so `?` is
one character, whatever its length in bytes. The subject of a match is an absolute path, with a slash behind it when
it is a directory, or the last part of one.

A walk decides directory by directory, and so does git. Libraries that decide for a file by its whole path (pathspec)
take `foo/**` to fit foo itself, which is then never entered: that is why .gitignore is read here too.

The expressions cannot be made slow: after a `*` or a `**` the first place where the next piece fits is taken for good
(an atomic group), which is right because another star follows, and only the last piece is tried at every place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from bfrepo.core.errors import InvalidPattern

_CLASSES = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "blank": r" \t", "cntrl": r"\x00-\x1f\x7f", "digit": "0-9",
    "graph": "!-~", "lower": "a-z", "print": " -~", "punct": r"!-/:-@\[-`{-~", "space": r" \t-\r", "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}  # fmt: skip
"""POSIX character classes, as git knows them: ASCII only."""

_STAR = "*"


class _Fullmatch(Protocol):
    def __call__(self, text: str, /) -> object | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """One parsed pattern. `steps` are its parts between slashes as expressions, None for `**`."""

    steps: tuple[str | None, ...]
    anchored: bool
    """Whether it counts from the root; otherwise it fits at any depth."""
    negated: bool = False
    only_directories: bool = False
    ignore_case: bool = False

    @property
    def by_name(self) -> bool:
        """Whether the last part of a path decides alone."""
        return not self.anchored and len(self.steps) == 1 and self.steps[0] is not None

    def expression(self, *, below: bool) -> str:
        """For the whole subject: a path, or a name where `by_name` and not `below`. With `below` all that lies in it
        fits too.
        """
        body = (self.steps[0] or "") if self.by_name and not below else self._path_expression()
        if below:
            end = "/.*" if self.only_directories else "(?:/.*)?"
        else:
            end = "/" if self.only_directories else "/?"
        flags = "i" if self.ignore_case else ""
        return f"(?{flags}:{body}{end})"

    def leads_through(self, names: Sequence[str]) -> bool:
        """Whether something below the directory with this path, given as its parts, could fit."""
        if not self.anchored:
            return True
        flags = re.DOTALL | (re.IGNORECASE if self.ignore_case else 0)
        for step, name in zip(self.steps, names, strict=False):
            if step is None:
                return True
            if re.fullmatch(step, name, flags) is None:
                return False
        return len(names) < len(self.steps)

    def _path_expression(self) -> str:
        pieces = _pieces(self.steps if self.anchored else (None, *self.steps))
        first, *others = pieces
        if not others:
            return first
        # A piece before a `**` ends where a part of the path ends; between two it takes the first place where it fits.
        start = f"{first}(?=/)" if first else ""
        middle = "".join(f"(?>.*?{piece}(?=/))" for piece in others[:-1])
        return f"{start}{middle}{f'.*{others[-1]}' if others[-1] else '.*/.+'}"


def _pieces(steps: Iterable[str | None]) -> list[str]:
    """The expressions for what stands before, between and behind the `**`; empty where nothing does, never so in the
    middle.
    """
    pieces = [""]
    for step in steps:
        if step is not None:
            pieces[-1] += f"/{step}"
        elif pieces[-1] or len(pieces) == 1:
            pieces.append("")
    return pieces


class PatternList:
    """Patterns in order, of which the last that fits decides. Immutable.

    Runs of patterns that decide the same are joined into one expression for names and one for paths.
    """

    __slots__ = ("_groups",)

    def __init__(self, patterns: Sequence[Pattern], *, below: bool = False) -> None:
        self._groups = [
            (not negated, *_compile_group(list(run), below=below))
            for negated, run in groupby(reversed(patterns), key=lambda pattern: pattern.negated)
        ]

    def __bool__(self) -> bool:
        return bool(self._groups)

    def verdict(self, path: str, name: str) -> bool | None:
        """True where the deciding pattern is a plain one, False where it begins with "!", None where none fits.

        `path` is absolute and `name` its last part; both end in a slash for a directory.
        """
        for positive, fits_name, fits_path in self._groups:
            if fits_name is not None and fits_name(name) is not None:
                return positive
            if fits_path is not None and fits_path(path) is not None:
                return positive
        return None


def _compile_group(patterns: Sequence[Pattern], *, below: bool) -> tuple[_Fullmatch | None, _Fullmatch | None]:
    names = [pattern.expression(below=below) for pattern in patterns if pattern.by_name and not below]
    paths = [pattern.expression(below=below) for pattern in patterns if not pattern.by_name or below]
    return _compile(names), _compile(paths)


def _compile(expressions: Sequence[str]) -> _Fullmatch | None:
    return re.compile("|".join(expressions), re.DOTALL).fullmatch if expressions else None


def to_text(name: bytes) -> str:
    """A name or path as patterns see it."""
    return name.decode("utf-8", "surrogateescape")


def parse_pattern(text: str, *, origin: str, ignore_case: bool = False) -> Pattern:
    """A pattern as the command line and exclude files have it. `origin` says in messages where it stands.

    Raises InvalidPattern.
    """
    negated = text.startswith("!")
    body = text[1:] if negated else text
    parts = [part for part in body.split("/") if part not in ("", ".")]
    try:
        if not parts:
            raise ValueError("it names nothing")
        if ".." in parts:
            raise ValueError("a path in a backup never has '..' in it")
        return Pattern(
            steps=_steps(parts),
            anchored=body.startswith("/"),
            negated=negated,
            only_directories=body.endswith("/"),
            ignore_case=ignore_case,
        )
    except ValueError as error:
        raise InvalidPattern(f"{origin}: pattern {text!r}: {error}", hint="see backupforge-exclude(7)") from None


def parse_gitignore(data: bytes) -> PatternList:
    """The patterns of a .gitignore file, for paths that begin at its directory. A line that does not parse is passed
    over, as in git.
    """
    patterns = []
    for line in to_text(data.removeprefix(b"\xef\xbb\xbf")).split("\n"):
        pattern = _parse_gitignore_line(line.removesuffix("\r"))
        if pattern is not None:
            patterns.append(pattern)
    return PatternList(patterns)


def _parse_gitignore_line(line: str) -> Pattern | None:
    if line.startswith("#"):
        return None
    body = _strip_unescaped_spaces(line)
    negated = body.startswith("!")
    body = body[1:] if negated else body
    inner = body.removesuffix("/")
    if not inner.removeprefix("/") or "//" in body:
        return None
    try:
        steps = _steps(inner.removeprefix("/").split("/"))
    except ValueError:
        return None
    # Unlike ours, a pattern of git with a slash that is not its last character counts from the directory of its file.
    return Pattern(steps=steps, anchored="/" in inner, negated=negated, only_directories=body.endswith("/"))


def _strip_unescaped_spaces(line: str) -> str:
    stripped = line.rstrip(" ")
    backslashes = len(stripped) - len(stripped.rstrip("\\"))
    return stripped + " " if backslashes % 2 and stripped != line else stripped


def _steps(parts: Sequence[str]) -> tuple[str | None, ...]:
    return tuple(None if part == "**" else _translate(part) for part in parts)


def _translate(part: str) -> str:
    """The expression for one part of a path. Raises ValueError with what is wrong."""
    first, *others = _split_at_stars(part)
    if not others:
        return first
    if not first and not any(others):
        return "[^/]+"
    middle = "".join(f"(?>[^/]*?{piece})" for piece in others[:-1] if piece)
    return f"{first}{middle}[^/]*{others[-1]}"


def _split_at_stars(part: str) -> list[str]:
    """Expressions of fixed length for what stands before, between and behind the stars."""
    pieces = [""]
    at = 0
    while at < len(part):
        if part[at] == _STAR:
            pieces.append("")
            at += 1
        else:
            expression, at = _translate_one(part, at)
            pieces[-1] += expression
    return pieces


def _translate_one(part: str, at: int) -> tuple[str, int]:
    """The expression for one character of a name, and where the next begins."""
    character = part[at]
    if character == "?":
        return "[^/]", at + 1
    if character == "[":
        return _translate_set(part, at + 1)
    if character == "\\":
        at += 1
        if at == len(part):
            raise ValueError("there is nothing behind the last backslash")
    elif character == "\0":
        raise ValueError("no name has a NUL in it")
    return re.escape(part[at]), at + 1


def _translate_set(part: str, at: int) -> tuple[str, int]:
    """`[...]` from behind the bracket on. A set never fits a slash, whatever ranges it has."""
    negated = part[at : at + 1] in ("!", "^")
    at += negated
    members = []
    first = at
    while at < len(part) and (part[at] != "]" or at == first):
        member, at = _translate_member(part, at)
        members.append(member)
    if at >= len(part):
        raise ValueError("a '[' is never closed")
    return f"(?!/)[{'^' if negated else ''}{''.join(members)}]", at + 1


def _translate_member(part: str, at: int) -> tuple[str, int]:
    """A class, a range or a character of a set."""
    if part.startswith("[:", at) and (end := part.find(":]", at + 2)) > 0:
        name = part[at + 2 : end]
        if name not in _CLASSES:
            raise ValueError(f"there is no character class [:{name}:]")
        return _CLASSES[name], end + 2
    low, at = _set_character(part, at)
    if part[at : at + 1] != "-" or part[at + 1 : at + 2] in ("", "]"):
        return re.escape(low), at
    high, at = _set_character(part, at + 1)
    if high < low:
        raise ValueError(f"the range {low}-{high} is the wrong way round")
    return f"{re.escape(low)}-{re.escape(high)}", at


def _set_character(part: str, at: int) -> tuple[str, int]:
    if part[at] == "\\":
        at += 1
        if at == len(part):
            raise ValueError("a '[' is never closed")
    return part[at], at + 1
