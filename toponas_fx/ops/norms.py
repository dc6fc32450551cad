"""Norms whose result carries a scale, and norms that count for others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import GroupNorm, Module
from torch.nn import functional as F

from toponas_fx.ops import custom_autograd
from toponas_fx.ops.constants import constant
from toponas_fx.ops.custom_autograd import sees_plain_autograd
from toponas_fx.ops.registry import operation


@operation(family="norm", has_effect=True, norm=1, scale=2, keeps_input=True)
def scaled_norm(x: Tensor, norm: Module, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    """Return ``scale * norm(x) + shift``; the norm's affine weights carry both, so that no product is stored.

    Where the product is small and there are two weights to scale, or two to make, that takes more calls than it saves.

    Args:
        x: ``f32[N,C,...]``.
        norm: a BatchNorm of any rank or a GroupNorm, in its present mode; it counts as it does in its own forward.
        scale: ``f32[]``.
        shift: ``f32[]``; nothing where None.

    Returns:
        ``f32[N,C,...]``.
    """
    own: Any = norm
    if (own.weight is not None or shift is not None) and x.numel() < custom_autograd.SMALL:
        scaled: Tensor = norm(x) * scale
        return scaled if shift is None else scaled + shift
    # not an expanded view: on CPUs torch's backward pass for channels-last images reads past the end of one
    weight = _for_each(x.shape[1], scale) if own.weight is None else own.weight * scale  # f32[C]
    bias = None if own.bias is None else own.bias * scale  # f32[C]
    if shift is not None:
        bias = _for_each(x.shape[1], shift) if bias is None else bias + shift
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


def _for_each(channels: int, scale: Tensor) -> Tensor:
    """Return a number for each channel, ``f32[C]``; ``repeat`` itself takes four times as long."""
    if not sees_plain_autograd():
        return scale.repeat(channels)
    return scale * _ones(channels, scale.dtype, scale.device)


@constant
def _ones(channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.ones(channels, dtype=dtype, device=device)


@operation(has_effect=True)
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
