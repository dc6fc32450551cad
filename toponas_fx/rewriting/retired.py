"""What is no more, as far as pickles of former versions name it: they load, and compute what they did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, fx
from torch.nn import Module

from toponas_fx.ops import scaled_norm
from toponas_fx.ops.registry import operation
from toponas_fx.rewriting.pass_base import Pass, Plan, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter


class Retired(Pass):
    """A pass that is no more: it finds nothing."""

    name: ClassVar[str] = "retired"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    stage: ClassVar[Stage] = Stage.LOWER

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find nothing."""
        return Plan((), ())

    def apply(self, match: Any, rewriter: Rewriter) -> None:
        """Do nothing: there is no match."""


class FoldScales(Retired):
    """Folded scales of merged kernels into weights; steps took as long without it."""


class FuseSiblings(Retired):
    """Fused convolutions of one input on different edges, where measuring asked for it."""


class LowerForDevice(Retired):
    """Became *lower-depthwise*, *lower-pooling* and *convert-layout*."""


@operation(family="norm", has_effect=True, norm=1, keeps_input=True)
def stacked_norm(x: Tensor, norms: Sequence[Module], scales: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Return ``scales[i] * norms[i](x_i)`` for the parts ``x_i`` of x; graphs in which siblings were fused call it.

    Args:
        x: ``f32[N,C,...]``, the norms' inputs side by side.
        norms: m BatchNorms of ``C_i`` channels.
        scales: for each its scale, ``f32[]``, or None.

    Returns:
        m tensors ``f32[N,C_i,...]``.
    """
    own: list[Any] = list(norms)
    each = zip(x.split_with_sizes([norm.num_features for norm in own], 1), own, scales, strict=True)
    return tuple(norm(part) if scale is None else scaled_norm(part, norm, scale) for part, norm, scale in each)
