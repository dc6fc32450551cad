"""Which parameters the programs of a model read, and how those that none reads leave it on request.

Forward may read another parameter in a later call: a head behind a keyword, or one for inputs that it has not met. So
all stay in ``parameters()``, where an optimizer and a checkpoint find them, except those that sharing replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, fx, nn

from toponas_fx.errors import ArgumentError
from toponas_fx.facade.assembly import take_out
from toponas_fx.module_tree.tensor_paths import TensorPath, walk_value
from toponas_fx.report.building import UNREAD
from toponas_fx.runtime.simplified_module import SimplifiedModule


def used_parameters(fast: SimplifiedModule) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that forward has read so far, as ``named_parameters()`` lists them.

    Each gets a gradient in every step, which ``DistributedDataParallel`` asks for without
    ``find_unused_parameters=True``, and ``torch.autograd.grad`` without ``allow_unused=True``.

    Args:
        fast: what ``simplify`` returned.

    Returns:
        Those that a captured call reads after rewriting; all where a kind of call runs as its user wrote it.
    """
    _check(fast)
    state = fast._toponas
    if state.as_written:
        return list(fast.named_parameters())
    read = {id(tensor) for program in state.programs for tensor in _tensors_of(fast, program.graph)}
    return [(name, parameter) for name, parameter in fast.named_parameters() if id(parameter) in read]


def retire(fast: SimplifiedModule, names: Iterable[str]) -> None:
    """Take parameters that forward does not read out of ``parameters()``; they stay readable as plain attributes.

    Checkpoints of the original are accepted as before, and ``restore`` brings the parameters back. If a later call
    reads one after all, it reads what it was, untrained.

    Args:
        fast: what ``simplify`` returned.
        names: of the parameters, as ``named_parameters()`` tells them.

    Raises:
        ArgumentError: a name is no parameter's, or a program reads the parameter; nothing is changed then.
    """
    chosen = [names] if isinstance(names, str) else list(names)
    used = {name for name, _ in used_parameters(fast)}
    known = {name for name, _ in fast.named_parameters()}
    for name in chosen:
        if name not in known:
            raise ArgumentError(f"retire: the model has no parameter `{name}`")
        if name in used:
            raise ArgumentError(f"retire: forward reads `{name}`")
    take_out(fast, chosen)


def note_on_unread(fast: SimplifiedModule) -> list[str]:
    """Return a sentence on the parameters that no captured call reads, or none where all are read."""
    used = {name for name, _ in used_parameters(fast)}
    unread = [name for name, _ in fast.named_parameters() if name not in used]
    if not unread:
        return []
    more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
    return [
        f"{UNREAD} `{unread[0]}`{more}: they stay in parameters(), without a gradient; "
        "toponas_fx.used_parameters(fast) has the others, toponas_fx.retire(fast, names) takes some out"
    ]


def _check(fast: Any) -> None:
    if not isinstance(fast, SimplifiedModule):
        raise ArgumentError(f"expected what simplify returned, not {type(fast).__name__}")


def _tensors_of(fast: SimplifiedModule, graph: fx.Graph) -> Iterator[Tensor]:
    """Yield the tensors of the model that a graph reads."""
    for node in graph.nodes:
        if node.op == "call_module":
            yield from fast.get_submodule(str(node.target)).parameters()
        elif node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            value = getattr(fast.get_submodule(owner), name)
            yield from value.parameters() if isinstance(value, nn.Module) else [value]
            if "type" not in node.meta:  # a list, dict or object of the model
                yield from (tensor for _, tensor in walk_value(value, TensorPath("")))
