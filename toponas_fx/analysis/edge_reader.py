"""Reads the algebra of one edge off a graph, as expressions."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from toponas_fx import ops
from toponas_fx.analysis.algebra_text import Expression, Weight, written
from toponas_fx.analysis.arms import home
from toponas_fx.analysis.candidate_names import is_zero
from toponas_fx.analysis.linear_ops import linear_op
from toponas_fx.analysis.mixed_ops import MixedOp, is_mixed_sum
from toponas_fx.analysis.node_kinds import Layer, layer_of
from toponas_fx.ir.decisions import sharing_of

_NORMS = {"BatchNorm": "BN", "GroupNorm": "GN", "LayerNorm": "LN", "InstanceNorm": "IN", "RMSNorm": "RMSNorm"}
_LEAVES = "xyz"
_OWN = ("conv", "linear", "norm", "max_pool", "avg_pool", "pool", "dropout", "slice", "other")
_SHORT = {"max_pool": "maxpool", "avg_pool": "avgpool", "slice": "part", "dropout": "dropout"}
_DEEPEST = 100
"""Operations in a row that are read."""


@dataclass(frozen=True)
class Edge:
    """An edge as the user wrote it.

    Attributes:
        key: the names of its ``mixed_sum``, and its edge number within.
        source: the name of the value that it reads.
        candidates: for each, the positions of its terms in the sum.
        weights: for each, the name of the node of its weight, or None for a number.
        tensors: for each, the paths of the parameters that its own nodes read.
        zeros: which are zero whatever they read, by their place among the candidates.
        before: its algebra.
        after: what it came to.
    """

    key: tuple[str, int]
    source: str
    candidates: tuple[tuple[int, ...], ...]
    weights: tuple[str | None, ...]
    tensors: tuple[frozenset[str], ...]
    zeros: frozenset[int]
    before: str
    after: str = "…"


@dataclass
class EdgeReader:
    """Reads the expressions of one edge off a graph.

    Attributes:
        gm: the model.
        edge: the edge.
        own: the candidate that a weight belongs to, from 1.
        leaves: nodes at which reading ends; the values of other edges get their letters as they are met.
        known: what was read.
        met: the weights of candidates that were.
        depth: of what is being read.
    """

    gm: fx.GraphModule
    edge: Edge
    own: dict[fx.Node, int]
    leaves: dict[fx.Node, Expression | None]
    known: dict[fx.Node, Expression] = field(default_factory=dict)
    met: set[fx.Node] = field(default_factory=set)
    depth: int = 0

    @classmethod
    def of(cls, gm: fx.GraphModule, edge: Edge, nodes: dict[str, fx.Node], values: set[str]) -> EdgeReader:
        """Prepare to read an edge off a graph.

        Args:
            gm: the model.
            edge: the edge.
            nodes: the graph's nodes, by their names and by those of the nodes that they stand for.
            values: the names of the values that edges read and make.
        """
        own: dict[fx.Node, int] = {}
        for number, name in enumerate(edge.weights, start=1):
            if name in nodes:
                own.setdefault(nodes[name], number)
        others = values - {edge.key[0]}
        leaves: dict[fx.Node, Expression | None] = {nodes[name]: None for name in others if name in nodes}
        if edge.source in nodes:
            leaves[nodes[edge.source]] = Expression("x")
        return cls(gm, edge, own, leaves)

    def sum_of(self, mixed: MixedOp) -> Expression:
        """Return the weighted sum of a mixed operation's terms."""
        terms = tuple(Expression("0") if is_zero(term) else self.read(term) for term in mixed.terms)
        return Expression("+", terms, tuple(self.weight(weight) for weight in mixed.weights))

    def read(self, value: Any) -> Expression:
        """Return the expression of a node, or of a number."""
        if not isinstance(value, fx.Node):
            return Expression(f"{value:g}" if isinstance(value, int | float) else "…")
        if value not in self.known and self.depth < _DEEPEST:
            self.depth += 1
            self.known[value] = self._read(value)
            self.depth -= 1
        return self.known.get(value) or Expression("…")

    def _read(self, node: fx.Node) -> Expression:
        if node in self.leaves or node.op == "placeholder":
            return self.leaves.get(node) or self._next_leaf()
        if is_mixed_sum(node):
            return self.sum_of(MixedOp(node, 0, tuple(range(len(node.args[0])))))  # type: ignore[arg-type]
        layer = layer_of(self.gm, node)
        args = _data(node)[:1] if layer.kind in ("conv", "linear", "norm") else _data(node)
        if not args:
            return Expression("…")
        if layer.kind == "identity" and len(args) == 1:
            return self.read(args[0])
        if layer.kind == "add" and len(args) == len(node.args) == 2 and not node.kwargs:
            return Expression("+", tuple(map(self.read, args)), (Weight("1"), Weight("1")))
        if layer.kind == "product" and len(node.args) == 2:
            return self._product(node, args)
        read = tuple(map(self.read, args)) + ((Expression("…"),) if layer.kind in ("add", "product") else ())
        is_own, options = layer.kind in _OWN and not _is_shared(self.gm, node), _options(self.gm, node)
        return Expression(_letters(layer), read, kernel=self._kernel(node), is_own=is_own, options=options)

    def _next_leaf(self) -> Expression:
        taken = {part.name for part in (*self.leaves.values(), *self.known.values()) if part is not None}
        return Expression(next((letter for letter in _LEAVES if letter not in taken), "…"))

    def _product(self, node: fx.Node, args: list[fx.Node]) -> Expression:
        if len(args) == 2:
            return Expression("·", tuple(map(self.read, args)))
        number = next((part for part in node.args if isinstance(part, int | float)), None)
        weight = Weight("?") if number is None else Weight("1", number=float(number))
        return Expression("+", (self.read(args[0]),), (weight,))

    def weight(self, value: Any) -> Weight:
        """Return what a term is multiplied by, in terms of the edge's weights."""
        if not isinstance(value, fx.Node):
            return Weight("1", number=float(value))
        if value in self.own:
            self.met.add(value)
            return Weight("w", frozenset({self.own[value]}))
        if value.target is operator.getitem:
            return self._of_group(*value.args)  # type: ignore[arg-type]
        if value.target is operator.mul and isinstance(value.args[1], int | float):
            inner = self.weight(value.args[0])
            return Weight(inner.kind, inner.who, inner.number * value.args[1])
        if value.target is operator.add:
            return _added([self.weight(part) for part in value.args])
        return Weight("?")

    def _of_group(self, group: fx.Node, place: Any) -> Weight:
        if group.target is operator.getitem and group.args[1] == 1 and _is_split(group.args[0]):
            return self._share(group.args[0].args[0], place)  # type: ignore[union-attr]
        if group.target is ops.group_shares:
            return self._share(group.args[0], place)
        if _is_split(group) and place == 0:
            return self._union("W", group.args[0])
        return Weight("?")

    def _share(self, weights: Any, place: int) -> Weight:
        return self._union("p", [weights[place]])

    def _union(self, kind: str, weights: Any) -> Weight:
        found = [self.weight(weight) for weight in weights]
        if any(weight.kind in ("?", "1") for weight in found):
            return Weight("?")
        return Weight(kind, frozenset[int]().union(*(weight.who for weight in found)))

    def _kernel(self, node: fx.Node) -> str:
        """Write the kernel of a convolution that passes merged; nothing for one of its own."""
        operation = linear_op(self.gm, node)
        merged = operation.kernel if operation is not None else None
        if not isinstance(merged, fx.Node) or merged.target is not ops.merge_kernels:
            return ""
        kernels: Any = merged.args[0]
        weights = [self.weight(weight) for weight in merged.args[1]]  # type: ignore[union-attr]
        found = [_parameter(kernel) for kernel in kernels]
        owners = [{i for i, own in enumerate(self.edge.tensors, 1) if path in own} for path, _ in found]
        who = [weight.who for weight in weights]
        kinds = {(weight.kind, weight.number) for weight in weights}
        is_told = len(kinds) == 1 and kinds <= {("w", 1.0), ("p", 1.0)} and len(set(who)) == len(who)
        if not is_told or who != owners or len({is_normal for _, is_normal in found}) > 1:
            return "merged"
        letter = "K̂" if found[0][1] else "K"
        whole = Expression("+", tuple(Expression(letter + "ᵢ") for _ in kernels), tuple(weights))
        return written(whole, len(self.edge.candidates))


def _data(node: fx.Node) -> list[fx.Node]:
    """Return the tensors that a node reads, without parameters, numbers and sizes."""
    kinds = [(parent, parent.meta.get("type")) for parent in node.all_input_nodes if parent.op != "get_attr"]
    return [parent for parent, kind in kinds if kind is not None and kind.shape]


def _options(gm: fx.GraphModule, node: fx.Node) -> tuple[str, ...]:
    """Return the options of a module or a function without tensors, but for whether it works in place."""
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        given = {name: value for name, value in vars(module).items() if name[0] != "_"}
    else:
        given = {**{str(i): value for i, value in enumerate(node.args)}, **node.kwargs}
    plain = {name: value for name, value in given.items() if name not in ("inplace", "training")}
    return tuple(f"{name}={value}" for name, value in plain.items() if not isinstance(value, fx.Node))


def _is_shared(gm: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node calls, in one arm of a choice, a module that took the place of others."""
    return node.op == "call_module" and home(node) is not None and node.target in sharing_of(gm).ties.values()


def _is_split(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is ops.group_weight


def _parameter(kernel: fx.Node) -> tuple[str, bool]:
    """Return the path of a kernel, and whether it is normalized; an empty one for a kernel that is computed."""
    scaled = kernel.target is operator.mul and len(kernel.all_input_nodes) == 2
    if scaled and kernel.args[1].target is ops.kernel_scale:  # type: ignore[union-attr]
        kernel = kernel.args[0]  # type: ignore[assignment]
        return (str(kernel.target), True) if kernel.op == "get_attr" else ("", True)
    return (str(kernel.target), False) if kernel.op == "get_attr" else ("", False)


def _added(parts: Sequence[Weight]) -> Weight:
    """Return the sum of weights of different candidates, all architecture weights or all shares."""
    kinds = {weight.kind.lstrip("+") for weight in parts}
    who = frozenset[int]().union(*(weight.who for weight in parts))
    is_plain = kinds <= {"w"} or kinds <= {"p"}
    if not is_plain or len(who) != sum(len(weight.who) for weight in parts) or any(w.number != 1 for w in parts):
        return Weight("?")
    return Weight(f"+{kinds.pop()}", who)


def _letters(layer: Layer) -> str:
    if layer.kind == "conv":
        return "dw" if layer.is_depthwise else "conv"
    if layer.kind == "norm":
        return next((short for name, short in _NORMS.items() if layer.name.startswith(name)), "norm")
    return _SHORT.get(layer.kind, layer.name.rstrip("_").lower())
