"""A copy of a model's module tree over the same tensors."""

from __future__ import annotations

import copy
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from toponas_fx.capture.owners import MODULE_INTERNALS, TensorPath, walk_value


def copy_tree(root: nn.Module, root_class: type[nn.Module]) -> nn.Module:
    """Copy a model's module tree over the same tensors.

    Every module becomes a new object with its own attributes; parameters, buffers and plain tensors are the same
    objects in both. References between modules lead to the copies. What cannot be copied, scripted modules, and
    modules held outside the tree are shared.

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
        twin = vars(memo[id(module)])
        twin.update(vars(module))
        for name, value in [item for item in twin.items() if type(item[1]) not in _ATOMS]:
            kind = type(value)
            if name in MODULE_INTERNALS and not value:
                twin[name] = kind()  # the many empty tables of every module
            elif name == "_modules":
                twin[name] = {key: memo.get(id(child), child) for key, child in value.items()}
            elif name in ("_parameters", "_buffers"):
                twin[name] = value.copy()
                memo.update((id(tensor), tensor) for tensor in value.values())
            elif kind in (list, tuple) and all(type(item) in _ATOMS for item in value):
                twin[name] = memo.setdefault(id(value), kind(value))
            elif name != "_toponas":
                others.append((twin, name, value))
        twin.pop("_toponas", None)
    for _, name, value in others:
        found = walk_value(value, TensorPath(name), (Tensor, nn.Module))
        memo.update((id(part), memo.get(id(part), part)) for _, part in found)
    for twin, name, value in others:
        twin[name] = _copied(value, memo)
    copied: nn.Module = memo[id(root)]
    return copied


_ATOMS = frozenset((int, float, complex, str, bytes, bool, type(None), type, FunctionType, BuiltinFunctionType))


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # whatever an attribute's own __deepcopy__ raises: it is not ours to copy
        return value
