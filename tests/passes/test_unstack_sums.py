"""Unstack sums: a weighted reduction over stacked candidates becomes products and additions."""

import pytest
import torch
from torch import nn

from nets import Net, lines_of
from toponas_fx.passes import DetectMixedOps, UnstackSums
from toponas_fx.testing import check_keeps, check_pass

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
OPS = (torch.relu, torch.tanh, torch.sigmoid)


def terms(x):
    return [op(x) for op in OPS]


def split_view(x, w):
    n, c, h, v = x.shape
    return (torch.cat(terms(x), 1).view(n, 3, c, h, v) * w.view(1, 3, 1, 1, 1)).sum(1)


def reshaped_batch(x, w):
    return (torch.cat(terms(x)).reshape((3, *x.shape)) * w[:, None, None, None, None]).sum(dim=0)


def expanded(x, w):
    return (w.view(3, 1, 1, 1, 1).expand(-1, *x.shape) * torch.stack(terms(x))).sum((0,))


WAYS = {
    "view": lambda x, w: (torch.stack(terms(x)) * w.view(-1, 1, 1, 1, 1)).sum(0),
    "none": lambda x, w: torch.sum(w[None, :, None, None, None] * torch.stack(terms(x), 1), dim=1),
    "unsqueeze": lambda x, w: torch.stack(terms(x)).mul(w.unsqueeze(-1).unsqueeze(-1)[..., None, None]).sum(-5),
    "last": lambda x, w: (torch.stack(terms(x), dim=-1) * w).sum(-1),
    "mean": lambda x, w: (torch.stack(terms(x)) * w.view(-1, 1, 1, 1, 1)).mean(0),
    "twice": lambda x, w: (torch.stack(terms(x), -1) * w * w.exp()).sum(-1),
    "sliced": lambda x, w: (torch.stack(terms(x)) * torch.stack([w, w])[1:].view(3, 1, 1, 1, 1)).sum(0),
    "einsum": lambda x, w: torch.einsum("n,nbchw->bchw", w, torch.stack(terms(x))),
    "einsum of a list": lambda x, w: torch.einsum("b n c h w, n -> b c h w", [torch.stack(terms(x), 1), w]),
    "einsum with dots": lambda x, w: torch.einsum("...n,n->...", torch.stack(terms(x), -1), w),
    "einsum between dots": lambda x, w: torch.einsum("n,b...nw->b...w", w, torch.stack(terms(x), 3)),
    "tensordot": lambda x, w: torch.tensordot(w, torch.stack(terms(x)), dims=1),
    "tensordot of axes": lambda x, w: torch.tensordot(torch.stack(terms(x), 2), w, dims=([2], [0])),
    "matmul": lambda x, w: torch.stack(terms(x), -1) @ w,
    "cat": split_view,
    "cat of batches": reshaped_batch,
    "expand": expanded,
    "weighted before": lambda x, w: torch.stack([v * t for v, t in zip(w, terms(x), strict=True)]).sum(0),
}


def net(way):
    weights = torch.tensor([0.3, -0.7, 1.1])
    return Net(lambda self, x: way(x, self.alphas.softmax(0)), alphas=nn.Parameter(weights))


@pytest.mark.parametrize("way", WAYS)
def test_rewrites(way):
    fast, record = check_pass(UnstackSums(), net(WAYS[way]), X)
    assert [change.sentence for change in record.changes] == ["a reduction over 3 stacked terms becomes a sum"]
    assert not lines_of(fast, "stack") or way == "sliced"
    assert not lines_of(fast, "cat")


@pytest.mark.parametrize("way", WAYS)
def test_the_sum_is_one_mixture_of_one_row(way):
    fast, _ = check_pass(DetectMixedOps(), net(WAYS[way]), X, prerequisites=(UnstackSums(),))
    (mixed,) = lines_of(fast, "mixed_sum")
    assert mixed.endswith("(0, 0, 0))")


def read_twice(self, x):
    stacked = torch.stack(terms(x))
    return (stacked * self.alphas.view(-1, 1, 1, 1, 1)).sum(0) + stacked.mean()


def written_meanwhile(self, x):
    first = torch.relu(x)
    stacked = torch.stack([first, torch.tanh(x)])
    first.mul_(2)
    return torch.einsum("n,nbchw->bchw", self.alphas[:2], stacked) + first


def half_frozen(self, x):
    stacked = torch.stack(terms(x))
    with torch.no_grad():
        total = torch.einsum("n,nbchw->bchw", self.alphas, stacked)
    return total + x


def promoted(self, x):
    return (torch.stack([t.float() for t in terms(x)]) * self.alphas.view(-1, 1, 1, 1, 1)).sum(0)


REFUSED = {
    "something else reads its stacked terms": read_twice,
    "a term is written in place before the last one is added": written_meanwhile,
    "it reaches across a switch of grad mode": half_frozen,
    "its terms are not f64": promoted,
}


@pytest.mark.parametrize("reason", REFUSED)
def test_keeps(reason):
    check_keeps(UnstackSums(), Net(REFUSED[reason], alphas=nn.Parameter(torch.ones(3))), X, reason)


OTHER = {
    "keepdim": lambda x, w: (torch.stack(terms(x)) * w.view(-1, 1, 1, 1, 1)).sum(0, keepdim=True),
    "another axis": lambda x, w: (torch.stack(terms(x)) * w.view(-1, 1, 1, 1, 1)).sum(1),
    "all axes": lambda x, w: torch.stack(terms(x)).sum(),
    "a factor that varies within a term": lambda x, w: (torch.stack(terms(x)) * x).sum(0),
    "two axes summed": lambda x, w: torch.einsum("n,nbchw->bch", w, torch.stack(terms(x))),
    "axes in another order": lambda x, w: torch.einsum("n,nbchw->cbhw", w, torch.stack(terms(x))),
    "several sums": lambda x, w: torch.einsum("mn,nbchw->mbchw", torch.stack([w, w]), torch.stack(terms(x))),
    "a view that mixes": lambda x, w: (torch.cat(terms(x), 1).view(3, -1, 6, 6) * w.view(3, 1, 1, 1)).sum(0),
    "a view of another split": lambda x, w: torch.cat(terms(x), 1).view(3, 4, 3, 6, 6).sum(2),
    "weights of each image": lambda x, w: (torch.stack(terms(x)) * x.mean((1, 2, 3)).view(1, -1, 1, 1, 1)).sum(0),
}


@pytest.mark.parametrize("way", OTHER)
def test_keeps_what_is_no_weighted_sum(way):
    assert check_keeps(UnstackSums(), net(OTHER[way]), X) == []
