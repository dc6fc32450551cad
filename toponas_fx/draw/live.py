"""The supernet as its user wrote it, recorded once more: the architecture weights as they are now, and its costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import networkx as nx
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from toponas_fx import ops
from toponas_fx.analysis.arms import chances
from toponas_fx.analysis.costs import average, graph_costs
from toponas_fx.analysis.drawn_edges import Draw, edges
from toponas_fx.analysis.effects import is_random
from toponas_fx.analysis.linear_ops import linear_op
from toponas_fx.analysis.mixed_ops import MixedOp
from toponas_fx.analysis.topology import build_topology
from toponas_fx.capture.path_sampling import record_call
from toponas_fx.capture.small_batches import record
from toponas_fx.checking.weight_values import WeightReader, needed_for
from toponas_fx.draw.drawing import EdgeCosts, Key
from toponas_fx.module_tree.isolation import collector_off, no_trace
from toponas_fx.passes import DetectMixedOps, UnstackSums
from toponas_fx.rewriting.pipeline import run_passes
from toponas_fx.runtime.inspection import Inspection, at_work

NOT_KNOWN = "architecture weights are not shown"
_DETECTION = (UnstackSums(), DetectMixedOps())


@dataclass(frozen=True)
class Live:
    """What one more recording of the user's forward told.

    Attributes:
        weights: of each edge, the weights of its candidates; None where one is not known.
        costs: of each edge as its user wrote it.
        note: why weights are missing; empty where none is.
    """

    weights: dict[Key, tuple[float | None, ...]] = field(default_factory=dict)
    costs: dict[Key, EdgeCosts] = field(default_factory=dict)
    note: str = ""


def look(view: Inspection) -> Live:
    """Record forward as its user wrote it, on the tree and at the settings of now, and read the architecture weights.

    Nothing of it is left behind. Where forward takes another path than the one that was simplified, or cannot be
    recorded, nothing is told rather than something wrong.

    Args:
        view: a simplified model, in training mode.
    """
    fast, state = view._toponas_model, view._toponas
    try:
        with collector_off():
            is_drawn = any("drawn" in edge for *_, edge in state.topology.edges(data=True))
            recorder = record_call if is_drawn else record
            graph = recorder(fast, MethodType(state.user_forward, fast), state.example_inputs()).capture.graph
    except Exception as error:  # forward's own too: a picture is no place to learn of it
        return Live(note=f"{NOT_KNOWN}: forward cannot be recorded now ({type(error).__name__}: {error})")
    detected = at_work(fast, graph)
    run_passes(detected, _DETECTION)
    if _shape(build_topology(detected)) != _shape(state.topology):
        return Live(note=f"{NOT_KNOWN}: forward takes another path now than when the model was simplified")
    return _read(detected, pytree.tree_leaves(state.example_inputs()))


def edge_costs(gm: fx.GraphModule, nodes: list[fx.Node]) -> EdgeCosts:
    """Count convolutions, norms and FLOPs of some nodes, by torch's formula: two for each multiplication.

    What a step may leave out counts as often as it runs, on average over uniform draws.
    """
    counted, chance = graph_costs(gm, nodes), chances(gm.graph)
    flops, known = 0.0, 0.0
    for node in nodes:
        operation = linear_op(gm, node)
        if operation is not None:
            often = chance.get(node, 1)
            flops += 2 * math.prod(node.meta["type"].shape) * math.prod(operation.kernel_shape[1:]) * often
            known += often * (operation.dims > 0)
    is_known = average(known) == counted.convolutions
    return EdgeCosts(counted.convolutions, counted.norms, round(flops) if is_known else None)


def _shape(topology: nx.MultiDiGraph) -> list[Any]:
    edges = topology.edges(data=True)
    return sorted(
        (target, edge["mixture"], edge["position"], edge["ops"], edge["weight"])
        for _, target, edge in edges
        if edge["kind"] == "candidate"
    )


def _read(view: Inspection, example: list[Any]) -> Live:
    graph, found = view.graph, list(edges(view.graph))
    by_name = {node.name: node for node in graph.nodes}
    nodes: dict[Key, list[fx.Node]] = {}
    for _, target, edge in build_topology(view).edges(data=True):
        if edge["kind"] == "candidate":
            nodes.setdefault((target, edge["mixture"]), []).extend(by_name[name] for name in edge["nodes"])
    costs = {key: edge_costs(view, list(dict.fromkeys(own))) for key, own in nodes.items()}
    weights = {(each.node.name, each.edge): _weights(each) for each in found}
    wanted = {weight for own in weights.values() for weight in own if isinstance(weight, fx.Node)}
    needed = needed_for(graph, set(wanted))
    unsteady = _unsteady(view, needed)
    with no_trace(view._toponas_model), torch.no_grad():
        reader = WeightReader(view, graph, {})
        reader.feed(tuple(example), [node for node in needed if node not in unsteady])
    values = {key: tuple(_number(reader.env.get(weight, weight)) for weight in own) for key, own in weights.items()}
    note = f"{NOT_KNOWN} where they follow the input or are drawn anew in each step" if wanted & unsteady else ""
    return Live(values, costs, note)


def _weights(edge: MixedOp) -> list[Any]:
    """Return the weights of an edge; a candidate that is drawn may have none, which is not the weight 1."""
    if not isinstance(edge, Draw):
        return edge.weights
    return [weight if isinstance(weight, fx.Node) else None for weight in edge.weights]


def _unsteady(model: nn.Module, nodes: list[fx.Node]) -> set[fx.Node]:
    """Return those of some nodes, in order, whose value is another in the next step though no weight moves."""
    found: set[fx.Node] = set()
    for node in nodes:
        changes = node.op == "placeholder" or is_random(model, node) or node.target is ops.guard
        if changes or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 and value.device.type != "meta" else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
