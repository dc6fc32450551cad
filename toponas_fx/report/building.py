"""Builds a report: joins what the passes did to the candidate operations that they did it to."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
from torch import fx, nn

from toponas_fx.analysis.algebra import Edge
from toponas_fx.analysis.arms import home
from toponas_fx.analysis.costs import Costs
from toponas_fx.analysis.mixed_ops import mixed_ops
from toponas_fx.analysis.module_paths import common_path
from toponas_fx.analysis.topology import RESHAPES
from toponas_fx.analysis.weight_elements import Element, Elements
from toponas_fx.report.parts import CandidateReport, MixtureReport
from toponas_fx.report.report import Report
from toponas_fx.rewriting.pipeline import PassRecord

ONE_AT_A_TIME = (
    "of edges that draw, a step takes one candidate and computes no other: none is shared or merged with another, for "
    "one is alive at a time"
)
"""What to say of edges that draw."""
UNREAD = "forward as captured does not read"
"""How the note begins on parameters that no run reads so far."""


def build_report(
    model_name: str,
    mode: str,
    topology_after_detection: nx.MultiDiGraph,
    records: Sequence[PassRecord],
    before: Costs,
    after: Costs,
    notes: Sequence[str],
    edges: Sequence[Edge] = (),
    evaluation: Sequence[PassRecord] | None = None,
) -> Report:
    """Join what the passes did to the candidates that they did it to, by the captured nodes that both stem from.

    Args:
        model_name: the class of the model.
        mode: ``"share"`` or ``"exact"``.
        topology_after_detection: what ``build_topology`` returned before any other pass ran.
        records: what ``run_passes`` returned for the training graph.
        before: costs of the user's own forward.
        after: costs of the result.
        notes: sentences to end with.
        edges: what ``edges_of`` returned with that topology, with results.
        evaluation: what ``run_passes`` returned for an evaluation graph of its own.
    """
    members: dict[tuple[str, int], list[tuple[str, dict[str, Any]]]] = {}
    for source, target, edge in topology_after_detection.edges(data=True):
        if edge["kind"] == "candidate":
            members.setdefault((target, edge["mixture"]), []).append((source, edge))
    order = {name: index for index, name in enumerate(topology_after_detection)}
    by_origin = _deeds_by_origin(records)
    known = {edge.key: edge for edge in edges}
    found: list[MixtureReport] = []
    for key, parts in sorted(members.items(), key=lambda item: (order[item[0][0]], item[0][1])):
        parts.sort(key=lambda part: part[1]["position"])
        source = parts[0][0]
        kind = topology_after_detection.nodes[source]["type"]
        name = common_path([path for _, part in parts for path in part["modules"]]) or f"{key[0]}[{key[1]}]"
        at = {part["position"]: part for _, part in parts}
        algebra = known.get(key)
        groups = [(position,) for position in at] if algebra is None else algebra.candidates
        candidates = tuple(_candidate([at[position] for position in group], by_origin) for group in groups)
        lines = ("…", "…", ("", 0)) if algebra is None else (algebra.before, algebra.after, key)
        told, is_drawn = f"{source} : {kind}" if kind else source, "drawn" in parts[0][1]
        found.append(MixtureReport(name, told, candidates, *lines, is_drawn))
    own = None if evaluation is None else tuple(evaluation)
    return Report(model_name, mode, tuple(found), tuple(records), before, after, tuple(notes), own)


def unused_notes(model: nn.Module, entered: Sequence[str], gm: fx.GraphModule) -> list[str]:
    """Return notes on candidates and architecture weights that forward silently leaves out, as ``zip`` does.

    Args:
        model: the user's model.
        entered: paths of the modules that ran.
        gm: the model after mixed operations were detected, before any other pass: those leave out weights on purpose.

    Returns:
        One sentence for each candidate module that never ran while another of the same ModuleList or ModuleDict did,
        and for each sum whose row of weights has elements that weight nothing.
    """
    ran = {id(model.get_submodule(path)) for path in entered}
    notes: list[str] = []
    for path, container in model.named_modules():
        if not isinstance(container, nn.ModuleList | nn.ModuleDict):
            continue
        prefix = f"{path}." if path else ""
        idle = [
            f"`{prefix}{name}` never runs: no mixed operation uses it"
            for name, child in container.named_children()
            if not any(id(module) in ran for module in child.modules())
        ]
        notes += idle if len(idle) < len(container) else []
    rows: dict[Any, tuple[str, int, set[int]]] = {}
    for mixed in mixed_ops(gm.graph):
        if home(mixed.node) is not None:  # a part of a candidate
            continue
        scope = mixed.node.meta.get("scope", "")
        for element in _elements(mixed.weights):
            known = rows.setdefault(element.row, (f"`{scope}`" if scope else "the model", element.length, set()))
            known[2].add(element.index)
    notes += [
        f"the weights of {scope} have {length} elements, {len(used)} are used"
        for scope, length, used in rows.values()
        if len(used) < length
    ]
    return list(dict.fromkeys(notes))


def _elements(weights: Iterable[Any]) -> Iterator[Element]:
    """Yield each factor of a weight that is an element of a known row."""
    elements = Elements()
    queue = [weight for weight in weights if isinstance(weight, fx.Node)]
    while queue:
        weight: Any = queue.pop()
        found = elements.find(weight)
        if found is not None:
            yield found
        elif weight.target is operator.mul or weight.target in RESHAPES:
            queue += weight.all_input_nodes


@dataclass(frozen=True)
class _Deed:
    """One change or refusal, by its place in the records."""

    index: int
    text: str
    is_refusal: bool


def _deeds_by_origin(records: Sequence[PassRecord]) -> dict[str, list[_Deed]]:
    found: dict[str, list[_Deed]] = {}
    entries = [(f"{record.name}: ", change, False) for record in records for change in record.changes]
    entries += [(f"{record.name} refused: ", refusal, True) for record in records for refusal in record.refusals]
    for index, (head, change, is_refusal) in enumerate(entries):
        deed = _Deed(index, head + change.sentence, is_refusal)
        for origin in change.origins:
            found.setdefault(origin, []).append(deed)
    return found


def _candidate(parts: Sequence[dict[str, Any]], by_origin: dict[str, list[_Deed]]) -> CandidateReport:
    """Join the terms of one candidate: a skip around a block counts to the block, which stands last."""
    main = parts[-1]
    found = {deed.index: deed for part in parts for name in part["origins"] for deed in by_origin.get(name, ())}
    deeds = [found[index] for index in sorted(found)]
    changes = dict.fromkeys(deed.text for deed in deeds if not deed.is_refusal)
    refusals = dict.fromkeys(deed.text for deed in deeds if deed.is_refusal)
    return CandidateReport(", ".join(main["ops"]), main["weight"], tuple(changes), tuple(refusals), main["name"])
