"""What the example searches print and write when they are done: the table, what it means, the JSON."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, is_dataclass

from rich.console import Console
from rich.table import Table

from search_loop import Method, Results
from search_plots import plot


def ratios(results: Results) -> dict[str, float]:
    """Return simplified over original for what a step costs; empty unless both ran."""
    if len(results) < 2:
        return {}
    return {cost: results["simplified"][cost] / results["original"][cost] for cost in ("seconds_a_step", "saved_bytes")}


def show(method: Method, results: Results, notes: list[str], console: Console) -> None:
    """Print the table, and below it the notes, the cells and what a benchmark knows of them."""
    table = Table(title=method.title)
    table.add_column("supernet", no_wrap=True)
    for column in ("seconds\na step", "saved for\nbackward", "validation\naccuracy"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("found cell")
    for name, result in results.items():
        table.add_row(
            name,
            f"{result['seconds_a_step']:.3f}",
            f"{result['saved_bytes'] / 2**20:.1f} MiB",
            f"{result['validation_accuracy']:.1f} %",
            method.lines(result["cell"]),
            end_section=True,
        )
    if ratio := ratios(results):
        points = results["simplified"]["validation_accuracy"] - results["original"]["validation_accuracy"]
        table.add_row("ratio", f"{ratio['seconds_a_step']:.2f}", f"{ratio['saved_bytes']:.2f}", f"{points:+.1f} points")
    console.print(table)
    for note in notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    for sentence in meaning(results):
        console.print(sentence, markup=False, highlight=False)
    for name, result in results.items():
        console.print(f"{name}: {result['cell']}", soft_wrap=True, markup=False, highlight=False)
        if "benchmark" in result:
            console.print(f"    {result['benchmark'] or 'not in the benchmark'}", soft_wrap=True, highlight=False)


def introduce(method: Method, args: argparse.Namespace, console: Console) -> None:
    """Say before the search what is compared."""
    if len(args.models) < 2:
        return
    console.print(
        f"{method.title}, twice: on the supernet as it is (original) and on toponas_fx.simplify of it (simplified), "
        "from the same initial weights, on the same batches, a step of one after a step of the other. A step trains "
        "the architecture on one batch and the weights on another, the optimizers' work included.",
        markup=False,
        highlight=False,
    )


def meaning(results: Results) -> list[str]:
    """Return what a reader of the table should know, a sentence or two each; nothing unless both searches ran."""
    if len(results) < 2:
        return []
    original, simplified = results["original"], results["simplified"]
    steps = simplified["simplify_seconds"] / original["seconds_a_step"]
    (strong, undecided), (strong_too, _) = original["history"].strongest(), simplified["history"].strongest()
    cells = "the same" if original["cell"] == simplified["cell"] else "different ones"
    return [
        f"simplify itself took {simplified['simplify_seconds']:.1f} s, as long as {steps:.1f} steps of the original.",
        "The ratio of step times is that of this machine at these sizes, optimizers included; the README's are of "
        "larger sizes, and of forward and backward alone. docs/benchmarks.md has more, the original in channels-last "
        "layout, which is faster on a CPU, and torch.compile.",
        f"One seed and so few steps rank neither accuracies nor cells ({cells} here): "
        f"an edge's strongest candidate counts {strong:.3f} (original) and {strong_too:.3f} (simplified) in the mean, "
        f"where {undecided:.3f} is undecided. Two searches may find different cells: between one-hot architectures the "
        "simplified supernet computes another function, and another seed is another search as well. "
        "docs/search_quality.md compares over ten seeds.",
    ]


def draw(method: Method, args: argparse.Namespace, results: Results, console: Console) -> None:
    """Draw the courses of the searches to the path that args give, if any."""
    if not args.plot:
        return
    plot({name: result["history"] for name, result in results.items()}, method.title, args.plot)
    console.print(f"drawn: {args.plot}", soft_wrap=True, markup=False, highlight=False)


def write_json(args: argparse.Namespace, results: Results, notes: list[str]) -> None:
    """Write the settings and results to the path that args give, if any; a genotype as its text, no history."""
    if not args.json:
        return
    written = {name: result | {"cell": str(result["cell"])} for name, result in results.items()}
    for result in written.values():
        result.pop("history", None)
    contents = {"settings": vars(args), "results": written, "ratios": ratios(results), "notes": notes}
    args.json.write_text(json.dumps(contents, indent=2, default=_plain) + "\n", encoding="utf-8")


def make_console() -> Console:
    """Return a console for the output, of a fixed width where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 100)


def _plain(value: object) -> object:
    return asdict(value) if is_dataclass(value) else str(value)
