"""Normalized kernels outside the graph: the user's forward, and every layer called by itself, must see them too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any, cast

from torch import Tensor, nn

from toponas_fx import ops
from toponas_fx.capture.alone import alone
from toponas_fx.ir.decisions import NormalizedKernel, Sharing
from toponas_fx.module_tree.layers import is_leaf


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


def watch_layers(root: nn.Module, sharing: Sharing) -> None:
    """Let each layer whose own kernel is normalized compute with it so when it is called.

    Programs never call such a layer: they read its kernel. Whatever else calls it runs the user's code: another method
    of the model than forward, ``fast.cells[0](x)``, a hook. There the shared norm that follows expects what forward
    would give it. A capture sees what programs compute, should forward look at data. A kernel that the user's code
    reads itself, without the layer, is left as it is.
    """
    for path, decision in sharing.kernels.items():
        module, name = _split(root, path)
        bias = None if decision.bias is None else _split(root, decision.bias)
        if is_leaf(module) and (bias is None or bias[0] is module):
            vars(module)[_DECISION] = name, bias and bias[1], decision.per
            vars(module)["_call_impl"] = MethodType(_call_impl, module)


def leave_layer(module: nn.Module | None) -> None:
    """Let a layer compute with its kernel as it is again."""
    if module is not None and vars(module).pop(_DECISION, None) is not None:
        vars(module).pop("_call_impl", None)


def watched_kernels(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, NormalizedKernel]]:
    """Yield the kernels of layers that compute with them normalized, copies of such layers too, and how they do."""
    for path, module in modules.items():
        known = vars(module).get(_DECISION)
        if known is not None and module._parameters.get(known[0]) is not None:
            name, bias, per = known
            yield f"{path}.{name}", NormalizedKernel(bias and f"{path}.{bias}", per)


_DECISION = "_toponas_kernel"


@alone
def _call_impl(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run a layer with its kernel normalized; the name is torch's, by which pickle finds the class's own."""
    own, run = vars(self), cast(Callable[..., Any], type(self)._call_impl)
    name, bias_name, per = own[_DECISION]
    kernel, bias = self._parameters.get(name), self._parameters.get(bias_name)
    if name in own or kernel is None:  # swapped in already, or what the layer computes from other parameters now
        return run(self, *args, **kwargs)
    scale = ops.kernel_scale(kernel, per)
    values = {name: kernel * scale} | ({} if bias is None else {bias_name: ops.scale_bias(bias, scale)})
    own.update(values)
    try:
        return run(self, *args, **kwargs)
    finally:
        for key in values:
            own.pop(key, None)


def _split(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    owner, _, name = path.rpartition(".")
    return root.get_submodule(owner), name
