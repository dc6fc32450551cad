"""Supernets whose forward, or whose hooks, do more than compute."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from idiom import C, Expected, Idiom, candidates, edges, mix, parameter


class _Effects(Idiom):
    """Two edges in a row; a subclass does something besides."""

    expected: ClassVar[Expected | None] = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4), edges()

    def body(self, x: Tensor) -> Any:
        for w, ops in zip(self.alphas.softmax(-1), self.edges, strict=True):
            x = mix(w, ops, x)
        return x

    def forward(self, x: Tensor) -> Any:
        return self.body(x)


class CountsCalls(_Effects):
    """A Python number counts the calls, and scales what comes out; a graph would not count."""

    expected = None
    as_written = "forward writes the attribute `calls`"

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.body(x)


class KeepsFeatures(_Effects):
    """The last features are kept, as numbers, for a look from outside."""

    expected = None
    as_written = "forward writes the attribute `features`"

    def forward(self, x: Tensor) -> Any:
        out = self.body(x)
        self.features = out.mean((2, 3)).tolist()
        return out


class MeasuresOnce(_Effects):
    """The first call writes each candidate's size on it (SNAS's ``flops``): no more is read of a weight than that."""

    expected = Expected(2, (4, 2), (4, 2))

    def forward(self, x: Tensor) -> Any:
        for op in (op for ops in self.edges for op in ops):  # type: ignore[union-attr]
            if not hasattr(op, "size"):
                op.size = sum(tensor.numel() for tensor in op.parameters())
        return self.body(x) * (1 + self.edges[0][2].size * 1e-3)  # type: ignore[index]


class AppendsHistory(_Effects):
    """A list on the model grows with each call."""

    expected = None
    as_written = "forward changes state in place"

    def __init__(self) -> None:
        super().__init__()
        self.history: list[int] = []

    def forward(self, x: Tensor) -> Any:
        self.history.append(len(self.history))
        return self.body(x)


class CountsInBuffer(_Effects):
    """A buffer counts the calls, another averages the weights; both are written in place, and read."""

    expected = Expected(3, (4, 2), (4, 2))
    calls: Tensor
    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("average", torch.zeros(2, 4))

    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.calls += 1
            with torch.no_grad():
                self.average.mul_(0.9).add_(self.alphas.softmax(-1), alpha=0.1)
        return self.body(x) * (1 + 0.01 * self.calls) + self.average.std()


class Logs(_Effects):
    """Sizes are logged and asserted on the way."""

    def forward(self, x: Tensor) -> Any:
        logging.getLogger(__name__).debug("input %s of %d images", tuple(x.shape[1:]), x.size(0))
        assert x.size(1) == C, f"{C} channels expected"
        return self.body(x)


def halve(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """Halve what a module returns."""
    return output * 0.5


class HookedCandidate(_Effects):
    """A forward hook on a convolution changes what it returns; the convolution runs whole, its norm too."""

    expected = Expected(2, (4, 3), (4, 3))

    def __init__(self) -> None:
        super().__init__()
        self.edges[0][2][1].register_forward_hook(halve)  # type: ignore[index]

    def change_state(self) -> None:
        self.edges[0][2][1]._forward_hooks.clear()  # type: ignore[index]


class _Edge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList(candidates())

    def forward(self, x: Tensor, w: Tensor) -> Any:
        return mix(w, self.ops, x)


class HookedEdge(Idiom):
    """A forward hook on an edge's own module: the whole edge runs as written, the other is simplified."""

    expected = Expected(1, (4, 3), (4, 3))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4), nn.ModuleList(_Edge() for _ in range(2))
        self.edges[0].register_forward_hook(halve)

    def forward(self, x: Tensor) -> Any:
        for w, edge in zip(self.alphas.softmax(-1), self.edges, strict=True):
            x = edge(x, w)
        return x

    def change_state(self) -> None:
        self.edges[0]._forward_hooks.clear()
