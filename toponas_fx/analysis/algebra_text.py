"""Expressions of an edge's algebra, and how they are written: ``W·BN(conv(relu x; Σ₁,₂ pᵢ·K̂ᵢ)) + w₄·x``.

Terms that differ only in whose operations they name are one sum over ``i``. An operation that several others read
stands once, as ``u = …``. What gets too long is cut at a depth, with an ellipsis in its place: less, never something
else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

SHORT = 200
"""Letters that a line may have before it is cut at a depth."""
_DEPTHS = (99, 8, 7, 6, 5, 4, 3, 2)
_MOST = 2000
"""Expressions that are written for a line: a graph may have far more paths than nodes."""
_NAMES = "uvstabcd"
_LETTERS = tuple("xyz" + _NAMES)
_SUBSCRIPTS = str.maketrans("0123456789-", "₀₁₂₃₄₅₆₇₈₉₋")


@dataclass(frozen=True)
class Weight:
    """What a term is multiplied by.

    Attributes:
        kind: ``"w"`` the architecture weight of a candidate, ``"p"`` its share of those that meet in one operation,
            ``"W"`` the group weight of those, ``"+w"`` and ``"+p"`` a sum of several, ``"1"`` a number, ``"own"`` none,
            of a candidate all the same, ``"?"`` anything else.
        who: the candidates that it is computed from, counted from 1.
        number: a constant factor.
    """

    kind: str
    who: frozenset[int] = frozenset()
    number: float = 1.0


@dataclass(eq=False)
class Expression:
    """A leaf (no arguments), an operation on its arguments, a product (named ``·``), a weighted sum (named ``+``).

    One of several weighted terms, of which a step computes one, is named ``|``.

    Attributes:
        name: what it is called.
        args: what it reads.
        weights: of a sum's terms.
        kernel: how its kernel is made, where passes did that.
        is_own: whether it has weights or sizes of its own: another one of that name may be another operation.
        options: what else sets it apart from another one of that name.
    """

    name: str
    args: tuple[Expression, ...] = ()
    weights: tuple[Weight, ...] = ()
    kernel: str = ""
    is_own: bool = False
    options: tuple[str, ...] | None = None

    def parts(self) -> dict[Expression, None]:
        """Return this expression and all below it, each once."""
        seen: dict[Expression, None] = {}
        queue = [self]
        while queue:
            part = queue.pop()
            if part not in seen:
                seen[part] = None
                queue += reversed(part.args)
        return seen


class _TooLong(Exception):
    """A line goes on and on."""


def written(total: Expression, count: int) -> str:
    """Write the sum of an edge as one line.

    Args:
        total: the sum.
        count: the candidates of the edge.
    """
    parts = total.parts()
    readers = Counter(arg for part in parts for arg in part.args)
    shared = [part for part in parts if readers[part] > 1 and part.is_own and part.args]
    groups = {weight.who for part in parts for weight in part.weights if weight.kind == "W"}
    if len(shared) > len(_NAMES):
        return "…"
    for depth in _DEPTHS:
        writer = _Writer(count, len(groups) == 1, dict(zip(shared, _NAMES, strict=False)), depth)
        with suppress(_TooLong):
            text = writer.line(total)
            if len(text) <= SHORT:
                return text
    return "…"


def subscript(who: Iterable[int]) -> str:
    """Write the numbers of candidates: ``₄``, ``₅,₆``, ``₁₋₃``."""
    return _numbers(who).translate(_SUBSCRIPTS)


def _numbers(who: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(who):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs]
    return ",".join(texts)


@dataclass
class _Writer:
    """Writes one line.

    Attributes:
        count: the candidates of the edge.
        is_one_group: whether there is one group weight.
        names: of the operations that stand apart.
        depth: of what is written out.
        common: what all terms of the sum over ``i`` that is being written read.
        spent: expressions written so far.
    """

    count: int
    is_one_group: bool
    names: dict[Expression, str]
    depth: int
    common: set[Expression] = field(default_factory=set)
    spent: int = 0

    def line(self, total: Expression) -> str:
        """Write a sum, and behind it what it names."""
        texts = [self._alternatives(total) if total.name == "|" else self._sum(total, "", 0)]
        left = {name: f"{name} = {self._call(part, '', 1)}" for part, name in self.names.items()}
        for text in texts:
            found = [name for name in left if re.search(rf"(?<!\w){name}(?!\w)", text)]
            texts += [left.pop(name) for name in found]
        return ", ".join(texts)

    def _text(self, part: Expression, mark: str, depth: int) -> str:
        if part in self.names:
            return self.names[part]
        self.spent += 1
        if self.spent > _MOST:
            raise _TooLong
        return (self._sum if part.name == "+" else self._call)(part, mark, depth)

    def _call(self, part: Expression, mark: str, depth: int) -> str:
        if not part.args:
            return part.name
        if depth >= self.depth:
            return "…"
        if part.name == "·":
            factors = [self._factor(arg, mark, depth + 1) for arg in part.args]
            return "·".join(f"({text})" if " " in _outermost(text) else text for text in factors)
        name = part.name + (mark if part.is_own and part not in self.common else "")
        inner = ", ".join(self._text(arg, mark, depth + 1) for arg in part.args)
        if not part.is_own and len(part.args) == 1 and inner in _LETTERS:
            return f"{name} {inner}"
        return f"{name}({inner}; {part.kernel})" if part.kernel else f"{name}({inner})"

    def _sum(self, part: Expression, mark: str, depth: int) -> str:
        if depth >= self.depth:
            return "…"
        texts = [self._group(group, mark, depth) for group in self._alike(part)]
        return " + ".join(texts).replace("+ -", "- ") or "0"

    def _alternatives(self, part: Expression) -> str:
        """Write what may be drawn: ``w₁·x | wᵢ·BNᵢ(convᵢ(relu x)), i=2-4``."""
        texts = []
        for group in self._alike(part):
            who = frozenset[int]().union(*(weight.who for weight, _ in group))
            told = f", i={_numbers(who)}" if 1 < len(group) < self.count else ""
            texts.append(self._group(group, "", 0).replace(f"{self._over(who)} ", "", 1) + told)
        return " | ".join(texts)

    def _factor(self, part: Expression, mark: str, depth: int) -> str:
        text = self._text(part, mark, depth)
        return f"({text})" if " + " in text and part.name == "+" and part not in self.names else text

    def _alike(self, part: Expression) -> list[list[tuple[Weight, Expression]]]:
        """Return the terms of a sum, those together that differ only in whose they are."""
        groups: dict[Any, list[tuple[Weight, Expression]]] = {}
        for place, (weight, term) in enumerate(zip(part.weights, part.args, strict=True)):
            is_single = weight.kind in ("w", "p", "own") and len(weight.who) == 1 and weight.number == 1
            key = (weight.kind, *self._skeleton(term)) if is_single and term.name != "+" else place
            is_repeated = any(weight.who == other.who for other, _ in groups.get(key, ()))
            groups.setdefault(place if is_repeated else key, []).append((weight, term))
        return list(groups.values())

    def _skeleton(self, term: Expression) -> tuple[Any, ...]:
        outer, self.common = self.common, set()
        text = self._text(term, "ᵢ", 0)
        self.common = outer
        return text, *(part.options for part in term.parts() if not part.is_own)

    def _group(self, group: Sequence[tuple[Weight, Expression]], mark: str, depth: int) -> str:
        weight, term = group[0]
        if len(group) == 1:
            factor = self._weight(weight)
            separator = "·" if factor not in ("", "-") else ""
            is_bare = not separator and factor == ""
            return factor + separator + (self._text if is_bare else self._factor)(term, mark, depth)
        who = frozenset[int]().union(*(weight.who for weight, _ in group))
        outer, self.common = self.common, set.intersection(*(set(term.parts()) for _, term in group))
        text = self._factor(term, "ᵢ", depth)
        self.common = outer
        factor = "" if weight.kind == "own" else f"{weight.kind}ᵢ·"
        return f"{self._over(who)} {factor}{text}"

    def _over(self, who: frozenset[int]) -> str:
        return "Σ" if len(who) == self.count else f"Σ{subscript(who)}"

    def _weight(self, weight: Weight) -> str:
        """Write a weight; nothing for 1."""
        sign = "-" if weight.number < 0 else ""
        number = "" if abs(weight.number) == 1 else f"{abs(weight.number):g}"
        letter = {"W": "W" if self.is_one_group else f"W{subscript(weight.who)}", "1": "", "own": "", "?": "…"}.get(
            weight.kind
        )
        if weight.kind in ("+w", "+p"):
            letter = f"({self._over(weight.who)} {weight.kind[1]}ᵢ)"
        letter = weight.kind + subscript(weight.who) if letter is None else letter
        return sign + "·".join(part for part in (number, letter) if part)


def _outermost(text: str) -> str:
    """Return a text without what stands in brackets."""
    plain, before = re.sub(r"\([^()]*\)", "", text), text
    return plain if plain == before else _outermost(plain)
