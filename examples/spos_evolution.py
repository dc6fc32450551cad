"""Single Path One-Shot: paths drawn uniformly train the weights, and evolution looks for the best path.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling" (arXiv 1904.00420), sections 3.2
and 3.4. A generation keeps its best paths, and fills up with crossovers of two of them and with mutations of one. Two
things differ from the paper, so that a search of minutes shows its course: a generation follows each epoch, where the
paper has 20 behind the last one, and validation uses the batches' own statistics in the norms, where the paper
computes running statistics anew for each path.

Shapes: B blocks, O candidates of a block.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD
from torch.utils.data import DataLoader

from architect import Batch
from image_data import SearchData
from search_loop import Method, Search
from supernets.spos_mobile import CHOICES, Choice, SPOSSupernet

POPULATION, PARENTS = 10, 4
MUTATION = 0.1
"""The probability that a mutation changes a block."""


class Evolution:
    """Paths that compete.

    Attributes:
        population: the paths of the next generation.
        best: the best path of the last generation; before there is one, a path of the first.
    """

    def __init__(self, counts: Sequence[int], seed: int = 0) -> None:
        """Draw the first generation.

        Args:
            counts: candidates of each block, B numbers.
            seed: of all draws.
        """
        self.counts = counts
        self.random = random.Random(seed)
        self.population = [tuple(map(self.random.randrange, counts)) for _ in range(POPULATION)]
        self.best = self.population[0]

    def compete(self, score: Callable[[Choice], float]) -> float:
        """Score a generation, make the next one of its best paths, and return the score of the best."""
        scores = {path: score(path) for path in dict.fromkeys(self.population)}
        parents = sorted(scores, key=scores.__getitem__, reverse=True)[:PARENTS]
        children = [self._crossover(parents) if i % 2 else self._mutation(parents) for i in range(POPULATION - PARENTS)]
        self.population, self.best = parents + children, parents[0]
        return scores[self.best]

    def _crossover(self, parents: list[Choice]) -> Choice:
        pair = self.random.choice(parents), self.random.choice(parents)
        return tuple(map(self.random.choice, zip(*pair, strict=True)))

    def _mutation(self, parents: list[Choice]) -> Choice:
        blocks = zip(self.random.choice(parents), self.counts, strict=True)
        return tuple(
            self.random.randrange(count) if self.random.random() < MUTATION else taken for taken, count in blocks
        )


class NoArchitect:
    """Trains nothing: evolution follows the training of the weights."""

    def __init__(self, model: SPOSSupernet, **options: Any) -> None:
        """Take what `Architect` takes."""

    def step(self, train: Batch, valid: Batch, eta: float, network_optimizer: SGD, unrolled: bool) -> None:
        """Leave the architecture as it is."""


class SPOSSearch(Search):
    """A search whose weights are trained by paths drawn uniformly.

    Attributes:
        evolution: of the paths.
        path: what is validated; the best path behind each epoch.
    """

    validates_by_batches = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.evolution = Evolution([len(block.ops) for block in self.model.blocks])
        self.path = self.evolution.best

    @staticmethod
    def inputs(model: SPOSSupernet, images: Tensor) -> tuple[Any, ...]:
        """Return the images and a path."""
        return images, model.uniform_choice()

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of the weights on a path that is drawn for it."""
        return self.model._loss(images, targets, self.model.uniform_choice())

    def predict(self, images: Tensor) -> Tensor:
        """Return the logits of the path that is validated."""
        return self.model(images, self.path)

    def genotype(self) -> list[str]:
        """Return the best path by the names of its candidates."""
        return self.model.genotype(self.path)

    def accuracy(self, loader: DataLoader, limit: int | None, device: torch.device) -> float:
        """Let a generation compete, and return the best path's accuracy in percent."""

        def score(path: Choice) -> float:
            self.path = path
            return super(SPOSSearch, self).accuracy(loader, limit, device)

        accuracy = self.evolution.compete(score)
        self.path = self.evolution.best
        return accuracy


def _supernet(args: argparse.Namespace, data: SearchData) -> SPOSSupernet:
    return SPOSSupernet(args.C, args.layers or 1, data.num_classes, data.in_channels)


def _uniform(search: Search) -> list[Tensor]:
    """Return zeros, f32[O] a block: all candidates are equally likely, from the first step to the last."""
    return [torch.zeros(len(block.ops)) for block in search.model.blocks]


METHOD = Method(
    "Single Path One-Shot on mobile blocks",
    _supernet,
    "\n".join,
    CHOICES,
    NoArchitect,
    weighing=_uniform,
    search=SPOSSearch,
)
