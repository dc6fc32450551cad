"""A search supernet of the DARTS space: normal and reduction cells whose edges compute all eight candidates.

The space is that of Liu, Simonyan and Yang, "DARTS: Differentiable Architecture Search" (arXiv 1806.09055). A cell
reads the two cells before it; each of its `steps` nodes sums the edges from these two and from all earlier nodes; its
output is the last `multiplier` nodes side by side.

Shapes: N images, C channels of a cell, H and W the image's sides, S the stride of a cell, 1 or 2; E edges of a cell, 14
where it has 4 nodes; O = 8 candidates of an edge; M the multiplier.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.primitives import PRIMITIVES, preprocess, primitive

Edge = tuple[str, int]
"""A primitive and the state that it reads: 0 and 1 are the cell's inputs, 2 its first node."""


class Genotype(NamedTuple):
    """The cells that a search found: each node's two edges in turn, and the states that make a cell's output."""

    normal: list[Edge]
    normal_concat: range
    reduce: list[Edge]
    reduce_concat: range


class MixedOp(nn.Module):
    """One edge: the candidates' outputs, each times its architecture weight, added up."""

    def __init__(self, C: int, stride: int) -> None:
        super().__init__()
        self._ops = nn.ModuleList(primitive(name, C, stride) for name in PRIMITIVES)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Mix the candidates of x, f32[N,C,H,W], by weights, f32[O]."""
        return sum(w * op(x) for w, op in zip(weights, self._ops))  # noqa: B905  as the field does; f32[N,C,H/S,W/S]


class Cell(nn.Module):
    """Nodes that sum their mixed edges; in a reduction cell the edges from the inputs have stride 2."""

    mixed_op: ClassVar[type[MixedOp]] = MixedOp

    def __init__(
        self, steps: int, multiplier: int, C_in: tuple[int, int], C: int, reduction: bool, reduction_prev: bool
    ) -> None:
        """Make a cell.

        Args:
            steps: nodes.
            multiplier: nodes that make the output, counted from the last.
            C_in: channels of the two inputs, the earlier first.
            C: channels of the nodes.
            reduction: whether the output has half the side of the input.
            reduction_prev: whether the cell before this one was a reduction, so that the earlier input is larger.
        """
        super().__init__()
        self.reduction = reduction
        self._steps = steps
        self._multiplier = multiplier
        self.preprocess0 = preprocess(C_in[0], C, halves=reduction_prev)
        self.preprocess1 = preprocess(C_in[1], C, halves=False)
        self._ops = nn.ModuleList()
        for states in range(2, steps + 2):
            self._ops.extend(self.mixed_op(C, 2 if reduction and j < 2 else 1) for j in range(states))

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor) -> Tensor:
        """Map the two cells before, f32[N,C_in,H,W], to f32[N,M*C,H/S,W/S]; weights is f32[E,O]."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        offset = 0
        for _ in range(self._steps):
            s = sum(self._ops[offset + j](h, weights[offset + j]) for j, h in enumerate(states))  # f32[N,C,H/S,W/S]
            offset += len(states)
            states.append(s)
        return torch.cat(states[-self._multiplier :], dim=1)


class DARTSSupernet(nn.Module):
    """The whole supernet, with the methods that DARTS search loops call.

    Attributes:
        alphas_normal: the architecture weights of normal cells before the softmax, f32[E,O]: a plain tensor.
        alphas_reduce: those of reduction cells.
        config: the constructor's arguments, from which `new` makes another network.
    """

    cell: ClassVar[type[Cell]] = Cell

    def __init__(
        self,
        C: int = 16,
        layers: int = 8,
        num_classes: int = 10,
        steps: int = 4,
        multiplier: int = 4,
        stem_multiplier: int = 3,
        in_channels: int = 3,
        criterion: nn.Module | None = None,
        *,
        reductions: tuple[int, ...] | None = None,
    ) -> None:
        """Make a supernet with random weights and nearly equal architecture weights.

        Args:
            C: channels of the first cell; each reduction cell doubles them.
            layers: cells.
            num_classes: outputs of the classifier.
            steps: nodes a cell.
            multiplier: nodes that make a cell's output.
            stem_multiplier: channels of the stem, in C.
            in_channels: channels of the images.
            criterion: maps logits and targets to the loss; the cross entropy unless given.
            reductions: which cells are reductions; those after one and two thirds of the cells unless given.

        Raises:
            ValueError: `multiplier` exceeds `steps`.
        """
        super().__init__()
        if multiplier > steps:
            raise ValueError(f"a cell's output is made of its nodes: multiplier {multiplier} exceeds steps {steps}")
        self.config: dict[str, Any] = {
            "C": C,
            "layers": layers,
            "num_classes": num_classes,
            "steps": steps,
            "multiplier": multiplier,
            "stem_multiplier": stem_multiplier,
            "in_channels": in_channels,
            "criterion": criterion,
            "reductions": reductions,
        }
        self._steps = steps
        self._multiplier = multiplier
        self._criterion = criterion or nn.CrossEntropyLoss()
        C_stem = stem_multiplier * C
        self.stem = nn.Sequential(nn.Conv2d(in_channels, C_stem, 3, padding=1, bias=False), nn.BatchNorm2d(C_stem))
        self.cells = nn.ModuleList()
        C_in, reduction_prev = (C_stem, C_stem), False
        for index in range(layers):
            reduction = index in ((layers // 3, 2 * layers // 3) if reductions is None else reductions)
            C *= 2 if reduction else 1
            self.cells.append(self.cell(steps, multiplier, C_in, C, reduction, reduction_prev))
            C_in, reduction_prev = (C_in[1], multiplier * C), reduction
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(C_in[1], num_classes)
        self._initialize_alphas()

    def _initialize_alphas(self) -> None:
        edges = sum(range(2, self._steps + 2))
        self.alphas_normal = (1e-3 * torch.randn(edges, len(PRIMITIVES))).requires_grad_()  # f32[E,O]
        self.alphas_reduce = (1e-3 * torch.randn(edges, len(PRIMITIVES))).requires_grad_()  # f32[E,O]
        self._arch_parameters = [self.alphas_normal, self.alphas_reduce]

    def forward(self, input: Tensor) -> Tensor:
        """Map images f32[N,in_channels,H,W], sides that all reductions halve evenly, to logits f32[N,num_classes]."""
        s0 = s1 = self.stem(input)
        for cell in self.cells:
            weights = F.softmax(self.alphas_reduce if cell.reduction else self.alphas_normal, dim=-1)  # f32[E,O]
            s0, s1 = s1, cell(s0, s1, weights)
        out = self.global_pooling(s1)
        return self.classifier(out.view(out.size(0), -1))

    def _loss(self, input: Tensor, target: Tensor) -> Tensor:
        return self._criterion(self(input), target)

    def arch_parameters(self) -> list[Tensor]:
        """Return the tensors that the architecture's optimizer trains."""
        return self._arch_parameters

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the weights' optimizer trains: all but the architecture's."""
        architecture = {id(tensor) for tensor in self.arch_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in architecture]

    def new(self) -> DARTSSupernet:
        """Return a network of the same configuration with fresh weights and a copy of the alphas."""
        network = type(self)(**self.config).to(self.classifier.weight)
        for fresh, ours in zip(network.arch_parameters(), self.arch_parameters(), strict=True):
            fresh.data = ours.data.clone()  # device and type too: a plain tensor does not follow .to()
        return network

    def genotype(self) -> Genotype:
        """Return the cells of the strongest candidates: for each node the two edges whose best, not none, is best."""
        concat = range(2 + self._steps - self._multiplier, 2 + self._steps)
        normal, reduce = (self._strongest(self._strengths(reduction)) for reduction in (False, True))
        return Genotype(normal, concat, reduce, concat)

    def _strengths(self, reduction: bool) -> Tensor:
        """Return what `genotype` compares, f32[E,O]."""
        return F.softmax(self.alphas_reduce if reduction else self.alphas_normal, dim=-1)

    def _strongest(self, strengths: Tensor) -> list[Edge]:
        best, candidates = strengths.detach()[:, 1:].max(dim=-1)  # without none, the first; f32[E], i64[E]
        found: list[Edge] = []
        offset = 0
        for states in range(2, self._steps + 2):
            order = best[offset : offset + states].argsort(descending=True)[:2].tolist()
            found += [(PRIMITIVES[1 + int(candidates[offset + j])], j) for j in sorted(order)]
            offset += states
        return found
