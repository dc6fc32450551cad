"""Lower pooling: average poolings become convolutions with a box."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nets import Net
from toponas_fx.passes import LowerPooling
from toponas_fx.testing import check_keeps, check_pass

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def test_rewrites_modules_and_functions():
    net = Net(lambda self, x: F.avg_pool2d(self.pool(x), 2), pool=nn.AvgPool2d(3, 1, 1, count_include_pad=False))
    _, record = check_pass(
        LowerPooling(),
        net,
        X,
        after="""
            %0 = input x
            %1 = avg_pool2d(%0, (3, 3), (1, 1), (1, 1), False)
            %2 = avg_pool2d(%1, (2, 2), (2, 2), (0, 0), True)
            return %2
        """,
    )
    assert [change.sentence for change in record.changes] == [
        f"a {size}x{size} average pooling becomes a convolution with a box" for size in (3, 2)
    ]


@pytest.mark.parametrize("options", [{"ceil_mode": True}, {"divisor_override": 3}], ids=str)
def test_keeps_other_poolings(options):
    assert check_keeps(LowerPooling(), nn.Sequential(nn.AvgPool2d(2, **options), nn.MaxPool2d(2)), X) == []
