"""The loop that the example searches share: the supernet as it is and as toponas_fx makes it, in turn.

A script says in a `Method` what its search differs in; the options are those of `search_options`, and what came out is
shown by `search_results`.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

import toponas_fx
from architect import Architect, Batch, DartsModel
from image_data import SearchData
from search_plots import History, tensorboard_writer
from toponas_fx.analysis.costs import saved_bytes

LEARNING_RATE, LEARNING_RATE_MIN = 0.025, 0.001
MOMENTUM = 0.9
WEIGHT_DECAY = 3e-4
GRADIENT_CLIP = 5.0

Results = dict[str, dict[str, Any]]
"""For each supernet, "original" or "simplified", what its search cost and found."""


class Supernet(DartsModel, Protocol):
    """What a supernet offers to the whole loop; `nn.Module` has the rest."""

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the weights' optimizer trains."""

    def genotype(self) -> Any:
        """Return the architecture of the strongest candidates."""


class Search:
    """One search: a supernet, the optimizers of its weights and its architecture, and what its steps took.

    Attributes:
        mode: what ``simplify`` is asked for.
        validates_by_batches: whether norms have a batch's own statistics in validation, instead of the running ones.
    """

    mode: ClassVar[str] = "share"
    validates_by_batches: ClassVar[bool] = False

    def __init__(self, name: str, model: Supernet, architect: Architect, order: int, epochs: int) -> None:
        self.name = name
        self.model = model
        self.order = order
        self.simplify_seconds = 0.0
        self.saved_bytes = 0
        self.seconds: list[float] = []
        self.optimizer = SGD(model.weight_parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        self.schedule = CosineAnnealingLR(self.optimizer, epochs, eta_min=LEARNING_RATE_MIN)
        self.architect = architect

    def step(self, train: Batch, valid: Batch) -> float:
        """Train the architecture on one batch, then the weights on another, by the clock; return the latter's loss."""
        start = _now(train[0].device)
        self.model.train()
        eta = self.optimizer.param_groups[0]["lr"]
        self.architect.step(train, valid, eta, self.optimizer, unrolled=self.order == 2)
        self.optimizer.zero_grad()
        loss = self.loss(*train)
        loss.backward()
        clip_grad_norm_(self.model.weight_parameters(), GRADIENT_CLIP)
        self.optimizer.step()
        self.seconds.append(_now(train[0].device) - start)
        return float(loss.detach())

    def loss(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss that trains the weights."""
        return self.model._loss(images, targets)

    @staticmethod
    def inputs(model: Supernet, images: torch.Tensor) -> tuple[Any, ...]:
        """Return what forward takes."""
        return (images,)

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits by which the architecture found so far, or the whole supernet, is validated."""
        return self.model(images)

    def genotype(self) -> Any:
        """Return the architecture found so far."""
        return self.model.genotype()

    @torch.no_grad()
    def accuracy(self, loader: DataLoader, limit: int | None, device: torch.device) -> float:
        """Return the share of images, in percent, that are predicted right."""
        self.model.train(self.validates_by_batches)
        right = total = 0
        for images, targets in islice(loader, limit):
            predictions = self.predict(images.to(device)).argmax(dim=1)
            right += int((predictions == targets.to(device)).sum())
            total += len(targets)
        return 100 * right / total

    def result(self, accuracy: float) -> dict[str, Any]:
        """Return what the table shows."""
        return {
            "simplify_seconds": self.simplify_seconds,
            "seconds_a_step": statistics.median(self.seconds),
            "saved_bytes": self.saved_bytes,
            "validation_accuracy": accuracy,
            "cell": self.genotype(),
            "alphas": [alphas.tolist() for alphas in self.model.arch_parameters()],
        }


def _no_annealing(search: Search, progress: float) -> None:
    """Leave the search as it is."""


def _arch_parameters(search: Search) -> Sequence[torch.Tensor]:
    return search.model.arch_parameters()


@dataclass(frozen=True)
class Method:
    """What one search differs in from another.

    Attributes:
        title: of the table.
        supernet: makes the supernet as it is from the settings and the data.
        lines: writes a genotype for the table, a line a node.
        candidates: names of the candidate operations, for plots.
        architect: trains the architecture of a supernet.
        anneal: sets what changes between epochs; progress goes from 0 in the first epoch to 1 in the last.
        weighing: what weighs a search's candidates before the softmax, each f32[E,O] or f32[O]; by default all of the
            architecture parameters.
        search: takes the steps.
    """

    title: str
    supernet: Callable[[argparse.Namespace, SearchData], Supernet]
    lines: Callable[[Any], str]
    candidates: Sequence[str]
    architect: Callable[..., Architect] = Architect
    anneal: Callable[[Search, float], None] = _no_annealing
    weighing: Callable[[Any], Sequence[torch.Tensor]] = _arch_parameters
    search: type[Search] = Search

    def weights(self, search: Search) -> list[torch.Tensor]:
        """Return what each candidate counts now, each f32[E,O] or f32[O]."""
        return [torch.softmax(alphas.detach(), dim=-1) for alphas in self.weighing(search)]


def run_searches(
    method: Method, args: argparse.Namespace, data: SearchData, console: Console
) -> tuple[Results, list[str]]:
    """Run the searches that args ask for, step by step in turn.

    Returns:
        Their results, and notes: what toponas_fx and torch warned of.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        results = _run_searches(method, args, data, console)
    return results, list(dict.fromkeys(str(warning.message) for warning in caught))


def _run_searches(method: Method, args: argparse.Namespace, data: SearchData, console: Console) -> Results:
    weights = data.search_loader(data.weights, args.batch, args.seed)
    architecture = data.search_loader(data.architecture, args.batch, args.seed + 1)
    validation = data.validation_loader(args.batch)
    example = next(iter(data.search_loader(data.weights, args.batch, args.seed)))[0].to(args.device)
    searches = [make_search(name, method, args, data, example, method.search) for name in args.models]
    histories = {one.name: _history(one, method, args) for one in searches}
    if args.report and "simplified" in args.models:
        print(searches[-1].model.report)

    steps = min(len(weights), args.limit_batches or len(weights))
    accuracies: dict[str, float] = {}
    with _progress(console) as progress:
        task = progress.add_task("epoch 1", total=steps * args.epochs)
        for epoch in range(args.epochs):
            for one in searches:
                method.anneal(one, epoch / max(1, args.epochs - 1))
            for step, batches in enumerate(islice(zip(weights, architecture, strict=True), steps), epoch * steps):
                train, valid = ((images.to(args.device), targets.to(args.device)) for images, targets in batches)
                for one in searches:
                    torch.manual_seed(args.seed + step)  # where a path is drawn, both draw it by the same numbers
                    loss = one.step(train, valid)
                    histories[one.name].add_step(one.seconds[-1], loss, method.weights(one))
                searches.reverse()  # nobody always goes first
                progress.advance(task)
            for one in searches:
                one.schedule.step()
                accuracies[one.name] = one.accuracy(validation, args.limit_batches, args.device)
                histories[one.name].add_accuracy(accuracies[one.name])
            scores = ", ".join(f"{name} {accuracies[name]:.1f} %" for name in args.models)
            progress.update(task, description=f"epoch {epoch + 1}: {scores}")

    for history in histories.values():
        history.close()
    results = {one.name: one.result(accuracies[one.name]) for one in searches}
    return {name: results[name] | {"history": histories[name]} for name in args.models}


def _history(search: Search, method: Method, args: argparse.Namespace) -> History:
    writer = tensorboard_writer(args.logdir / search.name) if args.logdir else None
    return History(method.candidates, search.simplify_seconds, writer)


def make_search(
    name: str,
    method: Method,
    args: argparse.Namespace,
    data: SearchData,
    example: torch.Tensor,
    kind: type[Search] = Search,
) -> Search:
    """Return the search on the original or the simplified supernet, whose weights the seed decides."""
    torch.manual_seed(args.seed)  # both searches start from the same weights
    with args.device:
        model = method.supernet(args, data)
    start = _now(args.device)
    if name == "simplified":
        model = toponas_fx.simplify(model, kind.inputs(model, example), mode=kind.mode)
    seconds = _now(args.device) - start
    architect = method.architect(model, lr=args.arch_lr, network_momentum=MOMENTUM, network_weight_decay=WEIGHT_DECAY)
    search = kind(name, model, architect, args.order, args.epochs)
    search.simplify_seconds = seconds if name == "simplified" else 0.0
    torch.manual_seed(args.seed)  # and, where a path is drawn, save for backward what the same path does
    search.saved_bytes = saved_bytes(model, *kind.inputs(model, example))
    return search


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _progress(console: Console) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=console)
