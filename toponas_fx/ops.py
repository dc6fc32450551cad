"""The functions that rewritten graphs call; plain torch code, differentiable twice.

Shapes: ``n`` candidates of one mixture, ``O`` output channels, ``I`` input channels per group, ``k...`` kernel sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import GroupNorm, Module
from torch.nn import functional as F

from toponas_fx import lean_ops
from toponas_fx.errors import GuardFailure
from toponas_fx.lean_kernels import is_plain, merge_in_place
from toponas_fx.lean_ops import sees_plain_autograd, squared_norm, weighted_sum

ZERO_WEIGHT = 1e-12
"""A group weight below this counts as zero (DESIGN, the group weight); squared, the floor of kernel norms."""


def mixed_sum(terms: Sequence[Tensor | float], weights: Sequence[Tensor | float], edges: tuple[int, ...]) -> Tensor:
    """Return ``sum_i weights[i] * terms[i]``, added from the left: the normal form of every mixture.

    Args:
        terms: n tensors of one shape, or plain numbers that broadcast.
        weights: n scalars, ``f32[]`` each or numbers; the number 1 leaves its term as it is.
        edges: n edge numbers, for analyses only: terms with the same number belong to one mixture.

    Returns:
        The sum, of the terms' shape.
    """
    if len(terms) > 1 and _are_alike(terms, weights) and sees_plain_autograd():
        return weighted_sum(terms, weights)  # type: ignore[arg-type]
    total: Any = None
    for term, weight in zip(terms, weights, strict=True):
        weighted = term if isinstance(weight, (float, int)) and weight == 1 else term * weight
        total = weighted if total is None else total + weighted
    result: Tensor = total
    return result


def _are_alike(terms: Sequence[Any], weights: Sequence[Any]) -> bool:
    """Tell whether terms are tensors of one shape, and weights scalars, of one dtype."""
    first = terms[0]
    if type(first) is not Tensor or not first.is_floating_point() or first.numel() < lean_ops.SMALL:
        return False
    kind = first.dtype, first.shape, first.device
    if not all(type(term) is Tensor and (term.dtype, term.shape, term.device) == kind for term in terms):
        return False
    scalars = [weight for weight in weights if isinstance(weight, Tensor)]
    return all(not scalar.dim() and scalar.dtype == first.dtype for scalar in scalars)


def scaled_norm(x: Tensor, norm: Module, scale: Tensor) -> Tensor:
    """Return ``scale * norm(x)``; the norm's affine weights carry the scale, so that no product is stored.

    Where the product is small and the norm has affine weights of its own, scaling them takes more calls than it saves.

    Args:
        x: ``f32[N,C,...]``.
        norm: a BatchNorm of any rank or a GroupNorm, in its present mode; it counts as it does in its own forward.
        scale: ``f32[]``.

    Returns:
        ``f32[N,C,...]``.
    """
    own: Any = norm
    if own.weight is not None and x.numel() < lean_ops.SMALL:
        return norm(x) * scale  # type: ignore[no-any-return]
    # not an expanded view: on CPUs torch's backward pass for channels-last images reads past the end of one
    weight = scale.repeat(x.shape[1]) if own.weight is None else own.weight * scale  # f32[C]
    bias = None if own.bias is None else own.bias * scale  # f32[C]
    if isinstance(norm, GroupNorm):
        return F.group_norm(x, norm.num_groups, weight, bias, norm.eps)
    momentum = 0.0 if own.momentum is None else own.momentum
    if own.training and own.track_running_stats and own.num_batches_tracked is not None:
        own.num_batches_tracked.add_(1)
        if own.momentum is None:
            momentum = 1.0 / float(own.num_batches_tracked)
    uses_batch = own.training or (own.running_mean is None and own.running_var is None)
    is_read = not own.training or own.track_running_stats
    mean, var = (own.running_mean, own.running_var) if is_read else (None, None)
    return F.batch_norm(x, mean, var, weight, bias, uses_batch, momentum, own.eps)


def group_weight(weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Split the weights of candidates that share a module into one group weight and the shares within it.

    ``W = sum_i s_i w_i`` and ``p_i = w_i / W``, with ``s_i = -1`` where ``w_i < 0`` and ``+1`` elsewhere, a constant.
    Weights whose sum is negative give minus what their negatives give: ``-w g(u)`` is not ``w g(-u)``.
    Where ``|W| < ZERO_WEIGHT`` the shares are the constant ``1/n``: outputs, gradients and second derivatives stay
    finite, and the gradient to ``w_i`` is that of ``s_i * g(mean u)``. (Formula: this project.)

    Args:
        weights: n scalars, ``f32[]`` each.

    Returns:
        ``W``, ``f32[]``, and ``p``, ``f32[n]``.
    """
    stacked = torch.stack(list(weights))  # f32[n]
    side = signs_of(stacked.sum())  # f32[]
    stacked = stacked * side
    total = (signs_of(stacked) * stacked).sum()  # f32[]
    is_zero = total.detach() < ZERO_WEIGHT
    safe = torch.where(is_zero, torch.ones_like(total), total)  # f32[]
    shares = torch.where(is_zero, torch.full_like(stacked, 1.0 / len(weights)), stacked / safe)  # f32[n]
    return side * total, shares


def group_shares(weights: Sequence[Tensor]) -> Tensor:
    """Return what each of several candidates counts in a stage that they share, whatever the weights' signs.

    ``p_i = |w_i| / sum_j |w_j|``, the sign a constant; ``1/n`` below ``ZERO_WEIGHT``, as in ``group_weight``.

    Args:
        weights: n scalars, ``f32[]`` each.

    Returns:
        ``f32[n]``, not negative, its sum 1.
    """
    stacked = torch.stack(list(weights))  # f32[n]
    signed = stacked * signs_of(stacked)  # f32[n]
    total = signed.sum()  # f32[]
    is_zero = total.detach() < ZERO_WEIGHT
    safe = torch.where(is_zero, torch.ones_like(total), total)  # f32[]
    return torch.where(is_zero, torch.full_like(stacked, 1.0 / len(weights)), signed / safe)


def signs_of(weights: Tensor) -> Tensor:
    """Return -1 where a weight is negative, 1 elsewhere, as constants."""
    return torch.where(weights.detach() < 0, -1.0, 1.0).to(weights.dtype)


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
    if kernels[0].numel() >= lean_ops.SMALL and is_plain(kernels, weights) and sees_plain_autograd():
        return merge_in_place(kernels, weights, befores, dilations, size)
    total: Any = None
    for kernel, weight, before, dilation in zip(kernels, weights, befores, dilations, strict=True):
        weighted = embed_kernel(kernel * weight, before, dilation, size)
        total = weighted if total is None else total + weighted
    result: Tensor = total
    return result


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


def copy_statistics(after: Tensor, kept: Any, twins: Sequence[Any]) -> None:
    """Write the running statistics of a norm to others that would have counted the same, one batch each.

    Args:
        after: what the norm computed; it counts before this runs.
        kept: the norm that ran.
        twins: those that did not.
    """
    if not kept.training:  # nothing was counted
        return
    counts = [twin.num_batches_tracked for twin in twins]
    with torch.no_grad():
        others = [statistic for twin in twins for statistic in (twin.running_mean, twin.running_var)]
        torch._foreach_copy_(others, [kept.running_mean, kept.running_var] * len(twins))
        if counts[0] is not None:
            torch._foreach_add_(counts, 1)


def guard(value: Any, expected: Any) -> None:
    """Hold a run to the answer that the recorded run got from its data.

    Args:
        value: what this run's data say; a tensor stands for its truth value.
        expected: what the recorded run read.

    Raises:
        GuardFailure: the answers differ.
    """
    found = bool(value) if isinstance(value, Tensor) else value
    both_nan = isinstance(found, float) and isinstance(expected, float) and math.isnan(found) and math.isnan(expected)
    if not (found == expected or both_nan):
        raise GuardFailure(f"the recorded run read {expected!r} where this run reads {found!r}")


class ApplyFunction:
    """A ``torch.autograd.Function`` as the target of a node: calling it calls ``function.apply``."""

    def __init__(self, function: type[Function]) -> None:
        """Take the Function's class; name and module are its own, for the graph text and for pickle."""
        self.function = function
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = __name__

    def __call__(self, *args: Any) -> Any:
        """Apply the function."""
        return self.function.apply(*args)

    def __eq__(self, other: object) -> bool:
        """Two wrappers of one Function are the same target."""
        return isinstance(other, ApplyFunction) and other.function is self.function

    def __hash__(self) -> int:
        """Hash by the wrapped class."""
        return hash(self.function)
