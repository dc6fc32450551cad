"""Convert layout: images are in channels-last layout inside, and what leaves lies as it does in the original."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import toponas_fx
from nets import Net, lines_of
from toponas_fx.passes import ConvertLayout, LowerDepthwise, LowerPooling
from toponas_fx.testing import check_keeps, check_pass

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))


LOWER = (LowerDepthwise(), LowerPooling(), ConvertLayout())


def depthwise(size=3, **options):
    return nn.Conv2d(4, 4, size, groups=4, **options)


def test_rewrites_the_layout_around_what_was_lowered():
    net = nn.Sequential(depthwise(padding=1, bias=False), nn.Conv2d(4, 2, 1), nn.AvgPool2d(2))
    _, record = check_pass(
        ConvertLayout(),
        net,
        X,
        after="""
            %0 = input input
            %1 = attr 0.weight
            %2 = takes_over([%0], %1)
            %3 = channels_last(%0, %2)
            %4 = attr 0.weight
            %5 = depthwise_conv2d(%3, %4, None, (1, 1), (1, 1), (1, 1))
            %6 = Conv2d[1](%5)
            %7 = avg_pool2d(%6, (2, 2), (2, 2), (0, 0), True)
            %8 = original_layout(%7, %2)
            return %8
        """,
        prerequisites=LOWER[:2],
    )
    assert [change.sentence for change in record.changes] == ["1 inputs are brought to channels-last layout"]


def shuffled(self, x):
    n, c, h, w = x.size()
    x = self.first(x).view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
    return self.second(x).mean((2, 3)).view(n, -1), x


@pytest.mark.parametrize("batch", [3, 1])
@pytest.mark.parametrize("stride", [1, 2])
def test_float32_computes_the_same_with_the_other_backward_pass(batch, stride):
    first = nn.Sequential(depthwise(5, padding=4, dilation=2), nn.ReLU(), nn.BatchNorm2d(4))
    net = Net(shuffled, first=first, second=depthwise(stride=stride, padding=1, bias=False))
    fast = toponas_fx.simplify(copy.deepcopy(net), X, passes=LOWER)
    assert len(lines_of(fast.train(), "depthwise_conv2d")) == 2
    assert len(lines_of(fast, "channels_last")) == 1
    x = X[:batch].clone().requires_grad_()
    runs = []
    for model in (fast, net):
        pooled, image = model(x)
        assert image.is_contiguous()
        wanted = [x, *model.parameters()]
        runs.append((pooled, image, *torch.autograd.grad(pooled.square().sum() + image.tanh().sum(), wanted)))
    for left, right in zip(*runs, strict=True):
        assert torch.allclose(left, right, rtol=1e-4, atol=1e-5)


def test_images_are_in_channels_last_layout_inside():
    conv = nn.Conv2d(4, 4, 3)
    fast = toponas_fx.simplify(nn.Sequential(conv, nn.ReLU()), X, passes=LOWER)
    fast.train()
    values = {}

    class Interpreter(torch.fx.Interpreter):
        def run_node(self, node):
            values[node.name] = super().run_node(node)
            return values[node.name]

    Interpreter(fast, graph=fast.graph).run(X)
    inside = [v for v in values.values() if isinstance(v, torch.Tensor) and v.dim() == 4]
    assert any(v.is_contiguous(memory_format=torch.channels_last) and not v.is_contiguous() for v in inside)


@pytest.mark.parametrize(
    ("channels", "stride", "groups", "stays"),
    [(2, 2, 1, True), (15, 3, 1, True), (16, 2, 1, False), (2, 1, 1, False), (2, 2, 2, False)],
)
def test_narrow_strided_1x1_convolutions_lose_their_stride(channels, stride, groups, stays):
    """On CPUs, oneDNN's gradient to their kernel writes past its memory where their images are channels-last."""
    net = nn.Sequential(nn.Conv2d(channels, 4, 1, stride, bias=False, groups=groups), nn.Conv2d(4, 3, 3))
    images = torch.randn(4, channels, 16, 16)
    fast = toponas_fx.simplify(copy.deepcopy(net), images, passes=(ConvertLayout(layout=True),))
    assert len(lines_of(fast, "every")) == stays
    assert len(lines_of(fast, "original_layout")) == len(lines_of(fast, "channels_last")) == 1
    for _ in range(3):
        runs = [torch.autograd.grad(model(images).tanh().sum(), model[0].weight)[0] for model in (fast, net)]
        torch.testing.assert_close(*runs, rtol=1e-4, atol=1e-5)


def test_an_output_that_is_a_depthwise_convolution_itself():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4))
    fast, _ = check_pass(ConvertLayout(), net, X, prerequisites=LOWER[:2])
    assert fast(X.double()).is_contiguous()


def flat(self, x):
    return self.conv(x).view(x.size(0), -1)


def merged(self, x):
    return self.conv(x).view(-1, 6, 6)


def strided(self, x):
    value = self.conv(x)
    return value.as_strided((2, 2), (6, 1))


def dropped(self, x):
    return F.dropout(self.conv(x), 0.5)


def noisy(self, x):
    value = self.conv(x)
    return value + torch.empty_like(value).normal_()


def chosen(self, x):
    return self.conv(x).contiguous(memory_format=torch.channels_last)


REFUSED = {
    "`contiguous` chooses how images lie": (chosen,),
    "numbers are drawn for an image in the order": (dropped, noisy),
    "a view of an image": (flat, merged),
    "`as_strided` depends on how": (strided,),
}


@pytest.mark.parametrize(("reason", "way"), [(reason, way) for reason, ways in REFUSED.items() for way in ways])
def test_keeps_the_layout(reason, way):
    check_keeps(ConvertLayout(), Net(way, conv=nn.Conv2d(4, 4, 1)), X, reason)


def test_dropout_drops_the_same_pixels_and_whole_images_are_dropped_in_any_layout():
    def by_image(self, x):
        mask = x.new_empty(x.size(0), 1, 1, 1).bernoulli_(0.5)
        return self.conv(x) * mask + torch.bernoulli(x.mean((2, 3)).sigmoid()).sum()

    nets = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.5)), Net(by_image, conv=nn.Conv2d(4, 4, 1))
    for net, has_layout in zip(nets, (False, True), strict=True):
        fast = toponas_fx.simplify(net, X, passes=LOWER).train()
        assert bool(lines_of(fast, "channels_last")) == has_layout
        outputs = []
        for model in (fast, net):
            torch.manual_seed(0)
            outputs.append(model(X))
        assert torch.allclose(*outputs, rtol=1e-5, atol=1e-5)
        assert lines_of(fast.eval(), "channels_last")


def test_a_narrow_convolution_with_a_stride_reads_each_pixel_of_fewer():
    check_pass(
        ConvertLayout(layout=True),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, stride=2), nn.ReLU()),
        X,
        after="""
            %0 = input input
            %1 = attr 0.weight
            %2 = takes_over([%0], %1)
            %3 = channels_last(%0, %2)
            %4 = Conv2d[0](%3)
            %5 = attr 1.weight
            %6 = attr 1.bias
            %7 = every(%4, (2, 2))
            %8 = conv2d(%7, %5, %6, (1, 1), (0, 0), (1, 1), 1)
            %9 = ReLU[2](%8)
            %10 = original_layout(%9, %2)
            return %10
        """,
    )


def test_keeps_the_layout_of_one_operation():
    module = nn.ConvTranspose2d(4, 4, 2)
    check_pass(
        ConvertLayout(layout=True),
        nn.Sequential(nn.Conv2d(4, 4, 1), module, nn.ReLU()),
        X,
        after=f"""
            %0 = input input
            %1 = attr 0.weight
            %2 = takes_over([%0], %1)
            %3 = channels_last(%0, %2)
            %4 = Conv2d[0](%3)
            %5 = original_layout(%4, %2)
            %6 = {type(module).__name__}[1](%5)
            %7 = channels_last(%6, %2)
            %8 = ReLU[2](%7)
            %9 = original_layout(%8, %2)
            return %9
        """,
    )


def test_a_strided_convolution_of_many_channels_is_in_channels_last_layout_too():
    net = nn.Sequential(nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 1, stride=2))
    fast, _ = check_pass(ConvertLayout(layout=True), net, X)
    assert len(lines_of(fast, "channels_last")) == 1


def test_reads_kernels_of_many_taps_and_what_is_added_to_images_in_their_own_layout():
    net = Net(
        lambda self, x: self.conv(x) + self.place, conv=nn.Conv2d(4, 4, 3), place=nn.Parameter(torch.ones(4, 4, 4))
    )
    check_pass(
        ConvertLayout(layout=True),
        net,
        X,
        after="""
            %0 = input x
            %1 = attr conv.weight
            %2 = takes_over([%0], %1)
            %3 = channels_last(%0, %2)
            %4 = attr conv.weight
            %5 = attr conv.bias
            %6 = own_layout(%4, %2)
            %7 = conv2d(%3, %6, %5, (1, 1), (0, 0), (1, 1), 1)
            %8 = attr place
            %9 = own_layout(%8, %2)
            %10 = add(%7, %9)
            %11 = original_layout(%10, %2)
            return %11
        """,
    )


def test_keeps_the_layout_around_unknown_code():
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
    net[1].register_forward_hook(lambda module, inputs, output: output.view(-1))
    check_keeps(ConvertLayout(), net, X, "may depend on how images lie in memory")


def test_keeps_what_no_convolution_reads():
    net = Net(lambda self, x: F.avg_pool2d(x, 2, ceil_mode=True) + self.linear(x).mean(), linear=nn.Linear(6, 2))
    assert check_keeps(ConvertLayout(layout=True), net, X) == []


def test_keeps_the_layout_of_an_input_that_is_written_in_place_and_that_the_caller_looks_at():
    def forward(self, x):
        y = self.conv(x)
        x.mul_(2)
        return y + x

    net = Net(forward, conv=nn.Conv2d(4, 4, 3, padding=1, bias=False)).requires_grad_(False)
    assert check_keeps(ConvertLayout(layout=True), net, X) == []
    given, expected = X.clone(), X.clone()
    fast = toponas_fx.simplify(net, X.clone(), passes=(ConvertLayout(layout=True),))
    assert torch.equal(fast(given), net(expected))
    assert torch.equal(given, expected)
