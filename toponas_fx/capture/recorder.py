"""The recorder: it sees every torch call of one real run and writes each down as a node."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from toponas_fx import ops
from toponas_fx.analysis.effects import is_hooked
from toponas_fx.capture.advice import HOLD, MAKE, REPEAT, SWITCH
from toponas_fx.capture.attribute_reads import AttributeReads
from toponas_fx.capture.attribute_writes import AttributeWrites
from toponas_fx.capture.choice_reads import ChoiceReads
from toponas_fx.capture.data_sizes import has_size_of_data, leaves_of
from toponas_fx.capture.draws import why_foreign
from toponas_fx.capture.expressions import NO_NUMBERS, Numbers
from toponas_fx.capture.forcing import Forcing
from toponas_fx.capture.guards import StateGuards
from toponas_fx.capture.pausing import MODES, OffStack, Pause, present_modes
from toponas_fx.capture.recorded_choices import RecordedChoice, numbers_in
from toponas_fx.capture.symbolic_numbers import RecordedFloat
from toponas_fx.capture.symbolic_sizes import RecordedInt
from toponas_fx.capture.torch_calls import GRAD_MODE, METADATA, canonical, forbidden, name_of
from toponas_fx.capture.values import ValueTable, user_location
from toponas_fx.ir.targets import target_name
from toponas_fx.module_tree.index import TreeIndex
from toponas_fx.module_tree.isolation import foreign_generators
from toponas_fx.module_tree.layers import is_leaf
from toponas_fx.ops import layouts

_BY_MODE = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU, nn.RNNBase, nn.MultiheadAttention)


class Recorder(TorchFunctionMode, AttributeReads, ChoiceReads):
    """Records one forward of ``root`` into ``graph``.

    Attributes:
        graph: the nodes so far. ``meta`` of each holds ``type`` (of its tensor), ``storage`` (a number for the memory
            it lies in), ``mutates`` (storages it writes), ``grad`` (whether gradients were on), ``scope`` (path of the
            user's module), ``where`` (the user's file and line) and ``origin`` (its own name).
        guards: the Python state that was read.
        numbers: those that stay symbolic, with the values that forward sees.
        writes: the attributes that were written.
        entered: paths of all modules that ran.
        finds_draws: whether draws are looked for call by call.
        known_tensors: identities of the model's tensors before the run.
        looks_at_grad_mode: whether forward may do otherwise without gradients; asks_identity: see ``Capture``.
        tracer: what Python traces calls with, to be suspended then; None where nothing is, or must not be.
    """

    def __init__(
        self,
        root: nn.Module,
        tree: TreeIndex,
        finds_draws: bool = False,
        numbers: Numbers = NO_NUMBERS,
        forcing: Forcing | None = None,
    ) -> None:
        """Index the model's tensors; ``tree`` is the index of its modules, ``finds_draws`` a slower search."""
        super().__init__()
        self._forcing, self._decided, self._seen = forcing, "", None
        self.kept_names, self.handed, self._kept, self._picks = frozenset(), {}, {}, {}
        self.numbers = numbers
        self.is_live = True
        self.writes = AttributeWrites()
        self._given_numbers, self._read_numbers = {}, {}
        self._values = ValueTable(root)
        self.known_tensors = frozenset(self._values.owners)
        self.guards = StateGuards(patched=tree.patched(), layers=tree.layers.values())
        self.entered: dict[str, None] = {}
        self.decisions: list[str] = []
        self.sizes_used: list[tuple[Any, ...]] = []
        self.looks_at_grad_mode = self.asks_identity = False
        self._thread, self._watches, self._has_gradients = get_ident(), False, True
        self.tracer: Any = None
        self._paths = tree.paths
        self._tables = []
        self._unsteady: dict[int, Tensor] = {}
        self.finds_draws = finds_draws
        self._generators = foreign_generators()
        self._modes = present_modes()

    @property
    def is_watching(self) -> bool:
        """False while a leaf runs or the recorder works, and in all threads but the one that records."""
        return self._watches and get_ident() == self._thread

    @is_watching.setter
    def is_watching(self, watches: bool) -> None:
        self._watches = watches

    @property
    def graph(self) -> fx.Graph:
        """The nodes so far."""
        return self._values.graph

    def add_input(self, name: str, value: Tensor | RecordedFloat | RecordedChoice) -> None:
        """Make the placeholder of one input."""
        if isinstance(value, RecordedChoice):
            self.give_choice(name, value)
        elif isinstance(value, RecordedFloat):
            self.give_number(name, value)
        else:
            self._values.give(name, value)
            if (order := layouts.order_of(value)) is not None:  # what is computed from it may lie otherwise, too
                self.decisions.append(f"{name} lies in the order {order}")

    def add_kept(self) -> None:
        """Make the placeholders of what modules keep and what is a choice."""
        if self._forcing is not None:
            self.give_kept(self._forcing)

    def add_output(self, root: nn.Module, arguments: Any, value: Any, *, may_count: bool = False) -> None:
        """Make the output node: what forward returns, and, where it wrote attributes, what it left there."""
        self.note_tables()
        self._check_grad_mode()
        self.check_writes(root, (arguments, value), may_count=may_count)
        self._values.give_back((value, tuple(self.writes.left.values())) if self.writes.left else value)
        if self._values.failure is not None:
            raise self._values.failure
        self.decisions.append(repr(list(self.writes.left)))
        self._check_generators("")

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what runs inside."""
        with self, nullcontext() if self._forcing is None else self.python_draws(self._forcing):
            self.is_watching, self._has_gradients = True, torch.is_grad_enabled()
            try:
                yield
            finally:
                self.is_watching = False

    # -- calls -------------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one torch call and write it down."""
        args, kwargs = numbers_in((args, kwargs or {})) if self._forcing is not None else (args, kwargs or {})
        name = name_of(func)
        self.looks_at_grad_mode |= self.is_watching and name in GRAD_MODE
        if not self.is_watching or (name in METADATA and name != "__len__"):
            return func(*args, **kwargs)
        with Pause(self):
            if reason := forbidden(name, args):
                raise self._values.fail(f"{reason} inside forward; {REPEAT}")
            if name in ("shape", "size", "numel", "nelement", "__len__"):
                return self._size(func, name, args, kwargs)
            return self._call(*canonical(func, args, kwargs), lambda: func(*args, **kwargs))

    def run_module(self, module: nn.Module, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record a leaf as one node; look through the user's own modules, and where a forward skips its hooks."""
        path = self._paths.get(id(module))
        if path is None:
            return run(*args, **kwargs)
        self.entered[path] = None
        if not is_leaf(module) or is_hooked(module):
            self._values.scope.append(path)
            try:
                value = run(*args, **kwargs)
                return value if self._forcing is None else self.apart(value, args)
            finally:
                self._values.scope.pop()
        with Pause(self), OffStack(self):
            if isinstance(module, nn.Identity) and self._forcing is None:
                return run(*args, **kwargs)
            if isinstance(module, _BY_MODE):
                self.saw_read(module, "training", module.training)
            return self._call("call_module", path, args, kwargs, lambda: run(*args, **kwargs))

    def run_hooked(self, module: nn.Module, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record a module with hooks as one opaque node, which runs them each time."""
        path = self._paths.get(id(module))
        if path is None:
            raise self._values.fail(f"a module with hooks runs that is not part of the model; {MAKE}")
        with Pause(self):
            for inner, member in module.named_modules():
                self.entered[f"{path}.{inner}" if inner else path] = None
                self.saw_read(member, "training", member.training)
            hidden = self._values.tensors
            return self._call("call_module", path, args, kwargs, lambda: run(module, *args, **kwargs), hidden)

    def run_function(self, function: type[Function], run: Callable[..., Any], args: Any) -> Any:
        """Record ``Function.apply`` as one node, so that its own backward is kept."""
        with Pause(self):
            return self._call("call_function", ops.ApplyFunction(function), args, {}, lambda: run(function, *args))

    def _call(self, op: str, target: Any, args: Any, kwargs: Any, run: Callable[[], Any], hidden: Any = ()) -> Any:
        self._check_modes()
        self._check_grad_mode()
        node_args, node_kwargs = self._values.argument(tuple(args)), self._values.argument(dict(kwargs))
        tensors = [*(leaf for leaf in leaves_of((args, kwargs)) if isinstance(leaf, Tensor)), *hidden]
        versions = [_version(tensor) for tensor in tensors]
        value = run()
        name = target_name(target)
        is_forced = self._forcing is not None and self._forcing.apply(name, args, kwargs, value)
        if name == "_set_grad_enabled":
            self._has_gradients = torch.is_grad_enabled()
        written = [tensor for tensor, version in zip(tensors, versions, strict=True) if _version(tensor) != version]
        if isinstance(target, str) and op == "call_method" and target.endswith("_") and not target.endswith("__"):
            written = written or tensors[:1]
        if isinstance(value, Tensor) and any(value is tensor for tensor in tensors) and not written:
            value = value.view_as(value)  # a call that changed nothing still gets a value of its own
        if has_size_of_data(target, args) or any(id(tensor) in self._unsteady for tensor in tensors):
            self._unsteady.update((id(leaf), leaf) for leaf in leaves_of(value) if isinstance(leaf, Tensor))
        node = self.graph.create_node(op, target, node_args, node_kwargs)
        self._values.annotate(node, value, tuple(self._values.storage(tensor) for tensor in written))
        if is_forced and self._forcing is not None:
            self._forcing.note(node, value, is_forced=True)
        return self._result(node, value)

    def _result(self, node: fx.Node, value: Any) -> Any:
        if isinstance(value, Tensor):
            self._values.bind(value, node)
            if self._forcing is not None:
                self._forcing.note(node, value)
            return value
        if isinstance(value, tuple | list | dict) and any(isinstance(leaf, Tensor) for leaf in leaves_of(value)):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                inner = self.graph.call_function(operator.getitem, (node, key))
                self._values.annotate(inner, item, ())
                self._result(inner, item)
            return value
        if value is None or isinstance(value, bool | int | float | complex | str | list | tuple):
            return value if value is None else self._guard(node, value)
        raise self._values.fail(f"`{node.target}` returned a {type(value).__name__}, {HOLD}")

    # -- sizes -------------------------------------------------------------------------------------------------------

    def _size(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        value, tensor = func(*args, **kwargs), args[0]
        if isinstance(value, int):
            dims = (kwargs.get("dim", args[1] if len(args) > 1 else None),) if name == "size" else ()
            method = "size" if name in ("size", "__len__") else "numel"
            if name == "__len__":
                self.sizes_used.append(("len", value))  # Python makes a plain integer of it
            return self._sized(value, tensor, method, (0,) if name == "__len__" else dims)
        return torch.Size(self._sized(size, tensor, "size", (dim,)) for dim, size in enumerate(value))

    def _sized(self, value: int, tensor: Tensor, method: str, dims: tuple[Any, ...]) -> int:
        """Return a size that is looked at: with its node, or guarded where it depends on data."""

        def make() -> fx.Node:
            with Pause(self):
                node = self.graph.call_method(method, (self._values.argument(tensor), *dims))
                return self._values.annotate(node, None, ())

        if id(tensor) in self._unsteady:
            self._guard(make(), value)
            return value
        return RecordedInt.of(value, self, make)

    def emit_size(self, target: Any, args: tuple[Any, ...]) -> fx.Node:
        """Make the node of an operation on sizes."""
        with Pause(self):
            return self._values.annotate(self.graph.call_function(target, self._values.argument(args)), None, ())

    def saw_size(self, use: str, *sizes: Any) -> None:
        """Note that a size is used for more than arithmetic; torch itself may look at what it is given."""
        if self.is_watching:
            self.sizes_used.append((use, *sizes))

    def _guard(self, node: fx.Node, value: Any) -> Any:
        """Note what Python read from data, and return it: the run holds where it reads the same."""
        if self._forcing is not None and self._forcing.decides(node):
            return self.read_choice(self._forcing, node, value)
        self.decisions.append(repr(value))
        self.writes.numbers.update((id(leaf), leaf) for leaf in leaves_of(value) if type(leaf) is float)
        self._values.annotate(self.graph.call_function(ops.guard, (node, value)), None, ())
        return value

    # -- modes and generators --------------------------------------------------------------------------------------

    def _check_modes(self) -> None:
        modes = present_modes()
        if modes != self._modes:
            name = next(n for n, before, now in zip(MODES, self._modes, modes, strict=True) if now != before)
            raise self._values.fail(f"{name} is switched inside forward; {SWITCH}")
        if self.finds_draws:
            self._check_generators(" before this line")

    def _check_grad_mode(self) -> None:
        if torch.is_grad_enabled() is not self._has_gradients:  # in code that torch hides from modes
            raise self._values.fail(f"grad mode is switched unseen; {SWITCH}")

    def _check_generators(self, place: str) -> None:
        error = why_foreign(self._generators, user_location(), place)
        if error is not None:
            raise self._values.fail(error)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
