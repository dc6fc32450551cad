"""Draw how the cost of a search step grows with batch, channels, cells and candidates.

One of them varies at a time; the others stay as the options say. The rows are those of `search_step.py`.

    python examples/benchmarks/cost_growth.py
    python examples/benchmarks/cost_growth.py --space darts --vary batch=8,16,32 cells=3,6 --output darts.svg
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the examples' folder, for the supernets in it
from benchmarks.results import Result, Results
from benchmarks.search_step import chosen_rows, measure
from benchmarks.size_options import add_size_options, size_of
from benchmarks.spaces import SPACES, Row, Size
from benchmarks.steps import Quartiles
from search_options import positive

AXES: dict[str, tuple[int, ...]] = {
    "batch": (8, 16, 32, 64),
    "C": (4, 8, 16, 32),
    "cells": (1, 2, 3, 4),
    "candidates": (),
}
"""What varies, and the values that it takes unless given; of candidates those are all that the space has."""
COSTS = ("step, ms", "saved for backward, MB")


@dataclass(frozen=True)
class AxisCosts:
    """What one axis costs.

    Attributes:
        axis: of `AXES`.
        values: of the axis.
        results: of each value.
    """

    axis: str
    values: tuple[int, ...]
    results: tuple[Results, ...]

    def curve(self, row: Row, cost: str) -> list[tuple[int, float]]:
        """Return a row's cost, of `COSTS`, at the values where the row did not fail."""
        found = [(value, _cost(_of_row(results, row), cost)) for value, results in self._pairs()]
        return [(value, y) for value, y in found if y is not None]

    def contents(self) -> dict[str, object]:
        """Return all of it, for JSON."""
        return {"axis": self.axis, "values": [*self.values], "results": [r.contents() for r in self.results]}

    def failures(self) -> list[str]:
        """Return a line for each row that failed, and where."""
        return [
            f"{self.axis}={value}, {result.row.name}: {result.error}"
            for value, results in self._pairs()
            for result in results.rows
            if result.error
        ]

    def _pairs(self) -> list[tuple[int, Results]]:
        return list(zip(self.values, self.results, strict=True))


def measure_axis(axis: str, values: Sequence[int], rows: Sequence[Row], size: Size, repeats: int) -> AxisCosts:
    """Measure the rows at each value of an axis."""
    sizes = [replace(size, **{axis: value}) for value in values]
    return AxisCosts(axis, tuple(values), tuple(measure(rows, each, repeats) for each in sizes))


def draw(growths: Sequence[AxisCosts], rows: Sequence[Row], title: str, path: Path) -> None:
    """Write a figure with a column an axis and a line of panels a cost."""
    import matplotlib

    matplotlib.use("Agg")  # no screen is needed
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        len(COSTS), len(growths), figsize=(3.6 * len(growths), 3.2 * len(COSTS)), squeeze=False, layout="constrained"
    )
    for line, cost in zip(panels, COSTS, strict=True):
        for panel, growth in zip(line, growths, strict=True):
            for row in rows:
                points = growth.curve(row, cost)
                panel.plot([x for x, _ in points], [y for _, y in points], marker="o", label=row.label)
            panel.set_xlabel(growth.axis)
            panel.set_xticks(growth.values)
            panel.set_ylim(bottom=0)
        line[0].set_ylabel(cost)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(rows), 4))
    figure.suptitle(title)
    figure.savefig(path)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, draw, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_size_options(parser)
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="(untouched, exact, share and the single paths)")
    parser.add_argument("--vary", nargs="+", type=_axis, metavar="NAME=N,N", help=f"which ({', '.join(AXES)})")
    parser.add_argument("--repeats", type=positive, default=5, help="rounds (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("cost_growth.png"), help="the figure (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the numbers there")
    args = parser.parse_args(argv)
    size = size_of(parser, args)
    for path in (args.output, args.json):
        if path and not path.parent.is_dir():
            parser.error(f"there is no folder {path.parent} to write to")
    rows = chosen_rows(parser, size, args.rows or ["untouched", "exact", "share", *SPACES[size.space].single_paths])
    most = len(SPACES[size.space].costliest)
    axes = dict(args.vary) if args.vary else dict(AXES)
    if "candidates" in axes:
        axes["candidates"] = axes["candidates"] or tuple(range(1, most + 1))
    if max(axes.get("candidates", (0,))) > most:
        parser.error(f"--vary: an edge of {size.space} has {most} candidates")
    growths = [measure_axis(axis, values, rows, size, args.repeats) for axis, values in axes.items()]
    fixed = f"C={size.C}, {size.cells} cells, {size.candidates} candidates, batch {size.batch}"
    draw(growths, rows, f"{size.space}: {fixed} where not varied", args.output)
    print(f"drawn: {args.output}")
    for failure in (line for growth in growths for line in growth.failures()):
        print(f"failed: {failure}")
    if args.json:
        args.json.write_text(json.dumps([growth.contents() for growth in growths], indent=2) + "\n", encoding="utf-8")


def _axis(text: str) -> tuple[str, tuple[int, ...]]:
    """Read `NAME`, or `NAME=N,N`, for `argparse`."""
    name, _, values = text.partition("=")
    if name not in AXES:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(AXES)}, found {name!r}")
    return name, tuple(positive(value) for value in values.split(",")) if values else AXES[name]


def _of_row(results: Results, row: Row) -> Result:
    return next(result for result in results.rows if result.row == row)


def _cost(result: Result, cost: str) -> float | None:
    if not result.seconds or result.saved_bytes is None:
        return None
    return 1e3 * Quartiles.of(result.seconds).median if cost == COSTS[0] else result.saved_bytes / 1e6


if __name__ == "__main__":
    main()
