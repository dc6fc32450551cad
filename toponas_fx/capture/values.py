"""Which node stands for which value of the recorded run."""

from __future__ import annotations

import operator
import os
import sys
import weakref
from collections import OrderedDict
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree

from toponas_fx import errors
from toponas_fx.capture.advice import DENSE, HOLD
from toponas_fx.capture.legacy import text_of
from toponas_fx.capture.recorded_choices import RecordedChoice, RecordedName, RecordedReal
from toponas_fx.capture.symbolic_numbers import RecordedFloat
from toponas_fx.capture.symbolic_sizes import RecordedInt
from toponas_fx.errors import CaptureError
from toponas_fx.ir.tensor_type import TensorType
from toponas_fx.module_tree.tensor_paths import TensorPath, model_tensors
from toponas_fx.ops import layouts

_PLAIN = (int, float, complex, str, bool, type(None), type(...), torch.dtype, torch.device, torch.layout)
_PLAIN_TYPES = (*_PLAIN, torch.memory_format)
_KEY_TYPES = (int, str, float, bool, type(None))
_OWN_CODE = tuple(os.path.dirname(os.path.abspath(path)) + os.sep for path in (torch.__file__, errors.__file__))


class ValueTable:
    """The tensors of one run by identity, and the nodes that stand for them in ``graph``.

    Attributes:
        graph: the nodes so far.
        owners: id of each tensor of the model to the path that reads it.
        tensors: those of the model; what a hook writes is found by looking at all of them.
        scope: paths of the user's modules that are running, innermost last.
        failure: the first reason why the run cannot be recorded.
    """

    def __init__(self, root: nn.Module) -> None:
        """Index the model's tensors."""
        self.graph = fx.Graph()
        self.owners: dict[int, TensorPath] = {}
        self.tensors: list[Tensor] = []
        self.scope = [""]
        self.failure: CaptureError | None = None
        self._nodes: dict[int, fx.Node] = {}
        self._reads: set[fx.Node] = set()
        self._watched: list[Any] = []
        self._given: list[Tensor] = []
        self._storages: dict[int, int] = {}
        for path, tensor in model_tensors(root):
            self.owners.setdefault(id(tensor), path)
            self.tensors.append(tensor)

    def give(self, name: str, tensor: Tensor) -> None:
        """Make the placeholder of an input."""
        self._given.append(tensor)
        self.bind(tensor, self.annotate(self.graph.placeholder(name), tensor, ()))

    def give_back(self, value: Any) -> None:
        """Make the output node; where a tensor lies in an order of its own, its node's ``meta`` says so."""
        self.graph.output(self.argument(value))
        if any(layouts.lies_channels_last(tensor) for tensor in (*self._given, *self.tensors)):
            return  # it may have that from those
        for tensor in pytree.tree_leaves(value):
            order = layouts.order_of(tensor) if isinstance(tensor, Tensor) else None
            if order is not None:
                self.argument(tensor).meta["order"] = order

    def bind(self, tensor: Tensor, node: fx.Node) -> None:
        """Let ``node`` stand for ``tensor`` from now on, as long as it lives: another may get its identity then."""
        key = id(tensor)
        self._nodes[key] = node
        self._watched.append(weakref.ref(tensor, lambda _: self._nodes.pop(key, None)))

    def own(self, tensor: Tensor, path: TensorPath) -> None:
        """Let a tensor of the model be read by ``path`` from now on: the one by which forward reached it."""
        if self.owners.get(id(tensor)) != path:
            self.owners[id(tensor)] = path
            if self._nodes.get(id(tensor)) in self._reads:
                del self._nodes[id(tensor)]

    def storage(self, tensor: Tensor) -> int:
        """Return the number of the memory that a tensor lies in."""
        if tensor.layout is not torch.strided:
            raise self.fail(f"a tensor of the layout {tensor.layout} is used; {DENSE}")
        storage = tensor.untyped_storage()
        self._watched.append(StorageWeakRef(storage))  # type: ignore[no-untyped-call]  # so its address stays its own
        return self._storages.setdefault(storage._cdata, len(self._storages))

    def annotate(self, node: fx.Node, value: Any, mutates: tuple[int, ...]) -> fx.Node:
        """Fill in a node's ``meta``; see ``Recorder``."""
        if isinstance(value, Tensor):
            node.meta["type"] = TensorType.of(value)
            node.meta["storage"] = self.storage(value)
            if not value.is_contiguous():
                node.meta["strided"] = True
        node.meta["mutates"] = mutates
        node.meta["grad"] = torch.is_grad_enabled()
        node.meta["scope"] = self.scope[-1]
        node.meta["where"] = user_location()
        node.meta["origin"] = (node.name,)
        return node

    def argument(self, value: Any) -> Any:
        """Turn an argument of a call into nodes and plain values."""
        if isinstance(value, Tensor):
            node = self._nodes.get(id(value)) or self._read(value)
            return self._detached(value, node) if _is_left_out(value, node) else node
        if isinstance(value, RecordedInt):
            return value.node
        if type(value) is RecordedFloat:
            return value.argument
        if type(value) in (RecordedChoice, RecordedReal, RecordedName):
            return value.used()
        if isinstance(value, _PLAIN_TYPES):
            return _base_value(value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return self._make(type(value), tuple(self.argument(item) for item in value))
        if isinstance(value, torch.Size):
            return self._make(torch.Size, (self.argument(tuple(value)),))
        if isinstance(value, tuple | list | range):
            items = [self.argument(item) for item in value]
            return tuple(items) if isinstance(value, tuple) else items
        if type(value) is dict and all(isinstance(key, _KEY_TYPES) for key in value):
            return {key: self.argument(item) for key, item in value.items()}
        if type(value) is OrderedDict:
            pairs = [(self.argument(key), self.argument(item)) for key, item in value.items()]
            return self._make(OrderedDict, (pairs,))
        if isinstance(value, slice):
            return slice(*(self.argument(item) for item in (value.start, value.stop, value.step)))
        if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 and hasattr(value, "item"):
            return value.item()
        if text_of(value) is not None:
            return text_of(value)
        kind = type(value).__qualname__
        raise self.fail(f"a torch call takes, or forward returns, a {kind}, {HOLD}")

    def _detached(self, tensor: Tensor, node: fx.Node) -> fx.Node:
        """Emit the node that says what no rule may forget: no gradient goes back to where this value was made."""
        kept_apart = self.annotate(self.graph.call_method("detach", (node,)), tensor, ())
        self.bind(tensor, kept_apart)
        return kept_apart

    def _make(self, kind: type, args: tuple[Any, ...]) -> fx.Node:
        """Emit the node that builds a container which code cannot write down."""
        return self.annotate(self.graph.call_function(kind, args), None, ())

    def _read(self, tensor: Tensor) -> fx.Node:
        """Emit the node that reads a tensor of the model, afresh at each run."""
        path = self.owners.get(id(tensor))
        if path is None:
            raise self.fail(
                f"a tensor {TensorType.of(tensor)} comes neither from the model nor from a recorded torch call "
                "(numpy, a legacy constructor such as torch.FloatTensor, scripted code, a closure or a global?); "
                "make it with torch.zeros, torch.tensor or the like, or keep it as a buffer of the model"
            )
        node: fx.Node = self.graph.create_node("get_attr", path.target)
        self.annotate(node, None, ())
        for kind, key in path.steps:
            node = self.graph.call_function(operator.getitem if kind == "item" else getattr, (node, key))
            self.annotate(node, None, ())
        self.annotate(node, tensor, ())
        self.bind(tensor, node)
        self._reads.add(node)
        return node

    def fail(self, why: str | CaptureError) -> CaptureError:
        """Return the error to raise, and keep it should the user's code swallow it."""
        self.failure = self.failure or (CaptureError(why, user_location()) if isinstance(why, str) else why)
        return self.failure


def _is_left_out(tensor: Tensor, node: fx.Node) -> bool:
    """Return whether a call made a tensor with gradients off, and they are on where it is used now."""
    is_made = node.op.startswith("call_") and not node.meta["grad"] and torch.is_grad_enabled()
    return is_made and not tensor.requires_grad and (tensor.is_floating_point() or tensor.is_complex())


def _base_value(value: Any) -> Any:
    """Return a number or text without its subclass (numpy's floats, an IntEnum), which code could not spell."""
    if type(value) in (bool, int, float, str):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    return value


def user_location(frame: FrameType | None = None) -> str:
    """Return ``file:line`` of the innermost frame, from this one on, outside torch and this package, or nothing."""
    frame = frame or sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        if not filename.startswith(_OWN_CODE) and not filename.startswith("<"):
            return f"{filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
