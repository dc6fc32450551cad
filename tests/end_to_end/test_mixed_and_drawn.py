"""Models that mix candidates on some edges and draw, or are told, one of several on others: what mixes is shared."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from supernets.gdas import GDASSupernet
from supernets.gdas_darts import GDASDARTSSupernet


def branch(size: int, channels: int = 4) -> nn.Sequential:
    convolution = nn.Conv2d(channels, channels, size, padding=size // 2, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(channels))


class Mix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList([nn.Identity(), branch(1), branch(3)])
        self.alphas = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = sum(w * op(x) for w, op in zip(self.alphas.softmax(-1), self.ops, strict=True))
        return total


class Heads(nn.Module):
    """A mixed operation, and one of three heads: of a task that is set, given or drawn."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell, self.kind, self.task = Mix(), kind, 0
        self.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(3))

    def forward(self, x: Tensor, task: int | None = None) -> Tensor:
        x = self.cell(x).mean((2, 3))
        chosen = {"set": self.task, "given": task}.get(self.kind)
        result: Tensor = self.heads[random.randrange(3) if chosen is None else chosen](x)
        return result


class Blocks(nn.Module):
    """A step runs one of three blocks, two of which mix."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.blocks, self.kind, self.task = nn.ModuleList([Mix(), branch(3), Mix()]), kind, 0
        self.last = Mix()

    def forward(self, x: Tensor, task: int | None = None) -> Tensor:
        chosen = {"set": self.task, "given": task}.get(self.kind)
        result: Tensor = self.last(self.blocks[random.randrange(3) if chosen is None else chosen](x)).mean((2, 3))
        return result


class Sources(nn.Module):
    """Cells that read one of the values before them, as lists of the search say."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cells, self.kind, self.task = nn.ModuleList(Mix() for _ in range(3)), kind, 0

    def forward(self, x: Tensor, task: int | None = None) -> Tensor:
        chosen = {"set": self.task, "given": task}.get(self.kind)
        values = [x, self.cells[0](x), x.tanh()]
        value = values[random.randrange(3) if chosen is None else chosen]
        return self.cells[2](self.cells[1](value)).mean((2, 3))


X = torch.randn(3, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
SEEDS = [next(seed for seed in range(99) if random.Random(seed).randrange(3) == task) for task in range(3)]


def run(model: Any, task: int) -> Tensor:
    """Run a model for a task; one that draws it draws until it is that one."""
    if model.kind == "set":
        model.task = task
    if model.kind == "given":
        return model(X, task)  # type: ignore[no-any-return]
    random.seed(SEEDS[task])
    result: Tensor = model(X)
    return result


def counts(model: nn.Module) -> list[int]:
    return [int(norm.num_batches_tracked) for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]


def stepped(model: Any, task: int) -> tuple[list[Tensor], list[int]]:
    """Return outputs and gradients of a step, and how often each norm ran; leave the model as it was."""
    state, before = copy.deepcopy(model.state_dict()), counts(model)
    value = run(model, task)
    found = torch.autograd.grad(value.square().sum(), list(model.parameters()), allow_unused=True)
    ran = [now - then for now, then in zip(counts(model), before, strict=True)]
    model.load_state_dict(state)
    return [value, *(torch.zeros(()) if gradient is None else gradient for gradient in found)], ran


@pytest.mark.parametrize("kind", ["set", "given", "drawn"])
@pytest.mark.parametrize("make", [Heads, Blocks, Sources])
def test_a_choice_besides_changes_nothing_of_what_is_shared(make: Callable[[str], Any], kind: str) -> None:
    model = make(kind).double()
    given = (X, 0) if kind == "given" else (X,)
    fast: Any = toponas_fx.simplify(copy.deepcopy(model), given, audit=False).train()
    assert fast._toponas.sharing.ties
    ties, names = dict(fast._toponas.sharing.ties), [name for name, _ in fast.named_parameters()]
    first = {}
    for task in (0, 1, 2, 0, 1, 2, 2, 1, 0, 2, 0, 1):
        values, ran = stepped(fast, task)
        assert set(ran) <= {0, 1}, "no norm runs twice"
        for found, expected in zip(values, first.setdefault(task, values), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert fast._toponas.sharing.ties == ties
    assert [name for name, _ in fast.named_parameters()] == names
    assert any(program.values and any(program.values) for program in fast._toponas.programs) or kind == "drawn"


@pytest.mark.parametrize("make", [Heads, Blocks, Sources])
def test_at_one_hot_architectures_it_is_the_reference(make: Callable[[str], Any]) -> None:
    fast: Any = toponas_fx.simplify(make("set").double(), X, audit=False).train()
    for step in range(9):
        for name, alphas in fast.named_parameters():
            if name.endswith("alphas"):
                alphas.data.fill_(-1e4)[step % 3] = 1e4
        state = copy.deepcopy(fast.state_dict())
        found = run(fast, step // 3)
        fast.load_state_dict(state)
        torch.testing.assert_close(found, fast.reference(X), rtol=1e-9, atol=1e-11)


def test_what_mixes_beside_a_drawn_head_is_reported_as_shared() -> None:
    report = toponas_fx.explain(Heads("drawn").double(), X)
    text = str(report)
    assert (report.before.norms, report.after.norms) == (2, 1)
    assert "none is shared" not in text.split("of edges that draw")[0]


@pytest.mark.parametrize("make", [lambda: GDASSupernet(C=4, N=1), lambda: GDASDARTSSupernet(C=4, layers=2)])
def test_a_model_that_draws_alone_mixes_nothing(make: Callable[[], Any]) -> None:
    fast: Any = toponas_fx.simplify(make(), torch.randn(2, 3, 16, 16))
    assert [program.has_mixtures for program in fast._toponas.programs] == [None]
    assert not fast._toponas.sharing.is_decided, "another mode of the model may mix"
    assert not fast._toponas.sharing.ties
