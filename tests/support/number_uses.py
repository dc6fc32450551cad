"""Supernets that use a number in many ways, with which it stays symbolic or does not."""

from __future__ import annotations

import functools
import inspect
import json
import marshal
import math
import statistics
import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

RISING = [0.3 + 0.17 * step for step in range(12)]


class Cell(nn.Module):
    """A cell that drops paths of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 3, padding=1)
        self.drop_prob = 0.2

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        if self.training and self.drop_prob > 0.0:
            keep = 1.0 - self.drop_prob
            y = y / keep * torch.rand(len(y), 1, 1, 1, dtype=y.dtype).lt(keep)
        return y


class Net(nn.Module):
    """A mixed operation; ``use`` says what becomes of the number ``t``."""

    scale = 2.0

    def __init__(self, use: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.ops = nn.ModuleList(nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3, 3))
        self.cells = nn.ModuleList((Cell(), Cell()))
        self.alphas = nn.Parameter(torch.tensor([0.5, -1.0, 1.5]))
        self.use = use
        self.t = 1.0
        self.kept = math.fabs
        self.table = {True: 0.5, False: 2.0}
        self.double()

    @property
    def inverse(self) -> float:
        return 1.0 / self.t

    def mix(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


def soft(m: Net, x: Tensor, t: Any) -> Tensor:
    return m.mix(x, F.softmax(m.alphas / t, 0))


def path(m: Net, x: Tensor) -> Tensor:
    return m.mix(x, m.alphas) if m.t > 1.0 else x * m.alphas[0] * m.t


def clipped(m: Net, x: Tensor) -> Tensor:
    return soft(m, x, min(max(m.t, 0.6), 1.4))


def cells(m: Net, x: Tensor) -> Tensor:
    for cell in m.cells:
        x = cell(x)
    return m.mix(x, m.alphas)


def scheduled(m: Net, x: Tensor) -> Tensor:
    warm = 0.1 if m.t < 0.5 else m.t**2 - m.t / 3 + 2 // m.t + m.t % 0.4 - abs(-m.t)
    return soft(m, x, 1 + warm * m.scale)


def caught(m: Net, x: Tensor) -> Tensor:
    try:
        factor = 1 / m.t
    except ZeroDivisionError:
        factor = 5.0
    return soft(m, x, 2 + factor)


STAY_SYMBOLIC = {
    "divided": lambda m, x: soft(m, x, m.t),
    "inverse of a property": lambda m, x: m.mix(x, F.softmax(m.alphas * m.inverse, 0)),
    "by text": lambda m, x: soft(m, x, getattr(m, "t")),  # noqa: B009
    "a path taken": path,
    "clipped": clipped,
    "gumbel": lambda m, x: m.mix(x, F.gumbel_softmax(m.alphas, tau=m.t)),
    "hard gumbel": lambda m, x: m.mix(x, F.gumbel_softmax(m.alphas, m.t, hard=True)),
    "weights of candidates": lambda m, x: m.t * m.ops[0](x) + (1 - m.t) * m.ops[1](x),
    "a factor of a mixture": lambda m, x: m.t * m.mix(x, m.alphas) + x,
    "made a tensor": lambda m, x: soft(m, x, torch.tensor(m.t, dtype=x.dtype)),
    "filled in": lambda m, x: soft(m, x, torch.full((3,), m.t, dtype=x.dtype)),
    "in place": lambda m, x: m.mix(x, m.alphas).mul_(m.t).add_(x, alpha=m.t),
    "compared with numbers": lambda m, x: m.mix(torch.where(x > m.t, x, x * m.t), m.alphas),
    "a slope": lambda m, x: m.mix(F.leaky_relu(x, m.t), m.alphas),
    "clamped": lambda m, x: m.mix(x.clamp(-m.t, m.t), m.alphas),
    "dropped": lambda m, x: m.mix(F.dropout(x, m.t / 3, m.training), m.alphas),
    "read twice": lambda m, x: soft(m, soft(m, x, m.t), m.t + 1),
    "scheduled": scheduled,
    "any of several": lambda m, x: soft(m, x, sorted([m.t, 1.0, 0.5])[1]),
    "true or not": lambda m, x: soft(m, x, m.t or 1.0),
    "a float": lambda m, x: soft(m, x, m.t if isinstance(m.t, float) else 3.0),
    "errors caught": caught,
    "read as one": lambda m, x: soft(m, x, m.t if m.t is m.t else 3.0),
    "kept in a list": lambda m, x: soft(m, x, [m.t, m.t * 2, (m.t, 1)][1]),
    "a chain": lambda m, x: soft(m, x, 1.0 if 0.7 < m.t < 1.3 else 2.0),
}


def by_text(m: Net, x: Tensor) -> Tensor:
    return soft(m, x, {"2.0": 4.0, "1.5": 0.5}.get(f"{m.t:.1f}", 1.0))


def by_old_text(m: Net, x: Tensor) -> Tensor:
    return soft(m, x, {"2": 4.0}.get("%.0f" % m.t, 1.0))  # noqa: UP031


@functools.lru_cache(None)
def remembered(t: float) -> float:
    return t * 2 + 1


BECOME_CONSTANTS = {
    "int": lambda m, x: soft(m, x, 1 + int(m.t)),
    "rounded": lambda m, x: soft(m, x, 1 + round(m.t)),
    "floored": lambda m, x: soft(m, x, 1 + math.floor(m.t)),
    "floored by operator": lambda m, x: soft(m, x, 1 + m.t.__floor__()),
    "exponential": lambda m, x: soft(m, x, math.exp(-m.t)),
    "floor of an exponential": lambda m, x: soft(m, x, 1 + int(math.exp(m.t))),
    "clipped by numpy": lambda m, x: soft(m, x, float(numpy.clip(m.t, 0.9, 1.2))),
    "a ufunc": lambda m, x: soft(m, x, 1 + float(numpy.floor(m.t))),
    "numpy's number": lambda m, x: soft(m, x, 2.0 if numpy.float64(m.t) > 0.9 else 1.0),
    "an array": lambda m, x: soft(m, x, 1 + float(numpy.array([m.t, 1.0]).argmax())),
    "a decimal": lambda m, x: soft(m, x, 1 + int(Decimal(m.t))),
    "close": lambda m, x: soft(m, x, 2.0 if math.isclose(m.t, 1.32, abs_tol=0.01) else 1.0),
    "a sign": lambda m, x: soft(m, x, 2 + math.copysign(1.0, m.t - 0.9)),
    "a text": by_text,
    "an old text": by_old_text,
    "a table": lambda m, x: soft(m, x, {0.3: 0.7, 0.3 + 0.17 * 5: 3.0}.get(m.t, 1.0)),
    "a cut": lambda m, x: m.mix(torch.cat([x[:, : int(1 + m.t)], x[:, int(1 + m.t) :] * 2], 1), m.alphas),
    "an index": lambda m, x: soft(m, x, m.table[bool(int(m.t))]),
    "a table of attributes": lambda m, x: soft(m, x, vars(m)["t"]),
    "made an integer by its ratio": lambda m, x: soft(m, x, 1 + m.t.as_integer_ratio()[0] % 7),
    "its real part": lambda m, x: soft(m, x, 1 + m.t.real),
    "a table of attributes, too": lambda m, x: soft(m, x, m.t + vars(m)["t"]),
    "its type": lambda m, x: soft(m, x, m.t if type(m.t) is float else 3.0),
    "its class": lambda m, x: soft(m, x, m.t if m.t.__class__ is float else 3.0),
    "a method of float": lambda m, x: soft(m, x, 2.0 if float.__lt__(1.2, m.t) is True else 1.0),
    "a method of a number": lambda m, x: soft(m, x, 2.0 if (1.2).__lt__(m.t) else 1.0),
    "written and read": lambda m, x: soft(m, x, 2.0 if json.loads(json.dumps([m.t]))[0] > 1.2 else 1.0),
    "an old text by name": lambda m, x: soft(m, x, {"2": 4.0}.get("%(a).0f" % {"a": m.t}, 1.0)),  # noqa: UP031
    "a complex number": lambda m, x: soft(m, x, 2.0 if m.t == 1.15 + 0j else 1.0),
    "as many": lambda m, x: soft(m, x, 2.0 if torch.arange(0, m.t, 1).numel() > 1 else 1.0),
    "packed": lambda m, x: soft(m, x, 2.0 if struct.unpack("d", struct.pack("d", m.t))[0] > 1.2 else 1.0),
    "what only a float can be": lambda m, x: soft(m, x, marshal.loads(marshal.dumps(m.t))),
    "a mean": lambda m, x: soft(m, x, statistics.mean([m.t, m.t])),
    "made by its type": lambda m, x: soft(m, x, type(m.t)(m.t) * 2),
    "remembered": lambda m, x: soft(m, x, remembered(m.t)),
    "read behind its back": lambda m, x: soft(m, x, object.__getattribute__(m, "t")),
    "read of its class": lambda m, x: soft(m, x, inspect.getattr_static(m, "t")),
    "a function kept": lambda m, x: soft(m, x, 2.0 if m.kept(m.t) > 1.2 else 1.0),
    "a factor of a size": lambda m, x: soft(m, x, x.size(1) * m.t + (1.0 if x.size(0) > m.t else 2.0)),
    "whole": lambda m, x: soft(m, x, 2.0 if (m.t + 0.7).is_integer() else 1.0),
}
