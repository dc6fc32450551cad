"""All paths of a call that takes one of many, recorded as one graph: a run for each candidate, merged, and tried.

A call that is given integers and reads none of them (the number of a step) has one path, whatever they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn
from torch.utils import _pytree as pytree

from toponas_fx.analysis.arms import selects
from toponas_fx.capture import Capture, capture
from toponas_fx.capture.domains import NOT_FEW, Domains, find_domains
from toponas_fx.capture.expressions import Numbers, Source, others_like
from toponas_fx.capture.fingerprint import Fingerprint
from toponas_fx.capture.forcing import MOST, Forcing, rounds_for
from toponas_fx.capture.inputs import Inputs
from toponas_fx.capture.kept_choices import Kept
from toponas_fx.capture.path_merging import merge_paths
from toponas_fx.capture.path_replay import is_same_run, replay
from toponas_fx.capture.path_sections import Merged, UnlikePathsError, forget_picks
from toponas_fx.capture.small_batches import (
    FIRST,
    SECOND,
    Recording,
    cuts_what_differs,
    is_same_use,
    resized,
)
from toponas_fx.errors import CaptureError, NotReadyError
from toponas_fx.module_tree.index import TreeIndex
from toponas_fx.progress import step

NO_INDEX = "what is drawn is no index of one of several"
FURTHER_TURNS = (0, 1)
"""Runs of the rounds that tell further choices apart; those of the first go everywhere."""


class HeldNumberError(UnlikePathsError):
    """A number that changes does not stay symbolic on some path."""


@dataclass(frozen=True)
class AllPaths:
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
        ignored = () if given is None else self._ignored(first)
        domains = find_domains(lambda forcing: self._fails(first, forcing), tree, given, self.kept, ignored)
        if self.kept and not domains.kept:
            raise UnlikePathsError(NOT_FEW)
        domains = domains.with_unread(self._unread(first, domains, tree))
        forced = domains.forcing(0)
        runs = [self._run(first, forced, self.numbers)]
        known = forced.sizes | domains.sizes
        count = max(known, default=1)
        if count < 2 and (not ignored or len(ignored) != given):
            raise UnlikePathsError(NO_INDEX)
        if count > MOST:
            raise UnlikePathsError(f"a choice has {count} candidates, more than {MOST}")
        runs += [self._run(first, domains.forcing(turn), self.numbers) for turn in range(1, count)]
        asks = domains.has_names or any(found.asks_identity for found in runs)  # what is used unseen
        for turn in range(count if asks else 1):
            plain = self._run(first, domains.forcing(turn, is_plain=True), self.numbers)
            if not is_same_run(runs[turn].graph, plain.graph):
                raise UnlikePathsError("forward asks which type or object a value is that was drawn, given or kept")
        others = others_like(self.numbers, self.known, runs[0].guards.conditions)
        if others is None:
            raise UnlikePathsError("a number that changes has no other value that may be tried")
        rounds = range(rounds_for(forced.count, known) if count > 1 else 1)  # one path, which reads no integer
        apart = [(turn, of) for of in rounds for turn in (range(count) if of == 0 else FURTHER_TURNS)]
        mixed = functools.cache(lambda turn, of: self._run(second, domains.forcing(turn, of), others))
        try:
            merged, types = _one_graph(runs, (mixed(*place) for place in apart))
        except HeldNumberError:
            raise
        except UnlikePathsError:
            if not any([forget_picks(found.graph) for found in runs]):  # of modules that run whatever was picked
                raise
            merged, types = _one_graph(runs, (mixed(*place) for place in apart), follows_picks=False)
        recording = _as_recording(merged, runs, [mixed(*place) for place in apart], types, first, self.inputs)
        domains.guard(recording.capture, tree)
        turns = tuple(found.fingerprint for found in runs)
        whole = replace(recording.capture, chooses=chooses, kept=tuple(domains.kept), turns=turns, domains=domains)
        return replace(recording, capture=whole)

    def _ignored(self, small: Inputs) -> list[int]:
        """Return which of the integers that forward is given it does not read, as far as one run shows."""
        values = [leaf for leaf in pytree.tree_leaves(self.inputs) if type(leaf) is int]
        try:
            graph = capture(self.fast, self.forward, *small, self.numbers, Forcing(0, None, values)).graph
        except CaptureError:
            raise
        except Exception:  # forward's own, for values that it is not given else
            return []
        nodes = [node for node in graph.nodes if node.op == "placeholder"][-len(values) :]
        return [place for place, node in enumerate(nodes) if not node.users]

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
            raise HeldNumberError("a path uses a number that changes")
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


def _one_graph(
    runs: Sequence[Capture], mixed: Iterable[Capture], *, follows_picks: bool = True
) -> tuple[Merged, dict[fx.Node, fx.Node]]:
    """Merge runs that took one candidate everywhere, and hold others to the graph; return also their nodes for its."""
    merged = merge_paths([found.graph for found in runs])
    for found in runs:
        replay(merged, found.graph)
    types: dict[fx.Node, fx.Node] = {}
    for found in mixed:
        if not follows_picks:
            forget_picks(found.graph)
        types.update(replay(merged, found.graph))
    return merged, types


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
        draws=first.draws or bool(selects(merged.graph)),
    )
    return Recording(one, small, any_batch=True)
