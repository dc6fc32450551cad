"""Scripted and traced parts of a supernet run whole: a graph calls them, and shares nothing of what it cannot see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from equality import assert_vertex
from exactness import assert_runs_like, compiled, image, weights

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::torch.jit.TracerWarning")


class Block(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), act
        self.double()

    def forward(self, x: Tensor) -> Any:
        return self.act(self.norm(self.conv(x))) * 2.0


class Supernet(nn.Module):
    """Four candidates, of which two went through torch.jit."""

    def __init__(self, make: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        acts = nn.ReLU(), nn.Tanh(), nn.ReLU(), nn.ReLU()
        made = [make(block) if i < 2 else block for i, block in enumerate(map(Block, acts))]
        self.ops = nn.ModuleList(made)
        self.alphas = weights(4)

    def forward(self, x: Tensor) -> Any:
        return sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True))


MAKERS: dict[str, Callable[[nn.Module], Any]] = {
    "script": torch.jit.script,
    "trace": lambda module: torch.jit.trace(module, image(), check_trace=False),
}


@pytest.mark.parametrize("how", MAKERS)
def test_scripted_candidates_run_whole(how: str) -> None:
    model = Supernet(MAKERS[how])
    fast = compiled(model, image())
    assert {"ops.0", "ops.1"} <= {str(node.target) for node in fast.graph.nodes}
    for training in (True, False):
        fast.train(training), model.train(training)
        assert_runs_like(fast, model, image())
        assert_runs_like(fast, model, image(2))


@pytest.mark.parametrize("how", MAKERS)
def test_scripted_candidates_are_not_shared(how: str) -> None:
    fast = toponas_fx.simplify(Supernet(MAKERS[how]), image())
    assert not any(path.startswith(("ops.0", "ops.1")) for path in fast._toponas.sharing.ties)
    for chosen in range(4):
        fast.alphas.data = torch.eye(4, dtype=torch.float64)[chosen]
        assert_vertex(fast, (image(),), 1e-10, [fast.alphas])
