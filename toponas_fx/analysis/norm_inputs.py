"""Which kernels differ between candidates that feed one shared norm, and whether each can be normalized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from toponas_fx.analysis.linear_ops import LinearOp, linear_op
from toponas_fx.analysis.mixed_ops import is_mixed_sum
from toponas_fx.ir import known_facts

_SIZES = frozenset(("numel", "nelement", "size"))


@dataclass(frozen=True)
class Reads:
    """How often each parameter of a model is read by its graph, by identity.

    Attributes:
        counts: id of the parameter to the number of nodes that read its values; a module counts once a call.
        opaque: ids of parameters within modules that run whole, where a reader cannot be rewritten.
    """

    counts: dict[int, int]
    opaque: frozenset[int]

    @classmethod
    def of(cls, gm: fx.GraphModule) -> Reads:
        """Count over the whole graph."""
        found: Reads = _reads_of(gm)
        return found


@known_facts.of_graph
def _reads_of(gm: fx.GraphModule) -> Reads:
    counts: dict[int, int] = {}
    opaque: set[int] = set()
    for node in gm.graph.nodes:
        for tensor in _read_by(gm, node):
            counts[id(tensor)] = counts.get(id(tensor), 0) + 1
            if node.op == "call_module" and linear_op(gm, node) is None:
                opaque.add(id(tensor))
    return Reads(counts, frozenset(opaque))


def _read_by(gm: fx.GraphModule, node: fx.Node) -> Iterator[Tensor]:
    if node.op == "call_module":
        yield from known_facts.parameters_of(gm.get_submodule(str(node.target)))
    elif node.op == "get_attr" and not (node.users and all(map(_asks_size, node.users))):
        owner, _, name = str(node.target).rpartition(".")
        parameter = gm.get_submodule(owner)._parameters.get(name)
        if parameter is not None:
            yield parameter


def _asks_size(node: fx.Node) -> bool:
    """Return whether a node reads of a tensor what no normalization changes."""
    return node.target in _SIZES or (node.target is getattr and node.args[1:] == ("shape",))


def feeding_kernels(gm: fx.GraphModule, value: fx.Node) -> list[LinearOp]:
    """Return the linear operations through which a value reaches what reads it, nearest first; empty for none."""
    found: list[LinearOp] = []
    current = linear_op(gm, value)
    while current is not None:
        found.append(current)
        if len(current.value.users) != 1:
            break
        current = linear_op(gm, current.value)
    return found


def differing_kernels(gm: fx.GraphModule, value: fx.Node) -> list[LinearOp]:
    """Return the linear operations below mixed sums that ``value`` is linear in: what differs between candidates."""
    operation = linear_op(gm, value)
    if operation is not None:
        return differing_kernels(gm, operation.value)
    if not is_mixed_sum(value):
        return []
    found: list[LinearOp] = []
    for term in value.args[0]:  # type: ignore[union-attr]
        if isinstance(term, fx.Node):
            found += feeding_kernels(gm, term) + _below(gm, term)
    return found


def differing_drawn_kernels(gm: fx.GraphModule, calls: Sequence[fx.Node]) -> list[LinearOp]:
    """Return the linear operations that feed a norm in one candidate and not in all: calls of it, each in an arm."""
    found = [feeding_kernels(gm, call.args[0]) for call in calls]  # type: ignore[arg-type]
    common = set.intersection(*({operation.kernel for operation in operations} for operations in found))
    return [operation for operations in found for operation in operations if operation.kernel not in common]


def _below(gm: fx.GraphModule, term: fx.Node) -> list[LinearOp]:
    chain = feeding_kernels(gm, term)
    last = chain[-1].value if chain else term
    return differing_kernels(gm, last) if is_mixed_sum(last) and len(last.users) == 1 else []


def why_not_normalizable(gm: fx.GraphModule, operation: LinearOp, reads: Reads) -> str | None:
    """Return why a kernel cannot be normalized, or None where it can."""
    for owned in (operation.kernel, operation.bias):
        if owned is None:
            continue
        if not isinstance(owned, str):
            return "a kernel that feeds it is computed, not a parameter of its own"
        parameter = _parameter(gm, owned)
        if reads.counts.get(id(parameter), 0) != 1:
            return f"`{owned}` is read in several places"
        if id(parameter) in reads.opaque:
            return f"`{owned}` is read by a module that runs whole"
    return None


def _parameter(gm: fx.GraphModule, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    found = gm.get_submodule(owner)._parameters[name]
    assert found is not None, path
    return found
