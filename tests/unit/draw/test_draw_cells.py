"""What ``toponas_fx.draw`` takes for a cell, and between which values it draws an edge."""

from __future__ import annotations

import networkx as nx
import pytest
import torch

import toponas_fx
from supernets.partial_nasbench201 import PartialNASBench201Supernet
from toponas_fx.draw.cells import cell_paths
from toponas_fx.draw.collecting import collect
from toponas_fx.draw.ends import drawn_ends


def keyed(**paths: str) -> dict[tuple[str, int], str]:
    return {(name, 0): path for name, path in paths.items()}


def test_cells_are_found_by_paths_and_sources() -> None:
    paths = keyed(a="net.0.ops.0", b="net.0.ops.1", c="net.1.ops.0", d="net.1.ops.1")
    found = cell_paths(paths, keyed(a="x", b="y", c="z", d="w"))
    assert list(found.values()) == ["net.0", "net.0", "net.1", "net.1"]


def test_nodes_that_read_the_same_values_are_no_cells() -> None:
    paths = keyed(a="cell.node0.0", b="cell.node0.1", c="cell.node1.0", d="cell.node1.1")
    assert set(cell_paths(paths, keyed(a="x", b="y", c="x", d="y")).values()) == {""}


def test_the_innermost_repeated_module_is_the_cell() -> None:
    names = "abcdefgh"
    paths = keyed(**{n: f"stage{i // 4}.cell{i // 2 % 2}.op{i % 2}" for i, n in enumerate(names)})
    found = cell_paths(paths, keyed(**{n: f"value{i}" for i, n in enumerate(names)}))
    assert list(dict.fromkeys(found.values())) == ["stage0.cell0", "stage0.cell1", "stage1.cell0", "stage1.cell1"]


def test_a_chain_of_single_edges_is_one_cell() -> None:
    paths = keyed(a="blocks.0.ops", b="blocks.1.ops", c="blocks.2.ops")
    assert set(cell_paths(paths, keyed(a="x", b="y", c="z")).values()) == {""}


def partial(*, second_reader: bool = False) -> nx.MultiDiGraph:
    """Return two edges on parts of one value, each weighted as a whole where they are added up."""
    graph = nx.MultiDiGraph()
    for name, operation in (
        ("x", "Conv2d"),
        ("part", "getitem"),
        ("again", "getitem"),
        ("joined", "cat"),
        ("both", "cat"),
    ):
        graph.add_node(name, op=operation)
    for name in ("inner", "other", "outer"):
        graph.add_node(name, op="mixed_sum")
    graph.add_edges_from([("x", "part"), ("inner", "joined"), ("other", "both")], kind="plain")
    graph.add_edges_from([("part", "inner"), ("again", "other"), ("joined", "outer"), ("both", "outer")])
    if second_reader:
        graph.add_edge("inner", "both", kind="plain")
    return graph


SOURCES = {("inner", 0): "part", ("other", 0): "again", ("outer", 0): "joined", ("outer", 1): "both"}
BARE = [("outer", 0), ("outer", 1)]
READS = {("inner", 0): "x", ("other", 0): "x", ("outer", 0): "joined", ("outer", 1): "both"}


def test_a_weighted_sum_of_parts_is_one_edge() -> None:
    found = drawn_ends(partial(), SOURCES, BARE, READS)
    assert found.ends == {("inner", 0): ("x", "outer"), ("other", 0): ("x", "outer")}
    assert found.around == {("inner", 0): ("outer", 0), ("other", 0): ("outer", 1)}


def test_a_sum_that_something_else_reads_stays_a_node() -> None:
    found = drawn_ends(partial(second_reader=True), SOURCES, BARE, READS)
    assert found.ends[("inner", 0)] == ("x", "inner")
    assert found.ends[("outer", 0)] == ("joined", "outer")


def test_a_weighted_value_that_something_else_reads_stays_a_node() -> None:
    graph = partial()
    graph.add_edge("joined", "both", kind="plain")
    found = drawn_ends(graph, SOURCES, BARE, READS)
    assert found.ends[("inner", 0)] == ("x", "inner")
    assert ("outer", 0) not in found.around.values()


def test_an_edge_that_does_more_than_weight_stays_an_edge() -> None:
    found = drawn_ends(partial(), SOURCES, [], READS)
    assert set(found.ends) == set(SOURCES)
    assert found.around == {}


def test_a_value_that_is_no_part_stays_itself() -> None:
    graph = partial()
    graph.nodes["part"]["op"] = graph.nodes["again"]["op"] = "Conv2d"
    found = drawn_ends(graph, SOURCES, BARE, READS)
    assert {source for source, _ in found.ends.values()} == {"part", "again"}


def test_a_cell_of_partial_channels_is_drawn_as_one_of_all_channels() -> None:
    torch.manual_seed(0)
    model = PartialNASBench201Supernet(C=8, N=1)
    drawing = collect(toponas_fx.simplify(model, torch.randn(2, 3, 16, 16)))
    cell = drawing.cells[0]
    assert [value.label for value in cell.values] == ["in", "0", "1", "2"]
    assert [(edge.source, edge.target) for edge in cell.edges] == [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    assert cell.plain == ()
    betas = [edge.around.value for edge in cell.edges]
    assert betas[0] is None or betas[0] == pytest.approx(1.0)
    assert betas[1] + betas[2] == pytest.approx(1.0)
    assert sum(betas[3:]) == pytest.approx(1.0)
