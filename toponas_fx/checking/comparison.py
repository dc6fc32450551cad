"""What one run of a model leaves behind, and how far two runs are apart."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from toponas_fx.capture.inputs import Inputs
from toponas_fx.module_tree.isolation import no_trace
from toponas_fx.module_tree.tensor_paths import TensorPath, model_tensors

SMALL = 0.01
"""Below this part of the largest value of its kind a tensor's errors count relative to that value, not to its own."""


@dataclass(frozen=True)
class Run:
    """One run and its backward pass.

    Attributes:
        outputs: the tensors that forward returned, by their place.
        structure: what forward returned besides.
        gradients: of a fixed loss, by name; None where the loss does not depend on a tensor.
        buffers: values after the run, by name.
        drawn: the next random number; another where forward draws more, or fewer.
    """

    outputs: dict[str, Tensor]
    structure: Any
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]
    drawn: float


@dataclass(frozen=True)
class Difference:
    """How far two runs are apart in one respect.

    Attributes:
        error: the largest error of a tensor relative to its size; infinite where a value is missing or not finite.
        where: the tensor with that error.
    """

    error: float
    where: str


def run_from(seed: int, call: Callable[..., Any], owner: nn.Module, inputs: Inputs, wanted: Any) -> Run:
    """Run a call and its backward pass from a seed, and put everything back as it was.

    Args:
        seed: of torch's, Python's and numpy's generators.
        call: the model, or another way to run it.
        owner: the model.
        inputs: forward's arguments.
        wanted: tensors to differentiate by, by name.
    """
    with no_trace(owner):
        seed_all(seed)
        args, kwargs = pytree.tree_map_only(Tensor, torch.clone, inputs)
        output = call(*args, **kwargs)
        drawn = torch.rand(()).item()
        leaves, spec = pytree.tree_flatten(output)
        outputs = {f"output {place}": leaf for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        plain = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        gradients = _gradients(list(outputs.values()), wanted)
        buffers = {name: buffer.detach().clone() for name, buffer in owner.named_buffers()}
    outputs = {name: leaf.detach().clone() for name, leaf in outputs.items()}
    return Run(outputs, (str(spec), repr(plain)), gradients, buffers, drawn)


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what a search may differentiate by: parameters and plain tensors that require grad, by their path."""
    found: dict[int, tuple[str, Tensor]] = {}
    for path, tensor in model_tensors(model):
        if tensor.requires_grad and tensor.is_leaf:
            found.setdefault(id(tensor), (spelt(path), tensor))
    return dict(found.values())


def spelt(path: TensorPath) -> str:
    """Write the path of a tensor as Python does."""
    steps = (f".{step}" if kind == "attribute" else f"[{step!r}]" for kind, step in path.steps)
    return path.target + "".join(steps)


def seed_all(seed: int) -> None:
    """Seed torch's, Python's and numpy's generators."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)


def difference(found: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> Difference:
    """Return the largest difference of tensors of one kind; None counts as zeros.

    An error is relative to the largest value of its own tensor, or to ``SMALL`` times that of all tensors of the kind
    where that is more: gradients that are zero but for rounding have no size of their own.
    """
    worst = Difference(0.0, "")
    for name, error in errors(found, expected).items():
        if error > worst.error:
            worst = Difference(error, name)
    return worst


def errors(found: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> dict[str, float]:
    """Return the error of each tensor of one kind, as ``difference`` has it."""
    sizes = {name: _size(tensor) for name, tensor in expected.items()}
    floor = SMALL * max(sizes.values(), default=0.0) or 1.0
    return {
        name: _error(found.get(name), expected.get(name)) / max(sizes.get(name, 0.0), floor)
        for name in {**expected, **found}
    }


def finiteness(found: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> Difference:
    """Return an infinite difference where a value is not finite though what it was made from is."""
    for name, tensor in found.items():
        twin = expected.get(name)
        is_fine = tensor is None or bool(torch.isfinite(tensor).all())
        if not is_fine and (twin is None or bool(torch.isfinite(twin).all())):
            return Difference(math.inf, name)
    return Difference(0.0, "")


def _gradients(outputs: list[Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """Differentiate a loss in which every number of the outputs has a factor of its own."""
    leaves = [leaf for leaf in outputs if leaf.requires_grad]
    if not leaves or not wanted:
        return dict.fromkeys(wanted)
    generator = torch.Generator().manual_seed(1)
    factors = [torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf) for leaf in leaves]
    found = torch.autograd.grad(leaves, list(wanted.values()), factors, allow_unused=True)
    return dict(zip(wanted, found, strict=True))


def _size(tensor: Tensor | None) -> float:
    """Return the largest finite absolute value."""
    if tensor is None or tensor.numel() == 0:
        return 0.0
    values = tensor.detach().to(torch.float64 if not tensor.is_complex() else tensor.dtype).abs()
    return float(torch.where(torch.isfinite(values), values, 0.0).max())


def _error(found: Tensor | None, expected: Tensor | None) -> float:
    if found is None and expected is None:
        return 0.0
    if found is None or expected is None:
        known = expected if found is None else found
        found, expected = (torch.zeros_like(known) if t is None else t for t in (found, expected))  # type: ignore[arg-type]
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return math.inf
    if not found.is_floating_point() and not found.is_complex():
        return 0.0 if torch.equal(found, expected) else math.inf
    is_same = (found == expected) | (found.isnan() & expected.isnan())  # infinities too
    off = torch.where(is_same, 0.0, (found - expected).abs())
    return math.inf if bool(off.isnan().any()) else float(off.max()) if off.numel() else 0.0


def another(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return an input of the same kind with other numbers, where it has a floating type."""
    if not tensor.is_floating_point():
        return tensor.clone()
    return tensor + torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)


@contextmanager
def changed_weights(model: nn.Module, one_hot: Any, seed: int) -> Iterator[None]:
    """Change every trained tensor, and the architecture weights by much: nothing may be frozen in a graph.

    Args:
        model: the user's.
        one_hot: the ``OneHotArchitectures`` of its mixed operations; None where none were found.
        seed: of the changes.
    """
    tensors = {**trained_tensors(model), **({str(key): t for key, t in one_hot.leaves.items()} if one_hot else {})}
    saved = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]
    generator = torch.Generator().manual_seed(seed)
    try:
        for tensor, value in saved:
            factor = 1 + 0.1 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.data.copy_(value * factor.to(value))
        if one_hot is not None:
            one_hot.scatter(seed)
        yield
    finally:
        for tensor, value in saved:
            tensor.data.copy_(value)
