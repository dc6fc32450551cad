"""Supernets whose forward branches, loops and looks things up in Python."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn import functional as F

from idiom import C, Expected, Idiom, candidates, conv, edges, mix, parameter


class _Flow(Idiom):
    """Two edges in a row; a subclass writes how forward gets through one."""

    expected: ClassVar[Expected | None] = Expected(2, (4, 2), (4, 2))
    seed: ClassVar[int] = 2

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4, seed=self.seed), edges()

    def step(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        for w, ops in zip(self.alphas.softmax(-1), self.edges, strict=True):
            x = self.step(w, ops, x)
        return x


class EvaluationBranch(_Flow):
    """Another normalization, and a clamp, in evaluation only."""

    def step(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        if self.training:
            return mix(w, ops, x)
        return mix(w / w.max(), ops, x).clamp(-2, 2)


class _SearchCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList(candidates())

    def forward(self, x: Tensor, w: Tensor) -> Any:
        return mix(w, self.ops, x)


class KindOfCell(Idiom):
    """``isinstance`` tells cells that are searched from residual blocks (AutoDL)."""

    expected = Expected(2, (5, 3), (5, 3))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.cells = parameter(4), nn.ModuleList([_SearchCell(), conv(3), _SearchCell()])

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            x = cell(x, self.alphas.softmax(0)) if isinstance(cell, _SearchCell) else cell(x) + x
        return x


class ShapeTests(_Flow):
    """Sizes, device and layout decide (PC-DARTS, Auto-DeepLab, SPOS)."""

    def step(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        assert x.size(1) % 4 == 0
        out = mix(w, ops, x)
        if out.shape[2:] != x.shape[2:] or x.numel() == 0 or x.is_cuda:
            out = F.interpolate(out, size=x.shape[2:])
        return out if x.dim() == 4 and len(x) > 2 else out * 0.5


class ChosenByArgmax(_Flow):
    """``argmax().item()`` picks the only candidate that runs: all paths are one graph, a step costs their mean."""

    expected = Expected(2, (1, 1), (1, 1))
    seed = 8  # convolutions are the strongest

    def step(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        index = int(w.argmax(-1).item())
        return ops[index](x) * w[index]


class ChosenByRank(_Flow):
    """The strongest two run, found by ``topk().tolist()``, their weights over their sum."""

    seed = 6  # convolutions are the strongest

    def step(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        values, indices = w.topk(2)
        chosen = [ops[index] for index in indices.tolist()]
        return mix(values / values.sum(), chosen, x)


class UntilFinite(_Flow):
    """Draws until no sample is infinite (GDAS's loop, here over all candidates)."""

    has_vertices: ClassVar[bool] = False

    def forward(self, x: Tensor) -> Any:
        while True:
            noise = -torch.empty_like(self.alphas).exponential_().log()
            w = ((self.alphas.log_softmax(dim=1) + noise) / 5.0).softmax(dim=1)
            if torch.isinf(noise).any() or torch.isnan(w).any():
                continue
            break
        for row, ops in zip(w, self.edges, strict=True):
            x = mix(row, ops, x)
        return x


class RandomChoice(_Flow):
    """A float of Python's generator picks a candidate: another path each time."""

    expected = None
    as_written = "random"

    def step(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return list(ops)[int(random.random() * len(ops))](x)


class MadeInForward(_Flow):
    """Modules are made where they are called."""

    expected = Expected(4, (4, 2), (4, 2))

    def forward(self, x: Tensor) -> Any:
        for w, ops in zip(nn.Softmax(dim=-1)(self.alphas), self.edges, strict=True):
            x = mix(w[:3], list(ops)[1:], nn.ReLU()(x)) + w[3] * nn.MaxPool2d(3, stride=1, padding=1)(x)
        return x


class PopsWeights(Idiom):
    """Lists of weights and states are used up from the front (NAS-Bench-1Shot1)."""

    expected = Expected(3, (6, 3), (6, 3))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.inner = parameter(3, 4), parameter(1, 3, seed=3)
        self.edges = edges(3)

    def arch(self) -> list[Tensor]:
        return [self.alphas, self.inner]

    def forward(self, x: Tensor) -> Tensor:
        rows, scales = list(self.alphas.softmax(-1)), list(self.inner.softmax(-1)[0])
        states = [x, x.tanh()]
        for ops in self.edges:
            source = states[-2] + states[-1] if len(states) > 2 else states[0]
            states.append(scales.pop(0) * mix(rows.pop(0), ops, source))
        return torch.cat(states[2:], dim=1)


class Attempts(_Flow):
    """``try`` and ``except`` around a look-up that may fail."""

    def step(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        out, index = None, 0
        while True:
            try:
                term = w[index] * ops[index](x)
            except IndexError:
                return out
            out = term if out is None else out + term
            index += 1


class LegacyMask(_Flow):
    """Paths are dropped by a mask from a legacy constructor, wrapped in ``Variable`` (DARTS)."""

    def step(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        kind = torch.FloatTensor if x.dtype == torch.float32 else torch.DoubleTensor
        mask = Variable(kind(x.size(0), 1, 1, 1).bernoulli_(0.9))
        return mix(w, ops, x).div(0.9).mul(mask)


class WrappedWeights(_Flow):
    """Weights made with ``Variable(..., requires_grad=True)``; they are plain tensors (DARTS)."""

    def __init__(self) -> None:
        super().__init__()
        alphas = self.alphas.detach()
        del self.alphas
        self.alphas = Variable(1e-3 * alphas, requires_grad=True)

    def step(self, w: Tensor, ops: Any, x: Tensor) -> Any:
        return mix(w, ops, x)


class ByRegisteredName(Idiom):
    """Candidates are found in ``self._modules`` by how their names begin, others by ``getattr``."""

    expected = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas = parameter(2, 4)
        for i, op in enumerate(candidates()):
            self.add_module(f"op_{i}", op)
        for i, op in enumerate(candidates()):
            self.add_module(f"last{i}", op)

    def forward(self, x: Tensor) -> Tensor:
        w = self.alphas.softmax(-1)
        found = [op(x) for name, op in self._modules.items() if name.startswith("op_")]  # type: ignore[misc]
        x = sum(v * term for v, term in zip(w[0], found, strict=True))  # type: ignore[assignment]
        return mix(w[1], [getattr(self, f"last{i}") for i in range(4)], x)  # type: ignore[no-any-return]


class _Base(Idiom):
    """A supernet whose parts are methods that a subclass overrides."""

    expected: ClassVar[Expected | None] = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4), edges()

    def stages(self) -> Iterator[tuple[Tensor, Any]]:
        yield from zip(self.alphas.softmax(-1), self.edges, strict=True)

    def forward(self, x: Tensor) -> Tensor:
        for w, ops in self.stages():
            x = mix(w, ops, x)
        return x


class Inherits(_Base):
    """``super().forward`` does the most of it; a generator method hands out the stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(C, C, 1)

    expected = Expected(2, (5, 3), (4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.stem(x)).relu()
