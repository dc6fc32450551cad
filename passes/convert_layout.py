"""Bring images to channels-last layout where they enter, and what leaves to the layout it had.

Before::

    %0 = input input
    %1 = Conv2d[0](%0)
    %2 = ReLU[1](%1)
    return %2

After::

    %0 = input input
    %1 = attr 0.weight
    %2 = takes_over([%0], %1)
    %3 = channels_last(%0, %2)
    %4 = Conv2d[0](%3)
    %5 = ReLU[1](%4)
    %6 = original_layout(%5, %2)
    return %6

Convolutions and norms hand the layout on: poolings, and the backward passes of convolutions, read memory in order.
What leaves lies as it does in the original: outputs, and gradients to inputs and parameters (``layouts``); so kernels
of many taps are read through ``own_layout``. A narrow 1x1 convolution with a stride reads the pixels that the stride
leaves: oneDNN writes past its memory there otherwise. Measured on CPUs; on other devices, for other dtypes and for
images that come in channels-last themselves the new nodes do nothing, and decide that at each run.

Refuses:

1. a graph in which something depends on how images lie in memory: a ``view`` of one, a stride that is read, code that
   is unknown (a module with hooks, a ``torch.autograd.Function``), numbers drawn for each pixel; where forward
   chooses the layout itself, by a ``memory_format``;
2. one in which nothing convolves an input, or it is written in place;
3. one in which kernels, not images, are what convolutions read most of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx.analysis import image_layouts
from toponas_fx.analysis.costs import USUAL_BATCH
from toponas_fx.analysis.linear_ops import LinearOp, linear_op
from toponas_fx.analysis.memory import Memory
from toponas_fx.analysis.stacked_terms import shape_of
from toponas_fx.ir.tensor_type import TensorType
from toponas_fx.ops import layouts
from toponas_fx.rewriting.convolutions import convolve
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter

IMAGES_PER_KERNEL = 4
"""Numbers in images, for each one in a kernel, from which on the layout pays."""


@dataclass(frozen=True)
class Images:
    """The inputs that are convolved, and the path of a kernel of the model, which tells how its kernels lie."""

    inputs: tuple[fx.Node, ...]
    kernel: str | None

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The inputs."""
        return self.inputs

    def describe(self) -> str:
        """Count the inputs."""
        return f"{len(self.inputs)} inputs are brought to channels-last layout"


@dataclass(frozen=True)
class ConvertLayout(Pass):
    """See the module's docstring.

    Attributes:
        layout: whether images are brought to channels-last layout; where it is None, sizes decide.
    """

    layout: bool | None = None
    name: ClassVar[str] = "convert-layout"
    semantics: ClassVar[Semantics] = Semantics.ROUNDING
    stage: ClassVar[Stage] = Stage.LOWER

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find whether the layout may change, and where images enter."""
        operations = [linear_op(gm, node) for node in gm.graph.nodes]
        converts = _are_images_large(operations) if self.layout is None else self.layout
        inputs = tuple(image_layouts.convolved_inputs(gm)) if converts else ()
        if not inputs:
            return Plan()
        for node in gm.graph.nodes:
            reason = image_layouts.why_not(gm, node)
            if reason is not None:
                return Plan((), (Refusal((node,), reason),))
        kernels = [found.kernel for found in operations if found is not None and found.dims == 2]
        kernel = next((kernel for kernel in kernels if isinstance(kernel, str)), None)
        return Plan((Images(inputs, kernel),))

    def apply(self, match: Images, rewriter: Rewriter) -> None:
        """Convert what enters and what leaves."""
        _convert(match, rewriter)


def _convert(match: Images, rewriter: Rewriter) -> None:
    """Bring images to channels-last layout where they come in, and what leaves to the layout it had."""
    gm = rewriter.gm
    given = [node for node in image_layouts.given_tensors(gm) if node not in match.inputs]
    exits = image_layouts.exits(gm.graph)
    *_, last = (node for node in gm.graph.nodes if node.op == "placeholder")
    with rewriter.after(last, *match.inputs):
        kernel = rewriter.tensor(match.kernel)
        converts = rewriter.call_function(layouts.takes_over, (list(match.inputs), kernel))

    def wrap(target: Any, node: fx.Node, readers: Iterable[fx.Node], place: fx.Node) -> None:
        readers = [reader for reader in readers if reader is not converts and reader not in exits]
        with rewriter.before(place, node):
            fresh = rewriter.call_function(target, (node, converts), type=node.meta.get("type"))
        for reader in readers:
            rewriter.redirect(reader, node, fresh)

    for found in [linear_op(gm, node) for node in gm.graph.nodes]:
        if image_layouts.is_overrun(found):
            _without_stride(found, rewriter)
    for node in match.inputs:
        wrap(layouts.channels_last, node, list(node.users), converts.next)
    for node in given:
        wrap(layouts.own_layout, node, list(node.users), max(node, converts).next)
    for node in image_layouts.averaged(gm):
        wrap(layouts.images_gradient, node.all_input_nodes[0], [node], node)
    for planned in image_layouts.own_kernels(gm):
        operation = rewriter.current(planned)
        with rewriter.before(operation.node):
            own: Any = rewriter.tensor(operation.kernel)
            bias = rewriter.tensor(operation.bias)
            new = convolve(rewriter, operation, own, bias, operation.padding, operation.dilation)
        new.meta["scope"] = str(operation.node.target)  # it runs where the module did
        wrap(layouts.own_layout, own, [new], new)
        rewriter.replace(operation.node, new)
    for node in image_layouts.kept_as_they_are(gm):
        wrap(layouts.original_layout, node.all_input_nodes[0], [node], node)
        wrap(layouts.channels_last, node, list(node.users), node.next)
    _bring_back(exits, converts, rewriter)


def _without_stride(operation: LinearOp, rewriter: Rewriter) -> None:
    """Let a 1x1 convolution read each pixel of the few that its stride leaves, in whichever layout."""
    if any(operation.padding):
        return
    node, kind = operation.node, operation.value.meta["type"]
    less = TensorType(kind.dtype, (*kind.shape[:2], *shape_of(node)[2:]))
    with rewriter.before(node):
        kernel, bias = rewriter.tensor(operation.kernel), rewriter.tensor(operation.bias)
        pixels = rewriter.call_function(layouts.every, (operation.value, operation.stride), type=less)
        dense: Any = replace(operation, value=pixels, stride=(1, 1))
        new = convolve(rewriter, dense, kernel, bias, (0, 0), (1, 1))
    new.meta["scope"] = str(node.target) if node.op == "call_module" else node.meta["scope"]
    rewriter.replace(node, new)


def _bring_back(exits: Sequence[fx.Node], converts: fx.Node, rewriter: Rewriter) -> None:
    """Return each tensor as it lies in the original; what else is computed from it is computed from what is returned.

    So a caller who asks for gradients to what a model returned gets them.
    """
    gm = rewriter.gm
    memory = Memory.of(gm)
    for node, readers in image_layouts.returned(gm, exits).items():
        others = [] if memory.is_written(node) else [user for user in node.users if user not in readers]
        order = (node.meta["order"],) if "order" in node.meta else ()
        kind = node.meta["type"]
        with rewriter.before(node.next if others else min(readers), node):
            fresh = rewriter.call_function(layouts.original_layout, (node, converts, *order), type=kind)
            resumed = rewriter.call_function(layouts.resumed, (fresh, node), type=kind) if others else fresh
        for reader in readers:
            rewriter.redirect(reader, node, fresh)
        for other in others:
            rewriter.redirect(other, node, resumed)


def _are_images_large(operations: Sequence[LinearOp | None]) -> bool:
    """Return whether images, not kernels, are what convolutions read most of: the layout speeds up work on images."""
    images = kernels = 0
    for found in operations:
        if found is not None and found.dims == 2:
            batch, *sizes = shape_of(found.value) or (0, 0)
            images += max(batch, USUAL_BATCH) * math.prod(sizes)
            kernels += math.prod(found.kernel_shape)
    return images >= IMAGES_PER_KERNEL * kernels


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""
    return nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()), torch.ones(1, 2, 4, 4)
