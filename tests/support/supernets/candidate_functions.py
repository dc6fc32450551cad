"""Supernets whose candidates are functions, hand-made kernels or parts of a tensor, not modules side by side."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exactness import image, weights
from idiom import C, Expected, Idiom, Zero, conv, mix, parameter, pool, separable


class HandMerged(Idiom):
    """Kernels are written into a larger one by hand, each times its weight, and run as one (ZARTS)."""

    expected = Expected(0, (2, 2), (2, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas = parameter(2, 3)
        self.small = nn.ParameterList(nn.Parameter(torch.randn(C, C, 3, 3)) for _ in range(2))
        self.large = nn.ParameterList(nn.Parameter(torch.randn(C, C, 5, 5)) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(C, affine=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for w, small, large, norm in zip(self.alphas.softmax(-1), self.small, self.large, self.norms, strict=True):
            merged = torch.zeros(C, C, 5, 5, dtype=x.dtype, device=x.device)
            merged[:, :, 1:4, 1:4] = small * w[0]
            merged += large * w[1]
            x = norm(F.conv2d(x.relu(), merged, padding=2)) + x * w[2]
        return x


class Masked(Idiom):
    """One depthwise 9x9 kernel, sliced or masked for 3x3, 5x5 and both of them dilated (ZARTS)."""

    expected = Expected(1, (2, 2), (1, 1))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.kernel = weights(4), nn.Parameter(torch.randn(C, 1, 9, 9))
        self.point, self.norm = nn.Conv2d(C, C, 1, bias=False), nn.BatchNorm2d(C, affine=False)
        mask = torch.zeros(2, 9, 9)
        mask[0, 2:7:2, 2:7:2] = mask[1, ::2, ::2] = 1.0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        small = [F.pad(self.kernel[:, :, i : 9 - i, i : 9 - i], (i,) * 4) for i in (3, 2)]
        kernels = [*small, *(self.kernel * mask for mask in self.mask)]
        kernel: Any = sum(w * k for w, k in zip(self.alphas.softmax(0), kernels, strict=True))
        out: Tensor = self.norm(self.point(F.conv2d(x.relu(), kernel, padding=4, groups=C)))
        return out


class Functional(Idiom):
    """Functions of ``F`` on own parameters and buffers; right, though only modules share."""

    expected = Expected(2, (4, 4), (4, 4))

    class Edge(nn.Module):
        """Two convolutions and a pooling, written out."""

        def __init__(self) -> None:
            super().__init__()
            for k in (1, 3):
                self.register_parameter(f"weight{k}", nn.Parameter(torch.randn(C, C, k, k)))
                self.register_buffer(f"mean{k}", torch.zeros(C))
                self.register_buffer(f"var{k}", torch.ones(C))

        def candidate(self, k: int, x: Tensor) -> Tensor:
            out = F.conv2d(F.relu(x), getattr(self, f"weight{k}"), padding=k // 2)
            return F.batch_norm(out, getattr(self, f"mean{k}"), getattr(self, f"var{k}"), training=self.training)

        def forward(self, w: Tensor, x: Tensor) -> Tensor:
            pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
            return w[0] * self.candidate(1, x) + w[1] * self.candidate(3, x) + w[2] * pooled + w[3] * x

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4), nn.ModuleList(self.Edge() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for w, edge in zip(self.alphas.softmax(-1), self.edges, strict=True):
            x = edge(w, x)
        return x


class TableOfFunctions(Idiom):
    """A dict from names to lambdas and partials, some of which call modules; names are state."""

    expected = Expected(1, (2, 1), (2, 1))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.names = parameter(5), ["none", "skip", "avg", "conv1", "conv3"]
        self.conv1, self.conv3 = conv(1), conv(3)

    def forward(self, x: Tensor) -> Any:
        table = {
            "none": lambda h: h * 0,
            "skip": lambda h: h,
            "avg": functools.partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1),
            "max": functools.partial(F.max_pool2d, kernel_size=3, stride=1, padding=1),
            "conv1": self.conv1,
            "conv3": self.conv3,
        }
        return sum(w * table[name](x) for w, name in zip(self.alphas.softmax(0), self.names, strict=True))

    def change_state(self) -> None:
        self.names[2] = "max"


class RecurrentCell(Idiom):
    """Activations are mixed on a hidden state, in a loop over time; the plain state is an edge besides (DARTS, PTB)."""

    expected = Expected(15, (0, 0), (3, 3))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.start = weights(2, 4), nn.Parameter(torch.randn(2 * C, 2 * C) * 0.2)
        self.steps = nn.ParameterList(nn.Parameter(torch.randn(C, 2 * C) * 0.2) for _ in range(2))
        self.norm = nn.BatchNorm1d(C, affine=False)

    def inputs(self, batch: int) -> tuple[Any, ...]:
        sequence = image(batch, C).flatten(2).permute(2, 0, 1)[:3]
        return sequence, torch.zeros(batch, C, dtype=torch.float64)

    def cell(self, x: Tensor, hidden: Tensor) -> Tensor:
        gate, update = (torch.cat([x, hidden], dim=-1) @ self.start).split(C, dim=-1)
        states = [hidden + gate.sigmoid() * (update.tanh() - hidden)]
        for row, matrix in zip(self.alphas.softmax(-1), self.steps, strict=True):
            gate, update = (states[-1] @ matrix).split(C, dim=-1)
            gate = gate.sigmoid()
            total = torch.zeros_like(hidden)
            for w, function in zip(row, (torch.tanh, F.relu, torch.sigmoid, lambda h: h), strict=True):
                total = total + w * (states[-1] + gate * (function(update) - states[-1]))
            states.append(total)
        return self.norm(torch.stack(states[1:], -1).mean(-1))  # type: ignore[no-any-return]

    def forward(self, sequence: Tensor, hidden: Tensor) -> Any:
        outputs = []
        for t in range(sequence.size(0)):
            hidden = self.cell(sequence[t], hidden)
            outputs.append(hidden)
        return torch.stack(outputs), hidden


def _identity(x: Tensor) -> Tensor:
    return x


class Broadcasted(Idiom):
    """All states go through an activation at once, weighted one by one: no mixed operation of scalars (DARTS, PTB)."""

    expected = Expected(0, (0, 0), (0, 0))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.matrices = weights(3, 3), nn.Parameter(torch.randn(3, C, C) * 0.2)
        self.table = {"tanh": torch.tanh, "relu": torch.relu, "identity": _identity}

    def inputs(self, batch: int) -> tuple[Any, ...]:
        return (image(batch, C).mean((2, 3)),)

    def forward(self, x: Tensor) -> Tensor:
        states, w, offset = x.unsqueeze(0), self.alphas.softmax(-1), 0
        for i in range(2):
            hidden = torch.bmm(states, self.matrices[: i + 1])
            out = torch.zeros_like(x)
            for k, function in enumerate(self.table.values()):
                row = w[offset : offset + i + 1, k]
                out = out + torch.sum(row.unsqueeze(-1).unsqueeze(-1) * function(hidden), dim=0)
            states = torch.cat([states, out.unsqueeze(0)], 0)
            offset += i + 1
        return states[1:].mean(0)


class DropPathInPlace(Idiom):
    """A path is dropped by ``div_`` and ``mul_`` on what a candidate returned; the rate is state (NAS-Bench-201)."""

    expected = Expected(6, (4, 4), (4, 4))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.drop_path_prob = parameter(2, 3), 0.2
        self.edges = nn.ModuleList(nn.ModuleList([nn.Identity(), conv(1), conv(3)]) for _ in range(2))

    @staticmethod
    def drop(x: Tensor, rate: float) -> Tensor:
        keep = 1.0 - rate
        mask = torch.empty(x.size(0), 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(keep)
        x.div_(keep)
        x.mul_(mask)
        return x

    def forward(self, x: Tensor) -> Tensor:
        for row, ops in zip(self.alphas.softmax(-1), self.edges, strict=True):
            terms = []
            for w, op in zip(row, ops, strict=True):
                out = op(x)
                if self.drop_path_prob > 0 and not isinstance(op, nn.Identity):
                    out = self.drop(out, self.drop_path_prob)
                terms.append(w * out)
            x = sum(terms)  # type: ignore[assignment]
        return x

    def change_state(self) -> None:
        self.drop_path_prob = 0.5


class SplitChannels(Idiom):
    """Part of the channels is split off for the search; later more of them are (DrNAS's ``wider``)."""

    expected = Expected(2, (10, 8), (8, 6))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.k = parameter(2, 4), 4
        self.edges = nn.ModuleList(nn.ModuleList([pool(2), conv(1, 2), separable(3, 2), Zero()]) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for w, ops in zip(self.alphas.softmax(-1), self.edges, strict=True):
            searched, kept = torch.split(x, [2, x.size(1) - 2], dim=1)
            mixed = mix(w, ops, searched)
            out = torch.cat((mixed, kept * (4 / self.k)), dim=1)
            x = out.reshape(len(x), 2, C // 2, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return x

    def change_state(self) -> None:
        self.k = 2
