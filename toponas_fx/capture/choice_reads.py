"""What a recorded run with forced draws reads of them, and where it goes one of several ways."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, fx

from toponas_fx.capture.forcing import Forcing, RecordedChoice, place
from toponas_fx.capture.pausing import Pause
from toponas_fx.capture.values import ValueTable
from toponas_fx.ops import choices

_PLAIN = ("__int__", "__index__")
"""What must give Python's own integers; that these are used is not seen, that they are read is."""


class ChoiceReads:
    """The part of a recorder that is told of choices.

    Attributes:
        is_live: False once the run has ended.
        is_watching: False while a leaf runs or the recorder works.
    """

    is_live: bool
    is_watching: bool
    _call: Callable[..., Any]
    _decided: str
    _values: ValueTable

    def give_choice(self, name: str, value: RecordedChoice) -> None:
        """Make the placeholder of an integer that forward is given and that is a choice."""
        node, number = self._values.annotate(self._values.graph.placeholder(name), None, ()), value.value
        value.saw = lambda: self.saw_choice(node, number)

    def read_choice(self, forcing: Forcing, node: fx.Node, value: Any) -> Any:
        """Note that Python read what a forced draw decides, and return it so that its uses are seen."""
        if isinstance(value, list):
            tensor = node.args[0]
            return [self.read_choice(forcing, self._element(tensor, i), item) for i, item in enumerate(value)]
        root, decided = forcing.root(node) or (node, value)
        self.saw_choice(root, decided)
        if type(value) is not int or node.target in _PLAIN or forcing.is_plain:
            return value
        return RecordedChoice(value, lambda: self.saw_choice(root, decided))

    @contextmanager
    def python_draws(self, forcing: Forcing) -> Iterator[None]:
        """Force what the functions of Python's ``random`` draw integers by."""
        generator: Any = random._inst
        real, had = generator._randbelow, vars(generator).get("_randbelow")

        def draw(n: int) -> Any:
            return self._draw_below(forcing, n) if self.is_watching else real(n)

        generator._randbelow = draw
        try:
            yield
        finally:
            if had is None:
                del generator._randbelow
            else:
                generator._randbelow = had

    def _draw_below(self, forcing: Forcing, n: int) -> Any:
        with Pause(self):  # type: ignore[arg-type]
            node = self._values.annotate(self._values.graph.call_function(choices.randbelow, (n,)), None, ())
        value = forcing.draw(n)
        return value if n == 1 or forcing.is_plain else RecordedChoice(value, lambda: self.saw_choice(node, value))

    def _element(self, tensor: Any, index: int) -> fx.Node:
        return self._values.annotate(self._values.graph.call_function(operator.getitem, (tensor, index)), None, ())

    def saw_choice(self, root: fx.Node, value: Any) -> None:
        """Mark that the run goes one of several ways here, by what ``root`` is."""
        if self.is_live and place(root) != self._decided:
            self._decided = place(root)
            self._values.annotate(self._values.graph.call_function(choices.decide, (root, value)), None, ())

    def apart(self, value: Any, args: Any) -> Any:
        """Give what a module returns as it came a node of its own: it may be a candidate, and others compute theirs."""
        if not isinstance(value, Tensor) or not any(value is arg for arg in args) or not self.is_watching:
            return value
        with Pause(self):  # type: ignore[arg-type]
            return self._call("call_function", choices.same, (value,), {}, lambda: value)
