"""Deduplicate: equal pure values are computed once; nothing else is."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import toponas_fx
from nets import Net
from toponas_fx.passes import Deduplicate
from toponas_fx.testing import check_keeps, check_pass
from toponas_fx.testing.rewrites import text_of

X = torch.linspace(-2, 2, 2 * 4 * 6 * 6).view(2, 4, 6, 6)
UNLIKE = "draws at random, writes in place or has effects"


def both(self, x):
    return torch.cat([self.a(x), self.b(x)])


def test_rewrites_two_relus_into_one():
    _, record = check_pass(
        Deduplicate(),
        Net(both, a=nn.ReLU(), b=nn.ReLU()),
        X,
        before="""
            %0 = input x
            %1 = ReLU[a](%0)
            %2 = ReLU[b](%0)
            %3 = cat([%1, %2])
            return %3
        """,
        after="""
            %0 = input x
            %1 = ReLU[a](%0)
            %2 = cat([%1, %1])
            return %2
        """,
    )
    assert [change.sentence for change in record.changes] == ["ReLU computed once instead of 2 times"]


EQUAL = {
    "max pool": (nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 1, 1)),
    "average pool": (nn.AvgPool2d([3, 3], 1, [1, 1]), nn.AvgPool2d((3, 3), 1, (1, 1))),
    "norm without state": (
        nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        nn.BatchNorm2d(4, affine=False, track_running_stats=False),
    ),
}


@pytest.mark.parametrize("modules", EQUAL.values(), ids=EQUAL)
def test_merges_equal_modules(modules):
    fast, _ = check_pass(Deduplicate(), Net(both, a=modules[0], b=modules[1]), X)
    assert "[b]" not in text_of(fast)


def test_merges_whole_chains_of_equal_values_in_one_round():
    def forward(self, x):
        branches = [torch.tanh(F.relu(x[0]) * self.w[1] * 2.0) for _ in range(3)]
        return torch.cat(branches)

    net = Net(forward, w=nn.Parameter(torch.rand(2)))
    fast, record = check_pass(Deduplicate(), net, X)
    assert text_of(fast).count("tanh") == 1
    plan = Deduplicate().plan(toponas_fx.simplify(net, X, passes=()))
    assert len(plan.matches) == len(record.changes) == 6


def test_merges_across_edges():
    def forward(self, x):
        one = self.alphas[0, 0] * self.a(x) + self.alphas[0, 1] * torch.tanh(x)
        return one + self.alphas[1, 0] * self.b(x) + self.alphas[1, 1] * torch.tanh(one)

    net = Net(forward, a=nn.ReLU(), b=nn.ReLU(), alphas=nn.Parameter(torch.rand(2, 2)))
    fast, _ = check_pass(Deduplicate(), net, X)
    assert "[b]" not in text_of(fast)


def test_merges_two_calls_of_one_module_with_parameters():
    def forward(self, x):
        return torch.cat([self.conv(x), self.conv(x).tanh()])

    fast, _ = check_pass(Deduplicate(), Net(forward, conv=nn.Conv2d(4, 4, 3)), X)
    assert text_of(fast).count("Conv2d") == 1


def test_merges_dropouts_in_evaluation_only():
    fast, record = check_pass(Deduplicate(), Net(both, a=nn.Dropout(0.5), b=nn.Dropout(0.5)), X, changes=False)
    assert text_of(fast.train()).count("Dropout") == 2
    assert text_of(fast.eval()).count("Dropout") == 1
    assert [refusal.sentence for refusal in record.refusals] == [f"it {UNLIKE}"]


UNEQUAL = {
    "kernel size": (nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(5, 1, 2)),
    "kernel size as a list": (nn.AvgPool2d([3, 3], 1, [1, 1]), nn.AvgPool2d([5, 5], 1, [2, 2])),
    "option": (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
    "class": (nn.ReLU(), nn.ReLU6()),
    "parameters": (nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)),
    "slopes": (nn.PReLU(), nn.PReLU()),
}


@pytest.mark.parametrize("modules", UNEQUAL.values(), ids=UNEQUAL)
def test_keeps_differently_stated_modules(modules):
    net = Net(both, a=modules[0], b=modules[1])
    assert check_keeps(Deduplicate(), net, X) == []
    for module in modules:
        module.eval()
    assert check_keeps(Deduplicate(), net, X) == []


def pooled():
    return nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(4, affine=False))


def test_counts_equal_norms_once_and_writes_their_statistics_together():
    net = Net(both, a=pooled(), b=pooled()).double()
    fast = toponas_fx.simplify(copy.deepcopy(net), X.double(), passes=(Deduplicate(),))
    assert text_of(fast.train()).count("BatchNorm2d") == 1
    for _ in range(3):
        torch.testing.assert_close(fast(X.double()), net(X.double()), rtol=1e-12, atol=1e-12)
    for (name, buffer), (_, expected) in zip(fast.named_buffers(), net.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-12, atol=1e-12, msg=name)
    assert fast.a[1] is not fast.b[1]


def test_keeps_norms_with_unequal_statistics():
    net = Net(both, a=nn.BatchNorm2d(4, affine=False), b=nn.BatchNorm2d(4, affine=False))
    check_keeps(Deduplicate(), net, X, "their running statistics differ")


def test_keeps_norms_that_average_over_all_batches():
    net = Net(both, a=nn.BatchNorm2d(4, affine=False, momentum=None), b=nn.BatchNorm2d(4, affine=False, momentum=None))
    fast = toponas_fx.simplify(net.double(), X.double(), passes=(Deduplicate(),))
    assert text_of(fast.train()).count("BatchNorm2d") == 2
    assert "their statistics are means over all batches" in str(fast.report)


def test_each_norm_counts_its_own_batches():
    net = Net(both, a=nn.BatchNorm2d(4, affine=False), b=nn.BatchNorm2d(4, affine=False)).double()
    for module, count in ((net.a, 7), (net.b, 11)):
        module.reset_running_stats()
        module.num_batches_tracked.fill_(count)
    fast = toponas_fx.simplify(net, X.double(), passes=(Deduplicate(),))
    assert text_of(fast.train()).count("BatchNorm2d") == 1
    fast(X.double())
    assert [int(norm.num_batches_tracked) for norm in (fast.a, fast.b)] == [8, 12]


RANDOM = {
    "dropout": (nn.Dropout(0.5), nn.Dropout(0.5)),
    "dropout 2d": (nn.Dropout2d(0.5), nn.Dropout2d(0.5)),
    "alpha dropout": (nn.AlphaDropout(0.5), nn.AlphaDropout(0.5)),
    "randomized relu": (nn.RReLU(), nn.RReLU()),
    "fractional pool": (nn.FractionalMaxPool2d(2, output_size=3), nn.FractionalMaxPool2d(2, output_size=3)),
}


@pytest.mark.parametrize("modules", RANDOM.values(), ids=RANDOM)
def test_keeps_random_modules(modules):
    check_keeps(Deduplicate(), Net(both, a=modules[0], b=modules[1]), X, UNLIKE)


RANDOM_FUNCTIONS = {
    "rand": lambda x: x * torch.rand(2, 4, 6, 6),
    "randn_like": lambda x: x + torch.randn_like(x),
    "bernoulli": lambda x: torch.bernoulli(torch.sigmoid(x)),
    "bernoulli method": lambda x: torch.sigmoid(x).bernoulli(),
    "dropout": lambda x: F.dropout(x, 0.5, True),
    "dropout2d": lambda x: F.dropout2d(x, 0.5, True),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "gumbel": lambda x: F.gumbel_softmax(x, dim=1),
    "exponential": lambda x: x * torch.empty_like(x).exponential_(),
    "fractional pool": lambda x: F.fractional_max_pool2d(x, 2, 4),
}


@pytest.mark.parametrize("function", RANDOM_FUNCTIONS.values(), ids=RANDOM_FUNCTIONS)
def test_keeps_random_functions(function):
    def forward(self, x):
        return torch.cat([function(x), function(x)])

    is_of_equals = "bernoulli" in text_of(toponas_fx.simplify(Net(forward), X, passes=()))  # which have equal inputs
    fast, _ = check_pass(Deduplicate(), Net(forward), X, changes=is_of_equals)
    first, second = torch.chunk(fast(X.double()), 2)
    assert not torch.equal(first, second)


def test_keeps_modules_in_place():
    def forward(self, x):
        hidden = torch.neg(x)
        return torch.cat([self.a(hidden[:1]), self.b(hidden[:1])])

    assert check_keeps(Deduplicate(), Net(both, a=nn.ReLU(inplace=True), b=nn.ReLU(inplace=True)), X) == []
    reasons = check_keeps(Deduplicate(), Net(forward, a=nn.ReLU(inplace=True), b=nn.ReLU(inplace=True)), X)
    assert reasons == ["its memory, or what it reads, is written in place"]


def test_keeps_a_training_norm_that_is_called_twice():
    def forward(self, x):
        return torch.cat([self.norm(x), self.norm(x)])

    net = Net(forward, norm=nn.BatchNorm2d(4))
    fast, _ = check_pass(Deduplicate(), net, X, changes=False)
    assert text_of(fast.train()).count("BatchNorm2d") == 2
    assert text_of(fast.eval()).count("BatchNorm2d") == 1


@pytest.mark.parametrize("hooked", ["a", "b"])
def test_keeps_modules_with_hooks(hooked):
    net = Net(both, a=nn.ReLU(), b=nn.ReLU())
    getattr(net, hooked).register_forward_hook(lambda module, inputs, output: output * 2)
    check_keeps(Deduplicate(), net, X, UNLIKE)


def test_keeps_values_that_are_written_in_place():
    def forward(self, x):
        one, two = torch.neg(x), torch.neg(x)
        return torch.cat([one.add_(1), two])

    fast, record = check_pass(Deduplicate(), Net(forward), X, changes=False)
    assert [refusal.sentence for refusal in record.refusals] == ["its memory, or what it reads, is written in place"]
    assert text_of(fast).count("neg(") == 2


def test_keeps_values_whose_input_is_written_in_place_between():
    def forward(self, x):
        hidden = torch.neg(x)
        before = torch.sign(hidden)
        hidden.add_(1)
        return torch.cat([before, torch.sign(hidden), hidden])

    def through_a_view(self, x):
        hidden = torch.neg(x)
        before = hidden.sum()
        hidden[0].zero_()
        return x * before + hidden.sum()

    assert check_keeps(Deduplicate(), Net(forward), X) == []
    check_keeps(Deduplicate(), Net(through_a_view), X, "its memory, or what it reads, is written in place")
    check_pass(Deduplicate(), Net(through_a_view), X, changes=False)


def test_keeps_values_of_unlike_grad_mode():
    def forward(self, x):
        with torch.no_grad():
            constant = torch.tanh(x)
        return constant * torch.tanh(x)

    check_keeps(Deduplicate(), Net(forward), X)


@pytest.mark.parametrize(("one", "two"), [(1, 1.0), (True, 1), (0.0, -0.0), (2, 3)])
def test_keeps_unlike_numbers(one, two):
    def forward(self, x):
        return torch.cat([torch.full_like(x, one) * x, torch.full_like(x, two) * x])

    assert check_keeps(Deduplicate(), Net(forward), X) == []
