"""Float modules: alike stages of unlike depth meet, and every architecture computes what it did."""

import pytest
import torch
from torch import nn

import toponas_fx
from nets import Edge, Net, lines_of, prepare, undecide
from toponas_fx.analysis.mixed_ops import mixed_ops
from toponas_fx.analysis.module_calls import ModuleCalls
from toponas_fx.analysis.stages import cheaper_placement
from toponas_fx.passes import (
    CombineTerms,
    Deduplicate,
    DetectMixedOps,
    FloatModules,
    MergeKernels,
    NormalizeKernels,
    ShareModules,
    SharePrefixes,
)
from toponas_fx.rewriting.pass_base import Repeat
from toponas_fx.testing import check_keeps, check_pass
from toponas_fx.testing.rewrites import text_of

X = torch.randn(3, 4, 7, 7, generator=torch.Generator().manual_seed(0))
FIRST = (DetectMixedOps(),)


def stage(size, dilation=1, stride=1, norm=nn.BatchNorm2d, bias=False):
    padding = dilation * (size // 2)
    depthwise = nn.Conv2d(4, 4, size, stride, padding, dilation, groups=4, bias=bias)
    return [nn.ReLU(), depthwise, nn.Conv2d(4, 4, 1, bias=bias), norm(4)]


def sep(size, stride=1, depth=2, **options):
    rest = [module for _ in range(depth - 1) for module in stage(size, **options)]
    return nn.Sequential(*stage(size, stride=stride, **options), *rest)


def dil(size, stride=1, **options):
    return nn.Sequential(*stage(size, 2, stride, **options))


def everything(placement):
    repeat = Repeat(Deduplicate(), FloatModules(placement), ShareModules(), SharePrefixes(), CombineTerms())
    return (DetectMixedOps(), repeat, NormalizeKernels(), MergeKernels())


def test_rewrites_a_short_candidate_onto_the_first_stage_of_a_long_one():
    def conv_norm(size):
        return [nn.Conv2d(4, 4, size, padding=size // 2, bias=False), nn.BatchNorm2d(4)]

    fast, record = check_pass(
        FloatModules("first"),
        Edge(nn.Sequential(*conv_norm(1)), nn.Sequential(*conv_norm(3), nn.ReLU(), *conv_norm(3))),
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
            %9 = ReLU[ops.1.2](%8)
            %10 = Conv2d[ops.1.3](%9)
            %11 = BatchNorm2d[ops.1.4](%10)
            %12 = mixed_sum([%6, %11], [%3, %4], (0, 0))
            return %12
        """,
        after="""
            %0 = input x
            %1 = attr alphas
            %2 = .unbind(%1, 0)
            %3 = getitem(%2, 0)
            %4 = getitem(%2, 1)
            %5 = Conv2d[ops.0.0](%0)
            %6 = Conv2d[ops.1.0](%0)
            %7 = group_shares([%3, %4])
            %8 = getitem(%7, 0)
            %9 = getitem(%7, 1)
            %10 = mixed_sum([%5, %6], [%8, %9], (0, 0))
            %11 = BatchNorm2d[ops.0.1](%10)
            %12 = ReLU[ops.1.2](%11)
            %13 = Conv2d[ops.1.3](%12)
            %14 = BatchNorm2d[ops.1.4](%13)
            %15 = mixed_sum([%11, %14], [%3, %4], (0, 0))
            return %15
        """,
        prerequisites=FIRST,
    )
    assert [change.sentence for change in record.changes] == ["stage `ops.0.1` takes the place of `ops.1.1`"]
    assert fast.ops[1][1] is fast.ops[0][1]


CANDIDATES = {
    "darts": (sep(3), sep(5), dil(3), dil(5)),
    "reduction": (sep(3, 2), sep(5, 2), dil(3, 2), dil(5, 2)),
    "short before long": (dil(5), sep(3), nn.AvgPool2d(3, 1, 1), sep(7)),
    "three stages": (sep(3, depth=3), dil(3), sep(5, depth=2)),
    "with biases": (sep(3, bias=True), dil(3, bias=True), sep(5, bias=True)),
    "twelve": (*(sep(k, depth=d) for k in (1, 3, 5) for d in (1, 2, 3)), dil(3), dil(5), nn.Identity()),
}


@pytest.mark.parametrize("placement", ["auto", "first", "last"])
@pytest.mark.parametrize("candidates", CANDIDATES.values(), ids=CANDIDATES)
def test_whole_stacks_at_every_vertex(candidates, placement):
    *before, last = everything(placement)
    fast = toponas_fx.simplify(Edge(*candidates), X, passes=(*before, last))
    depth = max(sum(isinstance(module, nn.BatchNorm2d) for module in op.modules()) for op in candidates)
    assert text_of(fast.train()).count("BatchNorm2d") == depth
    check_pass(NormalizeKernels(), Edge(*candidates), X, prerequisites=before[:2])


@pytest.mark.parametrize("placement", ["auto", "first", "last"])
@pytest.mark.parametrize(("slack", "convolutions"), [(1.0, 5), (2.0, {"first": 4, "last": 5, "auto": 5})])
def test_counts_of_a_darts_edge(placement, slack, convolutions):
    passes = (*everything(placement)[:-1], MergeKernels(slack))
    fast = toponas_fx.simplify(Edge(*CANDIDATES["darts"]), X, passes=passes).train()
    text = text_of(fast)
    expected = convolutions if isinstance(convolutions, int) else convolutions[placement]
    assert text.count("conv2d(") + text.count("Conv2d[") == expected
    assert text.count("BatchNorm2d[") == 2


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ((sep(3), sep(5), dil(3), dil(5)), "last"),  # as many taps either way
        ((sep(3), sep(5), dil(3)), "first"),  # a dilated 3x3 lies within the first stage's 5x5
        ((sep(3), sep(3)), "last"),
        ((nn.ReLU(), nn.Identity()), "last"),
    ],
    ids=["tie", "inside", "alike", "no stages"],
)
def test_auto_takes_the_placement_with_fewer_taps(candidates, expected):
    fast = toponas_fx.simplify(Edge(*candidates), X, passes=(DetectMixedOps(), Deduplicate())).train()
    (mixed,) = mixed_ops(fast.graph)
    undecide(fast)
    assert cheaper_placement(ModuleCalls.of(fast), mixed) == expected


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_outer_weights_keep_their_signs(sign):
    net = prepare(Edge(dil(3), sep(3)))
    fast = toponas_fx.simplify(net, X.double(), passes=everything("first")).train()
    with torch.no_grad():
        net.alphas.copy_(torch.tensor([sign, 0.0]))
    torch.testing.assert_close(fast(X.double()), sign * net.ops[0](X.double()), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (1e-40, 0.0, 0.0), (1e-12, -1e-12, 0.0), (0.5, -0.5, 1e-12)])
def test_zero_weights_stay_finite_to_the_second_derivative(weights):
    net = Edge(dil(3), sep(3), sep(5)).double()
    fast = toponas_fx.simplify(net, X.double(), passes=everything("first")).train()
    with torch.no_grad():
        net.alphas.copy_(torch.tensor(weights))
    output = fast(X.double())
    gradients = torch.autograd.grad(output.square().sum(), [*fast.parameters()], create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in gradients), [*fast.parameters()], allow_unused=True)
    for value in (output, *gradients, *second):
        assert value is None or value.isfinite().all()


def test_leaves_ends_alone_to_share_modules():
    assert check_keeps(FloatModules(), Edge(dil(3), dil(5)), X, prerequisites=FIRST) == []


def test_last_waits_for_shared_ends():
    assert check_keeps(FloatModules("last"), Edge(sep(3), sep(5), dil(3)), X, prerequisites=FIRST) == []
    fast, _ = check_pass(FloatModules("last"), Edge(sep(3), sep(5)), X, prerequisites=(*FIRST, ShareModules()))
    assert len(lines_of(fast, "group_shares")) == 1


def test_keeps_norms_without_kernels_of_their_own():
    pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(4))
    reasons = check_keeps(FloatModules("first"), Edge(pooled, sep(3)), X, prerequisites=FIRST)
    assert any("no convolution or linear layer" in reason for reason in reasons)


def test_keeps_modules_that_run_in_several_places():
    shared = nn.BatchNorm2d(4)

    def forward(self, x):
        weights = self.alphas
        y = self.a(x)
        long = self.norm(self.c(torch.relu(self.norm(self.b(x)))))
        return weights[0] * self.end(y) + weights[1] * long

    convs = {name: nn.Conv2d(4, 4, 1, bias=False) for name in "abc"}
    net = Net(forward, alphas=nn.Parameter(torch.ones(2)), norm=shared, end=nn.BatchNorm2d(4), **convs)
    check_keeps(FloatModules("first"), net, X, "runs in several places", prerequisites=FIRST)


def test_keeps_constant_weights():
    def forward(self, x):
        return self.a(x) + self.alphas[0] * self.b(x) + self.alphas[1] * torch.tanh(x)

    net = Net(forward, alphas=nn.Parameter(torch.ones(2)), a=dil(3), b=sep(3))
    found = check_keeps(FloatModules("first"), net, X, prerequisites=FIRST)
    assert not found or any("constant weight" in reason for reason in found)


def test_keeps_stages_that_only_effects_separate():
    def forward(self, x):
        long = self.long(x)
        noisy = x + torch.rand_like(x)
        return self.alphas[0] * long + self.alphas[1] * self.short(noisy)

    net = Net(forward, alphas=nn.Parameter(torch.ones(2)), long=sep(3), short=dil(3))
    check_keeps(FloatModules("first"), net, X, "has effects and cannot move", prerequisites=FIRST)


def test_rejects_an_unknown_placement():
    with pytest.raises(toponas_fx.PreconditionError, match="placement"):
        toponas_fx.simplify(Edge(dil(3), sep(3)), X, passes=(DetectMixedOps(), FloatModules("middle")))


def test_keeps_norms_whose_result_is_written_in_place():
    def long(size):
        first, second = stage(size), stage(size)
        return nn.Sequential(*first, nn.ReLU6(inplace=True), *second[1:])

    reasons = check_keeps(FloatModules("first"), Edge(long(3), long(5)), X, prerequisites=FIRST)
    assert any("written in place" in reason for reason in reasons)
    fast = toponas_fx.simplify(Edge(long(3), long(5)), X).train()
    fast(X).square().sum().backward()


@pytest.mark.parametrize("pass_", [ShareModules(), FloatModules("first")])
def test_keeps_candidates_that_one_weight_turns_on_together(pass_):
    """They are no alternatives: where the weight is one, the user's forward adds what both compute."""

    def forward(self, x):
        both = self.alphas[0] * self.a(x) + self.alphas[0] * self.b(x)
        return both + self.alphas[1] * self.c(x)

    short, long = ("ac", "b") if pass_ == FloatModules("first") else ("abc", "")
    ops = {name: sep(3) for name in long} | {name: nn.Sequential(*stage(3)) for name in short}
    net = Net(forward, **ops, alphas=nn.Parameter(torch.rand(2)))
    fast = toponas_fx.simplify(prepare(net), X.double(), passes=(DetectMixedOps(), Deduplicate(), pass_))
    ties = fast._toponas.sharing.ties
    assert {path[0] for path in ties} == {"c"}
    assert {path[0] for path in ties.values()} == {"a"}
    for chosen in range(2):
        with torch.no_grad():
            fast.alphas.copy_(torch.eye(2)[chosen])
        assert torch.allclose(fast(X.double()), fast.reference(X.double()), rtol=0, atol=1e-8)
