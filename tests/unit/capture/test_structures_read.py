"""Structures that a model keeps and that forward reads in many ways: what is no choice of a graph is right, too."""

from __future__ import annotations

import copy
import random
import warnings
from typing import Any, ClassVar

import pytest
import torch
from test_structures_kept import IMAGES, PATHS, Kept, both
from torch import Tensor


class Emptied(Kept):
    """Forward takes the items out of its list, and puts them back: what is in it is state that forward changes."""

    def forward(self, x: Tensor) -> Tensor:
        for edge in self.edges:
            k = self.path.pop(0)
            x = edge[k](x)
            self.path.append(k)
        return x


class Counting(Kept):
    """Forward writes into the list that it reads."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        self.path[0] = (self.path[0] + 1) % 3
        return x


class CountingSometimes(Kept):
    """It does so on some paths only: the first that are met change nothing."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if self.path[0] == 2:
            self.path[1] = 0
        return x


class Shared(Kept):
    """Both edges hold the very list that the model has."""

    def set_path(self, path: Any) -> None:
        self.path = list(path)
        for edge in self.edges:
            edge.path = self.path

    def forward(self, x: Tensor) -> Tensor:
        for number, edge in enumerate(self.edges):
            x = edge[getattr(edge, "path", self.path)[number]](x)
        return x


class Looked(Kept):
    """One edge looks where no read is seen."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.edges[0][self.path[0]](x)
        return self.edges[1][self.__dict__["path"][1]](x)


class Copied(Kept):
    """What is read is a copy, made deep."""

    def forward(self, x: Tensor) -> Tensor:
        for edge, k in zip(self.edges, copy.deepcopy(self.path), strict=True):
            x = edge[k](x)
        return x


class Scaled(Kept):
    """The index is a number, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + self.path[0]) + sum(self.path)


class Remembered(Kept):
    """Paths are keys of a table outside of the model."""

    table: ClassVar[Any] = {path: float(number) for number, path in enumerate(PATHS)}

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.table[tuple(self.path)]


class Alike(Kept):
    """Whether both edges take the same is asked."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x.sigmoid() if self.path[0] == self.path[1] else x


ODD = [Emptied, Counting, CountingSometimes, Shared, Looked, Copied, Scaled, Remembered, Alike]


@pytest.mark.parametrize("kind", ODD, ids=lambda kind: kind.__name__)
def test_whatever_forward_does_with_it_is_right(kind: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some run as written
        model, fast = both(kind)
    order = random.Random(0)
    for path in [(1, 1), (0, 2), (1, 0)] + [order.choice(PATHS) for _ in range(14)] + PATHS:
        seen = []
        for one in (fast, model):
            before = copy.deepcopy(model.state_dict())
            one.set_path(path)
            torch.manual_seed(0)
            output = one(IMAGES)
            seen.append((output.tolist(), {name: value.tolist() for name, value in model.state_dict().items()}))
            model.load_state_dict(before)
        assert fast.path == model.path
        assert torch.allclose(torch.tensor(seen[0][0]), torch.tensor(seen[1][0]), rtol=1e-10, atol=1e-10)
        assert seen[0][1].keys() == seen[1][1].keys()
