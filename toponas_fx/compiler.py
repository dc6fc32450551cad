"""From one call of a model to the program that runs it: capture, then the passes."""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import fx

from toponas_fx.capture import Capture, capture
from toponas_fx.errors import CaptureError, PreconditionError
from toponas_fx.pipeline import Observer, PassRecord, run_passes
from toponas_fx.program import Call, Program
from toponas_fx.state import State

MAX_CAPTURES = 8
"""Captures that any kind of call may cost at first."""
RUNS_PER_CAPTURE = 20
"""One more may follow for so many runs of programs: a temperature that is set anew every epoch is worth it."""
COST_OF_KNOWN = 0.25
"""What a capture counts that took a path known already, for another size of the inputs say."""
MAX_PROGRAMS = 16
"""Programs kept, those that ran last."""


def compile_call(fast: fx.GraphModule, state: State, call: Call, args: Any, kwargs: Any) -> Program | None:
    """Capture a call that no program holds for, and add what it gives to the model's programs.

    Returns:
        A program for the call; None where the user's forward runs as written, with the reason in ``state.as_written``.
    """
    spent = state.captures.get(call.fixed, 0.0)
    if spent + 1 > MAX_CAPTURES + state.runs // RUNS_PER_CAPTURE:
        _leave_as_written(state, call, "what it computes keeps changing, and each change costs a capture")
        return None
    state.captures[call.fixed] = spent + 1
    try:
        captured = capture(fast, MethodType(state.user_forward, fast), args, kwargs)
    except CaptureError as error:
        _leave_as_written(state, call, str(error))
        return None
    known = _same_path(fast, state, captured, call)
    if known is not None:
        state.captures[call.fixed] = spent + COST_OF_KNOWN
        known.extend(call, captured.guards)
        return known
    try:
        program, _ = build_program(fast, state, captured, call)
    except PreconditionError as error:  # what was decided once cannot be kept in this capture
        _leave_as_written(state, call, str(error))
        return None
    state.programs.insert(0, program)
    del state.programs[MAX_PROGRAMS:]
    return program


def build_program(
    fast: fx.GraphModule,
    state: State,
    captured: Capture,
    call: Call,
    observe: Observer | None = None,
) -> tuple[Program, list[PassRecord]]:
    """Run the passes over a captured graph and compile the result."""
    state.working = captured.graph
    try:
        records = run_passes(fast, state.passes, observe)
    finally:
        state.working = None
    program = Program(captured.graph, captured.guards, captured.fingerprint, {call.key}, captured.entered)
    return program, records


def _same_path(fast: fx.GraphModule, state: State, captured: Capture, call: Call) -> Program | None:
    """Return a program whose captured run took the same path, though for another key or other plain values."""
    tree = state.tree(fast)
    for program in state.programs:
        is_alike = program.fixed == call.fixed and program.fingerprint == captured.fingerprint
        if is_alike and program.first_change(tree) is None:
            return program
    return None


def _leave_as_written(state: State, call: Call, reason: str) -> None:
    state.as_written[call.fixed] = reason
    state.programs = [p for p in state.programs if not (p.has_guards and p.fixed == call.fixed)]
