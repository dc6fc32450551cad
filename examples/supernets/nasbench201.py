"""A search supernet of the NAS-Bench-201 space: every edge of a cell computes all five candidate operations.

The space is that of Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search"
(arXiv 2001.00326). Three stages of N cells with C, 2C and 4C channels, a residual block that halves the image before
the second and the third; a cell has four nodes, and an edge from each node to each later one.

Shapes: N images or cells (by context), C channels, H and W the image's sides, E = 6 edges of a cell, O = 5 candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CANDIDATES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES = 4
EDGES = tuple(f"{i}<-{j}" for i in range(1, NODES) for j in range(i))
ALPHAS = ("parameter", "tensor")


def cell_of(choices: Sequence[int]) -> str:
    """Write the cell with these candidates, by number, on `EDGES`, as the benchmark does.

    For example `|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|`: a group a
    node, and in it `candidate~j` for the edge from node j.
    """
    chosen = dict(zip(EDGES, choices, strict=True))
    nodes = [[f"{CANDIDATES[chosen[f'{i}<-{j}']]}~{j}" for j in range(i)] for i in range(1, NODES)]
    return "+".join(f"|{'|'.join(edges)}|" for edges in nodes)


class Zero(nn.Module):
    """The candidate that cuts an edge."""

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros of x's shape, f32[N,C,H,W]."""
        return x.mul(0.0)


class ReLUConvBN(nn.Sequential):
    """ReLU, a convolution that keeps the image's size (or divides it by the stride), batch normalization."""

    def __init__(
        self,
        C_in: int,
        C_out: int,
        kernel_size: int,
        stride: int = 1,
        *,
        affine: bool = True,
        track_running_stats: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(C_in, C_out, kernel_size, stride, padding=kernel_size // 2, bias=bias),
            nn.BatchNorm2d(C_out, affine=affine, track_running_stats=track_running_stats),
        )


class ResidualReduction(nn.Module):
    """The block between two stages: half the image's side, more channels, nothing to search."""

    def __init__(self, C_in: int, C_out: int) -> None:
        super().__init__()
        self.conv_a = ReLUConvBN(C_in, C_out, 3, stride=2)
        self.conv_b = ReLUConvBN(C_out, C_out, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=False), nn.Conv2d(C_in, C_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map f32[N,C_in,H,W] to f32[N,C_out,H/2,W/2]; H and W are even."""
        return self.shortcut(x) + self.conv_b(self.conv_a(x))


class MixedOp(nn.Module):
    """One edge: the candidates' outputs, each times its architecture weight, added up."""

    def __init__(self, C: int, affine: bool, track_running_stats: bool, conv_bias: bool) -> None:
        super().__init__()
        options = {"affine": affine, "track_running_stats": track_running_stats, "bias": conv_bias}
        candidates = {
            "none": Zero(),
            "skip_connect": nn.Identity(),
            "nor_conv_1x1": ReLUConvBN(C, C, 1, **options),
            "nor_conv_3x3": ReLUConvBN(C, C, 3, **options),
            "avg_pool_3x3": nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
        }
        self._ops = nn.ModuleList(candidates[name] for name in CANDIDATES)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Mix the candidates of x, f32[N,C,H,W], by weights, f32[O]."""
        return sum(w * op(x) for w, op in zip(weights, self._ops))  # noqa: B905  as the field writes it; f32[N,C,H,W]


class SearchCell(nn.Module):
    """Four nodes, each the sum of its edges from all earlier nodes; the last node is the output."""

    mixed_op: ClassVar[type[MixedOp]] = MixedOp

    def __init__(self, C: int, affine: bool, track_running_stats: bool, conv_bias: bool) -> None:
        super().__init__()
        self.edges = nn.ModuleDict({edge: self.mixed_op(C, affine, track_running_stats, conv_bias) for edge in EDGES})

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Map f32[N,C,H,W] to the same shape; weights is f32[E,O], a row an edge in the order of `EDGES`."""
        nodes = [x]
        for i in range(1, NODES):
            names = [f"{i}<-{j}" for j in range(i)]
            nodes.append(sum(self.edges[name](nodes[j], weights[EDGES.index(name)]) for j, name in enumerate(names)))
        return nodes[-1]  # f32[N,C,H,W]


class NASBench201Supernet(nn.Module):
    """The whole supernet, with the methods that DARTS search loops call.

    Attributes:
        alphas: the architecture weights before the softmax, f32[E,O], shared by all cells.
        config: the constructor's arguments, from which `new` makes another network.
    """

    cell: ClassVar[type[SearchCell]] = SearchCell

    def __init__(
        self,
        C: int = 16,
        N: int = 2,
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        affine: bool = False,
        track_running_stats: bool = True,
        conv_bias: bool = False,
        alphas: str = "parameter",
    ) -> None:
        """Make a supernet with random weights and nearly equal architecture weights.

        Args:
            C: channels of the first stage.
            N: cells a stage.
            num_classes: outputs of the classifier.
            in_channels: channels of the images.
            affine: whether the candidates' norms learn a scale and a shift.
            track_running_stats: whether the candidates' norms keep running statistics for evaluation.
            conv_bias: whether the candidates' convolutions have a bias.
            alphas: "parameter" to keep `alphas` as an `nn.Parameter`, "tensor" as a plain attribute.

        Raises:
            ValueError: `alphas` is neither of the two.
        """
        super().__init__()
        if alphas not in ALPHAS:
            raise ValueError(f"alphas must be one of {ALPHAS}, found {alphas!r}")
        self.config: dict[str, Any] = {
            "C": C,
            "N": N,
            "num_classes": num_classes,
            "in_channels": in_channels,
            "affine": affine,
            "track_running_stats": track_running_stats,
            "conv_bias": conv_bias,
            "alphas": alphas,
        }
        self.stem = nn.Sequential(nn.Conv2d(in_channels, C, 3, padding=1, bias=False), nn.BatchNorm2d(C))
        self.cells = nn.ModuleList()
        for stage in range(3):
            C_stage = C * 2**stage
            if stage > 0:
                self.cells.append(ResidualReduction(C_stage // 2, C_stage))
            for _ in range(N):
                self.cells.append(self.cell(C_stage, affine, track_running_stats, conv_bias))
        self.lastact = nn.Sequential(nn.BatchNorm2d(4 * C), nn.ReLU())
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(4 * C, num_classes)
        initial = 1e-3 * torch.randn(len(EDGES), len(CANDIDATES))  # f32[E,O]
        self.alphas = nn.Parameter(initial) if alphas == "parameter" else initial.requires_grad_()

    def forward(self, x: Tensor) -> Tensor:
        """Map images f32[N,in_channels,H,W], H and W multiples of 4, to logits f32[N,num_classes]."""
        weights = F.softmax(self.alphas, dim=-1)  # f32[E,O]
        x = self.stem(x)  # f32[N,C,H,W]
        for cell in self.cells:
            x = cell(x, weights) if isinstance(cell, SearchCell) else cell(x)
        x = self.global_pooling(self.lastact(x))  # f32[N,4C,1,1]
        return self.classifier(x.view(x.size(0), -1))

    def _loss(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self(input), target)

    def arch_parameters(self) -> list[Tensor]:
        """Return the tensors that the architecture's optimizer trains."""
        return [self.alphas]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the weights' optimizer trains: all but the architecture's."""
        architecture = {id(tensor) for tensor in self.arch_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in architecture]

    def new(self) -> NASBench201Supernet:
        """Return a network of the same configuration with fresh weights and a copy of the alphas."""
        network = NASBench201Supernet(**self.config).to(self.classifier.weight)
        network.alphas.data = self.alphas.data.clone()  # device and type too: a plain tensor does not follow .to()
        return network

    def genotype(self) -> str:
        """Return the cell of the strongest candidates, as the benchmark writes it; see `cell_of`."""
        return cell_of(self.alphas.argmax(dim=-1).tolist())
