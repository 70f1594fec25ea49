"""Which packs to read: all of them, one part of n, or a random sample.

A part goes by the pack's ID, so n parts on n days read every pack once, also those that were added meanwhile. A sample
by percentage or size is drawn anew each time with the system's random numbers.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from bfrepo.core.errors import InvalidValue
from bfrepo.core.units import parse_size

_PART: Final = re.compile(r"(\d{1,6})/(\d{1,6})")
_PERCENTAGE: Final = re.compile(r"(\d{1,3}(?:\.\d+)?)%")


@dataclass(frozen=True, slots=True)
class Everything:
    """Every pack."""

    def choose(self, packs: Mapping[bytes, int]) -> list[bytes]:
        """The IDs to read out of `packs` (sizes in bytes by ID)."""
        return list(packs)


@dataclass(frozen=True, slots=True)
class Part:
    """The packs whose ID, as a number, leaves `number` - 1 when divided by `parts`. The same packs each time."""

    number: int
    parts: int

    def choose(self, packs: Mapping[bytes, int]) -> list[bytes]:
        """See Everything."""
        return [pack for pack in packs if int.from_bytes(pack, "big") % self.parts == self.number - 1]


@dataclass(frozen=True, slots=True)
class Percentage:
    """A random sample of so many packs in a hundred, at least one."""

    percent: float

    def choose(self, packs: Mapping[bytes, int]) -> list[bytes]:
        """See Everything."""
        return random.SystemRandom().sample(list(packs), min(len(packs), math.ceil(len(packs) * self.percent / 100)))


@dataclass(frozen=True, slots=True)
class Amount:
    """Random packs that have `size` bytes together, or a little more."""

    size: int

    def choose(self, packs: Mapping[bytes, int]) -> list[bytes]:
        """See Everything."""
        chosen, total = [], 0
        for pack in random.SystemRandom().sample(list(packs), len(packs)):
            if total >= self.size:
                break
            chosen.append(pack)
            total += packs[pack]
        return chosen


Sample: TypeAlias = Everything | Part | Percentage | Amount


def parse_sample(text: str) -> Sample:
    """From "2/7", "5%" or "20G". Raises InvalidValue."""
    if part := _PART.fullmatch(text):
        number, parts = int(part[1]), int(part[2])
        if 1 <= number <= parts:
            return Part(number, parts)
    elif percentage := _PERCENTAGE.fullmatch(text):
        if 0 < (percent := float(percentage[1])) <= 100:
            return Percentage(percent)
    elif "/" not in text and "%" not in text and (size := parse_size(text)) > 0:
        return Amount(size)
    raise InvalidValue(
        f"{text!r} does not say which part to read",
        hint="write a part such as 1/7, a percentage such as 5%, or a size such as 20G",
    )
