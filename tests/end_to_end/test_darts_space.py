"""The DARTS space and its relatives through ``simplify``: counts, every one-hot architecture, bytes saved."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from equality import assert_vertex, double
from supernets.darts import DARTSSupernet
from supernets.mobile import MobileSupernet
from supernets.pcdarts import PCDARTSSupernet
from toponas_fx.analysis.costs import Costs, graph_costs, saved_bytes
from toponas_fx.passes import DEFAULT_PASSES, FloatModules
from toponas_fx.rewriting.pass_base import Repeat
from toponas_fx.testing import assert_exact
from toponas_fx.testing.differences import scatter_statistics

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SUPERNETS = {
    "darts": lambda: DARTSSupernet(C=4, layers=3, steps=2, multiplier=2, reductions=(1, 2)),
    "pcdarts": lambda: PCDARTSSupernet(C=4, layers=3, steps=2, multiplier=2, reductions=(1, 2)),
    "mobile": lambda: MobileSupernet(C=4, layers=1, sampling="softmax", temperature=1.0),
}


def placed(placement: str) -> tuple[Any, ...]:
    """Return the default passes with another placement of floating modules."""

    def changed(entry: Any) -> Any:
        if isinstance(entry, Repeat):
            return Repeat(*map(changed, entry.passes))
        return dataclasses.replace(entry, placement=placement) if isinstance(entry, FloatModules) else entry

    return tuple(map(changed, DEFAULT_PASSES))


def rows_of(model: nn.Module) -> list[Tensor]:
    """Return each row of architecture weights, as views."""
    return [row for alphas in model.arch_parameters() for row in alphas.data.reshape(-1, alphas.shape[-1])]


def one_hot(model: nn.Module) -> Iterator[None]:
    """Make each candidate of each row the chosen one in turn, with other choices elsewhere in each round."""
    rows = rows_of(model)
    for shift in range(max(map(len, rows))):
        for index, row in enumerate(rows):
            row.fill_(-1e5)
            row[(index + shift) % len(row)] = 0.0
        yield


@pytest.mark.parametrize("placement", ["first", "last"])
@pytest.mark.parametrize("name", SUPERNETS)
def test_every_vertex(name: str, placement: str) -> None:
    model = double(SUPERNETS[name]())
    fast = toponas_fx.simplify(model, X.double(), passes=placed(placement))
    scatter_statistics(fast)
    for _ in one_hot(model):
        for training in (True, False):
            fast.train(training)
            assert_vertex(fast, (X.double(),), architecture=model.arch_parameters())


@pytest.mark.parametrize("name", SUPERNETS)
def test_exact_mode_is_the_original(name: str) -> None:
    assert_exact(SUPERNETS[name](), X)


@pytest.mark.parametrize("name", SUPERNETS)
def test_restore_at_vertices(name: str) -> None:
    model = double(SUPERNETS[name]())
    fast = toponas_fx.simplify(model, X.double())
    scatter_statistics(fast)
    for index, _ in enumerate(one_hot(model)):
        plain = toponas_fx.restore(fast)
        assert type(plain) is type(model)
        training = bool(index % 2)
        expected = copy.deepcopy(fast).train(training)(X.double())
        torch.testing.assert_close(plain.train(training)(X.double()), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["darts", "pcdarts"])
def test_kernel_scale_does_not_matter(name: str) -> None:
    model = double(SUPERNETS[name]())
    for alphas in model.arch_parameters():
        alphas.data.normal_()
    fast = toponas_fx.simplify(model, X.double())
    before = copy.deepcopy(fast)(X.double())
    kernels = [fast.get_parameter(path) for path in fast.meta["sharing"].kernels]
    assert len(kernels) >= 10
    with torch.no_grad():
        for kernel in kernels[::2]:
            kernel.mul_(10)
    torch.testing.assert_close(fast(X.double()), before, rtol=1e-9, atol=1e-9)


def one_edge(layers: int, reductions: tuple[int, ...]) -> tuple[Costs, Costs]:
    """Return the graph costs, before and after, of what one more step adds to a last cell: its edges."""
    found = []
    for steps in (1, 2):
        model = DARTSSupernet(C=4, layers=layers, steps=steps, multiplier=1, reductions=reductions)
        plain = graph_costs(toponas_fx.simplify(model, X, passes=()))
        found.append((plain, graph_costs(toponas_fx.simplify(model, X))))
    (before, after), (more_before, more_after) = found

    def minus(a: Costs, b: Costs) -> Costs:
        return dataclasses.replace(a, **{k: v - getattr(b, k) for k, v in vars(a).items() if v is not None})

    return minus(more_before, before), minus(more_after, after)


def test_counts_of_a_normal_cell() -> None:
    """A second node adds three edges: two from the cell's inputs, one from the first node."""
    before, after = one_edge(1, ())
    assert (before.convolutions, before.norms, before.poolings) == (3 * 12, 3 * 8, 3 * 2)
    assert after.convolutions == 3 * 5
    assert after.norms == 3 * 2 + 2, "pooling and its norms once a source: those of the new source"
    assert after.poolings == 2
    assert after.activations == 3 + 1, "a ReLU between the two stages of each edge, one for the new source"


def test_counts_of_a_reduction_cell() -> None:
    """Of the three new edges two have stride 2 and a factorized reduction as skip, with two convolutions and a norm."""
    before, after = one_edge(1, (0,))
    assert (before.convolutions, before.norms, before.poolings) == (3 * 12 + 2 * 2, 3 * 8 + 2, 3 * 2)
    assert after.convolutions == 3 * 5 + 2 * 2
    assert after.norms == 3 * 2 + 2 + 2
    assert after.poolings == 2


SIZES = {
    "darts": (lambda: DARTSSupernet(C=16, layers=3, reductions=(1, 2)), 0.37),
    "pcdarts": (lambda: PCDARTSSupernet(C=16, layers=3, reductions=(1, 2)), 0.55),
    "mobile": (lambda: MobileSupernet(C=16), 0.60),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_saved_bytes_at_benchmark_size(name: str) -> None:
    make, allowed = SIZES[name]
    model, x = make(), torch.randn(16, 3, 32, 32)
    fast = toponas_fx.simplify(model, x)
    assert saved_bytes(fast, x) <= allowed * saved_bytes(model, x)
