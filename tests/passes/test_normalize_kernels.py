"""Normalize kernels: the weight, not the kernel's scale, says how much a candidate counts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import toponas_fx
from nets import Edge, Net, assert_close, lines_of, prepare, undecide, untouched
from toponas_fx.errors import PreconditionError
from toponas_fx.ir.decisions import NormalizedKernel
from toponas_fx.passes import DetectMixedOps, NormalizeKernels, ShareModules
from toponas_fx.rewriting.pipeline import run_passes
from toponas_fx.testing import check_pass
from toponas_fx.testing.differences import EXACT
from toponas_fx.testing.rewrites import UNDONE, text_of

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
FIRST = (DetectMixedOps(), ShareModules())
ALL = (*FIRST, NormalizeKernels())


def conv_norm(size, norm=None, **options):
    conv = nn.Conv2d(4, 4, size, padding=size // 2, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(4) if norm is None else norm)


def separable(size, groups=1):
    depthwise = nn.Conv2d(4, 4, size, padding=size // 2, groups=4, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(4, 4, 1, groups=groups, bias=False), nn.BatchNorm2d(4))


def normalized(fast):
    return {path: (kernel.bias, kernel.per) for path, kernel in fast.meta["sharing"].kernels.items()}


def test_rewrites_convolutions_to_normalized_kernels():
    _, record = check_pass(
        NormalizeKernels(),
        Edge(conv_norm(1), conv_norm(3, bias=False)),
        X,
        before="""
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
        after="""
            %0 = input x
            %1 = attr alphas
            %2 = .unbind(%1, 0)
            %3 = getitem(%2, 0)
            %4 = getitem(%2, 1)
            %5 = attr ops.0.0.weight
            %6 = kernel_scale(%5, 'kernel')
            %7 = mul(%5, %6)
            %8 = attr ops.0.0.bias
            %9 = scale_bias(%8, %6)
            %10 = conv2d(%0, %7, %9, (1, 1), (0, 0), (1, 1), 1)
            %11 = attr ops.1.0.weight
            %12 = kernel_scale(%11, 'kernel')
            %13 = mul(%11, %12)
            %14 = conv2d(%0, %13, None, (1, 1), (1, 1), (1, 1), 1)
            %15 = group_weight([%3, %4])
            %16 = getitem(%15, 0)
            %17 = getitem(%15, 1)
            %18 = getitem(%17, 0)
            %19 = getitem(%17, 1)
            %20 = mixed_sum([%10, %14], [%18, %19], (0, 0))
            %21 = BatchNorm2d[ops.0.1](%20)
            %22 = mixed_sum([%21], [%16], (0,))
            return %22
        """,
        prerequisites=FIRST,
    )
    assert [change.sentence for change in record.changes] == [
        "`ops.0.0.weight` normalized per kernel",
        "`ops.1.0.weight` normalized per kernel",
    ]


def test_records_what_it_decided():
    fast, _ = check_pass(NormalizeKernels(), Edge(conv_norm(1), conv_norm(3, bias=False)), X, prerequisites=FIRST)
    assert normalized(fast) == {"ops.0.0.weight": ("ops.0.0.bias", "kernel"), "ops.1.0.weight": (None, "kernel")}


GEOMETRY = {
    "stride": {"stride": 2, "padding": 1},
    "dilation": {"dilation": 2, "padding": 2},
    "groups": {"groups": 2, "padding": 1},
    "same": {"padding": "same"},
}


@pytest.mark.parametrize("options", GEOMETRY.values(), ids=GEOMETRY)
def test_keeps_the_geometry(options):
    stride = options.get("stride", 1)
    one = nn.Sequential(nn.Conv2d(4, 4, 1, stride=stride), nn.BatchNorm2d(4))
    net = Edge(one, nn.Sequential(nn.Conv2d(4, 4, 3, **options), nn.BatchNorm2d(4)))
    check_pass(NormalizeKernels(), net, X, prerequisites=FIRST)


def test_normalizes_linear_layers_and_other_dimensions():
    linear = Edge(*(nn.Sequential(nn.Linear(4, w), nn.Linear(w, 3), nn.BatchNorm1d(3)) for w in (2, 5)))
    fast, _ = check_pass(NormalizeKernels(), linear, torch.randn(8, 4), prerequisites=FIRST)
    assert len(normalized(fast)) == 4
    for dims in (1, 3):
        conv, norm = getattr(nn, f"Conv{dims}d"), getattr(nn, f"BatchNorm{dims}d")
        net = Edge(*(nn.Sequential(conv(2, 3, k, padding=k // 2), norm(3)) for k in (1, 3)))
        fast, _ = check_pass(NormalizeKernels(), net, torch.randn(2, 2, *[5] * dims), prerequisites=FIRST)
        assert len(normalized(fast)) == 2


def test_normalizes_functions_of_own_parameters():
    def forward(self, x):
        one = self.n(F.conv2d(x, self.kernel, self.bias))
        return self.alphas[0] * one + self.alphas[1] * self.b(x)

    net = Net(forward, n=nn.BatchNorm2d(4), b=conv_norm(3), kernel=nn.Parameter(torch.randn(4, 4, 1, 1)))
    net.bias, net.alphas = nn.Parameter(torch.randn(4)), nn.Parameter(torch.rand(2))
    fast, _ = check_pass(NormalizeKernels(), net, X, prerequisites=FIRST)
    assert normalized(fast) == {"kernel": ("bias", "kernel"), "b.0.weight": ("b.0.bias", "kernel")}


def test_normalizes_what_differs_and_leaves_what_is_shared():
    fast, _ = check_pass(NormalizeKernels(), Edge(separable(3), separable(5)), X, prerequisites=FIRST)
    assert set(normalized(fast)) == {"ops.0.0.weight", "ops.1.0.weight"}


def test_normalizes_every_kernel_of_a_chain_that_differs():
    fast, _ = check_pass(NormalizeKernels(), Edge(separable(3), separable(5, groups=2)), X, prerequisites=FIRST)
    assert set(normalized(fast)) == {"ops.0.0.weight", "ops.0.1.weight", "ops.1.0.weight", "ops.1.1.weight"}


def test_leaves_kernels_that_feed_no_shared_norm():
    net = Edge(conv_norm(1), nn.Conv2d(4, 4, 3, padding=1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Tanh()))
    fast = toponas_fx.simplify(net, X, passes=ALL)
    assert normalized(fast) == {}
    assert "kernel_scale" not in text_of(fast)


def test_leaves_kernels_whose_mixture_feeds_a_norm_of_its_own():
    """There the kernel's scale is the user's own way to weigh candidates."""

    def forward(self, x):
        return self.norm(self.alphas[0] * self.a(x) + self.alphas[1] * self.b(x)) + self.edge(x)

    net = Net(forward, a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 3, padding=1), norm=nn.BatchNorm2d(4))
    net.alphas, net.edge = nn.Parameter(torch.rand(2)), Edge(conv_norm(1), conv_norm(3))
    fast = toponas_fx.simplify(net, X, passes=ALL)
    assert set(normalized(fast)) == {"edge.ops.0.0.weight", "edge.ops.1.0.weight"}


@pytest.mark.parametrize("per", ["kernel", "filter"])
def test_the_scale_of_a_kernel_does_not_matter(per):
    """Both sides of the one-hot test would forget a forgotten normalization alike; this one does not."""
    fast = toponas_fx.simplify(prepare(Edge(conv_norm(1), conv_norm(3))), X.double(), passes=ALL, normalize=per)
    with torch.no_grad(), untouched(fast):
        before = fast(X.double())
        fast.ops[1][0].weight.mul_(10)
        fast.ops[1][0].bias.mul_(10)
        assert_close([fast(X.double())], [before], ["output"], EXACT)
        fast.ops[1][0].weight[0].mul_(10)
        changed = (fast(X.double()) - before).abs().max()
    assert (changed > 0.1) == (per == "kernel")


def test_a_kernel_of_zeros_keeps_finite_moderate_gradients():
    net = prepare(Edge(conv_norm(1, bias=False), conv_norm(3, bias=False)))
    nn.init.zeros_(net.ops[1][0].weight)
    fast = toponas_fx.simplify(net, X.double(), passes=ALL)
    gradient = torch.autograd.grad(fast(X.double()).square().sum(), fast.ops[1][0].weight)[0]
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e3


def test_every_capture_after_the_first_normalizes_the_same_kernels():
    fast = toponas_fx.simplify(Edge(conv_norm(1), conv_norm(3)), X, passes=ALL)
    train, evaluation = (text_of(fast.train(training)) for training in (True, False))
    assert train == evaluation
    assert len(lines_of(fast, "kernel_scale")) == 2


def test_normalizes_bare_reads_in_later_captures():
    def forward(self, x):
        if self.training:
            return self.alphas[0] * self.a(x) + self.alphas[1] * self.b(x)
        return self.a[1](F.conv2d(x, self.a[0].weight, self.a[0].bias)) + self.b[0].bias.sum()

    net = prepare(Net(forward, a=conv_norm(1), b=conv_norm(3), alphas=nn.Parameter(torch.rand(2))))
    fast = toponas_fx.simplify(net, X.double(), passes=ALL).eval()
    assert len(lines_of(fast, "kernel_scale")) == 3
    assert len(lines_of(fast, "scale_bias")) == 2
    assert_close([fast(X.double())], [fast.reference(X.double())], ["output"], EXACT)


def test_per_filter_where_the_norm_follows_at_once():
    fast, record = check_pass(NormalizeKernels(per="filter"), Edge(conv_norm(1), conv_norm(3)), X, prerequisites=FIRST)
    assert {per for _, per in normalized(fast).values()} == {"filter"}
    assert "'filter'" in text_of(fast)
    assert record.changes[0].sentence == "`ops.0.0.weight` normalized per filter"


FILTERS_MIX = {
    "shared pointwise": lambda: (separable(3), separable(5)),
    "own pointwise": lambda: (separable(3), separable(5, groups=2)),
    "group norm": lambda: tuple(conv_norm(k, nn.GroupNorm(2, 4)) for k in (1, 3)),
    "layer norm": lambda: tuple(conv_norm(k, nn.LayerNorm([4, 6, 6])) for k in (1, 3)),
}


@pytest.mark.parametrize("make", FILTERS_MIX.values(), ids=FILTERS_MIX)
def test_keeps_per_filter_from_what_the_norm_does_not_undo(make):
    net = Edge(*make())
    fast, _ = check_pass(NormalizeKernels(per="filter"), net, X, prerequisites=FIRST)
    found = dict(normalized(fast))
    at_once = {path for path, (_, per) in found.items() if per == "filter"}
    assert at_once == ({"ops.0.1.weight", "ops.1.1.weight"} if len(found) == 4 else set())
    undecided = toponas_fx.simplify(Edge(*make()), X, passes=FIRST)
    undecide(undecided)
    reasons = [refusal.reason for refusal in NormalizeKernels(per="filter").plan(undecided).refusals]
    assert reasons == [f"`ops.{index}.0.weight` normalized per kernel only" for index in range(2)]


@pytest.mark.parametrize("norm", [lambda: nn.GroupNorm(4, 4), lambda: nn.InstanceNorm2d(4, affine=True)])
def test_norms_of_single_channels_allow_per_filter(norm):
    net = Edge(*(conv_norm(k, norm()) for k in (1, 3)))
    fast, _ = check_pass(NormalizeKernels(per="filter"), net, X, prerequisites=FIRST)
    assert {per for _, per in normalized(fast).values()} == {"filter"}


def test_a_candidate_alone_computes_what_it_did():
    """Per kernel, the norm undoes one scale, whatever stands between."""
    net = prepare(Edge(separable(3), separable(5)))
    fast = toponas_fx.simplify(net, X.double(), passes=ALL)
    with torch.no_grad(), untouched(fast):
        fast.alphas.copy_(torch.tensor([0.0, 1.0]))
        depthwise, pointwise, norm = net.ops[1][0], net.ops[0][1], net.ops[0][2]
        assert_close([fast(X.double())], [norm(pointwise(depthwise(X.double())))], ["output"], UNDONE)


def test_requires_that_no_opaque_module_reads_a_normalized_kernel():
    fast = toponas_fx.simplify(Edge(conv_norm(1), conv_norm(3)), X, passes=FIRST)
    fast.meta["sharing"].kernels["ops.0.0.weight"] = NormalizedKernel(None, "kernel")
    fast.ops[0][0].register_forward_hook(lambda module, inputs, output: output)
    with pytest.raises(PreconditionError, match=r"'normalize-kernels' \(1 of 1\).*`ops.0.0` runs whole and reads"):
        run_passes(fast, [NormalizeKernels()])
