"""What tells searches of NAS-Bench-201 apart: metrics of architecture weights and of the supernet, with little noise.

Dong and Yang, "NAS-Bench-201" (arXiv 2001.00326) trained all 15,625 cells; a table gives their test accuracies. The
accuracy of the cell of strongest candidates jumps while architecture weights are nearly equal; the *expected* accuracy
of a cell drawn from their softmax, one candidate an edge independently, does not.

Shapes: E = 6 edges, O = 5 candidates, alphas f32[E,O] before the softmax.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy.stats import kendalltau, spearmanr
from torch import Tensor, nn

from architect import Batch
from benchmark_lookup import DATASETS, BenchmarkTable
from supernets.nasbench201 import CANDIDATES, EDGES

ONE = 1e4
"""What an alpha is above the others of its row to weigh 1 in their softmax, and they 0."""
TOP = 0.1
"""The share of cells that count as the best."""


class CellTable:
    """The test accuracies of every cell, f64[O,O,O,O,O,O] a data set, by the candidates on `EDGES` in their order."""

    def __init__(self, path: Path) -> None:
        """Read a table as `benchmark_lookup.BenchmarkTable` does.

        Raises:
            ValueError: there is no such file, it is no such table, or cells are missing.
        """
        shape = (len(CANDIDATES),) * len(EDGES)
        self.accuracies = {name: torch.full(shape, torch.nan, dtype=torch.float64) for name in DATASETS}
        for entry in BenchmarkTable(path).entries():
            place = choices_of(entry.arch)
            for name, accuracies in self.accuracies.items():
                accuracies[place] = getattr(entry, name)
        missing = int(torch.isnan(next(iter(self.accuracies.values()))).sum())
        if missing:
            raise ValueError(f"the table {path} lacks {missing} of {len(CANDIDATES) ** len(EDGES)} cells")

    def of_cell(self, cell: str) -> dict[str, float]:
        """Return a cell's test accuracies, in percent."""
        place = choices_of(cell)
        return {name: round(float(accuracies[place]), 4) for name, accuracies in self.accuracies.items()}

    def expected(self, alphas: Tensor) -> dict[str, float]:
        """Return the mean test accuracies, in percent, of a cell whose candidates are drawn from softmax(alphas)."""
        rows = F.softmax(alphas.detach().double().cpu(), dim=-1)  # f64[E,O]
        found = {}
        for name, accuracies in self.accuracies.items():
            mean = accuracies
            for row in reversed(rows):
                mean = mean @ row  # over the last edge that is left
            found[name] = round(float(mean), 4)
        return found


def choices_of(cell: str) -> tuple[int, ...]:
    """Return the number of the candidate on each of `EDGES`, from how the benchmark writes a cell."""
    return tuple(CANDIDATES.index(name) for name in re.findall(r"([^|+~]+)~\d", cell))


def spread(alphas: Tensor) -> dict[str, float]:
    """Return the entropy of an edge's softmax, in nats, mean over edges (ln 5 where nothing is decided), and shares.

    `skip` and `none` are how often the cell of strongest candidates has these, of 6: both grow where a search
    collapses.
    """
    logs = F.log_softmax(alphas.detach().double().cpu(), dim=-1)
    strongest = [CANDIDATES[index] for index in logs.argmax(dim=-1).tolist()]
    return {
        "entropy": round(float(-(logs.exp() * logs).sum(dim=-1).mean()), 4),
        "skip": strongest.count("skip_connect") / len(strongest),
        "none": strongest.count("none") / len(strongest),
    }


@torch.no_grad()
def rank_correlation(model: nn.Module, table: CellTable, batches: Sequence[Batch], cells: int, seed: int) -> dict:
    """Compare how a supernet ranks cells with how training from scratch does.

    Args:
        model: the supernet; each cell is run through it with one-hot architecture weights. Left as it was.
        table: what training from scratch reached.
        batches: images of validation.
        cells: how many, drawn with the seed.
        seed: of the draw, the same for all supernets that are compared.

    Returns:
        For norms with running statistics ("running") and with those of each batch ("batch"): Kendall's tau, Spearman's
        rho, and the share of the best tenth that the supernet's best tenth has ("precision").
    """
    everything = range(len(CANDIDATES) ** len(EDGES))
    places = [_digits(index) for index in random.Random(seed).sample(everything, cells)]
    truth = [float(table.accuracies["cifar10"][place]) for place in places]
    found: dict[str, dict[str, float]] = {}
    with _left_alone(model):
        for statistics, training in (("running", False), ("batch", True)):
            model.train(training)
            scores = [_accuracy(model, place, batches) for place in places]
            found[statistics] = {
                "kendall": round(float(kendalltau(scores, truth).statistic), 4),
                "spearman": round(float(spearmanr(scores, truth).statistic), 4),
                "precision": _precision(scores, truth),
            }
    return found


def _digits(index: int) -> tuple[int, ...]:
    return tuple(index // len(CANDIDATES) ** edge % len(CANDIDATES) for edge in range(len(EDGES)))


def _accuracy(model: nn.Module, place: Sequence[int], batches: Sequence[Batch]) -> float:
    model.alphas.zero_()
    model.alphas[range(len(EDGES)), place] = ONE
    right = sum(int((model(images).argmax(dim=1) == targets).sum()) for images, targets in batches)
    return right / sum(len(targets) for _, targets in batches)


def _precision(scores: Sequence[float], truth: Sequence[float]) -> float:
    count = max(1, round(TOP * len(scores)))

    def best(values: Sequence[float]) -> set[int]:
        return set(sorted(range(len(values)), key=lambda i: (-values[i], i))[:count])

    return len(best(scores) & best(truth)) / count


@contextlib.contextmanager
def _left_alone(model: nn.Module) -> Iterator[None]:
    """Put values, buffers and modes back on exit."""
    saved: Mapping[str, Tensor] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    alphas, training = model.alphas.detach().clone(), model.training
    try:
        yield
    finally:
        model.load_state_dict(saved)
        model.alphas.copy_(alphas)  # a plain tensor is not among them
        model.train(training)
