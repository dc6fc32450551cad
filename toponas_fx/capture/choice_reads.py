"""What a recorded run with forced draws reads of them, and where it goes one of several ways."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, fx, nn

from toponas_fx.capture.attribute_writes import AttributeWrites
from toponas_fx.capture.forcing import Forcing, place
from toponas_fx.capture.guards import StateGuards
from toponas_fx.capture.kept_choices import Kept, Key, Steps, contents, exchanged
from toponas_fx.capture.pausing import Pause
from toponas_fx.capture.recorded_choices import RecordedChoice, RecordedName, RecordedReal
from toponas_fx.capture.values import ValueTable
from toponas_fx.module_tree.index import TreeIndex
from toponas_fx.module_tree.snapshots import agree, freeze
from toponas_fx.ops import choices

_PLAIN = ("__int__", "__index__", "__float__")
"""What must give Python's own numbers; that these are used is not seen, that they are read is."""


class ChoiceReads:
    """The part of a recorder that is told of choices.

    Attributes:
        is_live: False once the run has ended.
        is_watching: False while a leaf runs or the recorder works.
        guards: the Python state that was read.
        writes: what was written.
        kept_names: of the attributes that hold choices.
        handed: of those that were read, what forward was handed instead: with what was made for that, what that held
            then, and the picture of the attribute as it is.
    """

    is_live: bool
    is_watching: bool
    guards: StateGuards
    writes: AttributeWrites
    kept_names: frozenset[str]
    handed: dict[Key, tuple[Any, list[Any], list[list[Any]], Any]]
    saw_read: Callable[..., None]
    _call: Callable[..., Any]
    _decided: str
    _paths: dict[int, str]
    _kept: dict[Key, dict[Steps, Any]]
    _seen: tuple[fx.Node, Any] | None
    _picks: dict[int, list[tuple[fx.Node, Any] | None]]
    _values: ValueTable

    # -- what modules keep ---------------------------------------------------------------------------------------------

    def give_kept(self, forcing: Forcing) -> None:
        """Make the placeholders of integers and names that modules keep and that are choices."""
        for kept, value in forcing.kept.items():
            choice = value if forcing.is_plain else self._kept_choice(kept, value)
            self._kept.setdefault(kept.key, {})[kept.steps] = choice
        self.kept_names = frozenset(name for _, name in self._kept)

    def _kept_choice(self, kept: Kept, value: Any) -> Any:
        words = (*kept.path.split("."), kept.name, *(str(key) for _, key in kept.steps))
        name, taken = "_".join(filter(str.isidentifier, (f"_{word}" for word in words))), set(self._values.graph.nodes)
        while any(name == node.target for node in taken):
            name += "_"
        node = self._values.annotate(self._values.graph.placeholder(name), None, ())
        kind: Any = RecordedChoice if type(value) is int else RecordedName.of
        return kind(value, lambda: self.saw_choice(node, value))

    def kept_read(self, module: nn.Module, name: str, value: Any) -> Any:
        """Return what an attribute holds, choices in the places of what is one there."""
        key = self._paths.get(id(module), ""), name
        if id(module) not in self._paths or key not in self._kept or key in self.writes:
            self.saw_read(module, name, value)
            return value
        if key not in self.handed:
            is_known = key in self.guards.attributes
            self.saw_read(module, name, value)
            if not is_known:
                self.guards.attributes.pop(key, None)
            made: list[Any] = []
            with Pause(self):  # type: ignore[arg-type]
                picture = freeze(value, self._paths)
                found = exchanged(value, self._kept[key], made)
            self.handed[key] = found, made, [contents(container) for container in made], picture
        return self.handed[key][0]

    def is_handed(self, value: Any) -> bool:
        """Return whether forward was handed a value that stands for one of the model's."""
        return any(value is other for _, made, *_ in self.handed.values() for other in made)

    def changed_kept(self, tree: TreeIndex) -> str | None:
        """Return the name of an attribute that holds choices and that forward changed, or None."""
        for (path, name), (_, made, before, picture) in self.handed.items():
            same = (
                len(now) == len(was) and all(map(operator.is_, now, was))
                for now, was in zip(map(contents, made), before, strict=True)
            )
            value = getattr(tree.modules[path], name, None)
            if (path, name) in self.writes or not all(same) or not agree(freeze(value, tree.paths), picture):
                return f"`{path or 'the model'}.{name}`"
        return None

    # -- what is drawn and given ---------------------------------------------------------------------------------------

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
        is_plain = node.target in _PLAIN or forcing.is_plain
        if type(value) is float and not is_plain:  # of a row, each tells for itself
            return RecordedReal(value, lambda: self.saw_choice(root, decided))
        self.saw_choice(root, decided)
        if type(value) is not int or is_plain:
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

    def saw_choice(self, root: fx.Node, value: Any, *, was_picked: bool = False) -> None:
        """Mark that the run goes one of several ways here, by what ``root`` is; whether what runs was picked before."""
        self._seen = root, value
        if self.is_live and place(root) != self._decided:
            self._decided = place(root)
            mark = self._values.graph.call_function(choices.decide, (root, value))
            self._values.annotate(mark, None, ()).meta["was_picked"] = was_picked

    def picked(self, take: Callable[[], nn.Module]) -> nn.Module:
        """Return what is taken out of a container of modules, and keep which choice told that, for when it runs."""
        self._seen = None
        module = take()
        if self._seen is not None or id(module) in self._picks:
            self._picks.setdefault(id(module), []).append(self._seen)
        return module

    def starts(self, module: nn.Module) -> None:
        """Mark again that a choice decides which module runs, where others were seen since this one was picked."""
        picks = self._picks.get(id(module))
        if picks and (seen := picks.pop(0)) is not None:
            self.saw_choice(*seen, was_picked=True)

    def apart(self, value: Any, args: Any) -> Any:
        """Give what a module returns as it came a node of its own: it may be a candidate, and others compute theirs."""
        if not isinstance(value, Tensor) or not any(value is arg for arg in args) or not self.is_watching:
            return value
        with Pause(self):  # type: ignore[arg-type]
            return self._call("call_function", choices.same, (value,), {}, lambda: value)
