"""Numbers that change and go through `math`: they stay symbolic, or are constants where C reads them unseen."""

from __future__ import annotations

import copy
import functools
import math
import pickle
from collections.abc import Callable
from math import log as taken_before
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from toponas_fx.capture.math_calls import math_stand_ins

Use = Callable[[Any, float], Any]
HELD = functools.partial(math.pow, 2.0)
TABLE = {"sqrt": math.sqrt}


class Net(nn.Module):
    def __init__(self, use: Use) -> None:
        super().__init__()
        self.ops = nn.ModuleList(nn.Conv2d(3, 3, k, padding=k // 2) for k in (1, 3))
        self.alphas, self.tau, self.use = nn.Parameter(torch.randn(2)), 1.5, use

    def forward(self, x: Tensor, given: float = 1.0) -> Tensor:
        weights = torch.softmax(self.alphas / self.use(self, self.tau) * given, 0)
        total: Tensor = sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))
        return total


SYMBOLIC: dict[str, Use] = {
    "log": lambda net, tau: math.log(1 + tau),
    "log_base": lambda net, tau: math.log(1 + tau, 3),
    "exp": lambda net, tau: math.exp(-tau),
    "pow": lambda net, tau: math.pow(tau, 2),
    "nested": lambda net, tau: math.sqrt(math.fabs(math.sin(tau)) + 1),
    "hypot": lambda net, tau: math.hypot(tau, 3.0, tau),
    "cosine": lambda net, tau: 1.1 + 0.5 * (1 + math.cos(math.pi * tau / 9)),
    "isnan": lambda net, tau: tau if not math.isnan(tau) else 1.0,
    "map": lambda net, tau: sum(map(math.exp, [0.1 * tau, 0.2])),
    "by_text": lambda net, tau: getattr(math, "exp")(0.1 * tau),  # noqa: B009
    "condition": lambda net, tau: 2.0 if math.log(tau) > 0.5 else tau,
    "imported_inside": lambda net, tau: _inside(tau),
}


def _inside(tau: float) -> float:
    from math import exp

    return exp(0.1 * tau)


CONSTANT: dict[str, Use] = {
    "taken_before": lambda net, tau: 1 + taken_before(1 + tau),
    "partial": lambda net, tau: HELD(tau),
    "table": lambda net, tau: TABLE["sqrt"](tau),
    "floor": lambda net, tau: 1 + math.floor(tau),
    "ceil_index": lambda net, tau: (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)[math.ceil(tau)],
    "fsum": lambda net, tau: math.fsum([tau, 1.0]),
    "prod": lambda net, tau: math.prod((tau, 2.0)),
    "dist": lambda net, tau: math.dist([tau], [0.0]),
    "isclose": lambda net, tau: 2.0 if math.isclose(tau, 2.0, rel_tol=0.3) else 1.0,
    "frexp": lambda net, tau: math.frexp(tau)[0],
}
X = torch.randn(2, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def assert_steps(fast: Any, original: Any, steps: int) -> None:
    for step in range(steps):
        for net in (fast, original):
            net.tau = 1.05 + 0.11 * step
        found, expected = (
            [value := net(X), *torch.autograd.grad(value.square().sum(), list(net.parameters()))]
            for net in (fast, original)
        )
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SYMBOLIC)
def test_a_number_stays_symbolic(name: str) -> None:
    original = Net(SYMBOLIC[name]).double()
    fast: Any = toponas_fx.simplify(copy.deepcopy(original), X, mode="exact", audit=False)
    assert_steps(fast, original, 24)
    assert not fast._toponas.as_written
    assert sum(fast._toponas.captures.values()) <= 4
    assert type(math.log) is type(len), "nothing of ours stays there"
    again = pickle.loads(pickle.dumps(fast)) if "lambda" not in repr(original.use) else copy.deepcopy(fast)
    assert_steps(again, original, 3)


@pytest.mark.filterwarnings("ignore:.*runs as its user wrote it")
@pytest.mark.parametrize("name", CONSTANT)
def test_what_is_read_unseen_is_right(name: str) -> None:
    original = Net(CONSTANT[name]).double()
    fast: Any = toponas_fx.simplify(copy.deepcopy(original), X, mode="exact", audit=False)
    assert_steps(fast, original, 24)


def test_an_error_of_math_is_the_users() -> None:
    original = Net(SYMBOLIC["condition"]).double()
    fast: Any = toponas_fx.simplify(copy.deepcopy(original), X, mode="exact", audit=False)
    assert_steps(fast, original, 6)
    fast.tau = -1.0
    with pytest.raises(ValueError, match=r"math domain error|positive"):
        fast(X)
    assert_steps(fast, original, 6)


def test_all_that_stands_in_takes_numbers_alone() -> None:
    for _, name, stand_in in math_stand_ins():
        arguments = (0.5,) if name not in ("atan2", "copysign", "fmod", "pow", "remainder") else (0.5, 0.25)
        arguments = (1.5,) if name == "acosh" else arguments
        assert stand_in(*arguments) == getattr(math, name)(*arguments)
        with pytest.raises(TypeError):
            stand_in("1")
