"""Choices: one of several values, by what a draw decided."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from toponas_fx.errors import GuardFailure
from toponas_fx.ops.registry import operation

INDICES = ("argmax", "argmin", "max", "min", "multinomial", "randint", "gumbel_softmax")
"""Names of functions whose result is one candidate of several, or tells which."""


@operation(has_effect=True, gives_data=False)
def decide(choice: Any, value: int | bool) -> None:
    """Mark where a recorded run goes one of several ways; paths are merged there, and no program calls it.

    Args:
        choice: the tensor that Python reads, of one element.
        value: what it read.
    """


@operation(draws=True, has_effect=True)
def randbelow(n: int) -> int:
    """Draw an integer below n as the functions of Python's ``random`` do, from the same generator."""
    return int(random._inst._randbelow(n))  # type: ignore[attr-defined]


@operation(may_pass_on=True)
def same(x: Any) -> Any:
    """Return what is given: the value of a candidate that does nothing, as a node of its own."""
    return x


@operation(has_effect=True)  # what it takes may have one, whether its value is read or not
def select(choice: Any, values: tuple[Any, ...], arms: Sequence[Any]) -> Any:
    """Return the arm that a choice takes.

    Programs compute the arms that are not taken no more than the code that they were recorded from; called by itself,
    as a graph that is interpreted does, this takes what was computed of all.

    Args:
        choice: one number, an integer or a truth value, or several of these.
        values: of the choice, one an arm, or a tuple of them.
        arms: a value each.

    Raises:
        GuardFailure: the choice is none of the values.
    """
    return arms[position(choice, values)]


def position(choice: Any, values: tuple[Any, ...]) -> int:
    """Return which arm a choice takes; the arguments and the error are those of ``select``."""
    if isinstance(choice, tuple | list):
        found: Any = tuple(map(_number, choice))
    else:
        found = _number(choice)
    if found not in values:
        raise GuardFailure(f"a choice is {found!r}, where the recorded runs had {values}")
    return values.index(found)


def _number(choice: Any) -> Any:
    return choice.item() if isinstance(choice, Tensor) else choice
