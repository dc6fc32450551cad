"""Choose among exact alternatives by measuring them, in steps of the model itself on the device where it is.

What is shared was decided before and is not asked again: all alternatives compute the same function. Each question is
asked in turn, its answers against the best so far, in alternating steps of one process.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from toponas_fx.capture import capture
from toponas_fx.capture.inputs import Inputs
from toponas_fx.capture.small_batches import Recording
from toponas_fx.compiling.compiler import build_program
from toponas_fx.errors import PassError
from toponas_fx.ir.printer import format_graph
from toponas_fx.module_tree.isolation import in_mode, no_trace
from toponas_fx.passes import BatchKernels, ConvertLayout, LowerDepthwise, LowerPooling, MergeKernels
from toponas_fx.rewriting.pass_base import Pass, Repeat
from toponas_fx.runtime.call import Call
from toponas_fx.runtime.inspection import at_work
from toponas_fx.runtime.program import Program
from toponas_fx.runtime.simplified_module import SimplifiedModule
from toponas_fx.tuning.cache import Tuned, device_name, load_tuned, save_tuned
from toponas_fx.tuning.steps import Step

ROUNDS = 7
"""Pairs of steps that an answer is measured in; fewer where it loses clearly."""
WORTH = 0.97
"""What an answer's step must take of the best so far, in three pairs of four: more is a shared machine's noise."""
LOST = 1.05
"""An answer that takes as much of the best so far in each of the first three rounds has lost."""

Passes = tuple[Pass | Repeat, ...]


@dataclass(frozen=True)
class Answer:
    """One way to do what the static model decides from sizes.

    Attributes:
        text: question and answer.
        change: what it makes of the passes.
    """

    text: str
    change: Callable[[Passes], Passes]


def _option(kind: Any, **options: Any) -> Callable[[Passes], Passes]:
    def change(passes: Passes) -> Passes:
        return tuple(dataclasses.replace(entry, **options) if isinstance(entry, kind) else entry for entry in passes)

    return change


def _without(kind: Any) -> Callable[[Passes], Passes]:
    return lambda passes: tuple(entry for entry in passes if not isinstance(entry, kind))


ANSWERS = (
    Answer("images in channels-last layout", _option(ConvertLayout, layout=True)),
    Answer("images in the usual layout", _option(ConvertLayout, layout=False)),
    Answer("no kernels merged", _option(MergeKernels, slack=0.0)),
    Answer("kernels merged at up to twice their taps", _option(MergeKernels, slack=2.0)),
    Answer("each kernel's arithmetic by itself", _option(BatchKernels, largest=0)),
    Answer("the arithmetic of large kernels batched too", _option(BatchKernels, largest=2**62)),
    Answer("torch's backward pass of depthwise convolutions", _without(LowerDepthwise)),
    Answer("torch's average pooling", _without(LowerPooling)),
)


def tune(fast: SimplifiedModule, model: nn.Module, inputs: Inputs) -> Tuned:
    """Choose the passes of a simplified model, whose sharing is decided, and leave it with the program they make.

    Args:
        fast: the simplified model in training mode, its training program made.
        model: the model that it was made from.
        inputs: example inputs, of the size that the search will have.

    Returns:
        What was chosen, and what a step takes of the original's.

    Raises:
        CaptureError: another capture of the same inputs cannot be repeated.
        GuardFailure: a run of the same inputs reads something else from its data.
        PassError: a pass fails on the tied model, or on any alternative where the model is strict.
    """
    state = fast._toponas
    inputs = pytree.tree_map_only(Tensor, torch.clone, inputs)  # forward may write to them
    key = _key(fast, inputs)
    known = load_tuned(key)
    if known is not None:
        for answer in ANSWERS:
            if answer.text in known.chosen:
                state.passes = answer.change(state.passes)
        if known.chosen:
            state.programs[0] = _program(fast, state.passes, inputs)
        return known
    chosen: list[str] = []
    told: list[str] = []
    with no_trace(fast):
        state.programs[0] = _program(fast, state.passes, inputs)  # anew: the deciding capture was of untied modules
        for answer in ANSWERS:
            passes = answer.change(state.passes)
            if passes == state.passes:
                continue
            try:
                program = _program(fast, passes, inputs)
            except PassError as error:
                if state.is_strict:
                    raise
                told.append(f"{answer.text}: not taken, {error.short}")
                continue
            if program.code == state.programs[0].code:
                continue
            best = _step("the best so far", fast, state.programs[0], inputs)
            ratios = _ratios(_step(answer.text, fast, program, inputs), best)
            is_faster = sorted(ratios)[len(ratios) * 3 // 4] < WORTH
            chosen_or_not = ", chosen" if is_faster else ""
            told.append(f"{answer.text}: {statistics.median(ratios):.2f} of the step without{chosen_or_not}")
            if is_faster:
                state.passes, state.programs[0] = passes, program
                chosen.append(answer.text)
        with in_mode(model, training=True), no_trace(model):
            best = _step("the best", fast, state.programs[0], inputs)
            ratios = _ratios(best, Step("the original", lambda: model(*inputs.args, **inputs.kwargs), model))
    tuned = Tuned(tuple(chosen), tuple(told), statistics.median(ratios), _device(inputs))
    save_tuned(key, tuned)
    return tuned


def _program(fast: SimplifiedModule, passes: Passes, inputs: Inputs) -> Program:
    """Compile the training capture with other passes; a PassError where one of them fails."""
    captured = capture(fast, MethodType(fast._toponas.user_forward, fast), *inputs)
    recorded = Recording(captured, inputs, is_whole=True)
    program, _ = build_program(fast, recorded, Call.of(*inputs, fast.training), passes, strict=True)
    assert program is not None, "strict builds end in a program or an error"
    return program


def _key(fast: SimplifiedModule, inputs: Inputs) -> tuple[str, ...]:
    """Return what a choice depends on: device, threads, versions, the model's layers and sizes, the passes."""
    state = fast._toponas
    captured = capture(fast, MethodType(state.user_forward, fast), *inputs)
    graph = format_graph(at_work(fast, captured.graph))
    tensors = Call.of(*inputs, fast.training).tensors
    kinds = [f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in tensors]
    return (_device(inputs), *kinds, graph, repr(fast), repr(state.passes), state.programs[0].code)


def _device(inputs: Inputs) -> str:
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return device_name(tensors[0].device if tensors else torch.device("cpu"))


def _step(text: str, fast: SimplifiedModule, program: Program, inputs: Inputs) -> Step:
    given = program.inputs(Call.of(*inputs, fast.training), fast._toponas.tree(fast)) or ()
    return Step(text, lambda: program.run(fast, *given), fast)


def _ratios(step: Step, other: Step) -> list[float]:
    """Return what one step takes of another, pair by pair."""
    step.run(), other.run()
    ratios: list[float] = []
    for number in range(ROUNDS):
        seconds = step.run() if number % 2 == 0 else None  # backwards every other round: caches, and the heap
        of_other = other.run()
        ratios.append((seconds or step.run()) / of_other)
        if number == 2 and min(ratios) > LOST:
            break
    return ratios
