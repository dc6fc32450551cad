"""Give depthwise convolutions a backward pass that the device runs faster.

Before::

    %0 = input input
    %1 = Conv2d[0](%0)
    %2 = ReLU[1](%1)
    return %2

After::

    %0 = input input
    %1 = attr 0.weight
    %2 = attr 0.bias
    %3 = depthwise_conv2d(%0, %1, %2, (1, 1), (1, 1), (1, 1))
    %4 = ReLU[1](%3)
    return %4

``custom_autograd.depthwise_conv2d`` has the formula. Measured on CPUs; on other devices and for other dtypes it does
what the convolution did, and decides that at each run.

Refuses:

1. convolutions that are not depthwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx.analysis.linear_ops import LinearOp, linear_op
from toponas_fx.ops import custom_autograd
from toponas_fx.rewriting.pass_base import Pass, Plan, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter


@dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution."""

    operation: LinearOp

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """Where it is computed."""
        return (self.operation.node,)

    def describe(self) -> str:
        """Name its size."""
        size = "x".join(map(str, self.operation.kernel_shape[2:]))
        return f"a depthwise {size} convolution gets a backward pass of its own"


@dataclass(frozen=True)
class LowerDepthwise(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "lower-depthwise"
    semantics: ClassVar[Semantics] = Semantics.ROUNDING
    stage: ClassVar[Stage] = Stage.LOWER

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find depthwise convolutions."""
        operations = [linear_op(gm, node) for node in gm.graph.nodes]
        return Plan(tuple(Depthwise(found) for found in operations if found is not None and _is_depthwise(found)))

    def apply(self, match: Depthwise, rewriter: Rewriter) -> None:
        """Put the operation with the other backward pass in the place of the convolution."""
        operation, node = match.operation, match.operation.node
        with rewriter.before(node):
            kernel, bias = rewriter.tensor(operation.kernel), rewriter.tensor(operation.bias)
            geometry = (operation.stride, operation.padding, operation.dilation)
            args = (operation.value, kernel, bias, *geometry)
            fresh = rewriter.call_function(custom_autograd.depthwise_conv2d, args, type=node.meta["type"])
        rewriter.replace(node, fresh)


def _is_depthwise(operation: LinearOp) -> bool:
    is_plain = operation.dims == 2 and operation.kernel_shape[0] == operation.groups and operation.kernel_shape[1] == 1
    return is_plain and operation.groups > 1 and operation.node.target is not custom_autograd.depthwise_conv2d


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""
    return nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, groups=2), nn.ReLU()), torch.ones(1, 2, 4, 4)
