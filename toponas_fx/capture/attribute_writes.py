"""What forward leaves in the attributes that it writes: further outputs of a graph, set again whenever it has run.

A regulariser, ``genotype`` or the next step reads such an attribute, so it must hold this call's tensors, with their
gradients. Only what stands there in the end counts: what is written and read on the way is seen by the recorder as any
other value, and a list that forward fills is an output as it is when forward returns.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from toponas_fx.capture.symbolic_numbers import RecordedFloat
from toponas_fx.capture.symbolic_sizes import RecordedInt
from toponas_fx.module_tree.layers import is_leaf, names_read
from toponas_fx.module_tree.snapshots import MISSING
from toponas_fx.module_tree.tensor_paths import MODULE_INTERNALS, plain_attributes

_PLAIN = frozenset((int, float, complex, str, bool, type(None), torch.dtype, torch.device, RecordedInt, RecordedFloat))
_SIMPLE = frozenset((int, float, bool, str, type(None)))
_Key = tuple[str, str]
_KEYS = frozenset((int, str, float, bool, type(None)))


class AttributeWrites:
    """The attributes that one recorded run wrote.

    Attributes:
        left: (module path, name) to what forward left there; complete once the run has ended.
        places: (module path, name) to ``file:line`` of the user's code that wrote there first.
        numbers: the fractions that the run took out of tensors, by identity: other ones at each call.
    """

    def __init__(self) -> None:
        """Nothing is written yet."""
        self.left: dict[tuple[str, str], Any] = {}
        self.places: dict[tuple[str, str], str] = {}
        self.numbers: dict[int, float] = {}
        self._before: dict[tuple[str, str], tuple[dict[str, Any], Any]] = {}

    def __contains__(self, key: tuple[str, str]) -> bool:
        """Return whether the run wrote a module's attribute, by path and name."""
        return key in self._before

    @property
    def written(self) -> tuple[_Key, ...]:
        """The attributes that the run has written so far, by path of the module and name."""
        return tuple(self._before)

    def note(self, path: str, module: nn.Module, name: str, where: str) -> None:
        """Note that an attribute is about to be written, by a line of the user's code."""
        table = object.__getattribute__(module, "__dict__")
        self._before.setdefault((path, name), (table, table.get(name, MISSING)))
        self.places.setdefault((path, name), where)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Keep what is left in the end, and put back what there was before."""
        try:
            yield
        finally:
            for key, (table, before) in self._before.items():
                self.left[key] = table.get(key[1], MISSING)
                if before is MISSING:
                    table.pop(key[1], None)
                else:
                    table[key[1]] = before

    def counted(self, read: Mapping[tuple[str, str], Any]) -> _Key | None:
        """Return the first attribute in which the run left another integer than it read there, or None."""
        for key, value in self.left.items():
            if type(value) is int and type(read.get(key)) is int and value != read[key]:
                return key
        return None

    def plain(self) -> list[tuple[dict[str, Any], str, Any]]:
        """Return the plain values that the run left: the table of attributes, the name and the value of each."""
        left = [(self._before[key][0], key[1], value) for key, value in self.left.items()]
        return [known for known in left if type(known[2]) in _SIMPLE]

    def cannot_be_set(self, root: nn.Module, others: Any) -> tuple[str, str] | None:
        """Return the first attribute whose value a graph cannot make anew, or None; asked once the run has ended.

        Args:
            root: the model.
            others: what forward was given, and returns: a list must not be there too, which would be one object.
        """
        if not self.left:
            return None
        held = (value for module in root.modules() for _, value in plain_attributes(module))
        taken = {id(container) for container in _containers((*held, others))}
        for key, value in self.left.items():
            own = list(map(id, _containers((value,))))
            if not self._is_output(value) or len(set(own)) < len(own) or not taken.isdisjoint(own):
                return key
            taken.update(own)
        return None

    def _is_output(self, value: Any) -> bool:
        if isinstance(value, Tensor) or type(value) in _PLAIN:
            return id(value) not in self.numbers
        if type(value) in (dict, OrderedDict):
            return all(type(key) in _KEYS for key in value) and all(map(self._is_output, value.values()))
        is_sequence = type(value) in (tuple, list, torch.Size) or (
            isinstance(value, tuple) and hasattr(value, "_fields")
        )
        return is_sequence and all(map(self._is_output, value))


@contextmanager
def settled(left: Sequence[tuple[dict[str, Any], str, Any]]) -> Iterator[None]:
    """Let attributes hold inside what a run left there: the table, the name and the value of each."""
    before = [(table, name, table.get(name, MISSING)) for table, name, _ in left]
    try:
        for table, name, value in left:
            table[name] = value
        yield
    finally:
        for table, name, value in before:
            if value is MISSING:
                table.pop(name, None)
            else:
                table[name] = value


def may_be_written(module: nn.Module, name: str, value: Any) -> bool:
    """Return whether a write sets a plain attribute of a module: no parameter or child, nothing that torch's read."""
    own = object.__getattribute__(module, "__dict__")
    if is_leaf(module) and name in names_read(type(module)):  # type: ignore[arg-type]
        return False
    if name in MODULE_INTERNALS or any(name in own[table] for table in ("_parameters", "_buffers", "_modules")):
        return False
    return not hasattr(getattr(type(module), name, None), "__set__") and not isinstance(value, nn.Module | nn.Parameter)


def _containers(values: Iterable[Any], depth: int = 8) -> Iterator[Any]:
    """Yield the lists and dicts within some values."""
    for value in values:
        if isinstance(value, list | dict):
            yield value
        if isinstance(value, list | tuple | dict) and depth:
            yield from _containers(value.values() if isinstance(value, dict) else value, depth - 1)
