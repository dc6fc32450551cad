"""What a sampled supernet tells the tests that step it, and the candidates and draws that several of them share.

A file of this folder holds the idioms of one kind, each a class below ``Sampled``; ``collected.SAMPLED`` lists them.
They are restated from public code, none of it is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from idiom import Zero, conv, pool

C = 4
"""Channels of the sampled supernets."""


class Sampled(nn.Module):
    """A supernet of which each step takes a part; its architecture parameters have ``alpha`` in their names.

    Attributes:
        mode: of ``simplify``; ``"exact"`` for one that mixes candidates in some of its steps.
        turns: how many steps take each candidate of each edge at least once.
        is_smooth: whether gradients can be differentiated once more.
        is_quick: whether plain pytest steps it; not where that takes over a second, or where a near relative is.
    """

    mode: ClassVar[str] = "share"
    turns: ClassVar[int] = 12
    is_smooth: ClassVar[bool] = True
    is_quick: ClassVar[bool] = True

    def prepare(self, step: int) -> None:
        """Do what the search loop does before a step: set a temperature, draw an architecture; most need nothing."""

    def arguments(self, x: Tensor, step: int) -> tuple[Any, ...]:
        """Return forward's arguments."""
        return (x,)

    def outputs(self, x: Tensor, step: int) -> Any:
        """Run forward on a batch of images as often as a step does; most steps do once."""
        return self(*self.arguments(x, step))

    def loss(self, output: Any) -> Tensor:
        """Return the loss, f64[]: all floats of the output, weighted and squared."""
        leaves = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
        return sum((_squared(t) for t in leaves), torch.zeros(()))

    def after_backward(self) -> None:
        """Do what the search loop does between ``backward`` and the optimizers; most need nothing."""

    def arch(self) -> list[Tensor]:
        """Return the architecture parameters."""
        return [parameter for name, parameter in self.named_parameters() if "alpha" in name]

    def candidates(self) -> dict[str, nn.Module]:
        """Return the candidates of all edges, which lie in lists and dicts of modules named ``ops``."""
        return {
            f"{name}.{index}": op
            for name, ops in self.named_modules()
            if name.rpartition(".")[2] in ("ops", "_ops", "candidate_ops")
            for index, op in ops.named_children()
        }


def _squared(t: Tensor) -> Tensor:
    ramp = torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t)
    return (t * ramp).mean() + 0.5 * t.square().mean()


def candidates(c: int = C) -> list[nn.Module]:
    """Return the candidates of NAS-Bench-201: none, skip, average pooling, two ReLU-conv-BN."""
    return [Zero(), nn.Identity(), nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv(1, c), conv(3, c)]


def few(c: int = C) -> list[nn.Module]:
    """Return three candidates: skip, max pooling with a norm, ReLU-conv-BN."""
    return [nn.Identity(), pool(c), conv(3, c, affine=True)]


class Edge(nn.Module):
    """The candidates of one edge."""

    def __init__(self, ops: list[nn.Module]) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops)


class Head(nn.Module):
    """Global pooling and a classifier."""

    def __init__(self, c: int = C, classes: int = 3) -> None:
        super().__init__()
        self.classifier = nn.Linear(c, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(x.mean((2, 3)))


class Chain(Sampled):
    """Edges in a row, then a head; a subclass says what is drawn and how the draw is read."""

    count: ClassVar[int] = 3
    make: ClassVar[Callable[[], list[nn.Module]]] = few

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList(Edge(type(self).make()) for _ in range(self.count))
        self.alphas = nn.Parameter(1e-1 * torch.randn(self.count, len(self.edges[0].ops)))
        self.head, self.tau = Head(), 5.0

    def each(self) -> Iterator[tuple[int, Any]]:
        """Yield each edge's number and candidates."""
        for number, edge in enumerate(self.edges):
            yield number, edge.ops


def sample(alphas: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Return GDAS's weights, one-hot with the gradient of the soft ones, f[E,O], and the candidates taken, i64[E,1]."""
    while True:
        gumbels = -torch.empty_like(alphas).exponential_().log()
        soft = ((alphas.log_softmax(dim=1) + gumbels) / tau).softmax(dim=1)
        index = soft.max(-1, keepdim=True)[1]
        hard = torch.zeros_like(soft).scatter_(-1, index, 1.0) - soft.detach() + soft
        if torch.isinf(gumbels).any() or torch.isinf(soft).any() or torch.isnan(soft).any():
            continue
        return hard, index
