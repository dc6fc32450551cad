"""Random candidates as stacks of stages: depth, kernels, dilation, stride, groups, norms, orders, one to three dims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

CHANNELS = 4
NORMS = ("batch", "batch-plain", "group", "instance", "none")
_CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_BATCH = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


@dataclass(frozen=True)
class Stage:
    """One stage: ``size`` and ``dilation`` of its kernel, ``groups``, and whether a pointwise kernel follows."""

    size: int
    dilation: int
    groups: int
    pointwise: bool
    bias: bool


@dataclass(frozen=True)
class Stacks:
    """One mixed operation of stacks.

    Attributes:
        candidates: the stages of each.
        dims: 0 for linear layers, 1 to 3 for convolutions.
        stride: of each candidate's first stage.
        norm: kind of norm that ends each stage.
        activation_first: whether a stage is ReLU-conv-norm rather than conv-norm-ReLU.
    """

    candidates: tuple[tuple[Stage, ...], ...]
    dims: int
    stride: int
    norm: str
    activation_first: bool


@st.composite
def stacks(draw: st.DrawFn) -> Stacks:
    """Draw a mixed operation of one to four stacks of one to three stages."""
    stage = st.builds(
        Stage,
        st.sampled_from((1, 3, 5)),
        st.sampled_from((1, 1, 2)),
        st.sampled_from((1, 2, CHANNELS)),
        st.booleans(),
        st.booleans(),
    )
    candidate = st.lists(stage, min_size=1, max_size=3).map(tuple)
    return Stacks(
        draw(st.lists(candidate, min_size=1, max_size=4).map(tuple)),
        draw(st.sampled_from((0, 1, 2, 2, 2, 3))),
        draw(st.sampled_from((1, 2))),
        draw(st.sampled_from(NORMS)),
        draw(st.booleans()),
    )


class StackMixture(nn.Module):
    """The mixed operation that a ``Stacks`` describes, between a first layer and a mean; ``alphas`` are its weights."""

    def __init__(self, spec: Stacks) -> None:
        super().__init__()
        self.spec = spec
        self.first = nn.Linear(3, CHANNELS) if spec.dims == 0 else _CONVS[spec.dims](3, CHANNELS, 1)
        self.ops = nn.ModuleList(_stack(spec, candidate) for candidate in spec.candidates)
        self.alphas = nn.Parameter(torch.rand(len(spec.candidates)))

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        total: Any = sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True))
        return torch.tanh(total)


def example_input(spec: Stacks) -> Tensor:
    """Return a batch that the mixed operation takes, f64."""
    sizes = {0: (), 1: (9,), 2: (7, 7), 3: (4, 4, 4)}[spec.dims]
    return torch.randn(5, 3, *sizes, dtype=torch.float64)


def _stack(spec: Stacks, stages: tuple[Stage, ...]) -> nn.Module:
    modules: list[nn.Module] = []
    for index, stage in enumerate(stages):
        kernels = _kernels(spec, stage, spec.stride if index == 0 else 1)
        norm = _norm(spec)
        activation = [nn.ReLU()]
        modules += [*activation, *kernels, *norm] if spec.activation_first else [*kernels, *norm, *activation]
    return nn.Sequential(*modules)


def _kernels(spec: Stacks, stage: Stage, stride: int) -> list[nn.Module]:
    if spec.dims == 0:
        return [nn.Linear(CHANNELS, CHANNELS, bias=stage.bias) for _ in range(1 + stage.pointwise)]
    padding = stage.dilation * (stage.size // 2)
    conv = _CONVS[spec.dims]
    first = conv(CHANNELS, CHANNELS, stage.size, stride, padding, stage.dilation, stage.groups, stage.bias)
    return [first, conv(CHANNELS, CHANNELS, 1, bias=stage.bias)] if stage.pointwise else [first]


def _norm(spec: Stacks) -> list[nn.Module]:
    if spec.norm == "none":
        return []
    if spec.norm == "group":
        return [nn.GroupNorm(2, CHANNELS)]
    if spec.norm == "instance" and spec.dims:
        return [_INSTANCE[spec.dims](CHANNELS, affine=True)]
    return [_BATCH[spec.dims](CHANNELS, affine=spec.norm != "batch-plain")]
