"""The topology of less common structures: functions, joined and nested mixed operations, several inputs."""

import torch
import torch.nn.functional as F
from torch import nn

from topology_cases import C, MixedOp, OneEdge, Zero, candidates, edges, image, topology_of
from toponas_fx.passes import DEFAULT_PASSES


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
    """A lone candidate that joins two mixed operations first."""

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
    """A candidate that is a small cell with a mixed operation of its own."""

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
    assert {(graph.nodes[source]["op"], ops) for source, _, ops in candidates(graph)} == {
        ("Conv2d 3x3", ("zero",)),
        ("Conv2d 3x3", ("Conv2d 1x1",)),
    }


class Ensemble(nn.Module):
    """A mixed operation of parameters, which no input goes into."""

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
