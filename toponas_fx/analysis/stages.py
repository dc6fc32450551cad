"""Candidates as sequences of stages, each ending in a norm, and where stages of unlike depth should meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx

from toponas_fx.analysis.linear_ops import LinearOp
from toponas_fx.analysis.merge_cost import merged_taps
from toponas_fx.analysis.mixed_ops import MixedOp, candidate_nodes
from toponas_fx.analysis.module_calls import ModuleCalls
from toponas_fx.analysis.norm_inputs import feeding_kernels


def norms_of(calls: ModuleCalls, mixed: MixedOp, term: Any) -> list[fx.Node]:
    """Return a candidate's norms, first to last; none where norms stand side by side or the term counts twice."""
    if not isinstance(term, fx.Node) or mixed.terms.count(term) > 1:
        return []
    own = candidate_nodes(term, mixed.node)
    norms = [node for node in own if calls.is_norm(node)]
    return norms if _is_chain(norms, own) else []


def _is_chain(norms: list[fx.Node], own: list[fx.Node]) -> bool:
    """Return whether each norm needs the one before it."""
    last_norm: dict[fx.Node, fx.Node | None] = {}
    chain: list[fx.Node] = []
    for node in own:
        above = [last_norm.get(parent) for parent in node.all_input_nodes]
        last_norm[node] = max((norm for norm in above if norm is not None), default=None)
        if node in norms:
            if chain and last_norm[node] is not chain[-1]:
                return False
            chain.append(node)
            last_norm[node] = node
    return True


def alike_stages(calls: ModuleCalls, mixed: MixedOp, placement: str) -> Iterator[dict[fx.Node, fx.Node]]:
    """Yield groups of alike norms, each with its candidate's weight; ends alone are share-modules' business."""
    groups: dict[Any, dict[fx.Node, fx.Node]] = {}
    for term, weight in zip(mixed.terms, mixed.weights, strict=True):
        norm = _norm_at(calls, term, mixed, placement)
        likeness = calls.likeness(norm)
        if likeness is not None:
            groups.setdefault(likeness, {})[norm] = weight  # type: ignore[index]
    for group in groups.values():
        ends = [call for call in group if call in mixed.terms]
        is_shared_at_end = len(ends) == len(group) or (placement == "last" and len(ends) > 1)
        if len(group) > 1 and not is_shared_at_end:
            yield group


def _norm_at(calls: ModuleCalls, term: Any, mixed: MixedOp, placement: str) -> fx.Node | None:
    norms = norms_of(calls, mixed, term)
    return (norms[0] if placement == "first" else norms[-1]) if norms else None


def cheaper_placement(calls: ModuleCalls, mixed: MixedOp) -> str:
    """Return ``"first"`` where aligning candidates at their start leaves fewer taps after merging, else ``"last"``.

    A stage counts by the kernel that its candidates differ in, the one farthest from the norm. Stages that meet read
    one value, but for a last-aligned candidate's own start, which reads the candidate's input.
    """
    chains: list[list[LinearOp]] = []
    for term in mixed.terms:
        norms = norms_of(calls, mixed, term)
        kernels = [feeding_kernels(calls.gm, norm.args[0]) for norm in norms]  # type: ignore[arg-type]
        if kernels and all(kernels):
            chains.append([operations[-1] for operations in kernels])
    costs = {placement: _taps(chains, placement) for placement in ("first", "last")}
    return "first" if costs["first"] < costs["last"] else "last"


def _taps(chains: list[list[LinearOp]], placement: str) -> int:
    levels: dict[Any, list[LinearOp]] = {}
    for chain in chains:
        for index, operation in enumerate(chain):
            level = index if placement == "first" else index - len(chain)
            read = operation.value if index == 0 else "the stage before"
            levels.setdefault((level, read), []).append(operation)
    return sum(merged_taps(operations) for operations in levels.values())
