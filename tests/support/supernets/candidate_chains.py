"""Supernets that differ in the chains of layers that their candidates are."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from exactness import weights
from idiom import C, Expected, Idiom, Zero, conv, dilated, mix, parameter, pool, separable


class _Chains(Idiom):
    """Two edges in a row; a subclass makes the candidates of one."""

    expected: ClassVar[Expected | None] = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList(nn.ModuleList(self.make()) for _ in range(2))
        self.alphas = parameter(2, len(self.edges[0]))  # type: ignore[arg-type]

    def make(self) -> list[nn.Module]:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        for w, ops in zip(self.alphas.softmax(-1), self.edges, strict=True):
            x = mix(w, ops, x)
        return x


class BiasNotAffine(_Chains):
    """``bias=not affine``: convolutions have a bias, the norms after them are plain (AutoDL's NAS-Bench-201)."""

    def make(self) -> list[nn.Module]:
        norm, affine = nn.BatchNorm2d, False
        built = [
            nn.Sequential(nn.ReLU(), nn.Conv2d(C, C, k, padding=k // 2, bias=not affine), norm(C, affine=affine))
            for k in (1, 3)
        ]
        return [Zero(), nn.Identity(), *built, nn.AvgPool2d(3, 1, 1, count_include_pad=False)]


class ActivationLast(_Chains):
    """Convolution, norm, ReLU: nothing is common before, and what is after is not linear (NAS-Bench-1Shot1)."""

    def make(self) -> list[nn.Module]:
        built = [
            nn.Sequential(nn.Conv2d(C, C, k, padding=k // 2, bias=False), nn.BatchNorm2d(C), nn.ReLU()) for k in (1, 3)
        ]
        return [*built, nn.MaxPool2d(3, 1, 1)]


class AffineNorms(_Chains):
    """Norms with weights and biases of their own; those of the first candidate stay."""

    def make(self) -> list[nn.Module]:
        return [conv(1, affine=True), nn.Identity(), conv(3, affine=True)]


class UntrackedNorms(_Chains):
    """Norms that use the batch's statistics in evaluation too (NAS-Bench-201's ``track_running_stats=False``)."""

    def make(self) -> list[nn.Module]:
        built = [conv(1), conv(3)]
        for norm in (op[2] for op in built):  # type: ignore[index]
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
            norm.num_batches_tracked = None
        return [*built, Zero()]


class Groupwise(_Chains):
    """``GroupNorm`` after convolutions."""

    def make(self) -> list[nn.Module]:
        return [
            *(nn.Sequential(nn.Conv2d(C, C, k, padding=k // 2), nn.GroupNorm(2, C), nn.ReLU()) for k in (1, 3)),
            nn.Identity(),
        ]


class Instancewise(_Chains):
    """``InstanceNorm2d`` after convolutions without a bias."""

    def make(self) -> list[nn.Module]:
        return [
            *(nn.Sequential(nn.Conv2d(C, C, k, padding=k // 2, bias=False), nn.InstanceNorm2d(C)) for k in (1, 3)),
            nn.Identity(),
        ]


class LearnedSlopes(_Chains):
    """Each candidate starts with a PReLU of its own; alike starts of one input share, slopes and all."""

    def make(self) -> list[nn.Module]:
        return [
            *(nn.Sequential(nn.PReLU(), nn.Conv2d(C, C, k, padding=k // 2), nn.BatchNorm2d(C)) for k in (1, 3)),
            nn.Identity(),
        ]


class PoolsAndNorms(_Chains):
    """Pools with a norm, the same pools without, convolutions; norms of pools are not calibrated and stay."""

    expected = Expected(2, (4, 2), (8, 6))

    def make(self) -> list[nn.Module]:
        average = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        with_norm = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.BatchNorm2d(C, affine=False))
        return [pool(), nn.MaxPool2d(3, 1, 1), with_norm, average, conv(1), conv(3)]


class SeparableDilated(_Chains):
    """Two separable and two dilated convolutions, stages of one kind; the 9x9 footprint stays apart (DARTS)."""

    expected = Expected(2, (24, 10), (12, 4))

    def make(self) -> list[nn.Module]:
        return [separable(3), separable(5), dilated(3), dilated(5)]


class OwnListOnEachEdge(Idiom):
    """Every edge has candidates of its own, another number of them; one is noise (RobustDARTS)."""

    expected = Expected(3, (7, 4), (6, 3))

    class Noise(nn.Module):
        """Gaussian noise like the input."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.randn_like(x)

    def __init__(self) -> None:
        super().__init__()
        rows = [[nn.Identity(), dilated(3)], [conv(3), conv(1)], [self.Noise(), Zero(), conv(1), conv(3), conv(5)]]
        self.edges = nn.ModuleList(nn.ModuleList(row) for row in rows)
        self.alphas = [weights(len(row), seed=seed) for seed, row in enumerate(rows)]

    def arch(self) -> list[Tensor]:
        return list(self.alphas)

    def forward(self, x: Tensor) -> Tensor:
        for w, ops in zip(self.alphas, self.edges, strict=True):
            x = mix(w.softmax(-1), ops, x)
        return x


class HolesInList(Idiom):
    """A ``None`` in the ``ModuleList`` where a candidate does not fit, skipped by forward."""

    expected = Expected(2, (3, 2), (3, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas = parameter(2, 3)
        rows: Any = [[conv(3), None, conv(1)], [None, conv(3), nn.Identity()]]
        self.edges = nn.ModuleList(nn.ModuleList(row) for row in rows)

    def forward(self, x: Tensor) -> Tensor:
        for w, ops in zip(self.alphas.softmax(-1), self.edges, strict=True):
            x = sum(v * op(x) for v, op in zip(w, ops, strict=True) if op is not None)  # type: ignore[assignment]
        return x

    def set_vertex(self, seed: int) -> None:
        with torch.no_grad():
            self.alphas.fill_(-1e5)
            self.alphas[0, (0, 2)[seed % 2]] = self.alphas[1, 1 + seed // 2 % 2] = 0.0


class OpsCalledTwice(Idiom):
    """One list of candidates runs on two inputs, so that none of its modules can be replaced (Auto-DeepLab)."""

    expected = Expected(2, (4, 4), (4, 4))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.ops = parameter(3), nn.ModuleList([nn.Identity(), conv(3), conv(1)])

    def forward(self, x: Tensor) -> Any:
        w = self.alphas.softmax(0)
        return mix(w, self.ops, x) + mix(w, self.ops, x.flip(3))


class ForwardCalled(_Chains):
    """``op.forward(x)``, which goes past hooks (NASLib)."""

    def make(self) -> list[nn.Module]:
        return [nn.Identity(), conv(3), conv(1)]

    def forward(self, x: Tensor) -> Tensor:
        for w, ops in zip(self.alphas.softmax(-1), self.edges, strict=True):
            x = sum(v * op.forward(x) for v, op in zip(w, ops, strict=True))  # type: ignore[operator,assignment]
        return x
