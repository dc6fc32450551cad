"""A copy of a model's module tree over the same tensors."""

from __future__ import annotations

import copy
from types import FunctionType
from typing import Any

import torch
from torch import nn

from toponas_fx.capture.owners import hidden_modules, model_tensors


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
    memo: dict[int, Any] = {id(tensor): tensor for _, tensor in model_tensors(root)}
    memo.update({id(module): module for module in hidden_modules(root)})
    modules = list(root.modules())
    memo.update({id(module): module for module in modules if isinstance(module, torch.jit.ScriptModule)})
    modules = [module for module in modules if id(module) not in memo]
    for module in modules:
        memo[id(module)] = object.__new__(root_class if module is root else type(module))
    for module in modules:
        twin = vars(memo[id(module)])
        for name, value in vars(module).items():
            if name == "_modules":
                twin[name] = {key: memo.get(id(child), child) for key, child in value.items()}
            elif name in ("_parameters", "_buffers"):
                twin[name] = value.copy()
            elif name == "_non_persistent_buffers_set":
                twin[name] = set(value)
            elif name != "_toponas":
                twin[name] = _copied(value, memo)
    found: nn.Module = memo[id(root)]
    return found


_ATOMS = (int, float, str, bool, type(None), type, FunctionType)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, _ATOMS) or (isinstance(value, tuple) and all(isinstance(item, _ATOMS) for item in value)):
        return value
    if isinstance(value, dict) and not value:
        return value.copy()  # the many empty hook tables of every module: deepcopy takes its time for each
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # whatever an attribute's own __deepcopy__ raises: it is not ours to copy
        return value
