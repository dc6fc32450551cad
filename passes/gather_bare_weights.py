"""Read the bare weights of one row at once.

Before::

    %0 = input x
    %1 = attr alphas
    %2 = multinomial(%1, 1)
    %3 = .__int__(%2)
    %4 = getitem(%1, 0)
    %5 = relu(%0)
    %6 = getitem(%1, 1)
    %7 = getitem(%1, 2)
    %8 = mixed_sum([%5, 1.0, 1.0], [%4, %6, %7], (0, 0, 0))
    %9 = tanh(%0)
    %10 = tanh(%0)
    %11 = select(%2, (0, 1, 2), (%8, %9, %10))
    return %11

After::

    %0 = input x
    %1 = attr alphas
    %2 = multinomial(%1, 1)
    %3 = .__int__(%2)
    %4 = getitem(%1, 0)
    %5 = relu(%0)
    %6 = sum_of(%1, (1, 2))
    %7 = mixed_sum([%5, 1.0], [%4, %6], (0, 0))
    %8 = tanh(%0)
    %9 = tanh(%0)
    %10 = select(%2, (0, 1, 2), (%7, %8, %9))
    return %10

Where a path is sampled, the weights of all candidates that were not taken are added to what the one that was computes
(a hard sample's ``w[i]``): one product of the row and a mask gives their sum, and its gradient goes to the row at once.
Weights that were added up before are read with them.

Refuses:

1. weights that are no elements of one row, are read twice, or lie in memory that is written in place;
2. a weight alone, and weights outside the arms of choices.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx import ops
from toponas_fx.analysis.arms import home
from toponas_fx.analysis.memory import Memory
from toponas_fx.analysis.mixed_ops import is_mixed_sum
from toponas_fx.rewriting.pass_base import Pass, Plan, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter
from toponas_fx.rewriting.sum_terms import SumTerms


@dataclass(frozen=True)
class BareRow:
    """Bare weights of a sum, by position, that are elements of one row or sums of these; with their places in it."""

    sum_node: fx.Node
    row: fx.Node
    positions: tuple[int, ...]
    places: tuple[tuple[int, ...], ...]

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The sum, and the row."""
        return self.sum_node, self.row

    def describe(self) -> str:
        """Say how many there are."""
        return f"{sum(map(len, self.places))} bare weights of one row are read at once"


@dataclass(frozen=True)
class GatherBareWeights(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "gather-bare-weights"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    stage: ClassVar[Stage] = Stage.LOWER

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find the first such row of each sum."""
        memory = Memory.of(gm)
        found = [_bare_rows(node, memory)[:1] for node in gm.graph.nodes if is_mixed_sum(node)]
        return Plan(tuple(match for matches in found for match in matches))

    def apply(self, match: BareRow, rewriter: Rewriter) -> None:
        """Put the sum of the elements in the place of the first; a weight of 0 has its gradient by the row."""
        found = SumTerms(match.sum_node)
        taken = [part for i in match.positions for part in _parts(found.weights[i])]
        places = tuple(
            place for i, own in zip(match.positions, match.places, strict=True) if found.terms[i] for place in own
        )
        first, *rest = match.positions
        with rewriter.before(match.sum_node, *taken):
            fresh = rewriter.call_function(ops.sum_of, (match.row, places), type=taken[0].meta["type"])
        found.put(first, 1.0, fresh)
        found.drop(rest)
        found.write(rewriter, is_kept=True)
        rewriter.erase_unread(taken)


def _bare_rows(node: fx.Node, memory: Memory) -> list[BareRow]:
    """Return the bare weights of a sum that are elements of one row, at least two of each."""
    terms: Any = node.args[0]
    weights: Any = node.args[1]
    found: dict[fx.Node, dict[int, tuple[int, ...]]] = {}
    for i, (term, weight) in enumerate(zip(terms, weights, strict=True)):
        if isinstance(term, float) and isinstance(weight, fx.Node) and home(weight) is not None:
            row, places = _added_up(weight, memory)
            if row is not None:
                found.setdefault(row, {})[i] = places
    rows = {
        row: at
        for row, at in found.items()
        if all(terms[i] in (0.0, 1.0) for i in at) and any(map(terms.__getitem__, at))
    }
    matches = [BareRow(node, row, tuple(at), tuple(at.values())) for row, at in rows.items()]
    every = [(match, [place for places in match.places for place in places]) for match in matches]
    return [match for match, places in every if len(set(places)) == len(places) > 1 and not _is_done(match)]


def _is_done(match: BareRow) -> bool:
    weights: Any = match.sum_node.args[1]
    return len(match.positions) == 1 and weights[match.positions[0]].target is ops.sum_of


def _added_up(weight: Any, memory: Memory) -> tuple[fx.Node | None, tuple[int, ...]]:
    """Return the row, and the places in it, of whose elements a weight is the sum; None for others."""
    row = _row_of(weight)
    if not isinstance(weight, fx.Node) or memory.is_written(weight):
        return None, ()
    if row is not None:
        return row, (weight.args[1],)  # type: ignore[return-value]
    if weight.target is ops.sum_of:
        return weight.args  # type: ignore[return-value]
    if weight.target is not operator.add or len(weight.args) != 2 or weight.kwargs or len(weight.users) > 1:
        return None, ()
    (one, left), (other, right) = (_added_up(part, memory) for part in weight.args)
    return (one, (*left, *right)) if one is other else (None, ())


def _row_of(weight: Any) -> fx.Node | None:
    """Return the row that a weight is an element of, by a place from its beginning."""
    if not isinstance(weight, fx.Node) or weight.target is not operator.getitem:
        return None
    row, place = weight.args
    kind = row.meta.get("type") if isinstance(row, fx.Node) else None
    is_row = kind is not None and len(kind.shape) == 1 and kind.dtype.is_floating_point
    return row if is_row and type(place) is int and place >= 0 else None  # type: ignore[return-value]


def _parts(weight: fx.Node) -> list[fx.Node]:
    """Return a weight, and what it was added up of."""
    below = weight.args if weight.target is operator.add else ()
    return [weight, *(part for value in below for part in _parts(value))]  # type: ignore[arg-type]


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            if int(torch.multinomial(self.alphas, 1)) == 0:
                return self.alphas[0] * torch.relu(x) + self.alphas[1] + self.alphas[2]
            return torch.tanh(x)

    return Example(), torch.ones(1, 2)
