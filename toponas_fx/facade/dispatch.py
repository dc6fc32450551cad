"""One call of a simplified model: find the program that holds for it, run that, undo a run that fails half way.

``torch.compile`` sees programs alone. Which of them holds is asked in plain Python at each call, outside of what dynamo
compiles, so that no Python state can be frozen into compiled code; the one that does is a plain function of the model
and its inputs, which compiles as a whole.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._dynamo.eval_frame import skip_code

from toponas_fx.capture.alone import alone
from toponas_fx.compiling.compiler import affords, compile_call
from toponas_fx.errors import GuardFailure
from toponas_fx.module_tree.tensor_paths import model_tensors
from toponas_fx.runtime.auditing import is_outdated
from toponas_fx.runtime.call import Call
from toponas_fx.runtime.normalized_layers import normalized_kernels
from toponas_fx.runtime.program import Program
from toponas_fx.runtime.refusals import keeps_changing
from toponas_fx.runtime.state import State

_REASON = "toponas_fx asks at each call which graph holds; compile the simplified model itself"
_Ready = tuple[Program, tuple[Any, ...]]
"""A program, and what to run it with."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _outside(function: _Function) -> _Function:
    """Let a function run in plain Python even where its caller is being compiled, and all that it calls."""
    alone: _Function = torch.compiler.disable(function, reason=_REASON)  # type: ignore[no-untyped-call]
    return alone


def forward_of(user_forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return the ``forward`` of a simplified class, with the signature of the user's.

    dynamo passes over its frame and that of ``run_call``, and compiles the program that they run. Asked to trace
    through them, from a compiled function that calls the model, it breaks the graph, or says why it cannot where it
    must not break. ``torch.export`` records what one call does.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _run_call(self, *args, **kwargs) if torch.compiler.is_exporting() else run_call(self, *args, **kwargs)

    skip_code(forward.__code__)
    return functools.wraps(user_forward)(forward)


def _run_call(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Run the program of a simplified model that holds for this call; capture where none does."""
    call, programs = _search(model, args, kwargs)
    while (found := _next(programs)) is not None:
        program, inputs = found
        saved = _snapshot(model, call.tensors, program) if program.has_guards else None
        try:
            result = program.run(model, *inputs)
        except BaseException as error:
            torch._C._set_grad_enabled(call.key[4])  # the graph may have switched it off, and on again further down
            if not isinstance(error, GuardFailure):
                raise
            _put_back(model, saved)
        else:
            return _written(model, program, result) if program.writes else result
    state: State = vars(model)["_toponas"]
    if state.sharing.kernels:  # swapped in for the call, which compiled code would not see
        return _run_normalized(model, args, kwargs)
    return state.user_forward(model, *args, **kwargs)


run_call = torch.compiler.disable(_run_call, recursive=False, reason=_REASON)  # type: ignore[no-untyped-call]
"""The same, for forward: dynamo leaves its frame alone and compiles the program that it runs."""


@_outside
@alone
def _search(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, Iterator[_Ready]]:
    call = Call.of(args, kwargs, model.training)
    if call.integers and vars(model)["_toponas"].chosen.get(call.open.fixed) is True:
        call = call.open
    return call, _programs_for(model, call, args, kwargs)


def _programs_for(model: Any, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[_Ready]:
    """Yield the programs that hold as far as Python state tells; the last is of a capture made now."""
    state: State = vars(model)["_toponas"]
    if not state.sharing.kernels and state.refusals.rests(call):
        return
    tree = state.tree(model)
    for program in state.programs:
        if program.accepts(call) and program.first_change(tree, call.numbers) is None and program.norms_agree(tree):
            if not program.takes(call):
                return  # no path that was recorded: what the user wrote says what it is
            inputs = program.inputs(call, tree)
            if inputs is None:  # a candidate that was not recorded
                continue
            if state.audits.due(program, state.programs) and is_outdated(model, state, program, call, args, kwargs):
                break
            state.used(program)
            state.refusals.in_turn.clear()
            yield program, inputs
    if state.is_measuring:
        return
    if not state.refusals.hold(call, tree) and not keeps_changing(state, call, tree) and affords(state, call):
        fresh = compile_call(model, state, call, args, kwargs)
        inputs = None if fresh is None else fresh.inputs(call, state.tree(model))
        if fresh is not None and inputs is not None:  # it may fail too: what it reads may differ between two runs
            state.runs += 1
            yield fresh, inputs


@_outside
@alone
def _next(programs: Iterator[_Ready]) -> _Ready | None:
    return next(programs, None)


@_outside
def _written(model: nn.Module, program: Program, result: Any) -> Any:
    """Set the attributes that forward writes; return what it returns."""
    returned, values = result
    for (path, name), value in zip(program.writes, values, strict=True):
        object.__setattr__(model.get_submodule(path), name, value)
    return returned


@_outside
@alone
def _run_normalized(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    state: State = vars(model)["_toponas"]
    with normalized_kernels(model, state.sharing):
        return state.user_forward(model, *args, **kwargs)


_Snapshot = tuple[list[tuple[Tensor, Tensor]], Tensor, list[Tensor], Any]


@_outside
def _snapshot(model: nn.Module, inputs: tuple[Tensor, ...], program: Program) -> _Snapshot:
    """Return the values of generators and of what a program may have written when a guard fails."""
    held: list[Tensor] = []
    if not program.guards_lead:
        held += model.buffers()
        if program.has_writes:
            held += [*inputs, *(tensor for _, tensor in model_tensors(model))]
    saved = [(tensor, tensor.detach().clone()) for tensor in held]
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return saved, torch.get_rng_state(), on_devices, random.getstate() if program.draws_in_python else None


@_outside
def _put_back(model: nn.Module, snapshot: _Snapshot | None) -> None:
    assert snapshot is not None, "only a graph with guards fails one"
    vars(model)["_toponas"].runs -= 1  # half a run is none
    saved, generator, on_devices, in_python = snapshot
    torch.set_rng_state(generator)
    if in_python is not None:
        random.setstate(in_python)
    if on_devices:
        torch.cuda.set_rng_state_all(on_devices)
    for tensor, value in saved:
        if not torch.equal(tensor, value):
            tensor.data.copy_(value)
