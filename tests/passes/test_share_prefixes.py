"""Share prefixes: alike modules on one value are tied and run once."""

import torch
from torch import nn

from nets import Edge
from toponas_fx.passes import Deduplicate, DetectMixedOps, SharePrefixes
from toponas_fx.testing import check_keeps, check_pass
from toponas_fx.testing.rewrites import text_of

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
FIRST = (DetectMixedOps(), Deduplicate())


def start(*rest, size=1):
    conv = nn.Conv2d(4, 4, size, padding=size // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(4), *rest)


def test_rewrites_alike_starts_into_one():
    fast, record = check_pass(
        SharePrefixes(),
        Edge(start(nn.Tanh()), start(nn.MaxPool2d(3, 1, 1))),
        X,
        after="""
            %0 = input x
            %1 = attr alphas
            %2 = .unbind(%1, 0)
            %3 = getitem(%2, 0)
            %4 = getitem(%2, 1)
            %5 = ReLU[ops.0.0](%0)
            %6 = Conv2d[ops.0.1](%5)
            %7 = BatchNorm2d[ops.0.2](%6)
            %8 = Tanh[ops.0.3](%7)
            %9 = MaxPool2d[ops.1.3](%7)
            %10 = mixed_sum([%8, %9], [%3, %4], (0, 0))
            return %10
        """,
        prerequisites=FIRST,
    )
    assert fast.meta["sharing"].ties == {"ops.1.1": "ops.0.1", "ops.1.2": "ops.0.2"}
    assert [change.sentence for change in record.changes] == [
        "`ops.0.1` takes the place of `ops.1.1` on the same input",
        "`ops.0.2` takes the place of `ops.1.2` on the same input",
    ]
    assert text_of(fast.eval()).count("BatchNorm2d") == 1


def test_keeps_unlike_starts():
    assert check_keeps(SharePrefixes(), Edge(start(nn.Tanh()), start(nn.ReLU(), size=3)), X, prerequisites=FIRST) == []


def test_keeps_modules_without_tensors_to_deduplicate():
    net = Edge(nn.Sequential(nn.ReLU(), nn.Tanh()), nn.Sequential(nn.ReLU(), nn.Sigmoid()))
    assert check_keeps(SharePrefixes(), net, X, prerequisites=(DetectMixedOps(),)) == []


def test_keeps_modules_that_run_in_several_places():
    twice = nn.Conv2d(4, 4, 1)
    net = Edge(nn.Sequential(twice, nn.Tanh(), twice), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))
    check_keeps(SharePrefixes(), net, X, "runs in several places", prerequisites=FIRST)


def test_keeps_modules_whose_result_is_written_in_place():
    net = Edge(start(nn.ReLU6(inplace=True)), start(nn.ReLU(inplace=True)))
    fast, record = check_pass(SharePrefixes(), net, X, prerequisites=FIRST)
    assert fast.meta["sharing"].ties == {"ops.1.1": "ops.0.1"}, "the convolutions, not the norms"
    assert any("written in place" in refusal.sentence for refusal in record.refusals)
