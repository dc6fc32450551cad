"""``toponas_fx.testing`` on models that draw their path: several are looked at, in training and in evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from toponas_fx.passes import ShareDrawn, ShareModules
from toponas_fx.testing import assert_exact, assert_one_hot, battery, check_keeps, check_pass, graph_of
from wrong_passes import SkipDrawn, SkipSharedDrawn

X = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))


class Drawn(nn.Module):
    """An edge that takes one of two candidates, mostly the first."""

    def __init__(self) -> None:
        super().__init__()
        kernels = (nn.Conv2d(4, 4, size, padding=size // 2, bias=False) for size in (1, 3))
        self.ops = nn.ModuleList(nn.Sequential(nn.ReLU(), kernel, nn.BatchNorm2d(4)) for kernel in kernels)

    def forward(self, x: Tensor) -> Tensor:
        taken: Tensor = self.ops[int(torch.multinomial(torch.tensor([0.6, 0.4]), 1))](x)
        return taken


@pytest.mark.parametrize("pass_", [SkipDrawn(), SkipSharedDrawn()], ids=lambda pass_: pass_.name)
def test_a_path_that_is_not_drawn_at_first_is_looked_at(pass_: SkipDrawn) -> None:
    with pytest.raises(AssertionError, match=f"{pass_.name} breaks its promise") as caught:
        check_pass(pass_, Drawn(), X)
    assert "`output 0` is off by" in str(caught.value)


def test_what_shares_is_compared_on_several_paths() -> None:
    check_pass(ShareDrawn(), Drawn(), X)
    with pytest.raises(AssertionError, match=r"on the path of seed \d, in training: `output 0` is off by"):
        check_pass(SkipSharedDrawn(), Drawn(), X, prerequisites=(ShareDrawn(),))


def test_whole_models_are_compared_on_several_paths() -> None:
    assert_exact(Drawn(), X)
    assert_one_hot(Drawn(), X, passes=(ShareDrawn(),))
    with pytest.raises(AssertionError, match="it is wrong from 'skip-drawn' on"):
        assert_exact(Drawn(), X, passes=(SkipDrawn(),))
    with pytest.raises(AssertionError, match="it is wrong from 'skip-shared-drawn' on"):
        assert_one_hot(Drawn(), X, passes=(ShareDrawn(), SkipSharedDrawn()))


def test_the_graph_of_evaluation_is_that_of_a_call_in_evaluation() -> None:
    assert "select(" in graph_of(Drawn(), X, training=False)


def test_a_pass_that_merges_candidates_finds_nothing_where_one_is_alive() -> None:
    with pytest.raises(AssertionError, match="share-modules finds nothing to do in this graph"):
        check_pass(ShareModules(), Drawn(), X)
    check_keeps(ShareModules(), Drawn(), X)


def test_a_pass_over_choices_keeps_all_its_promises() -> None:
    findings = list(battery.battery(ShareDrawn(), examples=2, seed=1))
    assert [finding.passed for finding in findings] == [True] * len(findings)
