"""Candidates that do more than compute: they write, draw, share modules, or have gradients of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from idiom import conv, pool
from sampled.parts import C, Chain, Edge, Head, Sampled, few, sample


class _Taken(Chain):
    """GDAS's draw and list of candidates; a subclass says which."""

    def forward(self, x: Tensor) -> Any:
        weights, index = sample(self.alphas, self.tau)
        for number, ops in self.each():
            k = index[number].item()
            x = ops[k](x) * weights[number, k]
        return self.head(x)


class Counted(nn.Module):
    """Counts its runs in a plain attribute."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.op, self.runs = op, 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.op(x)


class AttributesWritten(_Taken):
    """Candidates count how often they ran."""

    @staticmethod
    def make() -> list[nn.Module]:
        return [Counted(op) for op in few()]


class Remembering(nn.Module):
    """Keeps its last output's mean, detached, as an attribute that nobody reads in forward."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.op, self.last = op, torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        out = self.op(x)
        self.last = out.detach().mean()
        return out


class TensorsKept(_Taken):
    """Candidates keep a tensor of their last run."""

    @staticmethod
    def make() -> list[nn.Module]:
        return [Remembering(op) for op in few()]


class Averaging(nn.Module):
    """Moves a buffer in place by what it sees, and reads it."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.op = op
        self.register_buffer("average", torch.zeros(C, 1, 1))
        self.register_buffer("runs", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        out = self.op(x)
        if self.training:
            self.average.mul_(0.9).add_(0.1 * out.detach().mean((0, 2, 3)).view(C, 1, 1))
            self.runs += 1
        return out - self.average


class BuffersWritten(_Taken):
    """Candidates write buffers in place."""

    @staticmethod
    def make() -> list[nn.Module]:
        return [Averaging(op) for op in few()]


class DropoutInside(_Taken):
    """Some candidates draw masks: how many draws follow depends on the path."""

    @staticmethod
    def make() -> list[nn.Module]:
        return [nn.Identity(), nn.Sequential(conv(3), nn.Dropout(0.3)), nn.Sequential(conv(1), nn.Dropout2d(0.5))]


class DrawnAfterwards(DropoutInside):
    """Each edge draws after the candidates before it, whose masks differ in number."""

    def forward(self, x: Tensor) -> Any:
        for number, ops in self.each():
            weights, index = sample(self.alphas[number : number + 1], self.tau)
            x = ops[index.item()](x) * weights[0, index.item()]
        return self.head(x)


class PathsDropped(Chain):
    """DARTS's drop path on whatever was taken but the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.drop_path_prob = 0.0

    def prepare(self, step: int) -> None:
        self.drop_path_prob = 0.3 * min(step // 6, 4) / 4

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        for number, ops in self.each():
            op = ops[index[number].item()]
            out = op(x) * weights[number, index[number].item()]
            if self.training and self.drop_path_prob > 0.0 and not isinstance(op, nn.Identity):
                keep = 1.0 - self.drop_path_prob
                mask = torch.empty(x.size(0), 1, 1, 1, dtype=x.dtype).bernoulli_(keep)
                out = out.div(keep).mul(mask)
            x = out
        return self.head(x)


class Rounded(torch.autograd.Function):
    """Rounds, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int) -> Tensor:
        return (x * steps).round() / steps

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return grad, None


class Quantized(nn.Module):
    """A convolution of rounded weights."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.conv, self.steps = nn.Conv2d(C, C, 3, padding=1), steps

    def forward(self, x: Tensor) -> Tensor:
        weight = Rounded.apply(self.conv.weight, self.steps)
        return nn.functional.conv2d(x, weight, self.conv.bias, padding=1)


class Quantizations(_Taken):
    """Candidates are numbers of bits, through custom autograd Functions (mixed-precision search)."""

    @staticmethod
    def make() -> list[nn.Module]:
        return [Quantized(2), Quantized(4), Quantized(16)]


class OneModuleInTwo(_Taken):
    """Two candidates hold the same convolution and norm, one of them behind a pooling."""

    @staticmethod
    def make() -> list[nn.Module]:
        shared = conv(3, affine=True)
        return [nn.Sequential(shared), nn.Sequential(nn.AvgPool2d(3, 1, 1), shared), nn.Identity()]


class OneModuleInAllEdges(_Taken):
    """All edges hold the same candidates; statistics move as often as they are taken."""

    def __init__(self) -> None:
        super().__init__()
        for edge in list(self.edges)[1:]:
            edge.ops = self.edges[0].ops


class InPlace(_Taken):
    """Candidates change what they were given, which nobody else reads."""

    @staticmethod
    def make() -> list[nn.Module]:
        return [
            nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)),
            nn.Sequential(nn.Conv2d(C, C, 3, padding=1), nn.ReLU(inplace=True)),
            nn.Sequential(nn.BatchNorm2d(C), nn.Hardtanh(-2, 2, inplace=True)),
        ]

    def forward(self, x: Tensor) -> Any:
        return super().forward(x.clone())


class Shifted(nn.Module):
    """Shifts in place what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        x.add_(0.5)
        return x.tanh()


class InPlaceOnShared(Chain):
    """A candidate changes in place the state that the next edge and the sum read after it."""

    @staticmethod
    def make() -> list[nn.Module]:
        return [Shifted(), nn.Tanh(), nn.Sigmoid()]

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        state = x * 2.0
        outs = [ops[index[e].item()](state) * weights[e, index[e].item()] for e, ops in self.each()]
        return self.head(sum(outs) + state)


class PoolsOfOneState(Sampled):
    """Two edges read one state through equal poolings and norms without weights: each moves its own statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(C, C, 1)
        self.edges = nn.ModuleList(Edge([pool(), nn.Identity(), conv(1)]) for _ in range(2))
        self.alphas, self.head = nn.Parameter(1e-1 * torch.randn(2, 3)), Head()

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, 5.0)
        state, outs = self.stem(x), []
        for e, edge in enumerate(self.edges):
            argmax = index[e].item()
            outs.append(
                sum(weights[e, k] * op(state) if k == argmax else weights[e, k] for k, op in enumerate(edge.ops))
            )
        return self.head(sum(outs))


class MomentumOfNone(_Taken):
    """Norms with cumulative averages, with none kept, and with another momentum."""

    @staticmethod
    def make() -> list[nn.Module]:
        norms = (
            nn.BatchNorm2d(C, momentum=None),
            nn.BatchNorm2d(C, track_running_stats=False),
            nn.BatchNorm2d(C, momentum=0.5),
        )
        return [nn.Sequential(nn.Conv2d(C, C, 1), norm) for norm in norms]


class LossBeside(_Taken):
    """Candidates tell a cost that forward adds up and returns (hardware-aware search)."""

    COSTS = (0.0, 1.5, 4.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        weights, index = sample(self.alphas, self.tau)
        cost: Any = 0.0
        for number, ops in self.each():
            k = index[number].item()
            x = ops[k](x) * weights[number, k]
            cost = cost + weights[number, k] * self.COSTS[k]
        return self.head(x), cost


class Checkpointed(_Taken):
    """The candidate taken runs under an activation checkpoint."""

    is_smooth = False

    @staticmethod
    def make() -> list[nn.Module]:
        return [nn.Conv2d(C, C, 3, padding=1), nn.Conv2d(C, C, 1), nn.Tanh()]

    def forward(self, x: Tensor) -> Any:
        weights, index = sample(self.alphas, self.tau)
        for number, ops in self.each():
            k = index[number].item()
            x = torch.utils.checkpoint.checkpoint(ops[k], x, use_reentrant=False) * weights[number, k]
        return self.head(x)
