"""The topology: which values a supernet's edges connect, and what each candidate between them is made of."""

import networkx as nx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import toponas_fx
from toponas_fx.passes import DEFAULT_PASSES, Deduplicate, DetectMixedOps, ShareModules
from toponas_fx.topology import build_topology

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
    """One mixture at the root, of the candidates given, behind a stem."""

    def __init__(self, *ops):
        super().__init__()
        self.stem = nn.Conv2d(C, C, 3, padding=1)
        self.ops = nn.ModuleList(ops)
        self.alphas = torch.randn(len(ops), requires_grad=True)

    def forward(self, x):
        x = self.stem(x)
        return sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True))


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
    number = merged["nodes"][2].split("_ops")[0]
    assert set(merged["origins"]) > {f"{number}_ops_2_1", f"{number}_ops_3_1", f"{number}_ops_3_2"}


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
    assert candidates(graph) == [("stem", 0, ("ReLU", "Conv2d 3x3", "BatchNorm2d"))]


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


def test_labels_of_strides_and_of_one_dimension():
    class Series(OneEdge):
        def __init__(self):
            super().__init__(nn.MaxPool1d(2), nn.Conv1d(C, C, 2, stride=2), nn.Conv1d(C, C, 2, stride=2, groups=C))
            self.stem = nn.Conv1d(C, C, 3, padding=1)

    assert [ops for _, _, ops in candidates(topology_of(Series(), torch.randn(2, C, 8)))] == [
        ("MaxPool1d 2 s2",),
        ("Conv1d 2 s2",),
        ("Conv1d 2 dw s2",),
    ]


class Functional(nn.Module):
    """Candidates without modules, all in one forward."""

    def __init__(self):
        super().__init__()
        self.kernel, self.thin = nn.Parameter(torch.randn(C, C, 3, 3)), nn.Parameter(torch.randn(C, 1, 5, 5))
        self.alphas = nn.Parameter(torch.randn(1, 3))

    def forward(self, x):
        x = torch.tanh(x)
        w = torch.softmax(self.alphas, -1)
        dense = F.conv2d(x.relu(), self.kernel, padding=1)
        thin = F.conv2d(x, self.thin, padding=4, dilation=2, groups=C)
        return w[0, 0] * dense + w[0, 1] * thin + w[0, 2] * F.max_pool2d(x, 3, 1, 1)


def test_functional_candidates():
    graph = topology_of(Functional(), image())
    assert candidates(graph) == [
        ("tanh", 0, ("relu", "Conv2d 3x3")),
        ("tanh", 0, ("Conv2d 5x5 dw d2",)),
        ("tanh", 0, ("max_pool2d",)),
    ]
    assert [data["weight"] for _, _, data in edges(graph)] == ["softmax[0, 0]", "softmax[0, 1]", "softmax[0, 2]"]
    assert all(data["modules"] == () for _, _, data in edges(graph))


class TwoCells(nn.Module):
    """A second cell that reads what the first one's two nodes are concatenated to."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (MixedOp(nn.Tanh(), nn.Conv2d(C, C, 1)) for _ in range(3))
        self.squeeze = nn.Sequential(nn.ReLU(), nn.Conv2d(2 * C, C, 1), nn.BatchNorm2d(C))
        self.alphas = nn.Parameter(torch.randn(3, 2))

    def forward(self, x):
        a = self.first(x, self.alphas[0])
        b = self.second(a, self.alphas[1])
        return self.third(self.squeeze(torch.cat([a, b], 1)), self.alphas[2])


def test_values_are_connected_by_what_lies_between_mixtures():
    graph = topology_of(TwoCells(), image())
    a, b, _ = (name for name in graph if graph.nodes[name]["op"] == "mixed_sum")
    plain = [(u, v, data["between"]) for u, v, data in edges(graph, "plain")]
    assert plain == [(a, "squeeze_2", 3), (b, "squeeze_2", 3)]
    assert dict.fromkeys(source for source, _, _ in candidates(graph)) == dict.fromkeys(["x", a, "squeeze_2"])
    assert graph.nodes["x"]["op"] == "input"


class JoinedCandidate(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2 * C, C, 1)

    def forward(self, x, y):
        return self.conv(torch.cat([x, y], 1))


class JoinsMixtures(nn.Module):
    """A lone candidate that joins two mixtures first."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (MixedOp(nn.Tanh(), nn.Conv2d(C, C, 1)) for _ in range(2))
        self.ops = nn.ModuleList([JoinedCandidate()])
        self.alphas = nn.Parameter(torch.randn(3, 2))

    def forward(self, x):
        a = self.first(x, self.alphas[0])
        b = self.second(x, self.alphas[1])
        return sum(w * op(a, b) for w, op in zip(self.alphas[2], self.ops, strict=False))


def test_no_candidate_reaches_over_other_mixtures():
    assert candidates(topology_of(JoinsMixtures(), image()))[4:] == [("cat", 0, ("Conv2d 1x1",))]


class FunctionalEdge(nn.Module):
    """Functions on a value that the edge itself computes once, with a size of another one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(C, C, 1)

    def forward(self, x, weights):
        y = self.stem(x).relu()
        shape = (x.size(0), C, 8, 8)
        return weights[0] * y.reshape(shape).tanh() + weights[1] * y.reshape(shape).sigmoid()


class FunctionalEdges(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = FunctionalEdge(), FunctionalEdge()
        self.alphas = nn.Parameter(torch.randn(2, 2))

    def forward(self, x):
        return self.first(x, self.alphas[0]) + self.second(x, self.alphas[1])


def test_prefix_within_an_edge_and_sizes_that_are_no_data():
    assert candidates(topology_of(FunctionalEdges(), image())) == [
        ("relu", 0, ("reshape", "tanh")),
        ("relu", 0, ("reshape", "sigmoid")),
        ("relu_1", 1, ("reshape", "tanh")),
        ("relu_1", 1, ("reshape", "sigmoid")),
    ]


class HierarchicalCandidate(nn.Module):
    """A candidate that is a small cell with a mixture of its own."""

    def __init__(self):
        super().__init__()
        self.pre = nn.Conv2d(C, C, 1)
        self.mixed = MixedOp(nn.Tanh(), nn.Conv2d(C, C, 3, padding=1))
        self.post = nn.BatchNorm2d(C)
        self.alphas = nn.Parameter(torch.randn(2))

    def forward(self, x):
        return self.post(self.mixed(self.pre(x), self.alphas))


def test_mixture_within_a_candidate_keeps_its_own_source():
    graph = topology_of(OneEdge(nn.Identity(), nn.Tanh(), HierarchicalCandidate()), image())
    assert candidates(graph) == [
        ("ops_2_pre", 0, ("Tanh",)),
        ("ops_2_pre", 0, ("Conv2d 3x3",)),
        ("stem", 0, ("identity",)),
        ("stem", 0, ("Tanh",)),
        ("stem", 0, ("Conv2d 1x1", "Tanh", "Conv2d 3x3", "mixed_sum", "BatchNorm2d")),
    ]
    assert ("stem", "ops_2_pre", 0) in [(u, v, data["between"]) for u, v, data in edges(graph, "plain")]


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.ops = nn.ModuleList([nn.Conv2d(2 * C, C, 1), nn.Conv2d(2 * C, C, 3, padding=1)])
        self.alphas = nn.Parameter(torch.randn(2))

    def forward(self, x, y):
        return sum(w * op(torch.cat([x, y], 1)) for w, op in zip(self.alphas, self.ops, strict=True))


def test_candidates_of_two_inputs():
    assert candidates(topology_of(TwoInputs(), image(), image())) == [
        ("inputs", 0, ("input", "input", "cat", "Conv2d 1x1")),
        ("inputs", 0, ("input", "input", "cat", "Conv2d 3x3")),
    ]


def test_zero_candidate_whose_weight_keeps_a_term():
    class OwnWeights(OneEdge):
        def __init__(self):
            super().__init__(Zero(), nn.Conv2d(C, C, 1))
            self.alphas = nn.ParameterList([torch.randn(()) for _ in range(2)])

    graph = topology_of(OwnWeights(), image(), passes=DEFAULT_PASSES)
    assert {(source, ops) for source, _, ops in candidates(graph)} == {
        ("stem", ("zero",)),
        ("stem", ("Conv2d 1x1",)),
    }


class Ensemble(nn.Module):
    """A mixture of parameters, which no input goes into."""

    def __init__(self):
        super().__init__()
        self.kernels = nn.ParameterList([torch.randn(C, C, 3, 3) for _ in range(2)])
        self.alphas = nn.Parameter(torch.randn(2))

    def forward(self, x):
        kernel = self.alphas[0] * self.kernels[0] + self.alphas[1] * self.kernels[1].relu()
        return F.conv2d(x, kernel, padding=1)


def test_mixture_that_reads_no_input():
    graph = topology_of(Ensemble(), image())
    assert {source for source, _, _ in candidates(graph)} == {"constant"}
    assert candidates(graph)[1][2] == ("relu",)


def test_model_without_mixtures():
    assert len(topology_of(nn.Sequential(nn.Conv2d(C, C, 1), nn.ReLU()), image())) == 0
