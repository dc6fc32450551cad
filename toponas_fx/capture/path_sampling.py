"""Recognizing models that sample another path at each step: a graph of one path would not outlive the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from toponas_fx import ops
from toponas_fx.analysis.effects import is_random
from toponas_fx.capture import Capture, capture
from toponas_fx.capture.inputs import Inputs
from toponas_fx.errors import CaptureError
from toponas_fx.module_tree.isolation import restored_generators

TRIALS = 3
"""Further runs that may show another path."""


def check_steady(fast: fx.GraphModule, forward: Callable[..., Any], inputs: Inputs, run: Capture) -> None:
    """Refuse a captured path that is one of many; the arguments are those of ``why_sampled``.

    Raises:
        CaptureError: each run samples another. It holds whatever the numbers of the model are: a temperature does not
            end it, a mode may.
    """
    reason = why_sampled(fast, forward, inputs, run)
    if reason is not None:
        error = CaptureError(reason)
        error.guards = run.guards.modes()
        raise error


def why_sampled(fast: fx.GraphModule, forward: Callable[..., Any], inputs: Inputs, run: Capture) -> str | None:
    """Return why a captured path is one of many, or None where it seems to stay.

    Only a model that reads a random draw to choose its path is run again, with other draws: a loop that draws until
    all is finite, or a weight that is left out when it is zero, takes the same path nearly always.

    Args:
        fast: the model.
        forward: its forward as the user wrote it, bound.
        inputs: what it was run with.
        run: the captured run.
    """
    where = _reads_a_draw(fast, run.graph)
    if where is None:
        return None
    for seed in range(TRIALS):
        with restored_generators():
            torch.manual_seed(seed)
            other = capture(fast, forward, *inputs, run.numbers)
        if other.fingerprint != run.fingerprint:
            return f"{where}: each run samples another path there, and one sampled path has nothing to merge"
    return None


def _reads_a_draw(fast: fx.GraphModule, graph: fx.Graph) -> str | None:
    """Return where forward reads a number that a random draw decides, or None."""
    drawn: set[fx.Node] = set()
    for node in graph.nodes:
        if is_random(fast, node) or any(parent in drawn for parent in node.all_input_nodes):
            drawn.add(node)
            if node.target is ops.guard:
                return str(node.meta.get("where", "")) or "forward"
    return None
