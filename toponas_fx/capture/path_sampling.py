"""Recording models that sample another path at each step: as one graph with a choice at each place where paths part.

A draw decides an index, Python reads it, and runs that candidate. One recorded run is one path. So the draws are
forced: once to each candidate everywhere, which the merged graph is made of (``path_merging``), and once to each in
places apart, at another batch size, which must be paths of that graph (``path_replay``). What does not fit runs as its
user wrote it, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from toponas_fx import ops
from toponas_fx.analysis.effects import is_random
from toponas_fx.capture import Capture, capture
from toponas_fx.capture.domains import NOT_FEW, Domains, find_domains
from toponas_fx.capture.expressions import NO_NUMBERS, Numbers, Source, others_like
from toponas_fx.capture.fingerprint import Fingerprint
from toponas_fx.capture.forcing import MOST, NOTHING_KEPT, Forcing, rounds_for
from toponas_fx.capture.inputs import Inputs
from toponas_fx.capture.kept_choices import Kept
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
)
from toponas_fx.errors import CaptureError, ForeignDrawError, NotReadyError
from toponas_fx.ir.targets import target_name
from toponas_fx.module_tree.index import TreeIndex
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
            recorded = _Paths(fast, forward, inputs, numbers, known, some).record(chooses=chooses)
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
            return _Paths(fast, forward, inputs, numbers, known, NOTHING_KEPT).record(chooses=False)
        except (UnlikePathsError, CaptureError):
            raise error from None
    where = _sampling(fast, forward, recorded)
    if where is None:
        return replace(recorded, why_not=reasons[0] if reasons else "")
    because = f", and they cannot be one graph: {reason}" if reason is not None else ", by no index that was seen"
    refusal = CaptureError(f"each run samples another path there{because}", where)
    refusal.guards = recorded.capture.guards.modes()
    raise refusal


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


# -- all paths ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Paths:
    """All paths of a call, to be recorded as one graph; the attributes are ``record_call``'s arguments."""

    fast: nn.Module
    forward: Callable[..., Any]
    inputs: Inputs
    numbers: Numbers
    known: Mapping[Source, Sequence[float]]
    kept: Mapping[Kept, Collection[Any]]

    def record(self, *, chooses: bool) -> Recording:
        """Record them.

        Raises:
            UnlikePathsError: they are not those of one graph.
            CaptureError: a path cannot be repeated by a graph.
        """
        if (first := resized(self.inputs, FIRST)) is None or (second := resized(self.inputs, SECOND)) is None:
            raise UnlikePathsError("its inputs have no batch")
        tree = TreeIndex.of(self.fast)
        given = sum(type(leaf) is int for leaf in pytree.tree_leaves(self.inputs)) if chooses else None
        domains = find_domains(lambda forcing: self._fails(first, forcing), tree, given, self.kept)
        if self.kept and not domains.kept:
            raise UnlikePathsError(NOT_FEW)
        domains = domains.with_unread(self._unread(first, domains, tree))
        forced = domains.forcing(0)
        runs = [self._run(first, forced, self.numbers)]
        known = forced.sizes | domains.sizes
        count = max(known, default=0)
        if count < 2:
            raise UnlikePathsError("what is drawn is no index of one of several")
        if count > MOST:
            raise UnlikePathsError(f"a choice has {count} candidates, more than {MOST}")
        runs += [self._run(first, domains.forcing(turn), self.numbers) for turn in range(1, count)]
        for turn in range(count if domains.has_names else 1):
            plain = self._run(first, domains.forcing(turn, is_plain=True), self.numbers)
            if not is_same_run(runs[turn].graph, plain.graph):
                raise UnlikePathsError("forward asks what type a value is that was drawn, given or kept")
        merged = merge_paths([found.graph for found in runs])
        for found in runs:
            replay(merged, found.graph)
        others = others_like(self.numbers, self.known, runs[0].guards.conditions)
        if others is None:
            raise UnlikePathsError("a number that changes has no other value that may be tried")
        rounds = range(rounds_for(forced.count, known))
        mixed = [
            self._run(second, domains.forcing(turn, of), others)
            for of in rounds
            for turn in (range(count) if of == 0 else FURTHER_TURNS)
        ]
        types: dict[fx.Node, fx.Node] = {}
        for found in mixed:
            types.update(replay(merged, found.graph))
        recording = _as_recording(merged, runs, mixed, types, first, self.inputs)
        domains.guard(recording.capture, tree)
        turns = tuple(found.fingerprint for found in runs)
        whole = replace(recording.capture, chooses=chooses, kept=tuple(domains.kept), turns=turns, domains=domains)
        return replace(recording, capture=whole)

    def _unread(self, small: Inputs, domains: Domains, tree: TreeIndex) -> dict[Kept, Any]:
        """Return the integers that modules keep, that are no choices, and that a run does not read: with their values.

        Of names that cannot be told: Python may read them unseen.
        """
        others = {kept: kept.value(tree) for kept in self.kept if kept not in domains.kept}
        others = {kept: value for kept, value in others.items() if type(value) is int}
        if not others:
            return {}
        graph = self._run(small, domains.with_unread(others).forcing(0), self.numbers).graph
        nodes = [node for node in graph.nodes if node.op == "placeholder"][-len(others) :]
        return {kept: value for (kept, value), node in zip(others.items(), nodes, strict=True) if not node.users}

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

    def _fails(self, small: Inputs, forcing: Forcing) -> bool:
        try:
            capture(self.fast, self.forward, *small, self.numbers, forcing)
        except NotReadyError:
            return True
        except CaptureError:
            raise
        except Exception:  # forward's own
            return True
        return False


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
    merged.sized(types, inputs)
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
