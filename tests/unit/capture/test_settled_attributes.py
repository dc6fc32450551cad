"""Integers that forward sets once and finds settled from then on, and those that go on counting: no graph does."""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx

Touch = Callable[[Any, Tensor], None]


class Net(nn.Module):
    """Two candidates, and a method that sets attributes on the way."""

    def __init__(self, touch: Touch) -> None:
        super().__init__()
        self.ops = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, k, padding=k // 2, bias=False), nn.BatchNorm2d(3)) for k in (1, 3)
        )
        self.alphas = nn.Parameter(torch.randn(2))
        self.count, self.is_ready, self.phase, self.touch = 0, False, 1, touch

    def forward(self, x: Tensor) -> Tensor:
        self.touch(self, x)
        weights = torch.softmax(self.alphas / self.phase, 0)
        total: Tensor = sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))
        return total


def once(net: Any, x: Tensor) -> None:
    if net.count == 0:
        net.count = 123_456


def with_a_flag(net: Any, x: Tensor) -> None:
    if not net.is_ready:
        net.is_ready, net.phase = True, 3 if net.phase == 1 else 2


def of_the_weights(net: Any, x: Tensor) -> None:
    if net.count == 0:
        net.count = sum(p.numel() for p in net.parameters())


def up_to_the_end(net: Any, x: Tensor) -> None:
    if net.count < 1:
        net.count += 1


def of_data(net: Any, x: Tensor) -> None:
    if net.count == 0:
        net.count = int(net.alphas.detach().argmax()) + 1


SETTLED = (once, with_a_flag, of_the_weights, up_to_the_end, of_data)


def counts(net: Any, x: Tensor) -> None:
    net.count += 1


def turns(net: Any, x: Tensor) -> None:
    net.phase = 3 - net.phase


def counts_to_three(net: Any, x: Tensor) -> None:
    net.count = min(net.count + 1, 3)


def fails_when_set(net: Any, x: Tensor) -> None:
    if net.count:
        raise ValueError("a second call")
    net.count = 5


def plain(net: Any) -> tuple[Any, ...]:
    return net.count, net.is_ready, net.phase


def assert_steps_agree(fast: Any, original: Any, steps: int) -> None:
    for step in range(steps):
        x = torch.randn(2 + step % 2, 3, 8, 8, dtype=torch.float64)
        found, expected = fast(x), original(x)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        mine = torch.autograd.grad(found.square().sum(), list(fast.parameters()))
        theirs = torch.autograd.grad(expected.square().sum(), list(original.parameters()))
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        assert plain(fast) == plain(original), step


@pytest.mark.parametrize("touch", SETTLED)
def test_what_is_set_once_is_set_and_the_model_is_compiled(touch: Touch) -> None:
    original = Net(touch).double()
    model = copy.deepcopy(original)
    fast: Any = toponas_fx.simplify(model, torch.randn(2, 3, 8, 8, dtype=torch.float64), mode="exact")
    assert plain(fast) == plain(original) == (0, False, 1), "a recording leaves nothing behind"
    assert_steps_agree(fast, original, 5)
    assert not fast._toponas.as_written
    programs = list(fast._toponas.programs)
    assert_steps_agree(fast, original, 3)
    assert fast._toponas.programs == programs, "it is settled"
    for net in (fast, original):
        net.count, net.is_ready, net.phase = 0, False, 1
    assert_steps_agree(fast, original, 3)
    assert not fast._toponas.as_written


@pytest.mark.parametrize("touch", SETTLED)
def test_it_shares_from_the_start(touch: Touch) -> None:
    fast: Any = toponas_fx.simplify(Net(touch).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64))
    assert fast.report.mixtures
    assert fast._toponas.sharing.ties


@pytest.mark.parametrize("touch", [counts, turns, counts_to_three, fails_when_set])
def test_what_goes_on_counting_runs_as_written_for_its_line(touch: Touch) -> None:
    original = Net(touch).double()
    lines, first = inspect.getsourcelines(touch)
    (line,) = (first + at for at, text in enumerate(lines) if re.search(r"net\.\w+ \+?= ", text))
    with pytest.warns(UserWarning, match=rf"{__name__}\.py:{line}: forward writes the attribute `(count|phase)`"):
        fast: Any = toponas_fx.simplify(copy.deepcopy(original), torch.randn(2, 3, 8, 8, dtype=torch.float64))
    assert plain(fast) == plain(original)
    if touch is fails_when_set:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_steps_agree(fast, original, 4)
    assert not fast._toponas.programs
