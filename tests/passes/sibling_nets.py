"""Small networks of siblings, and the check that nothing of one is fused: used by the tests of fuse-siblings."""

import copy

import torch
from torch import nn

import toponas_fx
from nets import Net, lines_of, prepare, run
from toponas_fx.passes import FuseSiblings
from toponas_fx.testing import check_keeps

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def edge(size=3, norm=None, **options):
    return nn.Sequential(
        nn.Conv2d(4, 4, size, **{"padding": size // 2, "bias": False} | options), norm or nn.BatchNorm2d(4)
    )


def summed(self, x):
    x = x.tanh()
    return sum(edge(x).sin() * (index + 1) for index, edge in enumerate(self.edges))


def net(*edges, forward=summed, **parts):
    return Net(forward, edges=nn.ModuleList(edges or (edge() for _ in range(2))), **parts)


def check_refuses(module, reason, x=X, prerequisites=()):
    """Nothing is fused in either mode, for the reason given, and the model computes and counts as its user wrote it."""
    check_keeps(FuseSiblings(), module, x, reason, prerequisites)
    original = prepare(module)
    passes = (*prerequisites, FuseSiblings())
    fast = toponas_fx.simplify(copy.deepcopy(original), x.double(), passes=passes)
    for training in (True, True, False):
        assert not lines_of(fast.train(training), "stacked_norm")
        assert_same(fast, original.train(training), x)


def assert_same(fast, original, x=X):
    results = []
    for model in (fast, original):
        torch.manual_seed(3)
        results.append([*run(model, (x.double(),), list(model.parameters())), *model.buffers()])
    for found, expected in zip(*results, strict=True):
        assert (found is None) == (expected is None)
        assert found is None or torch.allclose(found, expected, rtol=1e-10, atol=1e-10)
