"""The report on one simplification: each candidate's fate, costs before and after, and what deserves a note."""

from __future__ import annotations

import dataclasses
import json
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
from torch import fx, nn

from toponas_fx.costs import Costs
from toponas_fx.mixtures import mixtures
from toponas_fx.module_paths import common_path
from toponas_fx.pipeline import PassRecord
from toponas_fx.topology import RESHAPES
from toponas_fx.weight_rows import Element, Elements

_ROWS = {
    "convolutions": "convolutions",
    "norms": "norms",
    "activations": "activations",
    "poolings": "poolings",
    "nodes": "graph nodes",
    "parameters": "parameters",
    "flops": "FLOPs",
    "saved_bytes": "bytes saved for backward",
}
_QUOTED = re.compile(r"`[^`]*`")
_SHOWN = 3


@dataclass(frozen=True)
class CandidateReport:
    """What became of one candidate.

    Attributes:
        label: its operations.
        weight: its architecture weight, in words.
        changes: what was done to it, each by which pass.
        refusals: what was not done, and why.
    """

    label: str
    weight: str
    changes: tuple[str, ...]
    refusals: tuple[str, ...]


@dataclass(frozen=True)
class MixtureReport:
    """What became of one mixture.

    Attributes:
        name: where its candidates are in the model, or the name of its sum.
        source: the value that its candidates read, and its type.
        candidates: one for each term, in order.
    """

    name: str
    source: str
    candidates: tuple[CandidateReport, ...]


@dataclass(frozen=True)
class Report:
    """What a simplification did to a model; ``print`` it.

    Attributes:
        model: the class of the model.
        mode: ``"share"`` or ``"exact"``.
        mixtures: one for each mixture, as the user wrote it.
        records: one for each pass.
        before: costs of the user's own forward.
        after: costs of the result.
        notes: sentences about what the user may not expect.
    """

    model: str
    mode: str
    mixtures: tuple[MixtureReport, ...]
    records: tuple[PassRecord, ...]
    before: Costs
    after: Costs
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Write the report as text; mixtures that differ only in names are written once."""
        candidates = sum(len(mixture.candidates) for mixture in self.mixtures)
        counts = f"{_count(len(self.mixtures), 'mixture')}, {_count(candidates, 'candidate')}"
        lines = [f"{self.model}, mode {self.mode}: {counts}"]
        if not self.mixtures:
            lines += ["", "no mixture found: nothing to simplify"]
        groups: dict[Any, list[MixtureReport]] = {}
        for mixture in self.mixtures:
            groups.setdefault(_without_names(mixture), []).append(mixture)
        for group in groups.values():
            lines += ["", *_mixture_lines(group)]
        lines += ["", *_cost_lines(self.before, self.after), "", *self._pass_lines()]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines).rstrip()

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain dicts, lists, strings and numbers, as ``json.dumps`` takes them."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=lambda member: member.name))
        return plain

    def _pass_lines(self) -> Iterator[str]:
        shown = {text for mixture in self.mixtures for part in mixture.candidates for text in part.refusals}
        for record in self.records:
            changes, refusals = _count(len(record.changes), "change"), _count(len(record.refusals), "refusal")
            yield f"{record.name} ({record.semantics.name}): {changes}, {refusals}"
            rest = [refusal.sentence for refusal in record.refusals]
            rest = [sentence for sentence in rest if f"{record.name} refused: {sentence}" not in shown]
            yield from (f"    refused elsewhere: {sentence}" for sentence in _shortened(rest))


def build_report(
    model_name: str,
    mode: str,
    topology_after_detection: nx.MultiDiGraph,
    records: Sequence[PassRecord],
    before: Costs,
    after: Costs,
    notes: Sequence[str],
) -> Report:
    """Join what the passes did to the candidates that they did it to, by the captured nodes that both stem from.

    Args:
        model_name: the class of the model.
        mode: ``"share"`` or ``"exact"``.
        topology_after_detection: what ``build_topology`` returned before any other pass ran.
        records: what ``run_passes`` returned.
        before: costs of the user's own forward.
        after: costs of the result.
        notes: sentences to end with.
    """
    edges: dict[tuple[str, int], list[tuple[str, dict[str, Any]]]] = {}
    for source, target, edge in topology_after_detection.edges(data=True):
        if edge["kind"] == "candidate":
            edges.setdefault((target, edge["mixture"]), []).append((source, edge))
    order = {name: index for index, name in enumerate(topology_after_detection)}
    by_origin = _deeds_by_origin(records)
    found: list[MixtureReport] = []
    for (target, number), members in sorted(edges.items(), key=lambda item: (order[item[0][0]], item[0][1])):
        members.sort(key=lambda member: member[1]["position"])
        source = members[0][0]
        kind = topology_after_detection.nodes[source]["type"]
        name = common_path([path for _, edge in members for path in edge["modules"]]) or f"{target}[{number}]"
        candidates = tuple(_candidate(edge, by_origin) for _, edge in members)
        found.append(MixtureReport(name, f"{source} : {kind}" if kind else source, candidates))
    return Report(model_name, mode, tuple(found), tuple(records), before, after, tuple(notes))


def unused_notes(model: nn.Module, entered: Sequence[str], gm: fx.GraphModule) -> list[str]:
    """Return notes on candidates and architecture weights that forward silently leaves out, as ``zip`` does.

    Args:
        model: the user's model.
        entered: paths of the modules that ran.
        gm: the model after mixtures were detected and before any other pass: those leave out weights on purpose.

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
            f"`{prefix}{name}` never runs: no term of a mixture uses it"
            for name, child in container.named_children()
            if not any(id(module) in ran for module in child.modules())
        ]
        notes += idle if len(idle) < len(container) else []
    rows: dict[Any, tuple[str, int, set[int]]] = {}
    for mixture in mixtures(gm.graph):
        scope = mixture.node.meta.get("scope", "")
        for element in _elements(mixture.weights):
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


def _candidate(edge: dict[str, Any], by_origin: dict[str, list[_Deed]]) -> CandidateReport:
    found = {deed.index: deed for name in edge["origins"] for deed in by_origin.get(name, ())}
    deeds = [found[index] for index in sorted(found)]
    changes = dict.fromkeys(deed.text for deed in deeds if not deed.is_refusal)
    refusals = dict.fromkeys(deed.text for deed in deeds if deed.is_refusal)
    return CandidateReport(", ".join(edge["ops"]), edge["weight"], tuple(changes), tuple(refusals))


def _without_names(mixture: MixtureReport) -> tuple[Any, ...]:
    """Return what mixtures that differ only in names have in common."""
    return tuple(
        (part.label, *(_QUOTED.sub("`", text) for text in (*part.changes, *part.refusals)))
        for part in mixture.candidates
    )


def _mixture_lines(group: Sequence[MixtureReport]) -> Iterator[str]:
    first, *others = group
    names = [mixture.name for mixture in others[:_SHOWN]]
    if len(others) > _SHOWN:
        names.append(f"{len(others) - _SHOWN} more")
    alike = f", x{len(group)}: also {', '.join(names)}" if others else ""
    yield f"{first.name}, from {first.source}{alike}"
    width = max(len(part.weight) for part in first.candidates)
    for part in first.candidates:
        yield f"  {part.weight:<{width}}  {part.label}"
        yield from (f"  {'':<{width}}    {text}" for text in (*part.changes, *part.refusals))


def _cost_lines(before: Costs, after: Costs) -> Iterator[str]:
    yield f"{'':<26}{'before':>16}{'after':>16}{'ratio':>8}"
    for name, title in _ROWS.items():
        old, new = getattr(before, name), getattr(after, name)
        if old is not None and new is not None:
            ratio = f"{new / old:.2f}" if old else "-"
            yield f"{title:<26}{old:>16,}{new:>16,}{ratio:>8}"


def _shortened(sentences: Iterable[str]) -> Iterator[str]:
    """Yield sentences, those that differ only in names once with their number, and not too many."""
    groups: dict[str, list[str]] = {}
    for sentence in sentences:
        groups.setdefault(_QUOTED.sub("`", sentence), []).append(sentence)
    for first, *others in list(groups.values())[:_SHOWN]:
        yield f"{first} (x{len(others) + 1})" if others else first
    if len(groups) > _SHOWN:
        yield f"and {len(groups) - _SHOWN} more"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
