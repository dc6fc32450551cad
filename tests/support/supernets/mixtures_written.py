"""Supernets that differ in how they write the weighted sum over candidates."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from idiom import C, Expected, Idiom, edges, parameter


class _Written(Idiom):
    """Two edges in a row; a subclass writes the mixed operation."""

    expected: ClassVar[Expected | None] = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4), edges()

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        for w, ops in zip(self.alphas.softmax(-1), self.edges, strict=True):
            x = self.mix(w, ops, x)
        return x


class ByList(_Written):
    """A list of products, then its sum (dragen1860)."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return sum([v * op(x) for v, op in zip(w, ops, strict=True)])


class Flipped(_Written):
    """The candidate first, its weight second (AutoDL)."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return sum(op(x) * v for v, op in zip(w, ops, strict=True))


class FromZero(_Written):
    """Starts at the number 0 and adds with ``+=`` (ZARTS)."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        out: Any = 0
        for v, op in zip(w, ops, strict=True):
            out += v * op(x)
        return out


class FromFloat(_Written):
    """Starts at 0.0 and adds to the right; weights by ``enumerate`` (aw_nas)."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        out: Any = 0.0
        for i, op in enumerate(ops):
            out = w[i] * op(x) + out
        return out


class FromZeros(_Written):
    """Adds with ``+=`` to a tensor of zeros like the input."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        out = torch.zeros_like(x)
        for v, op in zip(w, ops, strict=True):
            out += v * op(x)
        return out


class FromNewZeros(_Written):
    """Adds to zeros of a shape that is written out."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        n, c, height, width = x.shape
        out = x.new_zeros(n, c, height, width)
        for v, op in zip(w, ops, strict=True):
            out = out + v * op(x)
        return out


class InPlace(_Written):
    """Adds with the method ``add_``."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        out = w[0] * ops[0](x)
        for i in range(1, len(ops)):
            out.add_(w[i] * ops[i](x))
        return out


class ByFunctions(_Written):
    """``torch.add`` and ``torch.mul`` instead of operators."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        out = torch.mul(ops[0](x), w[0])
        for i in range(1, len(ops)):
            out = torch.add(out, torch.mul(ops[i](x), w[i]))
        return out


class ByMethods(_Written):
    """The methods ``add`` and ``mul``."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        out = ops[0](x).mul(w[0])
        for i in range(1, len(ops)):
            out = out.add(ops[i](x).mul(w[i]))
        return out


class Reduced(_Written):
    """``functools.reduce`` with a lambda."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return functools.reduce(lambda out, pair: out + pair[0] * pair[1](x), zip(w, ops, strict=True), 0)


class _Picked(Idiom):
    """Two edges that read one input, whose weights a subclass picks."""

    expected = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4), edges()

    def pick(self, w: Tensor, i: int, j: int) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        w, out = self.alphas.softmax(-1), []
        for i, ops in enumerate(self.edges):
            out.append(sum(self.pick(w, i, j) * op(x) for j, op in enumerate(ops)))
        return out[0] + out[1]


class IndexTwice(_Picked):
    """``w[i][j]``."""

    def pick(self, w: Tensor, i: int, j: int) -> Tensor:
        return w[i][j]


class IndexPair(_Picked):
    """``w[i, j]``."""

    def pick(self, w: Tensor, i: int, j: int) -> Tensor:
        return w[i, j]


class Sliced(_Picked):
    """``w[i:i+1, j]``, one element that is still a row."""

    def pick(self, w: Tensor, i: int, j: int) -> Tensor:
        return w[i : i + 1, j]


class Viewed(_Picked):
    """Each weight reshaped to four dimensions."""

    def pick(self, w: Tensor, i: int, j: int) -> Tensor:
        return w[i][j].view(-1, 1, 1, 1)


class Unbound(_Picked):
    """``unbind``, twice."""

    def pick(self, w: Tensor, i: int, j: int) -> Tensor:
        return w.unbind(0)[i].unbind()[j]


class Averaged(_Written):
    """Divided by the number of candidates (IS-DARTS)."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return sum(v * op(x) for v, op in zip(w, ops, strict=True)) / len(ops)


class DividedBySum(_Written):
    """Divided by the sum of the weights that took part."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return sum(v * op(x) for v, op in zip(w[1:], ops[1:], strict=True)) / w[1:].sum()

    def set_vertex(self, seed: int) -> None:
        with torch.no_grad():
            self.alphas.fill_(-1e5)
            self.alphas[:, 1 + seed % 3] = 0.0


class Auxiliary(_Written):
    """An auxiliary skip whose weight decays, a python number (DARTS-)."""

    expected = Expected(4, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.decay = 0.7

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        out: Any = sum(v * op(x) for v, op in zip(w, ops, strict=True))
        out += x * self.decay
        return out

    def change_state(self) -> None:
        self.decay = 0.1


class PerImage(Idiom):
    """Each image has weights of its own, which multiply it alone: no mixed operation of scalars (aw_nas)."""

    expected = Expected(0, (4, 4), (4, 4))
    has_vertices: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(4), edges()
        self.gate = nn.Linear(C, 4)

    def forward(self, x: Tensor) -> Any:
        for ops in self.edges:
            w = (self.gate(x.mean((2, 3))) + self.alphas).softmax(-1)
            x = sum(w[:, i].view(-1, 1, 1, 1) * op(x) for i, op in enumerate(ops))
        return x
