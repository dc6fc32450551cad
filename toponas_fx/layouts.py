"""How images lie in memory: brought to channels-last layout at the head of a graph, and back at its end."""

from __future__ import annotations

import torch
from torch import Tensor


def channels_last(x: Tensor) -> Tensor:
    """Return images in channels-last layout where that is faster: float32 on a CPU, ``f32[N,C,H,W]``."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.dim() != 4:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def standard_layout(x: Tensor) -> Tensor:
    """Return images in the layout that torch makes them in, ``f32[N,C,...]``."""
    return x.contiguous()
