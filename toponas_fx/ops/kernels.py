"""Arithmetic on kernels: normalizing, embedding and merging them.

Shapes: ``O`` output channels, ``I`` input channels per group, ``k...`` kernel sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from toponas_fx.ops import custom_autograd
from toponas_fx.ops.custom_autograd import sees_plain_autograd, squared_norm
from toponas_fx.ops.group_weights import ZERO_WEIGHT
from toponas_fx.ops.merged_kernels import is_plain, merge_in_place
from toponas_fx.ops.registry import operation


@operation()
def kernel_scale(kernel: Tensor, per: str = "kernel") -> Tensor:
    """Return the factor that brings a kernel to the norm ``sqrt(O)`` (or each of its filters to the norm 1).

    ``sqrt(O) / ||K||`` over the whole kernel, ``1 / ||K_o||`` per filter (TopoNAS, arXiv 2408.01311, kernel
    normalization; the constant is this project's). A kernel of zeros keeps the factor it would have at norm 1.

    Args:
        kernel: ``f32[O,I,k...]``.
        per: ``"kernel"`` or ``"filter"``.

    Returns:
        ``f32[]``, or ``f32[O,1,1...]`` per filter.
    """
    per_filter = per == "filter"
    dims = tuple(range(1, kernel.dim()))
    total = (kernel * kernel).sum(dim=dims, keepdim=True) if per_filter else squared_norm(kernel)
    is_zero = total.detach() < ZERO_WEIGHT**2
    safe = torch.where(is_zero, torch.ones_like(total), total)
    return safe.rsqrt() if per_filter else safe.rsqrt() * math.sqrt(kernel.shape[0])


@operation()
def scale_bias(bias: Tensor, scale: Tensor) -> Tensor:
    """Scale the bias of a normalized kernel with it.

    Args:
        bias: ``f32[O]``.
        scale: what ``kernel_scale`` returned, ``f32[]`` or ``f32[O,1,1...]``.

    Returns:
        ``f32[O]``.
    """
    return bias * scale.reshape(-1)


def embed_kernel(kernel: Tensor, before: tuple[int, ...], dilation: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """Write a kernel into a larger one of dilation 1, zeros elsewhere.

    Args:
        kernel: ``f32[O,I,k...]``.
        before: zeros before its first tap, one number for each spatial dimension.
        dilation: the dilation it is used with, likewise.
        size: the larger kernel's spatial size.

    Returns:
        ``f32[O,I,size...]``.
    """
    spread = kernel
    for dim, step in enumerate(dilation, start=2):
        if step == 1 or spread.shape[dim] == 1:
            continue
        taps = spread.shape[dim]
        behind = [0, 0] * (spread.dim() - dim - 1)  # no axis changes its place, so gradients lie as the kernel does
        stuffed = F.pad(spread.unsqueeze(dim + 1), [*behind, 0, step - 1]).flatten(dim, dim + 1)  # f32[...,k*step,...]
        spread = stuffed.narrow(dim, 0, (taps - 1) * step + 1)
    padding: list[int] = []
    for dim in reversed(range(len(size))):
        padding += [before[dim], size[dim] - before[dim] - spread.shape[dim + 2]]
    return F.pad(spread, padding) if any(padding) else spread


@operation()
def merge_kernels(
    kernels: Sequence[Tensor],
    weights: Sequence[Tensor | float],
    befores: Sequence[tuple[int, ...]],
    dilations: Sequence[tuple[int, ...]],
    size: tuple[int, ...],
) -> Tensor:
    """Return ``sum_i weights[i] * embed(kernels[i])``: one kernel that convolves like the weighted sum of all.

    Args:
        kernels: n kernels ``f32[O,I,k...]`` of unlike spatial sizes.
        weights: n scalars.
        befores: for each kernel, zeros before its first tap in the merged one.
        dilations: for each kernel, the dilation it is used with.
        size: the merged spatial size.

    Returns:
        ``f32[O,I,size...]``.
    """
    if kernels[0].numel() >= custom_autograd.SMALL and is_plain(kernels, weights) and sees_plain_autograd():
        return merge_in_place(kernels, weights, befores, dilations, size)
    total: Any = None
    for kernel, weight, before, dilation in zip(kernels, weights, befores, dilations, strict=True):
        weighted = embed_kernel(kernel * weight, before, dilation, size)
        total = weighted if total is None else total + weighted
    result: Tensor = total
    return result


@operation()
def merge_biases(biases: Sequence[Tensor], weights: Sequence[Tensor | float]) -> Tensor:
    """Return ``sum_i weights[i] * biases[i]``: the bias that goes with merged kernels.

    Args:
        biases: biases ``f32[O]``.
        weights: as many scalars.

    Returns:
        ``f32[O]``.
    """
    total: Any = None
    for bias, weight in zip(biases, weights, strict=True):
        total = bias * weight if total is None else total + bias * weight
    result: Tensor = total
    return result
