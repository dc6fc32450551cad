"""Measuring what a simplification saves, when somebody asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn

from toponas_fx.analysis.costs import Costs, flops, saved_bytes
from toponas_fx.capture.inputs import Inputs
from toponas_fx.module_tree.isolation import in_mode, no_trace
from toponas_fx.progress import progress, step
from toponas_fx.report.report import Report
from toponas_fx.runtime.state import State


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
    try:
        with progress(f"measuring {state.user_class.__name__}"), in_mode(fast, training=True):
            before = _measured(report.before, as_written, fast, inputs)
            step("the simplified model")
            after = _measured(report.after, fast, fast, inputs)
    except Exception as error:  # forward's own: the model was changed since, and a report is no place to learn of it
        note = f"not measured: forward fails on the example inputs now ({type(error).__name__}: {error})"
        return dataclasses.replace(report, notes=(*report.notes, note))
    finally:
        state.is_measuring = False
    return dataclasses.replace(report, before=before, after=after)


def _measured(costs: Costs, call: Callable[..., Any], model: nn.Module, inputs: Inputs) -> Costs:
    run = MethodType(
        lambda _: call(*inputs.args, **inputs.kwargs), model
    )  # a method, which tells whose buffers to keep
    plain = list(model.parameters())
    with no_trace(model):
        operations = flops(run)
    with no_trace(model):  # each from the same state: forward may write attributes
        return dataclasses.replace(costs, flops=operations, saved_bytes=saved_bytes(run, exclude=plain))
