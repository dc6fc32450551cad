"""What `search_quality.py` shows of its runs: each variant against the original, paired by seed.

Intervals are bootstrap percentiles of the mean of paired differences (Efron, 1979); the sign test asks how likely as
many or more seeds of one sign are where both are equally likely (Conover, "Practical Nonparametric Statistics", 3.4).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap

from benchmarks.quality_runs import ORIGINAL, Run
from benchmarks.tables import NOTHING, Table

CONFIDENCE = 0.9
LEVELS = (89, 91, 93)
"""Expected accuracies on CIFAR-10, in percent, of which it is told when a search first passes them."""
_METRICS: dict[str, Callable[[dict[str, Any]], float]] = {
    "expected\nCIFAR-10": lambda run: run["log"][-1]["expected"]["cifar10"],
    "expected\nImageNet16": lambda run: run["log"][-1]["expected"]["imagenet16_120"],
    "found\nCIFAR-10": lambda run: run["log"][-1]["found"]["cifar10"],
    "found\nImageNet16": lambda run: run["log"][-1]["found"]["imagenet16_120"],
}
GROUP = tuple(field.name for field in fields(Run) if field.name not in ("variant", "seed", "budget"))
"""What runs must agree in to be compared."""


@dataclass(frozen=True)
class Difference:
    """Paired differences of two variants.

    Attributes:
        mean: of the differences.
        low: of the interval.
        high: of the interval.
        better: seeds at which the first is better.
        pairs: seeds that both have.
        chance: p-value of the sign test, two-sided; ties are left out.
    """

    mean: float
    low: float
    high: float
    better: int
    pairs: int
    chance: float

    @classmethod
    def of(cls, own: Sequence[float], other: Sequence[float]) -> Difference:
        """Compare values of the same seeds, in the same order."""
        found = np.subtract(own, other)
        low = high = math.nan
        if len(found) > 1:
            options = {"confidence_level": CONFIDENCE, "method": "percentile", "rng": np.random.default_rng(0)}
            low, high = bootstrap((found,), np.mean, **options).confidence_interval
        better, worse = int((found > 0).sum()), int((found < 0).sum())
        chance = binomtest(better, better + worse).pvalue if better + worse else 1.0
        return cls(float(found.mean()), float(low), float(high), better, len(found), chance)

    def __format__(self, spec: str) -> str:
        """Write mean and interval by a format of numbers, seeds, and the sign test."""
        mean, low, high = (format(value, f"+{spec}") for value in (self.mean, self.low, self.high))
        interval = "" if math.isnan(self.low) else f" [{low}, {high}]"  # of one seed there is none
        return f"{mean}{interval}, {self.better} of {self.pairs}, p {self.chance:.2g}"

    def __str__(self) -> str:
        """Write it with two digits."""
        return format(self, ".2f")


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Return the runs of a file, one JSON object a line; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def groups(runs: Iterable[dict[str, Any]]) -> dict[tuple[Any, ...], dict[tuple[str, str], dict[int, dict[str, Any]]]]:
    """Return runs by what they must agree in to be compared, then by variant and budget, then by seed.

    A run of equal seconds is one of as many epochs too, to be compared with an original of that length.
    """
    found: dict[tuple[Any, ...], dict[tuple[str, str], dict[int, dict[str, Any]]]] = {}
    runs = list(runs)
    lengths = {(run["method"], run["epochs"]) for run in runs if run["variant"] == ORIGINAL}
    longer = [run for run in runs if run["budget"] == "seconds" and (run["method"], run["length"]) in lengths]
    for run in (*({**run, "epochs": run["length"], "budget": "steps"} for run in longer), *runs):
        rows = found.setdefault(tuple(run[name] for name in GROUP), {})
        rows.setdefault((run["variant"], run["budget"]), {})[run["seed"]] = run
    return found


def tables(runs: Iterable[dict[str, Any]], against: str = ORIGINAL) -> list[Table]:
    """Return three tables for each group of runs: accuracies, the course, and the rankings where there are some.

    Args:
        runs: of any methods, variants and seeds.
        against: the variant that the others are compared with.
    """
    found = []
    for key, rows in groups(runs).items():
        settings = dict(zip(GROUP, key, strict=True))
        title = f"{settings.pop('method')}: " + ", ".join(f"{name} {value}" for name, value in settings.items())
        found += [_accuracies(title, rows, against), _course(title, rows)]
        if any("rank" in run for by_seed in rows.values() for run in by_seed.values()):
            found.append(_rankings(title, rows, against))
        if any("finish" in run for by_seed in rows.values() for run in by_seed.values()):
            found.append(_finishes(title, rows, against))
    return found


def _accuracies(title: str, rows: dict[tuple[str, str], dict[int, dict[str, Any]]], against: str) -> Table:
    reference = rows.get((against, "steps"), {})
    columns = ["variant", "seeds"]
    for metric in _METRICS:
        columns += [metric, f"less {_the(against)}"]
    table = Table(f"{title}: accuracy of cells, %", columns, [])
    for (variant, budget), by_seed in sorted(rows.items(), key=_order):
        cells = [_name(variant, budget), str(len(by_seed))]
        both = sorted(by_seed.keys() & reference.keys())
        for value in _METRICS.values():
            cells.append(f"{statistics.mean(map(value, by_seed.values())):.2f}")
            if by_seed is reference or not both:
                cells.append(NOTHING)
                continue
            pairs = [[value(of[seed]) for seed in both] for of in (by_seed, reference)]
            cells.append(str(Difference.of(*pairs)))
        table.rows.append(cells)
    table.notes = [f"mean difference [{CONFIDENCE:.0%} interval], seeds at which it is better, p of a sign test"]
    return table


def _course(title: str, rows: dict[tuple[str, str], dict[int, dict[str, Any]]]) -> Table:
    columns = ["variant", "seconds", "epochs", "supernet's\naccuracy", "entropy"]
    columns += [f"seconds to\nexpected {level}" for level in LEVELS]
    columns.append("all none\nor all skip")
    table = Table(f"{title}: course of the search", columns, [])
    for (variant, budget), by_seed in sorted(rows.items(), key=_order):
        runs = list(by_seed.values())
        last = [run["log"][-1] for run in runs]
        cells = [_name(variant, budget), f"{_mean(row['seconds'] for row in last):.0f}", str(runs[0]["length"])]
        cells += [f"{_mean(row['accuracy'] for row in last):.1f}", f"{_mean(row['entropy'] for row in last):.2f}"]
        for level in LEVELS:
            times = [seconds for seconds in (passed(run, level) for run in runs) if seconds is not None]
            cells.append(f"{statistics.median(times):.0f} ({len(times)} of {len(runs)})" if times else NOTHING)
        cells.append(str(sum(row["none"] == 1 or row["skip"] == 1 for row in last)))
        table.rows.append(cells)
    return table.without_empty_columns()


def _rankings(title: str, rows: dict[tuple[str, str], dict[int, dict[str, Any]]], against: str) -> Table:
    reference = {seed: run["rank"] for seed, run in rows.get((against, "steps"), {}).items() if "rank" in run}
    columns = ["variant", "seeds"]
    for statistic in ("running", "batch"):
        for name in ("Kendall's tau", "Spearman's rho", "precision"):
            columns += [f"{name},\n{statistic}", f"less {_the(against)}"]
    table = Table(f"{title}: one-hot accuracy of the supernet against the table", columns, [])
    for (variant, budget), by_seed in sorted(rows.items(), key=_order):
        own = {seed: run["rank"] for seed, run in by_seed.items() if "rank" in run}
        if not own:
            continue
        cells, both = [_name(variant, budget), str(len(own))], sorted(own.keys() & reference.keys())
        for statistic in ("running", "batch"):
            for name in ("kendall", "spearman", "precision"):
                cells.append(f"{_mean(rank[statistic][name] for rank in own.values()):.3f}")
                pairs = [[of[seed][statistic][name] for seed in both] for of in (own, reference)]
                cells.append(NOTHING if variant == against or not both else f"{Difference.of(*pairs):.3f}")
        table.rows.append(cells)
    return table


def _finishes(title: str, rows: dict[tuple[str, str], dict[int, dict[str, Any]]], against: str) -> Table:
    columns = ["variant", "seeds", "epochs", "inherited,\nuntrained", "inherited", "scratch", "inherited\nless scratch"]
    columns.append(f"inherited less\n{_the(against).replace(chr(10), ' ')}'s")
    table = Table(f"{title}: validation accuracy of the cell found, trained on, %", columns, [])
    reference = rows.get((against, "steps"), {})
    for (variant, budget), by_seed in sorted(rows.items(), key=_order):
        own = {seed: run["finish"] for seed, run in by_seed.items() if "finish" in run}
        if not own:
            continue
        ends = [[run[name][-1] for run in own.values()] for name in ("inherited", "scratch")]
        both = sorted(seed for seed in own if "finish" in reference.get(seed, {}))
        pairs = [[own[seed]["inherited"][-1] for seed in both]]
        pairs.append([reference[seed]["finish"]["inherited"][-1] for seed in both])
        cells = [_name(variant, budget), str(len(own)), str(len(next(iter(own.values()))["scratch"]) - 1)]
        cells += [f"{_mean(run['inherited'][0] for run in own.values()):.1f}", *(f"{_mean(end):.1f}" for end in ends)]
        cells += [str(Difference.of(*ends)), NOTHING if variant == against or not both else str(Difference.of(*pairs))]
        table.rows.append(cells)
    return table


def passed(run: dict[str, Any], level: float) -> float | None:
    """Return the seconds after which the expected accuracy on CIFAR-10 first reached a level, None where never."""
    return next((row["seconds"] for row in run["log"] if row["expected"]["cifar10"] >= level), None)


def _mean(values: Iterable[float]) -> float:
    return statistics.mean(values)


def _name(variant: str, budget: str) -> str:
    return variant if budget == "steps" else f"{variant}, equal seconds"


def _the(variant: str) -> str:
    return "the\noriginal" if variant == ORIGINAL else variant


def _order(item: tuple[tuple[str, str], Any]) -> tuple[bool, str, str]:
    (variant, budget), _ = item
    return variant != ORIGINAL, variant, budget
