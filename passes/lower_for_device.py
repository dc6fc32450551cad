"""Choose the implementation that the device runs fastest.

Before::

    %0 = input input
    %1 = Conv2d[0](%0)
    %2 = ReLU[1](%1)
    return %2

After::

    %0 = input input
    %1 = channels_last(%0)
    %2 = attr 0.weight
    %3 = attr 0.bias
    %4 = depthwise_conv2d(%1, %2, %3, (1, 1), (1, 1), (1, 1))
    %5 = ReLU[1](%4)
    %6 = standard_layout(%5)
    return %6

Three rewrites, all measured on CPUs; on other devices, for other dtypes and under ``torch.compile`` the new nodes do
what the old ones did, and decide that at each run. (1) A depthwise convolution gets a backward pass of its own
(``lean_ops.depthwise_conv2d``, with the formula). (2) An average pooling becomes a depthwise convolution with a box
(``lean_pools.avg_pool2d``). (3) Images enter in channels-last layout, which convolutions and norms hand on: poolings,
and the backward passes of convolutions, read memory in order. Tensors leave in the usual layout.

Refuses:

1. the layout where something depends on how images lie in memory: a ``view`` of one, a stride that is read, code that
   is unknown (a module with hooks, a ``torch.autograd.Function``), numbers drawn for each pixel; where nothing
   convolves an input, or it is written in place, or where kernels, not images, are what convolutions read most of;
2. convolutions that are not depthwise; poolings that round sizes up or divide by a number of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx import layouts, lean_ops, lean_pools, ops
from toponas_fx.linear_ops import LinearOp, linear_op
from toponas_fx.memory import Memory
from toponas_fx.pass_contract import Pass, Plan, Refusal, Semantics
from toponas_fx.passes.fold_weights import USUAL_BATCH
from toponas_fx.pools import AvgPool, avg_pool
from toponas_fx.purity import is_hooked, is_random
from toponas_fx.rewriter import Rewriter
from toponas_fx.stacks import shape_of
from toponas_fx.tensor_type import TensorType

IMAGES_PER_KERNEL = 4
"""Numbers in images, for each one in a kernel, from which on the layout pays."""
_READS_LAYOUT = ("as_strided", "stride", "is_contiguous", "data_ptr", "storage", "untyped_storage", "storage_offset")


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
    """The inputs that are convolved."""

    inputs: tuple[fx.Node, ...]

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
            reason = _why_not(gm, node)
            if reason is not None:
                return Plan(tuple(matches), (Refusal((node,), reason),))
        return Plan((*matches, Images(inputs)), ())

    def apply(self, match: Depthwise | Pooling | Images, rewriter: Rewriter) -> None:
        """Put the faster operation in the place of the other, or convert what enters and what leaves."""
        if isinstance(match, Pooling):
            pool = match.pool
            with rewriter.before(pool.node):
                args = (pool.value, *pool.window)
                fresh = rewriter.call_function(lean_pools.avg_pool2d, args, type=pool.node.meta["type"])
            rewriter.replace(pool.node, fresh)
            return
        if isinstance(match, Depthwise):
            _lower(match.operation, rewriter)
            return
        for node in match.inputs:
            readers = list(node.users)
            with rewriter.before(node.next, node):
                fresh = rewriter.call_function(layouts.channels_last, (node,), type=node.meta["type"])
            for reader in readers:
                rewriter.redirect(reader, node, fresh)
        (output,) = (node for node in rewriter.gm.graph.nodes if node.op == "output")
        for node in [node for node in output.all_input_nodes if len(shape_of(node)) > 3]:
            with rewriter.before(output, node):
                fresh = rewriter.call_function(layouts.standard_layout, (node,), type=node.meta["type"])
            rewriter.redirect(output, node, fresh)


def _is_depthwise(operation: LinearOp) -> bool:
    is_plain = operation.dims == 2 and operation.kernel_shape[0] == operation.groups and operation.kernel_shape[1] == 1
    return is_plain and operation.groups > 1 and operation.node.target is not lean_ops.depthwise_conv2d


def _lower(operation: LinearOp, rewriter: Rewriter) -> None:
    node = operation.node
    with rewriter.before(node):
        kernel, bias = _as_node(rewriter, operation.kernel), _as_node(rewriter, operation.bias)
        geometry = (operation.stride, operation.padding, operation.dilation)
        args = (operation.value, kernel, bias, *geometry)
        fresh = rewriter.call_function(lean_ops.depthwise_conv2d, args, type=node.meta["type"])
    rewriter.replace(node, fresh)


def _as_node(rewriter: Rewriter, value: str | fx.Node | None) -> fx.Node | None:
    if not isinstance(value, str):
        return value
    return rewriter.read(value, type=TensorType.of(rewriter.gm.get_parameter(value)))


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


def _why_not(gm: fx.GraphModule, node: fx.Node) -> str | None:
    """Return why a node would notice the layout, or None."""
    if is_random(gm, node) and all(
        any(_is_image(shape_of(n)) for n in part) for part in ([node], node.all_input_nodes)
    ):
        return "numbers are drawn for an image in the order in which it lies in memory"
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        is_known = type(module).__module__.startswith("torch.nn.modules") and not is_hooked(module)
        return None if is_known else f"`{node.target}` may depend on how images lie in memory"
    if node.op == "call_function" and isinstance(node.target, ops.ApplyFunction):
        return f"`{node.target.__name__}` may depend on how images lie in memory"
    if node.op != "call_method":
        return None
    if node.target in _READS_LAYOUT:
        return f"`{node.target}` depends on how images lie in memory"
    return "a view of an image depends on how it lies in memory" if _is_fragile_view(node) else None


def _is_fragile_view(node: fx.Node) -> bool:
    """Tell whether a view could fail on channels-last images: it may split channels, not merge what lies apart."""
    if node.target not in ("view", "view_as"):
        return False
    viewed: Any = node.args[0]
    before, after = shape_of(viewed), shape_of(node)
    splits_channels = after[:1] == before[:1] and len(after) > 3 and after[-2:] == before[-2:] and len(before) == 4
    return _is_image(before) and not splits_channels and viewed.target != "contiguous"


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) > 3 and any(size > 1 for size in shape[2:])


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""
    return nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, groups=2), nn.ReLU()), torch.ones(1, 2, 4, 4)
