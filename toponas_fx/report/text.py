"""The report's three parts on one screen: what was gained, what became of each kind of edge, and what was refused."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from toponas_fx.analysis.algebra import ARITHMETIC
from toponas_fx.analysis.costs import Costs
from toponas_fx.report.parts import KindReport, RefusalReport

if TYPE_CHECKING:
    from rich.console import RenderableType

LEGEND = (
    "x: its input; wᵢ: the weight of candidate i; pᵢ: its share where some meet, W: their weight; "
    "K̂: a normalized kernel; dw: depthwise"
)
DRAWN_LEGEND = (
    "x: its input; |: or; i: the candidate that a step takes; wᵢ: its weight; wⱼ: that of another; dw: depthwise"
)
PER_STEP = (
    "a step, on average over uniform draws; parameters are those of all candidates, bytes saved the mean of a few steps"
)
SAME = "the same"
NOTHING = "no mixed operation found: nothing to simplify"
WIDTH = 80
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
QUIET = (*ARITHMETIC, "eliminate-dead-code")
"""Passes whose refusals concern arithmetic, not what an edge is."""
_KINDS, _REFUSALS, _NOTES, _CANDIDATES, _NAMES = 4, 3, 4, 10, 3
Entry = tuple[str, list[tuple[str, str]]]
"""A line, and what belongs to it, by a word."""
_HELD = "\N{NO-BREAK SPACE}"
_QUOTED = re.compile(r"`[^`]*`")


def count(number: int, noun: str) -> str:
    """Write a number of things."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


def shapeless(sentence: str) -> str:
    """Return a sentence without the names in it."""
    return _QUOTED.sub("`", sentence)


def cost_rows(before: Costs, after: Costs) -> Iterator[tuple[str, int, int]]:
    """Yield title, cost before and cost after, of the costs that are known."""
    for name, title in _ROWS.items():
        old, new = getattr(before, name), getattr(after, name)
        if old is not None and new is not None:
            yield title, old, new


@dataclass(frozen=True)
class Summary:
    """What stands on the screen.

    Attributes:
        title: model, mode and numbers.
        costs: before and after.
        kinds: the kinds of edges, those that changed first.
        refusals: what was refused, what the user can act on first.
        notes: sentences.
        caption: what the costs are of; may be empty.
    """

    title: str
    costs: tuple[Costs, Costs]
    kinds: tuple[KindReport, ...]
    refusals: tuple[RefusalReport, ...]
    notes: tuple[str, ...]
    caption: str = ""

    def text(self) -> str:
        """Write it as plain text of 80 columns."""
        lines = _wrapped(self.title, "")
        for number, (title, old, new, ratio) in enumerate(self._costs()):
            if number == 0:
                lines += ["", *_wrapped(self.caption, ""), f"{'':<26}{'before':>16}{'after':>16}{'ratio':>8}"]
            lines.append(f"{title:<26}{old:>16}{new:>16}{ratio:>8}")
        for heading, entries in self._sections():
            lines += ["", *_wrapped(heading, "")]
            for head, details in entries:
                lines += _wrapped(head, "  ", "    ")
                lines += [
                    line
                    for key, value in details
                    for line in _wrapped(f"{key:<7} {_held(key, value)}", "    ", " " * 12)
                ]
        return "\n".join(lines)

    def markdown(self) -> str:
        """Write it as Markdown."""
        told = [self.caption, ""] if self.caption else []
        lines = [f"**{self.title}**", "", *told, "| | before | after | ratio |", "|---|---:|---:|---:|"]
        lines += [f"| {' | '.join(row)} |" for row in self._costs()]
        for heading, entries in self._sections():
            lines += ["", f"**{heading}**", ""]
            for head, details in entries:
                lines.append(f"- {_code(head)}")
                lines += [f"  - {key}: `{value}`" for key, value in details]
        return "\n".join(lines)

    def html(self) -> str:
        """Write it as HTML."""
        head = "".join(f"<th>{name}</th>" for name in ("", "before", "after", "ratio"))
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self._costs())
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        found = f"<p><b>{escape(self.title)}</b></p><table>{caption}<tr>{head}</tr>{rows}</table>"
        for heading, entries in self._sections():
            items = "".join(
                f"<li>{escape(entry)}"
                + "".join(f"<br>{escape(key)}: <code>{escape(value)}</code>" for key, value in details)
                + "</li>"
                for entry, details in entries
            )
            found += f"<p><b>{escape(heading)}</b></p><ul>{items}</ul>"
        return f"<div>{found}</div>"

    def rich(self) -> RenderableType:
        """Build it for the terminals of ``rich``."""
        from rich import box
        from rich.console import Group
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        costs = Table(box=box.SIMPLE_HEAD, caption=Text(self.caption) if self.caption else None)
        for column in ("", "before", "after", "ratio"):
            costs.add_column(column, justify="right" if column else "left")
        for row in self._costs():
            costs.add_row(*map(Text, row))
        parts: list[RenderableType] = [Text(self.title, style="bold"), costs]
        for heading, entries in self._sections():
            parts.append(Text(heading, style="bold"))
            for head, details in entries:
                parts.append(Padding(Text(head), (0, 0, 0, 2)))
                grid = Table.grid(padding=(0, 1))
                for key, value in details:
                    grid.add_row(Text(key, style="dim"), Text(value, style=_STYLES.get(key, "")))
                parts += [Padding(grid, (0, 0, 0, 4))] if details else []
        return Group(*parts)

    def _costs(self) -> Iterator[tuple[str, str, str, str]]:
        for title, old, new in cost_rows(*self.costs) if self.costs[0].nodes else ():
            if title != _ROWS["nodes"]:
                yield title, f"{old:,}", f"{new:,}", f"{new / old:.2f}" if old else "-"

    def _sections(self) -> Iterator[tuple[str, list[Entry]]]:
        """Yield headings, each with its entries."""
        mixed = [kind for kind in self.kinds if not kind.drawn]
        changed = [kind for kind in mixed if kind.before != kind.after]
        if changed:
            yield f"kinds of edges ({LEGEND})", [*map(_kind, changed[:_KINDS]), *_more_kinds(changed[_KINDS:])]
        drawn = [kind for kind in self.kinds if kind.drawn]
        if drawn:
            heading = f"edges of which a step computes one candidate ({DRAWN_LEGEND})"
            yield heading, [*map(_kind, drawn[:_KINDS]), *_more_kinds(drawn[_KINDS:])]
        unchanged = [kind for kind in mixed if kind.before == kind.after]
        if unchanged:
            entries: list[Entry] = [(f"{_edges(kind)}: {kind.before}", []) for kind in unchanged[:_KINDS]]
            yield "edges whose algebra stays", [*entries, *_more_kinds(unchanged[_KINDS:])]
        if not self.kinds:
            yield NOTHING, []
        rest: list[Entry]
        told = [each for each in self.refusals if each.advice and each.pass_name not in QUIET]
        if told:
            others = len(self.refusals) - len(told[:_REFUSALS])
            rest = [(f"and {count(others, 'other reason')}: report.details()", [])] if others else []
            yield "refused", [*map(_refusal, told[:_REFUSALS]), *rest]
        if self.notes:
            more = len(self.notes) - _NOTES
            rest = [(f"and {count(more, 'more note')}: report.notes", [])] if more > 0 else []
            yield "notes", [*((note, []) for note in self.notes[:_NOTES]), *rest]


_STYLES = {"before": "yellow", "after": "green", "you can": "cyan"}


def _kind(kind: KindReport) -> Entry:
    names = [f"{number} {name}" for number, name in enumerate(kind.candidates, start=1)]
    if len(names) > _CANDIDATES:
        names = [*names[: _CANDIDATES - 2], "…", names[-1]]
    after = SAME if kind.drawn and kind.after == kind.before else kind.after
    details = [("of", ", ".join(names)), ("before", kind.before), ("after", after)]
    return _edges(kind), details


def _edges(kind: KindReport) -> str:
    names = [*kind.edges[:_NAMES]] if len(kind.edges) <= _NAMES else [kind.edges[0]]
    more = len(kind.edges) - len(names)
    return f"{count(len(kind.edges), 'edge')}, {', '.join(names)}" + (f" and {more} more" if more else "")


def _more_kinds(kinds: Sequence[KindReport]) -> list[Entry]:
    edges = sum(len(kind.edges) for kind in kinds)
    return [(f"and {count(len(kinds), 'more kind')} on {count(edges, 'edge')}: report.kinds", [])] if kinds else []


def _refusal(refusal: RefusalReport) -> Entry:
    names = [*refusal.candidates[:_NAMES], *(["…"] if len(refusal.candidates) > _NAMES else [])]
    where = f" on {count(refusal.edges, 'edge')} ({', '.join(names)})" if refusal.edges else ""
    times = f", {refusal.places} times" if refusal.places > 1 and not refusal.edges else ""
    head = f"{refusal.pass_name}{where}{times}: {refusal.reason}"
    return head, [("you can", refusal.advice)] if refusal.advice else []


def _wrapped(text: str, first: str, others: str | None = None) -> list[str]:
    """Wrap a text; what spaces that do not break hold together stays on one line."""
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if others is None else others,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_HELD, " ") for line in lines]


def _held(key: str, value: str) -> str:
    """Let a list of candidates break between them, and an algebra before additions and kernels only."""
    if key == "of":
        return re.sub(r"(?<=\d) ", _HELD, value)
    if key in ("before", "after"):
        return re.sub(r"(?<=[^;]) (?![+=|-] |[uvstabcd] =)", _HELD, value)
    return value


def _code(text: str) -> str:
    """Set what Markdown would take for markup, such as underscores, in code."""
    return re.sub(r"(?<![\w`])[\w.<>-]*[_*<>][\w.<>*-]*(?!`)", lambda found: f"`{found.group()}`", text)
