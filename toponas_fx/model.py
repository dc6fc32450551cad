"""The simplified model: a GraphModule that is also an instance of the user's class."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import networkx as nx
import torch
from torch import Tensor, fx, nn

from toponas_fx.capture.quiet import restored_buffers, restored_generators
from toponas_fx.checkpoint import fit_checkpoint, own_names
from toponas_fx.compiler import compile_call
from toponas_fx.errors import ArgumentError, GuardFailure, ToponasError
from toponas_fx.kernels import normalized_kernels
from toponas_fx.program import Call, Program
from toponas_fx.report import Report
from toponas_fx.state import State
from toponas_fx.topology import build_topology
from toponas_fx.tree import TreeIndex, copy_tree


class SimplifiedModule(fx.GraphModule):
    """What ``simplify`` returns; a class made on the fly joins it with the user's own.

    ``forward`` runs the rewritten graph, ``reference`` the user's forward on the shared tree. Parameters, buffers and
    plain tensors are the very objects of the model that was simplified.
    """

    _user_class: type[nn.Module]
    _toponas: State

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Build a model of the user's class: what ``type(self)(...)`` means in the user's own code."""
        return cls._user_class(*args, **kwargs)

    def __init__(self) -> None:
        """Never runs: instances are made by ``assemble``."""

    # -- running -----------------------------------------------------------------------------------------------------

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program that holds for this call; capture where none does."""
        state: State = vars(self)["_toponas"]
        call = Call.of(args, kwargs, self.training)
        modules = state.modules(self)
        for program in state.programs:
            if not program.accepts(call) or program.first_change(modules) is not None:
                continue
            if not program.has_guards:
                return program.run(self, *call.tensors)
            try:
                with _undone_on_failure(self):
                    return program.run(self, *call.tensors)
            except GuardFailure:
                continue
        if call.fixed not in state.as_written:
            fresh = compile_call(self, state, call, args, kwargs)
            if fresh is not None:
                return fresh.run(self, *call.tensors)
        with normalized_kernels(self, state.sharing):
            return state.user_forward(self, *args, **kwargs)

    def reference(self, *args: Any, **kwargs: Any) -> Any:
        """Run the user's own forward on the shared module tree, kernels normalized: the oracle of this model.

        Buffers and random generators are left as they were.

        Args:
            *args: what forward takes.
            **kwargs: likewise.

        Returns:
            What the user's forward returns.
        """
        with restored_buffers(self), restored_generators(), normalized_kernels(self, self._toponas.sharing):
            return self._toponas.user_forward(self, *args, **kwargs)

    # -- inspection --------------------------------------------------------------------------------------------------

    @property
    def report(self) -> Report:
        """What was merged, what was refused and why, and what it saves."""
        found: Report = self._toponas.report
        return found

    def topology(self) -> nx.MultiDiGraph:
        """Return the graph of values and candidates, as it is after the rewriting, in the present mode."""
        return build_topology(self)

    def _program(self) -> Program:
        state = self._toponas
        for program in state.programs:
            if program.key[2] == self.training:
                return program
        reason = next(iter(state.as_written.values()), "it has not run in this mode yet")
        raise ToponasError(f"there is no graph in {'training' if self.training else 'evaluation'} mode: {reason}")

    @property
    def graph(self) -> fx.Graph:  # type: ignore[override]
        """The rewritten graph of the present mode, ``train()`` or ``eval()``; call ``recompile`` after editing it."""
        state = self._toponas
        if state.working is not None:
            return state.working
        if state.shares_graphs:
            state.programs = [program.copy() for program in state.programs]
            state.shares_graphs = False
        return self._program().graph

    @graph.setter
    def graph(self, graph: fx.Graph) -> None:
        _ = self.graph
        self._program().graph = graph
        self.recompile()

    @property
    def _graph(self) -> fx.Graph:
        return self.graph

    @property
    def code(self) -> str:
        """The Python code of the present mode's graph."""
        return self._program().code

    @property
    def _code(self) -> str:
        return self.code

    def recompile(self) -> fx.graph.PythonCode:  # type: ignore[override]
        """Compile the graph of the present mode after it was edited."""
        graph = self.graph
        self._program().compile()
        return graph.python_code("self")

    # -- checkpoints, copies -----------------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state under the user's names, every tensor once, under its first name."""
        found = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        own_names(found, prefix, self._toponas.sharing.ties)
        return found

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Accept a checkpoint of the original model too: names that were removed take the kept module's value."""
        fit_checkpoint(state_dict, prefix, self._toponas.sharing.ties, self._toponas.removed)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Copy the model; the copy has tensors of its own and runs the same programs."""
        twin: Any = object.__new__(type(self))
        memo[id(self)] = twin
        for name, value in vars(self).items():
            vars(twin)[name] = value.copy() if name == "_toponas" else copy.deepcopy(value, memo)
        vars(twin)["_toponas"].removed = _removed_of(twin, self._toponas)
        return twin

    def __copy__(self) -> Any:
        """Return a shallow copy, as ``copy.copy`` of any module: the same modules and tensors."""
        twin: Any = object.__new__(type(self))
        vars(twin).update(vars(self))
        vars(twin)["_toponas"] = self._toponas.copy()
        vars(twin)["_toponas"].removed = dict(self._toponas.removed)
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by the user's class and the attributes."""
        return _unpickle, (self._toponas.user_class,), dict(vars(self))

    def __reduce__(self) -> Any:
        """Pickle by the user's class and the attributes."""
        return self.__reduce_ex__(2)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the attributes."""
        vars(self).update(state)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move or convert the parameters that no run reads along with the others."""
        found = super()._apply(fn, recurse)
        for tensor in self._toponas.removed.values():
            tensor.data = fn(tensor.data)
        return found


def _removed_of(root: nn.Module, state: State) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in state.removed:
        owner, _, name = path.rpartition(".")
        found[path] = vars(root.get_submodule(owner))[name]
    return found


@contextmanager
def _undone_on_failure(model: nn.Module) -> Iterator[None]:
    """Undo what a run did to buffers and generators where it fails half-way."""
    saved = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    generator = torch.get_rng_state()
    try:
        yield
    except GuardFailure:
        torch.set_rng_state(generator)
        for buffer, value in saved:
            buffer.data.copy_(value)
        raise


# -- making models ---------------------------------------------------------------------------------------------------

_OWN = {"graph", "code", "meta", "report", "reference", "topology", "recompile", "print_readable", "_toponas"}
_OWN |= {name for name in vars(fx.GraphModule) if not name.startswith("_")}


def assemble(model: nn.Module, mode: str, passes: tuple[Any, ...]) -> SimplifiedModule:
    """Return an unsimplified facade over a copy of the model's tree.

    Raises:
        ArgumentError: the model has an attribute of a name that a GraphModule or a simplified model needs.
    """
    user_class = type(model)
    attributes = {*vars(model), *model._modules, *model._parameters, *model._buffers}
    for owner in user_class.__mro__[: user_class.__mro__.index(nn.Module)]:
        attributes |= set(vars(owner)) if owner is not fx.GraphModule else set()
    taken = sorted(_OWN & attributes) if not isinstance(model, fx.GraphModule) else []
    if taken:
        raise ArgumentError(
            f"{user_class.__name__} has an attribute `{taken[0]}`, which a simplified model needs for its own; rename it"
        )
    fast: Any = copy_tree(model, simplified_class(user_class))
    forward = vars(fast).pop("forward", None)
    user_forward = (lambda self, *a, **k: forward(*a, **k)) if forward is not None else user_class.forward
    vars(fast)["meta"] = {}
    vars(fast)["_toponas"] = State(user_class, user_forward, mode, passes)
    fast.meta["sharing"] = fast._toponas.sharing
    found: SimplifiedModule = fast
    return found


@functools.cache
def simplified_class(user_class: type[nn.Module]) -> type[SimplifiedModule]:
    """Return the class of simplified models of a user's class."""
    namespace: dict[str, Any] = {"__doc__": user_class.__doc__, "__module__": user_class.__module__}
    for owner in reversed(user_class.__mro__):
        if owner.__module__.split(".")[0] == "torch" or owner is object:
            continue
        for name, method in vars(owner).items():
            if isinstance(method, FunctionType) and not name.startswith("__") and name != "forward":
                namespace[name] = _returning_models(method)

    @functools.wraps(user_class.forward)
    def forward(self: SimplifiedModule, *args: Any, **kwargs: Any) -> Any:
        return self._run(*args, **kwargs)

    namespace["forward"] = forward
    namespace["_user_class"] = user_class
    return type(f"Simplified{user_class.__name__}", (SimplifiedModule, user_class), namespace)


def _returning_models(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method of the user's so that a model of the user's class that it returns comes back simplified."""

    @functools.wraps(method)
    def call(self: SimplifiedModule, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        state = vars(self).get("_toponas")
        if state is None or type(result) is not state.user_class:
            return result
        return bind(self, result)

    return call


def bind(template: SimplifiedModule, model: nn.Module) -> nn.Module:
    """Simplify another model of the same class and structure as ``template`` was, without another capture.

    A model of another structure is simplified from the start.
    """
    state = template._toponas
    if _structure(model) != _structure(template):
        from toponas_fx.simplify import simplify_like

        return simplify_like(template, model)
    fast = assemble(model, state.mode, state.passes)
    twin = state.copy()
    twin.user_forward = fast._toponas.user_forward
    vars(fast)["_toponas"] = twin
    fast.meta["sharing"] = twin.sharing
    for removed, kept in twin.sharing.ties.items():
        owner, _, name = removed.rpartition(".")
        fast.get_submodule(owner)._modules[name] = fast.get_submodule(kept)
    retire(fast, state.removed)
    return fast


def _structure(model: nn.Module) -> dict[str, Any]:
    return {
        path: (type(module) if path else None, [(name, _shape(module, name)) for name in module._parameters])
        for path, module in TreeIndex.of(model).modules.items()
    }


def _shape(module: nn.Module, name: str) -> Any:
    tensor = vars(module).get(name, module._parameters[name])
    return None if tensor is None else tensor.shape


def retire(fast: SimplifiedModule, paths: Any) -> None:
    """Take parameters that no run reads out of ``parameters()``; they stay readable as plain attributes."""
    for path in paths:
        owner, _, name = path.rpartition(".")
        module = fast.get_submodule(owner)
        parameter = module._parameters.get(name)
        if parameter is not None:
            module._parameters[name] = None
            vars(module)[name] = parameter
            fast._toponas.removed[path] = parameter


def _unpickle(user_class: type[nn.Module]) -> Any:
    return object.__new__(simplified_class(user_class))


