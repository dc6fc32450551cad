"""Weighted sums over stacked tensors: reading ``sum``, ``mean``, ``einsum``, ``tensordot`` and ``matmul``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from toponas_fx.analysis.stacked_terms import Stacked, is_axis, read_stacked, shape_of


def read_reduction(root: fx.Node) -> tuple[Stacked, float] | None:
    """Read a node as a reduction over a stack, and what the sum is multiplied by; None for anything else."""
    if root.target in ("sum", "mean", torch.sum, torch.mean):
        found = _reduced(root)
        is_mean = found is not None and root.target in ("mean", torch.mean)
        number = 1 / len(found.terms) if is_mean and found is not None else 1.0
    else:
        found, number = _contracted(root), 1.0
    return (found, number) if found is not None and found.terms else None


def _reduced(root: fx.Node) -> Stacked | None:
    """Read ``S.sum(axis)``."""
    known = {"input": root.kwargs.get("input"), "dim": root.kwargs.get("dim")}
    if set(root.kwargs) - set(known):
        return None  # keepdim, dtype, out
    known.update(zip(("input", "dim"), root.args, strict=False))
    if len(root.args) > 2 or not isinstance(known["input"], fx.Node):
        return None
    axis = known["dim"]
    if isinstance(axis, tuple | list) and len(axis) == 1:
        axis = axis[0]
    found = read_stacked(known["input"])
    return found if found is not None and is_axis(axis, found, known["input"]) else None


def _contracted(root: fx.Node) -> Stacked | None:
    """Read ``einsum``, ``tensordot`` or ``matmul`` of a stack and a vector."""
    read = _READERS.get(root.target)
    pair = read(root) if read is not None else None
    if pair is None:
        return None
    operands, axes = pair
    for position, node in enumerate(operands):
        vector = operands[1 - position]
        found = read_stacked(node)
        is_vector = isinstance(vector, fx.Node) and len(shape_of(vector)) == 1
        if found is not None and is_vector and is_axis(axes[position], found, node):
            return Stacked(found.terms, found.axis, (*found.factors, vector), found.nodes)
    return None


def _einsum(root: fx.Node) -> tuple[Sequence[Any], tuple[Any, Any]] | None:
    """Read the two operands and the one index that is summed over; the rest keeps its order."""
    equation, *operands = root.args
    if len(operands) == 1 and isinstance(operands[0], tuple | list):
        operands = list(operands[0])
    if not isinstance(equation, str) or len(operands) != 2:
        return None
    inputs, arrow, output = equation.replace(" ", "").replace("...", ".").partition("->")
    left, comma, right = inputs.partition(",")
    if not arrow or not comma:
        return None
    for vector, other in ((left, right), (right, left)):
        is_plain = len(vector) == 1 and vector != "." and len(set(other)) == len(other)
        if is_plain and vector in other and other.replace(vector, "") == output:
            at = other.index(vector)
            axis = at - len(other) if "." in other[:at] else at
            return operands, (0, axis) if other is right else (axis, 0)
    return None


def _tensordot(root: fx.Node) -> tuple[Sequence[Any], tuple[Any, Any]] | None:
    left, right = root.args[:2] if len(root.args) > 1 else (None, None)
    dims = root.kwargs.get("dims", root.args[2] if len(root.args) > 2 else 2)
    if dims == 1:
        return (left, right), (-1, 0)
    if isinstance(dims, tuple | list) and [len(axes) for axes in dims if isinstance(axes, tuple | list)] == [1, 1]:
        return (left, right), (dims[0][0], dims[1][0])
    return None


def _matmul(root: fx.Node) -> tuple[Sequence[Any], tuple[Any, Any]] | None:
    left, right = root.args if len(root.args) == 2 else (None, None)
    is_plain = isinstance(left, fx.Node) and isinstance(right, fx.Node) and len(shape_of(right)) == 1
    return ((left, right), (-1, 0)) if is_plain else None  # a vector times a stack sums over its last axis but one


_READERS: dict[Any, Any] = {
    torch.einsum: _einsum,
    torch.functional.einsum: _einsum,
    torch.tensordot: _tensordot,
    "matmul": _matmul,
    torch.matmul: _matmul,
}
