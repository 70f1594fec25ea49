"""What a chunker is, and how a repository says which one it uses.

Chunk boundaries are the ground of deduplication: the kind, the sizes and the secret seed are written into the
configuration of a repository when it is made, and never change after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from bfrepo.chunker.fastcdc import FastCdc
from bfrepo.chunker.fixed import Fixed
from bfrepo.core.errors import InvalidValue
from bfrepo.core.units import KIB, MIB, format_size, parse_size

if TYPE_CHECKING:
    from typing_extensions import Buffer

SMALLEST = 4 * KIB
"""No minimum below this: each chunk costs an entry in the index, and a smaller one costs more than it saves."""

LARGEST = 16 * MIB
"""No maximum above this: a chunk is held in memory as a whole, several times over in a pipeline."""

_HINT = "write fastcdc, fastcdc:MIN:AVERAGE:MAX or fixed:SIZE, such as fastcdc:256K:1M:4M"


class Chunker(Protocol):
    """Cuts a file into chunks. Holds no state between calls; any number of threads may use one at once."""

    @property
    def name(self) -> str:
        """The kind, as in the configuration of a repository: "fastcdc" or "fixed"."""

    @property
    def minimum(self) -> int:
        """Bytes that every chunk has but the last of a file: what is not longer is one chunk, and need not be cut."""

    @property
    def maximum(self) -> int:
        """Bytes that no chunk exceeds."""

    def cut(self, data: Buffer, start: int, end: int, *, final: bool) -> Sequence[int]:
        """The end offsets, ascending, of the chunks in `data[start:end]`, the first of which begins at `start`.

        `final` says that the file ends at `end`: then the last offset is `end`. Otherwise the last chunk is left out
        when the bytes at hand do not decide where it ends; fewer than `maximum` bytes remain then, and the caller puts
        them in front of the next. So the cuts of a file do not depend on how it was read. `data` is bytes-like and
        contiguous. Raises ValueError for a range outside `data`.
        """


@dataclass(frozen=True, slots=True)
class ChunkerParams:
    """Kind and sizes (bytes) of a chunker; for "fixed" the three sizes are one.

    Raises InvalidValue when the sizes are not within 4 KiB and 16 MiB, are not in order, or the average of "fastcdc" is
    no power of two.
    """

    kind: Literal["fastcdc", "fixed"] = "fastcdc"
    minimum: int = 256 * KIB
    average: int = 1 * MIB
    maximum: int = 4 * MIB

    def __post_init__(self) -> None:
        if self.kind not in ("fastcdc", "fixed"):
            raise InvalidValue(f"{self.kind!r} is not a chunker", hint=_HINT)
        if self.minimum < SMALLEST or self.maximum > LARGEST:
            bounds = f"{format_size(SMALLEST)} and {format_size(LARGEST)}"
            raise InvalidValue(f"chunker {self.format()}: chunk sizes must lie within {bounds}", hint=_HINT)
        if self.kind == "fixed":
            if not self.minimum == self.average == self.maximum:
                raise InvalidValue("a fixed chunker has one size", hint=_HINT)
        elif not self.minimum < self.average < self.maximum:
            raise InvalidValue(f"chunker {self.format()}: sizes must rise from minimum to maximum", hint=_HINT)
        elif self.average.bit_count() != 1:
            raise InvalidValue(f"chunker {self.format()}: the average must be a power of two", hint=_HINT)

    @classmethod
    def fixed(cls, size: int = 4 * MIB) -> ChunkerParams:
        """Chunks of one size. Raises InvalidValue when it is not within 4 KiB and 16 MiB."""
        return cls("fixed", size, size, size)

    @classmethod
    def parse(cls, text: str) -> ChunkerParams:
        """Reads "fastcdc[:MIN:AVERAGE:MAX]" or "fixed[:SIZE]". Raises InvalidValue for anything else."""
        match text.strip().split(":"):
            case ["fastcdc"]:
                return cls()
            case ["fastcdc", minimum, average, maximum]:
                return cls("fastcdc", parse_size(minimum), parse_size(average), parse_size(maximum))
            case ["fixed"]:
                return cls.fixed()
            case ["fixed", size]:
                return cls.fixed(parse_size(size))
            case _:
                raise InvalidValue(f"{text!r} is not a chunker", hint=_HINT)

    def format(self) -> str:
        """The text that `parse` reads back as exactly this: "fastcdc:256K:1M:4M", "fixed:4M"."""
        sizes = (self.maximum,) if self.kind == "fixed" else (self.minimum, self.average, self.maximum)
        return ":".join((self.kind, *map(_exact_size, sizes)))


def make_chunker(params: ChunkerParams, seed: bytes) -> Chunker:
    """The chunker for a repository with these parameters and this secret 32-byte seed ("fixed" has no use for it).

    Raises ValueError for a seed of another length.
    """
    if params.kind == "fixed":
        return Fixed(params.maximum)
    return FastCdc(seed, minimum=params.minimum, average=params.average, maximum=params.maximum)


def _exact_size(size: int) -> str:
    """A size in the largest unit that leaves no fraction."""
    for unit, factor in (("M", MIB), ("K", KIB)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
