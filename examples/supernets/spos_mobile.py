"""Single Path One-Shot on mobile blocks: each forward pass computes the one candidate a block that its caller names.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling" (arXiv 1904.00420), sections 3.2
and 3.3: the weights of the supernet are trained by paths drawn uniformly, and there are no architecture weights. A
block chooses a kernel size of 3, 5 or 7 and an expansion of 3 or 6, or to be skipped where input and output have the
same shape; these choices are those of Cai, Zhu and Han, "ProxylessNAS" (arXiv 1812.00332), section 4.2.

Shapes: N images, C channels of the first stage, H and W the image's sides, B blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.mobile import KERNEL_SIZES, InvertedResidual

EXPANSIONS = (3, 6)
CHOICES = (*(f"k{kernel_size}_e{expansion}" for kernel_size, expansion in product(KERNEL_SIZES, EXPANSIONS)), "skip")

Choice = tuple[int, ...]
"""A path: the position of each block's candidate."""


def candidates(C_in: int, C_out: int, stride: int) -> nn.ModuleList:
    """Make the candidates of a block in the order of `CHOICES`, without the skip where it would change the shape."""
    shapes = product(KERNEL_SIZES, EXPANSIONS)
    ops = nn.ModuleList(InvertedResidual(C_in, C_out, kernel, expansion, stride) for kernel, expansion in shapes)
    if stride == 1 and C_in == C_out:
        ops.append(nn.Identity())
    return ops


class ChoiceBlock(nn.Module):
    """One block of the chain: its candidates, of which a forward pass computes one."""

    def __init__(self, C_in: int, C_out: int, stride: int) -> None:
        super().__init__()
        self.ops = candidates(C_in, C_out, stride)

    def forward(self, x: Tensor, choice: int) -> Tensor:
        """Map f32[N,C_in,H,W] by a candidate to f32[N,C_out,H/S,W/S], S the block's stride."""
        return self.ops[choice](x)


class SPOSSupernet(nn.Module):
    """The whole supernet: three stages of blocks with C, 2C and 4C channels, the image halved before the last two.

    Attributes:
        config: the constructor's arguments, from which `new` makes another network.
    """

    def __init__(self, C: int = 16, layers: int = 4, num_classes: int = 10, in_channels: int = 3) -> None:
        """Make a supernet with random weights.

        Args:
            C: channels of the first stage.
            layers: blocks a stage.
            num_classes: outputs of the classifier.
            in_channels: channels of the images.
        """
        super().__init__()
        self.config: dict[str, Any] = {
            "C": C,
            "layers": layers,
            "num_classes": num_classes,
            "in_channels": in_channels,
        }
        stem = nn.Conv2d(in_channels, C, 3, padding=1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(C), nn.ReLU6())
        self.blocks = nn.ModuleList()
        C_in = C
        for stage, layer in product(range(3), range(layers)):
            C_out = C * 2**stage
            self.blocks.append(ChoiceBlock(C_in, C_out, stride=2 if stage > 0 and layer == 0 else 1))
            C_in = C_out
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(C_in, num_classes)

    def forward(self, x: Tensor, choice: Sequence[int]) -> Tensor:
        """Map images to logits.

        Args:
            x: the images, f32[N,in_channels,H,W], H and W multiples of 4.
            choice: the position of each block's candidate in its `ops`, B numbers.

        Returns:
            The logits, f32[N,num_classes].
        """
        x = self.stem(x)  # f32[N,C,H,W]
        for block, taken in zip(self.blocks, choice, strict=True):
            x = block(x, taken)
        x = self.global_pooling(x)  # f32[N,4C,1,1]
        return self.classifier(x.view(x.size(0), -1))

    def _loss(self, input: Tensor, target: Tensor, choice: Sequence[int]) -> Tensor:
        return F.cross_entropy(self(input, choice), target)

    def uniform_choice(self) -> Choice:
        """Draw a path by torch's generator: each block's candidates are equally likely."""
        return tuple(int(torch.randint(len(block.ops), ())) for block in self.blocks)

    def arch_parameters(self) -> list[Tensor]:
        """Return nothing: the search compares paths, and no architecture weights are trained."""
        return []

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the weights' optimizer trains: all."""
        return list(self.parameters())

    def new(self) -> SPOSSupernet:
        """Return a network of the same configuration with fresh weights."""
        return SPOSSupernet(**self.config).to(self.classifier.weight)

    def genotype(self, choice: Sequence[int]) -> list[str]:
        """Return the name of each block's candidate on a path, such as `k5_e3`."""
        return [CHOICES[taken] for taken in choice]
