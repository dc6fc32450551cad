"""Fuse siblings: convolutions of one input and their norms become one of each."""

import copy
import pickle

import pytest
import torch
from torch import nn

import toponas_fx
from nets import Edge, Net, lines_of, prepare
from supernets.nasbench201 import NASBench201Supernet
from toponas_fx.analysis.topology import build_topology
from toponas_fx.ops.stacked_norm import stacked_norm
from toponas_fx.passes import (
    DEFAULT_PASSES,
    DetectMixedOps,
    EliminateDeadCode,
    FoldWeights,
    FuseSiblings,
    LowerDepthwise,
)
from toponas_fx.testing import check_pass
from toponas_fx.testing.differences import EXACT

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
FOLDED = (DetectMixedOps(), FoldWeights())


def conv_norm(dims=2, out=4, size=3, bias=False, **options):
    conv = CONVS[dims](4, out, size, padding=size // 2, bias=bias)
    return nn.Sequential(conv, NORMS[dims](out, **options))


def summed(self, x):
    x = x.tanh()
    return sum(edge(x).sin() * (index + 1) for index, edge in enumerate(self.edges))


def net(*edges, forward=summed, **parts):
    return Net(forward, edges=nn.ModuleList(edges or (conv_norm() for _ in range(3))), **parts)


def weighted(options):
    """Return three edges of one weighted norm each, beside the value that they read."""
    return net(*(Edge(conv_norm(**options), nn.Tanh()) for _ in range(3)))


def image(dims, batch=3):
    return torch.randn(batch, 4, *(5,) * dims, generator=torch.Generator().manual_seed(dims))


def test_rewrites_siblings_of_unlike_widths_where_the_first_stands():
    def forward(self, x):
        first = self.edges[0](x).sin()
        return torch.cat([first, self.other(first), self.edges[1](x).sin()], 1)

    _, record = check_pass(
        FuseSiblings(),
        net(conv_norm(bias=True), conv_norm(out=2, bias=True), forward=forward, other=nn.GroupNorm(2, 4)),
        X,
        before="""
            %0 = input x
            %1 = Conv2d[edges.0.0](%0)
            %2 = BatchNorm2d[edges.0.1](%1)
            %3 = .sin(%2)
            %4 = GroupNorm[other](%3)
            %5 = Conv2d[edges.1.0](%0)
            %6 = BatchNorm2d[edges.1.1](%5)
            %7 = .sin(%6)
            %8 = cat([%3, %4, %7], 1)
            return %8
        """,
        after="""
            %0 = input x
            %1 = attr edges.0.0.weight
            %2 = attr edges.1.0.weight
            %3 = cat([%1, %2])
            %4 = attr edges.0.0.bias
            %5 = attr edges.1.0.bias
            %6 = cat([%4, %5])
            %7 = conv2d(%0, %3, %6, (1, 1), (1, 1), (1, 1), 1)
            %8 = attr edges.0.1
            %9 = attr edges.1.1
            %10 = stacked_norm(%7, [%8, %9], [None, None])
            %11 = getitem(%10, 0)
            %12 = getitem(%10, 1)
            %13 = .sin(%11)
            %14 = GroupNorm[other](%13)
            %15 = .sin(%12)
            %16 = cat([%13, %14, %15], 1)
            return %16
        """,
    )
    assert [change.sentence for change in record.changes] == ["2 convolutions of `x` and their norms are fused"]
    assert (record.before.norms, record.after.norms) == (3, 2)


OPTIONS = {
    "plain": {},
    "bias": {"bias": True},
    "not affine": {"affine": False},
    "not tracking": {"track_running_stats": False},
    "not tracking, cumulative": {"track_running_stats": False, "momentum": None},
    "pointwise": {"size": 1},
    "conv1d": {"dims": 1},
    "conv3d": {"dims": 3},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_rewrites_every_kind(kind):
    options = OPTIONS[kind]
    fast, _ = check_pass(FuseSiblings(), net(*(conv_norm(**options) for _ in range(3))), image(options.get("dims", 2)))
    assert len(lines_of(fast, "stacked_norm")) == 1


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("is_scaled", [False, True])
def test_steps_of_training_are_the_same(kind, is_scaled):
    options, dims = OPTIONS[kind], OPTIONS[kind].get("dims", 2)
    original = prepare(weighted(options) if is_scaled else net(*(conv_norm(**options) for _ in range(3))))
    passes = (*(FOLDED if is_scaled else ()), FuseSiblings())
    fast = toponas_fx.simplify(copy.deepcopy(original), image(dims).double(), passes=passes).train()
    assert len(lines_of(fast, "stacked_norm")) == 1
    assert fast.state_dict().keys() == original.state_dict().keys()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (fast, original)]
    for step in range(3):
        for model, optimizer in zip((fast, original), optimizers, strict=True):
            optimizer.zero_grad()
            model(image(dims, batch=3 + step).double()).square().mean().backward()
            optimizer.step()
    assert_same_state(fast, original)
    assert_same_derivatives(fast.train(), original.train(), image(dims).double())
    assert_same_derivatives(fast.eval(), original.eval(), image(dims).double())
    assert_same_state(fast, original)


def test_weights_of_some_norms_only():
    for affine in (True, False):
        edges = [conv_norm(affine=affine) for _ in range(2)]
        fast, _ = check_pass(FuseSiblings(), net(Edge(edges[0], nn.Tanh()), edges[1]), X, prerequisites=FOLDED)
        (arguments,) = lines_of(fast, "stacked_norm")
        assert arguments.endswith(", None])")
        assert "[None," not in arguments


def assert_same_state(fast, original):
    for (name, found), expected in zip(fast.state_dict().items(), original.state_dict().values(), strict=True):
        assert found.dtype == expected.dtype, name
        assert torch.allclose(found, expected, rtol=1e-11, atol=1e-11), name


def assert_same_derivatives(fast, original, x):
    """Outputs, gradients, and the gradients of the gradients' squares."""
    results = []
    for model in (fast, original):
        given = x.clone().requires_grad_()
        leaves = [given, *model.parameters()]
        output = model(given)
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
        first = torch.autograd.grad((output.exp() * weights).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), leaves)
        results.append([output, *first, *second])
    for found, expected in zip(*results, strict=True):
        scale = max(1.0, expected.abs().max().item())
        assert (found - expected).abs().max().item() <= EXACT * scale


def pair():
    torch.manual_seed(0)
    original = prepare(net())
    fast = toponas_fx.simplify(copy.deepcopy(original), X.double(), passes=(FuseSiblings(),)).train()
    return fast, original.train()


def assert_runs_alike(fast, original, dtype=torch.float64, tolerance=1e-11):
    for training in (True, False):
        x = X.to(dtype)
        found, expected = fast.train(training)(x), original.train(training)(x)
        assert found.dtype == dtype
        assert torch.allclose(found, expected, rtol=tolerance, atol=tolerance)
    for found, expected in zip(fast.buffers(), original.buffers(), strict=True):
        assert torch.allclose(found, expected, rtol=tolerance, atol=tolerance)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.mark.parametrize("way", COPIES)
def test_copies_count_for_themselves(way):
    fast, original = pair()
    twin, before = COPIES[way](fast), copy.deepcopy(fast.state_dict())
    assert lines_of(twin.train(), "stacked_norm")
    assert_runs_alike(twin, copy.deepcopy(original))
    for found, expected in zip(fast.state_dict().values(), before.values(), strict=True):
        assert torch.equal(found, expected)
    assert_runs_alike(fast, original)


@pytest.mark.parametrize("assign", [False, True])
def test_a_loaded_checkpoint_is_what_runs(assign):
    fast, original = pair()
    fast(X.double())
    state = {
        name: torch.rand_like(value) if value.dim() else value + 7 for name, value in original.state_dict().items()
    }
    fast.load_state_dict(copy.deepcopy(state), assign=assign)
    original.load_state_dict(state)
    assert_runs_alike(fast, original)
    assert fast.edges[0][1].num_batches_tracked == 8


def test_float_and_double_are_followed():
    fast, original = pair()
    assert_runs_alike(fast.float(), original.float(), torch.float32, 1e-4)
    assert fast.edges[1][1].running_mean.dtype == torch.float32
    assert_runs_alike(fast.double(), original.double(), tolerance=1e-4)


@pytest.mark.parametrize("name", ["eps", "momentum"])
def test_options_that_change_later_are_followed(name):
    for changed in ((0,), (1,), (0, 1, 2)):
        for value in (0.3, None) if name == "momentum" else (0.3,):
            fast, original = pair()
            for model in (fast, original):
                for index in changed:
                    setattr(model.edges[index][1], name, value)
            assert_runs_alike(fast, original)


def test_norms_that_differ_run_one_by_one_with_their_scales():
    norms = [nn.BatchNorm2d(size, eps=size).double() for size in (1, 3)]
    scale = torch.tensor(1.5, dtype=torch.float64)
    found = stacked_norm(X.double(), norms, [None, scale])
    expected = copy.deepcopy(norms[0])(X.double()[:, :1]), copy.deepcopy(norms[1])(X.double()[:, 1:]) * scale
    assert [part.shape[1] for part in found] == [1, 3]
    for part, other in zip(found, expected, strict=True):
        assert torch.allclose(part, other, rtol=1e-12, atol=1e-12)


def test_siblings_of_a_value_that_siblings_make():
    def forward(self, x):
        first, other = self.edges[0](x), self.edges[1](x)
        return self.edges[2](first).sin() + self.edges[3](first).cos() + other.sin()

    fast, record = check_pass(FuseSiblings(), net(*(conv_norm() for _ in range(4)), forward=forward), X)
    assert len(record.changes) == len(lines_of(fast, "stacked_norm")) == 2


def test_weights_are_still_seen_in_the_topology():
    model = weighted({})
    plain = toponas_fx.simplify(model, X, passes=FOLDED).train()
    fast = toponas_fx.simplify(model, X, passes=(*FOLDED, FuseSiblings())).train()
    found, expected = ([edge for *_, edge in build_topology(each).edges(data=True)] for each in (fast, plain))
    weights = [sorted(edge["weight"] for edge in each if edge["kind"] == "candidate") for each in (found, expected)]
    assert weights[0] == weights[1]
    assert {"Conv2d 3x3", "BatchNorm2d"} <= {label for edge in found for label in edge.get("ops", ())}


@pytest.mark.parametrize("follower", [LowerDepthwise(), EliminateDeadCode()], ids=lambda follower: follower.name)
@pytest.mark.parametrize("mode", ["exact", "share"])
def test_a_supernet_of_nasbench201_gives_the_same_numbers(mode, follower):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    model = prepare(NASBench201Supernet(C=4, N=1, affine=True))
    place = DEFAULT_PASSES.index(follower)
    passes = (*DEFAULT_PASSES[:place], FuseSiblings(), *DEFAULT_PASSES[place:])
    fast = toponas_fx.simplify(copy.deepcopy(model), x, mode=mode, passes=passes).train()
    plain = toponas_fx.simplify(copy.deepcopy(model), x, mode=mode).train()
    # in each of three cells two nodes have several edges that leave them: of 3x3, in exact mode of 1x1 kernels too
    assert len(lines_of(fast, "stacked_norm")) == (12 if mode == "exact" else 6)
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in plain.named_parameters()]
    for training in (True, True, False):
        results = []
        for each in (fast.train(training), plain.train(training)):
            output = each(x)
            results.append([output, *torch.autograd.grad(output.square().sum(), list(each.parameters()))])
        for found, expected in zip(*results, strict=True):
            assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert_same_state(fast, plain)
