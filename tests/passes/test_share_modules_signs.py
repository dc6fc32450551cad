"""Share modules under weights of either sign."""

import pytest
import torch
from torch import nn

from nets import Net
from toponas_fx.passes import DetectMixedOps, ShareModules
from toponas_fx.testing import check_pass


@pytest.mark.parametrize("factor", [2.0, -2.0])
def test_a_factor_on_the_whole_mixture_may_be_negative(factor):
    """``-2 norm(u)`` is not ``2 norm(-u)`` where the norm has a bias."""

    def forward(self, x):
        mixed = sum(w * op(x) for w, op in zip(self.alphas, self.edge, strict=True))
        return self.factor * mixed + x

    edge = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 2 * k + 1, padding=k), nn.BatchNorm2d(4)) for k in range(2))
    for part in edge:
        nn.init.normal_(part[1].bias)
    net = Net(forward, alphas=nn.Parameter(torch.rand(2)), factor=torch.tensor(factor), edge=edge)
    _, record = check_pass(ShareModules(), net, torch.randn(2, 4, 5, 5), prerequisites=(DetectMixedOps(),))
    assert record.changes
