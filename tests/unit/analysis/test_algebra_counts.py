"""The operations that an edge's algebra names are those that the graph has."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from test_algebra import ALGEBRA, simplified
from torch import fx, nn

import toponas_fx
from collected import IDIOMS
from equality import double
from idiom import Idiom
from supernets.darts import DARTSSupernet
from toponas_fx.analysis.algebra import Edge
from toponas_fx.analysis.algebra_text import SHORT
from toponas_fx.analysis.mixed_ops import is_mixed_sum
from toponas_fx.analysis.node_kinds import layer_of
from toponas_fx.testing import RandomSupernet, random_supernets

COUNTED = {"conv": ("conv",), "dw": ("conv",), "BN": ("norm",), "norm": ("norm",), "GN": ("norm",), "IN": ("norm",)}


def counted(line: str, count: int) -> dict[str, int]:
    """Return how many convolutions and norms a line names; one that bears an ``i`` as often as its sum goes."""
    found = {"conv": 0, "norm": 0}
    over = 1
    for match in re.finditer(r"Σ([₀-₉,₋]*) [wp]ᵢ·(K?)|(?<![A-Za-z])(conv|dw|BN|GN|IN|norm)(ᵢ?)\(", line):
        subscripts, kernel, name, mark = match.groups()
        if name is None:
            over = over if kernel else count_of(subscripts, count)
        else:
            found[COUNTED[name][0]] += over if mark else 1
    return found


def count_of(subscripts: str, count: int) -> int:
    text = subscripts.translate(str.maketrans("₀₁₂₃₄₅₆₇₈₉₋", "0123456789-"))
    runs = [tuple(map(int, run.split("-"))) for run in text.split(",")] if text else [(1, count)]
    return sum(run[-1] - run[0] + 1 for run in runs)


def operations(fast: Any, edge: Edge, edges: tuple[Edge, ...]) -> dict[str, int]:
    """Return how many convolutions and norms the graph has between what an edge reads and its sum."""
    gm = toponas_fx.inspection(fast)
    nodes = {name: node for node in gm.graph.nodes for name in (node.name, *node.meta.get("stands_for", ()))}
    ends = {nodes.get(name) for other in edges for name in (other.key[0], other.source)}
    root = nodes[edge.key[0]]
    queue: list[Any] = [root]
    if is_mixed_sum(root):
        queue = [term for term, number in zip(root.args[0], root.args[2], strict=True) if number == edge.key[1]]
        queue = [term for term in queue if term not in ends]
    seen: set[fx.Node] = set()
    while queue:
        node = queue.pop()
        if isinstance(node, fx.Node) and node not in seen:
            seen.add(node)
            queue += [parent for parent in node.all_input_nodes if parent not in ends]
    kinds = [layer_of(gm, node).kind for node in seen if node.op != "get_attr" and node.op != "placeholder"]
    return {kind: kinds.count(kind) for kind in ("conv", "norm")}


def agrees_with_the_graph(model: nn.Module, inputs: Any) -> int:
    """Compare the operations that lines name with those of the graph; return how many lines tell all of them."""
    fast = simplified(model, inputs, passes=ALGEBRA)
    told = 0
    edges = fast._toponas.edges
    for edge in edges:
        assert len(edge.before) <= SHORT
        assert len(edge.after) <= SHORT
        is_drawn = edge.after.startswith("one of")  # tests of their own
        if "…" not in edge.after and "transpose" not in edge.after and not is_drawn:
            assert counted(edge.after, len(edge.candidates)) == operations(fast, edge, edges), edge.after
            told += 1
    return told


@pytest.mark.parametrize("kind", IDIOMS, ids=lambda kind: kind.__name__)
def test_lines_name_the_operations_that_are_there(kind: type[Idiom]) -> None:
    if kind.as_written is not None:
        return
    model: Any = double(kind())
    agrees_with_the_graph(model, model.inputs(3))


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(random_supernets())
def test_lines_of_random_supernets(model: RandomSupernet) -> None:
    agrees_with_the_graph(model, torch.randn(2, 2, 8, 8))


def test_most_lines_tell_all() -> None:
    model = DARTSSupernet(4, 3, steps=2, multiplier=2)
    assert agrees_with_the_graph(model, torch.randn(2, 3, 16, 16)) == 15
