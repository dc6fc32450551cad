"""Supernets whose candidates are blocks of other kinds than ReLU, convolution, norm."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from candidate_chains import _Chains
from exactness import image
from idiom import C, Expected, Idiom, Zero, conv, mix, parameter


class Linears(_Chains):
    """Linear layers of different ranks on features, a norm after each."""

    expected = Expected(2, (0, 0), (4, 2))

    def make(self) -> list[nn.Module]:
        full = nn.Sequential(nn.Linear(C, C), nn.BatchNorm1d(C))
        return [full, nn.Sequential(nn.Linear(C, C, bias=False), nn.BatchNorm1d(C)), nn.Identity()]

    def inputs(self, batch: int) -> tuple[Any, ...]:
        return (image(batch, C).mean((2, 3)),)


class BareLinears(Linears):
    """Linear layers with nothing after them: weights are summed instead."""

    expected = Expected(2, (0, 0), (0, 0))

    def make(self) -> list[nn.Module]:
        return [nn.Linear(C, C), nn.Identity(), nn.Linear(C, C)]


class Sequences(_Chains):
    """``Conv1d`` and ``BatchNorm1d`` over sequences."""

    def make(self) -> list[nn.Module]:
        built = [
            nn.Sequential(nn.ReLU(), nn.Conv1d(C, C, k, padding=k // 2, bias=False), nn.BatchNorm1d(C, affine=False))
            for k in (3, 5)
        ]
        return [*built, nn.MaxPool1d(3, 1, 1), nn.Identity()]

    def inputs(self, batch: int) -> tuple[Any, ...]:
        return (image(batch, C).flatten(2),)


class Volumes(_Chains):
    """``Conv3d`` and ``BatchNorm3d`` (medical images)."""

    def make(self) -> list[nn.Module]:
        built = [
            nn.Sequential(nn.ReLU(), nn.Conv3d(C, C, k, padding=k // 2, bias=False), nn.BatchNorm3d(C, affine=False))
            for k in (1, 3)
        ]
        return [*built, nn.AvgPool3d(3, 1, 1), Zero()]

    def inputs(self, batch: int) -> tuple[Any, ...]:
        return (image(batch, C).unsqueeze(2).repeat(1, 1, 3, 1, 1),)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project, each with its norm; the input is added (MobileNetV2)."""

    def __init__(self, expansion: int, k: int, inplace: bool) -> None:
        super().__init__()
        wide = C * expansion
        self.expand = nn.Sequential(nn.Conv2d(C, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=inplace))
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, k, padding=k // 2, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(inplace=inplace),
        )
        self.project = nn.Sequential(nn.Conv2d(wide, C, 1, bias=False), nn.BatchNorm2d(C))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return out + x


class InvertedResiduals(_Chains):
    """Inverted residual blocks of two expansions and two kernels (ProxylessNAS, FBNet)."""

    expected = Expected(2, (18, 12), (18, 10))
    inplace: ClassVar[bool] = False

    def make(self) -> list[nn.Module]:
        blocks = [InvertedResidual(expansion, k, self.inplace) for expansion, k in ((2, 3), (2, 5), (3, 3))]
        return [*blocks, nn.Identity()]


class InPlaceResiduals(InvertedResiduals):
    """The same, whose ReLU6 work in place: what they overwrite does not share."""

    expected = Expected(2, (18, 14), (18, 14))
    inplace: ClassVar[bool] = True


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all their means."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.body = conv(k)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(2, C, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        return out * self.gate(out)


class SqueezeExcites(_Chains):
    """Blocks with squeeze-and-excitation among the candidates; what a gate multiplies is no chain."""

    expected = Expected(2, (10, 8), (6, 4))

    def make(self) -> list[nn.Module]:
        return [conv(1), conv(3), SqueezeExcite(3), nn.Identity()]


class Asymmetric(_Chains):
    """1x3 then 3x1 beside 3x3 and 1x1 (NASP, PNAS)."""

    expected = Expected(2, (8, 6), (6, 2))

    def make(self) -> list[nn.Module]:
        rows = nn.Conv2d(C, C, (1, 3), padding=(0, 1), bias=False)
        columns = nn.Conv2d(C, C, (3, 1), padding=(1, 0), bias=False)
        both = nn.Sequential(nn.ReLU(), rows, columns, nn.BatchNorm2d(C, affine=False))
        return [both, conv(3), conv(1), nn.Identity()]


class FactorizedReduce(nn.Module):
    """Halves the image by two 1x1 convolutions, one of them of a shifted image (DARTS)."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(C, C // 2, 1, stride=2, bias=False)
        self.right = nn.Conv2d(C, C // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(C, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.norm(torch.cat([self.left(x), self.right(x[:, :, 1:, 1:])], dim=1))  # type: ignore[no-any-return]


class HalvedZero(nn.Module):
    """The candidate "none" of stride 2."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::2, ::2].mul(0.0)


class Reducing(Idiom):
    """Candidates of stride 2: pooling, factorized reduction instead of a skip, none, convolutions (DARTS)."""

    expected = Expected(1, (4, 3), (4, 3))

    def __init__(self) -> None:
        super().__init__()
        built = [
            nn.Sequential(nn.ReLU(), nn.Conv2d(C, C, k, 2, padding=k // 2, bias=False), nn.BatchNorm2d(C, affine=False))
            for k in (3, 5)
        ]
        pooled = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.BatchNorm2d(C, affine=False))
        self.ops = nn.ModuleList([HalvedZero(), pooled, FactorizedReduce(), *built])
        self.alphas = parameter(5)

    def forward(self, x: Tensor) -> Any:
        return mix(self.alphas.softmax(0), self.ops, x)


class Upsampling(Idiom):
    """Transposed convolutions of two sizes and interpolation (AutoGAN, NAS-Unet); transposed ones stay apart."""

    expected = Expected(1, (3, 3), (3, 3))

    def __init__(self) -> None:
        super().__init__()
        self.alphas = parameter(3)
        self.ops = nn.ModuleList(
            [
                nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(C, C, 2, stride=2), nn.BatchNorm2d(C)),
                nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(C, C, 4, stride=2, padding=1), nn.BatchNorm2d(C)),
                nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), conv(3)),
            ]
        )

    def forward(self, x: Tensor) -> Any:
        return mix(self.alphas.softmax(0), self.ops, x)


class MultiScale(Idiom):
    """Each cell mixes the same input at three sizes, brought together by ``F.interpolate`` (Auto-DeepLab)."""

    expected = Expected(4, (6, 3), (6, 3))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.betas = parameter(3, 3), parameter(3, seed=3)
        self.scales = nn.ModuleList(nn.ModuleList([nn.Identity(), conv(1), conv(3)]) for _ in range(3))

    def arch(self) -> list[Tensor]:
        return [self.alphas, self.betas]

    def forward(self, x: Tensor) -> Any:
        out: Any = 0
        for beta, w, ops, factor in zip(
            self.betas.softmax(0), self.alphas.softmax(-1), self.scales, (0.5, 1, 2), strict=True
        ):
            size = [int(side * factor) for side in x.shape[2:]]
            scaled = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            out = out + beta * F.interpolate(mix(w, ops, scaled), size=x.shape[2:], mode="nearest")
        return out


class NestedMixtures(Idiom):
    """A candidate is a mixed operation itself, with weights of its own, so an edge of its own."""

    expected = Expected(2, (3, 2), (3, 2))

    class Inner(nn.Module):
        """A mixed operation over kernels."""

        def __init__(self) -> None:
            super().__init__()
            self.theta, self.ops = parameter(2, seed=4), nn.ModuleList([conv(3), conv(5)])

        def forward(self, x: Tensor) -> Any:
            return mix(self.theta.softmax(0), self.ops, x)

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.ops = parameter(4), nn.ModuleList([nn.Identity(), conv(1), Zero(), self.Inner()])

    def arch(self) -> list[Tensor]:
        return [self.alphas, self.ops[3].theta]  # type: ignore[list-item]

    def forward(self, x: Tensor) -> Any:
        return mix(self.alphas.softmax(0), self.ops, x)
