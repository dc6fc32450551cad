"""What a recorded run reads and writes of modules' attributes."""

from __future__ import annotations

from collections.abc import Iterable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from toponas_fx.capture.advice import REPEAT, WRITE
from toponas_fx.capture.attribute_writes import AttributeWrites, may_be_written
from toponas_fx.capture.expressions import Computed, Condition, Expression, Given, Numbers, Read
from toponas_fx.capture.forcing import Forcing
from toponas_fx.capture.guards import StateGuards
from toponas_fx.capture.outside import is_iterator
from toponas_fx.capture.pausing import Pause
from toponas_fx.capture.recorded_choices import RecordedChoice
from toponas_fx.capture.symbolic_numbers import RecordedFloat, looks_inside
from toponas_fx.capture.values import ValueTable, user_location
from toponas_fx.errors import CaptureError, CountError
from toponas_fx.module_tree.snapshots import INHERITED, MISSING, freeze
from toponas_fx.module_tree.tensor_paths import MODULE_INTERNALS, TensorPath, walk_value

_CONDITIONS = 64
"""Questions about numbers that are asked again at each call; where there are more, numbers stay constants."""
_ATOMS = frozenset((int, float, complex, str, bytes, bool, type(None)))


class AttributeReads:
    """The part of a recorder that is told of attributes.

    Attributes:
        guards: the Python state that was read.
        numbers: those that stay symbolic, with the values that forward sees.
        writes: what was written.
        is_live: False once the run has ended.
        is_watching: False while a leaf runs or the recorder works.
        tracer: what Python traces calls with, to be suspended then; None where nothing is, or must not be.
    """

    guards: StateGuards
    is_watching: bool
    tracer: Any
    numbers: Numbers
    writes: AttributeWrites
    is_live: bool
    _given_numbers: dict[Expression, fx.Node]
    _read_numbers: dict[Expression, RecordedFloat]
    _paths: dict[int, str]
    _forcing: Forcing | None
    _values: ValueTable
    _tables: list[tuple[nn.Module, dict[str, Any]]]

    def saw_read(self, module: nn.Module, name: str, value: Any) -> None:
        """Note the path by which forward reads a tensor, and the value of plain state."""
        path = self._paths.get(id(module))
        if path is None:
            self._saw_elsewhere(module, name, value)
            return
        if name == "forward" or (name in MODULE_INTERNALS and name != "training") or (path, name) in self.writes:
            return
        if isinstance(module, torch.jit.ScriptModule):
            return  # runs whole
        if value is module._modules.get(name, self) or isinstance(getattr(type(module), name, None), property):
            return  # links between modules are compared as such; what a property reads is seen by itself
        if (
            isinstance(value, MethodType)
            and value.__self__ is module
            and name not in object.__getattribute__(module, "__dict__")
        ):
            self._saw_method(module, path, name)
            return
        if self.numbers and (looks_inside(value) or any(map(looks_inside, _inside(value)))):
            self.guards.fixed_numbers.update(self.numbers)
        is_known = (path, name) in self.guards.attributes
        if is_known and (type(value) in _ATOMS or isinstance(value, nn.Module)):
            return
        if is_iterator(value):
            told = f"`{path or 'the model'}.{name}`"
            raise self._values.fail(f"forward takes from {told}, which gives something else each time; {REPEAT}")
        with Pause(self):
            target = f"{path}.{name}" if path else name
            for tensor_path, tensor in walk_value(value, TensorPath(target)):
                self._values.own(tensor, tensor_path)
            if not is_known:
                self.guards.note_attribute(path, name, freeze(value, self._paths), user_location())

    def number_read(self, module: nn.Module, name: str, value: float) -> float:
        """Return a number that forward reads, with where it comes from if it is to stay symbolic."""
        path = self._paths.get(id(module))
        source = Read("", "") if path is None else Read(path, name)
        if source not in self.numbers or (source.path, source.name) in self.writes:
            self.saw_read(module, name, value)
            return value
        if source not in self.guards.numbers:
            self.guards.numbers[source] = user_location()
            self._read_numbers[source] = RecordedFloat.of(self.numbers[source], self, source)
        return self._read_numbers[source]

    def with_numbers(self, arguments: Any) -> Any:
        """Return a call's arguments with those numbers that stay symbolic."""
        leaves, spec = pytree.tree_flatten(arguments)
        floats = (index for index, leaf in enumerate(leaves) if type(leaf) is float)
        for position, index in enumerate(floats):
            source = Given(position)
            if source in self.numbers:
                leaves[index] = RecordedFloat.of(self.numbers[source], self, source)
        self._choose_integers(leaves)
        return pytree.tree_unflatten(leaves, spec)

    def _choose_integers(self, leaves: list[Any]) -> None:
        """Put the integers that a forced run is given in the places of those of the call."""
        forcing = self._forcing
        if forcing is not None and forcing.given is not None:
            places = [index for index, leaf in enumerate(leaves) if type(leaf) is int]
            for index, value in zip(places, forcing.given, strict=True):
                leaves[index] = value if forcing.is_plain else RecordedChoice(value)

    def give_number(self, name: str, number: RecordedFloat) -> None:
        """Make the placeholder of a number that forward is given."""
        node = self._values.graph.placeholder(name)
        self._given_numbers[number.expression] = self._values.annotate(node, None, ())

    def emit_number(self, expression: Expression) -> fx.Node:
        """Make the node that computes a number."""
        if isinstance(expression, Given):
            return self._given_numbers[expression]
        with Pause(self):
            if isinstance(expression, Read):
                node: fx.Node = self._values.graph.create_node("get_attr", expression.target)
            else:
                parts = (p if isinstance(p, int | float) else self.emit_number(p) for p in expression.args)
                node = self._values.graph.call_function(expression.target, tuple(parts))
            return self._values.annotate(node, None, ())

    def saw_condition(self, asked: Computed, answer: bool | type) -> None:
        """Note what Python asks of a number."""
        if self.is_watching:
            self.guards.conditions[Condition(asked, answer)] = user_location()
            if len(self.guards.conditions) > _CONDITIONS:
                self.guards.fixed_numbers.update(self.numbers)

    def saw_value(self, expression: Expression) -> None:
        """Note that a number is used such that it may not stay symbolic."""
        if self.is_watching:
            self.guards.fixed_numbers.update(expression.reads())

    def _saw_elsewhere(self, module: nn.Module, name: str, value: Any) -> None:
        """Note a plain value of a module that is not in the tree: one that an enclosing function or a global holds."""
        if type(value) in _ATOMS and (name not in MODULE_INTERNALS or name == "training"):
            self.guards.note_reference(module, name, value, user_location())

    def _saw_method(self, module: nn.Module, path: str, name: str) -> None:
        """Note that a method is its class's, and which that is."""
        if (path, name) in self.guards.attributes:
            return
        with Pause(self):
            self.guards.note_attribute(path, name, INHERITED, user_location())
            for owner in type(module).__mro__:
                is_facade = "_toponas_class" in vars(owner)  # asks the user's class at each call
                if isinstance(vars(owner).get(name), FunctionType) and not is_facade:
                    self.guards.note_method(owner, name, vars(owner)[name], user_location())
                    return

    def saw_table(self, module: nn.Module, table: dict[str, Any]) -> None:
        """Keep what a module's own table of attributes holds as forward looks into it, to be noted in the end.

        Which of it forward wants is not seen; and what it reads by name goes before, should it fail.
        """
        ours = () if "meta" in getattr(type(module), "_toponas_taken", ("meta",)) else ("meta",)
        hidden = MODULE_INTERNALS.union(ours)
        self._tables.append((module, {name: value for name, value in table.items() if name not in hidden}))

    def note_tables(self) -> None:
        """Note what the tables held that forward looked into."""
        for module, table in self._tables:
            for name, value in table.items():
                if (self._paths.get(id(module), ""), name) in self.writes:
                    raise self._cannot_write(module, name)
                self.saw_read(module, name, value)

    def saw_missing(self, module: nn.Module, name: str) -> None:
        """Note that forward asked for an attribute that is not there."""
        path = self._paths.get(id(module))
        if path is not None and name not in MODULE_INTERNALS and not isinstance(module, torch.jit.ScriptModule):
            with Pause(self):
                value = getattr(module, name, MISSING)  # the user's own __getattr__ may know it
                self.guards.note_attribute(path, name, freeze(value, self._paths), user_location())

    def saw_write(self, module: nn.Module, name: str, *value: Any) -> None:
        """Note that forward writes an attribute, or refuse one. A tensor changed in place stays what it is."""
        path = self._paths.get(id(module))
        tables = [object.__getattribute__(module, "__dict__")]
        tables += [tables[0][name] for name in ("_parameters", "_buffers") if name in tables[0]]
        if path is None or (value and isinstance(value[0], Tensor) and any(t.get(name) is value[0] for t in tables)):
            return
        if not value or not may_be_written(module, name, value[0]):
            raise self._cannot_write(module, name)
        self.writes.note(path, module, name, user_location())

    def check_writes(self, root: nn.Module, others: Any, *, may_count: bool) -> None:
        """Refuse what forward left in attributes where a graph cannot make it anew, once it has run.

        Args:
            root: the model.
            others: what forward was given, and returns.
            may_count: whether an integer may be another than was read there.

        Raises:
            CountError: one is.
            CaptureError: an attribute holds what is no output.
        """
        counted = None if may_count else self.writes.counted(self.guards.attributes)
        if counted is not None:
            error = self._cannot_write(root.get_submodule(counted[0]), counted[1], CountError)
            raise error.leaving(self.writes.plain()) if isinstance(error, CountError) else error
        refused = self.writes.cannot_be_set(root, others)
        if refused is not None:
            raise self._cannot_write(root.get_submodule(refused[0]), refused[1])

    def _cannot_write(self, module: nn.Module, name: str, kind: type[CaptureError] = CaptureError) -> CaptureError:
        path = self._paths[id(module)]
        for key in ((path, name), *self.writes.written):
            self.guards.attributes.pop(key, None)  # what forward changes itself is no condition of what follows
        owner, where = f"`{path}`" if path else "the model", self.writes.places.get((path, name)) or user_location()
        return self._values.fail(kind(f"forward writes the attribute `{name}` of {owner}; {WRITE}", where))


def _inside(value: Any) -> Iterable[Any]:
    """Return what a container of Python's own holds."""
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple | set | frozenset) else ()
