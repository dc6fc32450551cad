"""From one call of a model to the program that runs it: capture, then the passes."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from types import MethodType
from typing import Any

from torch import fx

from toponas_fx.analysis.arms import selects
from toponas_fx.capture.expressions import Given, Numbers, Read, present
from toponas_fx.capture.inputs import Inputs
from toponas_fx.capture.path_sampling import record_call
from toponas_fx.capture.small_batches import SECOND, Recording, capture_small
from toponas_fx.compiling.decide_sharing import (
    LateDecision,
    deciding,
    detection,
    may_decide,
    may_report,
    mixes,
    shares_drawn,
)
from toponas_fx.compiling.fail_open import leave_out, run_open
from toponas_fx.errors import CaptureError, PassError, PreconditionError, ToponasError
from toponas_fx.module_tree.index import TreeIndex
from toponas_fx.module_tree.isolation import collector_off
from toponas_fx.passes import DetectMixedOps
from toponas_fx.progress import progress
from toponas_fx.rewriting.pass_base import Pass
from toponas_fx.rewriting.pipeline import Observer, Passes, PassRecord
from toponas_fx.runtime.call import Call
from toponas_fx.runtime.program import Program
from toponas_fx.runtime.refusals import change_reason, changing_value, refuse, refuse_failed, tell
from toponas_fx.runtime.state import State

_log = logging.getLogger("toponas_fx")
MAX_CAPTURES = 8
"""Captures that any kind of call may cost at first."""
RUNS_PER_CAPTURE = 20
"""One more may follow for so many runs of programs: a temperature that is set anew every epoch is worth it."""
COST_OF_KNOWN = 0.25
"""What a capture counts that took a path known already, for another size of the inputs say."""
FREQUENT = 4
"""Captures of one kind of call after which each further one is a warning in the log."""
_TOO_MANY = (
    "what it computes keeps changing, and each change costs a capture; others are compiled as soon as those that are "
    "known have run often enough"
)
_INTEGERS = "; an integer among forward's arguments that is another at each call is best given as a float or a tensor"
MAX_PROGRAMS = 16
"""Programs kept, those that ran last."""


def affords(state: State, call: Call) -> bool:
    """Return whether a kind of call may cost one more capture; as programs run, it may again."""
    if state.audits.reason is not None:
        refuse(state, call, state.audits.reason, None, is_loss=False)
        return False
    if state.captures.get(call.kind, 0.0) + 1 <= MAX_CAPTURES + state.runs // RUNS_PER_CAPTURE:
        return True
    state.programs = [program for program in state.programs if not (program.has_guards and program.fixed == call.fixed)]
    reason = _TOO_MANY + (_INTEGERS if call.integers else "")
    tell(state, call, reason, is_loss=any(p.has_mixtures for p in state.programs if p.kind == call.kind))
    return False


def compile_call(fast: fx.GraphModule, state: State, call: Call, args: Any, kwargs: Any) -> Program | None:
    """Capture a call that no program holds for, and add what it gives to the model's programs.

    Returns:
        A program for the call; None where the user's forward runs as written, with the reason in ``state.as_written``.
    """
    start, why = time.perf_counter(), _why_captured(state, call, state.tree(fast))
    with collector_off(), progress(f"{state.user_class.__name__} is captured again, {why}"):
        try:
            program = _compile_call(fast, state, call, args, kwargs)
        except ToponasError:
            raise
        except Exception as error:  # forward's own: run as written, it raises it again, and leaves what it did by then
            _log.warning("%s: a capture ended in %s: %s", state.user_class.__name__, type(error).__name__, error)
            return None
        finally:
            state.audits.rest()
    told = _log.warning if state.captures.get(call.kind, 0.0) > FREQUENT else _log.info
    told("%s was captured again, %s: %.1f s", state.user_class.__name__, why, time.perf_counter() - start)
    return program


def _why_captured(state: State, call: Call, tree: TreeIndex) -> str:
    """Return what is new about a call that no program holds for."""
    alike = [program for program in state.programs if program.fixed == call.fixed]
    changes = [program.first_change(tree, call.numbers) for program in alike if program.accepts(call)]
    if None in changes:
        return "for other values of what Python reads from data, or another candidate than those recorded"
    refused = [refusal.guards for refusal in state.refusals.by_call.get(call.fixed, ())]
    changes += [guards.first_value(tree, call.numbers) for guards in refused if guards is not None]
    if changes and changes[0] is not None:
        return f"since {changes[0].sentence}"
    return "for arguments of another size, or under other modes of torch" if alike else "for arguments of a new kind"


def _compile_call(fast: fx.GraphModule, state: State, call: Call, args: Any, kwargs: Any) -> Program | None:
    chooses = _may_choose(state, call)
    spent = state.captures.get(call.kind, 0.0)
    state.captures[call.kind] = spent + 1
    forward, inputs = MethodType(state.user_forward, fast), Inputs(args, kwargs)
    numbers = symbolic_numbers(state, call, state.tree(fast))
    state.kept.note_changes([p.guards for p in state.programs if p.fixed == call.fixed], state.tree(fast))
    kept = state.kept.may_choose(call.fixed, state.tree(fast))
    known = None
    if call.fixed not in state.batch_decides and not chooses and not kept:
        known = _known_path(fast, state, call, capture_small(fast, forward, inputs, SECOND, numbers))
    if known is None:
        try:
            at_its_own = call.fixed in state.batch_decides
            recorded = record_call(
                fast,
                forward,
                inputs,
                at_its_own=at_its_own,
                numbers=numbers,
                known=state.numbers,
                chooses=chooses,
                kept=kept,
            )
        except CaptureError as error:
            state.kept.note_in_vain(call.fixed, kept, str(error))
            refuse(state, call, str(error), error.guards)
            return None
        if recorded.is_whole:
            state.batch_decides.add(call.fixed)
        state.held_numbers |= recorded.held
        read = {one for one in kept if one.key in recorded.capture.guards.attributes}
        state.kept.note_in_vain(call.fixed, read.difference(recorded.capture.kept), recorded.why_not)
        if chooses:
            state.chosen[call.open.fixed] = recorded.capture.chooses
            call = call.open if recorded.capture.chooses else call
        known = _known_path(fast, state, call, recorded)
    if known is not None:
        state.captures[call.kind] = spent + COST_OF_KNOWN
        return known
    program = _build(fast, state, recorded, call)
    if program is None:
        return None
    changing = changing_value(state, program.guards)
    if changing is not None and program.has_mixtures is False:
        reason = change_reason(program.guards.named(changing), state.kept.why_not(changing))
        refuse(state, call, reason, program.guards.modes(), changing=changing)
        return None
    return add_program(state, program)


def _may_choose(state: State, call: Call) -> bool:
    """Return whether the integers that forward is given seem to be choices: they are others than before."""
    if not call.integers:
        return False
    met = state.chosen.setdefault(call.open.fixed, call.integers)
    return met is True or (met is not False and met != call.integers)


def symbolic_numbers(state: State, call: Call, tree: TreeIndex) -> Numbers:
    """Return the numbers that were seen to change, with their present values."""
    for program in state.programs:
        for source, values in (*program.guards.changed_numbers(tree), *program.other_numbers(call)):
            state.numbers.setdefault(source, values)
    read = present(tree, call.numbers)
    found = {}
    for source in state.numbers.keys() - state.held_numbers:
        if isinstance(source, Read) and (source.path, source.name) in state.refusals.changing:
            continue
        if isinstance(source, Given) and source.position >= len(call.numbers):
            continue
        if type(read(source)) is float:
            found[source] = read(source)
    return found


def _build(fast: fx.GraphModule, state: State, recorded: Recording, call: Call) -> Program | None:
    """Build a program for a later capture; it may decide what is shared, or be reported, where none did before."""
    is_sampled = bool(selects(recorded.capture.graph))
    decides, reports = may_decide(state.sharing, call), is_sampled and may_report(state, call)
    if not (decides or reports):
        return build_program(fast, recorded, call, state.passes)[0]
    late = LateDecision.before(fast, recorded.capture)
    program, records = build_program(fast, recorded, call, state.passes, detection(fast, state, recorded.capture))
    if program is not None and decides and (program.has_mixtures or (is_sampled and shares_drawn(state.passes))):
        late.hold(program.graph, records)
    elif program is not None and reports:
        late.report(program.graph, records)
    else:
        late.forget()
    return program


def build_program(
    fast: Any,
    recorded: Recording,
    call: Call,
    passes: Passes,
    observe: Observer | None = None,
    *,
    strict: bool | None = None,
) -> tuple[Program | None, list[PassRecord]]:
    """Run passes over a recorded graph and compile the result: first captures, later ones and tuning's alternatives.

    A pass that fails is left out, and from then on, unless it decides what the model is.

    Args:
        fast: the simplified model.
        recorded: the recorded call.
        call: the call that asked for it.
        passes: in order.
        observe: as for ``run_passes``.
        strict: whether a pass that fails is an error; as the model is where None.

    Returns:
        The program, and what the passes did; None and nothing where the call runs as written, which is said.

    Raises:
        PassError: a pass failed, where ``strict``.
        PreconditionError: a pass cannot run where it was put, in the first graphs of a model.
    """
    state: State = fast._toponas
    strict = state.is_strict if strict is None else strict
    captured = recorded.capture
    is_sampled = bool(selects(captured.graph))
    has_mixtures: list[bool] = []

    def look(pass_: Pass, gm: fx.GraphModule) -> None:
        if isinstance(pass_, DetectMixedOps):
            has_mixtures.append(mixes(gm.graph))
        if observe is not None:
            observe(pass_, gm)

    try:
        with deciding(state.sharing, call):
            made = run_open(fast, captured.graph, passes, look, strict=strict)
    except PreconditionError as error:
        if state.report is None:
            raise
        refuse(state, call, str(error), captured.guards)  # what was decided once cannot be kept in this capture
        return None, []
    except PassError as error:
        if strict:
            raise
        refuse_failed(state, call, error, captured.guards)
        return None, []
    leave_out(state, made.failures)
    captured.guards.layers = TreeIndex.of(fast).layers.values()  # the passes may have tied some
    found = any(has_mixtures) if has_mixtures else None
    found = found or None if is_sampled else found
    return Program(replace(captured, graph=made.graph), call, recorded.any_batch, has_mixtures=found), made.records


def _known_path(fast: fx.GraphModule, state: State, call: Call, recorded: Recording | None) -> Program | None:
    """Return a program that computes a recorded run too, though for another key or other plain values.

    A run at one small batch tells as much as two where the program was made of one at another, and used sizes alike.
    """
    if recorded is None or not recorded.capture.keeps_numbers:
        return None
    captured, tree = recorded.capture, state.tree(fast)
    for program in state.programs:
        is_any_batch = program.any_batch and program.sizes_used == captured.sizes_used
        if not (recorded.any_batch or is_any_batch or recorded.is_whole):
            continue
        if program.kept != captured.kept or not program.fingerprint.is_of(captured.fingerprint, tree):
            continue
        is_held = program.fixed == call.fixed and program.first_change(tree, call.numbers) is None
        if is_held and program.norms_agree(tree):
            program.extend(call, captured.guards, any_batch=not recorded.is_whole)
            return program
        in_training = (*call.fixed[:2], True, *call.fixed[3:])
        is_of_training = program.fixed == in_training != call.fixed and not program.draws
        if is_of_training and program.guards.agrees(captured.guards):
            twin = program.for_evaluation(call, captured.guards, any_batch=not recorded.is_whole)
            if twin.norms_agree(tree):
                state.shares_graphs = True
                return add_program(state, twin)
    return None


def add_program(state: State, program: Program) -> Program:
    """Add a program to a model's, the first to be asked; the one that was not used longest leaves."""
    if state.as_written.get(program.kind, "").startswith(_TOO_MANY):
        del state.as_written[program.kind]
    state.programs = [program, *state.programs][:MAX_PROGRAMS]  # another thread may be looking through the old list
    return program
