"""Random supernets for property tests: a description that hypothesis can shrink, and the module it describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

OPS = ("none", "skip", "conv1", "conv3", "conv5", "dil3", "avg", "max", "relu_only", "linear_bn")
IDIOMS = ("generator", "reversed", "accumulate", "in_place", "listed", "indexed")


@dataclass(frozen=True)
class Spec:
    """A supernet of one stem and a few cells.

    Attributes:
        edges: for each edge of a cell, its candidates.
        inputs: for each edge, the state it reads; edges that end at one node are added.
        nodes: for each edge, the node it ends at.
        idiom: how the mixture is written.
        channels: of every state.
        affine: of the norms.
        bias: of the convolutions.
        tracks: whether norms keep running statistics.
        stride: of every candidate of the first cell's edges that read the stem.
        cells: how many cells share the weights.
        as_parameter: whether the weights are a Parameter or a plain tensor.
    """

    edges: tuple[tuple[str, ...], ...]
    inputs: tuple[int, ...]
    nodes: tuple[int, ...]
    idiom: str
    channels: int
    affine: bool
    bias: bool
    tracks: bool
    stride: int
    cells: int
    as_parameter: bool


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Draw a supernet of up to two nodes a cell."""
    count = draw(st.integers(1, 3))
    wiring = {1: ((0,), (1,)), 2: ((0, 1), (1, 2)), 3: ((0, 0, 1), (1, 2, 2))}[count]
    candidates = st.lists(st.sampled_from(OPS), min_size=1, max_size=5).map(tuple)
    return Spec(
        edges=tuple(draw(candidates) for _ in range(count)),
        inputs=wiring[0],
        nodes=wiring[1],
        idiom=draw(st.sampled_from(IDIOMS)),
        channels=draw(st.integers(1, 4)),
        affine=draw(st.booleans()),
        bias=draw(st.booleans()),
        tracks=draw(st.booleans()),
        stride=draw(st.sampled_from((1, 2))),
        cells=draw(st.integers(1, 2)),
        as_parameter=draw(st.booleans()),
    )


class Zero(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


class Subsample(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]


def candidate(name: str, spec: Spec, stride: int) -> nn.Module:
    channels = spec.channels

    def norm() -> nn.Module:
        return nn.BatchNorm2d(channels, affine=spec.affine, track_running_stats=spec.tracks)

    def convolution(size: int, dilation: int = 1) -> nn.Module:
        padding = dilation * (size // 2)
        conv = nn.Conv2d(channels, channels, size, stride, padding, dilation, bias=spec.bias)
        return nn.Sequential(nn.ReLU(), conv, norm())

    made = {
        "none": lambda: Zero(stride),
        "skip": lambda: nn.Identity() if stride == 1 else Subsample(stride),
        "conv1": lambda: convolution(1),
        "conv3": lambda: convolution(3),
        "conv5": lambda: convolution(5),
        "dil3": lambda: convolution(3, 2),
        "avg": lambda: nn.AvgPool2d(3, stride, 1, count_include_pad=False),
        "max": lambda: nn.Sequential(nn.MaxPool2d(3, stride, 1), norm()),
        "relu_only": lambda: nn.Sequential(Subsample(stride), nn.ReLU()),
        "linear_bn": lambda: nn.Sequential(nn.Conv2d(channels, channels, 1, stride, bias=spec.bias), norm()),
    }
    return made[name]()


def mix(idiom: str, x: Tensor, weights: Tensor, candidates: Any) -> Any:
    """Write the weighted sum in one of the field's ways."""
    if idiom == "generator":
        return sum(w * op(x) for w, op in zip(weights, candidates, strict=True))
    if idiom == "reversed":
        return sum(op(x) * w for w, op in zip(weights, candidates, strict=True))
    if idiom == "listed":
        return sum([w * op(x) for w, op in zip(weights, candidates, strict=True)])
    if idiom == "indexed":
        return sum(weights[i] * op(x) for i, op in enumerate(candidates))
    total: Any = 0
    for w, op in zip(weights, candidates, strict=True):
        if idiom == "in_place":
            total += w * op(x)
        else:
            total = total + w * op(x)
    return total


class Cell(nn.Module):
    def __init__(self, spec: Spec, stride: int) -> None:
        super().__init__()
        self.spec = spec
        strides = [stride if source == 0 else 1 for source in spec.inputs]
        self.ops = nn.ModuleList(
            nn.ModuleList(candidate(name, spec, s) for name in names)
            for names, s in zip(spec.edges, strides, strict=True)
        )

    def forward(self, x: Tensor, weights: Any) -> Tensor:
        states = [x]
        for node in range(1, max(self.spec.nodes) + 1):
            chosen = [i for i, target in enumerate(self.spec.nodes) if target == node]
            states.append(
                sum(mix(self.spec.idiom, states[self.spec.inputs[i]], weights[i], self.ops[i]) for i in chosen)
            )
        return states[-1]


class RandomSupernet(nn.Module):
    """The supernet that a ``Spec`` describes; ``alphas`` are its weights as they are, one row an edge."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.stem = nn.Conv2d(2, spec.channels, 3, padding=1)
        self.cells = nn.ModuleList(Cell(spec, spec.stride if i == 0 else 1) for i in range(spec.cells))
        self.head = nn.Linear(spec.channels, 3)
        alphas = torch.rand(len(spec.edges), max(map(len, spec.edges)))
        self.alphas = nn.Parameter(alphas) if spec.as_parameter else alphas.requires_grad_()

    def forward(self, x: Tensor) -> Tensor:
        rows = [self.alphas[i][: len(names)] for i, names in enumerate(self.spec.edges)]
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x, rows)
        return self.head(x.mean((2, 3)))
