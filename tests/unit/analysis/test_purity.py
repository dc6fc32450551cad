"""Purity: what may be removed when unread and merged when equal, and what may not."""

import operator

import pytest
import torch
from torch import fx, nn
from torch.autograd import Function
from torch.nn import functional as F

import toponas_fx
from toponas_fx import ops
from toponas_fx.analysis.effects import is_hooked, is_pure, is_pure_module
from toponas_fx.passes import Deduplicate

X = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, function, part=None):
        super().__init__()
        self.function = (function,)
        self.part = part

    def forward(self, x):
        return self.function[0](x) if self.part is None else self.part(x)


def captured(function, part=None, training=True):
    gm = toponas_fx.simplify(Net(function, part), X, passes=())
    return gm.train(training)


def called(gm):
    return [node for node in gm.graph.nodes if node.op.startswith("call_")]


PURE = {
    "relu": torch.relu,
    "method": lambda x: x.mean((2, 3)),
    "operator": lambda x: x * 2 + 1,
    "item of a tensor": lambda x: x[:, 1:],
    "convolution": lambda x: F.conv2d(x, torch.ones(4, 4, 1, 1)),
    "pooling": lambda x: F.max_pool2d(x, 3, 1, 1),
    "interpolation": lambda x: F.interpolate(x, scale_factor=2.0),
    "norm without statistics": lambda x: F.batch_norm(x, None, None, training=True),
    "cat": lambda x: torch.cat([x, x]),
    "zeros": lambda x: x * torch.zeros(2, 4, 6, 6),
    "detach": lambda x: x.detach(),
    "softmax": lambda x: F.softmax(x, 1),
    "attribute": lambda x: x.T if x.dim() == 2 else x.mT,
}


@pytest.mark.parametrize("function", PURE.values(), ids=PURE)
def test_plain_functions_are_pure(function):
    gm = captured(function)
    assert called(gm)
    assert all(is_pure(gm, node) for node in called(gm))


RANDOM = {
    "rand": lambda x: torch.rand(2),
    "randn": lambda x: torch.randn(2),
    "randint": lambda x: torch.randint(5, (2,)),
    "randperm": lambda x: torch.randperm(5),
    "rand_like": torch.rand_like,
    "randn_like": torch.randn_like,
    "randint_like": lambda x: torch.randint_like(x, 5),
    "bernoulli": torch.bernoulli,
    "bernoulli method": lambda x: x.bernoulli(),
    "bernoulli in place": lambda x: torch.empty_like(x).bernoulli_(0.5),
    "multinomial": lambda x: torch.multinomial(x[0, 0], 2),
    "normal": lambda x: torch.normal(x, 1.0),
    "normal in place": lambda x: x.new_zeros(3).normal_(),
    "uniform in place": lambda x: x.new_empty(3).uniform_(),
    "exponential in place": lambda x: torch.empty_like(x).exponential_(),
    "poisson": torch.poisson,
    "binomial": lambda x: torch.binomial(x * 0 + 3, x),
    "dropout": lambda x: F.dropout(x, 0.5, True),
    "dropout1d": lambda x: F.dropout1d(x[0], 0.5, True),
    "dropout2d": lambda x: F.dropout2d(x, 0.5, True),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.5, True),
    "feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, 0.5, True),
    "torch.dropout": lambda x: torch.dropout(x, 0.5, True),
    "native_dropout": lambda x: torch.native_dropout(x, 0.5, True)[0],
    "rrelu": lambda x: F.rrelu(x - 0.5, training=True),
    "gumbel_softmax": lambda x: F.gumbel_softmax(x, dim=1),
    "hard gumbel_softmax": lambda x: F.gumbel_softmax(x, dim=1, hard=True),
    "fractional pool": lambda x: F.fractional_max_pool2d(x, 2, 3),
    "fractional pool with indices": lambda x: F.fractional_max_pool2d(x, 2, 3, return_indices=True)[0],
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
    "distribution": lambda x: torch.distributions.Normal(x, 1.0).rsample(),
    "relaxed distribution": lambda x: torch.distributions.RelaxedOneHotCategorical(
        torch.tensor(1.0), x + 0.1
    ).rsample(),
    "gamma": lambda x: torch.distributions.Gamma(x + 1, x + 1, validate_args=False).rsample(),
    "low rank": lambda x: torch.svd_lowrank(x[0, 0], q=2)[1],
}


@pytest.mark.parametrize("function", RANDOM.values(), ids=RANDOM)
def test_what_moves_the_generator_is_not_pure(function):
    state = torch.get_rng_state()
    function(X)
    assert not torch.equal(state, torch.get_rng_state())
    gm = captured(function)
    assert not all(is_pure(gm, node) for node in called(gm))


RANDOM_MODULES = [
    nn.Dropout(0.5),
    nn.Dropout2d(0.5),
    nn.AlphaDropout(0.5),
    nn.FeatureAlphaDropout(0.5),
    nn.RReLU(),
    nn.FractionalMaxPool2d(2, output_size=3),
]


@pytest.mark.parametrize("part", RANDOM_MODULES, ids=lambda part: type(part).__name__)
def test_random_modules_are_not_pure_in_training(part):
    state = torch.get_rng_state()
    part.train()(X - 0.5)
    assert not torch.equal(state, torch.get_rng_state())
    assert not is_pure_module(part)


def test_dropout_is_pure_in_evaluation():
    assert is_pure_module(nn.Dropout(0.5).eval())


NORMS = {
    "batch norm": (nn.BatchNorm2d(4), False, True),
    "batch norm without affine": (nn.BatchNorm2d(4, affine=False), False, True),
    "batch norm without statistics": (nn.BatchNorm2d(4, track_running_stats=False), True, True),
    "cumulative batch norm": (nn.BatchNorm2d(4, momentum=None), False, True),
    "instance norm": (nn.InstanceNorm2d(4), True, True),
    "instance norm with statistics": (nn.InstanceNorm2d(4, track_running_stats=True), False, True),
    "group norm": (nn.GroupNorm(2, 4), True, True),
    "layer norm": (nn.LayerNorm(6), True, True),
}


@pytest.mark.parametrize(("part", "training", "evaluation"), NORMS.values(), ids=NORMS)
def test_norms_are_pure_where_they_count_nothing(part, training, evaluation):
    assert is_pure_module(part.train()) == training
    assert is_pure_module(part.eval()) == evaluation
    buffers = [buffer.clone() for buffer in part.buffers()]
    part.train()(X)
    assert training == all(map(torch.equal, buffers, part.buffers()))


def test_a_functional_norm_that_counts_is_not_pure():
    gm = toponas_fx.simplify(Functional(), X, passes=()).train()
    assert [is_pure(gm, node) for node in called(gm)] == [False]


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x):
        return F.batch_norm(x, self.mean, self.var, training=True)


@pytest.mark.parametrize("part", [nn.ReLU(inplace=True), nn.Hardtanh(inplace=True), nn.SiLU(inplace=True)])
def test_modules_in_place_are_not_pure(part):
    assert not is_pure_module(part)
    assert is_pure_module(type(part)())


IN_PLACE = {
    "method": lambda x: x.neg().relu_(),
    "function": lambda x: torch.relu_(x.neg()),
    "functional": lambda x: F.relu(x.neg(), inplace=True),
    "operator": lambda x: operator.iadd(x.neg(), 1),
    "item": lambda x: operator.setitem(x.neg(), 0, 1.0) or x,
    "out": lambda x: torch.add(x, 1, out=torch.empty(2, 4, 6, 6)),
    "copy": lambda x: torch.empty(2, 4, 6, 6).copy_(x),
}


@pytest.mark.parametrize("function", IN_PLACE.values(), ids=IN_PLACE)
def test_writes_in_place_are_not_pure(function):
    gm = captured(function)
    impure = [node for node in called(gm) if not is_pure(gm, node)]
    assert impure
    assert any(node.meta["mutates"] for node in impure)


class Opaque(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def test_a_user_s_own_functions_are_not_pure():
    gm = captured(lambda x: Opaque.apply(x))
    assert [is_pure(gm, node) for node in called(gm)] == [False]
    graph = fx.Graph()
    node = graph.call_function(captured, (1,))
    assert not is_pure(gm, node)


@pytest.mark.parametrize("target", [ops.guard, torch._C._set_grad_enabled, torch.manual_seed, operator.setitem])
def test_effects_are_not_pure(target):
    node = fx.Graph().call_function(target, ())
    assert not is_pure(captured(torch.relu), node)


@pytest.mark.parametrize("target", [ops.mixed_sum, ops.group_weight, ops.kernel_scale, ops.merge_kernels, operator.mul])
def test_what_rewritten_graphs_call_is_pure(target):
    node = fx.Graph().call_function(target, ())
    assert is_pure(captured(torch.relu), node)


@pytest.mark.parametrize("target", ["requires_grad_", "backward", "bernoulli", "normal_", "add_", "multinomial"])
def test_methods_with_effects_are_not_pure(target):
    node = fx.Graph().call_method(target, ())
    assert not is_pure(captured(torch.relu), node)


def test_inputs_and_outputs_are_not_pure_but_reads_are():
    gm = captured(torch.relu)
    first, *_, last = gm.graph.nodes
    assert not is_pure(gm, first)
    assert not is_pure(gm, last)
    assert is_pure(gm, fx.Graph().get_attr("alphas"))


HOOKS = [
    lambda part: part.register_forward_hook(lambda module, inputs, output: None),
    lambda part: part.register_forward_pre_hook(lambda module, inputs: None),
    lambda part: part.register_full_backward_hook(lambda module, inputs, outputs: None),
    lambda part: part.register_full_backward_pre_hook(lambda module, outputs: None),
]


@pytest.mark.parametrize("hook", HOOKS)
def test_modules_with_hooks_are_not_pure(hook):
    part = nn.ReLU()
    assert not is_hooked(part)
    handle = hook(part)
    assert is_hooked(part)
    assert not is_pure_module(part)
    handle.remove()
    assert is_pure_module(part)


@pytest.mark.parametrize("part", [nn.MultiheadAttention(4, 2), nn.LSTM(4, 4), nn.Embedding(4, 4, max_norm=1.0)])
def test_modules_that_are_not_known_to_be_pure_are_not(part):
    assert not is_pure_module(part)


def test_two_training_dropouts_are_never_merged():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Dropout(0.5), nn.Dropout(0.5)

        def forward(self, x):
            return self.a(x), self.b(x), F.dropout(x, 0.5, self.training), F.dropout(x, 0.5, self.training)

    fast = toponas_fx.simplify(Twice(), X, passes=(Deduplicate(),)).train()
    draws = fast(X)
    assert not any(torch.equal(draws[i], draws[j]) for i in range(4) for j in range(i))
