"""Batch kernels: the arithmetic on kernels and weights of all edges at once."""

import pytest
import torch
from torch import nn

import toponas_fx
from equality import assert_vertex
from nets import Net, lines_of, prepare
from toponas_fx import ops
from toponas_fx.ops import batched
from toponas_fx.passes import (
    BatchKernels,
    Deduplicate,
    DetectMixedOps,
    FloatModules,
    MergeKernels,
    NormalizeKernels,
    ShareModules,
)
from toponas_fx.testing import check_keeps, check_pass
from toponas_fx.testing.differences import EXACT

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
FIRST = (DetectMixedOps(), Deduplicate(), ShareModules(), NormalizeKernels(), MergeKernels())


def conv_norm(size, groups=1, bias=False):
    conv = nn.Conv2d(4, 4, size, padding=size // 2, groups=groups, bias=bias)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(4))


def mixed(self, x, weights=None):
    weights = self.alphas if weights is None else weights
    for row, candidates in zip(weights, self.edges, strict=True):
        x = sum(w * op(x) for w, op in zip(row, candidates, strict=True))
    return x


def supernet(edges=3, sizes=(1, 3), forward=mixed, **options):
    made = nn.ModuleList(nn.ModuleList(conv_norm(size, **options) for size in sizes) for _ in range(edges))
    rows = torch.linspace(0.2, 0.9, edges * len(sizes)).view(edges, -1)
    return Net(forward, alphas=nn.Parameter(rows), edges=made)


@pytest.mark.parametrize("options", [{}, {"groups": 4}, {"bias": True}, {"sizes": (1, 3, 5)}], ids=str)
def test_rewrites_all_edges_at_once(options):
    fast, record = check_pass(BatchKernels(), supernet(**options), X, prerequisites=FIRST)
    assert lines_of(fast, "normalize_all") or options.get("bias")  # a scale that a bias reads too stays its own
    assert len(lines_of(fast, "group_all")) == len(lines_of(fast, "merge_all")) == 1
    assert not lines_of(fast, "group_weight")
    assert not lines_of(fast, "merge_kernels")
    assert "3 operations become one `group_all`" in [change.sentence for change in record.changes]


def test_stages_of_several_levels():
    def stages(size):
        return nn.Sequential(*conv_norm(size, 4), *conv_norm(size, 4))

    made = nn.ModuleList(nn.ModuleList([stages(3), stages(5), conv_norm(3, 4)]) for _ in range(2))
    net = Net(mixed, alphas=nn.Parameter(torch.rand(2, 3)), edges=made)
    first = (DetectMixedOps(), Deduplicate(), FloatModules(), ShareModules(), NormalizeKernels(), MergeKernels())
    fast, _ = check_pass(BatchKernels(), net, X, prerequisites=first)
    assert lines_of(fast, "share_all")
    assert not lines_of(fast, "group_shares")
    for chosen in range(3):
        with torch.no_grad():
            net.alphas.copy_(torch.eye(3)[[chosen, (chosen + 1) % 3]])
        model = toponas_fx.simplify(prepare(net), X.double(), passes=(*first, BatchKernels()))
        assert_vertex(model, (X.double(),), architecture=[model.alphas])


def drawn(self, x):
    return mixed(self, x, self.alphas + torch.rand_like(self.alphas))


def drawn_late(self, x):
    for row, candidates in zip(self.alphas, self.edges, strict=True):
        weights = row + torch.rand_like(row)
        x = sum(w * op(x) for w, op in zip(weights, candidates, strict=True))
    return x


def written(self, x):
    table = torch.zeros_like(self.alphas)
    for index, candidates in enumerate(self.edges):
        table[index] = self.alphas[index] * 2
        x = sum(w * op(x) for w, op in zip(table[index], candidates, strict=True))
    return x


def by_data(self, x):
    return mixed(self, x, self.alphas * x.mean())


def frozen_first(self, x):
    found = []
    for index, (row, candidates) in enumerate(zip(self.alphas, self.edges, strict=True)):
        with torch.set_grad_enabled(index > 0):
            found.append(sum(w * op(x) for w, op in zip(row, candidates, strict=True)))
    return torch.cat(found, 1)


WAYS = [(drawn, 3), (drawn_late, 0), (written, 0), (by_data, 0), (frozen_first, 2)]


@pytest.mark.parametrize(("way", "batched"), WAYS)
def test_draws_writes_data_and_grad_modes_stay_in_order(way, batched):
    model = prepare(supernet(forward=way))
    fast = toponas_fx.simplify(model, X.double())
    assert not fast._toponas.as_written
    found = [line.count("[%") for line in lines_of(fast.train(), "group_all")]
    assert found == ([batched] if batched else [])
    plain = toponas_fx.simplify(model, X.double(), passes=FIRST).train()
    results = []
    for each in (fast, plain):
        torch.manual_seed(3)
        results.append(each(X.double()))
    assert torch.allclose(*results, rtol=EXACT, atol=EXACT)


def test_keeps_a_single_edge_and_what_is_not_alike():
    assert check_keeps(BatchKernels(), supernet(1), X, prerequisites=FIRST) == []


@pytest.mark.parametrize("per", ["kernel", "filter"])
def test_batched_kernels_are_those_of_one_edge(per):
    kernels = [torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    kernels.append(torch.zeros(2, 3, 3, 3, dtype=torch.float64, requires_grad=True))
    assert_alike(
        batched.normalize_all(kernels, per), [kernel * ops.kernel_scale(kernel, per) for kernel in kernels], kernels
    )


@pytest.mark.parametrize("values", [(0.3, 0.7), (0.0, 0.0), (-0.4, 0.3), (1.0, 0.0), (1e-13, 0.0)])
def test_batched_weights_are_those_of_one_edge(values):
    rows = [[torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values] for _ in range(3)]
    leaves = [weight for row in rows for weight in row]
    found = [part for total, shares in batched.group_all(rows) for part in (total, *shares)]
    expected = [part for row in rows for total, shares in [ops.group_weight(row)] for part in (total, *shares)]
    assert_alike(found, expected, leaves)
    found = [share for shares in batched.share_all(rows) for share in shares]
    assert_alike(found, [share for row in rows for share in ops.group_shares(row)], leaves)


def test_batched_merging_is_that_of_one_edge():
    kernels = [[torch.randn(2, 3, k, k, dtype=torch.float64, requires_grad=True) for k in (1, 3)] for _ in range(2)]
    weights = [[torch.randn((), dtype=torch.float64, requires_grad=True), 0.5 + i] for i in range(2)]
    places = [(2, 2), (0, 0)], [(1, 1), (2, 2)], (5, 5)
    found = batched.merge_all(kernels, weights, *places)
    expected = [ops.merge_kernels(*pair, *places) for pair in zip(kernels, weights, strict=True)]
    assert_alike(found, expected, [*kernels[0], *kernels[1], weights[0][0], weights[1][0]])


def assert_alike(found, expected, leaves):
    gradients = []
    for values in (found, expected):
        total = sum((value * torch.linspace(1, 2, value.numel()).view(value.shape)).sum() for value in values)
        gradients.append(torch.autograd.grad(total, leaves))
    for left, right in zip((*found, *gradients[0]), (*expected, *gradients[1]), strict=True):
        assert torch.allclose(left, right, rtol=1e-12, atol=1e-12)
