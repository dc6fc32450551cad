"""Which element of which row a scalar weight is: read by indexing numbers as the graph indexes the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

_VIEWS = frozenset(
    "getitem select narrow unbind chunk split view reshape flatten squeeze unsqueeze detach contiguous clone "
    "t transpose permute swapaxes".split()
)
_ARITHMETIC = frozenset(
    "softmax log_softmax softmin sigmoid tanh exp relu elu softplus add sub mul truediv div neg sum".split()
)


@dataclass(frozen=True)
class Element:
    """One element of a row of weights.

    Attributes:
        row: equal keys are the same row of one tensor, or of tensors that are computed alike.
        index: its place in the row.
        length: of the row.
    """

    row: tuple[Any, ...]
    index: int
    length: int


@dataclass(frozen=True)
class _Shown:
    """What a node shows of a tensor: which of its elements (one tensor or a tuple of them), in rows of which length."""

    base: fx.Node
    places: Any
    length: int


class Elements:
    """Reads elements; one reader looks at each view once, so keep it for the weights of one graph."""

    def __init__(self) -> None:
        """Start with nothing read."""
        self._known: dict[fx.Node, _Shown | None] = {}

    def find(self, weight: fx.Node) -> Element | None:
        """Return which element a scalar weight is; None for a tensor of its own, or the result of a computation."""
        shown = self._show(weight)
        if shown is None or not isinstance(shown.places, Tensor) or shown.places.numel() != 1:
            return None
        if math.prod(shown.base.meta["type"].shape) == 1:
            return None
        place = int(shown.places)
        return Element((_key(shown.base), place // shown.length), place % shown.length, shown.length)

    def _show(self, node: fx.Node) -> _Shown | None:
        if node not in self._known:
            self._known[node] = self._follow(node)
        return self._known[node]

    def _follow(self, node: fx.Node) -> _Shown | None:
        """Follow views of a tensor up to where it is computed."""
        parent = node.args[0] if node.args else None
        is_view = _name(node) in _VIEWS and isinstance(parent, fx.Node) and node.all_input_nodes == [parent]
        if any(isinstance(value, torch.dtype) for value in node.args):
            is_view = False
        outer = self._show(parent) if is_view else None  # type: ignore[arg-type]
        if outer is None:
            known = node.meta.get("type")
            if known is None:
                return None
            places = torch.arange(math.prod(known.shape), device="cpu").view(known.shape)
            return _Shown(node, places, known.shape[-1] if known.shape else 1)
        call = getattr(Tensor, str(node.target)) if node.op == "call_method" else node.target
        places = call(outer.places, *node.args[1:], **node.kwargs)  # type: ignore[operator]
        return _Shown(outer.base, places, _row_length(outer, places))


def _row_length(outer: _Shown, places: Any) -> int:
    """Return the shorter row where a view splits a flat tensor into rows."""
    if not isinstance(places, Tensor) or places.dim() < 2 or places.shape[-1] == 1:
        return outer.length
    whole = torch.arange(math.prod(outer.base.meta["type"].shape), device="cpu")
    return min(outer.length, places.shape[-1]) if torch.equal(places.flatten(), whole) else outer.length


def _key(value: Any) -> Any:
    """Return the same key for tensors that are computed alike from the same ones."""
    if not isinstance(value, fx.Node):
        return tuple(map(_key, value)) if isinstance(value, tuple | list) else str(value)
    if value.op == "get_attr":
        return value.target
    if _name(value) in _ARITHMETIC or _name(value) in _VIEWS:
        return _name(value), _key(value.args), tuple((name, _key(part)) for name, part in value.kwargs.items())
    return value


def _name(node: fx.Node) -> str:
    if node.op == "call_method":
        return str(node.target)
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""
