"""Sharing where memory changes while forward runs: what reads it, or counts in it, is not computed at another time."""

import torch
from torch import nn

from nets import Net
from toponas_fx.passes import DetectMixedOps, FloatModules, ShareModules, SharePrefixes
from toponas_fx.testing import check_pass

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
COUNTED = "something else reads what a norm counts"


def candidate(size):
    return nn.Sequential(nn.Conv2d(4, 4, size, padding=size // 2, bias=False), nn.BatchNorm2d(4))


def mixed(self, x):
    return self.alphas[0] * self.a(x) + self.alphas[1] * self.b(x)


def mixed_with_a_read(self, x):
    a = self.alphas[0] * self.a(x)
    scale = self.a[1].running_var.mean()
    return (a + self.alphas[1] * self.b(x)) * scale


def shared(pass_, forward, a, b, changes=True):
    net = Net(forward, alphas=nn.Parameter(torch.tensor([0.3, 0.7])), a=a, b=b)
    _, record = check_pass(pass_, net, X, prerequisites=(DetectMixedOps(),), changes=changes)
    return record


def test_norms_whose_statistics_forward_reads_are_not_shared():
    shared(ShareModules(), mixed, candidate(1), candidate(3))
    record = shared(ShareModules(), mixed_with_a_read, candidate(1), candidate(3), changes=False)
    assert COUNTED in [refusal.sentence for refusal in record.refusals]


def test_stages_whose_statistics_forward_reads_do_not_float():
    def deep():
        return nn.Sequential(*candidate(3), nn.ReLU(), *candidate(1))

    shared(FloatModules("first"), mixed, candidate(1), deep())
    record = shared(FloatModules("first"), mixed_with_a_read, candidate(1), deep(), changes=False)
    assert COUNTED in [refusal.sentence for refusal in record.refusals]


def test_starts_whose_input_is_written_between_are_not_shared():
    def forward(self, x):
        x = torch.tanh(x)
        a = self.alphas[0] * self.a(x)
        x.data.mul_(0.5)
        return a + self.alphas[1] * self.b(x)

    def start(end):
        return nn.Sequential(nn.Conv2d(4, 4, 1), end)

    shared(SharePrefixes(), mixed, start(nn.ReLU()), start(nn.Tanh()))
    record = shared(SharePrefixes(), forward, start(nn.ReLU()), start(nn.Tanh()), changes=False)
    assert "what a module reads is written in place before" in str(record.refusals)


def test_ends_whose_input_is_written_before_the_sum_are_not_shared():
    def forward(self, x):
        x = torch.tanh(x)
        a, b = self.a(x), self.b(x)
        x.data.mul_(0.5)
        return self.alphas[0] * a + self.alphas[1] * b

    end = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
    shared(ShareModules(), mixed, nn.ReLU(), end)
    record = shared(ShareModules(), forward, nn.ReLU(), end, changes=False)
    assert "what a module reads is written in place before" in str(record.refusals)
