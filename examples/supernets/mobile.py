"""A search supernet of mobile blocks: a chain of mixed operations over inverted residuals of unlike kernels and widths.

Wu et al., "FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable Neural Architecture Search"
(arXiv 1812.03443), sections 3.1 and 3.3, without the latency in the loss. Each block chooses a kernel size of
3, 5 or 7, an expansion of 1, 3 or 6, or to be skipped where input and output have the same shape.

Shapes: N images, C_in and C_out channels of a block, H and W the image's sides, S the stride of a block, 1 or 2,
O = 9 or 10 candidates.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL_SIZES = (3, 5, 7)
EXPANSIONS = (1, 3, 6)
SAMPLINGS = ("gumbel", "softmax")


class InvertedResidual(nn.Module):
    """Expand by a pointwise convolution, filter each channel, project; added to the input where the shapes agree."""

    def __init__(self, C_in: int, C_out: int, kernel_size: int, expansion: int, stride: int) -> None:
        super().__init__()
        C = expansion * C_in
        depthwise = nn.Conv2d(C, C, kernel_size, stride, padding=kernel_size // 2, groups=C, bias=False)
        self.expand = nn.Sequential(nn.Conv2d(C_in, C, 1, bias=False), nn.BatchNorm2d(C), nn.ReLU6())
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(C), nn.ReLU6())
        self.project = nn.Sequential(nn.Conv2d(C, C_out, 1, bias=False), nn.BatchNorm2d(C_out))
        self.is_residual = stride == 1 and C_in == C_out

    def forward(self, x: Tensor) -> Tensor:
        """Map f32[N,C_in,H,W] to f32[N,C_out,H/S,W/S]."""
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.is_residual else out


class MixedBlock(nn.Module):
    """One block of the chain: all its candidates, weighted.

    Attributes:
        theta: its architecture weights before the softmax, f32[O].
        names: its candidates, `k5_e3` for kernel size 5 and expansion 3, or `skip`.
    """

    def __init__(self, C_in: int, C_out: int, stride: int) -> None:
        super().__init__()
        candidates: dict[str, nn.Module] = {
            f"k{kernel_size}_e{expansion}": InvertedResidual(C_in, C_out, kernel_size, expansion, stride)
            for kernel_size, expansion in product(KERNEL_SIZES, EXPANSIONS)
        }
        if stride == 1 and C_in == C_out:
            candidates["skip"] = nn.Identity()
        self.names = list(candidates)
        self.ops = nn.ModuleList(candidates.values())
        self.theta = nn.Parameter(1e-3 * torch.randn(len(candidates)))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Mix the candidates of x, f32[N,C_in,H,W], by weights, f32[O]."""
        return sum(w * op(x) for w, op in zip(weights, self.ops))  # noqa: B905  as the field does; f32[N,C_out,H/S,W/S]


class MobileSupernet(nn.Module):
    """The whole supernet, with the methods that search loops call.

    Three stages of blocks with C, 2C and 4C channels; the first block of the second and the third halves the image.

    Attributes:
        temperature: divides what the softmax sees, f32[]: a buffer, so that annealing it changes a value, no code.
        config: the constructor's arguments, from which `new` makes another network.
    """

    def __init__(
        self,
        C: int = 16,
        layers: int = 2,
        num_classes: int = 10,
        in_channels: int = 3,
        criterion: nn.Module | None = None,
        *,
        sampling: str = "gumbel",
        temperature: float = 5.0,
    ) -> None:
        """Make a supernet with random weights and nearly equal architecture weights.

        Args:
            C: channels of the first stage.
            layers: blocks a stage.
            num_classes: outputs of the classifier.
            in_channels: channels of the images.
            criterion: maps logits and targets to the loss; the cross entropy unless given.
            sampling: "gumbel" to weight candidates by a Gumbel softmax, drawn anew each run, "softmax" without noise.
            temperature: at the start; searches anneal it.

        Raises:
            ValueError: `sampling` is neither of the two.
        """
        super().__init__()
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {SAMPLINGS}, found {sampling!r}")
        self.config: dict[str, Any] = {
            "C": C,
            "layers": layers,
            "num_classes": num_classes,
            "in_channels": in_channels,
            "criterion": criterion,
            "sampling": sampling,
            "temperature": temperature,
        }
        self.sampling = sampling
        self.register_buffer("temperature", torch.tensor(temperature))
        self._criterion = criterion or nn.CrossEntropyLoss()
        stem = nn.Conv2d(in_channels, C, 3, padding=1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(C), nn.ReLU6())
        self.blocks = nn.ModuleList()
        C_in = C
        for stage, layer in product(range(3), range(layers)):
            C_out = C * 2**stage
            self.blocks.append(MixedBlock(C_in, C_out, stride=2 if stage > 0 and layer == 0 else 1))
            C_in = C_out
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(C_in, num_classes)

    def set_temperature(self, temperature: float) -> None:
        """Set the temperature: high makes the candidates weigh alike, low makes them compete."""
        self.temperature.fill_(temperature)

    def forward(self, x: Tensor) -> Tensor:
        """Map images f32[N,in_channels,H,W], H and W multiples of 4, to logits f32[N,num_classes]."""
        x = self.stem(x)  # f32[N,C,H,W]
        for block in self.blocks:
            x = block(x, self._weights(block.theta))
        x = self.global_pooling(x)  # f32[N,4C,1,1]
        return self.classifier(x.view(x.size(0), -1))

    def _weights(self, theta: Tensor) -> Tensor:
        """Return the weights of a block's candidates, f32[O], positive, of sum 1."""
        if self.sampling == "gumbel":
            return F.gumbel_softmax(theta, self.temperature, dim=-1)
        return F.softmax(theta / self.temperature, dim=-1)

    def _loss(self, input: Tensor, target: Tensor) -> Tensor:
        return self._criterion(self(input), target)

    def arch_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the architecture's optimizer trains, one a block."""
        return [block.theta for block in self.blocks]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the weights' optimizer trains: all but the architecture's."""
        architecture = {id(theta) for theta in self.arch_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in architecture]

    def new(self) -> MobileSupernet:
        """Return a network of the same configuration with fresh weights, a copy of the thetas and the temperature."""
        network = MobileSupernet(**self.config).to(self.classifier.weight)
        network.temperature.copy_(self.temperature)
        for fresh, ours in zip(network.arch_parameters(), self.arch_parameters(), strict=True):
            fresh.data.copy_(ours)
        return network

    def genotype(self) -> list[str]:
        """Return the name of the strongest candidate of each block, such as `k5_e3`."""
        return [block.names[int(block.theta.argmax())] for block in self.blocks]
