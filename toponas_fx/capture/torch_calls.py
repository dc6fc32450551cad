"""How a call that torch dispatched is written down: as which node, and whether it reads metadata or data."""

from __future__ import annotations

import operator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

METADATA = frozenset(
    "dim ndim dtype device layout is_cuda is_cpu is_sparse is_floating_point is_complex is_leaf "
    "grad_fn names name output_nr element_size stride storage_offset get_device is_signed "
    "is_meta is_mkldnn is_quantized is_nested is_xla is_mps is_xpu itemsize nbytes _version "
    "__hash__ data_ptr __dir__ is_inference has_names is_grad_enabled is_conj is_neg __len__ is_shared "
    "_record_function_enter_new _record_function_exit._RecordFunction _is_view untyped_storage is_same_size "
    "is_coalesced".split()
)
"""Names of torch functions whose answers do not depend on values; sizes are handled apart."""

GRAD_MODE = frozenset(
    "is_grad_enabled requires_grad grad_fn is_leaf is_inference is_inference_mode_enabled _set_grad_enabled".split()
)
"""Names of what tells a forward whether gradients are on, or switches them."""

FORBIDDEN = {
    "numpy": "a tensor is handed to numpy",
    "__array__": "a tensor is handed to numpy",
    "__array_wrap__": "a tensor comes back from numpy",
    "backward": "backward() is called",
    "register_hook": "a hook is registered on a tensor",
    "register_post_accumulate_grad_hook": "a hook is registered on a tensor",
    "retain_grad": "retain_grad() is called on a tensor",
    "set_": "a tensor's storage is replaced",
    "resize_": "a tensor's storage is resized",
    "__set__": "a property of a tensor (.data, .grad, .requires_grad) is assigned",
    "grad": "a gradient is read or computed",
    "__repr__": "the text of a tensor is read",
}
"""Calls that a graph cannot repeat faithfully, by name, each with what to say."""

_OPERATORS = {
    "add": operator.add,
    "sub": operator.sub,
    "subtract": operator.sub,
    "mul": operator.mul,
    "multiply": operator.mul,
    "div": operator.truediv,
    "divide": operator.truediv,
    "true_divide": operator.truediv,
    "neg": operator.neg,
    "negative": operator.neg,
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
}
_REFLECTED = {
    "__radd__": operator.add,
    "__rsub__": operator.sub,
    "__rmul__": operator.mul,
    "__rdiv__": operator.truediv,
}
_REFLECTED["__rtruediv__"] = operator.truediv


def name_of(func: Any) -> str:
    """Return a torch function's public name; a property's name for its getter."""
    if getattr(func, "__name__", "") == "__get__":
        return str(func.__self__.__name__)
    return str(getattr(func, "__name__", func))


def forbidden(name: str, args: tuple[Any, ...]) -> str | None:
    """Return what to say of a call that a graph cannot repeat faithfully, or None.

    The text of one number is that of its value; other texts name how a tensor was computed, too, and may be printed.
    """
    if name == "__format__" and not (type(args[0]) is Tensor and args[0].dim() == 0):
        name = "__repr__"
    return FORBIDDEN.get(name)


def is_property(func: Any) -> bool:
    """Return whether a torch function is the getter of a tensor property."""
    return getattr(func, "__name__", "") == "__get__"


def canonical(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, Any, tuple[Any, ...], dict[str, Any]]:
    """Return the node that stands for a call: its op, its target and its arguments.

    Plain arithmetic becomes Python's own operators, however it was written (``torch.add``, ``x.add``, ``x + y``).
    ``x.new(size)`` becomes ``x.new_empty(size)``: from anything but a ``torch.Size`` it would make a tensor of numbers.
    """
    name = name_of(func)
    if is_property(func):
        return "call_function", getattr, (args[0], name), kwargs
    if not kwargs and name in _OPERATORS and _is_arithmetic(func, name):
        return "call_function", _OPERATORS[name], args, kwargs
    if not kwargs and name in _REFLECTED and len(args) == 2:
        return "call_function", _REFLECTED[name], (args[1], args[0]), kwargs
    if isinstance(func, FunctionType) and func.__module__ == "torch._tensor" and not _is_method(func):
        return "call_method", _own_name(func), args, kwargs
    if name == "new" and any(isinstance(value, torch.Size) for value in args):
        name = "new_empty"
    args, kwargs = _without_sizes(args), _without_sizes(kwargs)
    return ("call_method", name, args, kwargs) if _is_method(func) else ("call_function", func, args, kwargs)


def _own_name(func: Any) -> str:
    """Return the name that a tensor has for a wrapped function: ``__pow__`` is called ``pow``, which is another."""
    return next((name for name, value in vars(Tensor).items() if value is func), name_of(func))


def _without_sizes(value: Any) -> Any:
    """Return tuples for the sizes among arguments: torch's functions take either, and code can spell a tuple."""
    if isinstance(value, torch.Size):
        return tuple(value)
    if type(value) in (tuple, list):
        return type(value)(map(_without_sizes, value))
    return {name: _without_sizes(item) for name, item in value.items()} if type(value) is dict else value


def _is_arithmetic(func: Any, name: str) -> bool:
    return func is getattr(torch, name, None) or _is_method(func)


def _is_method(func: Any) -> bool:
    if isinstance(func, FunctionType):
        return func.__qualname__.startswith("Tensor.")
    return func is getattr(Tensor, name_of(func), None)
