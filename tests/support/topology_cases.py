"""Small supernets for the tests of the topology, and how its edges are read."""

import networkx as nx
import torch
from torch import nn

import toponas_fx
from toponas_fx.analysis.topology import build_topology
from toponas_fx.passes import DetectMixedOps

C = 4
DETECT = (DetectMixedOps(),)


def topology_of(model, *inputs, passes=DETECT):
    graph = build_topology(toponas_fx.simplify(model, inputs, passes=passes))
    assert isinstance(graph, nx.MultiDiGraph)
    return graph


def edges(graph, kind="candidate"):
    return [(u, v, data) for u, v, data in graph.edges(data=True) if data["kind"] == kind]


def candidates(graph):
    """Return (source, edge number, operations) of each candidate, in the order of sums and terms."""
    order = {name: index for index, name in enumerate(graph)}
    found = sorted(edges(graph), key=lambda edge: (order[edge[1]], edge[2]["position"]))
    return [(u, data["mixture"], data["ops"]) for u, _, data in found]


def image():
    return torch.randn(2, C, 8, 8)


def relu_conv_bn(kernel_size):
    conv = nn.Conv2d(C, C, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(C))


class Zero(nn.Module):
    def forward(self, x):
        return x.mul(0.0)


class MixedOp(nn.Module):
    def __init__(self, *candidates):
        super().__init__()
        self.ops = nn.ModuleList(candidates)

    def forward(self, x, weights):
        return sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))


def all_five():
    return MixedOp(Zero(), nn.Identity(), relu_conv_bn(1), relu_conv_bn(3), nn.AvgPool2d(3, 1, 1))


def only_convolutions():
    return MixedOp(relu_conv_bn(1), relu_conv_bn(3))


class Cell(nn.Module):
    """Four nodes and an edge from each to each later one, behind a stem."""

    def __init__(self, make_edge, count):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C, affine=False))
        self.edges = nn.ModuleDict({f"{i}<-{j}": make_edge() for i in range(1, 4) for j in range(i)})
        self.alphas = nn.Parameter(torch.randn(6, count))

    def forward(self, x):
        weights = dict(zip(self.edges, self.alphas.softmax(-1), strict=True))
        nodes = [self.stem(x)]
        for i in range(1, 4):
            nodes.append(sum(self.edges[f"{i}<-{j}"](nodes[j], weights[f"{i}<-{j}"]) for j in range(i)))
        return nodes[-1]


class OneEdge(nn.Module):
    """One mixed operation at the root, of the candidates given, behind a stem."""

    def __init__(self, *ops):
        super().__init__()
        self.stem = nn.Conv2d(C, C, 3, padding=1)
        self.ops = nn.ModuleList(ops)
        self.alphas = torch.randn(len(ops), requires_grad=True)

    def forward(self, x):
        x = self.stem(x)
        return sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True))
