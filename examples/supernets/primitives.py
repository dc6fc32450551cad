"""The eight candidate operations of the DARTS space, as a search uses them: norms without scale and shift, no biases.

The space is that of Liu, Simonyan and Yang, "DARTS: Differentiable Architecture Search" (arXiv 1806.09055), section 3.

Shapes: N images, C channels, H and W the image's sides, S the stride, 1 or 2, that divides both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.nasbench201 import ReLUConvBN

PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)


def primitive(name: str, C: int, stride: int) -> nn.Module:
    """Make the candidate of a name, which maps f32[N,C,H,W] to f32[N,C,H/S,W/S].

    Raises:
        ValueError: it is none of `PRIMITIVES`.
    """
    match name:
        case "none":
            return Zero(stride)
        case "max_pool_3x3":
            return nn.Sequential(nn.MaxPool2d(3, stride, padding=1), nn.BatchNorm2d(C, affine=False))
        case "avg_pool_3x3":
            pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
            return nn.Sequential(pool, nn.BatchNorm2d(C, affine=False))
        case "skip_connect":
            return nn.Identity() if stride == 1 else FactorizedReduce(C, C)
        case "sep_conv_3x3" | "sep_conv_5x5":
            kernel_size = int(name[-1])
            return nn.Sequential(SeparableConv(C, kernel_size, stride), SeparableConv(C, kernel_size))
        case "dil_conv_3x3" | "dil_conv_5x5":
            return SeparableConv(C, int(name[-1]), stride, dilation=2)
    raise ValueError(f"a primitive is one of {PRIMITIVES}, found {name!r}")


class Zero(nn.Module):
    """The candidate that cuts an edge."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map f32[N,C,H,W] to zeros, f32[N,C,H/S,W/S]."""
        if self.stride == 1:
            return x.mul(0.0)
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


class SeparableConv(nn.Sequential):
    """ReLU, depthwise convolution, pointwise convolution, norm: a dilated candidate, or half of a separable one."""

    def __init__(self, C: int, kernel_size: int, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (kernel_size // 2)
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(C, C, kernel_size, stride, padding, dilation, groups=C, bias=False),
            nn.Conv2d(C, C, 1, bias=False),
            nn.BatchNorm2d(C, affine=False),
        )


class FactorizedReduce(nn.Module):
    """Half the image's side without a pool: one pointwise convolution for even pixels, one for odd, side by side."""

    def __init__(self, C_in: int, C_out: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(C_in, C_out // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(C_in, C_out - C_out // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(C_out, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map f32[N,C_in,H,W] to f32[N,C_out,H/2,W/2]; H and W are even."""
        x = self.relu(x)
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], dim=1))


def preprocess(C_in: int, C_out: int, *, halves: bool) -> nn.Module:
    """Make what brings a cell's input to its channels, and to half its side where the other input has that."""
    return FactorizedReduce(C_in, C_out) if halves else ReLUConvBN(C_in, C_out, 1, affine=False)
