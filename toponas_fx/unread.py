"""Which parameters nothing reads: neither a program of the model nor a method of the user's besides forward."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from toponas_fx.capture.inputs import Inputs
from toponas_fx.capture.owners import TensorPath, walk_value
from toponas_fx.model import SimplifiedModule


def unread_parameters(fast: SimplifiedModule, inputs: Inputs) -> list[str]:
    """Return the paths of parameters that no program reads and no change of state could bring back.

    One that the inputs are made from is read, and so is one that another method of the user's may use: a loss that
    adds an auxiliary head, say, which forward never runs.

    Args:
        fast: the model after its training and evaluation captures.
        inputs: what it was captured with.
    """
    state = fast._toponas
    if state.as_written or any(program.has_guards or program.guards.depends_on_state for program in state.programs):
        return []
    read = set(_sources(inputs))
    for program in state.programs:
        for node in program.graph.nodes:
            if node.op == "call_module":
                read.update(id(parameter) for parameter in fast.get_submodule(str(node.target)).parameters())
            elif node.op == "get_attr":
                value = _attribute(fast, str(node.target))
                read.update(map(id, value.parameters() if isinstance(value, nn.Module) else [value]))
            read.update(id(tensor) for tensor in _tensors_in(fast, node))
    entered = {path for program in state.programs for path in program.entered}
    unread = [path for path, parameter in fast.named_parameters() if id(parameter) not in read]
    return [path for path in unread if not _is_named_elsewhere(fast, path, entered)]


def _sources(inputs: Any) -> Iterator[int]:
    """Yield the identities of the leaves that the inputs' tensors are computed from."""
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    yield from map(id, tensors)
    seen: set[Any] = set()
    queue = [tensor.grad_fn for tensor in tensors]
    while queue:
        function: Any = queue.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        if hasattr(function, "variable"):
            yield id(function.variable)
        queue += [parent for parent, _ in function.next_functions]


def _is_named_elsewhere(fast: SimplifiedModule, path: str, entered: set[str]) -> bool:
    """Tell whether a method besides forward names the parameter, or the outermost module with it that never ran."""
    names = path.split(".")
    depth = 0
    while depth < len(names) - 1 and _runs(".".join(names[: depth + 1]), entered):
        depth += 1
    owner = fast.get_submodule(".".join(names[:depth]))
    kind = fast._toponas.user_class if owner is fast else type(owner)
    return any(names[depth] in _names(code) for code in _methods(kind))


def _runs(path: str, entered: set[str]) -> bool:
    return any(other == path or other.startswith(f"{path}.") for other in entered)


def _methods(kind: type) -> Iterator[CodeType]:
    """Yield the code of the user's methods and properties that a search may call, forward apart."""
    for owner in kind.__mro__:
        for name, value in vars(owner).items() if owner.__module__.split(".")[0] != "torch" else ():
            value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if isinstance(value, FunctionType) and name not in ("forward", "__init__"):
                yield value.__code__


def _names(code: CodeType) -> set[str]:
    inner = [_names(part) for part in code.co_consts if isinstance(part, CodeType)]
    return set(code.co_names).union(*inner)


def _tensors_in(fast: SimplifiedModule, node: fx.Node) -> Iterator[Tensor]:
    """Yield the tensors that a read of a list, dict or object of the model may reach."""
    if node.op == "get_attr" and "type" not in node.meta:
        for _, tensor in walk_value(_attribute(fast, str(node.target)), TensorPath("")):
            yield tensor


def _attribute(fast: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(fast.get_submodule(owner), name)
