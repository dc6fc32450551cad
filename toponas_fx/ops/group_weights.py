"""What candidates that share a module weigh together, and what each of them counts in it.

Shapes: ``n`` candidates of one edge.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toponas_fx.ops.registry import operation

ZERO_WEIGHT = 1e-12
"""A group weight below this counts as zero (see ``group_weight``); squared, the floor of kernel norms."""


@operation()
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


@operation()
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
