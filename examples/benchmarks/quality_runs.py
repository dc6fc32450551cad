"""One search of the NAS-Bench-201 space for `search_quality.py`: what is searched with what, and all that it shows.

Every method searches the same cells on the same loop (`search_loop`); every variant is the same supernet from the same
weights, as its user wrote it or as one setting of `toponas_fx.simplify` makes it.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import toponas_fx
from architect import Batch
from benchmarks.quality_finish import finish
from benchmarks.quality_metrics import CellTable, rank_correlation, spread
from beta_darts import BetaArchitect
from image_data import SearchData, load_digits, load_folder
from search_darts import cool, strengthen
from search_loop import MOMENTUM, WEIGHT_DECAY, Method, Search
from search_nasbench201 import node_lines
from supernets.gdas import GDASSupernet
from supernets.nasbench201 import CANDIDATES, NASBench201Supernet
from supernets.partial_nasbench201 import PartialNASBench201Supernet
from toponas_fx.passes import DEFAULT_PASSES, NormalizeKernels

ORIGINAL = "original"
RANK_BATCHES = 8
FRESH = 1000
"""Between the seed of a search and that of the weights which training from scratch begins with."""


@dataclass(frozen=True)
class Run:
    """What one search is; equal ones give equal results.

    Attributes:
        method: of `METHODS`.
        variant: of `VARIANTS`.
        seed: of the split, the weights and the batches.
        C: channels of the first stage.
        N: cells a stage.
        affine: whether candidates' norms learn a scale and a shift.
        epochs: of the original, through the images of the weights.
        batch: images.
        image_size: side.
        arch_lr: Adam's learning rate for the architecture weights.
        limit_batches: an epoch, and of validation, at most; all where None.
        budget: "steps" where all variants take as many, "seconds" where as many as fit into the original's seconds.
    """

    method: str
    variant: str
    seed: int
    C: int
    N: int
    affine: bool
    epochs: int
    batch: int
    image_size: int
    arch_lr: float
    limit_batches: int | None
    budget: str = "steps"


def _supernet(kind: type[NASBench201Supernet]) -> Callable[[argparse.Namespace, SearchData], NASBench201Supernet]:
    def make(args: Any, data: SearchData) -> NASBench201Supernet:
        return kind(args.C, args.N, data.num_classes, data.in_channels, affine=args.affine)

    return make


_DARTS, _PARTIAL, _GDAS = map(_supernet, (NASBench201Supernet, PartialNASBench201Supernet, GDASSupernet))
METHODS: dict[str, tuple[Method, int]] = {  # with the order of the architecture's gradient
    "darts": (Method("DARTS", _DARTS, node_lines, CANDIDATES), 1),
    "darts-2nd": (Method("DARTS, second order", _DARTS, node_lines, CANDIDATES), 2),
    "beta-darts": (Method("β-DARTS", _DARTS, node_lines, CANDIDATES, BetaArchitect, strengthen), 1),
    "pc-darts": (Method("PC-DARTS", _PARTIAL, node_lines, CANDIDATES), 1),
    "gdas": (Method("GDAS", _GDAS, node_lines, CANDIDATES, anneal=cool), 1),
}
VARIANTS: dict[str, dict[str, Any] | None] = {  # options of simplify; None is the supernet as it is
    ORIGINAL: None,
    "exact": {"mode": "exact"},
    "share": {},
    "share-filter": {"normalize": "filter"},
    "share-plain": {"passes": tuple(entry for entry in DEFAULT_PASSES if not isinstance(entry, NormalizeKernels))},
}


@cache
def load(data: Path | None, image_size: int, seed: int) -> SearchData:
    """Return the images of a search, all in memory; scikit-learn's digits where there is no folder."""
    if data is None:
        return load_digits(image_size, seed)
    return load_folder(data, image_size, seed, in_memory=True)


@cache
def load_table(path: Path) -> CellTable:
    """Return the table of all cells."""
    return CellTable(path)


def search(run: Run, data: Path | None, table: Path, *, length: int, rank: int = 0, more: int = 0) -> dict[str, Any]:
    """Search, and return all that is known of it, ready for JSON.

    Seconds are those of this process on its processors, of steps and compilation alone; they do not count what is
    measured in between.

    Args:
        run: what to search with.
        data: a folder of images, or None for scikit-learn's digits.
        table: the benchmark's table of all cells.
        length: epochs of this search.
        rank: cells to compare the supernet's ranking by, in the end, on ``RANK_BATCHES`` of validation; none where 0.
        more: epochs for which the cell that was found is trained then, see ``quality_finish``; none where 0.
    """
    torch.set_num_threads(1)
    images, cells = load(data, run.image_size, run.seed), load_table(table)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        one, compiling = _make(run, images, length)
        epochs = list(_epochs(one, run, images, cells, compiling, length))
    found = {**asdict(run), "length": length, "compile_seconds": round(compiling, 2), "log": epochs}
    if rank:
        batches = _validation(images, run)[:RANK_BATCHES]
        found["rank"] = rank_correlation(one.model, cells, batches, rank, seed=0)
    if more:
        torch.manual_seed(run.seed + FRESH)
        fresh = METHODS[run.method][0].supernet(run, images)
        loader = images.search_loader(images.weights, run.batch, run.seed + FRESH)
        found["finish"] = finish(one.model, fresh, loader, _validation(images, run), more, run.limit_batches)
    found["notes"] = list(dict.fromkeys(str(warning.message) for warning in caught))
    return found


def _make(run: Run, images: SearchData, length: int) -> tuple[Search, float]:
    """Return the search, and the seconds that `simplify` took."""
    method, order = METHODS[run.method]
    options = VARIANTS[run.variant]
    torch.manual_seed(run.seed)  # all variants start from the same weights
    model: Any = method.supernet(run, images)
    example = next(iter(images.search_loader(images.weights, run.batch, run.seed)))[0]
    start = time.process_time()
    if options is not None:
        model = toponas_fx.simplify(model, example, **options)
    seconds = time.process_time() - start
    architect = method.architect(model, lr=run.arch_lr, network_momentum=MOMENTUM, network_weight_decay=WEIGHT_DECAY)
    return Search(run.variant, model, architect, order, length), seconds


def _epochs(
    one: Search, run: Run, images: SearchData, cells: CellTable, seconds: float, length: int
) -> Iterator[dict[str, Any]]:
    """Yield what is known after each epoch."""
    anneal = METHODS[run.method][0].anneal
    weights = images.search_loader(images.weights, run.batch, run.seed)
    architecture = images.search_loader(images.architecture, run.batch, run.seed + 1)
    validation = _validation(images, run)
    torch.manual_seed(run.seed)
    steps = 0
    for epoch in range(length):
        anneal(one, epoch / max(1, length - 1))
        for train, valid in islice(zip(weights, architecture, strict=True), run.limit_batches):
            start = time.process_time()
            one.step(tuple(train), tuple(valid))
            seconds += time.process_time() - start
            steps += 1
        one.schedule.step()
        alphas, cell = one.model.arch_parameters()[0], one.model.genotype()
        yield {
            "steps": steps,
            "seconds": round(seconds, 3),
            "accuracy": round(one.accuracy(validation, None, torch.device("cpu")), 3),
            "cell": cell,
            "found": cells.of_cell(cell),
            "expected": cells.expected(alphas),
            **spread(alphas),
        }


def _validation(images: SearchData, run: Run) -> list[Batch]:
    return [tuple(pair) for pair in islice(images.validation_loader(run.batch), run.limit_batches)]
