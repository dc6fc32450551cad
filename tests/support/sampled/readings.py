"""GDAS's draw, and the ways in which Python reads which candidate it took."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from idiom import conv
from sampled.parts import C, Chain, Edge, candidates, sample


class _Read(Chain):
    """Draws once for all edges; a subclass says how an edge reads its own."""

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        weights, index = sample(self.alphas, self.tau)
        for number, ops in self.each():
            x = self.taken(ops, x, weights[number], index[number])
        return self.head(x)


class IndexOfAList(_Read):
    """``ops[index.item()]``, times its weight."""

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        chosen = int(index.item())
        return ops[chosen](x) * weights[chosen]


class TensorCompared(_Read):
    """``if i == argmax:`` where argmax is a tensor."""

    make = candidates

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        argmax = weights.detach().argmax()
        out = 0
        for i, op in enumerate(ops):
            if i == argmax:
                out = out + op(x) * weights[i]
            else:
                out = out + weights[i]
        return out


class TensorIndexes(_Read):
    """The drawn tensor itself indexes the list, through ``__index__``."""

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        return ops[index[0]](x) * weights[index[0]]


class ZerosSkipped(_Read):
    """Multiplies by the hard weights and leaves out those whose value is zero."""

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        hard = torch.zeros_like(weights).scatter(0, index, 1.0)
        return sum(w * op(x) for w, op, h in zip(weights, ops, hard, strict=True) if h.item() != 0)


class PositiveTaken(_Read):
    """``if hard[i] > 0``."""

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        hard = torch.zeros_like(weights).scatter(0, index, 1.0)
        outs = []
        for i, op in enumerate(ops):
            if hard[i] > 0:
                outs.append(op(x) * weights[i])
        return torch.stack(outs).sum(0)


class MaskOfFlags(_Read):
    """One flag a candidate, ``(hard == 1).tolist()``."""

    is_quick = False

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        flags = (torch.arange(len(ops)) == index).tolist()
        return sum(w * op(x) for w, op, flag in zip(weights, ops, flags, strict=True) if flag)


class WhereNonzero(_Read):
    """``nonzero`` finds the candidate."""

    is_quick = False

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        hard = torch.zeros_like(weights).scatter(0, index, 1.0)
        (chosen,) = hard.nonzero().flatten().tolist()
        return ops[chosen](x) * weights[chosen]


class ListedUpFront(Chain):
    """``index.tolist()`` before the first edge; it indexes a ModuleList and a plain list later."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = [0.5, 1.0, 2.0]

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        listed = index.squeeze(-1).tolist()
        for number, ops in self.each():
            x = ops[listed[number]](x) * weights[number, listed[number]]
        return self.head(x) * self.scales[listed[0]] + self.scales[listed[-1]]


class PickedUpFront(Chain):
    """All candidates are picked before the first one runs."""

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        picked = [ops[k] for (_, ops), k in zip(self.each(), index.squeeze(-1).tolist(), strict=True)]
        for number, op in enumerate(picked):
            x = op(x) * weights[number, index[number]]
        return self.head(x)


class RowsListed(_Read):
    """A one-hot row as a list of floats; small ones are left out (NAS-Bench-1Shot1)."""

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        values = weights.tolist()
        assert sum(abs(value) > 1e-10 for value in values) == 1
        return sum(weights[i] * ops[i](x) for i, value in enumerate(values) if abs(value) > 1e-10)


class ArrayUpFront(Chain):
    """The indexes as a numpy array."""

    is_quick = False

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        array = index.cpu().numpy().reshape(-1)
        for number, ops in self.each():
            x = ops[array[number]](x) * weights[number, array[number]]
        return self.head(x)


class DictOfNames(_Read):
    """Candidates by name in a dict of modules, names by index in a list."""

    NAMES: ClassVar[tuple[str, ...]] = ("skip_connect", "max_pool_3x3", "nor_conv_3x3")

    def __init__(self) -> None:
        super().__init__()
        for edge in self.edges:
            edge.ops = nn.ModuleDict(zip(self.NAMES, edge.ops, strict=True))

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        name = self.NAMES[index.item()]
        return ops[name](x) * weights[self.NAMES.index(name)]


class NameInText(_Read):
    """The index becomes part of an attribute's name."""

    is_quick = False

    def __init__(self) -> None:
        super().__init__()
        for edge in self.edges:
            edge.ops = nn.ModuleDict({f"op_{k}": op for k, op in enumerate(edge.ops)})

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        return getattr(ops, f"op_{index.item()}")(x) * weights[index.item()]


class Branches(_Read):
    """``if``, ``elif``, ``else``; another operation in each branch, no list."""

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        chosen = index.item()
        if chosen == 0:
            out = x
        elif chosen == 1:
            out = ops[1](x)
        else:
            out = ops[2](x).relu()
        return out * weights[chosen]

    def candidates(self) -> dict[str, nn.Module]:
        return {name: op for name, op in super().candidates().items() if not name.endswith(".0")}


class Matched(_Read):
    """A ``match`` statement."""

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        match index.tolist():
            case [0]:
                return ops[0](x) * weights[0]
            case [1 | 2 as k]:
                return ops[k](x) * weights[k]
            case other:
                raise ValueError(other)


class Member(_Read):
    """``chosen in (1, 2)`` tells candidates with weights from the one without."""

    is_quick = False

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        chosen = index.item()
        if chosen in (1, 2):
            return ops[chosen](x) + (1 - weights[0])
        return ops[0](x) * weights[0]


class TwoChoicesInOne(_Read):
    """``divmod`` takes one integer apart: which convolution, and how often it runs."""

    count = 2

    @staticmethod
    def make() -> list[nn.Module]:
        return [conv(1), conv(3)]

    def __init__(self) -> None:
        super().__init__()
        self.alphas = nn.Parameter(1e-1 * torch.randn(self.count, 4))

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        kernel, repeats = divmod(index.item(), 2)
        for _ in range(repeats + 1):
            x = ops[kernel](x)
        return x * weights[index.item()]


class ReadTwice(Chain):
    """One draw decides in two cells, read anew in each."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.ModuleList(Edge(type(self).make()) for _ in range(self.count))

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        for edges in (self.edges, self.more):
            for number, edge in enumerate(edges):
                x = edge.ops[index[number].item()](x) * weights[number][index[number].item()]
        return self.head(x)


class IndexReturned(Chain):
    """Forward returns which candidates it took, as a tensor and as a list."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        weights, index = sample(self.alphas, self.tau)
        listed = index.flatten().tolist()
        for number, ops in self.each():
            x = ops[listed[number]](x) * weights[number, listed[number]]
        return self.head(x), index, listed


class TensorReturned(IndexOfAList):
    """Forward returns the drawn tensor alone beside the logits, and the hard weights."""

    is_quick = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights, index = sample(self.alphas, self.tau)
        for number, ops in self.each():
            x = self.taken(ops, x, weights[number], index[number])
        return self.head(x), index, weights


class IndexComputedWith(_Read):
    """The drawn tensor takes part in the computation as well."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(3, C))

    def taken(self, ops: Any, x: Tensor, weights: Tensor, index: Tensor) -> Any:
        out = ops[index.item()](x) * weights[index.item()]
        return out + self.table[index].view(1, C, 1, 1) + 0.1 * index.to(x.dtype)
