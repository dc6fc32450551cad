"""The NAS-Bench-201 supernet of the examples through ``simplify``: counts, one-hot weights, exactness, cost."""

from __future__ import annotations

import copy
import operator
import statistics
import time

import pytest
import torch
from torch import nn

import toponas_fx
from equality import assert_vertex, double
from supernets.nasbench201 import NASBench201Supernet
from toponas_fx.analysis.costs import graph_costs, saved_bytes
from toponas_fx.ops import mixed_sum
from toponas_fx.testing import assert_exact
from toponas_fx.testing.differences import scatter_statistics

EDGES, CANDIDATES = 6, 5
X = (4, 3, 8, 8)


def supernet(**options) -> nn.Module:
    return double(NASBench201Supernet(**{"C": 4, "N": 1, **options}))


def set_vertex(model: nn.Module, edge: int, candidate: int) -> None:
    """Make softmax(alphas) one-hot: the given candidate on the given edge, various ones on the others."""
    chosen = torch.arange(EDGES).mul(2).add(edge).remainder(CANDIDATES)
    chosen[edge] = candidate
    with torch.no_grad():
        model.alphas.fill_(-1e5)
        model.alphas[torch.arange(EDGES), chosen] = 0.0


def test_counts_of_one_cell() -> None:
    stem_and_reductions = dict(convolutions=1 + 2 * 3, norms=1 + 2 * 2 + 1)
    model = NASBench201Supernet(C=4, N=1)
    before = graph_costs(toponas_fx.simplify(model, torch.randn(X), passes=()))
    fast = toponas_fx.simplify(model, torch.randn(X))
    after = graph_costs(fast)
    cells = 3
    assert before.convolutions - stem_and_reductions["convolutions"] == 12 * cells
    assert before.norms - stem_and_reductions["norms"] == 12 * cells
    assert after.convolutions - stem_and_reductions["convolutions"] == 6 * cells
    assert after.norms - stem_and_reductions["norms"] == 6 * cells
    fixed_activations, fixed_poolings = 2 * 2 + 1, 2 + 1
    assert before.activations - fixed_activations == 12 * cells
    assert after.activations - fixed_activations == 3 * cells
    assert before.poolings - fixed_poolings == 6 * cells
    assert after.poolings - fixed_poolings == 6 * cells  # once a source, then anew for each edge, with its weight
    assert not [node for node in fast.graph.nodes if node.target is operator.mul and 0.0 in node.args]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", [{}, {"conv_bias": True, "affine": True}], ids=["plain", "bias-affine"])
@pytest.mark.parametrize("edge", range(EDGES))
def test_every_vertex(edge: int, options: dict[str, bool], training: bool) -> None:
    model = supernet(**options)
    fast = toponas_fx.simplify(model, torch.randn(X).double())
    scatter_statistics(fast)
    fast.train(training)
    for candidate in range(CANDIDATES):
        set_vertex(model, edge, candidate)
        assert_vertex(fast, (torch.randn(X).double(),))


def test_filter_normalization_at_vertices() -> None:
    model = supernet()
    fast = toponas_fx.simplify(model, torch.randn(X).double(), normalize="filter")
    for candidate in range(CANDIDATES):
        set_vertex(model, 2, candidate)
        assert_vertex(fast, (torch.randn(X).double(),))


@pytest.mark.parametrize("alphas", ["parameter", "tensor"])
def test_exact_mode_is_the_original(alphas: str) -> None:
    model = supernet(alphas=alphas, conv_bias=True)
    model.alphas.data.normal_()
    fast = toponas_fx.simplify(model, torch.randn(X).double(), mode="exact")
    assert fast.alphas is model.alphas
    assert_exact(fast, torch.randn(X).double())


def test_eval_equals_reference_for_all_weights() -> None:
    model = supernet()
    model.alphas.data.normal_()
    fast = toponas_fx.simplify(model, torch.randn(X).double())
    scatter_statistics(fast)
    fast.eval()
    assert_vertex(fast, (torch.randn(X).double(),), tolerance=1e-10)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_kernel_scale_does_not_matter(training: bool) -> None:
    model = supernet()
    model.alphas.data.normal_()
    fast = toponas_fx.simplify(model, torch.randn(X).double()).train(training)
    x = torch.randn(X).double()
    before = copy.deepcopy(fast)(x)
    with torch.no_grad():
        for name, kernel in fast.named_parameters():
            if "ops.2" in name and kernel.dim() == 4:
                kernel.mul_(10)
    torch.testing.assert_close(fast(x), before, rtol=1e-9, atol=1e-9)


def test_changed_kernel_changes_the_output() -> None:
    model = supernet()
    fast = toponas_fx.simplify(model, torch.randn(X).double()).eval()
    x = torch.randn(X).double()
    before = fast(x)
    name, kernel = next((n, p) for n, p in model.named_parameters() if "ops.3" in n and p.dim() == 4)
    with torch.no_grad():
        kernel.add_(torch.randn_like(kernel))
    assert (fast(x) - before).abs().max() > 1e-3, name


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_restore_at_every_vertex(training: bool) -> None:
    model = supernet(conv_bias=True)
    fast = toponas_fx.simplify(model, torch.randn(X).double())
    scatter_statistics(fast)
    plain = toponas_fx.restore(fast)
    assert type(plain) is NASBench201Supernet
    assert plain.state_dict().keys() == model.state_dict().keys()
    assert plain.alphas is not model.alphas
    fast.train(training)
    plain.train(training)
    x = torch.randn(X).double()
    for edge in range(EDGES):
        for candidate in range(CANDIDATES):
            set_vertex(model, edge, candidate)
            set_vertex(plain, edge, candidate)
            torch.testing.assert_close(copy.deepcopy(fast)(x), copy.deepcopy(plain)(x), rtol=1e-6, atol=1e-6)


def test_saved_bytes_at_benchmark_size() -> None:
    model = NASBench201Supernet(C=16, N=2)
    x = torch.randn(64, 3, 32, 32)
    fast = toponas_fx.simplify(model, x)
    assert saved_bytes(fast, x) <= 0.50 * saved_bytes(model, x)


@pytest.mark.slow
@pytest.mark.timed
def test_step_time_at_benchmark_size() -> None:
    model = NASBench201Supernet(C=16, N=2)
    x, target = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
    models = [copy.deepcopy(model), toponas_fx.simplify(model, x)]
    times: list[list[float]] = [[], []]
    for _ in range(9):
        for one, spent in zip(models, times, strict=True):
            start = time.perf_counter()
            one._loss(x, target).backward()
            spent.append(time.perf_counter() - start)
    ratio = statistics.median(fast / plain for plain, fast in zip(*(spent[1:] for spent in times), strict=True))
    assert ratio <= 0.70


def test_zero_candidates_are_gone_and_their_weights_still_learn() -> None:
    model = supernet()
    fast = toponas_fx.simplify(model, torch.randn(X).double())
    terms = [len(node.args[0]) for node in fast.graph.nodes if node.target is mixed_sum]
    assert terms == [3, 6, 9] * 3
    (gradient,) = torch.autograd.grad(fast(torch.randn(X).double()).square().sum(), [model.alphas])
    assert (gradient != 0).all()
