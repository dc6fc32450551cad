"""The algebra of an edge that draws: ``one of 3: w₁·x | wᵢ·BNᵢ(convᵢ(relu x)), i=2,3; each + Σ₍ⱼ≠ᵢ₎ wⱼ``.

Read off the graph like that of a mixed operation. Alternatives stand between bars; ``i`` is the one that is drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

from torch import fx

from toponas_fx.analysis.algebra_text import Expression, Weight, written
from toponas_fx.analysis.arms import home
from toponas_fx.analysis.candidate_names import is_zero
from toponas_fx.analysis.drawn_edges import UNKNOWN, Arm, Draw
from toponas_fx.analysis.edge_reader import EdgeReader
from toponas_fx.analysis.node_kinds import ADDITIONS
from toponas_fx.analysis.weight_elements import Elements

OTHERS = "; each + Σ₍ⱼ≠ᵢ₎ wⱼ"
_MORE = Expression("…")


def written_draw(draw: Draw, reader: EdgeReader) -> str:
    """Write what one draw computes.

    Args:
        draw: the edge.
        reader: of it, with nothing read so far.
    """
    return _DrawReader(draw, reader).text()


class _DrawReader:
    """Reads the arms of one edge."""

    def __init__(self, draw: Draw, reader: EdgeReader) -> None:
        self._draw, self._reader = draw, reader
        self._elements = Elements()
        self._owners: dict[Hashable, set[int]] = {}
        for number, arm in enumerate(draw.arms, start=1):
            if isinstance(arm.weight, fx.Node):
                self._owners.setdefault(self._key(arm.weight), set()).add(number)
        for node in draw.node.graph.nodes:  # what runs whatever is drawn is read no further
            if home(node) is None:
                reader.leaves.setdefault(node, None)

    def text(self) -> str:
        """Write all arms."""
        arms, count = self._draw.arms, len(self._draw.arms)
        adds_others = count > 1 and all(self._adds_others(number, arm) for number, arm in enumerate(arms, start=1))
        terms, weights = [], []
        for number, arm in enumerate(arms, start=1):
            weight, term = self._weight(number, arm), self._term(arm)
            if arm.rest and not adds_others:
                weight, term = Weight("1"), Expression("+", (term, _MORE), (weight, Weight("1")))
            weights.append(weight)
            terms.append(term)
        line = written(Expression("|", tuple(terms), tuple(weights)), count)
        return f"one of {count}: {line}{OTHERS if adds_others else ''}"

    def _term(self, arm: Arm) -> Expression:
        return Expression("0") if is_zero(arm.term) else self._reader.read(arm.term)

    def _weight(self, number: int, arm: Arm) -> Weight:
        if arm.weight is UNKNOWN:
            return Weight("?")
        if not isinstance(arm.weight, fx.Node):
            return Weight("own", frozenset({number})) if arm.weight == 1 else Weight("1", number=float(arm.weight))
        owners = self._owners[self._key(arm.weight)]
        return Weight("w", frozenset(owners if len(owners) == 1 else ()))

    def _adds_others(self, number: int, arm: Arm) -> bool:
        """Return whether an arm adds the weight of each candidate that is not drawn, once."""
        found = Counter(owner for value, factors in arm.rest for owner in self._added(value, factors))
        wanted = {frozenset(owners) for owners in self._owners.values()} - {frozenset({number})}
        is_told = len(self._owners) == len(self._draw.arms)
        return is_told and found == Counter(dict.fromkeys(wanted, 1))

    def _added(self, value: Any, factors: tuple[Any, ...]) -> list[frozenset[int]]:
        """Return whose weights are added, as a number times one factor or as a sum; none known counts as nobody's."""
        if isinstance(value, int | float):
            value, factors = (factors[0], ()) if value == 1 and len(factors) == 1 else (None, ())
        if factors or not isinstance(value, fx.Node):
            return [frozenset()]
        if value.target in ADDITIONS and len(value.args) == 2:
            return [owner for part in value.args if part != 0 for owner in self._added(part, ())]
        return [frozenset(self._owners.get(self._key(value), ()))]

    def _key(self, weight: fx.Node) -> Hashable:
        return self._elements.find(weight) or weight
