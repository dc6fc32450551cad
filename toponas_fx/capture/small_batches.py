"""Record a call at small batches: that is cheap, and two of them tell whether the batch decides anything.

A search meets many batch sizes: the example's, the loader's, the smaller last one of an epoch. What forward asks for as
a size stays symbolic in the graph, so one graph computes all of them, unless forward's Python does something else for
another batch. Two runs at 2 and at 3 images show that where it shows in the nodes (a loop over the images, a number
computed from them), and where it need not show (a comparison, a tensor cut along the batch) the runs are compared in
that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from toponas_fx.capture import Capture, capture
from toponas_fx.capture.expressions import NO_NUMBERS, Numbers, Source, others_like
from toponas_fx.capture.inputs import Inputs, batch_of
from toponas_fx.ir.targets import target_name
from toponas_fx.ir.tensor_type import TensorType
from toponas_fx.module_tree.isolation import in_mode
from toponas_fx.progress import step

FIRST, SECOND = 2, 3
"""The batch sizes that runs are recorded at: 1 would hide which sizes are the batch's, and what broadcasts."""
_CUTTING = {name: 0 for name in ("split", "chunk", "tensor_split", "split_with_sizes", "unsafe_split", "unsafe_chunk")}
_CUTTING |= {"vsplit": 0, "hsplit": 1, "dsplit": 2}
"""Names of functions that return as many parts as a size says, and the dimension that they cut unless given."""


NO_VALUES: Mapping[Source, Sequence[float]] = {}


@dataclass(frozen=True)
class Recording:
    """A recorded call.

    Attributes:
        capture: the run.
        inputs: what it was run with.
        any_batch: True where every batch size takes the same path.
        is_whole: True where the call was run with its own batch.
        evaluation: the run in evaluation mode, where one was asked for, took the same path as this one of training, and
            there is nothing that passes leave alone in training only: a draw.
        held: numbers that could not stay symbolic.
        why_not: why what seemed to be choices are none in it, as the end of a sentence.
    """

    capture: Capture
    inputs: Inputs
    any_batch: bool = False
    is_whole: bool = False
    evaluation: Capture | None = None
    held: frozenset[Source] = frozenset()
    why_not: str = ""


def record(
    fast: nn.Module,
    forward: Callable[..., Any],
    inputs: Inputs,
    *,
    other_mode: bool = False,
    at_its_own: bool = False,
    numbers: Numbers = NO_NUMBERS,
    known: Mapping[Source, Sequence[float]] = NO_VALUES,
    first: Recording | None = None,
) -> Recording:
    """Capture a call, at small batches where those tell all, else at its own.

    Args:
        fast: the model.
        forward: the user's forward, bound to it.
        inputs: of the call.
        other_mode: whether the second run may be one in evaluation mode, of a model in training.
        at_its_own: whether it is known that the batch decides something.
        numbers: those that stay symbolic if they can, with their present values.
        known: values that they had at some time.
        first: the call at the first small batch, where that was captured.

    Raises:
        CaptureError: the call cannot be repeated by a graph.
        Exception: whatever the model's own forward raises.
    """
    if first is None and not at_its_own:
        first = capture_small(fast, forward, inputs, FIRST, numbers)
    if first is None:
        return _whole(fast, forward, inputs, numbers, known)
    evaluation = None
    if other_mode:
        with in_mode(fast, training=False):
            evaluation = capture_small(fast, forward, inputs, SECOND)
    if evaluation is not None and is_same_path(first.capture, evaluation.capture):
        found = None if first.capture.draws else evaluation.capture
        return replace(_sized(first, evaluation, inputs), any_batch=True, evaluation=found)
    others = others_like(numbers, known, first.capture.guards.conditions)
    second = None if others is None else capture_small(fast, forward, inputs, SECOND, others)
    if second is not None and is_same_path(first.capture, second.capture):
        first.capture.guards.add(second.capture.guards)
        return replace(_sized(first, second, inputs), any_batch=True)
    return _whole(fast, forward, inputs, numbers, known)


def _whole(
    fast: nn.Module,
    forward: Callable[..., Any],
    inputs: Inputs,
    numbers: Numbers,
    known: Mapping[Source, Sequence[float]],
) -> Recording:
    """Capture a call with its own batch; with numbers that stay symbolic where two of their values take one path."""
    held: Iterable[Source] = ()
    first = _capture_with(fast, forward, inputs, numbers) if numbers else None
    if first is not None:
        others = others_like(numbers, known, first.guards.conditions)
        if others is not None and first.keeps_numbers:
            second = _capture_with(fast, forward, inputs, others)
            if second is not None and is_same_path(first, second):
                return Recording(first, inputs, is_whole=True)
        held = first.guards.fixed_numbers or (() if others is None else numbers)
    elif numbers:
        held = numbers
    return Recording(capture(fast, forward, *inputs), inputs, is_whole=True, held=frozenset(held))


def _capture_with(fast: nn.Module, forward: Callable[..., Any], inputs: Inputs, numbers: Numbers) -> Capture | None:
    """Capture a call with symbolic numbers; None where it fails, which a call with plain ones need not."""
    try:
        return capture(fast, forward, *inputs, numbers)
    except Exception:  # what is no plain float may be refused, and other values may be wrong: nobody asked for them
        return None


def capture_small(
    fast: nn.Module, forward: Callable[..., Any], inputs: Inputs, batch: int, numbers: Numbers = NO_NUMBERS
) -> Recording | None:
    """Capture a call with its batch cut, or repeated, to a size; None where forward does not take that."""
    small = resized(inputs, batch)
    if small is None:
        return None
    step(f"recording forward at batch {batch}")
    try:
        return Recording(capture(fast, forward, *small, numbers), small)
    except Exception:  # the call at its own size tells what is wrong, if anything is
        return None


def is_same_path(first: Capture, second: Capture) -> bool:
    """Return whether runs at two batch sizes took one path, which those of all others take too.

    And whether those at two values of numbers that stay symbolic did.
    """
    if not (first.keeps_numbers and second.keeps_numbers):
        return False
    if first.fingerprint != second.fingerprint or len(first.sizes_used) != len(second.sizes_used):
        return False
    if not all(map(is_same_use, first.sizes_used, second.sizes_used)):
        return False
    return not any(map(cuts_what_differs, first.graph.nodes, second.graph.nodes))


def is_same_use(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    """Return whether a size was used alike: the same numbers, or a size compared with one that is always equal."""
    if first == second:
        return True
    use, *sizes = first
    is_equality = use in ("__eq__", "__ne__") and second[0] == use
    return is_equality and len(set(sizes)) == 1 and len(set(second[1:])) == 1


def cuts_what_differs(first: fx.Node, second: fx.Node) -> bool:
    """Return whether a node returns as many parts as a size says that differs between two runs."""
    name = target_name(first.target)
    if first.op not in ("call_function", "call_method") or name not in _CUTTING:
        return False
    given = first.kwargs.get("dim", first.args[2] if len(first.args) > 2 else _CUTTING[name])
    shape, other = (tuple(node.all_input_nodes[0].meta["type"].shape) for node in (first, second))
    return shape[given] != other[given] if isinstance(given, int) else shape != other


def resized(inputs: Inputs, size: int) -> Inputs | None:
    """Return a call's arguments with another batch; None where no tensor has one."""
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    batch = batch_of(tensors)
    if not batch or any(type(tensor) is not Tensor for tensor in tensors):
        return None
    if batch < size and not all(tensor.layout is torch.strided and tensor.is_contiguous() for tensor in tensors):
        return None  # repeated, they would lie otherwise

    def resize(tensor: Tensor) -> Tensor:
        if not tensor.dim() or tensor.shape[0] != batch:
            return tensor
        if batch >= size:
            return tensor[:size]
        return torch.cat([tensor] * -(-size // batch))[:size]

    found: Inputs = pytree.tree_map_only(Tensor, resize, inputs)
    return found


def sized(larger: Mapping[fx.Node, fx.Node], inputs: Inputs) -> None:
    """Give a run's values the shapes that they have at the call's own batch: passes decide by sizes.

    Args:
        larger: for nodes of the first small batch, those of the second.
        inputs: of the call.
    """
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    more = (batch_of(tensors) or FIRST) - FIRST
    for node, other in larger.items():
        kind, wider = node.meta.get("type"), other.meta.get("type")
        if kind is not None and wider is not None and kind != wider:
            sizes = zip(kind.shape, wider.shape, strict=True)
            node.meta["type"] = TensorType(kind.dtype, tuple(a + (b - a) * more for a, b in sizes))


def _sized(first: Recording, second: Recording, inputs: Inputs) -> Recording:
    sized(dict(zip(first.capture.graph.nodes, second.capture.graph.nodes, strict=True)), inputs)
    return first
