"""Plots of the runs of `search_quality.py`: expected accuracy against steps and against seconds, bands over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.quality_runs import ORIGINAL, VARIANTS
from benchmarks.quality_tables import GROUP, groups

BAND = (10, 90)
"""Percentiles over seeds between which a band lies."""
_COLOURS = dict(zip(VARIANTS, ("#444444", "#0072b2", "#d55e00", "#009e73", "#cc79a7"), strict=True))  # Okabe and Ito's
_AXES = {"steps": "steps", "seconds": "seconds of one core"}


def plot(runs: Iterable[dict[str, Any]], path: Path) -> None:
    """Draw a row of two plots for each group of runs to an image, whose kind its name tells."""
    found = groups(runs)
    figure = Figure(figsize=(10, 3.2 * len(found)), layout="constrained")
    for key, row in zip(found, figure.subplots(len(found), 2, sharey="row", squeeze=False), strict=True):
        for axes, (name, label) in zip(row, _AXES.items(), strict=True):
            for variant, budget in sorted(found[key], key=lambda pair: (pair[0] != ORIGINAL, pair)):
                if (name == "steps") == (budget == "seconds") and variant != ORIGINAL:
                    continue  # each against what it is to be compared by
                by_seed = found[key][variant, budget]
                _draw(axes, name, variant, [run["log"] for run in by_seed.values()])
            axes.set_xlabel(label)
        settings = dict(zip(GROUP, key, strict=True))
        row[0].set_ylabel(f"{settings['method']}, {settings['epochs']} epochs\nexpected accuracy, CIFAR-10, %")
        row[0].legend(loc="lower left", framealpha=0.7)
        row[1].set_visible(any(budget == "seconds" for _, budget in found[key]))
    figure.savefig(path, dpi=110)


def _draw(axes: Axes, name: str, variant: str, logs: Sequence[Sequence[dict[str, Any]]]) -> None:
    places = np.mean([[row[name] for row in log] for log in logs], axis=0)
    values = np.array([[row["expected"]["cifar10"] for row in log] for log in logs])
    low, high = np.percentile(values, BAND, axis=0)
    label = f"{variant}, {len(logs)} seeds"
    axes.plot(places, values.mean(axis=0), color=_COLOURS[variant], label=label)
    axes.fill_between(places, low, high, color=_COLOURS[variant], alpha=0.15, linewidth=0)
