"""Choose the implementation that the device runs fastest.

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
    %4 = attr 0.weight
    %5 = attr 0.bias
    %6 = depthwise_conv2d(%3, %4, %5, (1, 1), (1, 1), (1, 1))
    %7 = ReLU[1](%6)
    %8 = original_layout(%7, %2)
    return %8

Three rewrites, all measured on CPUs; on other devices, for other dtypes and under ``torch.compile`` the new nodes do
what the old ones did, and decide that at each run. (1) A depthwise convolution gets a backward pass of its own
(``custom_autograd.depthwise_conv2d``, with the formula). (2) An average pooling becomes a depthwise convolution with a
box (``average_pooling.avg_pool2d``). (3) Images enter in channels-last layout, which convolutions and norms hand on:
poolings, and the backward passes of convolutions, read memory in order. What leaves lies as it does in the original:
outputs, and gradients to inputs and parameters (``layouts``); so kernels of many taps are read through ``own_layout``.
A narrow 1x1 convolution with a stride reads the pixels that the stride leaves: oneDNN writes past its memory there
otherwise.

Refuses:

1. the layout where something depends on how images lie in memory: a ``view`` of one, a stride that is read, code that
   is unknown (a module with hooks, a ``torch.autograd.Function``), numbers drawn for each pixel; where forward
   chooses the layout itself, by a ``memory_format``; where nothing convolves an input, or it is written in place, or
   where kernels, not images, are what convolutions read most of;
2. convolutions that are not depthwise; poolings that round sizes up or divide by a number of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx.analysis import image_layouts
from toponas_fx.analysis.linear_ops import LinearOp, linear_op
from toponas_fx.analysis.memory import Memory
from toponas_fx.analysis.pooling_ops import AvgPool, avg_pool
from toponas_fx.analysis.stacked_terms import shape_of
from toponas_fx.ir.tensor_type import TensorType
from toponas_fx.ops import average_pooling, custom_autograd, layouts
from toponas_fx.passes.fold_weights import USUAL_BATCH
from toponas_fx.passes.normalize_kernels import convolve
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter

IMAGES_PER_KERNEL = 4
"""Numbers in images, for each one in a kernel, from which on the layout pays."""


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
class LowerForDevice(Pass):
    """See the module's docstring.

    Attributes:
        layout: whether images are brought to channels-last layout; where it is None, sizes decide.
        depthwise: whether depthwise convolutions get a backward pass of their own.
        pools: whether average poolings become convolutions with a box.
    """

    layout: bool | None = None
    depthwise: bool = True
    pools: bool = True
    name: ClassVar[str] = "lower-for-device"
    semantics: ClassVar[Semantics] = Semantics.ROUNDING
    stage: ClassVar[Stage] = Stage.LOWER

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find depthwise convolutions, and whether the layout may change."""
        operations = [linear_op(gm, node) for node in gm.graph.nodes]
        matches: list[Any] = []
        if self.depthwise:
            matches += [Depthwise(found) for found in operations if found is not None and _is_depthwise(found)]
        if self.pools:
            pools = [avg_pool(gm, node) for node in gm.graph.nodes]
            matches += [Pooling(found) for found in pools if found is not None]
        converts = _are_images_large(operations) if self.layout is None else self.layout
        inputs = tuple(_convolved_inputs(gm)) if converts else ()
        if not inputs:
            return Plan(tuple(matches), ())
        for node in gm.graph.nodes:
            reason = image_layouts.why_not(gm, node)
            if reason is not None:
                return Plan(tuple(matches), (Refusal((node,), reason),))
        kernels = [found.kernel for found in operations if found is not None and found.dims == 2]
        kernel = next((kernel for kernel in kernels if isinstance(kernel, str)), None)
        return Plan((*matches, Images(inputs, kernel)), ())

    def apply(self, match: Depthwise | Pooling | Images, rewriter: Rewriter) -> None:
        """Put the faster operation in the place of the other, or convert what enters and what leaves."""
        if isinstance(match, Pooling):
            pool = match.pool
            with rewriter.before(pool.node):
                args = (pool.value, *pool.window)
                fresh = rewriter.call_function(average_pooling.avg_pool2d, args, type=pool.node.meta["type"])
            rewriter.replace(pool.node, fresh)
            return
        if isinstance(match, Depthwise):
            _lower(match.operation, rewriter)
            return
        _convert(match, rewriter)


def _is_depthwise(operation: LinearOp) -> bool:
    is_plain = operation.dims == 2 and operation.kernel_shape[0] == operation.groups and operation.kernel_shape[1] == 1
    return is_plain and operation.groups > 1 and operation.node.target is not custom_autograd.depthwise_conv2d


def _lower(operation: LinearOp, rewriter: Rewriter) -> None:
    node = operation.node
    with rewriter.before(node):
        kernel, bias = _as_node(rewriter, operation.kernel), _as_node(rewriter, operation.bias)
        geometry = (operation.stride, operation.padding, operation.dilation)
        args = (operation.value, kernel, bias, *geometry)
        fresh = rewriter.call_function(custom_autograd.depthwise_conv2d, args, type=node.meta["type"])
    rewriter.replace(node, fresh)


def _as_node(rewriter: Rewriter, value: str | fx.Node | None) -> fx.Node | None:
    if not isinstance(value, str):
        return value
    return rewriter.read(value, type=TensorType.of(rewriter.gm.get_parameter(value)))


def _convert(match: Images, rewriter: Rewriter) -> None:
    """Bring images to channels-last layout where they come in, and what leaves to the layout it had."""
    gm = rewriter.gm
    given = [node for node in image_layouts.given_tensors(gm) if node not in match.inputs]
    exits = image_layouts.exits(gm.graph)
    *_, last = (node for node in gm.graph.nodes if node.op == "placeholder")
    with rewriter.after(last, *match.inputs):
        kernel = _as_node(rewriter, match.kernel)
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
            own: Any = _as_node(rewriter, operation.kernel)
            bias = _as_node(rewriter, operation.bias)
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
        kernel, bias = _as_node(rewriter, operation.kernel), _as_node(rewriter, operation.bias)
        pixels = rewriter.call_function(layouts.every, (operation.value, operation.stride), type=less)
        dense: Any = replace(operation, value=pixels, stride=(1, 1))
        new = convolve(rewriter, dense, kernel, bias, (0, 0), (1, 1))  # type: ignore[arg-type]
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
    """Tell whether images, not kernels, are what convolutions read most of: the layout speeds up work on images."""
    images = kernels = 0
    for found in operations:
        if found is not None and found.dims == 2:
            batch, *sizes = shape_of(found.value) or (0, 0)
            images += max(batch, USUAL_BATCH) * math.prod(sizes)
            kernels += math.prod(found.kernel_shape)
    return images >= IMAGES_PER_KERNEL * kernels


def _convolved_inputs(gm: fx.GraphModule) -> Iterator[fx.Node]:
    """Yield the inputs that are images and that a convolution reads, unless converted already, or written in place."""
    memory = Memory.of(gm)
    for node in gm.graph.nodes:
        if node.op == "placeholder" and len(shape_of(node)) == 4 and not memory.is_written(node):
            found = [linear_op(gm, user) for user in node.users]
            if any(operation is not None and operation.dims == 2 for operation in found):
                yield node


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""
    return nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, groups=2), nn.ReLU()), torch.ones(1, 2, 4, 4)
