"""Recorded runs of tiny modules with forced draws, for the tests of what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from toponas_fx.capture import Capture, capture
from toponas_fx.capture.expressions import NO_NUMBERS
from toponas_fx.capture.forcing import Forcing
from toponas_fx.capture.path_merging import merge_paths
from toponas_fx.capture.path_sections import Merged, Site

X = torch.linspace(-1, 1, 2 * 4 * 3 * 3).view(2, 4, 3, 3)


class Net(nn.Module):
    """A module of named parts, with architecture parameters and three candidates, and its ``forward(self, x)``."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self._forward_function = (forward,)  # in a tuple: a plain function is no state to guard
        self.alphas = nn.Parameter(torch.zeros(3, 3))
        self.ops = nn.ModuleList([nn.Identity(), nn.Tanh(), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1))])
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor, *more: Any, **named: Any) -> Any:
        """Run the function."""
        return self._forward_function[0](self, x, *more, **named)


def forced(module: nn.Module, forcing: Forcing, x: Tensor = X, *more: Any) -> Capture:
    """Return a recorded run."""
    return capture(module, module.forward, (x, *more), {}, NO_NUMBERS, forcing)


def runs(module: nn.Module, count: int = 3, *more: Any) -> list[fx.Graph]:
    """Return the graphs of runs that take one candidate everywhere each."""
    given = None if not more else [0] * len(more)
    return [forced(module, Forcing(t, None, given and [t for _ in given]), X, *more).graph for t in range(count)]


def merged(forward: Callable[..., Any], count: int = 3, **parts: Any) -> Merged:
    """Return the merged runs of a module."""
    return merge_paths(runs(Net(forward, **parts), count))


def told(found: Merged) -> list[str]:
    """Return a line for each choice, the names of the calls of each arm and how many values it gives."""
    return [_of_site(part) for part in found.parts if isinstance(part, Site)]


def common(found: Merged) -> list[str]:
    """Return the names of the calls that always run."""
    return [name(part) for part in found.parts if isinstance(part, fx.Node)]


def name(node: fx.Node) -> str:
    """Return the name of what a node calls."""
    return node.target if isinstance(node.target, str) else node.target.__name__  # type: ignore[union-attr]


def _of_site(site: Site) -> str:
    arms = " | ".join(" ".join(map(name, arm)) for arm in site.arms)
    return f"{site.values}: {arms} -> {len(site.selects)}"
