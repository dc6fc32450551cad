"""Lower depthwise: depthwise convolutions get a backward pass of their own."""

import torch
from torch import nn
from torch.nn import functional as F

from nets import Net
from toponas_fx.passes import LowerDepthwise
from toponas_fx.testing import check_keeps, check_pass

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def test_rewrites_modules_and_functions():
    net = Net(
        lambda self, x: F.conv2d(self.first(x), self.kernel, None, (2, 2), 2, 1, 4),
        first=nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
        kernel=nn.Parameter(torch.ones(4, 1, 5, 5)),
    )
    _, record = check_pass(
        LowerDepthwise(),
        net,
        X,
        after="""
            %0 = input x
            %1 = attr first.weight
            %2 = attr first.bias
            %3 = depthwise_conv2d(%0, %1, %2, (1, 1), (2, 2), (2, 2))
            %4 = attr kernel
            %5 = attr kernel
            %6 = depthwise_conv2d(%3, %5, None, (2, 2), (2, 2), (1, 1))
            return %6
        """,
    )
    assert [change.sentence for change in record.changes] == [
        f"a depthwise {size}x{size} convolution gets a backward pass of its own" for size in (3, 5)
    ]


def test_keeps_what_is_not_depthwise():
    net = nn.Sequential(nn.Conv2d(4, 8, 1, groups=4), nn.Conv2d(8, 4, 1, groups=2), nn.Conv2d(4, 4, 1))
    assert check_keeps(LowerDepthwise(), net, X) == []
    assert check_keeps(LowerDepthwise(), nn.Conv1d(4, 4, 3, groups=4), X[..., 0]) == []
