"""Audits: a call now and then records forward again before its program runs, and looks whether it still is the same.

Guards watch what is known to be read. What a forward reads otherwise (the memory of a C extension, a database, a frame)
is seen by its effect alone: the recorded graph is another than the one that the program came from. Then all programs of
the model are dropped, since all were recorded before, and the call is captured anew. The second time that forward
differs at one place the model is left as written.

A recording leaves nothing behind, and the call goes on with its program: where nothing is found, audits change nothing.
"""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from threading import get_ident
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from toponas_fx.analysis.effects import has_global_hooks
from toponas_fx.capture import capture
from toponas_fx.capture.expressions import present
from toponas_fx.capture.inputs import Inputs
from toponas_fx.capture.small_batches import FIRST, resized
from toponas_fx.errors import CaptureError, ForeignDrawError
from toponas_fx.progress import progress
from toponas_fx.runtime.call import Call
from toponas_fx.runtime.program import Program
from toponas_fx.runtime.refusals import refuse

SHARE = 0.01
"""Of the time that a model is in use, what audits may take."""
EARLY = 0.5
"""Seconds that audits of early calls may take on top of that."""


@dataclass
class Budget:
    """The time of a model and its copies, in seconds of the thread that calls them.

    Attributes:
        used: in which the model was in use, as far as no audit was made for it; below 0 where one took longer.
        early: left for audits of early calls.
        clock: when the last call began.
        thread: which calls; 0 before the first, None once there were several.
    """

    used: float = 0.0
    early: float = EARLY
    clock: float = 0.0
    thread: int | None = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave the clock of another process out."""
        return {**vars(self), "thread": 0}


@dataclass
class Audits:
    """When the programs of one model are audited, and what was found.

    Attributes:
        is_on: False where ``simplify`` was asked to make none.
        is_asked: True where something was loaded since the last call.
        found: the findings so far, by their place in the user's code.
        reason: why no more programs are made; None while they are.
        budget: that of the model and its copies.
    """

    is_on: bool = True
    is_asked: bool = False
    found: dict[str, int] = field(default_factory=dict)
    reason: str | None = None
    budget: Budget = field(default_factory=Budget)

    def due(self, program: Program, programs: Sequence[Program]) -> bool:
        """Note that a program is about to run, and tell whether an audit is due and within the budget.

        Early calls are the second, fourth, eighth ... of a program, the first after another one ran, and the first
        after ``load_state_dict``.

        Args:
            program: it.
            programs: those of the model; first the one that ran last.
        """
        if not self.is_on:
            return False
        budget, now = self.budget, time.thread_time()
        if budget.thread != get_ident():
            if torch._C._current_graph_task_id() != -1:
                return False  # a backward pass on a device, which runs forward again
            budget.thread = get_ident() if budget.thread == 0 else None
            budget.clock = now
        budget.used += now - budget.clock
        budget.clock = now
        program.calls += 1
        if SHARE * budget.used >= program.seconds:
            return True
        if program.seconds > budget.early:
            return False
        count, is_asked, self.is_asked = program.calls, self.is_asked, False
        return is_asked or (program is not programs[0] and count > 1) or (count > 1 and count & (count - 1) == 0)

    def spent(self, program: Program, seconds: float) -> None:
        """Note what an audit of a program took."""
        budget = self.budget
        if SHARE * budget.used < program.seconds:
            budget.early -= seconds
        else:
            budget.used = min(0.0, budget.used - seconds / SHARE)
        program.seconds, program.audits = seconds, program.audits + 1
        self.rest()

    def rest(self) -> None:
        """Let the time since the last call began count as none of use."""
        self.budget.clock = time.thread_time()

    def copy(self) -> Audits:
        """Return those of a copy of the model: a search that makes one a step has one budget."""
        return dataclasses.replace(self, found=dict(self.found))


def is_outdated(fast: Any, state: Any, program: Program, call: Call, args: Any, kwargs: Any) -> bool:
    """Audit a program of a call that it holds for; where it is found to be outdated, say so and drop all programs.

    Returns:
        True where it was dropped: the call is to be captured anew.
    """
    if _is_prevented(fast, state, program):
        state.audits.budget.used = 0.0
        return False
    start = time.thread_time()
    with progress(f"{state.user_class.__name__} is audited"):
        found = finding(fast, state, program, call, args, kwargs)
        if found is not None and found != finding(fast, state, program, call, args, kwargs):
            found = None  # another thread was at work meanwhile
    state.audits.spent(program, time.thread_time() - start)
    if found is None:
        return False
    _drop(state, call, *found)
    return True


def _is_prevented(fast: nn.Module, state: Any, program: Program) -> bool:
    """Return whether a recording now might be noticed: by hooks, other threads or processes, or whatever looks on."""
    if state.report is None or state.is_measuring or state.audits.budget.thread is None:
        return True
    if program.guards.patched or has_global_hooks() or not program.fingerprint.steps:
        return True
    if torch._C._current_graph_task_id() != -1 or torch._C._functorch.peek_interpreter_stack() is not None:
        return True  # inside of a backward pass, or of a transform
    if is_in_torch_dispatch_mode() or torch.compiler.is_exporting():
        return True
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return True
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size() > 1
    first: Any = next(fast.parameters(), None)
    return first is not None and first.device.type == "cpu" and bool(first.is_shared())


def finding(fast: Any, state: Any, program: Program, call: Call, args: Any, kwargs: Any) -> tuple[str, str] | None:
    """Record the call of a program that holds for it, and compare.

    Returns:
        Where forward differs from what the program was made of, ``file:line`` of the user's code, and how; None where
        it does not, or where that cannot be told: other data were read, the recorded run failed.
    """
    forward, inputs, tree = MethodType(state.user_forward, fast), Inputs(args, kwargs), state.tree(fast)
    small = resized(inputs, FIRST) if program.any_batch else inputs
    if small is None:
        return None
    read = present(tree, call.numbers)
    numbers = {source: read(source) for source in program.numbers}
    forcing, expected = None, program.fingerprint
    if program.turns:
        turn = program.audits % len(program.turns)
        forcing, expected = program.domains.forcing(turn), program.turns[turn]
    try:
        with _unprinted():
            own = capture(fast, forward, *small, numbers, forcing)
    except ForeignDrawError:
        return None
    except CaptureError as error:
        return error.where, str(error).removeprefix(f"{error.where}: ")
    except Exception:  # forward's own, on a part of the batch: the call itself tells
        return None
    found = expected.first_difference(own.fingerprint, tree)
    if found is None or found.reads_data:
        return None
    return found.where, f"it computes `{found.now}`, the program `{found.was}`"


class _Unprinted:
    """A stream that one thread writes to in vain; all else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        """Take the stream; the thread is the present one."""
        self._stream, self._thread = stream, get_ident()

    def write(self, text: str) -> int:
        """Write, unless it is the thread's."""
        return len(text) if get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        """Look up what is the stream's."""
        return getattr(self._stream, name)


@contextmanager
def _unprinted() -> Iterator[None]:
    """Keep back what this thread prints: forward has been run for that once."""
    with redirect_stdout(_Unprinted(sys.stdout)), redirect_stderr(_Unprinted(sys.stderr)):
        yield


def audited(fast: Any, args: Any, kwargs: Any) -> tuple[str, str] | None:
    """Audit at once the program that holds for a call, where there is one; see ``finding``."""
    state, call = fast._toponas, Call.of(args, kwargs, fast.training)
    tree = state.tree(fast)
    for program in state.programs:
        own = call.open if program.chooses else call
        if program.accepts(own) and program.first_change(tree, own.numbers) is None:
            return finding(fast, state, program, own, args, kwargs)
    return None


def watched(fast: Any) -> tuple[str, ...]:
    """Return in words the Python state that the programs of a model are guarded by."""
    return tuple(dict.fromkeys(name for program in fast._toponas.programs for name in program.guards.watched()))


def _drop(state: Any, call: Call, where: str, what: str) -> None:
    audits = state.audits
    state.programs = []
    audits.found[where] = audits.found.get(where, 0) + 1
    place = f" at {where}" if where else ""
    if audits.found[where] > 1:
        audits.reason = f"{where or 'forward'}: what is read there changes, and cannot be watched"
        refuse(state, call, audits.reason, None, is_loss=True)
        return
    note = f"an audit found that forward had changed{place}: {what}; what was captured before is dropped"
    if state.report is not None:
        state.report = dataclasses.replace(state.report, notes=(*state.report.notes, note))
    warnings.warn(
        f"{state.user_class.__name__}: {note}. What it reads there cannot be watched, and results since the last audit "
        "may be stale: keep such a value in an attribute or a tensor of the model",
        stacklevel=2,
    )
