"""Fold weights: norms and kernels carry the weights of terms."""

import copy

import pytest
import torch
from torch import nn

import toponas_fx
from benchmarks.steps import CallCounter
from nets import Edge, Net, lines_of, prepare
from toponas_fx import ops
from toponas_fx.analysis.costs import saved_bytes
from toponas_fx.passes import Deduplicate, DetectMixedOps, FoldWeights
from toponas_fx.testing import check_keeps, check_pass

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
FIRST = (DetectMixedOps(),)


def norm(**options):
    return nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4, **options))


def test_rewrites_a_norm_and_a_kernel():
    _, record = check_pass(
        FoldWeights(),
        Edge(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Tanh()),
        X,
        after="""
            %0 = input x
            %1 = attr alphas
            %2 = .unbind(%1, 0)
            %3 = getitem(%2, 0)
            %4 = getitem(%2, 1)
            %5 = getitem(%2, 2)
            %6 = Tanh[ops.2](%0)
            %7 = attr ops.0
            %8 = scaled_norm(%0, %7, %3)
            %9 = attr ops.1.weight
            %10 = mul(%9, %4)
            %11 = attr ops.1.bias
            %12 = mul(%11, %4)
            %13 = conv2d(%0, %10, %12, (1, 1), (0, 0), (1, 1), 1)
            %14 = mixed_sum([%8, %13, %6], [1.0, 1.0, %5], (0, 0, 0))
            return %14
        """,
        prerequisites=FIRST,
    )
    assert [change.sentence for change in record.changes] == [
        "the weight of `ops.0` is folded in",
        "the weight of `ops.1` is folded in",
    ]


NORMS = {
    "affine": norm(),
    "plain": norm(affine=False),
    "without statistics": norm(track_running_stats=False),
    "cumulative": norm(momentum=None),
    "group": nn.Sequential(nn.ReLU(), nn.GroupNorm(2, 4)),
    "group, plain": nn.Sequential(nn.ReLU(), nn.GroupNorm(2, 4, affine=False)),
}


@pytest.mark.parametrize("kind", NORMS)
def test_norms_compute_and_count_as_before(kind):
    original = prepare(Edge(NORMS[kind], nn.Tanh()))
    fast = toponas_fx.simplify(copy.deepcopy(original), X.double(), passes=(*FIRST, FoldWeights()))
    assert len(lines_of(fast.train(), "scaled_norm")) == 1
    for _ in range(3):
        assert torch.allclose(fast(X.double()), original(X.double()), rtol=1e-12, atol=1e-12)
    for training in (False, True):
        fast.train(training)
        original.train(training)
        outputs = [model(X.double() * 2) for model in (fast, original)]
        gradients = [
            torch.autograd.grad(output.square().sum(), list(model.parameters()))
            for output, model in zip(outputs, (fast, original), strict=True)
        ]
        for left, right in zip((outputs[0], *gradients[0]), (outputs[1], *gradients[1]), strict=True):
            assert torch.allclose(left, right, rtol=1e-10, atol=1e-10)
    for left, right in zip(fast.buffers(), original.buffers(), strict=True):
        assert torch.allclose(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", NORMS)
def test_images_in_channels_last_layout_have_the_same_gradient(kind):
    x, grad = (torch.randn(3, 4, 6, 6).double().to(memory_format=torch.channels_last) for _ in range(2))
    module, scale = NORMS[kind].double(), torch.tensor(1.5).double().requires_grad_()
    module = next(part for part in module.modules() if not isinstance(part, nn.Sequential | nn.ReLU))
    found, expected = (
        torch.autograd.grad(output, [x, scale], grad)
        for output in (ops.scaled_norm(x.requires_grad_(), module, scale), scale * module(x))
    )
    for left, right in zip(found, expected, strict=True):
        assert torch.allclose(left, right, rtol=1e-10, atol=1e-10)


def test_one_tensor_less_is_kept_for_each_term():
    model = Edge(norm(), norm(), nn.Tanh())
    folded, plain = (toponas_fx.simplify(model, X, passes=(*FIRST, *more)) for more in ((FoldWeights(),), ()))
    saved = [saved_bytes(fast.train(), X, exclude=[*fast.parameters(), *fast.buffers()]) for fast in (folded, plain)]
    images = (saved[1] - saved[0]) / (X.numel() * X.element_size())
    assert 1.9 < images < 2.1


def calls_of(run) -> int:
    """Return how many operations of torch a forward and a backward pass take."""
    with CallCounter() as counting:
        run().sum().backward()
    return counting.calls


@pytest.mark.parametrize("kind", NORMS)
def test_a_small_norm_takes_no_more_calls_than_a_product_and_computes_the_same(kind, monkeypatch):
    monkeypatch.setattr("toponas_fx.ops.custom_autograd.SMALL", X.numel() + 1)
    x, scale = X.double().requires_grad_(), torch.tensor(1.5).double().requires_grad_()
    module, twin = (next(p for p in copy.deepcopy(NORMS[kind]).double().modules() if hasattr(p, "eps")) for _ in "12")
    found, expected = ops.scaled_norm(x, module, scale), scale * twin(x)
    parameters = [[x, scale, *part.parameters()] for part in (module, twin)]
    pairs = zip(
        (found, *torch.autograd.grad(found.square().sum(), parameters[0]), *module.buffers()),
        (expected, *torch.autograd.grad(expected.square().sum(), parameters[1]), *twin.buffers()),
        strict=True,
    )
    assert all(torch.allclose(left, right, rtol=1e-12, atol=1e-12) for left, right in pairs)
    if list(module.parameters()):
        assert calls_of(lambda: ops.scaled_norm(x, module, scale)) <= calls_of(lambda: scale * module(x))


def read_twice(self, x):
    term = self.norm(x)
    return self.alphas[0] * term + self.alphas[1] * x + term.mean()


def written_meanwhile(self, x):
    value = x.tanh()
    term = self.norm(value)
    value.mul_(2)
    return self.alphas[0] * term + self.alphas[1] * value


REFUSED = {
    "something else reads the term, without the weight": read_twice,
    "what the term reads is written in place before the sum": written_meanwhile,
}


@pytest.mark.parametrize("reason", REFUSED)
def test_keeps(reason):
    net = Net(REFUSED[reason], alphas=nn.Parameter(torch.ones(2)), norm=nn.BatchNorm2d(4))
    check_keeps(FoldWeights(), net, X, reason, prerequisites=FIRST)


def test_keeps_other_norms_and_plain_numbers():
    net = Edge(nn.LayerNorm(6), nn.InstanceNorm2d(4), nn.Tanh())
    assert check_keeps(FoldWeights(), net, X, prerequisites=FIRST) == []
    net = Net(lambda self, x: 2.0 * self.norm(x) + self.alphas[0] * x + self.alphas[1] * x.tanh())
    net.alphas, net.norm = nn.Parameter(torch.ones(2)), nn.BatchNorm2d(4)
    assert check_keeps(FoldWeights(), net, X, prerequisites=FIRST) == []


def test_keeps_norms_with_hooks():
    net = Edge(nn.BatchNorm2d(4), nn.Tanh())
    net.ops[0].register_forward_hook(lambda module, inputs, output: output * 2)
    assert check_keeps(FoldWeights(), net, X, prerequisites=FIRST) == []


def test_keeps_the_order_in_which_a_norm_counts():
    def forward(self, x):
        first = self.norm(x)
        second = self.alphas[0] * self.norm(x.tanh() + 1)
        return second + self.alphas[1] * first

    original = prepare(Net(forward, alphas=nn.Parameter(torch.ones(2)), norm=nn.BatchNorm2d(4)))
    fast = toponas_fx.simplify(copy.deepcopy(original), X.double(), passes=(*FIRST, FoldWeights())).train()
    assert len(lines_of(fast, "scaled_norm")) == 1
    assert "the norm runs again before the sum" in str(fast.report.records[-1].refusals)
    fast(X.double()), original(X.double())
    for left, right in zip(fast.buffers(), original.buffers(), strict=True):
        assert torch.allclose(left, right, rtol=1e-12, atol=1e-12)


POOLS = {
    "module": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "counts padding": nn.AvgPool2d((3, 2), padding=1),
    "strided": nn.AvgPool2d(2),
}


@pytest.mark.parametrize("kind", POOLS)
def test_an_average_pooling_carries_each_of_its_weights(kind):
    def two_sums(self, x):
        pooled, other = self.pool(x), self.pool(x.tanh())
        first = self.alphas[0] * pooled + self.alphas[1] * other
        return first, self.alphas[1] * pooled + self.alphas[0] * other.relu()

    net = Net(two_sums, alphas=nn.Parameter(torch.tensor([0.3, -0.7])), pool=POOLS[kind])
    fast = toponas_fx.simplify(prepare(net), X.double(), passes=(*FIRST, Deduplicate()))
    expected = [value.clone() for value in fast(X.double())]
    before = torch.autograd.grad(sum(value.square().sum() for value in fast(X.double())), fast.alphas)[0]
    fast = toponas_fx.simplify(prepare(net), X.double(), passes=(*FIRST, Deduplicate(), FoldWeights())).train()
    assert len(lines_of(fast, "scaled_avg_pool2d")) == 3, "relu lies between a pooling and the fourth term"
    for left, right in zip(fast(X.double()), expected, strict=True):
        assert torch.allclose(left, right, rtol=1e-12, atol=1e-12)
    after = torch.autograd.grad(sum(value.square().sum() for value in fast(X.double())), fast.alphas)[0]
    assert torch.allclose(before, after, rtol=1e-10)


def test_keeps_poolings_that_round_up_or_divide_by_a_number():
    net = Edge(nn.AvgPool2d(2, ceil_mode=True), nn.AvgPool2d(2, divisor_override=3))
    assert check_keeps(FoldWeights(), net, X, prerequisites=FIRST) == []


def test_keeps_a_term_that_stands_twice_in_a_sum():
    def forward(self, x):
        h = self.norm(x)
        return self.alphas[0] * h + self.alphas[1] * h + self.alphas[2] * torch.tanh(x)

    net = Net(forward, alphas=nn.Parameter(torch.rand(3)), norm=nn.BatchNorm2d(4))
    check_keeps(FoldWeights(), net, X, "something else reads the term, without the weight", prerequisites=FIRST)
