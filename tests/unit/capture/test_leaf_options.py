"""Options of torch's own layers that are changed after ``simplify`` count at the very next call, and so do classes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import assert_runs_like, image, no_capture

C = 4


def conv(kernel: int = 3, **options: Any) -> nn.Conv2d:
    padding = options.pop("padding", kernel // 2)
    return nn.Conv2d(C, C, kernel, padding=padding, bias=False, **options)


def norm(**options: Any) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(C, affine=False, **options)


class Mixed(nn.Module):
    """A weighted sum of candidates, brought to one size, as a cell has it."""

    def __init__(self, make: Callable[[], Sequence[nn.Module]]) -> None:
        super().__init__()
        self.ops = nn.ModuleList([*make(), nn.Sequential(nn.ReLU(), conv(), norm()), nn.Sequential(nn.ReLU(), conv(5))])
        self.alphas = nn.Parameter(torch.linspace(-0.5, 0.7, len(self.ops)))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """Mix."""
        weights = torch.softmax(self.alphas, 0)
        results = [op(x) for op in self.ops]
        results = [r if r.dim() == 4 else r.reshape(len(x), C, -1, 1) for r in results]
        pooled = [nn.functional.adaptive_avg_pool2d(r, 2) + r.square().mean() for r in results]
        return sum(w * r for w, r in zip(weights, pooled, strict=True))  # type: ignore[return-value]


def setting(**options: Any) -> Callable[[Any], None]:
    def change(ops: Any) -> None:
        for name, value in options.items():
            assert getattr(ops[0], name) != value
            setattr(ops[0], name, value)

    return change


def of_all(**options: Any) -> Callable[[Any], None]:
    def change(ops: Any) -> None:
        for op in ops.modules():
            for name, value in options.items():
                if hasattr(op, name):
                    setattr(op, name, value)

    return change


Case = tuple[Callable[[], Sequence[nn.Module]], Callable[[Any], None]]
OPTIONS: dict[str, Case] = {
    "slope": (lambda: [nn.LeakyReLU()], setting(negative_slope=0.3)),
    "alpha": (lambda: [nn.ELU()], setting(alpha=0.5)),
    "lambda": (lambda: [nn.Softshrink()], setting(lambd=0.1)),
    "gelu": (lambda: [nn.GELU()], setting(approximate="tanh")),
    "clamp": (lambda: [nn.Hardtanh()], setting(max_val=0.25)),
    "threshold": (lambda: [nn.Threshold(0.0, 0.0)], setting(value=0.25)),
    "softmax dim": (lambda: [nn.Softmax(1)], setting(dim=2)),
    "in place": (lambda: [nn.Sequential(conv(), nn.ReLU())], lambda ops: setattr(ops[0][1], "inplace", True)),
    "pad": (lambda: [nn.AvgPool2d(3, 1, 1)], setting(count_include_pad=False)),
    "divisor": (lambda: [nn.AvgPool2d(3, 1, 1)], setting(divisor_override=5)),
    "pool kernel": (lambda: [nn.AvgPool2d(3, 1, 1)], setting(kernel_size=2)),
    "max pool kernel": (lambda: [nn.MaxPool2d(3, 1, 1)], setting(kernel_size=5, padding=2)),
    "max pool stride": (lambda: [nn.MaxPool2d(3, 1, 1)], setting(stride=2)),
    "max pool dilation": (lambda: [nn.MaxPool2d(3, 1, 1)], setting(dilation=2)),
    "ceil": (lambda: [nn.MaxPool2d(3, 2, 0)], setting(ceil_mode=True)),
    "lp": (lambda: [nn.LPPool2d(2, 2)], setting(norm_type=3)),
    "output size": (lambda: [nn.AdaptiveAvgPool2d(3)], setting(output_size=2)),
    "conv stride": (lambda: [conv()], setting(stride=(2, 2))),
    "conv padding": (lambda: [conv()], setting(padding=(0, 0))),
    "conv dilation": (lambda: [conv()], setting(dilation=(2, 2))),
    "conv groups": (lambda: [conv(groups=4)], lambda ops: ops[0].__dict__.update(groups=4, dilation=(2, 2))),
    "padding mode": (lambda: [conv()], setting(padding_mode="circular")),
    "transposed": (lambda: [nn.ConvTranspose2d(C, C, 3)], setting(stride=(2, 2))),
    "eps": (lambda: [norm()], setting(eps=0.5)),
    "momentum": (lambda: [norm()], setting(momentum=0.7)),
    "no momentum": (lambda: [norm()], setting(momentum=None)),
    "statistics": (lambda: [norm()], setting(track_running_stats=False)),
    "eps of an affine one": (lambda: [nn.BatchNorm2d(C)], setting(eps=0.5)),
    "eps after a convolution": (
        lambda: [nn.Sequential(nn.ReLU(), conv(), norm())],
        lambda ops: setattr(ops[0][2], "eps", 0.5),
    ),
    "one of two equal norms": (lambda: [norm(), norm(), norm()], setting(eps=0.5)),
    "momentum of one of two": (lambda: [norm(), norm()], setting(momentum=0.9)),
    "momentum of the other": (lambda: [norm(), norm()], lambda ops: setattr(ops[1], "momentum", 0.9)),
    "group norm": (lambda: [nn.GroupNorm(2, C)], setting(eps=0.5)),
    "groups": (lambda: [nn.GroupNorm(2, C, affine=False)], setting(num_groups=4)),
    "layer norm": (lambda: [nn.LayerNorm((6, 6))], setting(eps=0.5)),
    "instance norm": (lambda: [nn.InstanceNorm2d(C)], setting(eps=0.5)),
    "local response": (lambda: [nn.LocalResponseNorm(2)], setting(k=3.0)),
    "upsample": (lambda: [nn.Upsample(scale_factor=2)], setting(mode="bilinear")),
    "scale": (lambda: [nn.Upsample(scale_factor=2.0)], setting(scale_factor=3.0)),
    "flatten": (lambda: [nn.Flatten(2)], setting(end_dim=2, start_dim=1)),
    "pad layer": (lambda: [nn.ZeroPad2d(1)], setting(padding=(2, 2, 2, 2))),
    "value of padding": (lambda: [nn.ConstantPad2d(1, 0.5)], setting(value=2.0)),
    "shuffle": (lambda: [nn.ChannelShuffle(2)], setting(groups=4)),
    "dropout": (lambda: [nn.Dropout(0.5)], setting(p=0.1)),
    "channel dropout": (lambda: [nn.Dropout2d(0.5)], setting(p=1.0)),
    "no dropout": (lambda: [nn.Dropout(0.0)], setting(p=0.9)),
    "noise": (lambda: [nn.RReLU()], setting(upper=0.9)),
    "all momenta": (lambda: [norm(), nn.Sequential(nn.ReLU(), conv(), norm())], of_all(momentum=0.5)),
    "all eps": (lambda: [norm(), nn.Sequential(nn.ReLU(), conv(), norm())], of_all(eps=0.5)),
    "class": (lambda: [nn.ReLU()], lambda ops: setattr(ops[0], "__class__", nn.SiLU)),
    "class of one of two": (lambda: [nn.ReLU(), nn.ReLU()], lambda ops: setattr(ops[1], "__class__", nn.Tanh)),
    "deleted": (lambda: [nn.ReLU()], lambda ops: (delattr(ops[0], "inplace"), setattr(ops[0], "__class__", nn.Tanh))),
    "through the table": (lambda: [nn.LeakyReLU()], lambda ops: vars(ops[0]).update(negative_slope=0.3)),
    "of an unused kind": (lambda: [nn.PReLU(), nn.Softplus()], lambda ops: setattr(ops[1], "beta", 3.0)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", OPTIONS)
def test_an_option_counts_at_the_next_call(case: str, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    make, change = OPTIONS[case]
    model, x = Mixed(make).train(training), image(channels=C)
    fast = toponas_fx.simplify(model, x, mode="exact")
    assert fast._toponas.programs
    fast.train(training)
    assert_runs_like(fast, model, x)
    before = copy.deepcopy([vars(m) | {"__class__": type(m)} for m in fast.ops.modules()])
    for each in (model, fast):
        change(each.ops)
    assert_runs_like(fast, model, x)
    for each in (model, fast):  # and back
        for module, was in zip(each.ops.modules(), before, strict=True):
            module.__class__ = was["__class__"]
            vars(module).update({k: v for k, v in was.items() if isinstance(v, int | float | str | tuple | None)})
    assert_runs_like(fast, model, x)


def test_what_was_known_is_known_when_an_option_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Mixed(lambda: [nn.LeakyReLU()]), image(channels=C)
    fast = toponas_fx.simplify(model, x)
    fast(x)
    fast.ops[0].negative_slope = 0.5
    fast(x)
    with no_capture(monkeypatch):
        for fast.ops[0].negative_slope in (0.01, 0.5, 0.01):
            fast(x)


def test_the_log_names_the_option(caplog: pytest.LogCaptureFixture) -> None:
    model, x = Mixed(lambda: [nn.LeakyReLU()]), image(channels=C)
    fast = toponas_fx.simplify(model, x)
    fast.ops[0].negative_slope = 0.5
    with caplog.at_level("INFO", "toponas_fx"):
        fast(x)
    assert any("since `ops.0.negative_slope` was 0.01" in text for text in caplog.messages), caplog.messages


def test_an_option_that_keeps_changing_is_given_up_with_its_name() -> None:
    model, x = Mixed(lambda: [nn.LeakyReLU()]), image(channels=C)
    fast = toponas_fx.simplify(model, x, mode="exact")

    def run() -> None:
        for step in range(20):
            model.ops[0].negative_slope = fast.ops[0].negative_slope = 0.01 * (1 + step)
            assert torch.allclose(fast(x), model(x), rtol=0, atol=1e-10)

    with pytest.warns(UserWarning, match=r"`ops.0.negative_slope` keeps changing from call to call"):
        run()


def test_a_dropout_rate_that_a_schedule_sets_costs_no_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Mixed(lambda: [nn.Dropout(0.1)]), image(channels=C)
    fast = toponas_fx.simplify(model, x, mode="exact")
    with no_capture(monkeypatch):
        for step in range(5):
            model.ops[0].p = fast.ops[0].p = 0.1 * step
            assert_runs_like(fast, model, x)


def test_copies_hold_to_their_own_options() -> None:
    model, x = Mixed(lambda: [nn.LeakyReLU()]), image(channels=C)
    fast = toponas_fx.simplify(model, x, mode="exact")
    twin = copy.deepcopy(fast)
    twin.ops[0].negative_slope = 0.5
    assert torch.allclose(fast(x), model(x), rtol=0, atol=1e-10)
    model.ops[0].negative_slope = 0.5
    assert torch.allclose(twin(x), model(x), rtol=0, atol=1e-10)


class Edge(Mixed):
    """Candidates that share what they have in common."""

    def forward(self, x: Tensor) -> Tensor:
        """Mix."""
        weights = torch.softmax(self.alphas, 0)
        return sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("mode", ["share", "exact"])
def test_nothing_is_captured_again_where_layers_were_shared(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Edge(lambda: [nn.Sequential(nn.ReLU(), conv(), norm())]), image(channels=C)
    fast = toponas_fx.simplify(model, x, mode=mode)
    assert bool(fast._toponas.sharing.ties) == (mode == "share")
    with no_capture(monkeypatch):
        for _ in range(2):
            fast.train()(x)
            fast.eval()(x)


def test_a_layer_without_its_option_raises_what_the_original_raises() -> None:
    model, x = Mixed(lambda: [nn.LeakyReLU()]), image(channels=C)
    fast = toponas_fx.simplify(model, x, mode="exact")
    for each in (model, fast):
        del each.ops[0].negative_slope
        with pytest.raises(AttributeError, match="negative_slope"):
            each(x)


class Turning(Mixed):
    """Sets an option of a layer, unseen, while it runs."""

    def forward(self, x: Tensor) -> Tensor:
        """Mix, with another slope from then on."""
        mixed = super().forward(x)
        object.__setattr__(self.ops[0], "negative_slope", 0.3)
        return mixed


def test_an_option_that_forward_sets_is_not_compiled() -> None:
    model, x = Turning(lambda: [nn.LeakyReLU()]), image(channels=C)
    with pytest.warns(UserWarning, match=r"forward changes state in place: `ops.0.negative_slope` was"):
        fast = toponas_fx.simplify(model, x, mode="exact")
    for model.ops[0].negative_slope in (0.01, 0.01, 0.2):
        fast.ops[0].negative_slope = model.ops[0].negative_slope
        assert torch.allclose(fast(x), model(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("moved", ["running_mean", "running_var", "num_batches_tracked"])
@pytest.mark.parametrize("way", ["copy_", "data", "replaced", "load_state_dict"])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("waits", [False, True])
def test_statistics_set_apart_end_what_equal_ones_began(
    way: str, moved: str, which: int, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if waits:  # as on a GPU, where versions tell, and values only now and then
        monkeypatch.setattr("toponas_fx.runtime.equal_statistics.waits", lambda tensor: True)
        monkeypatch.setattr("toponas_fx.runtime.equal_statistics.LOOK", 1 if way == "data" else 32)
    torch.manual_seed(3)
    model, x = Mixed(lambda: [norm(), norm(), norm()]), image(channels=C)
    fast = toponas_fx.simplify(model, x, mode="exact")
    for _ in range(3):
        fast(x)
    model.load_state_dict(fast.state_dict())
    value = getattr(fast.ops[which], moved) + 3
    for each in (model, fast):
        buffer = getattr(each.ops[which], moved)
        if way == "load_state_dict":
            each.load_state_dict({**each.state_dict(), f"ops.{which}.{moved}": value})
        elif way == "replaced":
            setattr(each.ops[which], moved, value.clone())
        else:
            (buffer.data if way == "data" else buffer).copy_(value)
    for step in range(3):
        expected, found = copy.deepcopy(model), image(channels=C, seed=step)
        with torch.no_grad():
            for theirs, mine in zip(expected.buffers(), fast.buffers(), strict=True):
                theirs.copy_(mine)
        assert torch.allclose(fast(found), expected(found), rtol=0, atol=1e-10)
        for theirs, mine in zip(expected.buffers(), fast.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    model.eval(), fast.eval()
    expected = copy.deepcopy(model)
    expected.load_state_dict(fast.state_dict())
    assert torch.allclose(fast(x), expected(x), rtol=0, atol=1e-10)


def test_versions_save_most_looks_at_values(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = toponas_fx.simplify(Mixed(lambda: [norm(), norm()]), image(channels=C), mode="exact", audit=False)
    fast(image(channels=C))
    looks = []
    real = torch.equal
    monkeypatch.setattr("toponas_fx.runtime.equal_statistics.waits", lambda tensor: True)
    monkeypatch.setattr(torch, "equal", lambda *both: looks.append(1) or real(*both))
    for _ in range(64):
        fast(image(channels=C))
    assert 0 < len(looks) <= 4, len(looks)
