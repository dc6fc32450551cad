"""Steps of a search loop with the original and the simplified supernet side by side, everything compared after each."""

from __future__ import annotations

import copy
import pickle
import random
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import toponas_fx
from sampled.parts import C, Sampled

BATCHES = (2, 3, 5)
TOLERANCE = 1e-10
PLAIN = (int, float, str, list, tuple, dict, Tensor)
REASON = re.compile(r"(?P<file>\S[^:\n]*\.py):(?P<line>\d+): (?P<why>[^\n]+[^.\s])")
OF_NO_LINE = "what it computes keeps changing, and each change costs a capture"


def seed(number: int) -> None:
    """Seed every generator."""
    torch.default_generator.manual_seed(number)
    random.seed(number)
    numpy.random.seed(number)


def built(kind: Callable[[], Any], number: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """Build a supernet from a seed."""
    seed(number)
    return kind().to(dtype)


def image(batch: int, number: int, size: int = 8, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the images of a step, f64[N,C,H,W], that want a gradient."""
    generator = torch.Generator().manual_seed(number)
    return torch.randn(batch, C, size, size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


@contextmanager
def reasons_are_sentences() -> Iterator[None]:
    """Let models run as written, and assert that each reason is a sentence that names file and line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        text = str(warning.message)
        if "no mixed operation was found" in text or "should not be instantiated" in text:
            continue
        _, said, reason = re.split(r" (runs as its user wrote it(?: in a later call)?): ", text, maxsplit=1)
        assert said
        assert_is_reason(reason)


def assert_is_reason(text: str) -> None:
    """Assert that a reason is one sentence, after the file and the line that it is about, if it is about any."""
    if text.startswith(OF_NO_LINE):
        return
    found = REASON.fullmatch(text)
    assert found, text
    assert not re.search(r"\. [A-Z]", found["why"]), text


def simplified(model: Sampled, *, step: int = 0, size: int = 8) -> Any:
    """Simplify a copy of a supernet for the first step's arguments."""
    model = copy.deepcopy(model)
    x = image(3, 0, size, next(model.parameters()).dtype).detach()
    seed(step)
    fast = toponas_fx.simplify(model, model.arguments(x, step), mode=model.mode)
    for reason in fast._toponas.as_written.values():
        assert_is_reason(reason)
    return fast


def strides(tensor: Tensor) -> tuple[int, ...]:
    """Return the strides along dimensions that have two places; the others are never taken."""
    return tuple(step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)


class Side:
    """A supernet, its optimizers, and what a step leaves behind."""

    def __init__(self, model: Any, *, set_to_none: bool = True, batch: int | None = None, size: int = 8) -> None:
        self.set_to_none, self.batch, self.size = set_to_none, batch, size
        self.change(model)
        self.saved = copy.deepcopy(model.state_dict())

    def change(self, model: Any) -> None:
        """Go on with another model, and optimizers without a past."""
        self.model = model
        arch = model.arch()
        ids = {id(parameter) for parameter in arch}
        weights = [parameter for parameter in model.parameters() if id(parameter) not in ids]
        self.optimizers: list[Any] = [torch.optim.SGD(weights, 0.02, momentum=0.9, weight_decay=3e-4)]
        if arch:
            self.optimizers.append(torch.optim.Adam(arch, 3e-2, betas=(0.5, 0.999), weight_decay=1e-3))

    def images(self, number: int) -> Tensor:
        """Return the images of a step."""
        batch = self.batch or BATCHES[number % len(BATCHES)]
        return image(batch, number, self.size, next(self.model.parameters()).dtype)

    def step(self, number: int) -> dict[str, Any]:
        """Take one step from its seed and return all that can be seen of it."""
        model = self.model
        seed(number)
        model.prepare(number)
        x = self.images(number)
        with torch.set_grad_enabled(model.training or number % 2 == 0):
            output = model.outputs(x, number)
        seen = {"output": output, "generators after forward": generators()}
        model.zero_grad(set_to_none=self.set_to_none)
        loss = model.loss(output)
        if loss.requires_grad:
            loss.backward()
        model.after_backward()
        seen["gradients"] = {name: parameter.grad for name, parameter in model.named_parameters()}
        seen |= {"gradient of the input": x.grad, "buffers": dict(model.named_buffers())}
        seen["attributes"] = attributes(model)
        seen = detached(seen)
        if model.training:
            for optimizer in self.optimizers:
                optimizer.step()
        seen["parameters"] = detached(dict(model.named_parameters()))
        seen["generators"] = generators()
        return seen

    def second_order(self, number: int) -> dict[str, Any]:
        """Return first and second derivatives by all parameters and by the input."""
        model = self.model
        seed(number)
        model.prepare(number)
        x = self.images(number)
        wanted = [x, *model.parameters()]
        options = {"allow_unused": True, "materialize_grads": False}
        first = torch.autograd.grad(model.loss(model.outputs(x, number)), wanted, create_graph=True, **options)
        total = sum(gradient.square().sum() for gradient in first if gradient is not None)
        second = torch.autograd.grad(total, wanted, **options)
        second = [
            None if one is None else one.contiguous() for one in second
        ]  # how these lie depends on the order of sums
        return detached({"first": list(first), "second": second, "buffers": dict(model.named_buffers())})


def attributes(model: Any) -> dict[str, Any]:
    """Return the plain values that modules hold, tensors among them, but for layers' constants and private ones."""
    return {
        f"{name}.{key}": copy.copy(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, PLAIN) and key[0] != "_" and key not in (*getattr(module, "__constants__", ()), "meta")
    }


def generators() -> tuple[Any, ...]:
    """Return the states of all generators."""
    _, words, *rest = numpy.random.get_state()
    return torch.get_rng_state(), hash(random.getstate()), words.tobytes(), *rest


def detached(values: Any) -> Any:
    """Return a copy of what a step left, with the same strides."""
    return pytree.tree_map_only(Tensor, lambda t: t.detach().clone(memory_format=torch.preserve_format), values)


def evaluate(side: Side) -> None:
    """Go on in evaluation mode."""
    side.model.eval()


def train(side: Side) -> None:
    """Go on in training mode."""
    side.model.train()


def deepcopy(side: Side) -> None:
    """Go on with a copy."""
    side.change(copy.deepcopy(side.model))


def pickled(side: Side) -> None:
    """Go on with what pickle brings back."""
    side.change(pickle.loads(pickle.dumps(side.model)))


def load(side: Side) -> None:
    """Go back to the weights of the beginning."""
    side.model.load_state_dict(side.saved)


EVENTS: dict[int, Callable[[Side], None]] = {12: evaluate, 13: train, 14: deepcopy, 15: pickled, 17: load}
"""What happens before a step of the plain run; twelve come before that."""


def run_alike(
    sides: tuple[Side, Side], steps: int, events: dict[int, Callable[[Side], None]] | None = None, first: int = 0
) -> None:
    """Step both sides and compare all that is seen of them, each step; events come before their steps."""
    for number in range(first, first + steps):
        for side in sides:
            if events and number in events:
                events[number](side)
        expected, found = (side.step(number) for side in sides)
        assert_alike(found, expected, TOLERANCE, f"step {number}")


def assert_alike(found: Any, expected: Any, tolerance: float, where: str) -> None:
    """Assert that two structures hold the same values, tensors with their strides; None is not zero."""
    left, spec = pytree.tree_flatten_with_path(found)
    right, other = pytree.tree_flatten_with_path(expected)
    assert spec == other, where
    for (path, one), (_, two) in zip(left, right, strict=True):
        what = f"{where}: {pytree.keystr(path)}"
        if not isinstance(two, Tensor):
            assert type(one) is type(two), f"{what}: {type(one)} instead of {type(two)}"
            assert one == two, f"{what}: {one} instead of {two}"
            continue
        assert isinstance(one, Tensor), f"{what}: {one} instead of a tensor"
        assert strides(one) == strides(two), f"{what}: strides {one.stride()} instead of {two.stride()}"
        if torch.equal(one, two):
            continue
        torch.testing.assert_close(
            one, two, rtol=tolerance, atol=tolerance, msg=lambda text, what=what: f"{what}: {text}"
        )
