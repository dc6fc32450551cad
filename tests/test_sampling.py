"""Models that sample their path: recognized, left as written, and hardly slower; those that only look stay compiled."""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from supernets.gdas import GDASSupernet

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_gdas_runs_as_its_user_wrote_it() -> None:
    model = GDASSupernet(C=4, N=1)
    with pytest.warns(UserWarning, match="one sampled path has nothing to merge"):
        fast = toponas_fx.simplify(model, X)
    assert "one sampled path has nothing to merge" in fast.report.details()
    assert "gdas.py:" in fast.report.details()
    assert not fast.report.mixtures
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in model.named_parameters()]
    torch.manual_seed(3)
    found = fast(X)
    torch.manual_seed(3)
    torch.testing.assert_close(found, model(X), rtol=0, atol=0)


def test_a_model_as_written_prints_its_modules_and_why_there_is_no_graph() -> None:
    model = GDASSupernet(C=4, N=1)
    with pytest.warns(UserWarning, match="one sampled path has nothing to merge"):
        fast = toponas_fx.simplify(model, X)
    for mode in (fast.train(), fast.eval()):
        assert repr(mode) in str(mode)
        assert "one sampled path has nothing to merge" in str(mode)


@pytest.mark.slow
@pytest.mark.timed
def test_gdas_costs_no_more_than_it_did() -> None:
    model = GDASSupernet(C=16, N=2)
    x, target = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = toponas_fx.simplify(model, x)
    pairs = []
    for index in range(41):
        spent = []
        for one in (model, fast):
            torch.manual_seed(index)  # the same path for both
            start = time.perf_counter()
            one._loss(x, target).backward()
            spent.append(time.perf_counter() - start)
        pairs.append(spent)
    ratio = statistics.median(after / before for before, after in pairs[1:])
    difference = statistics.median(after - before for before, after in pairs[1:])
    assert ratio <= 1.05 or difference <= 1e-3


class LooksAtDraws(nn.Module):
    """Draws until all is finite, and leaves out weights that are zero: the same path nearly always."""

    def __init__(self) -> None:
        super().__init__()
        self.alphas = nn.Parameter(torch.randn(2))
        self.ops = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1)])

    def forward(self, x: Tensor) -> Any:
        while True:
            weights = torch.softmax(self.alphas - torch.empty_like(self.alphas).exponential_().log(), 0)
            if not weights.isinf().any():
                break
        return sum(w * op(x) for w, op in zip(weights, self.ops, strict=True) if w != 0)


def test_a_path_that_stays_is_compiled() -> None:
    model = LooksAtDraws()
    fast = toponas_fx.simplify(model, X)
    assert len(fast.report.mixtures) == 1
    for seed in range(3):
        torch.manual_seed(seed)
        found = fast(X)
        torch.manual_seed(seed)
        torch.testing.assert_close(found, model(X), rtol=1e-5, atol=1e-5)
    assert not fast._toponas.as_written
