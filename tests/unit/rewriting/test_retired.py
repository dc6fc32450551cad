"""Models pickled by former versions load: passes that are no more find nothing, operations compute what they did."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import toponas_fx
from toponas_fx.passes import DEFAULT_PASSES
from toponas_fx.rewriting.retired import FoldScales, FuseSiblings, LowerForDevice, Retired, stacked_norm


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()).double()


@pytest.mark.parametrize("kind", [FoldScales, FuseSiblings, LowerForDevice])
def test_a_pickle_with_a_pass_that_is_no_more_loads_and_is_captured_again(kind: type[Retired]) -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    model = net()
    fast: Any = toponas_fx.simplify(copy.deepcopy(model), x)
    fast._toponas.passes = (*DEFAULT_PASSES, kind())
    again = pickle.loads(pickle.dumps(fast))
    assert [type(entry) for entry in again._toponas.passes][-1] is kind
    for side in (6, 8):
        y = torch.randn(2, 3, side, side, dtype=torch.float64)
        torch.testing.assert_close(again(y), model(y))
    assert again._toponas.left_out == []


@pytest.mark.parametrize("is_training", [True, False])
def test_stacked_norms_compute_what_norms_do(is_training: bool) -> None:
    norms = [nn.BatchNorm2d(2).double().train(is_training), nn.BatchNorm2d(3).double().train(is_training)]
    alone = copy.deepcopy(norms)
    x, scale = torch.randn(4, 5, 3, 3, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    first, second = stacked_norm(x, norms, [scale, None])
    torch.testing.assert_close(first, scale * alone[0](x[:, :2]))
    torch.testing.assert_close(second, alone[1](x[:, 2:]))
    for norm, other in zip(norms, alone, strict=True):
        assert all(map(torch.equal, norm.buffers(), other.buffers()))
