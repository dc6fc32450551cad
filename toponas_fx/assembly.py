"""Making simplified models: the class that joins facade and user, a first instance, and further ones like it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

from torch import fx, nn

from toponas_fx.capture.frozen import Kind, freeze
from toponas_fx.capture.leaves import is_leaf
from toponas_fx.capture.quiet import collector_off
from toponas_fx.capture.tree_index import walk_modules
from toponas_fx.errors import ArgumentError
from toponas_fx.kernels import watch_layers
from toponas_fx.model import SimplifiedModule
from toponas_fx.running import forward_of
from toponas_fx.state import State
from toponas_fx.tree import copy_tree

_PLAIN = (int, float, bool, str, tuple, type(None))
_OWN = {"graph", "code", "meta", "report", "reference", "topology", "recompile", "print_readable", "_graph", "_code"}
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
    taken = sorted(name for name in attributes if name in _OWN or name.startswith("_toponas"))
    if isinstance(model, fx.GraphModule):
        taken = []
    if taken:
        raise ArgumentError(
            f"{user_class.__name__} has an attribute `{taken[0]}`, which a simplified model needs for itself; rename it"
        )
    fast: Any = copy_tree(model, simplified_class(user_class))
    forward = vars(fast).pop("forward", None)
    user_forward = (lambda self, *a, **k: forward(*a, **k)) if forward is not None else user_class.forward
    vars(fast)["meta"] = {}
    vars(fast)["_toponas"] = State(user_class, user_forward, mode, passes)
    fast.meta["sharing"] = fast._toponas.sharing
    return fast  # type: ignore[no-any-return]


def simplified_class(user_class: type[nn.Module]) -> type[SimplifiedModule]:
    """Return the class of simplified models of a user's class, the same one each time."""
    return _simplified_class(user_class)  # type: ignore[arg-type]


@functools.cache
def _simplified_class(user_class: Any) -> type[SimplifiedModule]:
    namespace: dict[str, Any] = {"__doc__": user_class.__doc__, "__module__": user_class.__module__}
    for owner in reversed(user_class.__mro__):
        if owner.__module__.split(".")[0] == "torch" or owner is object:
            continue
        for name, method in vars(owner).items():
            if isinstance(method, FunctionType) and not name.startswith("__") and name != "forward":
                namespace[name] = _returning_models(method)

    namespace["forward"] = forward_of(user_class.forward)
    namespace["_toponas_class"] = user_class
    namespace["_toponas_unpickle"] = staticmethod(unpickle)
    return type(f"Simplified{user_class.__name__}", (SimplifiedModule, user_class), namespace)


def _returning_models(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method of the user's so that a model of the user's class that it returns comes back simplified."""

    @functools.wraps(method)
    def call(self: SimplifiedModule, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        state = vars(self).get("_toponas")
        if state is None or type(result) is not state.user_class:
            return result
        with collector_off():  # a search makes one a step, of a hundred thousand small objects
            return bind(self, result)

    return call


def bind(template: SimplifiedModule, model: nn.Module) -> nn.Module:
    """Simplify another model of the same class and structure as ``template`` was, without another capture.

    A model of another structure is simplified from the start.
    """
    state = template._toponas
    state.tree(template)
    if state.structure is None:
        state.structure = _structure(template)
    if _structure(model) != state.structure:
        fresh: nn.Module = state.simplify_like(template, model)
        return fresh
    fast = assemble(model, state.mode, state.passes)
    twin = state.copy()
    twin.user_forward = fast._toponas.user_forward
    vars(fast)["_toponas"] = twin
    fast.meta["sharing"] = twin.sharing
    for removed, kept in twin.sharing.ties.items():
        owner, _, name = removed.rpartition(".")
        fast.get_submodule(owner)._modules[name] = fast.get_submodule(kept)
    retire(fast, state.removed)
    watch_layers(fast, twin.sharing)
    twin.tree(fast)
    return fast


def _structure(model: nn.Module) -> dict[str, Any]:
    """Return what the graphs of one model must find alike in another: classes, layers' options, parameters' shapes."""
    return {
        path: (_kind(module) if path else None, [(name, _shape(module, name)) for name in module._parameters])
        for path, module in walk_modules(model)
    }


def _kind(module: nn.Module) -> Any:
    if not is_leaf(module) or isinstance(module, nn.modules.dropout._DropoutNd):
        return type(module)
    options = [(name, value) for name, value in vars(module).items() if name[0] != "_" and name != "training"]
    plain = [(name, value if type(value) in _PLAIN else freeze(value)) for name, value in options]
    return type(module), [option for option in plain if not isinstance(option[1], Kind)]  # tensors have no say


def _shape(module: nn.Module, name: str) -> Any:
    tensor = vars(module).get(name, module._parameters[name])
    return None if tensor is None else tensor.shape


def retire(fast: SimplifiedModule, paths: Iterable[str]) -> None:
    """Take parameters that no run reads out of ``parameters()``; they stay readable as plain attributes."""
    for path in list(paths):
        owner, _, name = path.rpartition(".")
        module = fast.get_submodule(owner)
        parameter = module._parameters.get(name)
        if parameter is not None:
            module._parameters[name] = None
            vars(module)[name] = parameter
            fast._toponas.removed[path] = parameter


def unpickle(user_class: type[nn.Module]) -> Any:
    """Return an empty simplified model for pickle to fill."""
    return object.__new__(simplified_class(user_class))
