"""Share modules: what alike candidates of one edge end in runs once, and every architecture computes what it did."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import toponas_fx
from nets import Edge, Net, assert_close, lines_of, prepare, untouched
from toponas_fx.passes import Deduplicate, DetectMixedOps, ShareModules
from toponas_fx.testing import check_keeps, check_pass
from toponas_fx.testing.rewrites import EXACT, text_of

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
FIRST = (DetectMixedOps(),)


def conv_norm(size, bias=False, **options):
    conv = nn.Conv2d(4, 4, size, padding=size // 2, bias=bias, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(4))


def separable(size, *end):
    depthwise = nn.Conv2d(4, 4, size, padding=size // 2, groups=4, bias=False)
    return nn.Sequential(nn.ReLU(), depthwise, nn.Conv2d(4, 4, 1, bias=False), *end)


def test_rewrites_two_norms_into_one():
    fast, record = check_pass(
        ShareModules(),
        Edge(conv_norm(1), conv_norm(3)),
        X,
        before="""
            %0 = input x
            %1 = attr alphas
            %2 = .unbind(%1, 0)
            %3 = getitem(%2, 0)
            %4 = getitem(%2, 1)
            %5 = Conv2d[ops.0.0](%0)
            %6 = BatchNorm2d[ops.0.1](%5)
            %7 = Conv2d[ops.1.0](%0)
            %8 = BatchNorm2d[ops.1.1](%7)
            %9 = mixed_sum([%6, %8], [%3, %4], (0, 0))
            return %9
        """,
        after="""
            %0 = input x
            %1 = attr alphas
            %2 = .unbind(%1, 0)
            %3 = getitem(%2, 0)
            %4 = getitem(%2, 1)
            %5 = Conv2d[ops.0.0](%0)
            %6 = Conv2d[ops.1.0](%0)
            %7 = group_weight([%3, %4])
            %8 = getitem(%7, 0)
            %9 = getitem(%7, 1)
            %10 = getitem(%9, 0)
            %11 = getitem(%9, 1)
            %12 = mixed_sum([%5, %6], [%10, %11], (0, 0))
            %13 = BatchNorm2d[ops.0.1](%12)
            %14 = mixed_sum([%13], [%8], (0,))
            return %14
        """,
        prerequisites=FIRST,
    )
    assert [change.sentence for change in record.changes] == ["BatchNorm2d `ops.0.1` takes the place of `ops.1.1`"]
    assert fast.meta["sharing"].ties == {"ops.1.1": "ops.0.1"}
    assert fast.ops[1][1] is fast.ops[0][1]
    names = ["alphas", "ops.0.0.weight", "ops.0.1.weight", "ops.0.1.bias", "ops.1.0.weight"]
    assert [name for name, _ in fast.named_parameters()] == names


def test_shares_whole_suffixes_with_one_group_weight():
    net = Edge(separable(3, nn.BatchNorm2d(4)), separable(5, nn.BatchNorm2d(4)))
    fast, record = check_pass(ShareModules(), net, X, prerequisites=FIRST)
    assert fast.meta["sharing"].ties == {"ops.1.3": "ops.0.3", "ops.1.2": "ops.0.2"}
    assert [change.sentence.split()[0] for change in record.changes] == ["BatchNorm2d", "Conv2d"]
    assert text_of(fast).count("group_weight") == 1


def test_shares_a_part_of_a_group_with_shares_of_its_own():
    def candidate(size, *middle):
        conv = nn.Conv2d(4, 4, size, padding=size // 2, bias=False)
        return nn.Sequential(conv, *middle, nn.BatchNorm2d(4))

    net = Edge(candidate(1, nn.Conv2d(4, 4, 1)), candidate(3, nn.Conv2d(4, 4, 1)), candidate(5))
    fast, _ = check_pass(ShareModules(), net, X, prerequisites=FIRST)
    assert fast.meta["sharing"].ties == {"ops.1.2": "ops.0.2", "ops.2.1": "ops.0.2", "ops.1.1": "ops.0.1"}
    assert text_of(fast).count("group_weight") == 2


def test_shares_further_after_deduplication():
    net = Edge(separable(3, nn.BatchNorm2d(4), nn.ReLU()), separable(5, nn.BatchNorm2d(4), nn.ReLU()))
    fast, _ = check_pass(ShareModules(), net, X, prerequisites=(DetectMixedOps(), Deduplicate()))
    assert fast.meta["sharing"].ties == {"ops.1.4": "ops.0.4", "ops.1.3": "ops.0.3", "ops.1.2": "ops.0.2"}


def test_shares_two_kinds_in_one_mixture_and_leaves_the_rest():
    net = Edge(conv_norm(1), nn.Tanh(), conv_norm(3), nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Tanh()), nn.Identity())
    fast, _ = check_pass(ShareModules(), net, X, prerequisites=FIRST)
    assert fast.meta["sharing"].ties == {"ops.2.1": "ops.0.1", "ops.3.1": "ops.1"}
    (found,) = (line for line in lines_of(fast, "mixed_sum") if line.count("%") == 6)
    assert found.endswith("(0, 0, 0))")


def test_shares_linear_layers_norms_and_activations_with_parameters():
    def candidate(width):
        return nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3), nn.BatchNorm1d(3), nn.PReLU())

    net = Edge(candidate(2), candidate(5))
    fast, _ = check_pass(ShareModules(), net, torch.randn(8, 4), prerequisites=FIRST)
    assert fast.meta["sharing"].ties == {"ops.1.3": "ops.0.3", "ops.1.2": "ops.0.2"}


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.BatchNorm2d(4, momentum=None)])
def test_shares_other_norms(norm):
    net = Edge(*(nn.Sequential(nn.Conv2d(4, 4, k, padding=k // 2), copy.deepcopy(norm)) for k in (1, 3)))
    fast, _ = check_pass(ShareModules(), net, X, prerequisites=FIRST)
    assert fast.meta["sharing"].ties == {"ops.1.1": "ops.0.1"}


class TwoEdges(nn.Module):
    """A cell's node that two edges lead to, of two alike candidates each."""

    def __init__(self):
        super().__init__()
        self.alphas = nn.Parameter(torch.tensor([[0.3, 0.7], [0.6, 0.4]]))
        self.edges = nn.ModuleList(nn.ModuleList([conv_norm(1), conv_norm(3)]) for _ in range(2))

    def forward(self, x):
        states = [x, torch.tanh(x)]
        pairs = zip(self.alphas, self.edges, states, strict=True)
        return sum(sum(w * op(state) for w, op in zip(row, edge, strict=True)) for row, edge, state in pairs)


def test_never_shares_across_edges():
    fast, _ = check_pass(ShareModules(), TwoEdges(), X, prerequisites=FIRST)
    assert fast.meta["sharing"].ties == {"edges.0.1.1": "edges.0.0.1", "edges.1.1.1": "edges.1.0.1"}
    assert lines_of(fast, "mixed_sum")[-1].endswith("(0, 1))")
    assert text_of(fast).count("group_weight") == 2


def test_keeps_modules_alike_only_across_edges():
    def forward(self, x):
        y = torch.tanh(x)
        one = self.alphas[0, 0] * self.a(x) + self.alphas[0, 1] * torch.sigmoid(x)
        return one + self.alphas[1, 0] * self.b(y) + self.alphas[1, 1] * torch.sigmoid(y)

    net = Net(forward, a=conv_norm(1), b=conv_norm(1), alphas=nn.Parameter(torch.rand(2, 2)))
    assert check_keeps(ShareModules(), net, X, prerequisites=FIRST) == []


def test_in_evaluation_all_positive_weights_agree():
    """There the shared norm is affine: one call on the mixed operation is the mixed operation of the calls."""
    fast = toponas_fx.simplify(prepare(TwoEdges()), X.double(), passes=(*FIRST, ShareModules())).eval()
    with torch.no_grad():
        for row in torch.rand(5, 2, 2, dtype=torch.float64):
            fast.alphas.copy_(row)
            assert_close([fast(X.double())], [fast.reference(X.double())], ["output"], EXACT)


def test_later_captures_share_just_what_was_decided():
    def forward(self, x):
        y = self.a(x), self.b(x)
        if self.training:
            return self.alphas[0] * self.r(y[0]) + self.alphas[1] * self.s(y[1])
        return self.alphas[0] * self.t(self.r(y[0])) + self.alphas[1] * self.u(self.s(y[1]))

    net = Net(forward, a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 3, padding=1), alphas=nn.Parameter(torch.rand(2)))
    net.r, net.s, net.t, net.u = nn.ReLU(), nn.ReLU(), nn.Sigmoid(), nn.Sigmoid()
    fast = toponas_fx.simplify(net, X, passes=(*FIRST, ShareModules()))
    assert fast.meta["sharing"].ties == {"s": "r"}
    assert text_of(fast.eval()).count("Sigmoid[t]") == text_of(fast).count("Sigmoid[u]") == 1


UNLIKE = {
    "class": (nn.ReLU(), nn.ReLU6()),
    "option": (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
    "list": (nn.AvgPool2d([3, 3], 1, [1, 1]), nn.AvgPool2d([5, 5], 1, [2, 2])),
    "eps": (nn.BatchNorm2d(4, momentum=0.1), nn.BatchNorm2d(4, momentum=0.2)),
    "affine": (nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)),
    "bias": (nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, bias=False)),
    "kernel": (nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)),
}


@pytest.mark.parametrize("ends", UNLIKE.values(), ids=UNLIKE)
def test_keeps_unlike_modules(ends):
    net = Edge(*(nn.Sequential(nn.Conv2d(4, 4, 1), end) for end in ends))
    assert check_keeps(ShareModules(), net, X, prerequisites=FIRST) == []


def test_keeps_alike_modules_on_unlike_inputs():
    feeds = nn.MaxPool2d(2), nn.AvgPool2d(3)
    net = Edge(*(nn.Sequential(feed, nn.AdaptiveAvgPool2d(2)) for feed in feeds))
    assert check_keeps(ShareModules(), net, X, prerequisites=FIRST) == []


@pytest.mark.parametrize("feed", [nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(3, 1, 1), nn.Hardtanh()])
def test_keeps_a_norm_that_no_kernel_feeds(feed):
    net = Edge(nn.Sequential(feed, nn.BatchNorm2d(4)), conv_norm(3))
    reasons = check_keeps(ShareModules(), net, X, prerequisites=FIRST)
    assert reasons == ["what feeds `ops.0.1` is no convolution or linear layer whose kernel could be normalized"]


def test_keeps_a_norm_that_a_computed_kernel_feeds():
    def forward(self, x):
        one = self.n(F.conv2d(x, self.kernel * self.mask))
        return self.alphas[0] * one + self.alphas[1] * self.b(x)

    kernel = nn.Parameter(torch.randn(4, 4, 1, 1))
    net = Net(forward, n=nn.BatchNorm2d(4), b=conv_norm(3), kernel=kernel, mask=torch.ones(4, 4, 1, 1))
    net.alphas = nn.Parameter(torch.rand(2))
    check_keeps(ShareModules(), net, X, "is computed, not a parameter of its own", prerequisites=FIRST)


def test_keeps_a_norm_whose_kernel_is_read_elsewhere():
    def forward(self, x):
        return self.alphas[0] * self.a(x) + self.alphas[1] * self.b(x) + self.alphas[2] * F.conv2d(x, self.a[0].weight)

    net = Net(forward, a=conv_norm(1), b=conv_norm(3), alphas=nn.Parameter(torch.rand(3)))
    check_keeps(ShareModules(), net, X, "`a.0.weight` is read in several places", prerequisites=FIRST)


def test_keeps_a_module_that_runs_in_several_places():
    def forward(self, x):
        return self.alphas[0] * self.relu(self.a(x)) + self.alphas[1] * self.relu(self.b(x))

    net = Net(forward, a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 3, padding=1), relu=nn.ReLU())
    net.alphas = nn.Parameter(torch.rand(2))
    check_keeps(ShareModules(), net, X, "a module runs in several places", prerequisites=FIRST)
    fast = toponas_fx.simplify(net, X, passes=(*FIRST, ShareModules()))
    for training in (True, False):
        assert text_of(fast.train(training)).count("ReLU") == 2
        assert torch.allclose(fast(X), net(X), atol=1e-6)


def test_keeps_a_candidate_with_a_constant_weight():
    def forward(self, x):
        return self.a(x) + self.b(x) + self.alphas[0] * torch.tanh(x) + self.alphas[1] * torch.sigmoid(x)

    net = Net(forward, a=conv_norm(1), b=conv_norm(3), alphas=nn.Parameter(torch.rand(2)))
    reasons = check_keeps(ShareModules(), net, X, prerequisites=FIRST)
    assert reasons == ["a candidate has a constant weight"] * 2


def test_keeps_a_candidate_whose_result_something_else_reads():
    def forward(self, x):
        one = self.alphas[0] * self.a(self.conv(x)) + self.alphas[1] * self.b(x)
        two = self.alphas[1] * self.c(x) + self.alphas[0] * torch.sigmoid(x)
        return torch.cat([one, two])

    net = Net(forward, a=nn.Tanh(), b=nn.Tanh(), c=nn.Tanh(), conv=nn.Conv2d(4, 4, 1))
    net.alphas = nn.Parameter(torch.rand(2))
    reasons = check_keeps(ShareModules(), net, X, prerequisites=(DetectMixedOps(), Deduplicate()))
    assert reasons == ["something besides the mixed operation reads a candidate's result"]


def test_shares_the_others_where_one_cannot_be():
    def forward(self, x):
        one = self.a(x)
        total = self.alphas[0] * one + self.alphas[1] * self.b(x) + self.alphas[2] * self.c(x)
        return torch.cat([total, one])

    net = Net(forward, a=conv_norm(1), b=conv_norm(3), c=conv_norm(5), alphas=nn.Parameter(torch.rand(3)))
    fast, record = check_pass(ShareModules(), net, X, prerequisites=FIRST)
    assert fast.meta["sharing"].ties == {"c.1": "b.1"}
    assert "something besides the mixed operation" not in record.changes[0].sentence


@pytest.mark.parametrize("make", [lambda: nn.ReLU(inplace=True), lambda: nn.Dropout(0.5), nn.RReLU])
def test_keeps_random_and_in_place_modules(make):
    net = Edge(*(nn.Sequential(nn.Conv2d(4, 4, k, padding=k // 2), make()) for k in (1, 3)))
    reasons = check_keeps(ShareModules(), net, X, prerequisites=FIRST)
    assert reasons
    assert all("draws at random, writes in place, has hooks" in reason for reason in reasons)


def test_keeps_modules_with_hooks():
    for index in range(2):
        net = Edge(conv_norm(1), conv_norm(3))
        net.ops[index][1].register_forward_hook(lambda module, inputs, output: output * 2)
        assert check_keeps(ShareModules(), net, X, "has hooks", prerequisites=FIRST)


def test_keeps_one_value_that_stands_for_several_candidates():
    net = Edge(nn.ReLU(), nn.ReLU(), nn.Tanh())
    first = (DetectMixedOps(), Deduplicate())
    assert check_keeps(ShareModules(), net, X, prerequisites=first) == []
    check_pass(ShareModules(), net, X, prerequisites=first, changes=False)


def test_the_graph_of_a_shared_norm_moves_its_statistics_once():
    fast = toponas_fx.simplify(prepare(Edge(conv_norm(1), conv_norm(3))), X.double(), passes=(*FIRST, ShareModules()))
    norm, before = fast.ops[0][1], int(fast.ops[0][1].num_batches_tracked)
    with untouched(fast):
        fast.train()(X.double())
        assert int(norm.num_batches_tracked) == before + 1
