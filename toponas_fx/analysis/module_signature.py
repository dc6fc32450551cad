"""When two modules are alike: the same class with the same configuration."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from toponas_fx.ir import known_facts

_PLAIN = (int, float, str, bool, type(None))


@known_facts.of_module
def signature(module: nn.Module) -> tuple[Any, ...]:
    """Return what two modules must agree in to be alike: class, options, mode, and the kind of what they own.

    Values of parameters and buffers do not count, nor do names.
    """
    options = tuple(
        (name, _comparable(value)) for name, value in sorted(vars(module).items()) if not name.startswith("_")
    )
    owned = {**module._parameters, **module._buffers}
    kinds = tuple((name, None if value is None else _kind(value)) for name, value in owned.items())
    return type(module), options, kinds


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.dtype, tensor.requires_grad


def _comparable(value: Any) -> Any:
    """Return something hashable that equal options have in common; what cannot be compared is equal to itself only."""
    if isinstance(value, tuple | list):
        return tuple(map(_comparable, value))
    return value if isinstance(value, _PLAIN) else id(value)


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is one of torch's normalization layers."""
    return isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm)
