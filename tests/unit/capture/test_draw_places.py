"""A draw that no graph can repeat is named by the line that makes it, wherever the next torch call is."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import image
from sampled_supernets import Cell, ModeSet


def ahead(m: Any, x: Tensor) -> Tensor:
    index = int(random.random() * 2)  # here
    ops = list(m.ops)
    chosen = ops[index]
    return chosen(x)


def below(m: Any, x: Tensor) -> Tensor:
    index = pick(2)
    return m.ops[index](x)


def pick(count: int) -> int:
    return int(random.random() * count)  # here


def caller(m: Any, x: Tensor) -> Tensor:
    count = steady(2) + random.randrange(1)  # here
    return m.ops[count - 2](x)


def steady(count: int) -> int:
    return count


def last(m: Any, x: Tensor) -> Tensor:
    out = m.ops[0](x)
    random.random()  # here
    return out


def arrays(m: Any, x: Tensor) -> Tensor:
    scale = float(numpy.random.rand())  # here
    shift = 1.0
    return x * scale + shift


def looped(m: Any, x: Tensor) -> Tensor:
    x = m.ops[0](x)
    picked = [
        random.random()  # here
        for _ in range(2)
    ]
    return x * len(picked)


@pytest.mark.parametrize("body", [ahead, below, caller, last, arrays, looped], ids=lambda body: body.__name__)
def test_the_line_that_draws_is_named(body: Callable[[Any, Tensor], Tensor]) -> None:
    model = type("Drawing", (nn.Module,), {"forward": body})()
    model.ops = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Tanh()])
    source, start = inspect.getsourcelines(pick if body is below else body)
    line = start + next(index for index, text in enumerate(source) if text.rstrip().endswith("# here"))
    with pytest.warns(UserWarning, match=rf"test_draw_places\.py:{line}: \w+'s random generator is used;"):
        toponas_fx.simplify(model, image().float())


def test_a_drawn_candidate_of_a_cell_is_named_where_it_is_drawn_and_once() -> None:
    """The training and the evaluation capture meet the same draw: one sentence is enough."""
    source, start = inspect.getsourcelines(Cell.drawn)
    line = start + next(index for index, text in enumerate(source) if "random.choice" in text)
    with pytest.warns(UserWarning, match=rf"sampled_supernets\.py:{line}: Python's") as caught:
        toponas_fx.simplify(ModeSet(), torch.randn(2, 3, 8, 8))
    assert len(caught) == 1, [str(warning.message) for warning in caught]
