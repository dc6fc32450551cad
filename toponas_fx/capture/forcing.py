"""Forcing what draws decide: a recorded run takes the candidates that it is told to, in place of those drawn.

What a search draws is an index in the end: the argmax of noisy weights, a sample of a distribution, a random integer.
Forced is the tensor of that index, so that all that is computed from it (comparisons, one-hot rows, Python's numbers)
agrees.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from toponas_fx.analysis.arms import TAKING
from toponas_fx.capture.kept_choices import Kept
from toponas_fx.errors import CaptureError
from toponas_fx.ops.choices import INDICES

MOST = 16
"""Candidates of one choice, at most: each is a recorded run of its own."""
MOST_DRAWS = 2000
"""Draws of one run, at most: a loop that draws until it has what it wants may never have it when it is told what."""
NOTHING_KEPT: Mapping[Kept, Any] = {}


class Forcing:
    """What the draws of one run are.

    Attributes:
        turn: the run's number; where all draws are alike, the index of the candidate that is taken everywhere.
        round: where draws differ within the run, which of their digits tells how; together, the runs of all turns
            take each candidate everywhere, and those of all rounds tell any two draws apart. None where they are alike.
        given: the integers among forward's arguments, where these are choices.
        kept: the integers and names that modules keep, where these are.
        is_plain: whether Python gets plain integers and names, whose uses are not seen.
        sizes: how many candidates the draws had that were seen.
        count: how many choices there were so far.
    """

    def __init__(
        self,
        turn: int,
        round: int | None = None,
        given: Sequence[int] | None = None,
        kept: Mapping[Kept, Any] = NOTHING_KEPT,
        *,
        is_plain: bool = False,
    ) -> None:
        """Set turn and round, what forward is given and what modules keep, and whether it is plain."""
        self.turn, self.round, self.given, self.kept, self.is_plain = turn, round, given, kept, is_plain
        self.sizes: set[int] = set()
        self.first_draw = self.count = len(given or ()) + len(kept)
        self._nodes: set[fx.Node] = set()
        self._scalars: dict[fx.Node, Tensor] = {}
        self._derived: dict[fx.Node, bool] = {}

    def apply(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> bool:
        """Overwrite the result of a torch call if it is a draw; return whether it is.

        Args:
            name: of the function.
            args: its arguments.
            kwargs: those by name.
            value: what it returned.
        """
        if name == "gumbel_softmax":
            return self._force_one_hot(args, kwargs, value)
        if name in ("max", "min"):
            value = value[1] if isinstance(value, tuple) and len(value) == 2 else None
        if name not in INDICES or not isinstance(value, Tensor) or value.dtype != torch.int64:
            return False
        lowest, size = _range(name, args, kwargs)
        if size < 2 or not value.numel():
            return False
        value.copy_(self._indices(value, size, are_distinct=name == "multinomial") + lowest)
        return True

    def _force_one_hot(self, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> bool:
        names = ("logits", "tau", "hard", "eps", "dim")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if not given.get("hard", False) or not isinstance(value, Tensor):
            return False
        dim = int(given.get("dim", -1))
        with torch.no_grad():
            index = self._indices(value.select(dim, 0).unsqueeze(dim), value.shape[dim])
            value.zero_().scatter_(dim, index, 1.0)
        return True

    def _indices(self, like: Tensor, size: int, *, are_distinct: bool = False) -> Tensor:
        """Return the indices that are drawn, ``i64`` of a shape, each below ``size``; distinct in rows if asked."""
        columns = like.shape[-1] if are_distinct and like.dim() else 1
        order = list(range(size))
        if self.round is not None and columns > 1:  # in which those of one row follow each other
            random.Random(self.round).shuffle(order)
        drawn: list[int] = []
        for _ in range(like.numel() // columns):
            first = self.draw(size)
            drawn += [order[(first + column) % size] for column in range(columns)]
        return torch.tensor(drawn, device=like.device).reshape(like.shape)

    def draw(self, size: int) -> int:
        """Return the next index that is drawn, below ``size``."""
        self.count += 1
        if self.count - self.first_draw > MOST_DRAWS:
            raise CaptureError(f"forward draws more than {MOST_DRAWS} times where all draws are alike")
        if size > 1:
            self.sizes.add(size)
        return index_of(self.turn, self.round, self.count, size)

    # -- what is computed from a draw ----------------------------------------------------------------------------------

    def note(self, node: fx.Node, value: Any, *, is_forced: bool = False) -> None:
        """Keep what a node computed, where Python may read it as one integer, and whether it was forced."""
        if is_forced:
            self._nodes.add(node)
        if isinstance(value, Tensor) and value.numel() == 1 and value.dtype in (torch.int64, torch.int32, torch.bool):
            self._scalars[node] = value

    def decides(self, node: fx.Node) -> bool:
        """Return whether a node is computed from a forced draw."""
        queue = [node]
        while queue:
            last = queue[-1]
            if last in self._derived:
                queue.pop()
                continue
            open_ = [parent for parent in last.all_input_nodes if parent not in self._derived]
            if last in self._nodes or not open_:
                inputs = last.all_input_nodes
                self._derived[queue.pop()] = last in self._nodes or any(map(self._derived.__getitem__, inputs))
            else:
                queue += open_
        return self._derived[node]

    def root(self, read: fx.Node) -> tuple[fx.Node, int | bool] | None:
        """Return the integer, of one element, that a number is read from, else the truth value; None for other numbers.

        Args:
            read: the node that reads it: of ``item()``, or of ``bool()`` of a comparison.
        """
        node, truth = read, None
        while True:
            value = self._scalars.get(node)
            if value is not None and value.dtype != torch.bool:
                return node, int(value)
            if value is not None and truth is None:
                truth = node, bool(value)
            inputs = node.all_input_nodes
            if len(inputs) != 1 or (node is not read and value is None):
                return truth
            node = inputs[0]


def index_of(turn: int, round: int | None, number: int, size: int) -> int:
    """Return which of ``size`` candidates a choice takes: the turn's, in a round plus a digit of its number."""
    return (turn + (0 if round is None else number // size**round)) % size


def rounds_for(count: int, sizes: Collection[int]) -> int:
    """Return how many rounds tell any two of a number of choices apart; those of one candidate have no say."""
    found, fewest = 1, min(size for size in sizes if size > 1)
    while fewest**found < count:
        found += 1
    return found


def place(node: fx.Node) -> str:
    """Return what element of which draw a node is, alike for two nodes that take the same one."""
    if node.target not in TAKING:
        return node.name
    args = fx.node.map_arg((node.args, dict(node.kwargs)), lambda inner: place(inner))
    return f"{node.target}{args}"


def _range(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
    """Return the lowest value of the index that a call returns, and how many there are; 0 where that is not told."""
    if name == "randint":
        numbers = [arg for arg in args if isinstance(arg, int)]
        low = kwargs.get("low", numbers[0] if len(numbers) > 1 else 0)
        high = kwargs.get("high", numbers[-1] if numbers else None)
        return (int(low), int(high) - int(low)) if isinstance(high, int) and isinstance(low, int) else (0, 0)
    source = kwargs.get("input", args[0] if args else None)
    if not isinstance(source, Tensor) or not source.dim():
        return 0, 0
    if name == "multinomial":
        return 0, source.shape[-1]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if dim is None:
        return 0, source.numel()
    return (0, source.shape[dim]) if isinstance(dim, int) else (0, 0)
