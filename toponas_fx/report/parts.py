"""What a report is made of: edges, their candidate operations, kinds of edges and refusals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CandidateReport:
    """What became of one candidate operation.

    Attributes:
        label: its operations.
        weight: its architecture weight, in words.
        changes: what was done to it, each by which pass.
        refusals: what was not done, and why.
        name: in the field's words, ``sep_conv_3x3`` say, or the user's own.
    """

    label: str
    weight: str
    changes: tuple[str, ...]
    refusals: tuple[str, ...]
    name: str = ""


@dataclass(frozen=True)
class MixtureReport:
    """What became of one edge: a mixed operation, or candidate operations of which a step takes one.

    Attributes:
        name: where its candidates are in the model, or the name of its sum.
        source: the value that its candidates read, and its type.
        candidates: its candidate operations, in order.
        before: its algebra as the user wrote it, see ``toponas_fx.analysis.algebra``.
        after: what that came to.
        key: the name of its sum in the captured graph, and its number within.
        drawn: whether a step computes one of its candidates alone.
    """

    name: str
    source: str
    candidates: tuple[CandidateReport, ...]
    before: str = "…"
    after: str = "…"
    key: tuple[str, int] = ("", 0)
    drawn: bool = False


@dataclass(frozen=True)
class RefusalReport:
    """One thing that a pass refused, wherever it did so.

    Attributes:
        pass_name: the pass.
        reason: why; the first place's names stand for those of others.
        places: how often.
        edges: on how many edges.
        candidates: the names of the candidate operations that it is about.
        advice: what the user could do about it; empty where nothing.
    """

    pass_name: str
    reason: str
    places: int
    edges: int
    candidates: tuple[str, ...]
    advice: str


@dataclass(frozen=True)
class KindReport:
    """Edges of one kind: they compute the same algebra, before and after.

    Attributes:
        candidates: the names of their candidate operations.
        before: the algebra as the user wrote it.
        after: what it came to.
        edges: the edges' names.
        passes: the passes that changed something in them, in order.
        refusals: what was refused in them.
        drawn: whether a step computes one of the candidates alone.
    """

    candidates: tuple[str, ...]
    before: str
    after: str
    edges: tuple[str, ...]
    passes: tuple[str, ...]
    refusals: tuple[RefusalReport, ...]
    drawn: bool = False
