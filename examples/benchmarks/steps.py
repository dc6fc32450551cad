"""One forward-and-backward step of a model, and what it costs.

Shapes: N images, H and W their sides.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from toponas_fx.analysis.costs import flops, saved_bytes


@dataclass(frozen=True)
class Batch:
    """Random images and their classes.

    Attributes:
        images: f32[N,3,H,W].
        targets: i64[N].
        path: draws what forward takes behind the images.
    """

    images: Tensor
    targets: Tensor
    path: Callable[[], tuple[Any, ...]] = tuple

    @classmethod
    def random(cls, size: int, side: int, device: str = "cpu") -> Batch:
        """Draw a batch; the images' values do not depend on the device."""
        images, targets = torch.randn(size, 3, side, side), torch.randint(10, (size,))
        return cls(images.to(device), targets.to(device))

    def inputs(self, seed: int) -> tuple[Any, ...]:
        """Seed torch's generator, and return what forward takes; a path that forward draws itself follows as well."""
        torch.manual_seed(seed)
        return (self.images, *self.path())


@dataclass(frozen=True)
class Counts:
    """What a step costs apart from time.

    Attributes:
        saved_bytes: kept by a forward pass for the backward pass.
        flops: of a forward pass.
        dispatcher_calls: operations that a step hands to torch's dispatcher, forward and backward.
    """

    saved_bytes: float
    flops: float
    dispatcher_calls: float

    @classmethod
    def of(cls, model: nn.Module, batch: Batch, seeds: Sequence[int]) -> Counts:
        """Count steps with the random numbers of some seeds, and return the means."""
        return cls(
            statistics.mean(seeded_saved_bytes(model, batch, seed) for seed in seeds),
            # torch runs a compiled model uncompiled for this
            statistics.mean(flops(model, *batch.inputs(seed)) for seed in seeds),
            statistics.mean(dispatcher_calls(model, batch, seed) for seed in seeds),
        )


@dataclass(frozen=True)
class Quartiles:
    """The middle half of some numbers."""

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """Return the quartiles of at least one number."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


def trained_tensors(model: nn.Module) -> list[Tensor]:
    """Return the parameters and the architecture weights of a model, which may be plain tensors."""
    tensors = [*model.parameters(), *model.arch_parameters()]
    return list({id(tensor): tensor for tensor in tensors}.values())


def step(model: nn.Module, inputs: Sequence[Any], targets: Tensor) -> None:
    """Run forward, the loss and backward; gradients add up."""
    F.cross_entropy(model(*inputs), targets).backward()


def step_seconds(model: nn.Module, batch: Batch, seed: int) -> float:
    """Return how long a step takes that gives all trained tensors fresh gradients, with a seed's random numbers."""
    for tensor in trained_tensors(model):
        tensor.grad = None
    inputs = batch.inputs(seed)
    _finish(batch)
    start = time.perf_counter()
    step(model, inputs, batch.targets)
    _finish(batch)
    return time.perf_counter() - start


def seeded_saved_bytes(model: nn.Module, batch: Batch, seed: int = 0) -> int:
    """Return what a forward pass saves for backward, with the same random numbers for each model.

    Parameters, buffers and architecture weights do not count, as they exist anyway.
    """
    return saved_bytes(model, *batch.inputs(seed), exclude=model.arch_parameters())


def dispatcher_calls(model: nn.Module, batch: Batch, seed: int = 0) -> int:
    """Return how many operations a step hands to torch's dispatcher, forward and backward."""
    inputs = batch.inputs(seed)
    with CallCounter() as counter:
        step(model, inputs, batch.targets)
    return counter.calls


class CallCounter(TorchDispatchMode):
    """Counts operations, those that compiled code calls as well."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let compiled code run under this mode; without it torch runs the model uncompiled."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def _finish(batch: Batch) -> None:
    """Wait for what the batch's device still does."""
    if batch.images.is_cuda:
        torch.cuda.synchronize(batch.images.device)
