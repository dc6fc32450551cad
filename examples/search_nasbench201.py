"""Search a NAS-Bench-201 cell with DARTS, on the supernet as it is and on the one that toponas_fx makes of it.

Run it without arguments: both searches start from the same weights and take their steps in turn on the same batches,
so that the seconds a step compare fairly on a busy machine. They take about a minute in all, on scikit-learn's digits,
enlarged, somewhere among noise; real images and the size of the papers are options.

    python examples/search_nasbench201.py --plot search.png
    python examples/search_nasbench201.py --N 5 --batch 64 --epochs 50 --data path/to/images --table nasbench201.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmark_lookup import Benchmark, BenchmarkApi, BenchmarkTable
from image_data import SearchData
from search_loop import Method, run_searches
from search_options import add_arguments, add_plot_arguments, check_arguments, check_plot_arguments, positive
from search_results import draw, introduce, make_console, show, write_json
from supernets.nasbench201 import CANDIDATES, NASBench201Supernet


def node_lines(cell: str) -> str:
    """Write a NAS-Bench-201 cell, a line a node."""
    return cell.strip("|").replace("|+|", "\n").replace("|", " ")


def _supernet(args: argparse.Namespace, data: SearchData) -> NASBench201Supernet:
    return NASBench201Supernet(args.C, args.N, data.num_classes, data.in_channels)


METHOD = Method("DARTS on NAS-Bench-201", _supernet, node_lines, CANDIDATES)


def parse(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, SearchData, Benchmark | None]:
    """Read the command line, the images and the benchmark; a mistake in any ends the program with one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_arguments(parser, C=16, epochs=3, batch=32, threads=1)  # more threads gain little at this size
    add_plot_arguments(parser)
    parser.add_argument("--N", type=positive, default=1, help="cells a stage (%(default)s)")
    known = parser.add_mutually_exclusive_group()
    known.add_argument("--api", type=Path, metavar="PTH", help="the benchmark's own file, to look the cells up")
    known.add_argument("--table", type=Path, metavar="CSV", help="index,arch,cifar10,cifar100,imagenet16_120, or .gz")
    args = parser.parse_args(argv)
    check_plot_arguments(parser, args)
    data = check_arguments(parser, args)
    try:
        benchmark = BenchmarkTable(args.table) if args.table else BenchmarkApi(args.api) if args.api else None
    except ValueError as error:
        parser.error(str(error))
    return args, data, benchmark


def main(argv: Sequence[str] | None = None) -> None:
    """Search, print, and write the JSON."""
    args, data, benchmark = parse(argv)
    console = make_console()
    introduce(METHOD, args, console)
    results, notes = run_searches(METHOD, args, data, console)
    for result in results.values():
        (result["alphas"],) = result["alphas"]  # one tensor for all cells
        if benchmark is not None:
            result["benchmark"] = benchmark.look_up(result["cell"])
    show(METHOD, results, notes, console)
    draw(METHOD, args, results, console)
    write_json(args, results, notes)


if __name__ == "__main__":
    main()
