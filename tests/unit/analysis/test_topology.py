"""The topology of mixed operations: sources, chains, labels and weights, before and after rewriting."""

import pytest
import torch
from torch import nn

from topology_cases import (
    C,
    Cell,
    MixedOp,
    OneEdge,
    all_five,
    candidates,
    edges,
    image,
    only_convolutions,
    relu_conv_bn,
    topology_of,
)
from toponas_fx.passes import DEFAULT_PASSES, Deduplicate, DetectMixedOps, ShareModules


def test_nasbench201_cell():
    graph = topology_of(Cell(all_five, 5), image())
    sums = [name for name in graph if graph.nodes[name]["op"] == "mixed_sum"]
    values = ["stem_1", *sums]
    five = [
        ("zero",),
        ("identity",),
        ("ReLU", "Conv2d 1x1", "BatchNorm2d"),
        ("ReLU", "Conv2d 3x3", "BatchNorm2d"),
        ("AvgPool2d 3x3",),
    ]
    assert candidates(graph) == [(values[j], j, ops) for i in range(1, 4) for j in range(i) for ops in five]
    assert set(graph) == set(values)
    assert graph.nodes["stem_1"] == {"type": "f32[2,4,8,8]", "op": "BatchNorm2d"}
    assert {(u, v): graph.number_of_edges(u, v) for u, v, _ in graph.edges} == {
        (values[j], values[i]): 5 for i in range(1, 4) for j in range(i)
    }


def test_attributes_of_a_candidate():
    graph = topology_of(Cell(all_five, 5), image())
    found = [data for _, _, data in edges(graph) if data["weight"] == "softmax[1][2]"]
    names = tuple(f"edges_2_0_ops_2_{i}" for i in range(3))
    assert found == [
        {
            "kind": "candidate",
            "mixture": 0,
            "position": 2,
            "weight": "softmax[1][2]",
            "name": "nor_conv_1x1",
            "ops": ("ReLU", "Conv2d 1x1", "BatchNorm2d"),
            "nodes": names,
            "modules": tuple(f"edges.2<-0.ops.2.{i}" for i in range(3)),
            "origins": names,
        }
    ]
    identity = next(data for _, _, data in edges(graph) if data["weight"] == "softmax[1][1]")
    assert identity["nodes"] == identity["modules"] == identity["origins"] == ()


def test_nasbench201_cell_after_all_passes():
    graph = topology_of(Cell(all_five, 5), image(), passes=DEFAULT_PASSES)
    values = ["stem_1", *(name for name in graph if graph.nodes[name]["op"] == "mixed_sum")]
    three = [("identity",), ("ReLU", "Conv2d 3x3", "BatchNorm2d"), ("AvgPool2d 3x3",)]
    assert candidates(graph) == [(values[j], j, ops) for i in range(1, 4) for j in range(i) for ops in three]
    first = [data["nodes"][0] for u, _, data in edges(graph) if u == "stem_1" and len(data["ops"]) == 3]
    assert len(first) == 3
    assert len(set(first)) == 1  # one ReLU for three edges, and in the chain of each
    merged = next(data for _, _, data in edges(graph) if len(data["ops"]) == 3)
    number = next(name for name in merged["origins"] if name.endswith("_ops_3_1")).split("_ops")[0]
    assert set(merged["origins"]) > {f"{number}_ops_2_1", f"{number}_ops_3_1", f"{number}_ops_3_2"}
    assert merged["weight"].startswith("group_all")


@pytest.mark.parametrize("passes", [(DetectMixedOps(),), (DetectMixedOps(), Deduplicate()), DEFAULT_PASSES])
def test_sources_stay_where_no_candidate_is_a_skip(passes):
    graph = topology_of(Cell(only_convolutions, 2), image(), passes=passes)
    values = ["stem_1", *(name for name in graph if graph.nodes[name]["op"] == "mixed_sum")]
    sizes = (3,) if passes == DEFAULT_PASSES else (1, 3)
    assert candidates(graph) == [
        (values[j], j, ("ReLU", f"Conv2d {k}x{k}", "BatchNorm2d")) for i in range(1, 4) for j in range(i) for k in sizes
    ]


def test_merged_candidate_of_a_sum_at_the_root():
    graph = topology_of(OneEdge(relu_conv_bn(1), relu_conv_bn(3)), image(), passes=DEFAULT_PASSES)
    ((source, edge, ops),) = candidates(graph)
    assert (graph.nodes[source]["op"], edge, ops) == ("Conv2d 3x3", 0, ("ReLU", "Conv2d 3x3", "BatchNorm2d"))


def test_shared_norm_over_an_inner_mixture():
    passes = (DetectMixedOps(), Deduplicate(), ShareModules())
    graph = topology_of(OneEdge(nn.Identity(), relu_conv_bn(1), relu_conv_bn(3)), image(), passes=passes)
    inner, outer = (name for name in graph if graph.nodes[name]["op"] == "mixed_sum")
    assert [ops for source, _, ops in candidates(graph) if source == "stem"] == [
        ("identity",),
        ("ReLU", "Conv2d 1x1", "Conv2d 3x3", "mixed_sum", "BatchNorm2d"),
    ]
    assert {data["ops"][-1] for _, target, data in edges(graph) if target == inner} == {"Conv2d 1x1", "Conv2d 3x3"}
    assert [(u, v, data["between"]) for u, v, data in edges(graph, "plain") if u == inner] == [(inner, outer, 1)]


class FactorizedReduce(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu, self.norm = nn.ReLU(), nn.BatchNorm2d(C)
        self.first, self.second = (nn.Conv2d(C, C // 2, 1, stride=2) for _ in range(2))

    def forward(self, x):
        x = self.relu(x)
        return self.norm(torch.cat([self.first(x), self.second(x[:, :, 1:, 1:])], dim=1))


class ZeroStride2(nn.Module):
    def forward(self, x):
        return x[:, :, ::2, ::2].mul(0.0)


def test_candidate_that_is_no_chain():
    graph = topology_of(OneEdge(FactorizedReduce(), ZeroStride2(), nn.MaxPool2d(3, 2, 1)), image())
    assert candidates(graph) == [
        ("stem", 0, ("ReLU", "Conv2d 1x1 s2", "getitem", "Conv2d 1x1 s2", "cat", "BatchNorm2d")),
        ("stem", 0, ("zero",)),
        ("stem", 0, ("MaxPool2d 3x3 s2",)),
    ]
    modules = next(data["modules"] for _, _, data in edges(graph) if len(data["ops"]) == 6)
    assert modules == ("ops.0.relu", "ops.0.first", "ops.0.second", "ops.0.norm")


def test_two_candidates_that_are_no_chains_share_their_beginning():
    passes = (DetectMixedOps(), Deduplicate())
    graph = topology_of(OneEdge(FactorizedReduce(), FactorizedReduce()), image(), passes=passes)
    assert [(source, ops[0]) for source, _, ops in candidates(graph)] == [("stem", "ReLU"), ("stem", "ReLU")]


class TwoEdges(nn.Module):
    """A node with a mixed edge from each of two values and one from the second that can only be skipped."""

    def __init__(self):
        super().__init__()
        self.stem_a, self.stem_b = nn.Conv2d(C, C, 1), nn.Conv2d(C, C, 1)
        self.mixed_a, self.mixed_b = (MixedOp(nn.Tanh(), nn.Conv2d(C, C, 3, padding=1)) for _ in range(2))
        self.alphas, self.betas = nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.randn(2))

    def forward(self, x):
        a, b = self.stem_a(x), self.stem_b(x)
        return self.betas[0] * self.mixed_a(a, self.alphas[0]) + self.betas[1] * b + self.mixed_b(b, self.alphas[1])


def test_edge_with_a_skip_only():
    graph = topology_of(TwoEdges(), image())
    assert len([name for name in graph if graph.nodes[name]["op"] == "mixed_sum"]) == 1
    assert [(u, data["mixture"], data["ops"], data["weight"]) for u, _, data in edges(graph)] == [
        ("stem_a", 0, ("Tanh",), "betas[0] * alphas[0][0]"),
        ("stem_a", 0, ("Conv2d 3x3",), "betas[0] * alphas[0][1]"),
        ("stem_b", 1, ("identity",), "betas[1]"),
        ("stem_b", 2, ("Tanh",), "alphas[1][0]"),
        ("stem_b", 2, ("Conv2d 3x3",), "alphas[1][1]"),
    ]


class Residual(nn.Module):
    """A weighted candidate beside a skip without a weight."""

    def __init__(self):
        super().__init__()
        self.conv, self.alphas = nn.Conv2d(C, C, 3, padding=1), nn.Parameter(torch.randn(2))

    def forward(self, x):
        return self.alphas[0] * self.conv(x) + self.alphas[1] * torch.tanh(x) + x


def test_weight_that_is_a_number():
    assert [(data["ops"], data["weight"]) for _, _, data in edges(topology_of(Residual(), image()))] == [
        (("Conv2d 3x3",), "alphas[0]"),
        (("tanh",), "alphas[1]"),
        (("identity",), "1"),
    ]


class SharedPrefix(nn.Module):
    """One norm that the user's code already computes once for all candidates."""

    def __init__(self):
        super().__init__()
        self.stem, self.pre = nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)
        self.ops = nn.ModuleList([nn.Conv2d(C, C, 1), nn.Conv2d(C, C, 3, padding=1)])
        self.alphas = nn.Parameter(torch.randn(2))

    def forward(self, x):
        y = self.pre(self.stem(x))
        return sum(w * op(y) for w, op in zip(self.alphas, self.ops, strict=True))


def test_prefix_that_the_user_shares_is_no_part_of_the_candidates():
    found = candidates(topology_of(SharedPrefix(), image()))
    assert found == [("pre", 0, ("Conv2d 1x1",)), ("pre", 0, ("Conv2d 3x3",))]


@pytest.mark.parametrize(
    ("op", "labels"),
    [
        (nn.Conv2d(C, C, 5, padding=4, dilation=2, groups=C), ("Conv2d 5x5 dw d2",)),
        (nn.Conv2d(C, C, (1, 7), padding=(0, 3), groups=2), ("Conv2d 1x7 g2",)),
        (nn.Conv2d(C, C, 3, padding=1, padding_mode="reflect"), ("Conv2d 3x3",)),
        (nn.ConvTranspose2d(C, C, 3, padding=1), ("ConvTranspose2d 3x3",)),
        (nn.AvgPool2d(3, 1, 1), ("AvgPool2d 3x3",)),
        (nn.Sequential(nn.LeakyReLU(), nn.Dropout(0.5)), ("LeakyReLU", "Dropout")),
        (nn.GELU(), ("GELU",)),
        (nn.AdaptiveAvgPool2d(8), ("AdaptiveAvgPool2d",)),
        (nn.Linear(8, 8), ("Linear",)),
    ],
)
def test_labels_of_modules(op, labels):
    assert candidates(topology_of(OneEdge(nn.Identity(), nn.Tanh(), op), image()))[2] == ("stem", 0, labels)
