"""Supernets whose mixed operations are computed right and recognised by more than their additions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from idiom import Expected, Idiom, candidates, edges, parameter
from mixtures_written import _Picked, _Written
from weights_made import _Made


class Detached(_Made):
    """No gradient to the weights of the skips."""

    def make(self) -> Any:
        w = self.alphas.softmax(-1)
        return [[v.detach() if i == 1 else v for i, v in enumerate(row)] for row in w]


class Recursive(_Written):
    """The first candidate plus the mixed operation of the rest."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        first = w[0] * ops[0](x)
        return first if len(ops) == 1 else first + self.mix(w[1:], ops[1:], x)


class SkipsNone(Idiom):
    """A loop over names that leaves out the candidate "none", weight and all."""

    expected = Expected(1, (2, 1), (2, 1))

    def __init__(self) -> None:
        super().__init__()
        self.alphas = parameter(4)
        self.ops = nn.ModuleDict(dict(zip(("none", "skip", "conv_3x3", "conv_1x1"), candidates(), strict=True)))

    def forward(self, x: Tensor) -> Any:
        out: Any = 0
        for i, (name, op) in enumerate(self.ops.items()):
            if name == "none":
                continue
            out = out + self.alphas.softmax(-1)[i] * op(x)
        return out


class Selected(_Picked):
    """``select`` and ``narrow``."""

    def pick(self, w: Tensor, i: int, j: int) -> Tensor:
        return w.select(0, i).narrow(0, j, 1)


class Chunked(_Picked):
    """``chunk`` into single elements."""

    def pick(self, w: Tensor, i: int, j: int) -> Tensor:
        return w[i].chunk(4)[j].squeeze()


class Flat(_Picked):
    """Counted through all edges in one flat row, with an offset."""

    def pick(self, w: Tensor, i: int, j: int) -> Tensor:
        return w.view(-1)[4 * i + j]


class Difference(_Written):
    """Candidates are added and one is taken away; what is subtracted does not share."""

    expected = Expected(2, (4, 4), (4, 4))

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return w[1] * ops[1](x) + w[2] * ops[2](x) - w[3] * ops[3](x) - w[0] * ops[0](x)


class StackView(_Written):
    """A stack of candidates, times the weights viewed as five dimensions."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return (torch.stack([op(x) for op in ops]) * w.view(-1, 1, 1, 1, 1)).sum(0)


class StackNone(_Written):
    """A stack of candidates, times the weights with four new axes."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return (w[:, None, None, None, None] * torch.stack([op(x) for op in ops], dim=0)).sum(dim=0)


class StackLast(_Written):
    """Stacked along a last axis, where weights broadcast by themselves."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return torch.sum(torch.stack([op(x) for op in ops], dim=-1) * w, dim=-1)


class StackSecond(_Written):
    """Stacked along the second axis, reduced there (batch first)."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return torch.stack([op(x) for op in ops], 1).mul(w.view(1, -1, 1, 1, 1)).sum(1)


class StackMatmul(_Written):
    """Stacked along a last axis, times the vector of weights by ``@``."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return torch.stack([op(x) for op in ops], dim=-1) @ w


class FlatMatmul(_Written):
    """Candidates flattened to rows, one product of matrices; right, though not read as a mix."""

    expected = Expected(0, (4, 4), (4, 4))

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        rows = torch.stack([op(x).flatten() for op in ops])
        return torch.matmul(w, rows).view_as(x)


class FlatStack(_Written):
    """The stack is flattened as a whole, then multiplied by the weights; right, though not read as a mix."""

    expected = Expected(0, (4, 4), (4, 4))

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        stack = torch.stack([op(x) for op in ops])
        return (w @ stack.view(len(ops), -1)).view(stack.shape[1:])


class EinsumN(_Written):
    """``einsum`` over a stack."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return torch.einsum("n,nbchw->bchw", w, torch.stack([op(x) for op in ops]))


class EinsumDots(_Written):
    """``einsum`` with dots, the stack first."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return torch.einsum("i...,i->...", torch.stack([op(x) for op in ops]), w)


class TensordotOne(_Written):
    """``tensordot`` over one dimension."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return torch.tensordot(w, torch.stack([op(x) for op in ops]), dims=1)


class TensordotLists(_Written):
    """``tensordot`` with lists of dimensions, the stack first."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return torch.tensordot(torch.stack([op(x) for op in ops]), w, dims=([0], [0]))


class WeightedStack(_Written):
    """Each candidate weighted, then stacked and summed."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return torch.stack([v * op(x) for v, op in zip(w, ops, strict=True)]).sum(0)


class CatView(_Written):
    """Concatenated along the channels, viewed as one axis more and reduced."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        n, c, height, width = x.shape
        joined = torch.cat([op(x) for op in ops], dim=1).view(n, len(ops), c, height, width)
        return (joined * w.view(1, -1, 1, 1, 1)).sum(1)


class CatUnsqueezed(_Written):
    """Each candidate gets an axis, they are concatenated along it and reduced; right, though not read as a mix."""

    expected = Expected(0, (4, 4), (4, 4))

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return (torch.cat([op(x).unsqueeze(0) for op in ops]) * w.reshape(-1, 1, 1, 1, 1)).sum(0)


class AddAlpha(Idiom):
    """``add_`` and ``torch.add`` with ``alpha``, python numbers that state holds."""

    expected = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges, self.rates = parameter(2, 4), edges(), [0.5, 1.5, -1.0]

    def forward(self, x: Tensor) -> Tensor:
        for w, ops in zip(self.alphas.softmax(-1), self.edges, strict=True):
            out = w[0] * ops[0](x)
            out.add_(w[1] * ops[1](x), alpha=self.rates[0])
            out = torch.add(out, w[2] * ops[2](x), alpha=self.rates[1])
            x = out.sub(w[3] * ops[3](x), alpha=self.rates[2])
        return x

    def change_state(self) -> None:
        self.rates[0] = 0.25


class Addcmul(_Written):
    """``torch.addcmul`` adds each weighted candidate; right, though not read as a mixed operation."""

    expected = Expected(0, (4, 4), (4, 4))

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        out = torch.zeros_like(x)
        for v, op in zip(w, ops, strict=True):
            out = torch.addcmul(out, op(x), v)
        return out


class Lerp(Idiom):
    """``torch.lerp`` between two convolutions; right, though not read as a mixed operation."""

    expected = Expected(0, (4, 4), (4, 4))

    def __init__(self) -> None:
        super().__init__()
        self.alphas = parameter(2, 2)
        self.edges = nn.ModuleList(nn.ModuleList(candidates()[2:]) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for w, (left, right) in zip(self.alphas.softmax(-1), self.edges, strict=True):  # type: ignore[misc]
            x = torch.lerp(left(x), right(x), w[1])
        return x


class MeanTimesCount(_Written):
    """The mean of the weighted stack, times its length."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        stack = torch.stack([op(x) for op in ops])
        return (stack * w.view(-1, 1, 1, 1, 1)).mean(0) * len(ops)


class FromNone(_Written):
    """Starts at None and adds in place from the second candidate on."""

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        out = None
        for v, op in zip(w, ops, strict=True):
            term = v * op(x)
            out = term if out is None else out.__iadd__(term)
        return out


class Preallocated(_Written):
    """Candidates are written into one tensor, which is reduced; right, though not read as a mixed operation."""

    expected = Expected(0, (4, 4), (4, 4))

    def mix(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        table = torch.empty(len(ops), *x.shape, dtype=x.dtype)
        for i, op in enumerate(ops):
            table[i] = op(x)
        return (table * w.view(-1, 1, 1, 1, 1)).sum(0)


class Weighed(nn.Module):
    """Multiplies what it is given by its weight."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.op(x).mul_(w)


class InPlaceProducts(Idiom):
    """Each candidate's own result is multiplied in place; right, though not read as a mixed operation."""

    expected = Expected(0, (4, 4), (4, 4))

    def __init__(self) -> None:
        super().__init__()
        self.alphas = parameter(2, 3)
        self.edges = nn.ModuleList(
            nn.ModuleList(Weighed(op) for op in (candidates()[0], *candidates()[2:])) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        for w, ops in zip(self.alphas.softmax(-1), self.edges, strict=True):
            x = sum(op(x, v) for op, v in zip(ops, w, strict=True))  # type: ignore[assignment]
        return x
