"""Several batch normalizations as one: their channels stacked for the call, their numbers where they always are.

Shapes: ``N`` images, ``m`` norms of ``C_i`` channels each, ``C`` channels in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from toponas_fx.ops.norms import scaled_norm
from toponas_fx.ops.registry import operation


@operation(family="norm", has_effect=True, norm=1, scale=2, keeps_input=True)
def stacked_norm(x: Tensor, norms: Sequence[Module], scales: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Return ``scales[i] * norms[i](x_i)`` for the parts ``x_i`` of x, computed as one norm of all channels.

    A norm looks at each channel by itself, so norms of equal options compute together what they do apart. Running
    statistics are stacked for the call and what it counted is written back to each norm's own buffers: views of one
    tensor would not survive pickle, ``.float()`` or ``load_state_dict(assign=True)``. Norms whose options have come to
    differ since the graph was made run one by one.

    Args:
        x: ``f32[N,C,...]``, the norms' inputs side by side.
        norms: m BatchNorms, in their present mode; each counts as it does in its own forward.
        scales: for each its scale, ``f32[]``, or None.

    Returns:
        m tensors ``f32[N,C_i,...]``, parts of one.
    """
    own: list[Any] = list(norms)
    first, sizes = own[0], [norm.num_features for norm in own]
    if not may_stack(own):
        each = zip(x.split_with_sizes(sizes, 1), own, scales, strict=True)
        return tuple(norm(part) if scale is None else scaled_norm(part, norm, scale) for part, norm, scale in each)
    is_read = not first.training or first.track_running_stats
    mean = torch.cat([norm.running_mean for norm in own]) if is_read and first.running_mean is not None else None
    var = torch.cat([norm.running_var for norm in own]) if is_read and first.running_var is not None else None
    uses_batch = first.training or (first.running_mean is None and first.running_var is None)
    momentum = 0.0 if first.momentum is None else first.momentum
    weight, bias = _weights(own, scales), _biases(own, scales)
    result = F.batch_norm(x, mean, var, weight, bias, uses_batch, momentum, first.eps)
    if first.training and first.track_running_stats:
        _write_back(own, sizes, mean, var)
    return tuple(result.split_with_sizes(sizes, 1))


def options_of(norm: Any) -> tuple[Any, ...]:
    """Return what BatchNorms must agree in to be computed as one."""
    owned = norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.num_batches_tracked
    kinds = tuple(None if tensor is None else (tensor.dtype, tensor.device) for tensor in owned)
    return norm.eps, norm.momentum, norm.training, norm.track_running_stats, *kinds


def is_cumulative(norm: Any) -> bool:
    """Return whether a BatchNorm averages over all batches, so that its momentum is of its own count."""
    return norm.momentum is None and bool(norm.track_running_stats)


def may_stack(norms: Sequence[Any]) -> bool:
    """Return whether BatchNorms can be computed as one as they are now."""
    options = options_of(norms[0])
    return not is_cumulative(norms[0]) and all(options_of(norm) == options for norm in norms[1:])


def _weights(norms: Sequence[Any], scales: Sequence[Tensor | None]) -> Tensor | None:
    """Return the affine weights of all channels, scaled, ``f32[C]``; None where there is nothing to multiply by."""
    if norms[0].weight is not None:
        return torch.cat([_scaled(norm.weight, scale) for norm, scale in zip(norms, scales, strict=True)])
    given = [scale for scale in scales if scale is not None]
    if not given:
        return None
    one = torch.ones_like(given[0])
    pairs = zip(norms, scales, strict=True)
    return torch.cat([(one if scale is None else scale).expand(norm.num_features) for norm, scale in pairs])


def _biases(norms: Sequence[Any], scales: Sequence[Tensor | None]) -> Tensor | None:
    if norms[0].bias is None:
        return None
    return torch.cat([_scaled(norm.bias, scale) for norm, scale in zip(norms, scales, strict=True)])


def _scaled(tensor: Tensor, scale: Tensor | None) -> Tensor:
    return tensor if scale is None else tensor * scale


def _write_back(norms: Sequence[Any], sizes: list[int], mean: Tensor | None, var: Tensor | None) -> None:
    """Give each norm what was counted for its channels, in its own buffers, and count the batch."""
    with torch.no_grad():
        if mean is not None and var is not None:
            buffers = [norm.running_mean for norm in norms] + [norm.running_var for norm in norms]
            torch._foreach_copy_(buffers, [*mean.split_with_sizes(sizes), *var.split_with_sizes(sizes)])
        if norms[0].num_batches_tracked is not None:
            torch._foreach_add_([norm.num_batches_tracked for norm in norms], 1)
