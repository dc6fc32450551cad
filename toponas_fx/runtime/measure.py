"""Measuring what a simplification saves, when somebody asks.

Steps of a model that draws its path differ. FLOPs are counted node by node then, with all candidates computed, each as
often as it runs on average over uniform draws; bytes saved are the mean of a few steps, with the same seeds before and
after.
"""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from toponas_fx import ops
from toponas_fx.analysis.arms import chances
from toponas_fx.analysis.costs import Costs, flops, saved_bytes
from toponas_fx.capture.inputs import Inputs
from toponas_fx.ir.serialization import load_graph
from toponas_fx.module_tree.isolation import in_mode, no_trace
from toponas_fx.progress import progress, step
from toponas_fx.report.report import Report
from toponas_fx.runtime.call import Call
from toponas_fx.runtime.state import State

STEPS = 5
"""Whose bytes are averaged, of a model that draws its path."""


def measured_report(fast: nn.Module, state: State, inputs: Inputs) -> Report:
    """Return a model's report with FLOPs of the forward pass and bytes saved for backward, before and after.

    Args:
        fast: the simplified model; it is run in training mode and left as it was.
        state: its state.
        inputs: the example inputs of ``simplify``.
    """
    report: Report = state.report
    as_written = MethodType(state.user_forward, fast)
    state.is_measuring = True
    old, new = _graphs(state)
    try:
        with progress(f"measuring {state.user_class.__name__}"), in_mode(fast, training=True):
            before = _measured(report.before, as_written, fast, inputs, old, state)
            step("the simplified model")
            after = _measured(report.after, fast, fast, inputs, new, state)
    except Exception as error:  # forward's own: the model was changed since, and a report is no place to learn of it
        note = f"not measured: forward fails on the example inputs now ({type(error).__name__}: {error})"
        return dataclasses.replace(report, notes=(*report.notes, note))
    finally:
        state.is_measuring = False
    return dataclasses.replace(report, before=before, after=after)


def _graphs(state: State) -> tuple[fx.Graph | None, fx.Graph | None]:
    """Return the graphs with all paths, as they were captured and as they are now, of a model that draws one."""
    if state.paths is None:
        return None, None
    (rows, program), state.paths = state.paths, None
    return load_graph(rows), program.graph


def _measured(
    costs: Costs, call: Callable[..., Any], model: nn.Module, inputs: Inputs, graph: fx.Graph | None, state: State
) -> Costs:
    def run(_: nn.Module, seed: int | None = None) -> Any:
        if seed is not None:
            _seed(seed)
        return call(*inputs.args, **inputs.kwargs)

    method = MethodType(run, model)  # a method, which tells whose buffers to keep
    plain = list(model.parameters())
    with no_trace(model):
        operations = flops(method) if graph is None else flops_of_paths(model, graph, inputs)
    bytes_ = []
    for seed in [None] if graph is None else range(STEPS):
        with no_trace(model):  # each from the same state: forward may write attributes
            bytes_.append(saved_bytes(method, seed, exclude=plain))
    return dataclasses.replace(costs, flops=operations, saved_bytes=round(sum(bytes_) / len(bytes_)))


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)


def flops_of_paths(model: nn.Module, graph: fx.Graph, inputs: Inputs) -> int:
    """Count the FLOPs of a forward pass, on average over uniform draws."""
    call = Call.of(inputs.args, inputs.kwargs, training=True)
    given = len([node for node in graph.nodes if node.op == "placeholder"]) - len(call.tensors)
    numbers = (*call.numbers, *call.integers)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        runner = _Counted(model, graph, counter)
        runner.run(*call.tensors, *numbers[len(numbers) - given :])
    return round(runner.total)


class _Counted(fx.Interpreter):
    """Runs all nodes of a graph, whatever the guards say, and counts each as often as it runs on average.

    Attributes:
        total: the FLOPs.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, counter: FlopCounterMode) -> None:
        super().__init__(model, graph=graph)
        self.total = 0.0
        self._counter, self._chances = counter, chances(graph)

    def run_node(self, n: fx.Node) -> Any:
        if n.target is ops.guard:
            return None
        before = self._counter.get_total_flops()
        value = super().run_node(n)
        self.total += (self._counter.get_total_flops() - before) * self._chances.get(n, 1)
        return value
