"""What search loops do to a supernet, one loop a function; each writes down what it sees in a journal to compare."""

from __future__ import annotations

import copy
import io
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.optim import swa_utils
from torch.utils import _pytree as pytree

from toponas_fx.module_tree.tensor_paths import model_tensors

ETA = 0.01


@dataclass
class Journal:
    """What one loop saw, in order: a sentence and the tensors, by name; and how near two of them are to be."""

    tolerance: float = 1e-8
    entries: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def note(self, what: str, values: Any) -> None:
        leaves = pytree.tree_leaves(values)
        found = {str(i): leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for i, leaf in enumerate(leaves)}
        self.entries.append((what, found))

    def note_tensors(self, what: str, model: nn.Module) -> None:
        """Write down all tensors of a model."""
        self.entries.append((what, {str(path): tensor.detach().clone() for path, tensor in model_tensors(model)}))

    def note_gradients(self, what: str, model: nn.Module) -> None:
        """Write down the gradients that there are; who has none is not named."""
        tensors = [(str(path), tensor.grad) for path, tensor in model_tensors(model)]
        self.entries.append((what, {path: grad.detach().clone() for path, grad in tensors if grad is not None}))


def seed(step: int) -> None:
    torch.manual_seed(step)
    random.seed(step)
    numpy.random.seed(step)


def run(model: Any, step: int = 0, batch: int = 3, dtype: torch.dtype = torch.float64) -> Any:
    """Run a model on the batch of one step, from that step's seed."""
    given = model.inputs(batch), model.keywords()
    inputs, keywords = pytree.tree_map_only(Tensor, lambda x: _moved(x, step, dtype), given)
    seed(step)
    return model(*inputs, **keywords)


def _moved(value: Tensor, step: int, dtype: torch.dtype) -> Tensor:
    """Return another batch; weights that are given as an argument stay."""
    return (value + 0.05 * step).to(dtype) if value.is_floating_point() and not value.requires_grad else value


def loss_of(output: Any) -> Tensor:
    leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return sum((t * torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t)).mean() for t in leaves)  # type: ignore


def loss(model: Any, step: int = 0, batch: int = 3) -> Tensor:
    return loss_of(run(model, step, batch))


def arch_of(model: Any) -> list[Tensor]:
    """Return the architecture weights that can be trained, each once."""
    return [t for t in {id(tensor): tensor for tensor in model.arch()}.values() if t.requires_grad]


def names_of_weights(model: Any) -> dict[str, nn.Parameter]:
    """Return the parameters that are no architecture weights, as the loops tell them apart: one by one."""
    arch = {id(tensor) for tensor in model.arch()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in arch}


def gradients_of(value: Tensor, wanted: list[Any], **options: Any) -> tuple[Tensor | None, ...]:
    if not wanted or not value.requires_grad:  # a path was drawn that computes nothing
        return (None,) * len(wanted)
    return torch.autograd.grad(value, wanted, allow_unused=True, **options)


def backward(value: Tensor) -> None:
    if value.requires_grad:
        value.backward()


def first_order(model: Any, journal: Journal) -> None:
    """Train in turns: SGD on weights, Adam on architecture weights, evaluation between."""
    weights = torch.optim.SGD(model.parameters(), ETA, momentum=0.9, weight_decay=3e-4)
    arch = torch.optim.Adam([{"params": arch_of(model)}], 3e-3, betas=(0.5, 0.999), weight_decay=1e-3)
    for step in range(2):
        model.train()
        arch.zero_grad(set_to_none=bool(step))
        gradients = gradients_of(loss(model, 10 + step), arch_of(model))
        journal.note("gradients of the architecture by autograd.grad", gradients)
        for tensor, gradient in zip(arch_of(model), gradients, strict=True):
            tensor.grad = gradient
        arch.step()
        weights.zero_grad(set_to_none=not step)
        first = run(model, step)
        total = loss_of(first) + loss(model, step + 1, batch=2 if step else 3)  # two passes, one backward
        backward(total)
        journal.note_gradients("gradients of two passes", model)
        journal.note("their clipped norm", nn.utils.clip_grad_norm_(model.parameters(), 0.5))
        weights.step()
        model.eval()
        with torch.no_grad():
            journal.note("evaluation", run(model, 20, batch=2))
    model.train()
    for tensor in arch_of(model):
        tensor.data.mul_(0.5)
        tensor.data = tensor.data + 0.1
    for parameter in model.parameters():
        if parameter.grad is not None:  # one that forward does not read may have left parameters()
            parameter.data = parameter.data.clone() * 0.9
    model.zero_grad()
    journal.note("after .data was rebound", run(model, 3))
    journal.note_tensors("the tensors in the end", model)


def second_order(model: Any, journal: Journal) -> None:
    """Take the unrolled step on a copy, by finite differences written in place, and Hessian-vector products."""
    gradients = _weight_gradients(model, 0)
    flat = [gradient.view(-1) for gradient in gradients.values() if gradient is not None]  # as all such searches do
    journal.note("the norm of the gradient in a row", torch.cat([torch.zeros(1), *flat]).norm())
    unrolled = copy.deepcopy(model)
    for name, parameter in names_of_weights(unrolled).items():
        if gradients.get(name) is not None:
            parameter.data.sub_(gradients[name], alpha=ETA)
    wanted = [*arch_of(unrolled), *names_of_weights(unrolled).values()]
    ahead = gradients_of(loss(unrolled, 1), wanted)
    count = len(arch_of(unrolled))
    journal.note("gradients of the unrolled architecture", ahead[:count])
    vector = dict(zip(names_of_weights(unrolled), ahead[count:], strict=True))
    journal.note("gradients of unrolled weights", [v for v in vector.values() if v is not None])
    sides = []
    for sign in (1, -2, 1):
        for name, parameter in names_of_weights(model).items():
            if vector[name] is not None:
                parameter.data.add_(vector[name], alpha=sign * 1e-2)
        sides.append(gradients_of(loss(model, 0), arch_of(model)))
    journal.note("finite differences", sides)
    weights = list(names_of_weights(model).values())
    first = gradients_of(loss(model, 2).square(), [*weights, *arch_of(model)], create_graph=True)
    total = sum(g.square().sum() for g in first if g is not None)
    if isinstance(total, Tensor) and total.requires_grad:
        second = gradients_of(total, [*arch_of(model), *weights])
        journal.note("second derivatives", [torch.zeros(()) if v is None else v for v in second[:count]])
    journal.note_tensors("the tensors in the end", model)


def _weight_gradients(model: Any, step: int) -> dict[str, Tensor | None]:
    weights = names_of_weights(model)
    return dict(zip(weights, gradients_of(loss(model, step), list(weights.values())), strict=True))


def copies(model: Any, journal: Journal) -> None:
    """Average, pickle, save, load, initialize, freeze and call with other parameters."""
    average = swa_utils.AveragedModel(model, avg_fn=swa_utils.get_ema_avg_fn(0.9))
    optimizer = torch.optim.SGD([p for _, p in model.named_parameters()], ETA, momentum=0.9)
    backward(loss(model))
    optimizer.step()
    average.update_parameters(model)
    journal.note("the averaged model", run(average.module.eval(), 1))
    expected = run(model.eval(), 2)
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    for twin in (pickle.loads(pickle.dumps(model)), torch.load(saved, weights_only=False)):
        journal.note("what was pickled", run(twin.eval(), 2))
    journal.note("and what it was made of", expected)
    checkpoint = copy.deepcopy(model.state_dict())
    model.apply(lambda module: [p.data.mul_(1.5) for p in module.parameters(recurse=False)] and None)
    journal.note("after apply", run(model, 3))
    model.load_state_dict(checkpoint)
    journal.note("after load_state_dict", run(model, 3))
    scaled = {name: parameter * 1.1 for name, parameter in model.named_parameters()}
    keywords = model.keywords()
    seed(4)
    found = torch.func.functional_call(model, scaled, model.inputs(3), keywords)
    journal.note("functional_call", found)
    model.train().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("alpha" in name or name.endswith("weight"))
    model.zero_grad()
    backward(loss(model, 5))
    journal.note_gradients("gradients where some parameters are frozen", model)
    journal.note("names", [name for name, p in model.named_parameters() if p.grad is not None])
    model.requires_grad_()
    flat = torch.cat([p.detach().view(-1) for p in model.parameters() if p.grad is not None] or [torch.zeros(1)])
    journal.note("the parameters in a row", flat)
    journal.note_tensors("the tensors in the end", model)


def precision(model: Any, journal: Journal) -> None:
    """Go to float32 with its mixed precision, to channels last, and back."""
    given = [leaf for leaf in pytree.tree_leaves((model.inputs(3), model.keywords())) if isinstance(leaf, Tensor)]
    if any(leaf.requires_grad or leaf.dim() > 4 for leaf in given):
        return
    journal.tolerance = 1e-2  # of bfloat16, times what small steps make of it
    to(model, torch.float32)
    optimizer, scaler = torch.optim.SGD(model.parameters(), 1e-4), torch.amp.GradScaler("cpu")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            total = loss_of(run(model, 1, dtype=torch.float32))
    except RuntimeError as error:  # torch's tensordot takes no two dtypes
        journal.note("what mixed precision raises", str(error))
        return
    backward(scaler.scale(total.float()))
    if total.requires_grad:
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad()
    to(model, torch.float64)
    model.to(memory_format=torch.channels_last)
    journal.note("the same in channels last", run(model, 2))


def to(model: Any, dtype: torch.dtype) -> None:
    """Bring a model, its plain tensors included, to a dtype."""
    model.to(dtype)
    for _, tensor in model_tensors(model):
        if tensor.is_floating_point():
            tensor.grad = None
            tensor.data = tensor.data.to(dtype)


LOOPS: dict[str, Callable[[Any, Journal], None]] = {
    "first_order": first_order,
    "second_order": second_order,
    "copies": copies,
    "precision": precision,
}
