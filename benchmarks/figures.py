"""Figures of benchmarks: medians, how they compare, and whether that is what it must be."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.running import note

BASE = "restic"
UNSTEADY = 1.2
"""A time whose slowest round took this many times its quickest says more about the machine than about the tool."""

Samples = dict["Key", list[float]]
"""Each figure's values, one per round."""


class Key(NamedTuple):
    """Names one figure."""

    tool: str
    corpus: str
    phase: str
    quantity: str


@dataclass(frozen=True, slots=True)
class Goal:
    """What backupforge should reach: a ratio that it must reach, and one that it aims at."""

    title: str
    corpus: str
    phase: str
    quantity: str
    must: float | None
    aim: float
    against: str = BASE
    margin: float = 0.0
    """How much more ours may be before it is compared."""


def is_time(quantity: str) -> bool:
    """Whether the quantity is in seconds; otherwise it is in bytes, or a number of something."""
    return quantity.endswith("_s")


def medians(samples: Samples) -> dict[Key, float]:
    """The median of each figure's rounds."""
    return {key: statistics.median(values) for key, values in samples.items()}


def unsteady(samples: Samples) -> list[Key]:
    """The times that differ so much between rounds that the machine was probably busy with something else."""
    return [key for key, values in samples.items() if key.quantity == "wall_s" and max(values) > UNSTEADY * min(values)]


def ratio(middles: Mapping[Key, float], key: Key, against: str = BASE, margin: float = 0.0) -> float | None:
    """How a figure compares with that of `against` and a margin; None when one was not measured or is zero.

    Times: how many times faster, so more is better. All else: the share of the other's, so less is better.
    """
    own, other = middles.get(key), middles.get(key._replace(tool=against))
    if not own or not other:
        return None
    return (other + margin) / own if is_time(key.quantity) else own / (other + margin)


def goal_ratio(middles: Mapping[Key, float], goal: Goal) -> float | None:
    """The ratio that a goal is about; None when it was not measured."""
    return ratio(middles, Key("backupforge", goal.corpus, goal.phase, goal.quantity), goal.against, goal.margin)


def verdict(goal: Goal, reached: float | None) -> str:
    """Whether a goal is met: "aim met", "must met", "missed", or "not measured"."""
    if reached is None:
        return "not measured"

    def meets(bound: float) -> bool:
        return reached >= bound if is_time(goal.quantity) else reached <= bound

    if meets(goal.aim):
        return "aim met"
    return "must met" if goal.must is not None and meets(goal.must) else "missed"


def in_units(size: float) -> str:
    """Bytes as megabytes (10^6), as restic and borg show them."""
    return f"{size / 1e6:.1f} MB"


def show_value(quantity: str, value: float | None) -> str:
    """A figure with its unit, or a dash."""
    if value is None:
        return "-"
    if is_time(quantity):
        return f"{value:.2f} s"
    return in_units(value) if quantity.endswith("_bytes") else f"{value:.0f}"


def show_ratio(quantity: str, value: float | None) -> str:
    """A ratio: "3.15x" for times, "0.79" for all else, or a dash."""
    if value is None:
        return "-"
    return f"{value:.2f}x" if is_time(quantity) else f"{value:.2f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length as a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def figure_table(
    middles: Mapping[Key, float], corpus: str, phases: Mapping[str, str], quantities: Mapping[str, str]
) -> str:
    """All figures of a corpus that were measured and are not zero: for each tool the median, and how it compares."""
    tools = list(dict.fromkeys(key.tool for key in middles))
    rows = [[corpus, *(cell for tool in tools for cell in (tool, ""))]]
    for phase, title in phases.items():
        for quantity, what in quantities.items():
            keys = [Key(tool, corpus, phase, quantity) for tool in tools]
            if any(middles.get(key) for key in keys):
                cells = (
                    (show_value(quantity, middles.get(key)), show_ratio(quantity, ratio(middles, key))) for key in keys
                )
                rows.append([f"{title}, {what}", *(cell for pair in cells for cell in pair)])
    return aligned(rows)


def goal_table(middles: Mapping[Key, float], goals: Sequence[Goal]) -> str:
    """Each goal with what was reached and whether it is met."""
    rows = [["goal (ratio against restic)", "reached", "must", "aim", "verdict"]]
    for goal in goals:
        reached = goal_ratio(middles, goal)
        shown = (show_ratio(goal.quantity, each) for each in (reached, goal.must, goal.aim))
        rows.append([goal.title, *shown, verdict(goal, reached)])
    return aligned(rows)


def as_json(
    samples: Samples, goals: Sequence[Goal], versions: Mapping[str, str], rounds: int, **conditions: float
) -> str:
    """The whole run as a JSON document: every figure with all its rounds, the goals, and what it was taken under."""
    middles = medians(samples)
    figures = [
        key._asdict() | {"samples": values, "median": middles[key], "ratio": ratio(middles, key)}
        for key, values in samples.items()
    ]
    judged = []
    for goal in goals:
        reached = goal_ratio(middles, goal)
        judged.append(asdict(goal) | {"reached": reached, "verdict": verdict(goal, reached)})
    document = {"rounds": rounds, "machine": machine(), **conditions, "versions": versions, "figures": figures}
    return json.dumps({**document, "goals": judged}, indent=2) + "\n"


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    return {"cpus": os.cpu_count(), "architecture": platform.machine(), "kernel": platform.release()}


@dataclass(frozen=True, slots=True)
class Report:
    """What is shown in the end. `phases` has the titles of those of each corpus."""

    phases: Mapping[str, Mapping[str, str]]
    quantities: Mapping[str, str]
    goals: Sequence[Goal]

    def show(
        self, samples: Samples, versions: Mapping[str, str], rounds: int, file: Path | None, **conditions: float
    ) -> None:
        """Print the tables, say which times were unsteady, and write all of it to a file."""
        middles = medians(samples)
        for corpus, phases in self.phases.items():
            print(f"\n{figure_table(middles, corpus, phases, self.quantities)}")
        goals = [goal for goal in self.goals if goal.corpus in self.phases]
        print(f"\n{goal_table(middles, goals)}")
        for key in unsteady(samples):
            title = self.phases[key.corpus][key.phase]
            note(f"unsteady: {key.tool}, {key.corpus}, {title}: {samples[key]} s; was the machine busy?")
        if file is not None:
            file.write_text(as_json(samples, goals, versions, rounds, **conditions))
