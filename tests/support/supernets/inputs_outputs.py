"""Supernets that differ in what forward takes and returns."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exactness import image, weights
from idiom import C, Expected, Idiom, edges, mix, parameter


class _Ported(Idiom):
    """Two edges in a row, and a classifier; a subclass hands things in and out."""

    expected: ClassVar[Expected | None] = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges, self.head = parameter(2, 4), edges(), nn.Linear(C, 3)

    def body(self, x: Tensor, w: Any = None) -> Tensor:
        for row, ops in zip(self.alphas.softmax(-1) if w is None else w, self.edges, strict=True):
            x = mix(row, ops, x)
        return x


class FeaturesAndLogits(_Ported):
    """A tuple of pooled features and logits (AutoDL)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = F.adaptive_avg_pool2d(self.body(x), 1).flatten(1)
        return pooled, self.head(pooled)


class DictOfOutputs(_Ported):
    """A dict with outputs of every stage, an input handed through and a number."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        found: dict[str, Any] = OrderedDict(image=x)
        for i, (row, ops) in enumerate(zip(self.alphas.softmax(-1), self.edges, strict=True)):
            x = mix(row, ops, x)
            found[f"stage{i}"] = x
        return {**found, "logits": self.head(x.mean((2, 3))), "stages": len(self.edges), "none": None}


class Result(NamedTuple):
    """What ``NamedOutputs`` returns."""

    logits: Tensor
    cost: Tensor
    name: str


class NamedOutputs(_Ported):
    """A named tuple, whose fields the loop reads."""

    def forward(self, x: Tensor) -> Result:
        w = self.alphas.softmax(-1)
        return Result(self.head(self.body(x, w).mean((2, 3))), (w * torch.arange(4.0).double()).sum(), "logits")


class ListOfOutputs(_Ported):
    """A list of feature maps, nested with the logits (detection backbones)."""

    def forward(self, x: Tensor) -> list[Any]:
        maps = []
        for row, ops in zip(self.alphas.softmax(-1), self.edges, strict=True):
            x = mix(row, ops, x)
            maps.append(x)
        return [maps, (self.head(x.mean((2, 3))),)]


class AuxiliaryHead(_Ported):
    """A second classifier in training only: one tensor in evaluation, two in training."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(C, 3)

    def forward(self, x: Tensor) -> Any:
        logits, middle = None, mix(self.alphas[0].softmax(0), self.edges[0], x)
        logits = self.head(mix(self.alphas[1].softmax(0), self.edges[1], middle).mean((2, 3)))
        return (logits, self.auxiliary(middle.mean((2, 3)))) if self.training else logits


class KeywordOnly(_Ported):
    """Keyword arguments, some without a default; a number scales the output."""

    def keywords(self) -> dict[str, Any]:
        return {"scale": 2.0, "mask": torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)}

    def forward(self, x: Tensor, *, scale: float = 1.0, mask: Tensor | None = None) -> Tensor:
        w = self.alphas.softmax(-1)
        return self.body(x, w if mask is None else w * mask) * scale


class TwoInputs(_Ported):
    """Two images go in, each through one edge (cells that read two states)."""

    def inputs(self, batch: int) -> tuple[Any, ...]:
        return image(batch, C), image(batch, C, seed=5)

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        w = self.alphas.softmax(-1)
        out: Tensor = mix(w[0], self.edges[0], s0) + mix(w[1], self.edges[1], s1)
        return torch.cat([out, s0 + s1], dim=1)


class ListOfInputs(_Ported):
    """A list of states goes in, with weights zipped to it (cells as models)."""

    def inputs(self, batch: int) -> tuple[Any, ...]:
        return ([image(batch, C), image(batch, C, seed=5)],)

    def forward(self, states: list[Tensor]) -> Tensor:
        rows = self.alphas.softmax(-1)
        return sum(mix(w, ops, s) for w, ops, s in zip(rows, self.edges, states, strict=True))  # type: ignore[return-value]


class DictOfInputs(_Ported):
    """A dict of an image and a label goes in; the loss comes out beside the logits."""

    def inputs(self, batch: int) -> tuple[Any, ...]:
        return ({"image": image(batch, C), "label": torch.arange(batch) % 3},)

    def forward(self, sample: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = self.head(self.body(sample["image"]).mean((2, 3)))
        return F.cross_entropy(logits, sample["label"]), logits


class WeightsAndTemperature(Idiom):
    """Logits and a temperature are arguments, the latter a number (FBNet, NASLib)."""

    expected = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.given, self.tau, self.edges = weights(2, 4).tolist(), 2.0, edges()

    def arch(self) -> list[Tensor]:
        return []

    def inputs(self, batch: int) -> tuple[Any, ...]:
        return image(batch, C), torch.tensor(self.given, dtype=torch.float64, requires_grad=True), self.tau

    def forward(self, x: Tensor, logits: Tensor, tau: float) -> Tensor:
        for row, ops in zip((logits / tau).softmax(-1), self.edges, strict=True):
            x = mix(row, ops, x)
        return x

    def set_random(self, seed: int) -> None:
        self.given, self.tau = weights(2, 4, seed=seed).tolist(), 1.0 + seed

    def set_vertex(self, seed: int) -> None:
        self.given = (torch.eye(4)[[seed % 4, (seed + 2) % 4]] * 1e5).tolist()


class RowsInDict(Idiom):
    """A dict from the kind of a cell to its weights is an argument (DARTS-PT's ``weights_dict``)."""

    expected = Expected(2, (4, 2), (4, 2))
    is_raw: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.given, self.edges = weights(2, 4).softmax(-1).tolist(), edges()

    def arch(self) -> list[Tensor]:
        return []

    def inputs(self, batch: int) -> tuple[Any, ...]:
        normal, reduce = torch.tensor(self.given, dtype=torch.float64).unbind()
        return image(batch, C), {"normal": normal, "reduce": reduce}

    def forward(self, x: Tensor, rows: dict[str, Tensor] | None = None) -> Tensor:
        assert rows is not None
        for ops, kind in zip(self.edges, ("normal", "reduce"), strict=True):
            x = mix(rows[kind], ops, x)
        return x

    def set_random(self, seed: int) -> None:
        self.given = weights(2, 4, seed=seed).softmax(-1).tolist()

    def set_vertex(self, seed: int) -> None:
        self.given = torch.eye(4)[[seed % 4, (seed + 2) % 4]].tolist()


class DiscreteFlag(_Ported):
    """``discrete=True`` takes the weights as they are, otherwise their softmax (RobustDARTS, GAEA)."""

    def __init__(self) -> None:
        super().__init__()
        self.is_discrete = False

    def keywords(self) -> dict[str, Any]:
        return {"discrete": self.is_discrete}

    def forward(self, x: Tensor, discrete: bool = False) -> Tensor:
        return self.body(x, self.alphas if discrete else F.softmax(self.alphas, dim=-1))

    def change_state(self) -> None:
        self.is_discrete = True

    @property
    def is_raw(self) -> bool:  # type: ignore[override]
        return self.is_discrete


class UpdateType(_Ported):
    """A string argument says how weights become numbers (SmoothDARTS's ``updateType``)."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = "alpha"

    def inputs(self, batch: int) -> tuple[Any, ...]:
        return image(batch, C), self.kind

    def forward(self, x: Tensor, updateType: str = "alpha") -> Tensor:
        if updateType == "weight":
            return self.body(x, self.alphas)
        return self.body(x, F.softmax(self.alphas, dim=-1))

    def change_state(self) -> None:
        self.kind = "weight"

    @property
    def is_raw(self) -> bool:  # type: ignore[override]
        return self.kind == "weight"


@dataclass(frozen=True)
class Settings:
    """Plain settings, handed to forward."""

    depth: int
    scale: float


class SettingsArgument(_Ported):
    """A frozen dataclass of settings is an argument (aw_nas's rollout)."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = Settings(2, 0.5)

    def inputs(self, batch: int) -> tuple[Any, ...]:
        return image(batch, C), self.settings

    def forward(self, x: Tensor, settings: Settings) -> Tensor:
        for row, ops in list(zip(self.alphas.softmax(-1), self.edges, strict=True))[: settings.depth]:
            x = mix(row, ops, x) * settings.scale
        return x

    def change_state(self) -> None:
        self.settings = Settings(1, 0.25)


class PathArgument(_Ported):
    """A list of numbers says which candidate each edge runs, None for all (SPOS, evaluation of samples)."""

    def __init__(self) -> None:
        super().__init__()
        self.path: list[int] | None = None

    def inputs(self, batch: int) -> tuple[Any, ...]:
        return image(batch, C), self.path

    def forward(self, x: Tensor, path: list[int] | None = None) -> Tensor:
        if path is None:
            return self.body(x)
        for ops, index in zip(self.edges, path, strict=True):
            x = ops[index](x)  # type: ignore[index]
        return x

    def change_state(self) -> None:
        self.path = [2, 3]
