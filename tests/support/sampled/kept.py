"""Structures that a model keeps, and of which the search sets others before each step: RANDOM, ENAS, ProxylessNAS, NNI.

``given`` and ``gates`` have some of these, too.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sampled.parts import Chain, Edge, Head, Sampled, few, sample


class ActiveEdge(Edge):
    """An edge that keeps the index of the candidate that it runs."""

    def __init__(self, ops: list[nn.Module]) -> None:
        super().__init__(ops)
        self.active = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.ops[self.active](x)


class Edges(Sampled):
    """Edges in a row, each with an integer; a subclass says what else they are, and what is set."""

    is_quick = False
    edge: ClassVar[type[Edge]] = ActiveEdge

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList(self.edge(few()) for _ in range(3))
        self.head = Head()

    def prepare(self, step: int) -> None:
        for edge in self.edges:
            edge.active = random.randrange(3)

    def forward(self, x: Tensor) -> Tensor:
        for edge in self.edges:
            x = edge(x)
        return self.head(x)


class DefaultEdge(Edge):
    """The class says which candidate runs until the search does."""

    active = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.ops[self.active](x)


class DefaultOfClass(Edges):
    """The attribute goes before the class's."""

    edge = DefaultEdge


class ComparingEdge(ActiveEdge):
    """An edge that finds its candidate by comparing."""

    def forward(self, x: Tensor) -> Tensor:
        for index, op in enumerate(self.ops):
            if index == self.active:
                taken = op(x)
        return taken


class FoundByComparison(Edges):
    """No index is read."""

    edge = ComparingEdge


class SkippingEdge(ActiveEdge):
    """An edge that is skipped for -1."""

    def forward(self, x: Tensor) -> Tensor:
        return x if self.active < 0 else self.ops[self.active](x)


class SkippedByMinusOne(Edges):
    """One value is no index."""

    turns = 24
    edge = SkippingEdge

    def prepare(self, step: int) -> None:
        for edge in self.edges:
            edge.active = random.randrange(-1, 3)


class PathEdge(Edge):
    """Candidates that are children by number; the one that is set is read by text (NNI's path sampling)."""

    def __init__(self, ops: list[nn.Module]) -> None:
        nn.Module.__init__(self)
        for index, op in enumerate(ops):
            self.add_module(str(index), op)
        self._sampled: Any = "0"

    def forward(self, x: Tensor) -> Tensor:
        if self._sampled is None:
            raise RuntimeError("nothing is sampled yet")
        names = self._sampled if isinstance(self._sampled, list) else [self._sampled]
        found = [getattr(self, str(name))(x) for name in names]
        return found[0] if len(found) == 1 else sum(found)


class PathsByName(Edges):
    """A name on each edge, or a number that is made one."""

    edge = PathEdge

    def prepare(self, step: int) -> None:
        self.edges[0]._sampled = str(random.randrange(3))
        self.edges[1]._sampled = random.randrange(3)
        self.edges[2]._sampled = [str(random.randrange(3)), str(random.randrange(3))]


class Structure:
    """The candidate of each edge by name and the state that it reads, node by node (AutoDL-Projects)."""

    def __init__(self, nodes: list[tuple[tuple[str, int], ...]]) -> None:
        self.node_num, self.nodes = len(nodes) + 1, nodes

    def __getitem__(self, index: int) -> tuple[tuple[str, int], ...]:
        return self.nodes[index]


class StructureSet(Sampled):
    """The loop keeps an object with a structure on the model; forward finds candidates by name (RANDOM, ENAS)."""

    def __init__(self) -> None:
        super().__init__()
        self.op_names = ["skip", "pool", "conv"]
        self.edges = nn.ModuleDict({f"{i}<-{j}": Edge(few()) for i in range(1, 4) for j in range(i)})
        self.head = Head()
        self.sampled_arch: Any = None
        self.prepare(0)

    def prepare(self, step: int) -> None:
        drawn = [[(random.choice(self.op_names), j) for j in range(i)] for i in range(1, 4)]
        self.sampled_arch = Structure([tuple(node) for node in drawn])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x, self.sampled_arch))

    def cell(self, x: Tensor, structure: Structure) -> Tensor:
        states = [x]
        for i in range(1, structure.node_num):
            inner = []
            for name, j in structure[i - 1]:
                inner.append(self.edges[f"{i}<-{j}"].ops[self.op_names.index(name)](states[j]))
            states.append(sum(inner))
        return states[-1]


class InputsSet(Chain):
    """Which earlier state each node reads is set besides the candidate (ENAS)."""

    is_quick = False

    def __init__(self) -> None:
        super().__init__()
        self.dag = [[0, 0]] * self.count

    def prepare(self, step: int) -> None:
        self.dag = [[random.randint(0, number), random.randrange(3)] for number in range(self.count)]

    def forward(self, x: Tensor) -> Tensor:
        states = [x]
        for (number, ops), (source, k) in zip(self.each(), self.dag, strict=True):
            states.append(ops[k](states[source]) + self.alphas[number, k])
        return self.head(states[-1])


class DictSet(Chain):
    """A dict by the names of edges."""

    is_quick = False

    def __init__(self) -> None:
        super().__init__()
        self.prepare(0)

    def prepare(self, step: int) -> None:
        self.architecture = {f"edge{number}": random.randrange(3) for number in range(self.count)}

    def forward(self, x: Tensor) -> Tensor:
        for number, ops in self.each():
            k = self.architecture[f"edge{number}"]
            x = ops[k](x) * self.alphas[number, k].exp()
        return self.head(x)


class ListChanged(DictSet):
    """The same list every step, its items others."""

    def __init__(self) -> None:
        self.architecture: Any = None
        super().__init__()

    def prepare(self, step: int) -> None:
        if not isinstance(self.architecture, list):
            self.architecture = [0] * self.count
        for number in range(self.count):
            self.architecture[number] = random.randrange(3)

    def forward(self, x: Tensor) -> Tensor:
        for (_, ops), k in zip(self.each(), self.architecture, strict=True):
            x = ops[k](x)
        return self.head(x)


class EpochBeside(ListChanged):
    """A number that is no choice changes as well, now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0

    def prepare(self, step: int) -> None:
        super().prepare(step)
        self.epoch = step // 6

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * (1 + 0.5**self.epoch))


class DrawnBeside(ListChanged):
    """The first edge draws its candidate in forward."""

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        for (number, ops), k in zip(self.each(), self.architecture, strict=True):
            if number == 0:
                k = index[0].item()
            x = ops[k](x) * weights[0, index[0].item()] if number == 0 else ops[k](x)
        return self.head(x)


class FullEdge(Edge):
    """All candidates run, those that are not active without a gradient."""

    def __init__(self, ops: list[nn.Module]) -> None:
        super().__init__(ops)
        self.gates = nn.Parameter(torch.tensor([1.0, 0.0, 0.0]))
        self.active_index, self.inactive_index = [0], [1, 2]

    def forward(self, x: Tensor) -> Tensor:
        output: Any = 0
        for k in self.active_index:
            output = output + self.gates[k] * self.ops[k](x)
        for k in self.inactive_index:
            output = output + self.gates[k] * self.ops[k](x).detach()
        return output


class GatedInFull(Edges):
    """Two lists of indices on each edge (ProxylessNAS, mode "full")."""

    edge = FullEdge

    def prepare(self, step: int) -> None:
        for edge in self.edges:
            taken = random.randrange(3)
            edge.active_index = [taken]
            edge.inactive_index = [k for k in range(3) if k != taken]
            edge.gates.data = torch.eye(3, dtype=edge.gates.dtype)[taken]
