"""The weights of mixed operations: which nodes of a captured graph they are, and what they are worth."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from toponas_fx import ops
from toponas_fx.analysis.mixed_ops import MixedOp
from toponas_fx.analysis.module_paths import common_path
from toponas_fx.analysis.topology import build_topology


class WeightReader(fx.Interpreter):
    """Runs the nodes that weights are computed from, whatever the guards say.

    Attributes:
        fed: the nodes whose values a module computed from the input.
        read: the stand-ins that a node's value was replaced by, by the identity of what they stand for.
    """

    def __init__(self, model: fx.GraphModule, graph: fx.Graph, twins: dict[int, Tensor]) -> None:
        """Take a graph, and stand-ins for tensors of the model, by identity."""
        super().__init__(model, garbage_collect_values=False, graph=graph)
        self._twins = twins
        self._given: set[fx.Node] = set()
        self.fed: set[fx.Node] = set()
        self.read: dict[int, Tensor] = {}

    def feed(self, inputs: tuple[Any, ...], needed: list[fx.Node]) -> None:
        """Run the nodes of a list, in order."""
        self.args_iter = iter([leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)])
        needs = set(needed)
        for node in self.graph.nodes:
            if node.op != "placeholder" and node not in needs:
                continue
            self.env[node] = None if node.target is ops.guard else self._stand_in(self.run_node(node))
            has_tensors = any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(self.env[node]))
            parents = set(node.all_input_nodes)
            if has_tensors and (node.op == "placeholder" or parents & self._given):
                self._given.add(node)
                if node.op == "call_module" or parents & self.fed:
                    self.fed.add(node)

    def _stand_in(self, value: Any) -> Any:
        return pytree.tree_map_only(Tensor, self._twin_of, value)

    def _twin_of(self, tensor: Tensor) -> Tensor:
        if id(tensor) in self._twins:
            self.read[id(tensor)] = self._twins[id(tensor)]
        return self._twins.get(id(tensor), tensor)


def mixture_names(detected: fx.GraphModule) -> dict[tuple[str, int], str]:
    """Return where the candidates of each mixed operation are in the model."""
    paths: dict[tuple[str, int], list[str]] = {}
    for _, target, edge in build_topology(detected).edges(data=True):
        if edge["kind"] == "candidate":
            paths.setdefault((target, edge["mixture"]), []).extend(edge["modules"])
    return {key: common_path(found) for key, found in paths.items()}


def candidate_weights(mixed: MixedOp) -> tuple[Any, ...]:
    """Return the weights of a mixed operation, those that are the same product of the same elements once."""
    found: dict[Any, Any] = {}
    for place, weight in enumerate(mixed.weights):
        found.setdefault(_key(weight) if isinstance(weight, fx.Node) else place, weight)
    return tuple(found.values())


def _key(value: Any) -> Any:
    if isinstance(value, fx.Node) and value.target in (operator.mul, operator.getitem, "select"):
        return value.target, tuple(map(_key, value.args))
    return value if isinstance(value, fx.Node) else str(value)


def needed_for(graph: fx.Graph, wanted: set[fx.Node]) -> list[fx.Node]:
    """Return what some nodes are computed from, with what writes into that memory, in order."""
    needed: set[fx.Node] = set()
    while wanted - needed:
        for node in reversed(graph.nodes):
            if node in wanted:
                needed.add(node)
                wanted |= set(node.all_input_nodes)
        memory = {node.meta.get("storage", -1) for node in needed}
        wanted = wanted | {node for node in graph.nodes if memory & set(node.meta.get("mutates", ()))}
    return [node for node in graph.nodes if node in needed]


def counts_at_all(weight: Any) -> bool:
    """Return whether a weight, a number or a tensor, is not zero."""
    return bool((torch.as_tensor(weight) != 0).any())
