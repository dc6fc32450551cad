"""Paths whose parts do not look alike: shapes, layouts, gradients, or candidates that are none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idiom import conv
from sampled.parts import C, Chain, Head, Sampled, few, sample


class UnlikeChannels(Sampled):
    """Candidates of unlike numbers of channels; a classifier for each number."""

    def __init__(self) -> None:
        super().__init__()
        widths = (2, 4, 6)
        self.ops = nn.ModuleList(nn.Sequential(nn.Conv2d(C, c, 3, padding=1), nn.BatchNorm2d(c)) for c in widths)
        self.heads = nn.ModuleDict({str(c): Head(c) for c in widths})
        self.alphas = nn.Parameter(torch.zeros(1, 3))

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, 5.0)
        out = self.ops[index.item()](x)
        return self.heads[str(out.shape[1])](out) * weights[0, index.item()]


class UnlikeSizes(Chain):
    """One candidate halves the image, and forward brings it back where sizes differ; another crops for good."""

    @staticmethod
    def make() -> list[nn.Module]:
        return [nn.Conv2d(C, C, 3, 2, 1), nn.Conv2d(C, C, 3), conv(3)]

    count = 2

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        for number, ops in self.each():
            k = index[number].item()
            out = ops[k](x)
            if 2 * out.shape[-1] == x.shape[-1]:
                out = F.interpolate(out, scale_factor=2.0, mode="nearest")
            x = out * weights[number, k]
        return self.head(x)


class UnlikeOutputs(Sampled):
    """The path decides whether forward returns logits, or logits and those of a second head."""

    def __init__(self) -> None:
        super().__init__()
        self.ops, self.heads = nn.ModuleList([conv(1), conv(3)]), nn.ModuleList([Head(), Head(C, 5)])
        self.alphas = nn.Parameter(torch.zeros(1, 2))

    def forward(self, x: Tensor) -> Any:
        weights, index = sample(self.alphas, 5.0)
        k = index.item()
        x = self.ops[k](x) * weights[0, k]
        return (self.heads[0](x), self.heads[1](x)) if k else self.heads[0](x)


class Transposed(nn.Module):
    """The image with height and width swapped, as a view."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(2, 3)


class UnlikeLayouts(Chain):
    """Candidates' outputs lie in memory in other orders; the image itself is returned."""

    count = 1

    @staticmethod
    def make() -> list[nn.Module]:
        last = nn.Conv2d(C, C, 3, padding=1).to(memory_format=torch.channels_last)
        return [Transposed(), last, nn.Conv2d(C, C, 1)]

    def forward(self, x: Tensor) -> Tensor:
        _, index = sample(self.alphas, self.tau)
        return self.edges[0].ops[index[0].item()](x)


class Frozen(nn.Module):
    """A convolution without gradients, neither of its weights nor of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, C, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.conv(x)


class GradientCut(Chain):
    """Some paths have no gradient before the last edge, others none at all."""

    is_smooth = False

    @staticmethod
    def make() -> list[nn.Module]:
        return [Frozen(), conv(1), nn.Identity()]

    def forward(self, x: Tensor) -> Tensor:
        _, index = sample(self.alphas, self.tau)
        for number, ops in self.each():
            x = ops[index[number].item()](x)
        return x.mean((2, 3))


class MissingCandidates(Sampled):
    """None in a plain list is no candidate at all, and adds nothing, not even a zero."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList(few())
        self.alphas, self.head = nn.Parameter(torch.zeros(3, 4)), Head()

    def forward(self, x: Tensor) -> Tensor:
        listed: list[Any] = [None, *self.ops]
        weights, index = sample(self.alphas, 5.0)
        taken = [listed[k] for k in index.flatten().tolist()]
        out = sum(row.max() * op(x) for row, op in zip(weights, taken, strict=True) if op is not None)
        return self.head(out) if isinstance(out, Tensor) else self.head(x * 0)
