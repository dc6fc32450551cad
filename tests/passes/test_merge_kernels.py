"""Merge kernels: convolutions of one input become one convolution with the sum of their kernels."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nets import Edge, Net, lines_of
from toponas_fx.passes import Deduplicate, DetectMixedOps, MergeKernels, NormalizeKernels, ShareModules
from toponas_fx.testing import check_keeps, check_pass
from toponas_fx.testing.rewrites import text_of

X = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(0))
FIRST = (DetectMixedOps(),)


def conv(size, dilation=1, **options):
    options.setdefault("padding", dilation * (size - 1) // 2)
    return nn.Conv2d(4, 4, size, dilation=dilation, **options)


def merged(fast, function="conv2d"):
    """Return the geometry of each convolution function: what follows kernel and bias."""
    return [line.split(", (", 1)[1].rstrip(")") for line in lines_of(fast, function)]


def test_rewrites_two_convolutions_into_one():
    _, record = check_pass(
        MergeKernels(),
        Edge(conv(1, bias=False), nn.Tanh(), conv(3, bias=False)),
        X,
        before="""
            %0 = input x
            %1 = attr alphas
            %2 = .unbind(%1, 0)
            %3 = getitem(%2, 0)
            %4 = getitem(%2, 1)
            %5 = getitem(%2, 2)
            %6 = Conv2d[ops.0](%0)
            %7 = Tanh[ops.1](%0)
            %8 = Conv2d[ops.2](%0)
            %9 = mixed_sum([%6, %7, %8], [%3, %4, %5], (0, 0, 0))
            return %9
        """,
        after="""
            %0 = input x
            %1 = attr alphas
            %2 = .unbind(%1, 0)
            %3 = getitem(%2, 0)
            %4 = getitem(%2, 1)
            %5 = getitem(%2, 2)
            %6 = Tanh[ops.1](%0)
            %7 = attr ops.2.weight
            %8 = attr ops.0.weight
            %9 = merge_kernels([%7, %8], [%5, %3], [(0, 0), (1, 1)], [(1, 1), (1, 1)], (3, 3))
            %10 = conv2d(%0, %9, None, (1, 1), (1, 1), (1, 1), 1)
            %11 = mixed_sum([%6, %10], [%4, 1.0], (0, 0))
            return %11
        """,
        prerequisites=FIRST,
    )
    assert [change.sentence for change in record.changes] == ["3x3, 1x1 merged into 3x3"]


def test_merges_biases_with_the_same_weights():
    fast, _ = check_pass(MergeKernels(), Edge(conv(1), conv(3, bias=False), conv(5)), X, prerequisites=FIRST)
    (found,) = lines_of(fast, "merge_biases")
    assert found == "([%10, %11], [%5, %3])"


GRIDS = {
    "sizes": ((conv(1), conv(3), conv(5)), "5x5, 3x3, 1x1 merged into 5x5", "1, 1), (2, 2), (1, 1), 1"),
    "dilated in its footprint": (
        (conv(3, 2), conv(5)),
        "3x3 dilated by 2x2, 5x5 merged into 5x5",
        "1, 1), (2, 2), (1, 1), 1",
    ),
    "one coarse grid": (
        (conv(3, 2), conv(5, 2), conv(1)),
        "5x5 dilated by 2x2, 3x3 dilated by 2x2, 1x1 merged into 5x5",
        "1, 1), (4, 4), (2, 2), 1",
    ),
    "stride": ((conv(1, stride=2), conv(3, stride=2)), "3x3, 1x1 merged into 3x3", "2, 2), (1, 1), (1, 1), 1"),
    "groups": ((conv(3, groups=4), conv(5, groups=4)), "5x5, 3x3 merged into 5x5", "1, 1), (2, 2), (1, 1), 4"),
    "same": ((conv(3, padding="same"), conv(5)), "5x5, 3x3 merged into 5x5", "1, 1), (2, 2), (1, 1), 1"),
    "wide padding": ((conv(1, padding=1), conv(3, padding=2)), "3x3, 1x1 merged into 3x3", "1, 1), (2, 2), (1, 1), 1"),
    "padding wider than the kernel": (
        (conv(1, padding=2), conv(1, padding=2)),
        "1x1, 1x1 merged into 1x1",
        "1, 1), (2, 2), (1, 1), 1",
    ),
    "unlike in each dimension": (
        (nn.Conv2d(4, 4, (1, 3), padding=(0, 1)), nn.Conv2d(4, 4, (3, 3), padding=1)),
        "3x3, 1x3 merged into 3x3",
        "1, 1), (1, 1), (1, 1), 1",
    ),
    "no kernel holds the others": (
        (nn.Conv2d(4, 4, (3, 5), padding=(1, 2)), nn.Conv2d(4, 4, (5, 3), padding=(2, 1))),
        "3x5, 5x3 merged into 5x5",
        "1, 1), (2, 2), (1, 1), 1",
    ),
    "one dimension dilated": (
        (nn.Conv2d(4, 4, 3, padding=(1, 2), dilation=(1, 2)), nn.Conv2d(4, 4, (3, 5), padding=(1, 2))),
        "3x3 dilated by 1x2, 3x5 merged into 3x5",
        "1, 1), (1, 2), (1, 1), 1",
    ),
    "even": ((conv(2, padding=1), conv(4, padding=2)), "4x4, 2x2 merged into 4x4", "1, 1), (2, 2), (1, 1), 1"),
}


@pytest.mark.parametrize(("candidates", "sentence", "geometry"), GRIDS.values(), ids=GRIDS)
def test_merges_on_the_coarsest_grid(candidates, sentence, geometry):
    fast, record = check_pass(MergeKernels(), Edge(*candidates), X, prerequisites=FIRST)
    assert [change.sentence for change in record.changes] == [sentence]
    assert merged(fast) == [geometry]


@pytest.mark.parametrize("dims", [1, 3])
def test_merges_other_dimensions(dims):
    make = getattr(nn, f"Conv{dims}d")
    net = Edge(*(make(2, 3, size, padding=size // 2) for size in (1, 3)))
    fast, _ = check_pass(MergeKernels(), net, torch.randn(2, 2, *[5] * dims), prerequisites=FIRST)
    assert len(lines_of(fast, f"conv{dims}d")) == 1


def test_merges_up_to_the_sum_of_the_taps():
    """Two taps between three, all two pixels apart: five taps one pixel apart, as many as apart."""
    net = Edge(nn.Conv1d(2, 2, 3, padding=2, dilation=2), nn.Conv1d(2, 2, 2, padding=1, dilation=2))
    fast, record = check_pass(MergeKernels(), net, torch.randn(2, 2, 9), prerequisites=FIRST)
    assert [change.sentence for change in record.changes] == ["3 dilated by 2, 2 dilated by 2 merged into 5"]
    assert merged(fast, "conv1d") == ["1,), (2,), (1,), 1"]


@pytest.mark.parametrize(("slack", "count"), [(0.0, 0), (0.99, 0), (1.0, 1), (float("inf"), 1)])
def test_merges_by_its_slack(slack, count):
    net = Edge(nn.Conv1d(2, 2, 3, padding=2, dilation=2), nn.Conv1d(2, 2, 2, padding=1, dilation=2))
    fast, _ = check_pass(MergeKernels(slack), net, torch.randn(2, 2, 9), prerequisites=FIRST, changes=count > 0)
    assert len(lines_of(fast, "merge_kernels")) == count


def test_merges_linear_layers():
    net = Edge(nn.Linear(4, 3), nn.Linear(4, 3, bias=False), nn.Linear(4, 3))
    fast, record = check_pass(MergeKernels(), net, torch.randn(5, 4), prerequisites=FIRST)
    assert [change.sentence for change in record.changes] == ["linear, linear, linear merged into one"]
    assert len(lines_of(fast, "linear")) == 1


def test_merges_functions_and_computed_kernels():
    def forward(self, x):
        one = F.conv2d(x, self.kernel, padding=1)
        two = torch.conv2d(x, self.kernel[:, :, :1, :1] * 2, self.bias * 3, 1, 0)
        return self.alphas[0] * one + self.alphas[1] * two + 0.5 * self.a(x)

    net = Net(forward, kernel=nn.Parameter(torch.randn(4, 4, 3, 3)), bias=nn.Parameter(torch.randn(4)), a=conv(5))
    net.alphas = nn.Parameter(torch.rand(2))
    fast, _ = check_pass(MergeKernels(), net, X, prerequisites=FIRST)
    assert len(merged(fast)) == 1


def test_merges_one_sum_after_another_in_one_round():
    def forward(self, x):
        y = self.alphas[0] * self.a(x) + self.alphas[1] * self.b(x)
        return self.alphas[0] * self.c(y) + self.alphas[1] * self.d(y)

    net = Net(forward, a=conv(1), b=conv(3), c=conv(1), d=conv(3), alphas=nn.Parameter(torch.rand(2)))
    fast, record = check_pass(MergeKernels(), net, X, prerequisites=FIRST)
    assert len(merged(fast)) == len(record.changes) == 2


def test_merges_across_the_edges_of_one_input():
    def forward(self, x):
        return sum(sum(w * op(x) for w, op in zip(row, self.ops, strict=True)) for row in self.alphas)

    net = Net(forward, ops=nn.ModuleList([conv(1), conv(3)]), alphas=nn.Parameter(torch.rand(2, 2)))
    check_pass(MergeKernels(), net, X, prerequisites=FIRST)


def test_merges_normalized_kernels():
    def candidate(size, dilation=1):
        return nn.Sequential(conv(size, dilation), nn.BatchNorm2d(4))

    net = Edge(candidate(1), candidate(3), candidate(3, 2))
    first = (DetectMixedOps(), ShareModules(), NormalizeKernels())
    fast, record = check_pass(MergeKernels(), net, X, prerequisites=first)
    assert [change.sentence for change in record.changes] == ["3x3 dilated by 2x2, 1x1 merged into 3x3"]
    assert [refusal.sentence for refusal in record.refusals] == [
        "3x3 dilated by 2x2 costs more merged with its siblings than apart",
        "3x3 costs more merged with its siblings than apart",
    ]
    assert len(merged(fast)) == 2


def test_keeps_operations_that_cost_more_merged():
    reasons = check_keeps(MergeKernels(), Edge(conv(3), conv(3, 2)), X, prerequisites=FIRST)
    assert reasons == [
        "3x3 dilated by 2x2 costs more merged with its siblings than apart",
        "3x3 costs more merged with its siblings than apart",
    ]


def test_merges_even_kernels_in_a_footprint():
    """A 3x4 dilated by 1x2 lies in that of a 3x7."""
    net = Edge(
        nn.Conv2d(4, 4, (3, 4), padding=(1, 3), dilation=(1, 2)),
        nn.Conv2d(4, 4, (3, 7), padding=(1, 3)),
    )
    fast, _ = check_pass(MergeKernels(), net, X, prerequisites=FIRST)
    assert len(merged(fast)) == 1


def test_keeps_operations_of_unlike_input():
    def forward(self, x):
        return self.alphas[0] * self.a(x) + self.alphas[1] * self.b(torch.tanh(x))

    net = Net(forward, a=conv(1), b=conv(3), alphas=nn.Parameter(torch.rand(2)))
    assert check_keeps(MergeKernels(), net, X, prerequisites=FIRST) == []


UNLIKE = {
    "groups": ((conv(3), conv(3, groups=2)), X),
    "centre": ((conv(1, stride=2, padding=0), conv(2, stride=2, padding=0)), X[..., :8, :8]),
    "stride": ((conv(1, stride=2), conv(1)), X[..., :1, :1]),
}


@pytest.mark.parametrize(("candidates", "x"), UNLIKE.values(), ids=UNLIKE)
def test_keeps_operations_of_unlike_geometry(candidates, x):
    reasons = check_keeps(MergeKernels(), Edge(*candidates), x, prerequisites=FIRST)
    assert reasons == ["it has another stride, centre or number of groups or channels than its siblings"]


def test_keeps_an_operation_whose_result_something_else_reads():
    def forward(self, x):
        one = self.a(x)
        return self.alphas[0] * one + self.alphas[1] * self.b(x) + self.alphas[2] * torch.tanh(one)

    net = Net(forward, a=conv(1), b=conv(3), alphas=nn.Parameter(torch.rand(3)))
    reasons = check_keeps(MergeKernels(), net, X, prerequisites=FIRST)
    assert reasons == ["something besides the sum reads its result"]


def test_merges_the_others_where_one_is_read_elsewhere():
    def forward(self, x):
        one = self.a(x)
        total = self.alphas[0] * one + self.alphas[1] * self.b(x) + self.alphas[2] * self.c(x)
        return torch.cat([total, one])

    net = Net(forward, a=conv(1), b=conv(3), c=conv(5), alphas=nn.Parameter(torch.rand(3)))
    fast, record = check_pass(MergeKernels(), net, X, prerequisites=FIRST)
    assert "Conv2d[a]" in text_of(fast)
    assert [refusal.sentence for refusal in record.refusals] == ["something besides the sum reads its result"]


def test_keeps_other_kinds_of_convolutions():
    hooked = conv(3)
    hooked.register_forward_hook(lambda module, inputs, output: output * 2)
    others = [nn.ConvTranspose2d(4, 4, 3, padding=1), conv(3, padding_mode="reflect"), hooked]
    for other in others:
        assert check_keeps(MergeKernels(), Edge(conv(3), other), X, prerequisites=FIRST) == []


def test_keeps_one_value_that_counts_twice():
    def forward(self, x):
        return self.alphas[0] * self.a(x) + self.alphas[1] * self.a(x) + self.alphas[2] * self.b(x)

    net = Net(forward, a=conv(1), b=conv(3), alphas=nn.Parameter(torch.rand(3)))
    check_pass(MergeKernels(), net, X, prerequisites=(DetectMixedOps(), Deduplicate()), changes=False)
