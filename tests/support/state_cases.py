"""Forwards and trainers that change what lies on a model, invented by somebody who had not read the code."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Parts = Callable[[], dict[str, Any]]
Body = Callable[[Any, Tensor], Any]
Change = Callable[[Any, int], Any]


class Settings:
    pass


class Model(nn.Module):
    """Two candidates, and what a case adds."""

    def __init__(self, parts: Parts, body: Body) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        self.alpha = nn.Parameter(torch.zeros(2))
        self.body = body
        for name, value in parts().items():
            setattr(self, name, value)
        self.double()

    def mix(self, x: Tensor) -> Tensor:
        """Mix the candidates."""
        w = F.softmax(self.alpha, 0)
        return w[0] * self.a(x) + w[1] * self.b(x)

    def forward(self, x: Tensor) -> Any:
        """Whatever the case does."""
        return self.body(self, x)


class Telling(Model):
    """Notes what is set, past ``__setattr__``."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Note and set."""
        if name == "q":
            self.__dict__["seen"] = name
        super().__setattr__(name, value)


def norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(4, affine=False)


def two_norms() -> dict[str, Any]:
    return {"n1": norm(), "n2": norm()}


def of_two(m: Any, x: Tensor) -> Tensor:
    h = m.mix(x)
    return m.n1(h) + m.n2(h).relu()  # type: ignore[no-any-return]


def option_set(**options: Any) -> Body:
    def body(m: Any, x: Tensor) -> Any:
        for name, value in options.items():
            setattr(m.d, name, value(m, x) if callable(value) else value)
        return m.d(m.mix(x)).mean((2, 3))

    return body


def option_restored(m: Any, x: Tensor) -> Tensor:
    m.a.padding_mode = "circular"
    m.a._reversed_padding_repeated_twice = [1, 1, 1, 1]
    out = m.mix(x)
    m.a.padding_mode = "zeros"
    return out


def previous(m: Any, x: Tensor) -> Tensor:
    m.D["p"] = m.h
    m.h = m.mix(x).mean()
    m.L = (m.L + [m.h])[-2:]  # noqa: RUF005
    return m.mix(x)


def previous_in_list(m: Any, x: Tensor) -> Tensor:
    m.D[0] = m.h
    m.h = m.mix(x).mean()
    m.L = (*m.L, m.h)[-2:]
    return m.mix(x)


def previous_by_mode(m: Any, x: Tensor) -> Tensor:
    m.D["p"] = m.h
    m.h = m.mix(x).mean() if m.training else m.mix(x).amax()
    return m.mix(x)


def default(m: Any, x: Tensor) -> Any:
    return m.mix(x) * m.__dict__.setdefault("kk", 3.0)


def cached(m: Any, x: Tensor) -> Any:
    cache = m.__dict__.setdefault("cache", {})
    cache[x.size(0)] = cache.get(x.size(0), 0) + 1
    return m.mix(x) * cache[x.size(0)]


def module_kept(m: Any, x: Tensor) -> Tensor:
    m.__dict__["cur"] = m.a if m.training else m.b
    return m.mix(x)


def attributes_set(m: Any, x: Tensor) -> Any:
    m.settings.a = m.mix(x)
    m.settings.n = x.size(0)
    return m.settings.a


def equal_kept(m: Any, x: Tensor) -> Tensor:
    m.p, m.q = m.a(x).detach(), m.a(x).detach()
    return m.mix(x)


def equal_returned(m: Any, x: Tensor) -> Any:
    return m.a(x) * 2, m.a(x) * 2


def raises(m: Any, x: Tensor) -> Tensor:
    m.stage = "one"
    h = m.n1(m.mix(x))
    if m.alpha[0] > 0:
        raise ValueError(f"bad {m.stage}")
    m.stage = "two"
    return h.relu()  # type: ignore[no-any-return]


def graded(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        if m.alpha[0] > 0.5:
            x = x * 2
    return m.mix(x)


def set_q(m: Any, x: Tensor) -> Tensor:
    m.q = m.mix(x)
    return m.q  # type: ignore[no-any-return]


def _conv_forward(self: Any, x: Tensor, weight: Tensor, bias: Any) -> Tensor:
    return F.conv2d(x, weight * 2, bias, self.stride, self.padding)


def nothing(m: Any, step: int) -> None:
    pass


def patched(m: Any, step: int) -> None:
    if step % 2:
        m.a._conv_forward = types.MethodType(_conv_forward, m.a)
    else:
        vars(m.a).pop("_conv_forward", None)


def third_training(m: Any, step: int) -> None:
    m.eval()
    m.n2.train(bool(step % 2))


CASES: dict[str, tuple[Parts, Body, Change]] = {
    "dilation set in forward": (
        dict,
        lambda m, x: (setattr(m.a, "dilation", (2, 2)), setattr(m.a, "padding", (2, 2)), m.mix(x))[-1],
        lambda m, step: (setattr(m.a, "dilation", (1, 1)), setattr(m.a, "padding", (1, 1))),
    ),
    "padding mode set and restored": (dict, option_restored, nothing),
    "eps set in forward": (
        lambda: {"d": norm(), "k": 0.1},
        option_set(eps=lambda m, x: m.k),
        lambda m, step: setattr(m, "k", (0.1, 0.5)[step % 2]),
    ),
    "momentum set in forward": (lambda: {"d": norm()}, option_set(momentum=0.7), nothing),
    "slope set in forward": (
        lambda: {"d": nn.LeakyReLU()},
        option_set(negative_slope=lambda m, x: 0.1 * x.size(0)),
        nothing,
    ),
    "dropout set in forward": (lambda: {"d": nn.Dropout(0.5)}, option_set(p=lambda m, x: 0.1 * x.size(0)), nothing),
    "scale set in forward": (lambda: {"d": nn.Upsample(scale_factor=2)}, option_set(scale_factor=3), nothing),
    "the last tensor in a dict": (lambda: {"D": {}, "h": None, "L": []}, previous, nothing),
    "the last tensor in a list": (lambda: {"D": [None], "h": None, "L": ()}, previous_in_list, nothing),
    "the last tensor, by mode": (
        lambda: {"D": {}, "h": None},
        previous_by_mode,
        lambda m, step: m.train(step % 3 != 2),
    ),
    "a bias that comes and goes": (
        dict,
        Model.mix,
        lambda m, step: setattr(m.a, "bias", nn.Parameter(torch.ones(4).double()) if step % 2 else None),
    ),
    "a norm that becomes affine": (
        two_norms,
        of_two,
        lambda m, step: setattr(m.n2, "weight", nn.Parameter(torch.full((4,), 1.5).double()) if step == 2 else None),
    ),
    "one norm of two in training": (two_norms, of_two, third_training),
    "one norm in training, called twice": (
        lambda: {"n2": norm()},
        lambda m, x: (lambda h: m.n2(h) + m.n2(h).relu())(m.mix(x)),
        third_training,
    ),
    "one dropout in training, called twice": (
        lambda: {"n2": nn.Dropout(0.5)},
        lambda m, x: (lambda h: m.n2(h) + m.n2(h).relu())(m.mix(x)),
        third_training,
    ),
    "norms that share a statistic": (
        two_norms,
        lambda m, x: (lambda h: m.n1(h) + m.n2(h))(m.mix(x)),
        lambda m, step: setattr(m.n2, "running_mean", m.n1.running_mean) if step == 1 else None,
    ),
    "a norm that loses its statistics": (
        two_norms,
        of_two,
        lambda m, step: [setattr(m.n2, name, None) for name in ("running_mean", "running_var")] if step == 2 else None,
    ),
    "an instance norm whose statistics count unasked": (
        lambda: {"n": nn.InstanceNorm2d(4, track_running_stats=True)},
        lambda m, x: (lambda h: m.n(h) + m.n(h).relu())(m.mix(x)),
        lambda m, step: setattr(m.n, "track_running_stats", not step % 2),
    ),
    "setdefault": (dict, default, lambda m, step: m.__dict__.update(kk=5.0) if step == 2 else None),
    "a cache by setdefault": (dict, cached, nothing),
    "a module in the table": (dict, module_kept, lambda m, step: m.train(step % 2 == 0)),
    "attributes of an object": (lambda: {"settings": Settings()}, attributes_set, nothing),
    "a method of a layer": (dict, Model.mix, patched),
    "equal tensors kept": (dict, equal_kept, lambda m, step: m.p.mul_(2) if step else None),
    "equal tensors returned": (dict, equal_returned, nothing),
    "an error half way": (
        lambda: {"n1": norm(), "stage": ""},
        raises,
        lambda m, step: m.alpha.data.fill_(float(step % 2)),
    ),
    "a question without gradients": (dict, graded, lambda m, step: m.alpha.data.fill_(float(step % 2))),
    "an integer for a stride": (
        lambda: {"d": nn.Conv2d(4, 4, 3, padding=1)},
        lambda m, x: m.d(m.mix(x)),
        lambda m, step: setattr(m.d, "stride", 1 + step % 2),
    ),
    "integers for all": (
        lambda: {"d": nn.Conv2d(4, 4, 3, padding=1)},
        lambda m, x: m.d(m.mix(x)),
        lambda m, step: [setattr(m.d, name, 1 + step % 2) for name in ("padding", "dilation")],
    ),
    "a write past __setattr__": (lambda: {"__class__": Telling}, set_q, nothing),
}
