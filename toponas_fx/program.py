"""A compiled graph and the conditions under which it may run."""

from __future__ import annotations

import functools
import keyword
import linecache
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _format_target
from torch.utils import _pytree as pytree

from toponas_fx import ops, recomputing
from toponas_fx.capture.frozen import Same, freeze
from toponas_fx.capture.guards import Change, StateGuards
from toponas_fx.capture.tree_index import TreeIndex
from toponas_fx.graph_pickle import dump_graph, load_graph


@dataclass(frozen=True)
class Call:
    """The arguments of one call of forward, taken apart.

    Attributes:
        tensors: the tensors among them, in order.
        key: what a program may depend on: structure and plain values, training flag, grad mode, autocast, and each
            tensor's dtype, device and sizes, flat.
    """

    tensors: tuple[Tensor, ...]
    key: tuple[Any, ...]

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> Call:
        """Take a call's arguments apart."""
        modes = (training, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"))
        if len(args) == 1 and not kwargs and type(args[0]) is Tensor:
            x = args[0]
            return cls(args, ("x", 1, modes[0], x.dim(), *modes[1:], x.dtype, x.device, *x.shape))
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        plain = tuple("tensor" if isinstance(leaf, Tensor) else _plain(leaf) for leaf in leaves)
        ranks = tuple(tensor.dim() for tensor in tensors)
        details = [part for tensor in tensors for part in (tensor.dtype, tensor.device, *tensor.shape)]
        return cls(tensors, (spec, plain, modes[0], ranks, *modes[1:], *details))

    @property
    def fixed(self) -> tuple[Any, ...]:
        """The part of the key that always matters: structure, plain values, training flag, ranks."""
        return self.key[:4]


def _spelt(code: str, graph: fx.Graph) -> str:
    """Write paths through attributes that are Python keywords (a candidate called "None") with getattr."""
    for target in {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}:
        names = target.split(".")
        if any(map(keyword.iskeyword, names)):
            plain = re.escape(_format_target("self", target))
            spelt = functools.reduce(lambda path, name: f'getattr({path}, "{name}")', names, "self")
            code = spelt.join(re.split(rf"{plain}(?!\w)", code))
    return code


def _plain(value: Any) -> Any:
    """Return what two calls must agree in: 1 and True differ, and so do two modules."""
    return type(value), Same(value) if isinstance(value, nn.Module) else freeze(value)


@dataclass
class Program:
    """A graph compiled to a function ``run(model, *tensors)``, and when it holds.

    Attributes:
        graph: what it computes; its targets are paths in the model's tree.
        guards: the Python state it depends on.
        fingerprint: of the run it was captured from.
        keys: of the calls that were seen to take its path.
        entered: paths of the modules that the captured run went through.
        has_guards: True where the graph itself checks answers read from data.
        has_writes: True where it writes to memory that existed before.
    """

    graph: fx.Graph
    guards: StateGuards
    fingerprint: str
    keys: set[tuple[Any, ...]]
    entered: tuple[str, ...]
    run: Callable[..., Any] = field(init=False)
    code: str = field(init=False)
    has_guards: bool = field(init=False)
    has_writes: bool = field(init=False)

    def __post_init__(self) -> None:
        """Compile."""
        self.compile()

    def compile(self) -> None:
        """Compile the graph as it stands now."""
        python = self.graph.python_code("self")
        self.code = _spelt(python.src, self.graph)
        filename = f"<toponas_fx program {id(self)}>"
        linecache.cache[filename] = (len(self.code), None, self.code.splitlines(keepends=True), filename)
        scope = dict(python.globals)
        exec(compile(self.code, filename, "exec"), scope)
        keeps_inputs = any(node.target in recomputing.OPERATIONS for node in self.graph.nodes)
        self.run = recomputing.keeping_inputs(scope["forward"]) if keeps_inputs else scope["forward"]
        self.has_guards = any(node.target is ops.guard for node in self.graph.nodes)
        self.has_writes = any(node.meta.get("mutates") for node in self.graph.nodes)

    @property
    def fixed(self) -> tuple[Any, ...]:
        """What the keys of all its calls agree in."""
        return next(iter(self.keys))[:4]

    def accepts(self, call: Call) -> bool:
        """Tell whether a run with a call's key was seen to take this path."""
        return call.key in self.keys

    def extend(self, call: Call, guards: StateGuards) -> None:
        """Note that a call with another key, or other guards, took the same path."""
        self.keys.add(call.key)
        self.guards.add(guards)

    def first_change(self, tree: TreeIndex) -> Change | None:
        """Return what changed in the Python state it depends on, or None."""
        return self.guards.first_change(tree)

    def copy(self) -> Program:
        """Return a program with a graph of its own."""
        graph = load_graph(dump_graph(self.graph))
        return Program(graph, self.guards, self.fingerprint, set(self.keys), self.entered)

    def __getstate__(self) -> dict[str, Any]:
        """Write the graph as plain data."""
        state = {name: value for name, value in vars(self).items() if name not in ("run", "code", "graph")}
        return {**state, "rows": dump_graph(self.graph)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the graph and compile it."""
        self.graph = load_graph(state.pop("rows"))
        vars(self).update(state)
        self.compile()
