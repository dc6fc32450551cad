"""Supernets whose search sets Python state between steps: modes, rates, selections, modules that come and go."""

from __future__ import annotations

import enum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exactness import weights
from idiom import C, Expected, Idiom, Zero, candidates, conv, edges, mix, parameter


class _Stateful(Idiom):
    """Two edges in a row; a subclass has state and says how it counts."""

    expected: ClassVar[Expected | None] = Expected(2, (4, 2), (4, 2))
    seed: ClassVar[int] = 2

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4, seed=self.seed), edges()

    def step(self, w: Tensor, ops: Any, x: Tensor, index: int) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        for index, (w, ops) in enumerate(zip(self.alphas.softmax(-1), self.edges, strict=True)):
            x = self.step(w, ops, x, index)
        return x


class CalculationMode(_Stateful):
    """``set_cal_mode`` switches between the mixed operation, one path given, and the strongest (SETN)."""

    def __init__(self) -> None:
        super().__init__()
        self.mode, self.path = "joint", [2, 3]

    def set_cal_mode(self, mode: str, path: list[int] | None = None) -> None:
        assert mode in ("joint", "dynamic", "select")
        self.mode, self.path = mode, path or self.path

    def step(self, w: Tensor, ops: Any, x: Tensor, index: int) -> Any:
        if self.mode == "joint":
            return mix(w, ops, x)
        return ops[self.path[index] if self.mode == "dynamic" else int(w.argmax())](x)

    def change_state(self) -> None:
        self.set_cal_mode("dynamic", [3, 1])


class Phase(enum.Enum):
    """What a step of ``Phases`` does with the weights."""

    SOFT = "soft"
    SHARP = "sharp"


class Phases(_Stateful):
    """An enumeration says how weights count, by ``match``."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = Phase.SOFT

    def step(self, w: Tensor, ops: Any, x: Tensor, index: int) -> Any:
        match self.phase:
            case Phase.SOFT:
                return mix(w, ops, x)
            case Phase.SHARP:
                return mix(w * w / (w * w).sum(), ops, x)

    def change_state(self) -> None:
        self.phase = Phase.SHARP


class GlobalMode(_Stateful):
    """The mode is an attribute of the class of all edges (ProxylessNAS's ``MixedEdge.MODE``)."""

    class Edge(nn.Module):
        """One mixed operation; all edges are in one mode."""

        mode = "full"

        def __init__(self) -> None:
            super().__init__()
            self.ops = nn.ModuleList(candidates())

        def forward(self, x: Tensor, w: Tensor) -> Any:
            if GlobalMode.Edge.mode == "two":
                return w[2] * self.ops[2](x) + w[3] * self.ops[3](x)
            return mix(w, self.ops, x)

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList(self.Edge() for _ in range(2))
        GlobalMode.Edge.mode = "full"

    def step(self, w: Tensor, ops: Any, x: Tensor, index: int) -> Any:
        return ops(x, w)

    def change_state(self) -> None:
        GlobalMode.Edge.mode = "two"


decay_rate = 1.0


class GlobalDecay(_Stateful):
    """A global of the module decays an auxiliary skip, an edge of its own (DARTS-)."""

    expected = Expected(4, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        global decay_rate
        decay_rate = 1.0

    def step(self, w: Tensor, ops: Any, x: Tensor, index: int) -> Any:
        return mix(w, ops, x) + x * decay_rate

    def change_state(self) -> None:
        global decay_rate
        decay_rate = 0.25


def drop_path(x: Tensor, rate: float) -> Tensor:
    """Return x with whole images dropped."""
    return x.div(1.0 - rate).mul(torch.empty(x.size(0), 1, 1, 1, dtype=x.dtype).bernoulli_(1.0 - rate))


class DropRateOnModel(_Stateful):
    """``model.drop_path_prob`` is set each epoch; training alone drops (DARTS)."""

    def __init__(self) -> None:
        super().__init__()
        self.drop_path_prob = 0.0

    def step(self, w: Tensor, ops: Any, x: Tensor, index: int) -> Any:
        out = mix(w, ops, x)
        return drop_path(out, self.drop_path_prob) if self.training and self.drop_path_prob > 0 else out

    def change_state(self) -> None:
        self.drop_path_prob = 0.3


class DropRateOnEdges(_Stateful):
    """Each epoch sets ``p`` on the dropout after every skip, and a rate on every edge (P-DARTS)."""

    class Edge(nn.Module):
        """A mixed operation whose skip is dropped at a rate."""

        def __init__(self) -> None:
            super().__init__()
            self.p = 0.2
            skip = nn.Sequential(nn.Identity(), nn.Dropout(self.p))
            self.ops = nn.ModuleList([skip, conv(1), conv(3), Zero()])

        def update_p(self) -> None:
            self.ops[0][1].p = self.p  # type: ignore[index]

        def forward(self, x: Tensor, w: Tensor) -> Any:
            return mix(w, self.ops, x) * (1 - self.p)

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList(self.Edge() for _ in range(2))

    def step(self, w: Tensor, ops: Any, x: Tensor, index: int) -> Any:
        return ops(x, w)

    def change_state(self) -> None:
        for edge in self.edges:
            edge.p = 0.6
            edge.update_p()  # type: ignore[operator]


class SelectedEdges(_Stateful):
    """A list says which candidate an edge was decided for, -1 for none; it is changed in place (SGAS)."""

    def __init__(self) -> None:
        super().__init__()
        self.selected_idxs = [-1, -1]

    def step(self, w: Tensor, ops: Any, x: Tensor, index: int) -> Any:
        if self.selected_idxs[index] == -1:
            return mix(w, ops, x)
        return ops[self.selected_idxs[index]](x)

    def change_state(self) -> None:
        self.selected_idxs[1] = 2


class PrunedEdges(_Stateful):
    """A dict of sets names the candidates left on each edge; pruning takes members out."""

    def __init__(self) -> None:
        super().__init__()
        self.left = {"edge0": {0, 1, 2, 3}, "edge1": {1, 2, 3}}

    def step(self, w: Tensor, ops: Any, x: Tensor, index: int) -> Any:
        return sum(w[i] * ops[i](x) for i in sorted(self.left[f"edge{index}"]))

    def change_state(self) -> None:
        self.left["edge0"].discard(3)

    def set_vertex(self, seed: int) -> None:
        with torch.no_grad():
            self.alphas.fill_(-1e5)
            self.alphas[0, seed % 4] = self.alphas[1, 1 + seed % 3] = 0.0


class ReplacedOp(_Stateful):
    """A decided edge's module is replaced by another (darts-pt's projection on modules)."""

    def step(self, w: Tensor, ops: Any, x: Tensor, index: int) -> Any:
        return mix(w, ops, x)

    def change_state(self) -> None:
        self.edges[1][3] = nn.AvgPool2d(3, 1, 1)  # type: ignore[index,operator]
        self.edges[0][2] = Zero()  # type: ignore[index,operator]


class UnusedOff(_Stateful):
    """Candidates are set to None while they are unused (ProxylessNAS's ``unused_modules_off``)."""

    def step(self, w: Tensor, ops: Any, x: Tensor, index: int) -> Any:
        return sum(v * op(x) for v, op in zip(w, ops, strict=True) if op is not None)

    def change_state(self) -> None:
        self.edges[0][3] = None  # type: ignore[index,operator]


class OtherWeights(Idiom):
    """Weights are replaced by a tensor of another shape, the weakest candidate of each edge is deleted (P-DARTS)."""

    expected = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.stages = [weights(2, 4), weights(2, 3, seed=3)]
        self.alphas, self.edges = self.stages[0], edges()

    def forward(self, x: Tensor) -> Tensor:
        for w, ops in zip(F.softmax(self.alphas, dim=-1), self.edges, strict=True):
            x = mix(w, ops, x)
        return x

    def change_state(self) -> None:
        self.alphas = self.stages[1]
        for ops in self.edges:
            del ops[1]  # type: ignore[union-attr]


class Depth(_Stateful):
    """As many edges run as a number says (once-for-all)."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 2

    def forward(self, x: Tensor) -> Any:
        w, out = self.alphas.softmax(-1), x
        for index in range(self.depth):
            out = mix(w[index], self.edges[index], out)
        return out

    def change_state(self) -> None:
        self.depth = 1


class PartOfChannels(_Stateful):
    """The share of channels that is searched is a number that grows, the kernels with it (once-for-all width)."""

    expected = Expected(2, (4, 4), (4, 4))

    def __init__(self) -> None:
        super().__init__()
        self.width = C // 2

    def run(self, op: Any, x: Tensor) -> Any:
        if not isinstance(op, nn.Sequential):
            return op(x)
        _, layer, norm = op
        x = F.conv2d(x.relu(), layer.weight[:, : self.width], padding=layer.padding)
        return norm(x)

    def step(self, w: Tensor, ops: Any, x: Tensor, index: int) -> Any:
        out = sum(v * self.run(op, x[:, : self.width]) for v, op in zip(w[2:], list(ops)[2:], strict=True))
        return out + w[1] * x + w[0] * x.mul(0)

    def change_state(self) -> None:
        self.width = C
