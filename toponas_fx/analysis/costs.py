"""Count what a graph costs: its operations and parameters, its FLOPs, and the bytes it saves for the backward pass.

`graph_costs` only reads the graph. `flops` and `saved_bytes` run the model once and leave the random number
generators, the buffers, the gradients and the training flag as they found them.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import flop_counter

from toponas_fx.analysis.arms import chances
from toponas_fx.analysis.families import (
    ACTIVATIONS,
    CONVOLUTIONS,
    FAMILIES,
    FAMILY_OF_FUNCTION,
    NORMS,
    POOLINGS,
    Family,
)
from toponas_fx.ir import known_facts

USUAL_BATCH = 16
"""Images that a search has in a batch at least, whatever the example had."""


@dataclass(frozen=True)
class Costs:
    """What one graph costs; on average over uniform draws where it runs one of several candidates.

    Attributes:
        convolutions: Convolutions and transposed convolutions, as modules or functions.
        norms: Batch, group, instance, layer and root-mean-square normalizations.
        activations: Pointwise nonlinearities (the ReLU family, sigmoid, tanh, GELU and the like; not softmax).
        poolings: Average, maximum and other poolings, adaptive ones too.
        nodes: Nodes that are neither an input nor the output.
        parameters: Scalars in the parameters that the graph reads, each parameter counted once.
        flops: Floating point operations of one forward pass, or None where they were not measured.
        saved_bytes: Bytes that one forward pass keeps for the backward pass, or None where they were not measured.
    """

    convolutions: float
    norms: float
    activations: float
    poolings: float
    nodes: float
    parameters: int
    flops: int | None = None
    saved_bytes: int | None = None


def graph_costs(gm: fx.GraphModule, nodes: Iterable[fx.Node] | None = None) -> Costs:
    """Count the operations of a graph, or of some of its nodes, and the parameters that it reads, without running it.

    A module that is called as one node counts with all the modules it consists of. A list or dict that the graph reads
    counts with all its parameters. What runs only where a choice takes it counts as often as that happens on average
    over uniform draws, its parameters whole. ``flops`` and ``saved_bytes`` stay None.
    """
    chance = chances(gm.graph)
    families: dict[Family, float] = dict.fromkeys(FAMILIES, 0)
    parameters: dict[int, nn.Parameter] = {}
    known, counted = known_facts.by_target(graph_costs, gm), list(gm.graph.nodes if nodes is None else nodes)
    for node in counted:
        key = node.op, node.target
        if node.op not in ("call_module", "get_attr"):
            own = _families_of(gm, node)
        elif key in known:
            own = known[key][0]
        else:
            own = _families_of(gm, node)
            known[key] = own, {id(parameter): parameter for parameter in _parameters_of(gm, node)}
        for family in own:
            families[family] += chance.get(node, 1)
        parameters.update(known[key][1] if key in known else {})
    return Costs(
        convolutions=average(families[CONVOLUTIONS]),
        norms=average(families[NORMS]),
        activations=average(families[ACTIVATIONS]),
        poolings=average(families[POOLINGS]),
        nodes=average(sum(chance.get(node, 1) for node in counted if node.op not in ("placeholder", "output"))),
        parameters=sum(parameter.numel() for parameter in parameters.values()),
    )


def average(number: float) -> float:
    """Round an average; a count is what it is."""
    rounded = round(number, 1)
    return int(rounded) if rounded == int(rounded) else rounded


def flops(call: Callable[..., Any], *inputs: Any) -> int:
    """Count the floating point operations of one forward pass, by torch's own formulas.

    The backward pass is not counted. The formulas cover convolutions, matrix products and attention, and count one
    multiplication with its addition as two; pointwise operations, norms and poolings count nothing.

    Args:
        call: A module, a module's bound method, or another callable. It runs once, with gradients enabled. Buffers
            are put back only where the module is known, that is in the first two cases.
        *inputs: What to call it with.
    """
    with _undisturbed(call, inputs), flop_counter.FlopCounterMode(display=False) as counter:
        call(*inputs)
    total: int = counter.get_total_flops()
    return total


def saved_bytes(call: Callable[..., Any], *inputs: Any, exclude: Iterable[torch.Tensor] = ()) -> int:
    """Count the bytes that one forward pass saves for its backward pass.

    Each storage counts once and whole, however many tensors share it. The parameters and buffers of the module do not
    count, for they exist anyway; the inputs do where the backward pass needs them. What a forward pass saves and drops
    again before it ends counts as well.

    Args:
        call: A module, a module's bound method, or another callable. It runs once, with gradients enabled. Parameters
            and buffers are left out, and buffers put back, only where the module is known, that is in the first two
            cases.
        *inputs: What to call it with.
        exclude: More tensors that do not count, such as the inputs or architecture weights in plain attributes.
    """
    module = _module_of(call)
    resident = [*exclude]
    if module is not None:
        resident += [*module.parameters(), *module.buffers()]
    # A dropped tensor's address may be given out again, so every tensor is kept until all are counted.
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        # Detached, for a tensor with a history would close a cycle with the graph that saves it.
        saved.append(tensor.detach())
        return saved[-1]

    with _undisturbed(call, inputs), saved_tensors_hooks(pack, lambda tensor: tensor):
        call(*inputs)
    kept_anyway = _storage_sizes(resident)
    return sum(size for key, size in _storage_sizes(saved).items() if key not in kept_anyway)


def _families_of(gm: fx.GraphModule, node: fx.Node) -> list[Family]:
    """Return the family of each operation that a node runs."""
    if node.op == "call_module":
        return _families_in(gm.get_submodule(str(node.target)))
    if node.op == "call_method":
        name = str(node.target).removesuffix("_")
        return [family for family in FAMILIES if name in family.functions]
    if node.op != "call_function" or not isinstance(node.target, Hashable):
        return []
    family = FAMILY_OF_FUNCTION.get(node.target)
    return [] if family is None else [family]


@known_facts.of_module
def _families_in(module: nn.Module) -> list[Family]:
    return [family for part in module.modules() for family in FAMILIES if isinstance(part, family.modules)]


def _parameters_of(gm: fx.GraphModule, node: fx.Node) -> Iterable[nn.Parameter]:
    """Return the parameters that a node which calls a module, or reads an attribute, reads from the module tree."""
    owner, _, name = str(node.target).rpartition(".")
    return _parameters_in(getattr(gm.get_submodule(owner), name))


def _parameters_in(value: object) -> Iterator[nn.Parameter]:
    """Yield the parameters in a module, a list or a dict, or the value itself where it is one."""
    if isinstance(value, nn.Parameter):
        yield value
    elif isinstance(value, nn.Module):
        yield from known_facts.parameters_of(value)
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _parameters_in(item)


def _module_of(call: Callable[..., Any]) -> nn.Module | None:
    """Return the module that ``call`` is, or is a method of."""
    owner = call if isinstance(call, nn.Module) else getattr(call, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _storage_sizes(tensors: Iterable[torch.Tensor]) -> dict[tuple[Hashable, ...], int]:
    """Return the size in bytes of each distinct storage under ``tensors``, which must stay alive meanwhile."""
    sizes: dict[tuple[Hashable, ...], int] = {}
    for tensor in tensors:
        for part in _dense_parts(tensor):
            key, size = _storage_key(part)
            sizes[key] = size
    return sizes


def _dense_parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the tensors that hold a sparse tensor's indices and values, or the tensor itself."""
    if tensor.layout is torch.sparse_coo:
        return (tensor._indices(), tensor._values())
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
    return (tensor,)


def _storage_key(tensor: torch.Tensor) -> tuple[tuple[Hashable, ...], int]:
    """Return what identifies the storage of a tensor, and its size in bytes."""
    try:
        storage = tensor.untyped_storage()
    except NotImplementedError:  # an opaque layout, such as oneDNN's
        size = tensor.numel() * tensor.element_size()
        return ("tensor", id(tensor)), size
    size = storage.nbytes()
    # A fake tensor has no memory, and torch warns when it is asked for the address.
    address = 0 if storage.device.type == "meta" else storage.data_ptr()
    return (("storage", storage._cdata) if address == 0 else (storage.device, address, size)), size


@contextmanager
def _undisturbed(call: Callable[..., Any], inputs: Iterable[Any]) -> Iterator[None]:
    """Enable gradients, and afterwards put back the generators and the buffers of the module that is called."""
    module = _module_of(call)
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    if module is not None:
        tensors += [*module.parameters(), *module.buffers()]
    # Only these devices: to ask every device for its state would start every device.
    devices = sorted({tensor.get_device() for tensor in tensors if tensor.device.type == "cuda"})
    owners = [] if module is None else [owner for owner in module.modules() if owner._buffers]
    buffers = [(owner, dict(owner._buffers)) for owner in owners]
    values = [(t, t.detach().clone()) for _, held in buffers for t in held.values() if t is not None]
    numpy = sys.modules.get("numpy")
    numpy_state = None if numpy is None else numpy.random.get_state()
    python_state = random.getstate()
    forked = torch.random.fork_rng(devices=devices, device_type="cuda")
    try:
        with forked, torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
        for owner, held in buffers:
            owner._buffers.clear()
            owner._buffers.update(held)
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
