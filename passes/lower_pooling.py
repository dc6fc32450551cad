"""Write average poolings as depthwise convolutions with a box.

Before::

    %0 = input input
    %1 = AvgPool2d[0](%0)
    %2 = ReLU[1](%1)
    return %2

After::

    %0 = input input
    %1 = avg_pool2d(%0, (3, 3), (1, 1), (1, 1), False)
    %2 = ReLU[1](%1)
    return %2

``average_pooling.avg_pool2d`` says where that is faster, on CPUs; elsewhere it is torch's, and it decides that at each
run.

Refuses:

1. poolings that round sizes up or divide by a number of their own, and modules with hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx.analysis.pooling_ops import AvgPool, avg_pool
from toponas_fx.ops import average_pooling
from toponas_fx.rewriting.pass_base import Pass, Plan, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter


@dataclass(frozen=True)
class Pooling:
    """An average pooling."""

    pool: AvgPool

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """Where it is computed."""
        return (self.pool.node,)

    def describe(self) -> str:
        """Name its size."""
        return f"a {'x'.join(map(str, self.pool.window.size))} average pooling becomes a convolution with a box"


@dataclass(frozen=True)
class LowerPooling(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "lower-pooling"
    semantics: ClassVar[Semantics] = Semantics.ROUNDING
    stage: ClassVar[Stage] = Stage.LOWER

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find average poolings."""
        pools = [avg_pool(gm, node) for node in gm.graph.nodes]
        return Plan(tuple(Pooling(found) for found in pools if found is not None))

    def apply(self, match: Pooling, rewriter: Rewriter) -> None:
        """Put the operation that chooses in the place of the pooling."""
        pool = match.pool
        with rewriter.before(pool.node):
            args = (pool.value, *pool.window)
            fresh = rewriter.call_function(average_pooling.avg_pool2d, args, type=pool.node.meta["type"])
        rewriter.replace(pool.node, fresh)


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""
    return nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.ReLU()), torch.ones(1, 2, 4, 4)
