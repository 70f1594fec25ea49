"""What a backup leaves out and what a restore picks: all the exclude options, and the filter on paths of a snapshot.

The rules for users are in backupforge-exclude(7); patterns.py has the language of patterns.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bfrepo.core.errors import InvalidPattern, InvalidValue
from bfrepo.data.node import NodeType, Stat
from bfrepo.sources.patterns import Pattern, PatternList, parse_gitignore, parse_pattern, to_text

_GITIGNORE = b".gitignore"
_GIT_DIRECTORY = b".git"

_GITIGNORE_LIMIT = 1 << 20
"""Bytes of a .gitignore file; what is longer was not written by people and is not obeyed."""

LeaveOut = Callable[[bytes, NodeType], bool]
"""(name, type) -> whether it stays out of the backup."""

ReadStart = Callable[[bytes, int], bytes]
"""(name, limit) -> the first bytes of a regular file in the directory that is being listed. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Tag:
    """A file that marks its directory as one to leave out, by its name and by how it begins."""

    name: bytes
    header: bytes = b""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "NAME" or "NAME:header". Raises InvalidPattern."""
        name, _, header = text.partition(":")
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise InvalidPattern(
                f"--exclude-if-present: {text!r} does not begin with the name of a file",
                hint="write NAME or NAME:header",
            )
        return cls(os.fsencode(name), os.fsencode(header))

    def marks(self, names: Collection[bytes], read_start: ReadStart) -> bool:
        """Whether a directory with these names is marked. A file that cannot be read marks nothing: rather too much
        than too little.
        """
        if self.name not in names:
            return False
        try:
            return not self.header or read_start(self.name, len(self.header)) == self.header
        except OSError:
            return False


CACHE_TAG = Tag(b"CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55")
"""The mark of cache directories (https://bford.info/cachedir/)."""


@dataclass(frozen=True, slots=True)
class Ignores:
    """The patterns of one .gitignore file, and those of the directories above, as far as the same working tree goes."""

    patterns: PatternList
    base: int
    """Characters of the path of the file's directory, without a slash behind them."""
    above: Ignores | None

    def ignore(self, path: bytes, kind: NodeType) -> bool:
        """Whether git would ignore it."""
        text = to_text(path) + ("/" if kind == "dir" else "")
        name = text[text.rfind("/", 0, -1) + 1 :]
        scope: Ignores | None = self
        while scope is not None:
            found = scope.patterns.verdict(text[scope.base :], name)
            if found is not None:
                return found
            scope = scope.above
        return False


class ExcludeRules:
    """Everything a backup was told to leave out. Immutable, for any number of threads."""

    __slots__ = ("_gitignore", "_larger_than", "_patterns", "_tags")

    def __init__(
        self,
        patterns: Sequence[Pattern] = (),
        *,
        tags: Sequence[Tag] = (),
        larger_than: int | None = None,
        gitignore: bool = False,
    ) -> None:
        self._patterns = PatternList(patterns)
        self._tags = tuple(tags)
        self._larger_than = larger_than
        self._gitignore = gitignore

    @classmethod
    def from_options(
        cls,
        *,
        environment: Mapping[str, str],
        exclude: Sequence[str] = (),
        iexclude: Sequence[str] = (),
        exclude_files: Sequence[Path] = (),
        iexclude_files: Sequence[Path] = (),
        caches: bool = False,
        if_present: Sequence[str] = (),
        larger_than: int | None = None,
        gitignore: bool = False,
    ) -> Self:
        """The rules of the command line. Patterns of files come first, so that those of the command line overrule
        them.

        `environment` is for $NAME in files, `larger_than` is in bytes. Raises InvalidPattern, and InvalidValue for a
        file that cannot be read.
        """
        return cls(
            [
                *read_patterns(exclude_files, environment=environment),
                *read_patterns(iexclude_files, environment=environment, ignore_case=True),
                *(parse_pattern(text, origin="--exclude") for text in exclude),
                *(parse_pattern(text, origin="--iexclude", ignore_case=True) for text in iexclude),
            ],
            tags=[*([CACHE_TAG] if caches else []), *map(Tag.parse, if_present)],
            larger_than=larger_than,
            gitignore=gitignore,
        )

    def __bool__(self) -> bool:
        return bool(self._patterns or self._tags or self._larger_than is not None or self._gitignore)

    @property
    def marks(self) -> frozenset[bytes]:
        """The names whose presence in a directory means something."""
        git = (_GIT_DIRECTORY, _GITIGNORE) if self._gitignore else ()
        return frozenset({*(tag.name for tag in self._tags), *git})

    def leaves_out(self, prefix: bytes) -> LeaveOut | None:
        """Whether patterns leave out a name in the directory whose path, with a slash behind it, is `prefix`; None
        when none could.
        """
        if not self._patterns:
            return None
        start = to_text(prefix)
        verdict = self._patterns.verdict

        def leave_out(name: bytes, kind: NodeType) -> bool:
            text = name.decode("utf-8", "surrogateescape")
            if kind == "dir":
                text += "/"
            return verdict(start + text, text) is True

        return leave_out

    def excludes(self, path: bytes, stat: Stat) -> bool:
        """Whether a path that was asked for is left out by a pattern or by its size."""
        above, _, name = path.rpartition(b"/")
        leave_out = self.leaves_out(above + b"/")
        return (leave_out is not None and leave_out(name, stat.type)) or self.is_too_large(stat)

    def is_too_large(self, stat: Stat) -> bool:
        """Whether it is a file above the limit."""
        return self._larger_than is not None and stat.type == "file" and stat.size > self._larger_than

    def tag(self, names: Collection[bytes], read_start: ReadStart) -> bytes | None:
        """The name of the file that marks a directory with these names, if one does: all but that file is left out."""
        return next((tag.name for tag in self._tags if tag.marks(names, read_start)), None)

    def ignores(
        self, path: bytes, names: Collection[bytes], read_start: ReadStart, above: Ignores | None
    ) -> Ignores | None:
        """What .gitignore files say in the directory `path`, when `above` is what they say in its parent.

        A .git of its own makes a directory the top of another working tree, where nothing from above counts.
        """
        if not self._gitignore:
            return None
        if _GIT_DIRECTORY in names:
            above = None
        if _GITIGNORE not in names:
            return above
        try:
            data = read_start(_GITIGNORE, _GITIGNORE_LIMIT + 1)
        except OSError:
            return above  # it is reported when the file itself is backed up
        if len(data) > _GITIGNORE_LIMIT:
            return above
        return Ignores(parse_gitignore(data), len(to_text(path.rstrip(b"/"))), above)


class PathFilter:
    """Which paths of a snapshot are wanted. A tree is gone through from the top, by `may_contain`. Immutable."""

    __slots__ = ("_exclude", "_include", "_leads")

    def __init__(self, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        """Raises InvalidPattern."""
        included = [parse_pattern(text, origin="--include") for text in include]
        self._include = PatternList(included, below=True)
        self._leads = [pattern for pattern in included if not pattern.negated]
        self._exclude = PatternList([parse_pattern(text, origin="--exclude") for text in exclude], below=True)

    def selects(self, path: bytes, is_dir: bool) -> tuple[bool, bool]:
        """(selected, may_contain): whether the entry itself is wanted, and whether something below it could be.

        What lies in a directory that an include pattern fits is selected with it. `path` is absolute.
        """
        name = to_text(path) + ("/" if is_dir else "")
        if self._exclude.verdict(name, name):
            return False, False
        if not self._include or self._include.verdict(name, name):
            return True, is_dir
        if not is_dir:
            return False, False
        parts = [part for part in name.split("/") if part]
        return False, any(pattern.leads_through(parts) for pattern in self._leads)


def read_patterns(
    files: Sequence[Path], *, environment: Mapping[str, str], ignore_case: bool = False
) -> Iterator[Pattern]:
    """The patterns of exclude files, in order. Raises InvalidPattern with file and line, InvalidValue for a file that
    cannot be read.
    """
    for file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise InvalidValue(f"exclude file {file}: {error.strerror}") from error
        for number, line in enumerate(to_text(data.removeprefix(b"\xef\xbb\xbf")).split("\n"), 1):
            text = line.strip()
            if text and not text.startswith("#"):
                origin = f"{file}, line {number}"
                yield parse_pattern(_expand(text, environment, origin), origin=origin, ignore_case=ignore_case)


_VARIABLE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})", re.ASCII)


def _expand(text: str, environment: Mapping[str, str], origin: str) -> str:
    """Put in $NAME and ${NAME}, as literal text; $$ is a dollar, and so is one that no name follows."""

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        name = match[2] or match[3]
        if name not in environment:
            raise InvalidPattern(
                f"{origin}: pattern {text!r}: there is no environment variable {name}",
                hint="write $$ for a dollar sign",
            )
        return re.sub(r"([*?\[\\])", r"\\\1", environment[name])

    return _VARIABLE.sub(value, text)
