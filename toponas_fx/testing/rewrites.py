"""Assertions about one pass: what it makes of a graph, what it says about that, and whether it keeps its promise."""

from __future__ import annotations

import copy
import difflib
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from toponas_fx.api import simplify
from toponas_fx.capture.inputs import Inputs, inputs_of
from toponas_fx.checking.comparison import run_from
from toponas_fx.errors import ArgumentError
from toponas_fx.ir.printer import format_graph
from toponas_fx.module_tree.isolation import no_trace
from toponas_fx.rewriting.pass_base import Pass, Plan, Repeat, Semantics, broken_contract, in_stages
from toponas_fx.rewriting.pipeline import Change, PassRecord, run_passes
from toponas_fx.runtime.inspection import inspection
from toponas_fx.testing.differences import EXACT, differences, differences_from, doubled, fail, prepared
from toponas_fx.testing.models import ONE_HOT, differences_at_vertices, quietly

EPS = 1e-12
"""That of all norms: too small to hide an error."""
UNDONE = 1e-7
"""Error that passes where a norm must undo a kernel's scale: its eps does not scale along."""
_TYPE = re.compile(r" : [a-z0-9_]+\[[0-9,]*\]$", re.MULTILINE)

Passes = Sequence[Pass | Repeat]


class Rewritten(NamedTuple):
    """What ``check_pass`` returns; ``print`` explains it.

    Attributes:
        model: the rewritten model, simplified, in float64 and in training mode.
        record: what the pass did and refused, in sentences: ``record.changes``, ``record.refusals``.
    """

    model: Any
    record: PassRecord

    def __str__(self) -> str:
        """Say what was done, and what was refused and why."""
        lines = [f"{self.record.name}: {_count(self.record.changes, 'change')}"]
        lines += [f"  {change.sentence} ({', '.join(change.origins)})" for change in self.record.changes]
        lines += [f"  refused: {item.sentence} ({', '.join(item.origins)})" for item in self.record.refusals]
        return "\n".join(lines)


def check_pass(
    pass_: Pass,
    module: nn.Module,
    example_inputs: Any = None,
    *,
    before: str | None = None,
    after: str | None = None,
    prerequisites: Passes = (),
    changes: bool = True,
    tolerance: float | None = None,
) -> Rewritten:
    """Check what a pass does to a module: the rewrite, and that it keeps what its semantics promise.

    A second run finds nothing. With ``EXACT`` and ``ROUNDING``, outputs, gradients (None is not zero), buffers and
    random draws are the original's, in training and in evaluation; with ``SHARES``, the model equals its reference, and
    the model that ``restore`` returns, at every one-hot architecture. Planning changes nothing and comes to the same
    twice; what is done and refused is said in sentences. Everything runs on a copy in float64, with norms whose eps
    hides no error.

    Args:
        pass_: the pass.
        module: a small module that it has something to do in.
        example_inputs: as for ``simplify``.
        before: the graph text that it starts from, without types, as ``graph_of`` returns it; None where the text does
            not matter. Its indentation does not count.
        after: the graph text that it ends at, likewise.
        prerequisites: passes that run before it, ``(DetectMixedOps(),)`` say for one that reads mixed sums.
        changes: whether it has something to do in the training graph; it must do nothing there otherwise.
        tolerance: the error that passes, relative to the largest value of a tensor; 1e-10, or 1e-9 with ``SHARES``.

    Returns:
        The rewritten model and the record of the pass.

    Raises:
        AssertionError: something is not as promised; the text says what, where, and by how much.
        ArgumentError: the pass lacks a name, semantics or a stage, or the model runs as it was written.
    """
    broken = broken_contract(pass_)
    if broken is not None:
        raise ArgumentError(broken)
    with quietly():
        module = prepared(module, EPS)
        inputs = doubled(inputs_of(module, example_inputs, None))
        oracle = copy.deepcopy(module)
        if any(entry.semantics is Semantics.SHARES for entry in _flat(prerequisites)):
            oracle = _simplified(oracle, inputs, prerequisites)
        start = _simplified(copy.deepcopy(module), inputs, prerequisites).train()
        _assert_text(f"before {pass_.name} the graph", text_of(start), before)
        _assert_plans(pass_, start)
        fast = _simplified(module, inputs, (*prerequisites, pass_)).train()
        record = _record_of(fast, pass_, prerequisites)
        _assert_text(f"after {pass_.name} the graph", text_of(fast), after)
        _assert_changes(pass_, record, text_of(start), changes)
        run_passes(fast.eval(), [pass_])  # in evaluation, where it may find more, simplify runs it where that differs
        fast.recompile()
        for training in (True, False):
            _assert_settled(pass_, fast.train(training))
        if pass_.semantics is Semantics.SHARES:
            allowed = ONE_HOT if tolerance is None else tolerance
            lines = list(differences_at_vertices(fast, inputs, allowed, seed=1, also=_scale_that_stays))
        else:
            allowed = EXACT if tolerance is None else tolerance
            lines = differences_from(oracle, fast, inputs, allowed, seed=1)
        if lines:
            promise = f"{pass_.semantics.name} promises {pass_.semantics.value}"
            fail(f"{pass_.name} breaks its promise", lines, allowed, f"{promise}; it made this graph:\n{text_of(fast)}")
    return Rewritten(fast.train(), record)


def check_keeps(
    pass_: Pass,
    module: nn.Module,
    example_inputs: Any = None,
    reason: str | None = None,
    prerequisites: Passes = (),
) -> list[str]:
    """Check that a pass leaves a module's graph alone, and says why where ``reason`` is given.

    Args:
        pass_: the pass.
        module: a module that has what it must refuse.
        example_inputs: as for ``simplify``.
        reason: a part of a refusal's sentence; None where nothing need be said.
        prerequisites: passes that run before it.

    Returns:
        The reasons of all refusals.

    Raises:
        AssertionError: it would change the graph, or gives no such reason.
    """
    with quietly():
        module = prepared(module, EPS)
        inputs = doubled(inputs_of(module, example_inputs, None))
        fast = _simplified(module, inputs, prerequisites).train()
        plan = _assert_plans(pass_, fast)
    if plan.matches:
        raise AssertionError(f"{pass_.name} would change what it must keep: {_sentences(plan)[0]}\n{text_of(fast)}")
    reasons = [refusal.reason for refusal in plan.refusals]
    if reason is not None and not any(reason in found for found in reasons):
        raise AssertionError(f"{pass_.name} refuses nothing for {reason!r}; its reasons are {reasons}\n{text_of(fast)}")
    return reasons


def graph_of(
    module: nn.Module,
    example_inputs: Any = None,
    *,
    passes: Passes = (),
    training: bool = True,
    types: bool = False,
) -> str:
    """Return the graph of a module as text, as captured or after passes: the same text each time, for golden tests.

    Args:
        module: the module; not changed.
        example_inputs: as for ``simplify``.
        passes: passes that run on it, in their stages.
        training: whether the graph is of training or of evaluation.
        types: whether each line ends with the type of the value, ``f32[2,4,8,8]``.

    Returns:
        A line for each node, without a newline at the end.

    Raises:
        ArgumentError: the model runs as it was written, for the reason given.
    """
    with quietly():
        fast = _simplified(module, Inputs(*inputs_of(module, example_inputs, None)), passes).train(training)
    return format_graph(inspection(fast)) if types else text_of(fast)


def text_of(gm: fx.GraphModule) -> str:
    """Return the text of a graph module's graph without types."""
    return _TYPE.sub("", format_graph(inspection(gm) if "_toponas" in vars(gm) else gm))


# -- what is asserted ----------------------------------------------------------------------------------------------


def _simplified(module: nn.Module, inputs: Inputs, passes: Passes) -> Any:
    fast = simplify(module, inputs.args, example_kwargs=inputs.kwargs, passes=passes, strict=True)
    if not any(program.fixed[2] is False for program in fast._toponas.programs):
        with no_trace(fast):  # of a forward that draws, the first call in evaluation makes the graph
            fast.eval()(*inputs.args, **inputs.kwargs)
    for reason in fast._toponas.as_written.values():
        raise ArgumentError(f"there is no graph to look at, the model runs as it was written: {reason}")
    return fast


def _record_of(fast: Any, pass_: Pass, prerequisites: Passes) -> PassRecord:
    """Return the record of a pass that was given after others: it ran last in its stage."""
    order = list(_flat(in_stages((*prerequisites, pass_))))
    place = max(index for index, other in enumerate(order) if other is pass_)
    found: PassRecord = inspection(fast).report.records[place]
    return found


def _flat(passes: Passes) -> list[Pass]:
    return [pass_ for entry in passes for pass_ in (entry.passes if isinstance(entry, Repeat) else (entry,))]


def _assert_text(what: str, found: str, expected: str | None) -> None:
    if expected is None:
        return
    wanted = textwrap.dedent(expected).strip("\n")
    if found != wanted:
        lines = difflib.unified_diff(wanted.splitlines(), found.splitlines(), "expected", "found", lineterm="", n=99)
        raise AssertionError("\n".join([f"{what} is another one:", *lines]))


def _assert_plans(pass_: Pass, fast: Any) -> Plan:
    """Plan twice: nothing changes, both come to the same, and all of it is said in sentences."""
    before, sharing = text_of(fast), fast._toponas.sharing
    was_decided, sharing.is_decided = sharing.is_decided, False  # as in the capture that decides what is shared
    plan, again = pass_.plan(fast), pass_.plan(fast)
    sharing.is_decided = was_decided
    if text_of(fast) != before:
        raise AssertionError(f"{pass_.name}.plan changes the graph: only apply may, through its rewriter")
    if _sentences(plan) != _sentences(again):
        raise AssertionError(f"{pass_.name}.plan comes to another result the second time: keep no state in the pass")
    for place in (*plan.matches, *plan.refusals):
        if not place.nodes:
            raise AssertionError(f"{pass_.name} has a match or a refusal without nodes: {_sentence(place)}")
        if not re.fullmatch(r"\S(.*[^\s.])?", _sentence(place)):
            raise AssertionError(f"{pass_.name} says {_sentence(place)!r}: write one sentence without a full stop")
    return plan


def _sentences(plan: Plan) -> list[str]:
    return [_sentence(place) for place in (*plan.matches, *plan.refusals)]


def _sentence(place: Any) -> str:
    return str(place.reason if hasattr(place, "reason") else place.describe())


def _assert_changes(pass_: Pass, record: PassRecord, start: str, wanted: bool) -> None:
    if bool(record.changes) == wanted:
        return
    told = "".join(f"\n  it refuses: {refusal.sentence}" for refusal in record.refusals)
    done = "changes what it should keep" if record.changes else "finds nothing to do in this graph"
    made = "".join(f"\n  {change.sentence}" for change in record.changes)
    raise AssertionError(f"{pass_.name} {done}:{made}{told}\n{start}")


def _assert_settled(pass_: Pass, fast: Any) -> None:
    """Run the pass once more: it finds nothing and changes nothing."""
    before = text_of(fast)
    (record,) = run_passes(fast, [pass_])
    if record.changes or text_of(fast) != before:
        done = "; ".join(change.sentence for change in record.changes) or "it says nothing, but the graph is another"
        raise AssertionError(f"a second run of {pass_.name} finds more to do: {done}\n{text_of(fast)}")


def _scale_that_stays(fast: Any, inputs: Inputs) -> list[str]:
    """Return what depends, in training, on the scale of a kernel that is normalized: a norm must undo it."""
    if not fast._toponas.sharing.kernels:
        return []
    fast.train()
    with no_trace(fast), torch.no_grad():
        found = run_from(1, fast, fast, inputs, {})
        expected = run_from(
            1, lambda *args, **kwargs: fast._toponas.user_forward(fast, *args, **kwargs), fast, inputs, {}
        )
    return [f"without normalized kernels: {line}" for line in differences(found, expected, UNDONE)]


def _count(items: Sequence[Change], word: str) -> str:
    return f"{len(items)} {word}{'' if len(items) == 1 else 's'}"
