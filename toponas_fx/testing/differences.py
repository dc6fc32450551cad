"""What two models compute differently, a line for each thing: output, gradient, buffer, random draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from toponas_fx.analysis.arms import selects
from toponas_fx.capture.inputs import Inputs
from toponas_fx.checking.comparison import Run, errors, run_from, trained_tensors
from toponas_fx.checking.precision import copied
from toponas_fx.module_tree.tensor_paths import model_tensors
from toponas_fx.runtime.inspection import inspection

EXACT = 1e-10
"""Relative error that passes where the function is the same, in float64."""
PATHS = 8
"""At how many seeds a model that draws its path is compared."""
_SHOWN = 6


def prepared(module: nn.Module, eps: float | None = None) -> nn.Module:
    """Return a copy in float64 whose norms have statistics of their own, and an eps too small to hide an error."""
    module = copied(module).double()
    scatter_statistics(module)
    for part in module.modules():
        if eps is not None and hasattr(part, "eps"):
            vars(part)["eps"] = eps
    double_plain_tensors(module)
    return module


def scatter_statistics(model: nn.Module) -> None:
    """Give every norm running statistics of its own, so that evaluation tells them apart."""
    for module in model.modules():
        statistics: Any = module
        if isinstance(module, nn.modules.batchnorm._NormBase) and statistics.running_mean is not None:
            statistics.running_mean.normal_(0, 0.1)
            statistics.running_var.uniform_(0.5, 1.5)


def draws_its_path(fast: Any) -> bool:
    """Return whether a simplified model takes one of several arms, as a number that it draws decides, say."""
    return any(selects(program.graph) for program in fast._toponas.programs)


def differences_from(original: nn.Module, fast: Any, inputs: Inputs, tolerance: float, seed: int = 0) -> list[str]:
    """Return what a model computes unlike another, in training and in evaluation, a line each; at the first seed."""
    for path in range(PATHS if draws_its_path(fast) else 1):
        lines = _differences_at(original, fast, inputs, tolerance, seed + path)
        if lines:
            return lines
    return []


def _differences_at(original: nn.Module, fast: Any, inputs: Inputs, tolerance: float, seed: int) -> list[str]:
    lines: list[str] = []
    inputs = _with_gradients(inputs)
    for training in (True, False):
        found, expected = (
            run_from(seed, model.train(training), model, inputs, trained_tensors(model) | _trained(inputs))
            for model in (fast, original)
        )
        lines += [f"{mode_text(training)}: {line}" for line in differences(found, expected, tolerance)]
        lines += [f"{mode_text(training)}: {line}" for line in _left_behind(found, expected, tolerance)]
    return lines


def differences(found: Run, expected: Run, tolerance: float, none_is_zero: bool = False) -> Iterator[str]:
    """Yield a line for each output and gradient in which two runs differ."""
    if found.structure != expected.structure:
        yield f"forward returns {found.structure}, which was {expected.structure}"
    yield from _compared("", found.outputs, expected.outputs, tolerance)
    yield from _compared("the gradient of ", found.gradients, expected.gradients, tolerance, none_is_zero)


def _left_behind(found: Run, expected: Run, tolerance: float) -> Iterator[str]:
    """Yield a line for each buffer that two runs leave behind unlike, and where they draw unlike."""
    yield from _compared("the buffer ", found.buffers, expected.buffers, tolerance)
    if found.drawn != expected.drawn:
        yield "another number of values is drawn at random"


def _compared(
    kind: str,
    found: Mapping[str, Tensor | None],
    expected: Mapping[str, Tensor | None],
    tolerance: float,
    none_is_zero: bool = False,
) -> Iterator[str]:
    for name, error in errors(found, expected).items():
        own, other = found.get(name), expected.get(name)
        one_is_missing = (own is None) != (other is None)
        both = own is not None and other is not None
        is_unlike = both and (own.shape, own.dtype) != (other.shape, other.dtype)  # type: ignore[union-attr]
        if is_unlike or (one_is_missing and not none_is_zero):
            yield f"{kind}`{name}` is {_text(own)}, which was {_text(other)}"
        elif not error <= tolerance:
            yield f"{kind}`{name}` is off by {error:.2g}"


def fail(title: str, lines: Sequence[str], tolerance: float, advice: str) -> None:
    """Raise an AssertionError that says what differs, and what to do."""
    shown = [f"  {line}" for line in lines[:_SHOWN]]
    shown += [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    raise AssertionError("\n".join([f"{title} (relative errors up to {tolerance:.0e} pass):", *shown, advice]))


def differences_here(
    fast: Any, inputs: Inputs, tolerance: float, seed: int, architecture: Mapping[int, Tensor]
) -> list[str]:
    """Return what a simplified model computes unlike its reference at the present weights, in both modes.

    Args:
        fast: the simplified model.
        inputs: forward's arguments.
        tolerance: the error that passes.
        seed: of all draws.
        architecture: by identity, the architecture parameters, whose gradients are finite and no more.
    """
    lines = []
    given = _with_gradients(inputs)
    tensors = trained_tensors(fast)
    weights = {name: tensor for name, tensor in tensors.items() if id(tensor) in architecture}
    wanted = {name: tensor for name, tensor in tensors.items() if name not in weights}
    for leaf, (name, tensor) in zip(_floating(inputs), _trained(given).items(), strict=True):
        (weights if id(leaf) in architecture else wanted)[name] = tensor
    for training in (True, False):
        fast.train(training)
        found = run_from(seed, fast, fast, given, wanted | weights)
        expected = run_from(seed, inspection(fast).reference, fast, given, wanted)
        infinite = [name for name in weights if not _is_finite(found.gradients.pop(name))]
        told = [*differences(found, expected, tolerance, none_is_zero=True)]
        told += [f"the gradient of `{name}` is not finite" for name in infinite]
        lines += [f"{mode_text(training)}: {line}" for line in told]
    return lines


def _floating(inputs: Inputs) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor) and x.is_floating_point()]


def _with_gradients(inputs: Inputs) -> Inputs:
    """Return inputs of which gradients can be asked, over the same memory."""
    found: Any = pytree.tree_map_only(Tensor, lambda x: x.detach().requires_grad_(x.is_floating_point()), inputs)
    return Inputs(*found)


def _trained(inputs: Inputs) -> dict[str, Tensor]:
    return {f"input {number}": x for number, x in enumerate(_floating(inputs))}


def doubled(inputs: Inputs) -> Inputs:
    """Return inputs in float64."""
    found: Any = pytree.tree_map_only(Tensor, lambda x: x.double() if x.is_floating_point() else x, inputs)
    return Inputs(*found)


def double_plain_tensors(module: nn.Module) -> None:
    """Bring what a module holds besides parameters and buffers to float64."""
    for _, tensor in model_tensors(module):
        if tensor.is_floating_point():
            tensor.data = tensor.data.double()


def _is_finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())


def _text(value: Tensor | None) -> str:
    return "None" if value is None else f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


def mode_text(training: bool) -> str:
    """Return the name of a mode."""
    return "training" if training else "evaluation"
