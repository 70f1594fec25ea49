"""What `find` looks for by name: patterns as for excluding, and limits of the modification time.

The last part of a pattern says which names come into question, wherever they are: that is asked of each name once,
however many snapshots have it. The path decides in the end, where a pattern has more than a name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bfrepo.data.node import Node
from bfrepo.sources.patterns import PatternList, parse_pattern, to_text

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""Where a wildcard was, and bytes that are not UTF-8."""


class NameQuery:
    """Names and paths that are looked for. Immutable.

    As with excludes the last pattern that fits decides, and one that begins with "!" takes back. `newest_ns` and
    `oldest_ns` are the latest and the earliest modification time, in ns since 1970, that count.
    """

    def __init__(
        self,
        patterns: Sequence[str],
        *,
        ignore_case: bool = False,
        newest_ns: int | None = None,
        oldest_ns: int | None = None,
    ) -> None:
        """Raises InvalidPattern."""
        parsed = [parse_pattern(text, origin="find", ignore_case=ignore_case) for text in patterns]
        positive = [(text, each) for text, each in zip(patterns, parsed, strict=True) if not each.negated]
        names = [each.steps[-1] or "[^/]+" for _, each in positive]
        self.ignore_case = ignore_case
        self.literals = [_literals(text) for text, _ in positive]
        """For each pattern that is not negated, texts that every name that it fits contains."""
        self._fits_name = re.compile("|".join(names), re.DOTALL | (re.IGNORECASE if ignore_case else 0)).fullmatch
        self._nothing = not names
        self._patterns = PatternList(parsed)
        self._newest = newest_ns
        self._oldest = oldest_ns

    def may_fit(self, name: bytes) -> bool:
        """Whether an entry of this name comes into question."""
        return not self._nothing and self._fits_name(to_text(name)) is not None

    def in_time(self, mtime_ns: int) -> bool:
        """Whether the modification time is within the limits."""
        newest, oldest = self._newest, self._oldest
        return (newest is None or mtime_ns <= newest) and (oldest is None or mtime_ns >= oldest)

    def select(self, nodes: Sequence[Node]) -> list[Node]:
        """The nodes that come into question."""
        if self._nothing:
            return []
        fits, in_time = self._fits_name, self.in_time
        named = [node for node in nodes if fits(node.name.decode("utf-8", "surrogateescape")) is not None]
        return [node for node in named if in_time(node.mtime_ns)]

    def fits(self, path: bytes, *, is_dir: bool) -> bool:
        """Whether the entry with this absolute path is looked for, as far as its name comes into question."""
        text = to_text(path) + ("/" if is_dir else "")
        name = text[text.rindex("/", 0, -1) + 1 :]
        return self._patterns.verdict(text, name) is True


def _literals(pattern: str) -> list[str]:
    """What stands between the wildcards of a pattern's last part; what is behind a set is left out."""
    part = [part for part in pattern.split("/") if part not in ("", ".")][-1]
    before, bracket, _ = part.partition("[")
    if bracket and before.endswith("\\"):  # whether it is plain or not: the set, or the rest, is left out
        before = before[:-1]
    plain = re.sub(r"\\(.)|[*?]", lambda match: match[1] or "\0", before, flags=re.DOTALL)
    return [text for text in _NO_TEXT.split(plain) if text]
