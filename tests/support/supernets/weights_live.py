"""Supernets that differ in where their architecture weights live."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exactness import image, weights
from idiom import C, Expected, Idiom, candidates, conv, edges, mix, parameter

TWO_EDGES = Expected(2, (4, 2), (4, 2))


class Registered(Idiom):
    """A parameter with one row for each edge (pdarts)."""

    expected = TWO_EDGES

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4), edges()

    def forward(self, x: Tensor) -> Tensor:
        for w, ops in zip(F.softmax(self.alphas, dim=-1), self.edges, strict=True):
            x = mix(w, ops, x)
        return x


class PlainTensor(Registered):
    """A tensor that is no parameter and requires a gradient (the first DARTS)."""

    def __init__(self) -> None:
        super().__init__()
        del self.alphas
        self.alphas = weights(2, 4)


class Buffered(Registered):
    """Weights in a buffer that no gradient reaches: another process writes them."""

    def __init__(self) -> None:
        super().__init__()
        del self.alphas
        self.register_buffer("alphas", weights(2, 4).detach())


class InList(Idiom):
    """A python list of tensors, one for each edge (SGAS)."""

    expected = TWO_EDGES

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = self.make(), edges()

    def make(self) -> Any:
        return [weights(4, seed=seed) for seed in (2, 3)]

    def arch(self) -> list[Tensor]:
        return list(self.alphas)

    def forward(self, x: Tensor) -> Tensor:
        for alpha, ops in zip(self.alphas, self.edges, strict=True):
            x = mix(alpha.softmax(-1), ops, x)
        return x


class InTuple(InList):
    """A tuple of tensors, one for each edge."""

    def make(self) -> Any:
        return tuple(super().make())


class InParameterList(InList):
    """An ``nn.ParameterList`` (pt.darts)."""

    def make(self) -> Any:
        return nn.ParameterList(parameter(4, seed=seed) for seed in (2, 3))


class InDict(Idiom):
    """A dict of tensors that the architect binds anew at each step (GAEA)."""

    expected = TWO_EDGES

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = self.make(), edges()

    def make(self) -> Any:
        return {"normal": weights(4), "reduce": weights(4, seed=3)}

    def arch(self) -> list[Tensor]:
        return list(self.alphas.values())

    def forward(self, x: Tensor) -> Tensor:
        for name, ops in zip(("normal", "reduce"), self.edges, strict=True):
            x = mix(F.softmax(self.alphas[name], dim=0), ops, x)
        return x


class InParameterDict(InDict):
    """An ``nn.ParameterDict`` with one entry for each kind of cell."""

    def make(self) -> Any:
        return nn.ParameterDict({"normal": parameter(4), "reduce": parameter(4, seed=3)})


class ReadThroughList(Idiom):
    """Registered in a ``ParameterDict``, read through a python list (archai)."""

    expected = TWO_EDGES

    def __init__(self) -> None:
        super().__init__()
        self.registered = nn.ParameterDict({"first": parameter(4), "second": parameter(4, seed=3)})
        self._alphas, self.edges = list(self.registered.values()), edges()

    def arch(self) -> list[Tensor]:
        return list(self._alphas)

    def forward(self, x: Tensor) -> Tensor:
        for i, ops in enumerate(self.edges):
            x = mix(F.softmax(self._alphas[i], dim=0), ops, x)
        return x


class AliasList(Idiom):
    """Normal and reduction weights, listed again in ``_arch_parameters`` (quark0/darts)."""

    expected = TWO_EDGES

    def __init__(self) -> None:
        super().__init__()
        self.alphas_normal, self.alphas_reduce = weights(1, 4), weights(1, 4, seed=3)
        self._arch_parameters, self.edges = [self.alphas_normal, self.alphas_reduce], edges()

    def arch(self) -> list[Tensor]:
        return self._arch_parameters

    def forward(self, x: Tensor) -> Tensor:
        for i, ops in enumerate(self.edges):
            w = F.softmax(self.alphas_reduce if i else self.alphas_normal, dim=-1)
            x = mix(w[0], ops, x)
        return x


class _Controller(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alphas = parameter(2, 4)

    def forward(self) -> Tensor:
        return self.alphas.softmax(-1)


class OnSubmodule(Idiom):
    """A submodule holds the weights and returns their softmax when called."""

    expected = TWO_EDGES

    def __init__(self) -> None:
        super().__init__()
        self.controller, self.edges = _Controller(), edges()

    def arch(self) -> list[Tensor]:
        return [self.controller.alphas]

    def forward(self, x: Tensor) -> Tensor:
        w = self.controller()
        return mix(w[1], self.edges[1], mix(w[0], self.edges[0], x))


class _Cell(nn.Module):
    def __init__(self, alphas: nn.Parameter | None = None, k: int = 3) -> None:
        super().__init__()
        self.alphas = parameter(4) if alphas is None else alphas
        self.ops = nn.ModuleList([*candidates()[:2], conv(k), conv(1)])

    def forward(self, x: Tensor) -> Any:
        return mix(self.alphas.softmax(-1), self.ops, x)


class OnEachCell(Idiom):
    """Each cell has weights of its own (FBNet's thetas)."""

    expected = TWO_EDGES

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList(_Cell(parameter(4, seed=seed)) for seed in (2, 3))

    def arch(self) -> list[Tensor]:
        return [cell.alphas for cell in self.cells]  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            x = cell(x)
        return x


class SharedLabel(OnEachCell):
    """One parameter is registered under several modules (nni's labels)."""

    def __init__(self) -> None:
        super().__init__()
        shared = parameter(4)
        self.cells = nn.ModuleList(_Cell(shared, k) for k in (3, 5))


class Groups(Idiom):
    """Weights of two groups of candidates, concatenated before their softmax (DOTS)."""

    expected = TWO_EDGES

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.convolutions, self.edges = parameter(2, 2), parameter(2, 2, seed=3), edges()

    def arch(self) -> list[Tensor]:
        return [self.plain, self.convolutions]

    def forward(self, x: Tensor) -> Tensor:
        for w, ops in zip(torch.cat(self.arch(), dim=1).softmax(1), self.edges, strict=True):
            x = mix(w, ops, x)
        return x

    def set_vertex(self, seed: int) -> None:
        super().set_vertex(seed)
        with torch.no_grad():
            self.arch()[seed % 2].fill_(-1e5)


class Argument(Idiom):
    """The weights are an argument of forward (aw_nas)."""

    expected = TWO_EDGES
    is_raw: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.given, self.edges = weights(2, 4).tolist(), edges()

    def arch(self) -> list[Tensor]:
        return []

    def inputs(self, batch: int) -> tuple[Any, ...]:
        return image(batch, C), torch.tensor(self.given, dtype=torch.float64, requires_grad=True)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        for row, ops in zip(w, self.edges, strict=True):
            x = mix(row, ops, x)
        return x

    def set_random(self, seed: int) -> None:
        self.given = weights(2, 4, seed=seed).tolist()

    def set_vertex(self, seed: int) -> None:
        self.given = torch.eye(4)[[seed % 4, (seed + 2) % 4]].tolist()


class OwnArgument(Registered):
    """The weights are an argument of forward, and an attribute all the same."""

    is_raw: ClassVar[bool] = True

    def inputs(self, batch: int) -> tuple[Any, ...]:
        return image(batch, C), self.alphas

    def forward(self, x: Tensor, w: Tensor) -> Tensor:  # type: ignore[override]
        for i, ops in enumerate(self.edges):
            x = mix(w[i], ops, x)
        return x
