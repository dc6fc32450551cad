"""Forced draws: which candidates the recorded runs take, and that forcing leaves no trace."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from forced_paths import Net, X, forced
from toponas_fx.capture.forcing import Forcing, index_of, rounds_for

# -- which index a draw gets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5, 16])
def test_in_a_run_without_a_round_each_choice_takes_its_turn(size: int) -> None:
    assert {index_of(turn, None, number, size) for turn in range(size) for number in range(1, 9)} == set(range(size))
    assert [index_of(turn, None, 7, 2) for turn in range(3)] == [0, 1, 0], "one of fewer candidates begins again"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 9, 27, 40])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_any_two_choices_are_told_apart_in_some_round(size: int, count: int) -> None:
    rounds = range(rounds_for(count, {size}))
    for one, other in itertools.combinations(range(1, count + 1), 2):
        assert any(index_of(0, of, one, size) != index_of(0, of, other, size) for of in rounds), (one, other)


@pytest.mark.parametrize("sizes", [{2, 3}, {3, 5}, {2, 7}])
def test_choices_of_unlike_sizes_have_rounds_enough_for_the_smallest(sizes: set[int]) -> None:
    assert rounds_for(9, sizes) == max(rounds_for(9, {size}) for size in sizes)


@pytest.mark.parametrize(("count", "size"), [(1, 2), (4, 3), (9, 2), (20, 5)])
def test_each_value_of_each_choice_occurs_in_each_round(count: int, size: int) -> None:
    for of, number in itertools.product(range(rounds_for(count, {size})), range(1, count + 1)):
        assert {index_of(turn, of, number, size) for turn in range(size)} == set(range(size))


def test_fewer_rounds_would_not_do() -> None:
    for count, size in ((3, 2), (5, 2), (10, 3), (27, 3), (26, 5)):
        rounds = range(rounds_for(count, {size}) - 1)
        pairs = itertools.combinations(range(1, count + 1), 2)
        assert any(all(index_of(0, of, a, size) == index_of(0, of, b, size) for of in rounds) for a, b in pairs)


# -- what is a draw ----------------------------------------------------------------------------------------------------

W = torch.tensor([[0.1, 0.7, 0.2], [0.6, 0.1, 0.3]])

DRAWS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], Any]] = {  # and what it is in turn 2
    "argmax": ("argmax", (W,), {}, 2),
    "argmax of rows": ("argmax", (W, -1), {}, [2, 2]),
    "argmax, kept": ("argmax", (W,), {"dim": 1, "keepdim": True}, [[2], [2]]),
    "argmax of columns": ("argmax", (W, 0), {}, [0, 0, 0]),
    "argmin": ("argmin", (W,), {"dim": -1}, [2, 2]),
    "max": ("max", (W, -1), {}, [2, 2]),
    "max by name": ("max", (), {"input": W, "dim": -1}, [2, 2]),
    "min": ("min", (W, -1, True), {}, [[2], [2]]),
    "multinomial": ("multinomial", (W, 1), {}, [[2], [2]]),
    "multinomial of several": ("multinomial", (W, 2), {}, [[2, 0], [2, 0]]),
    "multinomial of all": ("multinomial", (W[0], 3), {}, [2, 0, 1]),
    "randint": ("randint", (3, (2,)), {}, [2, 2]),
    "randint from a number": ("randint", (5, 8, ()), {}, 7),
    "randint by name": ("randint", (), {"low": 1, "high": 4, "size": (1,)}, [3]),
    "gumbel": ("gumbel_softmax", (W,), {"hard": True}, [[0, 0, 1], [0, 0, 1]]),
    "gumbel by place": ("gumbel_softmax", (W, 1.0, True), {}, [[0, 0, 1], [0, 0, 1]]),
    "gumbel of columns": ("gumbel_softmax", (W,), {"hard": True, "dim": 0}, [[1, 1, 1], [0, 0, 0]]),
}


def made(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what torch returns."""
    return getattr(F if name == "gumbel_softmax" else torch, name)(*args, **kwargs)


@pytest.mark.parametrize("kind", DRAWS)
def test_a_draw_is_the_turns(kind: str) -> None:
    name, args, kwargs, expected = DRAWS[kind]
    value = made(name, args, kwargs)
    assert Forcing(2).apply(name, args, kwargs, value)
    found = value[1] if isinstance(value, tuple) else value
    assert found.tolist() == expected


OTHERS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "soft": ("gumbel_softmax", (W,), {}),
    "the largest value": ("max", (W,), {}),
    "the largest of integers": ("max", (torch.arange(3),), {}),
    "the larger of two integers": ("max", (torch.arange(3), torch.arange(3)), {}),
    "the larger of two": ("max", (W, 1 - W), {}),
    "an index of one": ("argmax", (W[:, :1], -1), {}),
    "one of one": ("randint", (1, (2,)), {}),
    "noise": ("rand", (3,), {}),
    "a sum": ("sum", (torch.ones(3, dtype=torch.int64),), {}),
    "of nothing": ("argmax", (W[:0], -1), {}),
    "rows of floats": ("randint", (3, (2,)), {"dtype": torch.float32}),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_index_of_several_is_left_alone(kind: str) -> None:
    name, args, kwargs = OTHERS[kind]
    torch.manual_seed(3)
    expected = made(name, args, kwargs)
    torch.manual_seed(3)
    value, forcing = made(name, args, kwargs), Forcing(2)
    assert not forcing.apply(name, args, kwargs, value)
    assert torch.equal(value, expected)
    assert not forcing.sizes


def test_draws_are_counted_in_turn_and_their_sizes_kept() -> None:
    forcing = Forcing(0, 0)
    for size in (3, 5):
        index = torch.zeros(2, dtype=torch.int64)
        forcing.apply("randint", (size, (2,)), {}, index)
        assert index.tolist() == [index_of(0, 0, forcing.count - 1, size), index_of(0, 0, forcing.count, size)]
    assert (forcing.count, forcing.sizes) == (4, {3, 5})


def test_rows_of_a_sample_without_replacement_are_distinct_and_differ_by_round() -> None:
    rows = set()
    for of in range(3):
        value = torch.zeros(2, 3, dtype=torch.int64)
        Forcing(0, of).apply("multinomial", (torch.ones(2, 4), 3), {}, value)
        assert all(len(set(row)) == 3 for row in value.tolist())
        rows |= {tuple(row) for row in value.tolist()}
    assert len(rows) > 2
    both = [torch.zeros(1, 3, dtype=torch.int64) for _ in range(2)]
    for value in both:
        Forcing(1, 2).apply("multinomial", (torch.ones(1, 4), 3), {}, value)
    assert torch.equal(*both), "the same each time"


READS: dict[str, Callable[[Any], Any]] = {
    "argmax": lambda self: self.alphas[0].argmax().item(),
    "max": lambda self: int(self.alphas[0].max(-1)[1]),
    "multinomial": lambda self: torch.multinomial(self.alphas[0].softmax(-1), 1).item(),
    "method": lambda self: self.alphas[0].softmax(-1).multinomial(1)[0],
    "randint": lambda self: torch.randint(3, ()).item(),
    "gumbel_softmax": lambda self: F.gumbel_softmax(self.alphas[0], hard=True).argmax().item(),
    "Categorical": lambda self: torch.distributions.Categorical(logits=self.alphas[0]).sample().item(),
}


@pytest.mark.parametrize("name", READS)
def test_a_recorded_run_takes_the_turns_candidate_and_leaves_no_trace(name: str) -> None:
    model = Net(lambda self, x: self.ops[READS[name](self)](x))
    before = generators(), model.alphas.detach().clone(), X.clone()
    for turn in range(3):
        run = forced(model, Forcing(turn)).graph
        taken = {str(node.target).split(".")[1] for node in run.nodes if node.op == "call_module"}
        assert taken == {str(turn)}
    assert generators() == before[0]
    assert torch.equal(model.alphas, before[1])
    assert torch.equal(X, before[2])


def generators() -> tuple[Any, ...]:
    """Return the states of all generators."""
    return torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()  # type: ignore[union-attr,index]


def test_a_forced_index_agrees_with_what_is_computed_of_it() -> None:
    """One-hot rows, comparisons, and the largest of a hard sample."""

    def forward(self: Any, x: Tensor) -> Tensor:
        index = self.alphas[0].argmax()
        assert F.one_hot(index, 3).argmax().item() == index.item()
        assert (index == 2).item() is (index.item() == 2)
        hard = F.gumbel_softmax(self.alphas[1], hard=True)
        return x * hard[hard.argmax().item()]

    for turn in range(3):
        forced(Net(forward), Forcing(turn))
