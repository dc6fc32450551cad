"""After a search: the cell that was found is trained on from the weights it had in the supernet, and from scratch.

Users retrain what a search found, or fine-tune it. A simplified supernet is untied for that: ``toponas_fx.restore``
returns the user's class, and the loop goes on with it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

import toponas_fx
from architect import Batch
from benchmarks.quality_metrics import choices_of
from search_loop import GRADIENT_CLIP, LEARNING_RATE, LEARNING_RATE_MIN, MOMENTUM, WEIGHT_DECAY
from supernets.nasbench201 import EDGES, MixedOp, NASBench201Supernet


class Chosen(nn.Module):
    """An edge with one candidate, in the place of a mixed operation."""

    def __init__(self, candidate: nn.Module) -> None:
        super().__init__()
        self.candidate = candidate

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Map f32[N,C,H,W] to the same shape; the architecture weights, f32[O], count no more."""
        return self.candidate(x)


def derived(supernet: NASBench201Supernet, choices: Sequence[int]) -> NASBench201Supernet:
    """Leave one candidate on each edge of a supernet.

    Args:
        supernet: as its user wrote it; changed.
        choices: the candidates' numbers, in the order of ``EDGES``.
    """
    for cell in supernet.cells:
        for edge, choice in zip(EDGES, choices, strict=True) if hasattr(cell, "edges") else ():
            mixed: MixedOp = cell.edges[edge]
            cell.edges[edge] = Chosen(mixed._ops[choice])
    return supernet


def finish(
    model: Any, fresh: NASBench201Supernet, train: Any, validation: Sequence[Batch], epochs: int, limit: int | None
) -> dict[str, list[float]]:
    """Train the cell that a search found for some epochs, from its weights in the supernet and from scratch.

    Args:
        model: the supernet after the search, simplified or not; left as it is.
        fresh: a supernet with new weights; changed.
        train: batches of images and targets, drawn again each epoch.
        validation: batches to be judged by.
        epochs: of training, the learning rate falling by a cosine.
        limit: batches of an epoch, at most.

    Returns:
        Accuracies in validation, in percent, before the first epoch and after each: "inherited" and "scratch".
    """
    is_plain = type(model) is type(fresh)
    plain = copy.deepcopy(model) if is_plain else toponas_fx.restore(model)
    choices = choices_of(model.genotype())
    starts = {"inherited": derived(plain, choices), "scratch": derived(fresh, choices)}
    return {name: list(_train(network, train, validation, epochs, limit)) for name, network in starts.items()}


def _train(
    network: NASBench201Supernet, train: Any, validation: Sequence[Batch], epochs: int, limit: int | None
) -> Iterator[float]:
    weights = [parameter for parameter in network.parameters() if parameter is not network.alphas]
    optimizer = SGD(weights, lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    schedule = CosineAnnealingLR(optimizer, max(1, epochs), eta_min=LEARNING_RATE_MIN)
    yield _accuracy(network, validation)
    for _ in range(epochs):
        network.train()
        for images, targets in islice(train, limit):
            optimizer.zero_grad()
            F.cross_entropy(network(images), targets).backward()
            clip_grad_norm_(weights, GRADIENT_CLIP)
            optimizer.step()
        schedule.step()
        yield _accuracy(network, validation)


@torch.no_grad()
def _accuracy(network: nn.Module, validation: Sequence[Batch]) -> float:
    network.eval()
    right = sum(int((network(images).argmax(dim=1) == targets).sum()) for images, targets in validation)
    return round(100 * right / sum(len(targets) for _, targets in validation), 3)
