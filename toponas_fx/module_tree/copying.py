"""A copy of a model's module tree over the same tensors."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
from collections import deque
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from toponas_fx.module_tree.tensor_paths import MODULE_INTERNALS, TensorPath, is_users, walk_value


def copy_tree(root: nn.Module, root_class: type[nn.Module]) -> nn.Module:
    """Copy a model's module tree over the same tensors.

    Every module becomes a new object with its own attributes, and so do containers of Python's own, of whatever depth;
    parameters, buffers, plain tensors and the objects of the user's classes (settings, say) are the same in both,
    unless one leads to a module of the tree. References between modules lead to the copies. What cannot be copied,
    scripted modules, and modules held outside the tree are shared.

    Args:
        root: the model.
        root_class: the class of the new root; all others keep theirs.

    Returns:
        The new root.
    """
    memo: dict[int, Any] = {}
    modules: list[nn.Module] = []
    for module in root.modules():
        is_shared = isinstance(module, torch.jit.ScriptModule)
        kind = root_class if module is root else type(module)
        memo[id(module)] = module if is_shared else object.__new__(kind)
        modules += [] if is_shared else [module]
    others: list[tuple[dict[str, Any], str, Any]] = []
    for module in modules:
        twin = _with_attributes(memo[id(module)], vars(module))
        for name, value in [item for item in twin.items() if type(item[1]) not in _VALUES]:
            kind = type(value)
            if name in MODULE_INTERNALS and not value:
                twin[name] = kind()  # the many empty tables of every module
            elif name == "_modules":
                twin[name] = {key: memo.get(id(child), child) for key, child in value.items()}
            elif name in ("_parameters", "_buffers"):
                twin[name] = value.copy()
                memo.update((id(tensor), tensor) for tensor in value.values())
            elif kind is FunctionType:
                twin[name] = _rebound(value, memo)
            elif kind in (list, tuple) and all(type(item) in _ATOMS for item in value):
                twin[name] = memo.setdefault(id(value), kind(value))
            elif name != "_toponas":
                others.append((twin, name, value))
    for _, name, value in others:
        found = walk_value(value, TensorPath(name), (Tensor, nn.Module))
        memo.update((id(part), memo.get(id(part), part)) for _, part in found)
    for _, _, value in others:
        memo.update((id(part), part) for part in _kept(value))
    for twin, name, value in others:
        twin[name] = _copied(value, memo)
    copied: nn.Module = memo[id(root)]
    return copied


def _with_attributes(twin: nn.Module, attributes: dict[str, Any]) -> dict[str, Any]:
    """Give a new module the attributes of another, one by one, as constructors do; return the table of them.

    Python keeps the names once a class then; in a table that is filled at once they are there again, five times as much
    memory, and each call of a simplified model looks into the tables of all modules.
    """
    held = {name: value for name, value in attributes.items() if name != "_toponas"}
    if any(_is_set_by_class(type(twin), name) for name in held):  # type: ignore[arg-type]
        vars(twin).update(held)
    else:
        for name, value in held.items():
            object.__setattr__(twin, name, value)
    return vars(twin)


@functools.lru_cache(maxsize=4096)
def _is_set_by_class(kind: type, name: str) -> bool:
    """Return whether a class says what it is to set an attribute: a property, a slot."""
    found = inspect.getattr_static(kind, name, None)
    return hasattr(type(found), "__set__") or hasattr(type(found), "__delete__")


_VALUES = frozenset((int, float, complex, str, bytes, bool, type(None), type, BuiltinFunctionType))
_ATOMS = _VALUES | {FunctionType}


def _rebound(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """Return a function whose enclosing variables lead to the copies too: ``self.scale = lambda x: x * self.tau``."""
    cells = function.__closure__ or ()
    held = [getattr(cell, "cell_contents", None) for cell in cells]
    if not any(isinstance(value, nn.Module) and id(value) in memo for value in held):
        return function
    found = tuple(
        CellType(memo[id(value)]) if isinstance(value, nn.Module) and id(value) in memo else cell
        for cell, value in zip(cells, held, strict=True)
    )
    twin = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, found)
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__qualname__, twin.__module__, twin.__doc__ = function.__qualname__, function.__module__, function.__doc__
    vars(twin).update(vars(function))
    return twin


_OPENED = (list, tuple, dict, set, frozenset, deque, functools.partial, MethodType)
_MANY = 10_000
"""Parts of an object beyond which nobody looks whether it leads to a module."""


def _kept(value: Any) -> Iterator[Any]:
    """Yield the objects of the user's in a value that lead to no module: who set them up may go on setting them."""
    for part in _inside(value, lambda part: isinstance(part, _OPENED)):
        is_record = is_users(part) and type(part).__module__ not in ("collections", "unittest.mock")
        if is_record and not isinstance(part, nn.Module) and not _leads_to_module(part):
            yield part


def _leads_to_module(value: Any) -> bool:
    return any(isinstance(part, nn.Module) or count > _MANY for count, part in enumerate(_inside(value)))


def _inside(value: Any, is_opened: Callable[[Any], bool] = lambda part: True) -> Iterator[Any]:
    """Yield a value and all that it holds, each once; of functions what they enclose, of modules nothing."""
    stack, seen = [value], set()
    while stack:
        part = stack.pop()
        if id(part) in seen or isinstance(part, type | ModuleType | str | Tensor):
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, FunctionType):
            stack += [part.__closure__, part.__defaults__, part.__kwdefaults__]
        elif not isinstance(part, nn.Module) and is_opened(part):
            stack += gc.get_referents(part)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    try:
        found = copy.deepcopy(value, memo)
    except Exception:  # whatever an attribute's own __deepcopy__ raises: it is not ours to copy
        return value
    return found if type(found) is type(value) else value  # a stand-in answers __deepcopy__ too, with anything
