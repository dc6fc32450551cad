"""Calls whose result has a size that their data decide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from toponas_fx.capture.symbolic_numbers import RecordedFloat
from toponas_fx.capture.torch_calls import name_of

_SIZED_BY_DATA = frozenset("nonzero argwhere masked_select unique unique_consecutive _unique2 bincount where".split())


def has_size_of_data(target: Any, args: Any) -> bool:
    """Return whether the size of a call's result depends on the values of its arguments."""
    name = target if isinstance(target, str) else name_of(target)
    if name == "getitem":
        return any(isinstance(leaf, Tensor) and leaf.dtype in (torch.bool, torch.uint8) for leaf in leaves_of(args[1:]))
    if name in ("arange", "range"):
        return any(isinstance(leaf, Tensor) or type(leaf) is RecordedFloat for leaf in leaves_of(args))
    if name == "repeat_interleave":
        return len(args) < 2 or isinstance(args[1], Tensor)
    return name in _SIZED_BY_DATA and (name != "where" or len(args) == 1)


def leaves_of(value: Any) -> Iterator[Any]:
    """Yield what containers among a call's arguments hold, slices too."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            yield from leaves_of(item)
    elif isinstance(value, slice):
        yield from (value.start, value.stop, value.step)
    else:
        yield value
