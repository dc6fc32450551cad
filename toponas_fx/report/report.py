"""The report on one simplification: what was gained, what became of each kind of edge, and what was refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toponas_fx.analysis.algebra import ARITHMETIC
from toponas_fx.analysis.costs import Costs
from toponas_fx.report.details import details
from toponas_fx.report.parts import CandidateReport, KindReport, MixtureReport, RefusalReport
from toponas_fx.report.refusal_advice import advice_on
from toponas_fx.report.text import PER_STEP, QUIET, Summary, count, shapeless
from toponas_fx.rewriting.pipeline import PassRecord

__all__ = ["CandidateReport", "KindReport", "MixtureReport", "RefusalReport", "Report"]

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, repr=False)
class Report:
    """What a simplification did to a model; ``print`` it.

    Attributes:
        model: the class of the model.
        mode: ``"share"`` or ``"exact"``.
        mixtures: one for each edge (mixed operation), as the user wrote it.
        records: one for each pass, of the training graph.
        before: costs of the user's own forward.
        after: costs of the result.
        notes: sentences about what the user may not expect.
        evaluation: one for each pass, of the evaluation graph where that is another one; None where both modes run
            the same graph, or evaluation none.
    """

    model: str
    mode: str
    mixtures: tuple[MixtureReport, ...]
    records: tuple[PassRecord, ...]
    before: Costs
    after: Costs
    notes: tuple[str, ...]
    evaluation: tuple[PassRecord, ...] | None = None

    @property
    def edges(self) -> tuple[MixtureReport, ...]:
        """The edges: the same as ``mixed operations``."""
        return self.mixtures

    @property
    def kinds(self) -> tuple[KindReport, ...]:
        """The kinds of edges, the most frequent that changed first."""
        groups: dict[Any, list[MixtureReport]] = {}
        for edge in self.mixtures:
            names = tuple(part.name for part in edge.candidates)
            groups.setdefault((names, edge.before, edge.after, edge.drawn), []).append(edge)
        found = [self._kind(edges) for edges in groups.values()]
        return tuple(sorted(found, key=lambda kind: (kind.before == kind.after, -len(kind.edges))))

    @property
    def refusals(self) -> tuple[RefusalReport, ...]:
        """What was refused, each reason once; first that which the user can do something about."""
        found = [
            _refused(record.name, sentences, self.mixtures)
            for record in (*self.records, *(self.evaluation or ()))
            for sentences in _alike(refusal.sentence for refusal in record.refusals)
        ]
        once = {(each.pass_name, shapeless(each.reason)): each for each in reversed(found)}
        return tuple(sorted(reversed(once.values()), key=lambda each: not each.advice))

    def __repr__(self) -> str:
        """Return one line."""
        return f"<report on {self._title()}; print it>"

    def __str__(self) -> str:
        """Write what was gained, what became of the kinds of edges and what was refused, to fit one screen."""
        return self._summary().text()

    def __rich__(self) -> RenderableType:
        """Return the same for the terminals of ``rich``: ``rich.print(fast.report)``."""
        return self._summary().rich()

    def _repr_html_(self) -> str:
        """Return the same for notebooks."""
        return self._summary().html()

    def to_markdown(self) -> str:
        """Return the same as Markdown."""
        return self._summary().markdown()

    def details(self) -> str:
        """Return the full list: each edge with its candidates, and all that was done to them and refused."""
        records = {"": self.records, " in evaluation": self.evaluation or ()}
        return details(self._title(), self.mixtures, (self.before, self.after), self.caption, records, self.notes)

    @property
    def caption(self) -> str:
        """What the costs are of; empty where each step runs all that is counted."""
        return PER_STEP if any(edge.drawn for edge in self.mixtures) else ""

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain dicts, lists, strings and numbers, as ``json.dumps`` takes them."""
        own = dataclasses.asdict(self, dict_factory=_told)
        own["kinds"] = [dataclasses.asdict(kind, dict_factory=_told) for kind in self.kinds]
        own |= {"costs_are": self.caption} if self.caption else {}
        plain: dict[str, Any] = json.loads(json.dumps(own, default=lambda member: member.name))
        return plain

    as_dict = to_dict

    def to_json(self) -> str:
        """Return the same as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def _title(self) -> str:
        candidates = sum(len(edge.candidates) for edge in self.mixtures)
        counts = f"{count(len(self.mixtures), 'edge')}, {count(candidates, 'candidate operation')}"
        drawn = sum(edge.drawn for edge in self.mixtures)
        where = "each edge" if drawn == len(self.mixtures) else count(drawn, "edge")
        taken = f", one a step on {where}" if drawn else ""
        return f"{self.model}, mode {self.mode}: {counts}{taken}"

    def _summary(self) -> Summary:
        notes = [*self._besides_the_algebra(), *self._only_in_evaluation(), *self.notes]
        costs = self.before, self.after
        return Summary(self._title(), costs, self.kinds, self.refusals, tuple(notes), self.caption)

    def _besides_the_algebra(self) -> Iterator[str]:
        names = [record.name for record in self.records]
        first = next((place for place, name in enumerate(names) if name in ARITHMETIC), len(names))
        for record in self.records[first:]:
            if record.changes and record.name not in QUIET:
                yield f"{record.name} ran after the algebra was read: {count(len(record.changes), 'change')} not shown"

    def _only_in_evaluation(self) -> Iterator[str]:
        for own, other in zip(self.records, self.evaluation or (), strict=False):
            if other.changes and not own.changes:
                yield f"{other.name}: {count(len(other.changes), 'change')} in the evaluation graph, none in training's"

    def _kind(self, edges: list[MixtureReport]) -> KindReport:
        names = tuple(part.name for part in edges[0].candidates)
        parts = [part for edge in edges for part in edge.candidates]
        changed = {change.partition(": ")[0] for part in parts for change in part.changes}
        passes = tuple(record.name for record in self.records if record.name in changed)
        sentences = [text.split(" refused: ", 1) for part in parts for text in part.refusals]
        refusals = [
            _refused(name, group, edges)
            for name in dict.fromkeys(name for name, _ in sentences)
            for group in _alike(sentence for own, sentence in sentences if own == name)
        ]
        lines = edges[0].before, edges[0].after
        places = tuple(edge.name for edge in edges)
        return KindReport(names, *lines, places, passes, tuple(refusals), edges[0].drawn)


def _told(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of a part of a report; that an edge is drawn is told where it is."""
    return {name: value for name, value in items if name != "drawn" or value}


def _alike(sentences: Iterable[str]) -> list[list[str]]:
    """Return sentences in groups that differ only in names."""
    groups: dict[str, list[str]] = {}
    for sentence in sentences:
        groups.setdefault(shapeless(sentence), []).append(sentence)
    return list(groups.values())


def _refused(
    pass_name: str, sentences: list[str], edges: tuple[MixtureReport, ...] | list[MixtureReport]
) -> RefusalReport:
    wanted = {f"{pass_name} refused: {sentence}" for sentence in sentences}
    about = {
        edge.key: [part.name for part in edge.candidates if not wanted.isdisjoint(part.refusals)] for edge in edges
    }
    names = dict.fromkeys(name for found in about.values() for name in found)
    touched = sum(bool(found) for found in about.values())
    return RefusalReport(pass_name, sentences[0], len(sentences), touched, tuple(names), advice_on(sentences[0]))
