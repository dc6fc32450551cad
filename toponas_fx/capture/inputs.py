"""The inputs of a run: their names and tensors, and a guess where the user gave none."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from toponas_fx.capture.recorded_choices import RecordedChoice
from toponas_fx.capture.symbolic_numbers import RecordedFloat
from toponas_fx.errors import ArgumentError, InputError

_IMAGE_SIZE = 32
_BATCH = 3
_SPATIAL = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}


def check_signature(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """Return a name for each positional argument.

    Raises:
        InputError: the arguments do not fit forward's signature.
    """
    try:
        bound = inspect.signature(forward).bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"the inputs do not fit the model's forward: {error}") from error
    known = bound.signature.parameters
    positional = [name for name in known if known[name].kind is not inspect.Parameter.VAR_POSITIONAL]
    return [positional[i] if i < len(positional) else f"args_{i}" for i in range(len(args))]


def input_leaves(
    labels: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[str, Tensor | RecordedFloat | RecordedChoice]]:
    """Yield the tensors among a call's arguments, in pytree's order, each with a name of its own: an identifier.

    Numbers that stay symbolic follow, then integers that are choices.
    """
    names: set[str] = set()
    found = pytree.tree_flatten_with_path((args, kwargs))[0]
    tensors = [item for item in found if isinstance(item[1], Tensor)]
    for kind in (RecordedFloat, RecordedChoice):
        tensors += [item for item in found if type(item[1]) is kind]
    for path, leaf in tensors:
        steps: list[Any] = [getattr(step, "idx", getattr(step, "key", "item")) for step in path]
        words = [labels[steps[1]] if steps[0] == 0 else steps[1], *steps[2:]]
        name = "_".join(str(word) if f"x{word}".isidentifier() else "item" for word in words)
        while name in names:
            name += "_"
        names.add(name)
        yield name, leaf


class Inputs(NamedTuple):
    """What forward is called with, ``forward(*args, **kwargs)``; for pytree a tree of tensors like any tuple.

    Attributes:
        args: positional arguments.
        kwargs: arguments by name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def check_tensors(model: nn.Module) -> None:
    """Check that a model is Python code over tensors that hold numbers.

    Raises:
        ArgumentError: it is scripted or traced, has a lazy layer that never ran, or a tensor on the meta device.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ArgumentError("the model went through torch.jit, which leaves no forward to record: simplify it before")
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ArgumentError(f"`{path}` belongs to a lazy layer that has no shape yet: run model(x) once before")
        if tensor.is_meta:
            raise ArgumentError(
                f"`{path}` is on the meta device, which holds no numbers: call model.to_empty(device=...) and set the "
                "weights before"
            )


def inputs_of(model: nn.Module, example_inputs: Any, example_kwargs: Any) -> Inputs:
    """Return a call of forward as the user gave it; a guess where nothing was given.

    Args:
        model: whose forward it is.
        example_inputs: one tensor, a tuple or list of positional arguments, or one dict that forward takes itself.
        example_kwargs: a dict of arguments by name.

    Raises:
        InputError: there is no tensor in it, it is not clear what is meant, or no input could be inferred.
    """
    if not is_given(example_inputs, example_kwargs):
        return Inputs(infer_inputs(model), {})
    kwargs = {} if example_kwargs is None else example_kwargs
    if not isinstance(kwargs, dict):
        kind = type(kwargs).__name__
        raise InputError(f"example_kwargs must be a dict of forward's arguments by name, not {kind}")
    args = (example_inputs,) if isinstance(example_inputs, Tensor | dict) else example_inputs
    args = () if args is None else args
    if not isinstance(args, tuple | list) or not any(isinstance(x, Tensor) for x in pytree.tree_leaves((args, kwargs))):
        if kwargs:
            raise InputError("there is no tensor in example_inputs or example_kwargs")
        found = _as_sizes(example_inputs) or type(example_inputs).__name__
        raise InputError(f"example_inputs must be one tensor or a tuple of forward's arguments, not {found}")
    if isinstance(example_inputs, dict) and _may_be_named(model.forward, example_inputs):
        names = ", ".join(f"{name!r}: ..." for name in example_inputs)
        raise InputError(
            f"example_inputs is a dict and its keys are forward's arguments: write example_kwargs={{{names}}}, "
            "or ({...},) where forward takes the dict itself"
        )
    if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in pytree.tree_leaves((args, kwargs))):
        raise InputError("example_inputs hold a tensor on the meta device, which has no numbers to run forward with")
    return Inputs(tuple(args), dict(kwargs))


def is_given(example_inputs: Any, example_kwargs: Any) -> bool:
    """Return whether the user gave inputs, so that none need be guessed."""
    return example_inputs is not None or bool(example_kwargs)


def _as_sizes(given: Any) -> str:
    """Return what to write instead of a shape, or of shapes; an empty string where that is none."""
    shapes = [given] if _is_shape(given) else given
    if not isinstance(shapes, tuple | list) or not shapes or not all(map(_is_shape, shapes)):
        return ""
    tensors = [f"torch.randn({', '.join(map(str, shape))})" for shape in shapes]
    return f"the sizes {given}: write " + (tensors[0] if len(tensors) == 1 else f"({', '.join(tensors)})")


def _is_shape(given: Any) -> bool:
    return isinstance(given, tuple | list) and bool(given) and all(type(size) is int and size > 0 for size in given)


def _may_be_named(forward: Callable[..., Any], given: dict[Any, Any]) -> bool:
    """Return whether the keys of a dict are names of forward's arguments."""
    try:
        inspect.signature(forward).bind_partial(**given)
    except TypeError:
        return False
    return True


def infer_inputs(model: nn.Module) -> tuple[Tensor]:
    """Guess one input from the model's first layer: images of 32x32 for a convolution, features for a Linear.

    Raises:
        InputError: the first layer with weights tells no input shape.
    """
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or next(module.children(), None) is not None:
            continue
        like: dict[str, Any] = {"dtype": weight.dtype, "device": weight.device}
        generator = torch.Generator().manual_seed(0)
        for kind, dims in _SPATIAL.items():
            if isinstance(module, kind):
                shape = (_BATCH, module.in_channels, *[_IMAGE_SIZE] * dims)
                return (torch.randn(shape, generator=generator).to(**like),)
        if isinstance(module, nn.Linear):
            return (torch.randn((_BATCH, module.in_features), generator=generator).to(**like),)
        break
    raise InputError(
        "the model's first layer tells no input shape; pass example_inputs, e.g. torch.randn(2, 3, 32, 32)"
    )


def batch_of(tensors: Iterable[Tensor]) -> int | None:
    """Return the batch size of a call: the first size of its first tensor that has any; None where none has."""
    return next((tensor.shape[0] for tensor in tensors if tensor.dim()), None)
