"""Emitting a convolution, or a linear operation, with another kernel than the one that was read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx
from torch.nn import functional as F

from toponas_fx.analysis.linear_ops import FUNCTIONS, LinearOp
from toponas_fx.rewriting.rewriter import Rewriter


def convolve(
    rewriter: Rewriter, operation: LinearOp, kernel: fx.Node, bias: Any, padding: Sequence[int], dilation: Sequence[int]
) -> fx.Node:
    """Emit a linear operation with another kernel, and for a convolution another padding and dilation."""
    kind = operation.node.meta["type"]
    if not operation.dims:
        return rewriter.call_function(F.linear, (operation.value, kernel, bias), type=kind)
    geometry = (operation.stride, tuple(padding), tuple(dilation), operation.groups)
    return rewriter.call_function(FUNCTIONS[operation.dims], (operation.value, kernel, bias, *geometry), type=kind)
