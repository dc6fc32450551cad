"""The normal form of every mixed operation: a sum of terms, each times its weight.

Shapes: ``n`` candidates of one edge.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import Parameter

from toponas_fx.ops import custom_autograd
from toponas_fx.ops.constants import constant
from toponas_fx.ops.custom_autograd import sees_plain_autograd, weighted_sum
from toponas_fx.ops.registry import operation


@operation()
def mixed_sum(terms: Sequence[Tensor | float], weights: Sequence[Tensor | float], edges: tuple[int, ...]) -> Tensor:
    """Return ``sum_i weights[i] * terms[i]``, added from the left: the normal form of every mixed operation.

    Bare weights, which are added to each element, are added up first.

    Args:
        terms: n tensors of one shape, or plain numbers that broadcast.
        weights: n scalars, ``f32[]`` each or numbers; the number 1 leaves its term as it is.
        edges: n edge numbers, for analyses only: terms with the same number belong to one mixed operation.

    Returns:
        The sum, of the terms' shape.
    """
    if len(terms) > 1 and _are_alike(terms, weights) and sees_plain_autograd():
        return weighted_sum(terms, weights)  # type: ignore[arg-type]
    bare = [i for i, term in enumerate(terms) if not isinstance(term, Tensor)]
    if bare and len(bare) < len(terms):
        rest = [i for i in range(len(terms)) if i not in bare]
        shift = _added_left([terms[i] for i in bare], [weights[i] for i in bare])
        return _shifted([terms[i] for i in rest], [weights[i] for i in rest], shift)  # type: ignore[misc]
    result: Tensor = _added_left(terms, weights)
    return result


def _shifted(terms: Sequence[Tensor], weights: Sequence[Tensor | float], shift: Any) -> Tensor:
    """Add a number to a sum: what bare weights are together, in one pass over it."""
    is_scalar = isinstance(shift, Tensor) and not shift.dim() and shift.dtype == terms[0].dtype
    if is_scalar and _are_alike(terms, weights) and sees_plain_autograd():
        return weighted_sum(terms, weights, shift)
    result: Tensor = _added_left(terms, weights) + shift
    return result


def _added_left(terms: Sequence[Any], weights: Sequence[Any]) -> Any:
    total: Any = None
    for term, weight in zip(terms, weights, strict=True):
        is_bare = len(terms) > 1 and _is_one(term) and _is_float(weight)  # the sum of one term is a tensor of its own
        weighted = term if _is_one(weight) else weight if is_bare else term * weight
        total = weighted if total is None else total + weighted
    return total


def _is_one(value: Any) -> bool:
    return isinstance(value, (float, int)) and value == 1


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _are_alike(terms: Sequence[Any], weights: Sequence[Any]) -> bool:
    """Return whether terms are tensors of one shape, and weights scalars, of one dtype."""
    first = terms[0]
    if type(first) is not Tensor or not first.is_floating_point() or first.numel() < custom_autograd.SMALL:
        return False
    kind = first.dtype, first.shape, first.device
    if not all(type(term) is Tensor and (term.dtype, term.shape, term.device) == kind for term in terms):
        return False
    scalars = [weight for weight in weights if isinstance(weight, Tensor)]
    return all(not scalar.dim() and scalar.dtype == first.dtype for scalar in scalars)


@operation()
def sum_of(row: Tensor, places: tuple[int, ...]) -> Tensor:
    """Return the sum of some elements of a row, read at once; not a number where another one is infinite.

    Args:
        row: ``f32[n]``.
        places: of the elements, each once.

    Returns:
        ``f32[]``.
    """
    if type(row) not in (Tensor, Parameter) or not sees_plain_autograd():
        return torch.dot(row, row.new_tensor(_mask(row.shape[0], places)))
    return torch.dot(row, _mask_tensor(row.shape[0], places, row.dtype, row.device))


@functools.cache
def _mask(count: int, places: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(float(place in places) for place in range(count))


@constant
def _mask_tensor(count: int, places: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(_mask(count, places), dtype=dtype, device=device)  # [count]


@operation()
def zeros_of(x: Tensor) -> Tensor:
    """Return zeros that lie as x does; x gets a gradient of zeros.

    It is ``0 * x`` for finite x.
    """
    if not sees_plain_autograd():
        return x * 0.0
    result: Tensor = _ZerosOf.apply(x)
    return result


class _ZerosOf(Function):
    """See ``zeros_of``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return zeros_of(grad)
