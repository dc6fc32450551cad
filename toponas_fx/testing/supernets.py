"""Random supernets for property tests: a description that hypothesis can shrink, and the module it describes.

The strategy needs hypothesis, ``pip install "toponas-fx[testing]"``; the supernets themselves do not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from toponas_fx.errors import ArgumentError, ToponasError
from toponas_fx.module_tree.isolation import restored_generators

OPS = ("none", "skip", "conv1", "conv3", "conv5", "dil3", "avg", "max", "relu_only", "linear_bn")
"""Candidate operations, by name."""
IDIOMS = ("generator", "reversed", "accumulate", "in_place", "listed", "indexed")
"""Ways to write a weighted sum."""
WEIGHTS = ("raw", "softmax")
"""What an edge's weights are made of its row of architecture parameters by."""


@dataclass(frozen=True)
class Spec:
    """A supernet of one stem and a few cells.

    Attributes:
        edges: for each edge of a cell, its candidates.
        inputs: for each edge, the state it reads; edges that end at one node are added.
        nodes: for each edge, the node it ends at.
        idiom: how the weighted sum is written.
        channels: of every state.
        affine: of the norms.
        bias: of the convolutions.
        tracks: whether norms keep running statistics.
        stride: of every candidate of the first cell's edges that read the stem.
        cells: how many cells share the weights.
        as_parameter: whether the architecture parameters are a Parameter or a plain tensor.
        weights: ``"raw"`` takes them as they are, ``"softmax"`` as logits.
        relu_stem: whether the stem ends in a ReLU.
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
    weights: str = "raw"
    relu_stem: bool = False


def random_supernets(
    ops: Collection[str] = OPS, *, edges: int = 3, candidates: int = 5, channels: int = 4, cells: int = 2
) -> Any:
    """Return a hypothesis strategy of supernets; what fails shrinks to few edges of few candidates.

    ::

        @given(random_supernets())
        def test_my_pass(model):
            assert_exact(model, model.example_input(), passes=[*DEFAULT_PASSES, MyPass()])

    Args:
        ops: names of the candidate operations to choose from, of ``OPS``.
        edges: how many edges a cell has at most, up to 3.
        candidates: how many candidates an edge has at most.
        channels: how many channels every state has at most.
        cells: how many cells share the architecture parameters at most.

    Returns:
        A strategy that draws ``RandomSupernet``; its ``repr`` is the code that makes it again.

    Raises:
        ArgumentError: there is no such candidate operation, or a number is out of range.
        ToponasError: hypothesis is not installed.
    """
    unknown = sorted(set(ops) - set(OPS))
    if unknown or not ops:
        raise ArgumentError(f"candidate operations are {', '.join(OPS)}; not {', '.join(unknown) or 'none at all'}")
    if not 1 <= edges <= len(_WIRINGS) or min(candidates, channels, cells) < 1:
        raise ArgumentError(f"supernets have 1 to {len(_WIRINGS)} edges, and one candidate, channel and cell or more")
    st = import_hypothesis().strategies
    rows = st.lists(st.sampled_from([name for name in OPS if name in ops]), min_size=1, max_size=candidates).map(tuple)

    def spec(wiring: Any, chosen: list[tuple[str, ...]], **options: Any) -> RandomSupernet:
        return RandomSupernet(Spec(tuple(chosen[: len(wiring[0])]), *wiring, **options))

    return st.builds(
        spec,
        st.sampled_from(_WIRINGS[:edges]),
        st.lists(rows, min_size=edges, max_size=edges),
        idiom=st.sampled_from(IDIOMS),
        channels=st.integers(1, channels),
        affine=st.booleans(),
        bias=st.booleans(),
        tracks=st.booleans(),
        stride=st.sampled_from((1, 2)),
        cells=st.integers(1, cells),
        as_parameter=st.booleans(),
        weights=st.sampled_from(WEIGHTS),
        relu_stem=st.booleans(),
    )


_WIRINGS = (((0,), (1,)), ((0, 1), (1, 2)), ((0, 0, 1), (1, 2, 2)))
"""For one to three edges: the state that each reads, and the node that it ends at."""


def import_hypothesis() -> ModuleType:
    """Return the module hypothesis.

    Raises:
        ToponasError: it is not installed.
    """
    try:
        import hypothesis
    except ImportError as error:
        raise ToponasError('random supernets need hypothesis: pip install "toponas-fx[testing]"') from error
    return hypothesis


class Zero(nn.Module):
    """The candidate "none"."""

    def __init__(self, stride: int) -> None:
        """Take the stride."""
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros, ``f32[N,C,H/stride,W/stride]``."""
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


class Subsample(nn.Module):
    """A skip connection that may have a stride."""

    def __init__(self, stride: int) -> None:
        """Take the stride."""
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return every ``stride``-th pixel, ``f32[N,C,H/stride,W/stride]``."""
        return x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]


def candidate(name: str, spec: Spec, stride: int) -> nn.Module:
    """Return the candidate operation of a name, of ``OPS``."""
    channels = spec.channels

    def norm() -> nn.Module:
        return nn.BatchNorm2d(channels, affine=spec.affine, track_running_stats=spec.tracks)

    def convolution(size: int, dilation: int = 1) -> nn.Module:
        padding = dilation * (size // 2)
        conv = nn.Conv2d(channels, channels, size, stride, padding, dilation, bias=spec.bias)
        return nn.Sequential(nn.ReLU(), conv, norm())

    made: dict[str, Callable[[], nn.Module]] = {
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
    """A cell: edges end at nodes, where they are added; the last node is what it returns."""

    def __init__(self, spec: Spec, stride: int) -> None:
        """Make the candidates; those of edges from the input have the stride."""
        super().__init__()
        self.spec = spec
        strides = [stride if source == 0 else 1 for source in spec.inputs]
        self.ops = nn.ModuleList(
            nn.ModuleList(candidate(name, spec, s) for name in names)
            for names, s in zip(spec.edges, strides, strict=True)
        )

    def forward(self, x: Tensor, weights: Any) -> Tensor:
        """Return the last node, ``f32[N,C,H,W]``; ``weights`` has a row for each edge."""
        states: list[Any] = [x]
        for node in range(1, max(self.spec.nodes) + 1):
            chosen = [i for i, target in enumerate(self.spec.nodes) if target == node]
            states.append(
                sum(mix(self.spec.idiom, states[self.spec.inputs[i]], weights[i], self.ops[i]) for i in chosen)
            )
        last: Tensor = states[-1]
        return last


class RandomSupernet(nn.Module):
    """The supernet that a ``Spec`` describes, the same one each time.

    Attributes:
        spec: the description.
        alphas: architecture parameters, ``f32[edges,candidates]``; an edge of fewer candidates reads the first ones.
    """

    def __init__(self, spec: Spec) -> None:
        """Make the layers; the random generators are left as they are."""
        super().__init__()
        self.spec = spec
        with restored_generators():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(2, spec.channels, 3, padding=1)
            self.cells = nn.ModuleList(Cell(spec, spec.stride if i == 0 else 1) for i in range(spec.cells))
            self.head = nn.Linear(spec.channels, 3)
            alphas = torch.rand(len(spec.edges), max(map(len, spec.edges)))
        self.alphas = nn.Parameter(alphas) if spec.as_parameter else alphas.requires_grad_()

    def forward(self, x: Tensor) -> Tensor:
        """Run stem, cells and head.

        Args:
            x: ``f32[N,2,H,W]``.

        Returns:
            ``f32[N,3]``.
        """
        rows = [self.alphas[i][: len(names)] for i, names in enumerate(self.spec.edges)]
        rows = [row.softmax(0) for row in rows] if self.spec.weights == "softmax" else rows
        x = torch.relu(self.stem(x)) if self.spec.relu_stem else self.stem(x)
        for cell in self.cells:
            x = cell(x, rows)
        output: Tensor = self.head(x.mean((2, 3)))
        return output

    def example_input(self) -> Tensor:
        """Return a batch, ``f32[4,2,6,6]``, the same one each time."""
        return torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(1))

    def __repr__(self) -> str:
        """Write the code that makes it again, rather than its layers."""
        return f"RandomSupernet({self.spec})"
