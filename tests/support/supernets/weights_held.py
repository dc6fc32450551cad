"""Supernets whose architecture weights are held by objects, graphs and nested containers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import networkx as nx
from torch import Tensor, nn
from torch.nn import functional as F

from exactness import weights
from idiom import C, Expected, Idiom, candidates, conv, edges, mix, parameter

TWO_EDGES = Expected(2, (4, 2), (4, 2))


class Computed(Idiom):
    """The weights are a property that takes the softmax of the logits (dragen1860)."""

    expected = TWO_EDGES

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4), edges()

    @property
    def weights(self) -> Tensor:
        return self.alphas.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        for i, ops in enumerate(self.edges):
            x = mix(self.weights[i], ops, x)
        return x


class PerNode(Idiom):
    """A node has one matrix for all edges that enter it; states and rows are zipped (pt.darts)."""

    expected = Expected(3, (6, 3), (6, 3))

    def __init__(self) -> None:
        super().__init__()
        self.alphas = nn.ParameterList([parameter(1, 4), parameter(2, 4, seed=3)])
        self.nodes = nn.ModuleList(edges(n) for n in (1, 2))

    def arch(self) -> list[Tensor]:
        return list(self.alphas)

    def forward(self, x: Tensor) -> Tensor:
        states = [x]
        for alpha, node in zip(self.alphas, self.nodes, strict=True):
            w = F.softmax(alpha, dim=-1)
            states.append(sum(mix(row, ops, s) for row, ops, s in zip(w, node, states, strict=True)))
        return states[-1]


class ByName(Idiom):
    """A table from edge names to rows; edges in a ``ModuleDict`` (AutoDL's NAS-Bench-201)."""

    expected = Expected(3, (6, 3), (6, 3))

    def __init__(self) -> None:
        super().__init__()
        names = ["1<-0", "2<-0", "2<-1"]
        self.edge2index = {name: i for i, name in enumerate(names)}
        self.arch_parameters = parameter(3, 4)
        self.edges = nn.ModuleDict({name: nn.ModuleList(candidates()) for name in names})

    def arch(self) -> list[Tensor]:
        return [self.arch_parameters]

    def forward(self, x: Tensor) -> Tensor:
        w, nodes = F.softmax(self.arch_parameters, dim=-1), [x]
        for i in (1, 2):
            inner = []
            for j in range(i):
                name = f"{i}<-{j}"
                row = w[self.edge2index[name]]
                inner.append(sum(op(nodes[j]) * v for op, v in zip(self.edges[name], row, strict=True)))
            nodes.append(sum(inner))
        return nodes[-1]


class Nested(Idiom):
    """Lists in a list: one for each cell, in it one tensor for each edge."""

    expected = Expected(3, (6, 3), (6, 3))

    def __init__(self) -> None:
        super().__init__()
        self.alphas = [[weights(4)], [weights(4, seed=3), weights(4, seed=4)]]
        self.cells = nn.ModuleList(edges(n) for n in (1, 2))

    def arch(self) -> list[Tensor]:
        return [alpha for cell in self.alphas for alpha in cell]

    def forward(self, x: Tensor) -> Tensor:
        for rows, cell in zip(self.alphas, self.cells, strict=True):
            x = sum(mix(F.softmax(row, -1), ops, x) for row, ops in zip(rows, cell, strict=True))
        return x


@dataclass
class _Edge:
    name: str
    alpha: Tensor
    history: list[float] = field(default_factory=list)


class InObjects(Idiom):
    """Plain objects, one for each edge, in a dict keyed by pairs of nodes."""

    expected = TWO_EDGES

    def __init__(self) -> None:
        super().__init__()
        self.table = {(i, i + 1): _Edge(f"edge {i}", weights(4, seed=i)) for i in (0, 1)}
        self.edges = edges()

    def arch(self) -> list[Tensor]:
        return [edge.alpha for edge in self.table.values()]

    def forward(self, x: Tensor) -> Tensor:
        for (start, _), edge in self.table.items():
            x = mix(edge.alpha.softmax(0), self.edges[start], x)
        return x


class _Pair(NamedTuple):
    normal: Tensor
    reduce: Tensor


class InNamedTuple(Idiom):
    """A named tuple of tensors."""

    expected = TWO_EDGES

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = _Pair(weights(4), weights(4, seed=3)), edges()

    def arch(self) -> list[Tensor]:
        return list(self.alphas)

    def forward(self, x: Tensor) -> Tensor:
        x = mix(F.softmax(self.alphas.normal, -1), self.edges[0], x)
        return mix(F.softmax(self.alphas.reduce, -1), self.edges[1], x)


class OnGraph(Idiom):
    """The data of a networkx graph's edges, walked in topological order; modules registered besides (NASLib)."""

    expected = Expected(3, (6, 3), (6, 3))

    def __init__(self) -> None:
        super().__init__()
        self.dag = nx.DiGraph([(1, 2), (1, 3), (2, 3)])
        self.edges = nn.ModuleDict()
        for i, (tail, head, data) in enumerate(self.dag.edges(data=True)):
            self.edges[f"{tail}-{head}"] = nn.ModuleList(candidates())
            data["alpha"] = parameter(4, seed=i)

    def arch(self) -> list[Tensor]:
        return [data["alpha"] for _, _, data in self.dag.edges(data=True)]

    def forward(self, x: Tensor) -> Any:
        values = {1: x}
        for head in list(nx.topological_sort(self.dag))[1:]:
            terms = []
            for tail in self.dag.predecessors(head):
                w = F.softmax(self.dag.edges[tail, head]["alpha"], dim=-1)
                ops = self.edges[f"{tail}-{head}"]
                terms.append(sum(v * op.forward(values[tail]) for v, op in zip(w, ops, strict=True)))
            values[head] = sum(terms)
        return values[3]


class OpsOnGraph(Idiom):
    """A dict of dicts is the graph; its edges hold weights and modules, which ``add_module`` registers (NASLib)."""

    expected = TWO_EDGES

    def __init__(self) -> None:
        super().__init__()
        self.dag: Any = {"in": {}, "middle": {}}
        for i, (tail, head) in enumerate((("in", "middle"), ("middle", "out"))):
            self.dag[tail][head] = {"op": nn.ModuleList(candidates()), "alpha": parameter(4, seed=i)}
            self.add_module(f"edge_{tail}_{head}", self.dag[tail][head]["op"])

    def arch(self) -> list[Tensor]:
        return [data["alpha"] for heads in self.dag.values() for data in heads.values()]

    def forward(self, x: Tensor) -> Tensor:
        for heads in self.dag.values():
            for data in heads.values():
                x = mix(F.softmax(data["alpha"], dim=-1), data["op"], x)
        return x


class _Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList(candidates())
        self.alpha: Tensor | None = None

    def set_alpha(self, alpha: Tensor) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Any:
        assert self.alpha is not None
        return sum(w * op(x) for w, op in zip(self.alpha, self.ops, strict=True))


class HandedDown(Idiom):
    """Forward hands each edge its row by setting an attribute of it before calling it, and takes it back."""

    expected = TWO_EDGES

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4), nn.ModuleList(_Mixed() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for row, edge in zip(self.alphas.softmax(-1), self.edges, strict=True):
            edge.set_alpha(row)  # type: ignore[operator]
            x = edge(x)
        for edge in self.edges:
            edge.alpha = None
        return x


class Factored(Idiom):
    """Weights of an edge are the outer sum of weights for its place and for its candidates."""

    expected = TWO_EDGES

    def __init__(self) -> None:
        super().__init__()
        self.places, self.alphas, self.edges = parameter(2, 1), parameter(1, 4, seed=3), edges()

    def arch(self) -> list[Tensor]:
        return [self.alphas]

    def forward(self, x: Tensor) -> Tensor:
        w = (self.places + self.alphas).softmax(-1)
        return mix(w[1], self.edges[1], mix(w[0], self.edges[0], x))


class OneHolder(Idiom):
    """All weights in one flat vector, split by the number of each edge's candidates."""

    expected = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.counts = parameter(7), [4, 3]
        self.edges = nn.ModuleList([nn.ModuleList(candidates()), nn.ModuleList([nn.Identity(), conv(3, C), conv(1)])])

    def forward(self, x: Tensor) -> Tensor:
        for row, ops in zip(self.alphas.split(self.counts), self.edges, strict=True):
            x = mix(row.softmax(0), ops, x)
        return x

    def set_vertex(self, seed: int) -> None:
        logits = [-1e5] * 7
        logits[seed % 4] = logits[4 + seed % 3] = 0.0
        self.alphas.data.copy_(self.alphas.new_tensor(logits))
