"""The inputs of a run: their names and tensors, and a guess where the user gave none."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from toponas_fx.errors import InputError

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


def input_leaves(labels: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors among a call's arguments, in pytree's order, each with a name of its own: an identifier."""
    names: set[str] = set()
    for path, leaf in pytree.tree_flatten_with_path((args, kwargs))[0]:
        if not isinstance(leaf, Tensor):
            continue
        steps: list[Any] = [getattr(step, "idx", getattr(step, "key", "item")) for step in path]
        words = [labels[steps[1]] if steps[0] == 0 else steps[1], *steps[2:]]
        name = "_".join(str(word) if f"x{word}".isidentifier() else "item" for word in words)
        while name in names:
            name += "_"
        names.add(name)
        yield name, leaf


def as_inputs(example_inputs: Any) -> tuple[Any, ...]:
    """Return example inputs as positional arguments.

    Args:
        example_inputs: one tensor, or a tuple or list of positional arguments.

    Raises:
        InputError: there is no tensor in it.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
    if not isinstance(inputs, tuple | list) or not any(isinstance(x, Tensor) for x in pytree.tree_leaves(inputs)):
        kind = type(example_inputs).__name__
        raise InputError(f"example_inputs must be one tensor or a tuple of forward's arguments, not {kind}")
    return tuple(inputs)


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
