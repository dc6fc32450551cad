"""Recompute: which cheap operations keep a recipe instead of their result."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nets import Net
from toponas_fx.passes import ConvertLayout, DetectMixedOps, LowerDepthwise, LowerPooling, Recompute
from toponas_fx.testing import check_keeps, check_pass

FIRST = (DetectMixedOps(), LowerDepthwise(), LowerPooling(), ConvertLayout())
X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def conv(size=1):
    return nn.Conv2d(4, 4, size, padding=size // 2, bias=False)


def cell(self, x):
    x = self.stem(x)
    return self.conv(self.relu(x)) + self.norm(F.max_pool2d(x, 3, 1, 1)) + self.norm2(self.pool(x))


def net(**parts):
    given = {"stem": conv(3), "conv": conv(), "relu": nn.ReLU(), "norm": nn.BatchNorm2d(4), "norm2": nn.BatchNorm2d(4)}
    return Net(cell, **given, pool=nn.AvgPool2d(3, 1, 1, count_include_pad=False), **parts)


def test_activations_and_poolings_of_a_value_that_is_kept():
    _, record = check_pass(
        Recompute(),
        net(),
        X,
        after="""
            %0 = input x
            %1 = Conv2d[stem](%0)
            %2 = relu(%1)
            %3 = Conv2d[conv](%2)
            %4 = max_pool2d(%1, 3, 1, 1, 1, False)
            %5 = BatchNorm2d[norm](%4)
            %6 = add(%3, %5)
            %7 = avg_pool2d(%1, (3, 3), (1, 1), (1, 1), False)
            %8 = BatchNorm2d[norm2](%7)
            %9 = add(%6, %8)
            return %9
        """,
    )
    assert [change.sentence for change in record.changes] == [
        "`relu` is computed again in the backward pass",
        "`max_pool2d` is computed again in the backward pass",
        "`avg_pool2d` is computed again in the backward pass",
    ]


@pytest.mark.parametrize(
    "relu", [nn.ReLU(), F.relu, torch.relu, lambda x: x.relu()], ids=["module", "F", "torch", "method"]
)
@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, stride=2, padding=1, dilation=1, ceil_mode=True),
        lambda x: F.max_pool2d(x, 2, stride=1, dilation=2),
        lambda x: torch.max_pool2d(x, 3, padding=1),
        lambda x: F.avg_pool2d(x, 2, 2),
    ],
    ids=["module", "ceil", "dilated", "torch", "mean"],
)
def test_however_they_are_written(relu, pool):
    def forward(self, x):
        x = self.stem(x)
        return self.conv(self.relu[0](x)).mean() + self.norm(self.pool[0](x)).sin()

    parts = {"stem": conv(3), "conv": conv(), "norm": nn.BatchNorm2d(4)}
    for name, part in (("relu", relu), ("pool", pool)):
        parts[name] = nn.ModuleList([part]) if isinstance(part, nn.Module) else (part,)
    _, record = check_pass(Recompute(), Net(forward, **parts), X)
    assert len(record.changes) == 2


def test_after_lowering_and_in_sums():
    def forward(self, x):
        x = self.stem(x)
        pooled = self.pool(x)
        return self.alphas[0] * x + self.alphas[1] * self.norm(pooled) + self.alphas[2] * self.conv(F.relu(x))

    module = Net(
        forward,
        alphas=nn.Parameter(torch.linspace(0.2, 0.8, 3)),
        **{"stem": conv(3), "conv": conv(), "norm": nn.BatchNorm2d(4), "pool": nn.AvgPool2d(3, 1, 1)},
    )
    _, record = check_pass(
        Recompute(), module, X, prerequisites=(DetectMixedOps(), LowerDepthwise(), LowerPooling(), ConvertLayout())
    )
    assert len(record.changes) == 2


def test_a_chain_of_them():
    def forward(self, x):
        x = self.stem(x)
        return self.conv(F.relu(F.max_pool2d(x, 3, 1, 1))) + self.norm(F.relu(x)) + self.norm2(F.max_pool2d(x, 3, 1, 1))

    _, record = check_pass(Recompute(), Net(forward, **dict(net()._modules)), X)
    assert len(record.changes) == 3  # the ReLU's own input is what one pooling makes, and nothing else keeps that


def test_two_in_a_row_where_both_inputs_are_kept():
    def forward(self, x):
        x = self.stem(x)
        pooled = F.max_pool2d(x, 3, 1, 1)
        return self.conv(F.relu(pooled)) + self.norm(pooled) + self.norm2(x)

    _, record = check_pass(Recompute(), Net(forward, **dict(net()._modules)), X)
    assert len(record.changes) == 2


def keeps(forward, reason, **parts):
    return check_keeps(Recompute(), Net(forward, stem=conv(3), conv=conv(), **parts), X, reason)


def test_refuses_where_nothing_else_keeps_the_input():
    keeps(lambda self, x: self.conv(F.relu(self.stem(x))), "nothing else keeps its input")


def test_refuses_the_callers_memory():
    keeps(lambda self, x: self.conv(F.relu(x)) + self.stem(x), "belongs to the caller")
    keeps(lambda self, x: [self.conv(F.relu(y := self.stem(x))), self.conv(y), y][::2], "belongs to the caller")
    keeps(
        lambda self, x: [self.conv(F.relu(y := self.stem(x))), self.conv(y), y.view(-1)][::2], "belongs to the caller"
    )


def test_refuses_memory_that_is_written():
    def forward(self, x):
        x = self.stem(x)
        a = self.conv(F.relu(x)) + self.stem(x.clone())
        x += 1
        return a + self.stem(x)

    keeps(forward, "written in place")


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.conv(self.relu(y := self.stem(x))) + self.conv(y),
        lambda self, x: self.conv(F.max_pool2d(y := self.stem(x), 3, 1, 1, return_indices=True)[0]) + self.conv(y),
        lambda self, x: self.conv(F.avg_pool2d(y := self.stem(x), 3, 1, 1, divisor_override=2)) + self.conv(y),
        lambda self, x: self.conv(torch.sigmoid(y := self.stem(x))) + self.conv(y),
    ],
    ids=["in place", "indices", "divisor", "others"],
)
def test_leaves_others(forward):
    check_keeps(Recompute(), Net(forward, stem=conv(3), conv=conv(), relu=nn.ReLU(inplace=True)), X)


def test_leaves_modules_with_hooks():
    module = net()
    module.relu.register_forward_hook(lambda *_: None)
    _, record = check_pass(Recompute(), module, X)
    assert not any("relu" in change.sentence for change in record.changes)
