"""The arithmetic on kernels and weights for many edges at once: what ``ops`` does for one, stacked along a first axis.

Shapes as in ``ops``; ``m`` edges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from toponas_fx.ops.group_weights import ZERO_WEIGHT, signs_of
from toponas_fx.ops.kernels import embed_kernel
from toponas_fx.ops.layouts import own_gradient, takes_layout
from toponas_fx.ops.registry import operation


@operation(keeps_layouts=True)
def normalize_all(kernels: Sequence[Tensor], per: str) -> tuple[Tensor, ...]:
    """Return ``kernel * kernel_scale(kernel, per)`` for each of m kernels of one shape, ``f32[O,I,k...]`` each."""
    stacked = _stacked(kernels)  # f32[m,O,I,k...]
    squares = stacked * stacked
    first = 2 if per == "filter" else 1
    total = squares.sum(dim=tuple(range(first, stacked.dim())), keepdim=True)  # f32[m,1,...] or f32[m,O,1,...]
    is_zero = total.detach() < ZERO_WEIGHT**2
    scale = torch.where(is_zero, torch.ones_like(total), total).rsqrt()
    if per != "filter":
        scale = scale * math.sqrt(stacked.shape[1])
    return (stacked * scale).unbind(0)


def _stacked(kernels: Sequence[Tensor]) -> Tensor:
    """Return kernels of one shape along a first axis; their gradients come back in the usual layout, if they lie so."""
    stacked = torch.stack(list(kernels))
    return own_gradient(stacked) if takes_layout(kernels[0].shape) and kernels[0].is_contiguous() else stacked


@operation()
def group_all(rows: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
    """Return ``group_weight`` of each of m rows of n scalars: the group weight, and the shares one by one."""
    stacked = torch.stack([weight for row in rows for weight in row]).view(len(rows), -1)  # f32[m,n]
    side = signs_of(stacked.sum(1))  # f32[m]
    stacked = stacked * side.unsqueeze(1)
    total, shares = _divided(signs_of(stacked) * stacked, stacked)
    return list(zip((side * total).unbind(0), (row.unbind(0) for row in shares.unbind(0)), strict=True))


@operation()
def share_all(rows: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, ...]]:
    """Return ``group_shares`` of each of m rows of n scalars, one by one."""
    stacked = torch.stack([weight for row in rows for weight in row]).view(len(rows), -1)  # f32[m,n]
    signed = stacked * signs_of(stacked)
    _, shares = _divided(signed, signed)
    return [row.unbind(0) for row in shares.unbind(0)]


def _divided(signed: Tensor, numerators: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of each row, ``f32[m]``, and the shares in it, ``f32[m,n]``; equal ones where the sum is zero."""
    total = signed.sum(1)
    is_zero = total.detach() < ZERO_WEIGHT
    safe = torch.where(is_zero, torch.ones_like(total), total).unsqueeze(1)
    equal = torch.full_like(numerators, 1.0 / numerators.shape[1])
    return total, torch.where(is_zero.unsqueeze(1), equal, numerators / safe)


@operation(keeps_layouts=True)
def merge_all(
    kernels: Sequence[Sequence[Tensor]],
    weights: Sequence[Sequence[Tensor | float]],
    befores: Sequence[tuple[int, ...]],
    dilations: Sequence[tuple[int, ...]],
    size: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Return ``merge_kernels`` for each of m edges whose kernels have the same n shapes and places.

    Args:
        kernels: m times n kernels ``f32[O,I,k...]``.
        weights: m times n scalars; of each of the n, all are tensors or all are numbers.
        befores: for each of the n, zeros before its first tap.
        dilations: for each of the n, the dilation.
        size: the merged spatial size.

    Returns:
        m kernels ``f32[O,I,size...]``.
    """
    total: Any = None
    for i, (before, dilation) in enumerate(zip(befores, dilations, strict=True)):
        stacked = _stacked([row[i] for row in kernels])  # f32[m,O,I,k...]
        scales: list[Any] = [row[i] for row in weights]
        if isinstance(scales[0], Tensor):
            scale = torch.stack(scales).view(-1, *(1,) * (stacked.dim() - 1))  # f32[m,1,1,...]
        else:
            scale = stacked.new_tensor(scales).view(-1, *(1,) * (stacked.dim() - 1))
        flat = (stacked * scale).flatten(0, 1)  # f32[m*O,I,k...]
        embedded = embed_kernel(flat, before, dilation, size)
        total = embedded if total is None else total + embedded
    merged: Tensor = total.unflatten(0, (len(kernels), -1))  # f32[m,O,I,size...]
    return merged.unbind(0)
