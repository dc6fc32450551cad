"""Share drawn: alike modules of the candidates that a choice takes one of are tied, and each call stays in its arm."""

import pytest
import torch
from torch import nn

import toponas_fx
from nets import Net
from toponas_fx.passes import DEFAULT_PASSES, EliminateDeadCode, NormalizeKernels, ShareDrawn

X = torch.randn(4, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Drawn(nn.Module):
    """One edge after another; of each, a step takes one candidate."""

    def __init__(self, *edges):
        super().__init__()
        self.edges = nn.ModuleList(nn.ModuleList(edge) for edge in edges)

    def forward(self, x):
        for edge in self.edges:
            x = edge[int(torch.randint(len(edge), ()))](x)
        return x


def conv(size=1, **options):
    return nn.Conv2d(4, 4, size, padding=options.get("dilation", 1) * (size // 2), bias=False, **options)


def end(size, *rest):
    return nn.Sequential(nn.ReLU(), conv(size), nn.BatchNorm2d(4), *rest)


def separable(size):
    stage = [nn.ReLU(), conv(size, groups=4), conv(), nn.BatchNorm2d(4)]
    again = [nn.ReLU(), conv(size, groups=4), conv(), nn.BatchNorm2d(4)]
    return nn.Sequential(*stage, *again)


def dilated(size):
    return nn.Sequential(nn.ReLU(), conv(size, groups=4, dilation=2), conv(), nn.BatchNorm2d(4))


def shared(*edges, more=()):
    """Return a simplified model and what it ties."""
    fast = toponas_fx.simplify(Drawn(*edges).double(), X, passes=(ShareDrawn(), *more))
    assert not fast._toponas.as_written
    return fast, fast.meta["sharing"].ties


def refused(fast):
    (record,) = [record for record in fast.report.records if record.name == "share-drawn"]
    return [refusal.sentence for refusal in record.refusals]


def test_norms_that_end_candidates_are_tied_and_kernels_stay():
    fast, ties = shared([nn.Identity(), end(1), end(3), end(5)])
    assert ties == {"edges.0.2.2": "edges.0.1.2", "edges.0.3.2": "edges.0.1.2"}
    (record,) = fast.report.records
    assert [change.sentence for change in record.changes] == [
        "`edges.0.1.2` takes the place of `edges.0.2.2`, `edges.0.3.2`, of which a step takes one"
    ]
    assert len(list(fast.parameters())) == 3 + 2


def test_what_alike_ends_read_is_tied_as_far_as_it_is_alike():
    _, ties = shared([separable(3), separable(5), dilated(3)])
    ends = {"edges.0.1.7": "edges.0.0.7", "edges.0.2.3": "edges.0.0.7"}  # norms
    ends |= {"edges.0.1.6": "edges.0.0.6", "edges.0.2.2": "edges.0.0.6"}  # pointwise convolutions
    first = {"edges.0.1.3": "edges.0.0.3", "edges.0.1.2": "edges.0.0.2"}  # those of the stages before
    assert ties == ends | first


def test_a_norm_within_a_block_with_a_skip_is_one_at_its_end():
    class Block(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.body = end(size)

        def forward(self, x):
            return x + self.body(x)

    assert shared([Block(1), Block(3)])[1] == {"edges.0.1.body.2": "edges.0.0.body.2"}


def test_nothing_is_shared_across_edges():
    assert shared([end(1), nn.Tanh()], [end(3), nn.Tanh()])[1] == {}


def test_modules_without_tensors_stay_and_those_before_them_are_tied():
    _, ties = shared([end(1, nn.Tanh()), end(3, nn.Tanh())])
    assert ties == {"edges.0.1.2": "edges.0.0.2"}


def test_norms_on_images_of_another_size_are_not_alike():
    wide = nn.Sequential(
        nn.ReLU(), nn.Conv2d(4, 4, 1, stride=2, bias=False), nn.BatchNorm2d(4), nn.Upsample(scale_factor=2)
    )
    assert shared([end(1), wide])[1] == {}


def test_keeps_norms_behind_poolings():
    pooled = [nn.Sequential(pool(3, 1, 1), nn.BatchNorm2d(4)) for pool in (nn.MaxPool2d, nn.AvgPool2d)]
    fast, ties = shared([end(1), end(3), *pooled])
    assert ties == {"edges.0.1.2": "edges.0.0.2"}
    assert refused(fast) == [
        f"what feeds `edges.0.{i}.1` is no convolution or linear layer whose kernel could be normalized" for i in (2, 3)
    ]


def test_keeps_modules_that_run_in_several_places():
    norm = nn.BatchNorm2d(4)
    fast, ties = shared([end(1), nn.Sequential(conv(3), norm, nn.ReLU(), conv(1), norm), end(5)])
    assert ties == {"edges.0.2.2": "edges.0.0.2"}
    assert refused(fast) == ["a module runs in several places"]


def test_keeps_modules_with_hooks():
    one, other, third = (nn.Sequential(before, conv(1)) for before in (nn.ReLU(), nn.Tanh(), nn.Sigmoid()))
    other[1].register_forward_hook(lambda *_: None)
    _, ties = shared([one, other, third])
    assert ties == {"edges.0.2.1": "edges.0.0.1"}


def test_what_differs_before_a_shared_norm_is_normalized_and_what_is_shared_is_not():
    fast, _ = shared([separable(3), separable(5), dilated(3)], more=(NormalizeKernels(),))
    depthwise = {f"edges.0.{i}.{j}.weight" for i, j in ((0, 1), (1, 1), (0, 5), (1, 5), (2, 1))}
    assert set(fast.meta["sharing"].kernels) == depthwise


def test_a_kernel_that_some_candidates_share_and_others_have_not_is_normalized():
    def widened(size, between):
        body = [
            nn.Conv2d(4, between, 1, bias=False),
            nn.Conv2d(between, between, size, padding=size // 2, groups=between),
        ]
        return nn.Sequential(*body, nn.Conv2d(between, 4, 1, bias=False), nn.BatchNorm2d(4))

    edge = [widened(3, 4), widened(5, 4), widened(3, 8), widened(5, 8)]
    fast, ties = shared(edge, more=(NormalizeKernels(),))
    assert {ties[f"edges.0.{i}.3"] for i in (1, 2, 3)} == {"edges.0.0.3"}
    assert (ties["edges.0.1.2"], ties["edges.0.3.2"]) == ("edges.0.0.2", "edges.0.2.2")
    kernels = fast.meta["sharing"].kernels
    assert {"edges.0.0.2.weight", "edges.0.2.2.weight"} <= set(kernels)


@pytest.mark.parametrize("per", ["kernel", "filter"])
def test_normalization_follows_its_option(per):
    model = Drawn([end(1), end(3)]).double()
    fast = toponas_fx.simplify(model, X, share_sampled=True, normalize=per)
    assert {kernel.per for kernel in fast._toponas.sharing.kernels.values()} == {per}


def test_a_later_capture_adds_nothing():
    fast, ties = shared([end(1), end(3)], more=DEFAULT_PASSES)
    before = dict(ties)
    fast.eval()(X)
    with torch.no_grad():
        fast.train()(X[:3, :, :6])
    assert fast._toponas.sharing.ties == before
    assert not fast._toponas.as_written


def test_mixed_operations_are_none_of_its_business():
    def forward(self, x):
        return sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True))

    net = Net(forward, alphas=nn.Parameter(torch.ones(2)), ops=nn.ModuleList([end(1), end(3)])).double()
    fast = toponas_fx.simplify(net, X, passes=(ShareDrawn(), EliminateDeadCode()))
    assert fast._toponas.sharing.ties == {}
