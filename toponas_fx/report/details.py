"""The full text of a report: each edge with its candidate operations, what was done to them and what was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from toponas_fx.analysis.costs import Costs
from toponas_fx.report.parts import CandidateReport, MixtureReport
from toponas_fx.report.text import cost_rows, count, shapeless
from toponas_fx.rewriting.pipeline import PassRecord

_SHOWN = 3


def details(
    title: str,
    edges: Sequence[MixtureReport],
    costs: tuple[Costs, Costs],
    caption: str,
    records: Mapping[str, Sequence[PassRecord]],
    notes: Sequence[str],
) -> str:
    """Write a report as text; edges that differ only in names are written once.

    Args:
        title: the first line.
        edges: what became of each.
        costs: before and after.
        caption: what they are of; may be empty.
        records: what the passes did to the graph of each mode, by what is said of that mode.
        notes: the last lines.
    """
    lines = [title]
    if not edges:
        lines += ["", "no mixed operation found: nothing to simplify"]
    groups: dict[Any, list[MixtureReport]] = {}
    for edge in edges:
        groups.setdefault(_without_names(edge), []).append(edge)
    for group in groups.values():
        lines += ["", *_edge_lines(group)]
    lines += ["", *([caption] if caption else []), *_cost_lines(*costs), "", *_pass_lines(edges, records)]
    lines += [f"note: {note}" for note in notes]
    return "\n".join(lines).rstrip()


def _without_names(edge: MixtureReport) -> tuple[Any, ...]:
    """Return what edges that differ only in names have in common."""
    return edge.drawn, *(
        (part.name, part.label, *(shapeless(text) for text in (*part.changes, *part.refusals)))
        for part in edge.candidates
    )


def _edge_lines(group: Sequence[MixtureReport]) -> Iterator[str]:
    first, *others = group
    names = [edge.name for edge in others[:_SHOWN]]
    if len(others) > _SHOWN:
        names.append(f"{len(others) - _SHOWN} more")
    alike = f", x{len(group)}: also {', '.join(names)}" if others else ""
    drawn = f", one of {len(first.candidates)} a step" if first.drawn else ""
    yield f"{first.name}, from {first.source}{drawn}{alike}"
    width = max(len(part.weight) for part in first.candidates)
    titles = [_title(part) for part in first.candidates]
    together = Counter(text for part in first.candidates for text in (*part.changes, *part.refusals))
    for part, title in zip(first.candidates, titles, strict=True):
        yield f"  {part.weight:<{width}}  {title}"
        texts = [text for text in (*part.changes, *part.refusals) if together[text] == 1]
        yield from (f"  {'':<{width}}    {text}" for text in texts)
    for text in (text for text, number in together.items() if number > 1):
        numbers = [str(i) for i, part in enumerate(first.candidates, 1) if text in (*part.changes, *part.refusals)]
        yield f"  candidates {', '.join(numbers)}: {text}"


def _title(part: CandidateReport) -> str:
    return part.label if part.name in ("", part.label) else f"{part.name}: {part.label}"


def _cost_lines(before: Costs, after: Costs) -> Iterator[str]:
    yield f"{'':<26}{'before':>16}{'after':>16}{'ratio':>8}"
    for title, old, new in cost_rows(before, after):
        ratio = f"{new / old:.2f}" if old else "-"
        yield f"{title:<26}{old:>16,}{new:>16,}{ratio:>8}"


def _pass_lines(edges: Sequence[MixtureReport], records: Mapping[str, Sequence[PassRecord]]) -> Iterator[str]:
    shown = {text for edge in edges for part in edge.candidates for text in part.refusals}
    for mode, own in records.items():
        for record in own:
            changes, refusals = count(len(record.changes), "change"), count(len(record.refusals), "refusal")
            yield f"{record.name}{mode} ({record.semantics.name}): {changes}, {refusals}"
            rest = [refusal.sentence for refusal in record.refusals]
            rest = [sentence for sentence in rest if f"{record.name} refused: {sentence}" not in shown]
            yield from (f"    refused elsewhere: {sentence}" for sentence in _shortened(rest))


def _shortened(sentences: Iterable[str]) -> Iterator[str]:
    """Yield sentences, those that differ only in names once with their number, and not too many."""
    groups: dict[str, list[str]] = {}
    for sentence in sentences:
        groups.setdefault(shapeless(sentence), []).append(sentence)
    for first, *others in list(groups.values())[:_SHOWN]:
        yield f"{first} (x{len(others) + 1})" if others else first
    if len(groups) > _SHOWN:
        yield f"and {len(groups) - _SHOWN} more"
