"""Integers that the forward of a model which mixes its candidates is given, another at each step: read, or ignored."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx

Use = Callable[[Any, Tensor, Any], Any]
LOG = logging.getLogger("a search")


class Mixed(nn.Module):
    """Two candidates; what is done with the number of the step is told from outside."""

    def __init__(self, use: Use) -> None:
        super().__init__()
        self.ops = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, k, padding=k // 2, bias=False), nn.BatchNorm2d(4)) for k in (1, 3)
        )
        self.alphas = nn.Parameter(torch.randn(2))
        self.use, self.seen, self.log = use, None, []

    def forward(self, x: Tensor, step: Any = 0, last: Any = 0) -> Tensor:
        weights = torch.softmax(self.alphas, 0)
        total: Tensor = sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))
        used = self.use(self, x, step)
        return total if used is None else total * used


def is_passed_on(net: Any, x: Tensor, step: Any) -> None:
    def inner(number: Any, *others: Any, **named: Any) -> Any:
        return number, others, named

    inner(step, step, other=step)


def is_none(net: Any, x: Tensor, step: Any) -> Any:
    return None if step is not None else 2.0


IGNORING: tuple[Use, ...] = (lambda net, x, step: None, is_passed_on, is_none)


def keeps(net: Any, x: Tensor, step: Any) -> None:
    net.seen = step


def logs(net: Any, x: Tensor, step: Any) -> None:
    LOG.info("step %d", step)


def appends(net: Any, x: Tensor, step: Any) -> None:
    net.log.append(step)


READING: tuple[Use, ...] = (
    *(keeps, logs, appends),
    lambda net, x, step: 1 + step,
    lambda net, x, step: torch.full((), float(step), dtype=x.dtype),
    lambda net, x, step: 2.0 if step % 3 == 1 else None,
    lambda net, x, step: 2.0 if step > 6 else None,
    lambda net, x, step: 2.0 if step in (3, 5) else None,
    lambda net, x, step: 2.0 if step is False or step is True else None,
    lambda net, x, step: 2.0 if type(step) is int else 3.0,
    lambda net, x, step: 2.0 if isinstance(step, bool) else 3.0,
    lambda net, x, step: (2.0, 3.0, 5.0, 7.0)[step % 4],
    lambda net, x, step: len("%d" % step),  # noqa: UP031
    lambda net, x, step: len(f"{step}"),
    lambda net, x, step: sum(1.5 for _ in range(step)) or None,
    lambda net, x, step: math.sqrt(1 + step),
    lambda net, x, step: (step and 2.0) or 3.0,
    lambda net, x, step: {4: 2.0, 6: 3.0}.get(step, 5.0),
    lambda net, x, step: id(step) % 2 + 1.0 if step == 2 else 1.0,
    lambda net, x, step: x.mean() * step,
    lambda net, x, step: x.new_tensor([step + 1]).double(),
)


def trained(model: Any, x: Tensor, *given: Any) -> list[Tensor]:
    value = model(x, *given)
    parameters = [model.alphas, *(op[1].weight for op in model.ops)]
    found = torch.autograd.grad(value.square().sum(), parameters, allow_unused=True)
    return [value.detach(), *(gradient for gradient in found if gradient is not None)]


def assert_steps(fast: Any, model: Any, steps: int) -> None:
    for step in range(steps):
        x = torch.randn(2 + step % 3, 4, 6, 6, dtype=torch.float64)
        for found, expected in zip(trained(fast, x, step), trained(model, x, step), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
        assert (fast.seen, fast.log) == (model.seen, model.log)
        assert type(fast.seen) is type(model.seen)


X = torch.randn(2, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("use", IGNORING)
def test_what_is_ignored_costs_two_captures(use: Use) -> None:
    model = Mixed(use).double()
    fast: Any = toponas_fx.simplify(copy.deepcopy(model), (X, 0), mode="exact", audit=False)
    assert_steps(fast, model, 40)
    assert not fast._toponas.as_written
    assert sum(fast._toponas.captures.values()) <= 3
    for net in (fast, model):
        net.eval()
    assert_steps(fast, model, 12)
    assert not fast._toponas.as_written


def test_it_shares_as_before() -> None:
    model = Mixed(IGNORING[0]).double()
    fast, first = (toponas_fx.simplify(copy.deepcopy(model), (X, 0), audit=False) for _ in range(2))
    names, ties = [name for name, _ in fast.named_parameters()], dict(fast._toponas.sharing.ties)
    assert ties
    with_gradients = []
    for step in range(12):
        fast.zero_grad()
        found = fast(X, step)
        torch.testing.assert_close(found, first(X, 0), rtol=1e-10, atol=1e-11)
        found.square().sum().backward()
        with_gradients.append([name for name, parameter in fast.named_parameters() if parameter.grad is not None])
    assert with_gradients == [names] * 12
    assert fast._toponas.sharing.ties == ties
    assert not fast._toponas.as_written


@pytest.mark.filterwarnings("ignore:.*runs as its user wrote it")
@pytest.mark.parametrize("use", READING)
def test_what_is_read_is_read(use: Use) -> None:
    model = Mixed(use).double()
    fast: Any = toponas_fx.simplify(copy.deepcopy(model), (X, 0), mode="exact", audit=False)
    assert_steps(fast, model, 24)


@pytest.mark.filterwarnings("ignore:.*runs as its user wrote it")
def test_one_that_is_read_beside_one_that_is_not() -> None:
    model = Mixed(lambda net, x, step: 1.0 + step % 2).double()
    fast: Any = toponas_fx.simplify(copy.deepcopy(model), (X, 0, 0), mode="exact", audit=False)
    for step in range(24):
        given = (X, step % 2, step)
        assert torch.allclose(fast(*given), model(*given), rtol=1e-10, atol=1e-11)
