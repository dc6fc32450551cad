"""Arguments of a call, flat: at each call they are taken apart, and how they were nested is hashed several times."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

_LEAVES = frozenset((int, float, bool, str, type(None)))


def flattened(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], Any]:
    """Return the leaves of some arguments in torch's order, and what tells how they were nested: equal for equal ones.

    Tensors and plain values, in lists and tuples or not, need no help of torch's, which takes many times as long.
    """
    leaves: list[Any] = []
    nesting = _nesting(args, leaves), tuple(kwargs), _nesting(kwargs.values(), leaves)
    return pytree.tree_flatten((args, kwargs)) if None in nesting else (leaves, nesting)


def _nesting(values: Iterable[Any], leaves: list[Any]) -> tuple[Any, ...] | None:
    """Collect the leaves of values; return how they are nested, or None where something else is among them."""
    found: list[Any] = []
    for value in values:
        kind = type(value)
        if isinstance(value, Tensor) or kind in _LEAVES:
            leaves.append(value)
            found.append("leaf")
            continue
        inside = _nesting(value, leaves) if kind in (tuple, list) else None
        if inside is None:
            return None
        found.append((kind.__name__, inside))
    return tuple(found)
