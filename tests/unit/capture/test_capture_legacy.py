"""Tensor types as constructors: ``torch.FloatTensor(n, c, h, w).fill_(0)``, as old code makes its zeros and masks."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Variable

import toponas_fx
from exactness import assert_runs_like, image, no_capture
from toponas_fx.testing import graph_of

REAL = torch.DoubleTensor, torch.FloatTensor, torch.LongTensor


class Cell(nn.Module):
    """A mixed operation and what a case adds to it."""

    def __init__(self, body: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.ops = nn.ModuleList(nn.Conv2d(4, 4, k, padding=k // 2, bias=False) for k in (1, 3))
        self.alphas = nn.Parameter(torch.tensor([0.3, -0.2]))
        self.body = body
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """Mix, with another candidate."""
        w = self.alphas.softmax(0)
        return self.body(x) * 0.5 + w[0] * self.ops[0](x) + w[1] * self.ops[1](x)  # type: ignore[no-any-return]


def zero(x: Tensor) -> Tensor:
    n, c, h, w = x.size()
    padding = torch.DoubleTensor(n, c, h, w).fill_(0)
    return Variable(padding, requires_grad=False)


def drop_path(x: Tensor) -> Tensor:
    mask = Variable(torch.DoubleTensor(x.size(0), 1, 1, 1).bernoulli_(0.5))
    return x.div(0.5) * mask


def of_another(x: Tensor) -> Tensor:
    return x + torch.DoubleTensor(x.size()[1:]).normal_()


def converted(x: Tensor) -> Tensor:
    half = torch.FloatTensor(x.size(0), 1, 1, 1).fill_(0.5)
    return x * half.type(torch.DoubleTensor) if isinstance(x, torch.DoubleTensor) else x


def of_numbers(x: Tensor) -> Tensor:
    picked = x[:, torch.LongTensor(4).zero_()]
    assert isinstance(picked, torch.DoubleTensor)
    assert not isinstance(picked, torch.LongTensor)
    return picked


COMPILED: dict[str, Callable[[Tensor], Any]] = {
    "zero (P-DARTS)": zero,
    "drop path (DARTS)": drop_path,
    "by a size": of_another,
    "converted": converted,
    "indices": of_numbers,
}


@pytest.mark.parametrize("case", COMPILED)
def test_sizes_are_seen(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Cell(COMPILED[case])
    fast = toponas_fx.simplify(copy.deepcopy(model), image(), mode="exact")
    assert (torch.DoubleTensor, torch.FloatTensor, torch.LongTensor) == REAL, "no stand-in stays"
    assert fast._toponas.programs
    fast.load_state_dict(model.state_dict())
    with no_capture(monkeypatch):
        for batch in (3, 5, 2):
            torch.manual_seed(1)
            found = fast(image(batch=batch))
            torch.manual_seed(1)
            assert torch.allclose(found, model(image(batch=batch)), rtol=0, atol=1e-10)


def test_gradients_and_modes() -> None:
    model = Cell(drop_path)
    fast = toponas_fx.simplify(model, image(), mode="exact")
    for training in (True, False):
        assert_runs_like(fast.train(training), model.train(training), image())


@pytest.mark.parametrize("body", [lambda x: x * torch.DoubleTensor([2.0]), lambda x: x * torch.Tensor([2.0]).double()])
def test_values_are_not(body: Callable[[Tensor], Any]) -> None:
    model = Cell(body)
    with pytest.warns(UserWarning, match="legacy constructor"):
        fast = toponas_fx.simplify(copy.deepcopy(model), image(), mode="exact")
    assert torch.allclose(fast(image()), model(image()), rtol=0, atol=1e-10)


def test_a_recording_makes_no_classes() -> None:
    def recorded() -> None:
        graph_of(Cell(drop_path), image())

    recorded()
    gc.collect()
    gc.disable()
    try:
        before = len(type.__subclasses__(object))
        for _ in range(5):
            recorded()
        assert len(type.__subclasses__(object)) - before < 5
    finally:
        gc.enable()
