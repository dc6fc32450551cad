"""Copies of a model in float64, so that what is compared with what does not hang on rounding."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from toponas_fx.capture.inputs import Inputs
from toponas_fx.errors import ArgumentError, InputError
from toponas_fx.module_tree.isolation import no_trace
from toponas_fx.module_tree.tensor_paths import model_tensors

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Relative errors that pass for equal; several roundings of each type, far below any wrong term."""
COARSE_TOLERANCE = 5e-2
"""That of float16, bfloat16 and whatever else a forward may compute in."""


@dataclass(frozen=True)
class Subject:
    """What is checked: a copy of the user's model, its inputs, and how far its numbers can be trusted.

    Attributes:
        model: the copy.
        inputs: forward's arguments.
        dtype: the type that its tensors have.
        tolerance: the relative error that passes for equal.
        reason: why it is not float64; empty where it is.
    """

    model: nn.Module
    inputs: Inputs
    dtype: torch.dtype
    tolerance: float
    reason: str = ""


def subject_of(model: nn.Module, inputs: Inputs) -> Subject:
    """Return a copy of a model in float64; in its own type where its forward cannot run in float64.

    Args:
        model: the user's model; not changed.
        inputs: forward's arguments, tensors or not.

    Raises:
        ArgumentError: the model cannot be copied.
        InputError: its forward fails on the inputs in its own type as well.
    """
    own = copied(model)
    failure = _failure(own, inputs)
    if failure is not None:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))
        raise InputError(f"forward fails on inputs of shape {shapes}: {describe(failure)}") from failure
    double, doubled = copied(model), pytree.tree_map_only(Tensor, _doubled, inputs)
    double.double()
    for _, tensor in model_tensors(double):
        tensor.data = _doubled(tensor.data)
    with default_dtype(torch.float64):
        failure = _failure(double, doubled)
    if failure is None:
        return Subject(double, doubled, torch.float64, TOLERANCES[torch.float64])
    dtypes = [tensor.dtype for _, tensor in model_tensors(own) if tensor.is_floating_point()]
    dtype = min(dtypes, key=lambda kind: torch.finfo(kind).bits, default=torch.float32)
    return Subject(own, inputs, dtype, tolerance_of(dtype), f"forward cannot run in float64: {describe(failure)}")


def tolerance_of(dtype: torch.dtype) -> float:
    """Return the relative error that passes for equal in a type."""
    return TOLERANCES.get(dtype, COARSE_TOLERANCE)


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy.

    Raises:
        ArgumentError: something in the model cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever an attribute's own __deepcopy__ raises
        raise ArgumentError(f"{type(model).__name__} cannot be copied by copy.deepcopy: {describe(error)}") from error


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let tensors that forward makes have a type unless it names another."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype if dtype in (torch.float32, torch.float64) else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def describe(error: BaseException) -> str:
    """Write an error in one line, with the last line of code outside of torch that it went through."""
    text = " ".join(str(error).split()) or "no message"
    where, trace = "", error.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", "")).split(".")[0]
        if module not in ("torch", "toponas_fx", "importlib"):
            where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}: "
        trace = trace.tb_next
    return f"{where}{type(error).__name__}: {text}"


def _failure(model: nn.Module, inputs: Inputs) -> Exception | None:
    """Return what forward and its backward pass raise in training or evaluation, or None."""
    for training in (True, False):
        model.train(training)
        try:
            with no_trace(model):
                args, kwargs = pytree.tree_map_only(Tensor, torch.clone, inputs)
                output = model(*args, **kwargs)
                leaves = [
                    leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad
                ]
                wanted = [p for p in model.parameters() if p.requires_grad]
                if leaves and wanted:
                    torch.autograd.grad(leaves, wanted, [torch.ones_like(leaf) for leaf in leaves], allow_unused=True)
        except Exception as error:
            return error
    return None


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
