"""Paths that the search loop draws: an argument of forward, or an attribute that it sets."""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sampled.parts import C, Chain, Head, Sampled


class _Given(Chain):
    """Forward is given the path."""

    def forward(self, x: Tensor, architecture: Any) -> Tensor:
        for (number, ops), k in zip(self.each(), architecture, strict=True):
            x = ops[k](x) + self.alphas[number, k]
        return self.head(x)


class TupleOfChoices(_Given):
    """A tuple of ints, drawn with ``random`` (SPOS)."""

    def arguments(self, x: Tensor, step: int) -> tuple[Any, ...]:
        return x, tuple(random.randrange(3) for _ in range(self.count))


class ListOfChoices(_Given):
    """A list of ints, drawn with numpy (SPOS)."""

    is_quick = False

    def arguments(self, x: Tensor, step: int) -> tuple[Any, ...]:
        return x, numpy.random.randint(3, size=self.count).tolist()


class TensorOfChoices(_Given):
    """A tensor of ints, drawn with torch; forward reads them."""

    is_quick = False

    def arguments(self, x: Tensor, step: int) -> tuple[Any, ...]:
        return x, torch.randint(3, (self.count,))

    def forward(self, x: Tensor, architecture: Tensor) -> Tensor:
        return super().forward(x, [k.item() for k in architecture])


class FairPermutations(_Given):
    """Each candidate of each edge once a step, in the orders of permutations; gradients add up (FairNAS)."""

    is_quick = False

    def arguments(self, x: Tensor, step: int) -> tuple[Any, ...]:
        return x, [0] * self.count

    def outputs(self, x: Tensor, step: int) -> list[Tensor]:
        orders = [torch.randperm(3).tolist() for _ in range(self.count)]
        return [self(x, [order[turn] for order in orders]) for turn in range(3)]


class KeywordChoice(_Given):
    """The path in a dict."""

    is_quick = False

    def arguments(self, x: Tensor, step: int) -> tuple[Any, ...]:
        return (x, {f"edge{number}": random.randrange(3) for number in range(self.count)})

    def forward(self, x: Tensor, architecture: Any) -> Tensor:
        return super().forward(x, [architecture[f"edge{number}"] for number in range(self.count)])


class AttributeSet(_Given):
    """The loop sets the path as an attribute (random search)."""

    is_quick = False

    def __init__(self) -> None:
        super().__init__()
        self.architecture = [0] * self.count

    def prepare(self, step: int) -> None:
        self.architecture = [random.randrange(3) for _ in range(self.count)]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, self.architecture)


class FixedForAWhile(AttributeSet):
    """``set_active`` fixes the path for five steps, or none, and then forward draws."""

    turns, is_quick = 20, False

    def set_active(self, path: Any) -> None:
        self.architecture = path

    def prepare(self, step: int) -> None:
        if step % 5 == 0:
            self.set_active(None if step % 2 else [random.randrange(3) for _ in range(self.count)])

    def forward(self, x: Tensor) -> Tensor:
        if self.architecture is not None:
            return super().forward(x)
        return _Given.forward(self, x, torch.randint(3, (self.count,)).tolist())


class Controlled(Sampled):
    """A path of nodes: each an input among those before and an operation, set by a controller's samples (ENAS)."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = nn.ModuleList(
            nn.ModuleDict({"ops": nn.ModuleList([nn.Conv2d(C, C, 3, padding=1), nn.Tanh(), nn.AvgPool2d(3, 1, 1)])})
            for _ in range(3)
        )
        self.norm, self.head = nn.BatchNorm2d(C), Head()
        self.dag: list[tuple[int, int]] = [(0, 0)] * 3

    def prepare(self, step: int) -> None:
        self.dag = [(random.randint(0, number), random.randrange(3)) for number in range(3)]

    def forward(self, x: Tensor) -> Tensor:
        states, read = [x], set()
        for node, (source, k) in zip(self.nodes, self.dag, strict=True):
            states.append(node["ops"][k](states[source]))
            read.add(source)
        loose = [state for number, state in enumerate(states) if number not in read]
        return self.head(self.norm(sum(loose) / len(loose)))


class ElasticKernel(nn.Module):
    """A kernel of 5 whose middle serves as one of 3, and whose first channels as fewer (OFA)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, 2 * C, 5, bias=False)
        self.back = nn.Conv2d(2 * C, C, 1)
        self.active_kernel, self.active_width = 5, 2 * C

    def forward(self, x: Tensor) -> Tensor:
        cut, width = (5 - self.active_kernel) // 2, self.active_width
        kernel = self.conv.weight[:width, :, cut : 5 - cut, cut : 5 - cut]
        out = F.conv2d(x, kernel, padding=self.active_kernel // 2).relu()
        return x + F.conv2d(out, self.back.weight[:, :width], self.back.bias)


class OnceForAll(Sampled):
    """Kernel, width and depth are set as attributes by ``sample_active_subnet``; stages end early."""

    turns = 0

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ElasticKernel() for _ in range(3))
        self.head, self.runtime_depth = Head(), 3

    def prepare(self, step: int) -> None:
        self.runtime_depth = random.randint(1, 3)
        for block in self.blocks:
            block.active_kernel, block.active_width = random.choice((3, 5)), random.choice((C, 2 * C))

    def forward(self, x: Tensor) -> Tensor:
        for block in list(self.blocks)[: self.runtime_depth]:
            x = block(x)
        return self.head(x)
