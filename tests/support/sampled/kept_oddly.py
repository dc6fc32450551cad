"""Structures that a model keeps and that forward reads oddly: some are no choices of a graph, all must be right."""

from __future__ import annotations

import random
from typing import Any

from torch import Tensor, nn

from sampled.kept import ActiveEdge, Edges
from sampled.parts import few


class DepthKept(Edges):
    """How many edges run is set besides their candidates."""

    turns = 24

    def __init__(self) -> None:
        super().__init__()
        self.depth = 3

    def prepare(self, step: int) -> None:
        super().prepare(step)
        self.depth = random.randint(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        for edge in list(self.edges)[: self.depth]:
            x = edge(x)
        return self.head(x)


class NamesJoined(Edges):
    """Two names are one key, joined by what looks into neither."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds, self.sizes = ["conv", "pool"], ["small", "large"]
        self.kind, self.size = "conv", "small"
        parts = few() + few()
        self.ops = nn.ModuleDict({"_".join((k, s)): parts.pop() for k in self.kinds for s in self.sizes})

    def prepare(self, step: int) -> None:
        super().prepare(step)
        self.kind, self.size = random.choice(self.kinds), random.choice(self.sizes)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.ops["_".join((self.kind, self.size))](x))


class NamesSearched(Edges):
    """A name is searched for in a text, which asks it for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = ["conv", "pool", "skip"]
        self.kind = "conv"

    def prepare(self, step: int) -> None:
        super().prepare(step)
        self.kind = random.choice(self.kinds)

    def forward(self, x: Tensor) -> Tensor:
        x = x.tanh() if self.kind in "pool, skip" else x
        return super().forward(self.edges[0].ops[self.kinds.index(self.kind)](x))


class ListEmptied(Edges):
    """Forward takes the items out of a copy of its list."""

    def __init__(self) -> None:
        super().__init__()
        self.path = [0, 0, 0]

    def prepare(self, step: int) -> None:
        self.path = [random.randrange(3) for _ in range(3)]

    def forward(self, x: Tensor) -> Tensor:
        left = list(self.path)
        for edge in self.edges:
            x = edge.ops[left.pop(0)](x)
        return self.head(x)


class ReadByTable(ListEmptied):
    """Forward looks into the table of its attributes."""

    def forward(self, x: Tensor) -> Tensor:
        for edge, k in zip(self.edges, vars(self)["path"], strict=True):
            x = edge.ops[k](x)
        return self.head(x)


class PathReturned(ListEmptied):
    """The path is an output, and left in an attribute."""

    def forward(self, x: Tensor) -> Any:
        for edge, k in zip(self.edges, self.path, strict=True):
            x = edge.ops[k](x)
        self.last = self.path[-1]
        return self.head(x), self.path[0]


class AskingEdge(ActiveEdge):
    """An edge that knows an integer by its type."""

    def forward(self, x: Tensor) -> Tensor:
        return self.ops[self.active](x) if type(self.active) is int else x


class TypeAsked(Edges):
    """What is an int is asked with ``type``."""

    edge = AskingEdge
