"""Normalized kernels outside the graph: the user's forward must see them too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from toponas_fx import ops
from toponas_fx.sharing import Sharing


def normalized_values(root: nn.Module, sharing: Sharing) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield each normalized kernel, and bias, with its module and attribute name."""
    for path, decision in sharing.kernels.items():
        module, name = _split(root, path)
        kernel = module._parameters[name]
        assert kernel is not None, path
        scale = ops.kernel_scale(kernel, decision.per)
        yield module, name, kernel * scale
        if decision.bias is not None:
            owner, bias_name = _split(root, decision.bias)
            bias = owner._parameters[bias_name]
            assert bias is not None, path
            yield owner, bias_name, ops.scale_bias(bias, scale)


@contextmanager
def normalized_kernels(root: nn.Module, sharing: Sharing) -> Iterator[None]:
    """Let modules see their kernels normalized; names, parameters and gradients stay where they are."""
    shadowed: list[tuple[dict[str, Any], str]] = []
    try:
        for module, name, value in normalized_values(root, sharing):
            vars(module)[name] = value  # an instance attribute goes before the registered parameter
            shadowed.append((vars(module), name))
        yield
    finally:
        for attributes, name in shadowed:
            attributes.pop(name, None)


def _split(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    owner, _, name = path.rpartition(".")
    return root.get_submodule(owner), name
