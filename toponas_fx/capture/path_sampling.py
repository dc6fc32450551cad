"""Recording models that sample another path at each step: as one graph with a choice at each place where paths part.

A draw decides an index, Python reads it, and runs that candidate. One recorded run is one path. So the draws are
forced: once to each candidate everywhere, which the merged graph is made of (``path_merging``), and once to each in
places apart, at another batch size, which must be paths of that graph (``path_replay``). What does not fit runs as its
user wrote it, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from toponas_fx import ops
from toponas_fx.analysis.effects import is_random
from toponas_fx.capture import capture
from toponas_fx.capture.all_paths import NO_INDEX, AllPaths, HeldNumberError
from toponas_fx.capture.expressions import NO_NUMBERS, Numbers, Source
from toponas_fx.capture.forcing import NOTHING_KEPT
from toponas_fx.capture.inputs import Inputs
from toponas_fx.capture.kept_choices import Kept
from toponas_fx.capture.path_sections import UnlikePathsError
from toponas_fx.capture.small_batches import (
    FIRST,
    NO_VALUES,
    Recording,
    capture_small,
    record,
)
from toponas_fx.errors import CaptureError, ForeignDrawError
from toponas_fx.ir.targets import target_name
from toponas_fx.module_tree.isolation import restored_generators
from toponas_fx.ops.choices import INDICES

TRIALS = 3
"""Further runs that may show another path."""


def record_call(
    fast: nn.Module,
    forward: Callable[..., Any],
    inputs: Inputs,
    *,
    other_mode: bool = False,
    at_its_own: bool = False,
    numbers: Numbers = NO_NUMBERS,
    known: Mapping[Source, Sequence[float]] = NO_VALUES,
    chooses: bool = False,
    kept: Mapping[Kept, Collection[Any]] = NOTHING_KEPT,
) -> Recording:
    """Record a call: one path as ``small_batches.record`` does, whose arguments these are, or all that it may sample.

    Args:
        fast: as there.
        forward: likewise.
        inputs: likewise.
        other_mode: likewise.
        at_its_own: likewise.
        numbers: likewise.
        known: likewise.
        chooses: whether the integers among the inputs seem to be choices. Where they are none, or their paths are not
            those of one graph, the call is recorded as any other.
        kept: the values of integers and names that modules keep, where these seem to be choices; likewise.

    Raises:
        CaptureError: the call cannot be repeated by a graph, or each run samples another path and they are not those
            of one graph. That holds whatever the numbers of the model are: a temperature does not end it, a mode may.
        Exception: whatever the model's own forward raises.
    """
    first = None if at_its_own else capture_small(fast, forward, inputs, FIRST, numbers)
    reasons: list[str] = []
    for some in _tried(fast, first, kept, chooses=chooses):
        try:
            recorded = _all_paths(fast, forward, inputs, numbers, known, some, chooses=chooses)
            return replace(recorded, why_not=reasons[0] if reasons else "")
        except (UnlikePathsError, CaptureError) as error:  # one path may still be all there is
            reasons.append(str(error).removeprefix(f"{getattr(error, 'where', '')}: "))
    reason = reasons[-1] if reasons else None
    try:
        recorded = record(
            fast,
            forward,
            inputs,
            other_mode=other_mode,
            at_its_own=at_its_own,
            numbers=numbers,
            known=known,
            first=first,
        )
    except ForeignDrawError as error:  # Python's random, which a graph can draw from where it draws an index
        try:
            return _all_paths(fast, forward, inputs, numbers, known, NOTHING_KEPT, chooses=False)
        except (UnlikePathsError, CaptureError) as why:
            raise _with_paths(error, why) from None
    where = _sampling(fast, forward, recorded)
    if where is None:
        return replace(recorded, why_not=reasons[0] if reasons else "")
    because = f", and they cannot be one graph: {reason}" if reason is not None else ", by no index that was seen"
    refusal = CaptureError(f"each run samples another path there{because}", where)
    refusal.guards = recorded.capture.guards.modes()
    raise refusal


def _with_paths(error: ForeignDrawError, why: Exception) -> ForeignDrawError:
    """Add to an error why the paths that Python draws cannot be one graph, where it draws which of several to take."""
    if isinstance(why, ForeignDrawError) or str(why) == NO_INDEX:
        return error
    sentence, reason = (str(e).removeprefix(f"{getattr(e, 'where', '')}: ") for e in (error, why))
    told = ForeignDrawError(f"{sentence}; the paths that are drawn cannot be one graph: {reason}", error.where)
    told.guards = error.guards
    return told


def _all_paths(
    fast: nn.Module,
    forward: Callable[..., Any],
    inputs: Inputs,
    numbers: Numbers,
    known: Mapping[Source, Sequence[float]],
    kept: Mapping[Kept, Collection[Any]],
    *,
    chooses: bool,
) -> Recording:
    """Record all paths of a call; with constants in the places of numbers that cannot stay symbolic."""
    try:
        return AllPaths(fast, forward, inputs, numbers, known, kept).record(chooses=chooses)
    except HeldNumberError:
        found = AllPaths(fast, forward, inputs, NO_NUMBERS, NO_VALUES, kept).record(chooses=chooses)
        return replace(found, held=frozenset(numbers))


def _tried(
    fast: nn.Module, first: Recording | None, kept: Mapping[Kept, Collection[Any]], *, chooses: bool
) -> Iterator[Mapping[Kept, Collection[Any]]]:
    """Yield what modules keep that may be choices: all that a run read, and none where there are choices besides."""
    if first is None:
        return
    read = first.capture.guards.attributes
    some = {one: values for one, values in kept.items() if one.key in read}
    if some:
        yield some
    if chooses or _reads(fast, first.capture.graph, _is_index) is not None:
        yield NOTHING_KEPT


def _sampling(fast: nn.Module, forward: Callable[..., Any], recorded: Recording) -> str | None:
    """Return where runs of a call take one of many paths, or None where the recorded one seems to stay.

    Only a model that reads a random draw to choose its path is run again, with other draws: a loop that draws until
    all is finite, or a weight that is left out when it is zero, takes the same path nearly always.
    """
    run = recorded.capture
    where = _reads(fast, run.graph, is_random)
    if where is None:
        return None
    for seed in range(TRIALS):
        with restored_generators():
            torch.manual_seed(seed)
            other = capture(fast, forward, *recorded.inputs, run.numbers)
        if other.fingerprint != run.fingerprint:
            return where
    return None


def _reads(fast: nn.Module, graph: fx.Graph, is_source: Callable[[nn.Module, fx.Node], bool]) -> str | None:
    """Return where forward reads a number that is computed from what some nodes give, or None."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if is_source(fast, node) or any(parent in found for parent in node.all_input_nodes):
            found.add(node)
            if node.target is ops.guard:
                return str(node.meta.get("where", "")) or "forward"
    return None


def _is_index(fast: nn.Module, node: fx.Node) -> bool:
    return target_name(node.target) in INDICES
