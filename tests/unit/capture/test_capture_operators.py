"""Python's operators on tensors, however torch has wrapped them: each is written down as one that code can call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from exactness import assert_runs_like, compiled, image


def in_place(y: Tensor) -> Tensor:
    y = y * 1.5
    y += 2
    y *= 0.5
    y -= 1
    y /= 3
    y **= 2
    z = y.detach().clone()
    z //= 0.1
    z %= 0.7
    return y + z


OPERATORS: dict[str, Callable[[Tensor], Any]] = {
    "square": lambda y: y**2,
    "power": lambda y: (y.abs() + 0.1) ** 1.7,
    "power of a tensor": lambda y: (y.abs() + 0.1) ** y,
    "power of a number": lambda y: 2**y,
    "method": lambda y: y.pow(3),
    "function": lambda y: torch.pow(y, 3),
    "dunder": lambda y: y.__pow__(2),
    "reflected": lambda y: 1 / (2 - (3 + (0.5 * y))) + y * (2 // (y.detach().abs() + 1) + 5 % (y.detach().abs() + 1)),
    "divided": lambda y: y / 3 + y.detach() // 0.5 + y % 0.5 + torch.true_divide(y, 2) + y.__rtruediv__(1.0),
    "products": lambda y: y @ y + torch.ones(6, 6, dtype=y.dtype) @ y + y.__rmatmul__(torch.ones_like(y)),
    "comparisons": lambda y: y * ((y > 0) & ~(y > 1) | (y != y) ^ (y <= -0.5)),
    "shifts": lambda y: y * ((y * 8).long() << 1 >> 2) + (1 << (y > 0).long()) + (8 >> (y > 0).long()),
    "unary": lambda y: abs(-y) + (+y),
    "in place": in_place,
}


class Body(nn.Module):
    def __init__(self, body: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.body = body
        self.double()

    def forward(self, x: Tensor) -> Any:
        return self.body(self.conv(x))


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators(operator: str) -> None:
    model, x = Body(OPERATORS[operator]), image()
    assert_runs_like(compiled(model, x), model, x)
