"""What a picture of a supernet shows, as plain data: cells, their edges, the candidates and what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Key = tuple[str, int]
"""An edge of the supernet: the name of the sum that it ends in, and its number within that sum."""

SHARED, ONCE, KEPT, DROPPED = "shared", "once", "kept", "dropped"
FATES = {
    SHARED: "modules shared, kernels merged",
    ONCE: "computed once for several edges",
    KEPT: "as written",
    DROPPED: "dropped: always zero, or computed elsewhere",
}
"""What may become of a candidate, in words."""
ONE_A_STEP = "dashed: a step computes one of the candidates"


@dataclass(frozen=True)
class Deed:
    """What one pass did to a candidate, or refused to do.

    Attributes:
        by: the number of the pass.
        text: the sentence.
    """

    by: int
    text: str


@dataclass(frozen=True)
class Candidate:
    """One candidate operation of an edge, as the user wrote it.

    Attributes:
        name: the field's word for it, ``sep_conv_3x3``, or its operations.
        ops: its operations in order.
        weight: its architecture weight, in words.
        value: that weight now; None where it is not known.
        fate: what became of it, of ``FATES``.
        changes: what was done to it, in order.
        refusals: what was not, and why.
    """

    name: str
    ops: tuple[str, ...]
    weight: str
    value: float | None
    fate: str
    changes: tuple[Deed, ...]
    refusals: tuple[Deed, ...]


@dataclass(frozen=True)
class Step:
    """One operation of what an edge computes now.

    Attributes:
        label: what it is, ``Conv2d 5x5 dw``.
        fate: of ``SHARED``, ``ONCE`` and ``KEPT``.
        column: how many operations come before it at least.
        row: its place among those of its column.
    """

    label: str
    fate: str
    column: int
    row: int


@dataclass(frozen=True)
class Term:
    """One term of the sum that an edge computes now.

    Attributes:
        covers: the places of the candidates that it computes.
        weight: what it is multiplied by, in words; empty for nothing.
        fate: of ``SHARED``, ``ONCE`` and ``KEPT``.
        steps: its operations.
        links: which step reads which, ``(from, to)``; -1 is the value that the edge reads.
        partners: the edges that the same operations are computed for, if there are any.
    """

    covers: tuple[int, ...]
    weight: str
    fate: str
    steps: tuple[Step, ...]
    links: tuple[tuple[int, int], ...]
    partners: tuple[Key, ...]

    @property
    def label(self) -> str:
        """What it is called where it covers no candidate alone: by its last operation."""
        return self.steps[-1].label if self.steps else "skip"


@dataclass(frozen=True)
class EdgeCosts:
    """What the operations of one edge cost, on average over uniform draws; those that several share count at each.

    Attributes:
        convolutions: convolutions.
        norms: normalizations.
        flops: floating point operations of one forward pass at the batch of the example; None where not known.
    """

    convolutions: float
    norms: float
    flops: int | None


@dataclass(frozen=True)
class Edge:
    """One edge of a cell: candidates that read one value, weighted and added up, or one of them that is drawn.

    Attributes:
        key: which sum it ends in.
        name: where its candidates are in the model.
        source: the place of the value that it reads, in the cell.
        target: the place of the sum.
        candidates: as the user wrote them.
        terms: what it computes now.
        around: what the edge is weighted by as a whole, where it is.
        algebra: what it computed and what it computes, as formulas, see ``toponas_fx.analysis.algebra``.
        before: costs as the user wrote it; None where not known.
        after: costs now.
        drawn: whether a step computes one of its candidates alone.
    """

    key: Key
    name: str
    source: int
    target: int
    candidates: tuple[Candidate, ...]
    terms: tuple[Term, ...]
    around: Candidate | None
    algebra: tuple[str, str]
    before: EdgeCosts | None
    after: EdgeCosts | None
    drawn: bool = False

    @property
    def how(self) -> str:
        """What a step does with its candidates, where it does not compute them all; empty where it does."""
        return f"one of {len(self.candidates)} a step" if self.drawn else ""


@dataclass(frozen=True)
class Value:
    """A node of a cell: a value that edges start from or end in.

    Attributes:
        label: its number among the sums, or ``in``.
        role: ``"input"`` or ``"sum"``.
        type: ``f32[2,16,32,32]``.
        name: of the node in the graph.
        leaves: whether something outside of the cell reads it.
    """

    label: str
    role: str
    type: str
    name: str
    leaves: bool


@dataclass(frozen=True)
class Cell:
    """A part of the network that is drawn as one.

    Attributes:
        path: the module that holds it; empty for the whole model.
        values: its nodes, inputs first, each after those that it is computed from.
        edges: its edges.
        plain: computations without a choice between two of its nodes: from, to, and how many operations.
    """

    path: str
    values: tuple[Value, ...]
    edges: tuple[Edge, ...]
    plain: tuple[tuple[int, int, int], ...]

    @property
    def written(self) -> tuple[Any, ...]:
        """What cells that are written alike have in common: everything but names, sizes and values."""
        edges = (
            (edge.source, edge.target, edge.drawn, tuple((part.name, part.ops) for part in edge.candidates))
            for edge in self.edges
        )
        return tuple((value.label, value.role) for value in self.values), self.plain, tuple(edges)

    @property
    def structure(self) -> tuple[Any, ...]:
        """What cells have in common that were simplified alike too."""
        terms = (tuple((term.covers, term.fate, term.steps, term.links) for term in edge.terms) for edge in self.edges)
        return self.written, tuple(terms)


@dataclass(frozen=True)
class PassStep:
    """One pass, in the order in which they ran.

    Attributes:
        name: the pass.
        about: what it does, in a sentence.
        promise: what it promises.
        changes: how many changes it made in the whole model.
        before: convolutions, norms and nodes of the graph before it.
        after: and after it.
    """

    name: str
    about: str
    promise: str
    changes: int
    before: tuple[float, float, float]
    after: tuple[float, float, float]


@dataclass(frozen=True)
class Drawing:
    """All that a page shows.

    Attributes:
        model: the user's class.
        mode: ``"share"`` or ``"exact"``.
        costs: rows of what the whole model costs, before and after.
        passes: the passes, in order.
        cells: the cells, in the order of computation.
        links: which cell reads which, by place.
        notes: sentences of the report, and of this drawing.
        reason: why there is nothing to draw; empty where there is.
        caption: what the costs are of, where a step does not run all that is counted.
    """

    model: str
    mode: str
    costs: tuple[tuple[str, float, float], ...]
    passes: tuple[PassStep, ...] = ()
    cells: tuple[Cell, ...] = ()
    links: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()
    reason: str = ""
    caption: str = ""

    @property
    def draws(self) -> bool:
        """Whether a step computes one candidate alone on some edges."""
        return any(edge.drawn for cell in self.cells for edge in cell.edges)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The cells, equal ones together, in order of appearance."""
        written: dict[Any, dict[Any, list[int]]] = {}
        for place, cell in enumerate(self.cells):
            written.setdefault(cell.written, {}).setdefault(cell.structure, []).append(place)
        return tuple(
            Kind(_letters(number) + "\N{PRIME}" * variant, tuple(places))
            for number, variants in enumerate(written.values())
            for variant, places in enumerate(variants.values())
        )


@dataclass(frozen=True)
class Kind:
    """Equal cells.

    Attributes:
        name: a letter, with a prime where cells written alike were simplified otherwise.
        cells: their places.
    """

    name: str
    cells: tuple[int, ...]


def _letters(number: int) -> str:
    rest, last = divmod(number, 26)
    return (_letters(rest - 1) if rest else "") + chr(ord("A") + last)
