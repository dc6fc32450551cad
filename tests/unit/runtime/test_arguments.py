"""Arguments of calls, flat: their leaves as torch has them, and what tells one nesting from another."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from toponas_fx.runtime.arguments import flattened
from toponas_fx.runtime.call import Call

X, Y = torch.ones(2, 3), torch.zeros(2)
Pair = namedtuple("Pair", "one other")


class Own(Tensor):
    """A class of the user's."""


ARGUMENTS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "two": ((X, Y), {}),
    "by name": ((X,), {"y": Y}),
    "by another name": ((X,), {"z": Y}),
    "two names": ((X,), {"y": Y, "z": 1}),
    "two names in another order": ((X,), {"z": Y, "y": 1}),
    "tuple": (((X, Y),), {}),
    "list": (([X, Y],), {}),
    "nested": (((X, [1, (2.0, None)]), "mode", True), {}),
    "nested otherwise": (((X, [1], (2.0, None)), "mode", True), {}),
    "nothing in a tuple": ((X, ()), {}),
    "nothing in a list": ((X, []), {}),
    "no arguments": ((), {}),
    "dict": (({"x": X, "y": (Y, 1)},), {}),
    "dict in a tuple": ((({"x": X}, 3),), {}),
    "ordered dict": ((OrderedDict(x=X),), {}),
    "named tuple": ((Pair(X, Y),), {}),
    "own tensor": ((X.as_subclass(Own), 1), {}),
    "object": ((X, torch.float32), {}),
    "sizes": ((X, X.shape), {}),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_leaves_are_those_of_torch(case: str) -> None:
    args, kwargs = ARGUMENTS[case]
    leaves, _ = flattened(args, kwargs)
    expected = pytree.tree_leaves((args, kwargs))
    assert len(leaves) == len(expected)
    assert all(found is wanted for found, wanted in zip(leaves, expected, strict=True))


def test_nestings_are_told_apart() -> None:
    found = {case: flattened(*ARGUMENTS[case])[1] for case in ARGUMENTS}
    again = {case: flattened(*ARGUMENTS[case])[1] for case in ARGUMENTS}
    assert found == again
    assert [hash(nesting) for nesting in found.values()] == [hash(nesting) for nesting in again.values()]
    alike = [(a, b) for a in found for b in found if a < b and found[a] == found[b]]
    assert alike == [("own tensor", "two")]


def test_calls_agree_where_their_arguments_do() -> None:
    one, same, other = (Call.of((X, (1, 2), taken), {}, True) for taken in (3, 3, 4))
    assert one.key == same.key != other.key
    assert one.open.key == other.open.key
    assert (one.integers, one.numbers) == ((1, 2, 3), ())
    assert Call.of((X, (1, 2), True), {}, True).key != Call.of((X, (1, 2), 1), {}, True).key
