"""Why calls run as their user wrote them, and until when: no capture is tried while the Python state behind it holds.

What cannot be captured in one state of the model may be in another: a mode that the loop sets, an architecture that is
there at last. And a value that is another at nearly every call, a sampled architecture say, is not worth its captures:
that is seen by programs that never ran again.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from toponas_fx.capture.guards import Change, StateGuards
from toponas_fx.errors import PassError
from toponas_fx.module_tree.index import TreeIndex
from toponas_fx.runtime.call import Call
from toponas_fx.runtime.program import Program

LOST = 3
"""Programs in turn that never ran again because of one value, before no more are made for it."""
WORTH = 20
"""Calls with one value of those that keep changing, before that value gets a capture."""
SETTLED = 32
"""Calls in turn that ran as written, after which it is asked at one call in ``REST`` whether that is still so."""
REST = 8
_REMEMBERED = 64
_KEPT = 8


@dataclass
class Refusal:
    """One reason to run as written.

    Attributes:
        reason: why, with the user's file and line.
        guards: the Python state that it holds in; None where it holds for good.
        changing: the key of the value that keeps changing, if that is the reason.
        seen: how often each value of that was met; None where a capture would gain nothing.
        was_reused: True once it held for another call.
    """

    reason: str
    guards: StateGuards | None
    changing: tuple[Any, ...] | None = None
    seen: dict[Any, int] | None = None
    was_reused: bool = False

    def holds(self, tree: TreeIndex, given: Sequence[float]) -> bool:
        """Return whether a call in the present state, given some floats, runs as written."""
        if self.guards is not None and (self.guards.first_value(tree, given) is not None or self._comes_back(tree)):
            return False
        self.was_reused = True
        return True

    def _comes_back(self, tree: TreeIndex) -> bool:
        if self.seen is None or self.changing is None or self.guards is None:
            return False
        value = self.guards.value_of(self.changing, tree)
        count = self.seen.pop(value, 0) + 1
        if count > WORTH:
            return True
        self.seen[value] = count
        if len(self.seen) > _REMEMBERED:
            del self.seen[next(iter(self.seen))]
        return False


@dataclass
class Refusals:
    """The refusals of one model.

    Attributes:
        by_call: for the fixed part of a call's key, those that were met, the last first.
        changing: the keys of values that keep changing, whatever the call.
        in_turn: for the fixed part of a call's key, the calls that ran as written since a program last did.
    """

    by_call: dict[tuple[Any, ...], list[Refusal]] = field(default_factory=dict)
    changing: set[tuple[Any, ...]] = field(default_factory=set)
    in_turn: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def rests(self, call: Call) -> bool:
        """Return whether a call runs as written without another look: what its user wrote is right in any state.

        It is looked at often enough that a state in which a program can run is soon found.
        """
        count = self.in_turn.get(call.fixed, 0)
        if count < SETTLED or count % REST == 0:
            return False
        if any(refusal.seen is not None for refusal in self.by_call.get(call.fixed, ())):
            return False  # it counts how often a value comes back
        self.in_turn[call.fixed] = count + 1
        return True

    def copy(self) -> Refusals:
        """Return an independent copy of the lists."""
        return Refusals({key: list(found) for key, found in self.by_call.items()}, set(self.changing))

    def hold(self, call: Call, tree: TreeIndex) -> bool:
        """Return whether a call runs as written."""
        holds = any(refusal.holds(tree, call.numbers) for refusal in self.by_call.get(call.fixed, ()))
        if holds:
            self.in_turn[call.fixed] = self.in_turn.get(call.fixed, 0) + 1
        else:
            self.in_turn.pop(call.fixed, None)
        return holds


def refuse_failed(state: Any, call: Call, error: PassError, guards: StateGuards) -> None:
    """Let a call run as written since a pass failed that cannot be left out, and say so: the fault is none of its."""
    reason = f"{error.short}; please report it, strict=True raises here"
    if state.report is None:
        warnings.warn(f"{state.user_class.__name__} runs as its user wrote it: {reason}", stacklevel=2)
    refuse(state, call, reason, guards, is_loss=True)


def refuse(
    state: Any, call: Call, reason: str, guards: StateGuards | None, *, is_loss: bool | None = None, **details: Any
) -> None:
    """Let a kind of call run as written, while the Python state that was read holds; for good where that is None.

    Args:
        state: the model's state.
        call: the call.
        reason: why.
        guards: what the run that showed it had read.
        is_loss: whether it deserves a warning; found out where None.
        **details: further attributes of the ``Refusal``.
    """
    own = None if guards is None else guards.choosing(details.get("changing"))
    others = state.refusals.by_call.get(call.fixed, [])
    state.refusals.by_call[call.fixed] = [Refusal(reason, own, **details), *others][:_KEPT]
    programs = [program for program in state.programs if program.fixed == call.fixed]
    if guards is None:
        state.programs = [p for p in state.programs if not (p.has_guards and p.fixed == call.fixed)]
    if is_loss is None:
        has_mixtures = any(program.has_mixtures for program in programs)
        is_loss = details.get("seen") is not None if "changing" in details else has_mixtures
    tell(state, call, reason, is_loss)


def tell(state: Any, call: Call, reason: str, is_loss: bool) -> None:
    """Say once why a kind of call runs as written: in the report, and in a warning where mixed operations are lost."""
    is_told = reason in state.as_written.values()
    state.as_written[call.kind] = reason
    if state.report is None or is_told:
        return
    note = f"runs as its user wrote it in a later call: {reason}"
    if note in state.report.notes:
        return
    state.report = dataclasses.replace(state.report, notes=(*state.report.notes, note))
    if is_loss:
        warnings.warn(f"{state.user_class.__name__} {note}", stacklevel=2)


def keeps_changing(state: Any, call: Call, tree: TreeIndex) -> bool:
    """Refuse a call for a value that changed again and again before what was captured for it could run twice.

    Returns:
        True where that was so: the call runs as written.
    """
    attempts: list[Program | Refusal] = [program for program in state.programs if program.fixed == call.fixed]
    attempts += state.refusals.by_call.get(call.fixed, [])
    lost: dict[Any, list[tuple[Program | Refusal, Change]]] = {}
    for attempt in attempts:
        change = (
            None if attempt.was_reused or attempt.guards is None else attempt.guards.first_value(tree, call.numbers)
        )
        if change is not None:
            lost.setdefault(change.key, []).append((attempt, change))
    for key, found in lost.items():
        few = LOST if not state.kept.is_open(call.fixed, key) else 2 * LOST  # it may be a choice
        if len(found) >= (1 if key in state.refusals.changing else few):
            _give_up(state, call, *zip(*found, strict=True))
            return True
    return False


def changing_value(state: Any, guards: StateGuards) -> tuple[Any, ...] | None:
    """Return the key of a value that a run read and that keeps changing, or None."""
    return next((key for key in guards.attributes if key in state.refusals.changing), None)


def _give_up(state: Any, call: Call, attempts: Sequence[Program | Refusal], changes: Sequence[Change]) -> None:
    latest, change = attempts[0], changes[0]
    reason = change_reason(change, state.kept.why_not(change.key))
    if isinstance(latest, Refusal):
        reason = latest.reason
    gains = any(isinstance(attempt, Program) and attempt.has_mixtures is not False for attempt in attempts)
    gone = set(map(id, attempts))
    state.refusals.changing.add(change.key)
    state.programs = [program for program in state.programs if id(program) not in gone]
    others = state.refusals.by_call.get(call.fixed, [])
    state.refusals.by_call[call.fixed] = [refusal for refusal in others if id(refusal) not in gone]
    assert latest.guards is not None
    guards = latest.guards if gains else latest.guards.modes()
    refuse(state, call, reason, guards, changing=change.key, seen={} if gains else None)


def change_reason(change: Change, why_no_choice: str = "") -> str:
    """Say that a value changes too often, and what to do about it; and why it is no choice, if that was tried."""
    place = f"{change.where}: " if change.where else ""
    advice = "keep a number in a tensor of the model, which is read afresh; one sampled path has nothing to merge"
    told = f"{place}{change.name} keeps changing from call to call, and each change costs a capture"
    return f"{told}, for it is no choice: {why_no_choice}" if why_no_choice else f"{told} ({advice})"
