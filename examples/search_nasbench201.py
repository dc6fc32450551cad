"""Search a NAS-Bench-201 cell with DARTS, on the supernet as it is and on the one that toponas_fx makes of it.

Run it without arguments: both searches start from the same weights and take their steps in turn on the same batches of
scikit-learn's digits, so that the seconds a step compare fairly on a busy machine.

    python examples/search_nasbench201.py
    python examples/search_nasbench201.py --order 2 --data path/to/images --table nasbench201.csv
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from architect import Architect, Batch
from benchmark_lookup import Benchmark, BenchmarkApi, BenchmarkEntry, BenchmarkTable
from image_data import SearchData, load_digits, load_folder
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from supernets.nasbench201 import NASBench201Supernet
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

import toponas_fx
from toponas_fx.costs import saved_bytes

LEARNING_RATE, LEARNING_RATE_MIN = 0.025, 0.001
MOMENTUM = 0.9
WEIGHT_DECAY = 3e-4
GRADIENT_CLIP = 5.0


class Search:
    """One DARTS search: a supernet, the optimizers of its weights and its architecture, and what its steps took."""

    def __init__(self, name: str, model: NASBench201Supernet, order: int, epochs: int) -> None:
        self.name = name
        self.model = model
        self.order = order
        self.seconds: list[float] = []
        self.optimizer = SGD(model.weight_parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        self.schedule = CosineAnnealingLR(self.optimizer, epochs, eta_min=LEARNING_RATE_MIN)
        self.architect = Architect(model, network_momentum=MOMENTUM, network_weight_decay=WEIGHT_DECAY)

    def step(self, train: Batch, valid: Batch) -> None:
        """Train the architecture on one batch, then the weights on another, by the clock."""
        start = _now(train[0].device)
        self.model.train()
        eta = self.optimizer.param_groups[0]["lr"]
        self.architect.step(train, valid, eta, self.optimizer, unrolled=self.order == 2)
        self.optimizer.zero_grad()
        self.model._loss(*train).backward()
        clip_grad_norm_(self.model.weight_parameters(), GRADIENT_CLIP)
        self.optimizer.step()
        self.seconds.append(_now(train[0].device) - start)

    @torch.no_grad()
    def accuracy(self, loader: DataLoader, limit: int | None, device: torch.device) -> float:
        """Return the share of images, in percent, that the whole supernet classifies right."""
        self.model.eval()
        right = total = 0
        for images, targets in islice(loader, limit):
            predictions = self.model(images.to(device)).argmax(dim=1)
            right += int((predictions == targets.to(device)).sum())
            total += len(targets)
        return 100 * right / total

    def result(self, images: torch.Tensor, accuracy: float) -> dict[str, Any]:
        """Return what the table shows, with the cost of one training pass on the images, f32[N,C,H,W]."""
        self.model.train()
        return {
            "seconds_a_step": statistics.median(self.seconds),
            "saved_bytes": saved_bytes(self.model, images),
            "validation_accuracy": accuracy,
            "cell": self.model.genotype(),
            "alphas": self.model.alphas.tolist(),
        }


def search(
    args: argparse.Namespace, data: SearchData, benchmark: Benchmark | None, console: Console
) -> dict[str, dict[str, Any]]:
    """Run the searches that args ask for, step by step in turn; return their results and what compares them.

    Raises:
        ValueError: the data does not fill a batch.
    """
    weights = data.search_loader(data.weights, args.batch, args.seed)
    architecture = data.search_loader(data.architecture, args.batch, args.seed + 1)
    validation = data.validation_loader(args.batch)
    example = next(iter(data.search_loader(data.weights, args.batch, args.seed)))[0].to(args.device)
    searches = [Search(name, _supernet(name, args, data, example), args.order, args.epochs) for name in args.models]
    if args.report and "simplified" in args.models:
        print(searches[-1].model.report)

    steps = min(len(weights), args.limit_batches or len(weights))
    accuracies: dict[str, float] = {}
    with _progress(console) as progress:
        task = progress.add_task("epoch 1", total=steps * args.epochs)
        for epoch in range(args.epochs):
            for batches in islice(zip(weights, architecture, strict=True), steps):
                train, valid = ((images.to(args.device), targets.to(args.device)) for images, targets in batches)
                for one in searches:
                    one.step(train, valid)
                searches.reverse()  # nobody always goes first
                progress.advance(task)
            for one in searches:
                one.schedule.step()
                accuracies[one.name] = one.accuracy(validation, args.limit_batches, args.device)
            scores = ", ".join(f"{name} {accuracies[name]:.1f} %" for name in args.models)
            progress.update(task, description=f"epoch {epoch + 1}: {scores}")

    results = {one.name: one.result(example, accuracies[one.name]) for one in searches}
    if benchmark is not None:
        for result in results.values():
            result["benchmark"] = benchmark.look_up(result["cell"])
    return {name: results[name] for name in args.models}


def ratios(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return simplified over original for what a step costs; empty unless both ran."""
    if len(results) < 2:
        return {}
    return {cost: results["simplified"][cost] / results["original"][cost] for cost in ("seconds_a_step", "saved_bytes")}


def show(results: dict[str, dict[str, Any]], console: Console) -> None:
    """Print the table, and below it the cells and what the benchmark knows of them."""
    table = Table(title="DARTS on NAS-Bench-201")
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
            result["cell"].strip("|").replace("|+|", "\n").replace("|", " "),  # a node a line
            end_section=True,
        )
    if ratio := ratios(results):
        points = results["simplified"]["validation_accuracy"] - results["original"]["validation_accuracy"]
        table.add_row("ratio", f"{ratio['seconds_a_step']:.2f}", f"{ratio['saved_bytes']:.2f}", f"{points:+.1f} points")
    console.print(table)
    for name, result in results.items():
        console.print(f"{name}: {result['cell']}", soft_wrap=True, markup=False, highlight=False)
        if "benchmark" in result:
            console.print(f"    {result['benchmark'] or 'not in the benchmark'}", soft_wrap=True, highlight=False)


def parse(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, SearchData, Benchmark | None]:
    """Read the command line, the images and the benchmark; a mistake in any ends the program with one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--original", action="store_true", help="search on the supernet as it is, only")
    models.add_argument("--simplified", action="store_true", help="search on the simplified supernet, only")
    parser.add_argument("--order", type=int, choices=(1, 2), default=1, help="of the architecture's gradient")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder of images for each class; or else digits")
    parser.add_argument("--image-size", type=_positive, help="a multiple of 4; 8 for the digits, 32 for a folder")
    parser.add_argument("--C", type=_positive, default=16, help="channels of the first stage (%(default)s)")
    parser.add_argument("--N", type=_positive, default=2, help="cells a stage (%(default)s)")
    parser.add_argument("--epochs", type=_positive, default=20, help="through the search's images (%(default)s)")
    parser.add_argument("--batch", type=_positive, default=64, help="images a batch (%(default)s)")
    parser.add_argument("--limit-batches", type=_positive, metavar="N", help="at most N batches an epoch")
    parser.add_argument("--seed", type=int, default=0, help="of weights, split and batches (%(default)s)")
    parser.add_argument("--threads", type=_positive, help="of torch on the CPU; by default torch decides")
    parser.add_argument("--device", default="cpu", help="where to search, such as cuda (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the settings and results there")
    parser.add_argument("--report", action="store_true", help="print what toponas_fx merged, and what not and why")
    known = parser.add_mutually_exclusive_group()
    known.add_argument("--api", type=Path, metavar="PTH", help="the benchmark's own file, to look the cells up")
    known.add_argument("--table", type=Path, metavar="CSV", help="index,arch,cifar10,cifar100,imagenet16_120, or .gz")
    args = parser.parse_args(argv)

    args.models = ["original"] * (not args.simplified) + ["simplified"] * (not args.original)
    args.image_size = args.image_size or (8 if args.data is None else 32)
    if args.image_size % 4:
        parser.error(f"--image-size must be a multiple of 4, for two halvings, found {args.image_size}")
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json: there is no folder {args.json.parent} to write to")
    try:
        args.device = torch.device(args.device)
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device: torch cannot use {str(args.device)!r}: {str(error).splitlines()[0]}")
    try:
        data = _load_data(args)
        data.search_loader(data.weights, args.batch, args.seed)  # so that a batch too large is said now
        benchmark = BenchmarkTable(args.table) if args.table else BenchmarkApi(args.api) if args.api else None
    except ValueError as error:
        parser.error(str(error))
    return args, data, benchmark


def main(argv: Sequence[str] | None = None) -> None:
    """Search, print, and write the JSON."""
    args, data, benchmark = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console(width=None if sys.stdout.isatty() else 100)
    results = search(args, data, benchmark, console)
    show(results, console)
    if args.json:
        contents = {"settings": vars(args), "results": results, "ratios": ratios(results)}
        args.json.write_text(json.dumps(contents, indent=2, default=_plain) + "\n", encoding="utf-8")


def _supernet(name: str, args: argparse.Namespace, data: SearchData, example: torch.Tensor) -> NASBench201Supernet:
    torch.manual_seed(args.seed)  # both searches start from the same weights
    with args.device:
        model = NASBench201Supernet(args.C, args.N, data.num_classes, data.in_channels)
    return toponas_fx.simplify(model, example) if name == "simplified" else model


def _load_data(args: argparse.Namespace) -> SearchData:
    if args.data is None:
        return load_digits(args.image_size, args.seed)
    return load_folder(args.data, args.image_size, args.seed)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _progress(console: Console) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=console)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, found {text!r}")
    return int(text)


def _plain(value: object) -> object:
    return asdict(value) if isinstance(value, BenchmarkEntry) else str(value)


if __name__ == "__main__":
    main()
