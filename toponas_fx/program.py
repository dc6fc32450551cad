"""A compiled graph and the conditions under which it may run."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from toponas_fx import ops
from toponas_fx.capture.guards import StateGuards, freeze
from toponas_fx.graph_pickle import dump_graph, load_graph

_ANY = None


@dataclass(frozen=True)
class Call:
    """The arguments of one call of forward, taken apart.

    Attributes:
        tensors: the tensors among them, in order.
        key: what a program may depend on: structure and plain values, training flag, grad mode, autocast, and each
            tensor's dtype, device and sizes, flat; a program replaces by ``None`` what turned out not to matter.
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
        plain = tuple("tensor" if isinstance(leaf, Tensor) else freeze(leaf) for leaf in leaves)
        ranks = tuple(tensor.dim() for tensor in tensors)
        details = [part for tensor in tensors for part in (tensor.dtype, tensor.device, *tensor.shape)]
        return cls(tensors, (spec, plain, modes[0], ranks, *modes[1:], *details))

    @property
    def fixed(self) -> tuple[Any, ...]:
        """The part of the key that always matters: structure, plain values, training flag, ranks."""
        return self.key[:4]


@dataclass
class Program:
    """A graph compiled to a function ``run(model, *tensors)``, and when it holds.

    Attributes:
        graph: what it computes; its targets are paths in the model's tree.
        guards: the Python state it depends on.
        fingerprint: of the run it was captured from.
        key: the calls it holds for, with None for what does not matter.
        entered: paths of the modules that the captured run went through.
        has_guards: True where the graph itself checks answers read from data.
    """

    graph: fx.Graph
    guards: StateGuards
    fingerprint: str
    key: tuple[Any, ...]
    entered: tuple[str, ...]
    run: Callable[..., Any] = field(init=False)
    code: str = field(init=False)
    has_guards: bool = field(init=False)

    def __post_init__(self) -> None:
        """Compile."""
        self.compile()

    def compile(self) -> None:
        """Compile the graph as it stands now."""
        python = self.graph.python_code("self")
        self.code = python.src
        filename = f"<toponas_fx program {id(self)}>"
        linecache.cache[filename] = (len(self.code), None, self.code.splitlines(keepends=True), filename)
        scope = dict(python.globals)
        exec(compile(self.code, filename, "exec"), scope)
        self.run = scope["forward"]
        self.has_guards = any(node.target is ops.guard for node in self.graph.nodes)

    def accepts(self, call: Call) -> bool:
        """Tell whether the key holds for a call."""
        own, other = self.key, call.key
        if len(own) != len(other):
            return False
        return all(mine is _ANY or mine == found for mine, found in zip(own, other, strict=True))

    def relax(self, call: Call) -> None:
        """Note that a call with another key took the same path: what differs does not matter."""
        parts = zip(self.key, call.key, strict=True)
        self.key = tuple(mine if mine == found else _ANY for mine, found in parts)

    def first_change(self, modules: dict[str, nn.Module]) -> str | None:
        """Return what changed in the Python state it depends on, or None."""
        return self.guards.first_change(modules)

    def copy(self) -> Program:
        """Return a program with a graph of its own."""
        return Program(load_graph(dump_graph(self.graph)), self.guards, self.fingerprint, self.key, self.entered)

    def __getstate__(self) -> dict[str, Any]:
        """Write the graph as plain data."""
        state = {name: value for name, value in vars(self).items() if name not in ("run", "code", "graph")}
        return {**state, "rows": dump_graph(self.graph)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the graph and compile it."""
        self.graph = load_graph(state.pop("rows"))
        vars(self).update(state)
        self.compile()
