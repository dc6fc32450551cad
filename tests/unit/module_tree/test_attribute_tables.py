"""The tables of attributes that copied modules have: Python keeps their names once a class, as in modules just made."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toponas_fx.module_tree.copying import copy_tree


class Measured(nn.Module):
    """A module whose class says what it is to set `rate`, while its table has another value of that name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        vars(self)["rate"] = 3.0

    @property
    def rate(self) -> float:
        """The class's."""
        return 2.0

    @rate.setter
    def rate(self, value: float) -> None:
        raise AssertionError

    def forward(self, x: Tensor) -> Tensor:
        """Scale."""
        scaled: Tensor = self.rate * self.layer(x)
        return scaled


class Slotted(nn.Module):
    """A module with an attribute in a slot."""

    __slots__ = ("scale",)


def with_slot() -> nn.Module:
    module: Any = Slotted()
    vars(module)["scale"] = 3.0
    return module


def unlike() -> nn.Module:
    module = nn.ReLU()
    for i in range(40):  # more than Python keeps for a class
        vars(module)[f"note_{i}"] = i
    return module


def with_getter() -> nn.Module:
    module = nn.Tanh()
    object.__setattr__(module, "odd name", 1)
    vars(module)["1"] = [torch.ones(1)]
    return module


@pytest.mark.parametrize("make", [Measured, with_slot, unlike, with_getter, lambda: nn.Conv2d(2, 2, 1)])
def test_a_copy_has_the_attributes_in_order(make: Any) -> None:
    module = make()
    table = vars(copy_tree(module, type(module)))
    assert list(table) == list(vars(module))
    plain = {name: value for name, value in vars(module).items() if type(value) in (int, float, str, tuple, bool)}
    assert {name: table[name] for name in plain} == plain


def test_tables_are_as_small_as_those_of_modules_just_made() -> None:
    """Each call looks into all of them; those of copies of torch's are five times as large."""

    class Layer(nn.Conv2d):
        pass

    made, copied = Layer(2, 2, 1), copy.deepcopy(nn.Sequential(Layer(2, 2, 1)))
    found = copy_tree(copied, nn.Sequential)
    sizes = [sys.getsizeof(vars(module)) for module in (made, found[0], copied[0])]  # type: ignore[index]
    assert sizes[1] <= 1.1 * sizes[0] < 0.5 * sizes[2], sizes
