"""Numbers that forward is given, another at each call: they become inputs of a program, as tensors are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

import toponas_fx
from exactness import assert_runs_like, counted_captures, image, no_capture
from number_uses import BECOME_CONSTANTS, RISING, STAY_SYMBOLIC, Net, soft


class Given(nn.Module):
    """Takes its temperature as an argument, as FBNet's supernets do, and more of them in a dict."""

    def __init__(self, use: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.net = Net(use)

    def forward(self, x: Tensor, temperature: float = 1.0, *, more: Any = None) -> Tensor:
        holder = Holder(self.net, temperature, more)
        return self.net.use(holder, x)


class Holder:
    """Answers as a net does, with another number."""

    def __init__(self, net: Net, t: float, more: Any) -> None:
        self.net, self.t, self.more = net, t, more

    def __getattr__(self, name: str) -> Any:
        return getattr(self.net, name)

    @property
    def inverse(self) -> float:
        return 1.0 / self.t


@pytest.mark.parametrize("use", STAY_SYMBOLIC)
def test_a_number_given_at_each_step_costs_one_capture_a_path(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Given(STAY_SYMBOLIC[use]), image(4)
    fast = toponas_fx.simplify(model, (x, 1.0), mode="exact")
    with counted_captures(monkeypatch) as found:
        for value in (*RISING, *reversed(RISING)):
            assert_runs_like(fast, model, x, value)
    assert len(found) <= 4
    assert not fast._toponas.as_written
    with no_capture(monkeypatch):
        for value in (0.35, 1.45, 0.61, 1.0):
            assert_runs_like(fast, model, x, value)
        assert_runs_like(fast, model, image(7), 0.37)
    with counted_captures(monkeypatch) as found:
        for value in RISING:
            assert_runs_like(fast, model, x, temperature=value)
    assert len(found) <= 4


@pytest.mark.filterwarnings("ignore:.*keeps changing:UserWarning")
@pytest.mark.parametrize("use", [use for use in BECOME_CONSTANTS if not use.startswith("a table of")])
def test_a_number_given_that_is_looked_into_is_never_stale(use: str) -> None:
    model, x = Given(BECOME_CONSTANTS[use]), image(4)
    fast = toponas_fx.simplify(model, (x, 1.0), mode="exact")
    for value in (*RISING, *reversed(RISING), 0.301, 0.302, 1, 1.0, 1.32, 1.33):
        assert_runs_like(fast, model, x, value)


def test_numbers_in_containers_and_of_the_model_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(m: Any, x: Tensor) -> Tensor:
        return soft(m, x, m.t * m.net.t + m.more["b"]) * (m.more["a"][0] if m.t < m.more["b"] else 1.0)

    model, x = Given(both), image(4)
    fast = toponas_fx.simplify(model, (x, 1.0), example_kwargs={"more": {"a": [0.5, 1], "b": 2.0}}, mode="exact")
    with counted_captures(monkeypatch) as found:
        for step, value in enumerate(RISING):
            fast.net.t = model.net.t = 1 + step / 7
            assert_runs_like(fast, model, x, value, more={"a": [value / 2, 1], "b": 1.0 + step % 2})
            assert_runs_like(fast, model, x, 1.0, more={"a": [value / 2, 1], "b": 0.5 + value})
    assert len(found) <= 8
    assert not fast._toponas.as_written


def test_what_a_number_decides_twice_is_decided_anew() -> None:
    def stepped(m: Any, x: Tensor) -> Tensor:
        return soft(m, x, float(sum(m.t > bound for bound in (0.4, 0.7, 1.0, 1.3, 1.6)) + 1))

    model, x = Given(stepped), image(4)
    fast = toponas_fx.simplify(model, (x, 1.0), mode="exact")
    for value in (*RISING, *reversed(RISING)):
        assert_runs_like(fast, model, x, value)
