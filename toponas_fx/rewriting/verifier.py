"""Checks that a graph is well formed; the pipeline runs them after every pass."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from toponas_fx.analysis.arms import why_astray
from toponas_fx.errors import VerificationError
from toponas_fx.ir.decisions import sharing_of
from toponas_fx.ir.printer import format_graph


@dataclass(frozen=True)
class Interface:
    """What no pass may change: the inputs, and the structure and types of the output."""

    inputs: tuple[str, ...]
    output: Any

    @classmethod
    def of(cls, graph: fx.Graph) -> Interface:
        """Read it off a graph."""
        inputs = tuple(str(node.target) for node in graph.nodes if node.op == "placeholder")
        output = next(node for node in graph.nodes if node.op == "output")
        return cls(inputs, fx.node.map_arg(output.args[0], lambda node: node.meta.get("type")))


def verify(gm: fx.GraphModule, interface: Interface) -> None:
    """Check a model's graph.

    Args:
        gm: the model.
        interface: its inputs and output before the first pass.

    Raises:
        VerificationError: nodes are out of order or foreign, a target does not resolve, the interface changed, or the
            tree is not tied as recorded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fx warns of plain-tensor attributes
        try:
            gm.graph.lint()
        except (RuntimeError, AssertionError) as error:
            raise VerificationError(f"the graph is not well formed: {error}") from error
    for node in gm.graph.nodes:
        _verify_target(gm, node)
        _verify_type(gm, node)
    verify_interface(gm, interface)
    astray = why_astray(gm.graph)
    if astray is not None:
        raise VerificationError(f"{astray[1]}:\n{format_graph(gm, around=astray[0])}")
    for removed, kept in sharing_of(gm).ties.items():
        if gm.get_submodule(removed) is not gm.get_submodule(kept):
            raise VerificationError(f"`{removed}` is recorded as tied to `{kept}` but is another module")


def verify_interface(gm: fx.GraphModule, interface: Interface) -> None:
    """Check a model's inputs and output alone: of a graph that no match was applied to.

    Raises:
        VerificationError: they changed.
    """
    found = Interface.of(gm.graph)
    if found != interface:
        raise VerificationError(f"inputs and output were {interface}, now they are {found}")


def _verify_target(gm: fx.GraphModule, node: fx.Node) -> None:
    if node.op not in ("call_module", "get_attr"):
        return
    owner, _, name = str(node.target).rpartition(".")
    try:
        value = getattr(gm.get_submodule(owner), name)
    except AttributeError as error:
        around = format_graph(gm, around=node)
        raise VerificationError(f"`{node.target}` does not exist in the model:\n{around}") from error
    if node.op == "call_module" and not isinstance(value, torch.nn.Module):
        raise VerificationError(f"`{node.target}` is called but is a {type(value).__name__}")


def _verify_type(gm: fx.GraphModule, node: fx.Node) -> None:
    known = node.meta.get("type")
    if node.op != "get_attr" or known is None:
        return
    owner, _, name = str(node.target).rpartition(".")
    value = getattr(gm.get_submodule(owner), name)
    if isinstance(value, Tensor) and tuple(value.shape) != known.shape:
        raise VerificationError(f"`{node.target}` has the shape {tuple(value.shape)}, its node says {known}")
