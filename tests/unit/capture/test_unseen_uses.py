"""What Python does with values that no recorder sees: asks which object they are, how torch is set, who holds them."""

from __future__ import annotations

import copy
import gc
import math
import operator
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from supernets.gdas import GDASSupernet
from toponas_fx.capture.outside import asks_identity

LAST = 2
X = torch.randn(2, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

ASKED: dict[str, Callable[[int], bool]] = {
    "a global": lambda k: k is LAST,
    "one of several": lambda k: any(k is j for j in (1, 2)),
    "not": lambda k: k is not LAST,
    "id": lambda k: id(k) == id(1),
    "operator": lambda k: operator.is_(k, 1),
}
DRAWN: dict[str, Callable[[Any], int]] = {
    "torch": lambda model: int(torch.randint(3, ())),
    "python": lambda model: random.randrange(3),
    "kept": lambda model: model.active,
}


class Asking(nn.Module):
    """It asks which object an index is, as ``is`` and ``id`` do: small integers are one object each."""

    def __init__(self, asked: Callable[[int], bool], drawn: Callable[[Any], int]) -> None:
        super().__init__()
        self.asked, self.drawn, self.active = asked, drawn, 0
        self.ops = nn.ModuleList([nn.Identity(), nn.Conv2d(4, 4, 1), nn.Tanh()])

    def forward(self, x: Tensor) -> Any:
        k = self.drawn(self)
        return x.sin() if self.asked(k) else self.ops[k](x)


def assert_same(model: Any, fast: Any, steps: int = 12) -> None:
    for seed in range(steps):
        found = []
        for one in (model, fast):
            torch.manual_seed(seed)
            random.seed(seed)
            one.active = seed % 3
            found.append(one(X))
        assert torch.allclose(*found, rtol=1e-10, atol=1e-12), seed


@pytest.mark.filterwarnings("ignore:.*runs as its user wrote it")
@pytest.mark.parametrize("drawn", DRAWN)
@pytest.mark.parametrize("asked", ASKED)
def test_an_index_is_the_object_that_it_is(asked: str, drawn: str) -> None:
    model = Asking(ASKED[asked], DRAWN[drawn]).double()
    fast = toponas_fx.simplify(copy.deepcopy(model), X, audit=False)
    assert_same(model, fast, 24)


def test_none_and_the_truth_values_may_be_asked_for() -> None:
    def none(k: int) -> bool:
        return k is None or k is True or k is False or k is ...

    assert not asks_identity(none.__code__)
    assert all(asks_identity(asked.__code__) for asked in ASKED.values())
    model = Asking(none, DRAWN["torch"]).double()
    fast: Any = toponas_fx.simplify(copy.deepcopy(model), X)
    assert_same(model, fast)
    assert not fast._toponas.as_written


class Wide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (2 if torch.get_default_dtype() is torch.float64 else 1)


def test_the_default_dtype_counts_at_the_next_call(float64: None) -> None:
    fast = toponas_fx.simplify(Wide(), X, audit=False)
    assert torch.equal(fast(X), 2 * X)
    torch.set_default_dtype(torch.float32)
    assert torch.equal(fast(X), X)


class OwnConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_methods_that_name_their_class_are_looked_up_once_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = gc.get_referrers
    monkeypatch.setattr(gc, "get_referrers", lambda *args: asked.append(args) or real(*args))
    toponas_fx.simplify(nn.Sequential(*(OwnConv(4, 4, 1) for _ in range(30))).double(), X)
    assert not asked

    def made(scale: float) -> type[nn.Module]:
        class Scaled(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x * scale

        return Scaled

    kind = made(2.0)
    toponas_fx.simplify(nn.Sequential(*(kind() for _ in range(30))), X)
    assert 0 < len(asked) < 10  # once a recording


class Noted(GDASSupernet):
    """Its code names what takes a number's value unseen, so that no number of it stays symbolic."""

    seldom = False

    def forward(self, x: Tensor) -> Tensor:
        if self.seldom and math.isnan(self.tau):
            print("seldom")
        return super().forward(x)


class Uniform(nn.Module):
    """Its code names Python's generator, for another mode than that of the search."""

    def __init__(self) -> None:
        super().__init__()
        self.tau, self.is_uniform = 10.0, False
        self.alphas = nn.Parameter(torch.randn(3))
        self.ops = nn.ModuleList([nn.Identity(), nn.Conv2d(4, 4, 1), nn.Tanh()])

    def forward(self, x: Tensor) -> Any:
        if self.is_uniform and random.random() < 0.5:
            return random.choice(self.ops)(x)
        row = nn.functional.gumbel_softmax(self.alphas, self.tau, hard=True)
        k = row.argmax().item()
        return self.ops[k](x) * row[k]


def test_a_generator_of_pythons_that_code_names_takes_no_number_unseen() -> None:
    model = Uniform().double()
    fast: Any = toponas_fx.simplify(copy.deepcopy(model), X, audit=False)
    for seed in range(8):
        found = []
        for one in (model, fast):
            one.tau = 10.0 - seed
            torch.manual_seed(seed)
            one.zero_grad()
            output = one(X)
            output.square().sum().backward()
            found.append((output, [parameter.grad for parameter in one.parameters()]))
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
    assert not fast._toponas.as_written
    assert len(fast._toponas.programs) == 2, "the first tau, and any"


@pytest.mark.slow
def test_paths_are_recorded_with_numbers_that_cannot_stay_symbolic() -> None:
    model = Noted(C=4, N=1).double()
    fast: Any = toponas_fx.simplify(copy.deepcopy(model), torch.randn(2, 3, 8, 8).double(), audit=False)
    for seed in range(40):
        x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        found = []
        for one in (model, fast):
            one.tau = 10 - seed // 10
            torch.manual_seed(seed)
            found.append(one(x))
        assert torch.allclose(*found, rtol=1e-9, atol=1e-10)
    assert not fast._toponas.as_written
    assert fast._toponas.runs > 30


class Picked(Asking):
    """It picks all of its modules before the first of them runs."""

    def forward(self, x: Tensor) -> Any:
        for op in [random.choice(list(self.ops)) for _ in range(2)]:
            x = op(x).relu()
        return x


@pytest.mark.filterwarnings("ignore:.*runs as its user wrote it")
def test_the_reason_says_what_is_against_paths_that_python_draws() -> None:
    fast: Any = toponas_fx.simplify(Picked(ASKED["a global"], DRAWN["kept"]).double(), X)
    (reason,) = set(fast._toponas.as_written.values())
    assert "random generator is used" in reason
    assert "the paths that are drawn cannot be one graph: " in reason


def test_a_number_that_python_draws_is_told_as_before() -> None:
    class Scaled(Asking):
        def forward(self, x: Tensor) -> Any:
            return x * random.random()

    with pytest.warns(UserWarning, match="random generator is used") as told:
        toponas_fx.simplify(Scaled(ASKED["a global"], DRAWN["kept"]).double(), X)
    assert "cannot be one graph" not in str(told[0].message)
