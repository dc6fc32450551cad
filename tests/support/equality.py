"""How tests compare two models at weights that they set; ``toponas_fx.testing`` compares them at all that matter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from toponas_fx.module_tree.isolation import restored_buffers, restored_generators


def double(model: nn.Module, eps: float = 1e-10) -> nn.Module:
    """Bring a model, its plain tensors included, to float64, with norms whose eps is too small to hide an error."""
    model.double()
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = eps
        for value in vars(module).values():
            if isinstance(value, Tensor) and value.is_floating_point():
                value.data = value.data.double()
    return model


def run(call: Callable[..., Tensor], model: nn.Module, inputs: tuple[Any, ...], wanted: Iterable[Tensor]) -> Any:
    """Return output and gradients of one run; buffers and generators are left as they were."""
    wanted = list(wanted)
    with restored_buffers(model), restored_generators():
        output = call(*inputs)
    loss = (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum()
    return output, torch.autograd.grad(loss, wanted, allow_unused=True)


def assert_same(found: Any, expected: Any, tolerance: float) -> None:
    """Assert that outputs and gradients agree, relative to their size; None counts as a gradient of zeros."""
    (output, gradients), (other, others) = found, expected
    _assert_close(output, other, tolerance, "output")
    for index, (gradient, reference) in enumerate(zip(gradients, others, strict=True)):
        if gradient is None and reference is None:
            continue
        known = gradient if gradient is not None else reference
        zeros = torch.zeros_like(known)
        _assert_close(
            zeros if gradient is None else gradient,
            zeros if reference is None else reference,
            tolerance,
            f"gradient {index}",
        )


def _assert_close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    assert torch.isfinite(found).all(), f"{what} is not finite"
    scale = max(1.0, expected.detach().abs().max().item())
    error = (found - expected).detach().abs().max().item()
    assert error <= tolerance * scale, f"{what}: off by {error:.3g}, allowed {tolerance * scale:.3g}"


def assert_vertex(
    fast: Any, inputs: tuple[Any, ...], tolerance: float = 1e-6, architecture: Iterable[Tensor] = ()
) -> None:
    """Assert that graph and reference agree at the present weights, in the present mode.

    Gradients are compared too, but for those of the architecture weights: sharing changes what lies between.
    """
    ids = {id(tensor) for tensor in architecture}
    wanted = [parameter for parameter in fast.parameters() if parameter.requires_grad and id(parameter) not in ids]
    assert_same(run(fast, fast, inputs, wanted), run(fast.reference, fast, inputs, wanted), tolerance)
