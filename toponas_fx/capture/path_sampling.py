"""Recording models that sample another path at each step: as one graph with a choice at each place where paths part.

A draw decides an index, Python reads it, and runs that candidate. One recorded run is one path. So the draws are
forced: once to each candidate everywhere, which the merged graph is made of (``path_merging``), and once to each in
places apart, at another batch size, which must be paths of that graph (``path_replay``). What does not fit runs as its
user wrote it, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from toponas_fx import ops
from toponas_fx.analysis.effects import is_random
from toponas_fx.capture import Capture, capture
from toponas_fx.capture.expressions import NO_NUMBERS, Numbers, Source, others_like
from toponas_fx.capture.fingerprint import Fingerprint
from toponas_fx.capture.forcing import MOST, Forcing, index_of, rounds_for
from toponas_fx.capture.inputs import Inputs
from toponas_fx.capture.path_merging import merge_paths
from toponas_fx.capture.path_replay import is_same_run, replay
from toponas_fx.capture.path_sections import Merged, UnlikePathsError
from toponas_fx.capture.small_batches import (
    FIRST,
    NO_VALUES,
    SECOND,
    Recording,
    capture_small,
    cuts_what_differs,
    is_same_use,
    record,
    resized,
    sized,
)
from toponas_fx.errors import CaptureError, ForeignDrawError
from toponas_fx.ir.targets import target_name
from toponas_fx.module_tree.isolation import restored_generators
from toponas_fx.ops.choices import INDICES
from toponas_fx.progress import step

FURTHER_TURNS = (0, 1)
"""Runs of the rounds that tell further choices apart; those of the first go everywhere."""
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

    Raises:
        CaptureError: the call cannot be repeated by a graph, or each run samples another path and they are not those
            of one graph. That holds whatever the numbers of the model are: a temperature does not end it, a mode may.
        Exception: whatever the model's own forward raises.
    """
    first = None if at_its_own else capture_small(fast, forward, inputs, FIRST, numbers)
    reason = None
    if first is not None and (chooses or _reads(fast, first.capture.graph, _is_index) is not None):
        try:
            return _Paths(fast, forward, inputs, numbers, known).record(chooses=chooses)
        except (UnlikePathsError, CaptureError) as error:  # one path may still be all there is
            reason = str(error)
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
            return _Paths(fast, forward, inputs, numbers, known).record(chooses=False)
        except (UnlikePathsError, CaptureError):
            raise error from None
    where = _sampling(fast, forward, recorded)
    if where is None:
        return recorded
    because = f", and they cannot be one graph: {reason}" if reason is not None else ", by no index that was seen"
    refusal = CaptureError(f"each run samples another path there{because}", where)
    refusal.guards = recorded.capture.guards.modes()
    raise refusal


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


# -- all paths ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Paths:
    """All paths of a call, to be recorded as one graph; the attributes are ``record_call``'s arguments."""

    fast: nn.Module
    forward: Callable[..., Any]
    inputs: Inputs
    numbers: Numbers
    known: Mapping[Source, Sequence[float]]

    def record(self, *, chooses: bool) -> Recording:
        """Record them.

        Raises:
            UnlikePathsError: they are not those of one graph.
            CaptureError: a path cannot be repeated by a graph.
        """
        first, second = resized(self.inputs, FIRST), resized(self.inputs, SECOND)
        if first is None or second is None:
            raise UnlikePathsError("its inputs have no batch")
        sizes = self._domains(first) if chooses else None
        forced = forced_by(sizes, 0)
        runs = [self._run(first, forced, self.numbers)]
        known = forced.sizes | set(sizes or ())
        count = max(known, default=0)
        if count < 2:
            raise UnlikePathsError("what is drawn is no index of one of several")
        if count > MOST:
            raise UnlikePathsError(f"a choice has {count} candidates, more than {MOST}")
        runs += [self._run(first, forced_by(sizes, turn), self.numbers) for turn in range(1, count)]
        plain = self._run(first, forced_by(sizes, 0, is_plain=True), self.numbers)
        if not is_same_run(runs[0].graph, plain.graph):
            raise UnlikePathsError("forward asks what type an integer is that was drawn or given")
        merged = merge_paths([found.graph for found in runs])
        for found in runs:
            replay(merged, found.graph)
        others = others_like(self.numbers, self.known, runs[0].guards.conditions)
        if others is None:
            raise UnlikePathsError("a number that changes has no other value that may be tried")
        rounds = range(rounds_for(max(forced.count, len(sizes or ())), known))
        mixed = [
            self._run(second, forced_by(sizes, turn, of), others)
            for of in rounds
            for turn in (range(count) if of == 0 else FURTHER_TURNS)
        ]
        types: dict[fx.Node, fx.Node] = {}
        for found in mixed:
            types.update(replay(merged, found.graph))
        recording = _as_recording(merged, runs, mixed, types, first, self.inputs)
        turns, domains = tuple(found.fingerprint for found in runs), None if sizes is None else tuple(sizes)
        whole = replace(recording.capture, chooses=chooses, turns=turns, domains=domains)
        return replace(recording, capture=whole)

    def _run(self, size: Inputs, forcing: Forcing, values: Numbers) -> Capture:
        step(f"recording candidate {forcing.turn}" + ("" if forcing.round is None else " in places apart"))
        try:
            found = capture(self.fast, self.forward, *size, values, forcing)
        except CaptureError:
            raise
        except Exception as error:  # forward's own, which this path alone may raise
            raise UnlikePathsError(f"forward fails on a path: {type(error).__name__}: {error}") from error
        if not found.keeps_numbers:
            raise UnlikePathsError("a path uses a number that changes")
        return found

    def _domains(self, small: Inputs) -> list[int]:
        """Return how many values each of the integers may have: forward fails for the next.

        Raises:
            UnlikePathsError: they may have more than there may be candidates.
        """
        count = sum(type(leaf) is int for leaf in pytree.tree_leaves(self.inputs))
        sizes = [0] * count
        too_many = f"an integer that forward is given may have more than {MOST} values"
        if not self._fails(small, [MOST] * count):  # a size, an epoch
            raise UnlikePathsError(too_many)
        for value in range(MOST + 1):
            given = [value if not size else min(value, size - 1) for size in sizes]
            if self._fails(small, given):
                for place in [place for place, size in enumerate(sizes) if not size]:
                    alone = [value if other == place else 0 for other in range(count)]
                    sizes[place] = value if self._fails(small, alone) else 0
            if all(sizes):
                return sizes
        raise UnlikePathsError(too_many)

    def _fails(self, small: Inputs, given: Sequence[int]) -> bool:
        try:
            capture(self.fast, self.forward, *small, self.numbers, Forcing(0, None, given))
        except CaptureError:
            raise
        except Exception:  # forward's own
            return True
        return False


def forced_by(sizes: Sequence[int] | None, turn: int, round: int | None = None, *, is_plain: bool = False) -> Forcing:
    """Return what decides a run; ``sizes`` are how many values given integers may have, None where they stay."""
    given = None
    if sizes is not None:
        given = [index_of(turn, round, number, size) for number, size in enumerate(sizes, start=1)]
    return Forcing(turn, round, given, is_plain=is_plain)


def _as_recording(
    merged: Merged,
    runs: Sequence[Capture],
    mixed: Sequence[Capture],
    types: Mapping[fx.Node, fx.Node],
    small: Inputs,
    inputs: Inputs,
) -> Recording:
    first, every = runs[0], (*runs, *mixed)
    uses = [use for found in runs for use in found.sizes_used]
    for found in mixed:
        if not all(any(is_same_use(use, other) for use in uses) for other in found.sizes_used):
            raise UnlikePathsError("the size of the batch decides something")
    for node, own in types.items():
        if cuts_what_differs(node, own):
            raise UnlikePathsError("the size of the batch decides something")
    if any(found.writes != first.writes for found in every):
        raise UnlikePathsError("which attributes it writes depends on a choice")
    for found in every:
        first.guards.add(found.guards)
    sized(types, inputs)
    for node in [node for node in merged.graph.nodes if node.meta.get("decides") and "arm" in node.meta]:
        merged.graph.erase_node(node)  # what the choice itself tells
    one = replace(
        first,
        graph=merged.graph,
        entered=tuple(dict.fromkeys(path for found in every for path in found.entered)),
        fingerprint=Fingerprint.of(merged.graph, ()),
        any_grad_mode=all(found.any_grad_mode for found in every),
        draws=True,
    )
    return Recording(one, small, any_batch=True)
