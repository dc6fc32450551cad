"""Forwards that write attributes, as supernets of the field do, and others that a graph cannot leave behind."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pair = namedtuple("Pair", "mean rest")


class Cell(nn.Module):
    """Three candidates and a body that may write."""

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.body = body
        self.ops = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, k, padding=k // 2, bias=False), nn.BatchNorm2d(4))
            for k in (1, 3, 5)
        )
        self.alphas = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))
        self.last: Any = None
        self.seen: Any = None
        self.calls = 0
        self.flag = False
        self.double()

    def mix(self, x: Tensor) -> Tensor:
        """Mix the candidates."""
        return sum(w * op(x) for w, op in zip(self.alphas.softmax(0), self.ops, strict=True))  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Any:
        """Whatever the case does."""
        return self.body(self, x)


def outputs_kept(m: Any, x: Tensor) -> Tensor:
    m.last = [op(x) for op in m.ops]
    return sum(w * f for w, f in zip(m.alphas.softmax(0), m.last, strict=True))  # type: ignore[return-value]


def filled_later(m: Any, x: Tensor) -> Tensor:
    m.last = []
    for op in m.ops:
        m.last.append(op(x).mean())
    return m.mix(x)


def weights_kept(m: Any, x: Tensor) -> Tensor:
    m.last = F.softmax(m.alphas, dim=-1)
    return sum(w * op(x) for w, op in zip(m.last, m.ops, strict=True))  # type: ignore[return-value]


def handed_down(m: Any, x: Tensor) -> Tensor:
    m.ops[0].weight_of_it = m.alphas.softmax(0)[0]
    out = m.ops[0](x) * m.ops[0].weight_of_it
    m.ops[0].weight_of_it = None
    return out + m.mix(x)


def with_the_last(m: Any, x: Tensor) -> Tensor:
    out = m.mix(x)
    if m.last is not None:
        out = out + m.last.mean()
    m.last = out.detach()
    return out


def measured_once(m: Any, x: Tensor) -> Tensor:
    if not m.flag:
        m.seen = [sum(p.numel() for p in op.parameters()) * x.size(2) ** 2 for op in m.ops]
        m.flag = True
    return m.mix(x) * (1 + m.seen[1] * 1e-6)  # type: ignore[no-any-return]


def missing_before(m: Any, x: Tensor) -> Tensor:
    if not hasattr(m, "cache"):
        m.cache = torch.ones(1, dtype=x.dtype) * 0.5
    return m.mix(x) * m.cache  # type: ignore[no-any-return]


def two_levels(m: Any, x: Tensor) -> Tensor:
    out = m.mix(x)
    m.last = {"mean": out.mean((2, 3)), "all": [out, (x.sum(), None)], "n": x.size(0), "name": "a", 3: True}
    return out


def swapped(m: Any, x: Tensor) -> Tensor:
    m.last, m.seen = m.seen, m.alphas.sum() * x.mean()
    return m.mix(x) if m.last is None else m.mix(x) * m.last


def written_twice(m: Any, x: Tensor) -> Tensor:
    m.last = x.sum()
    out = m.mix(x) + m.last
    m.last = out.square().mean()
    return out * m.last  # type: ignore[no-any-return]


def the_output(m: Any, x: Tensor) -> Tensor:
    m.last = m.mix(x)
    return m.last  # type: ignore[no-any-return]


def the_input(m: Any, x: Tensor) -> Tensor:
    m.last = x
    return m.mix(x)


def moved(m: Any, x: Tensor) -> Tensor:
    m.seen = 0.5 if m.seen is None else m.seen * 0.9
    return m.mix(x) * m.seen  # type: ignore[no-any-return]


def ordered(m: Any, x: Tensor) -> Tensor:
    m.last = OrderedDict(b=m.alphas[1] * 2, a=x.mean())
    return m.mix(x)


def layout(m: Any, x: Tensor) -> Tensor:
    out = m.mix(x)
    m.last = out.permute(0, 2, 3, 1)
    m.seen = out.transpose(1, 2)
    return out


def deeper(m: Any, x: Tensor) -> Tensor:
    out = x
    for op in m.ops:
        op[1].last_input = out
        out = op(out)
        op[2].left = (out.mean(), out.shape)
    return out + m.mix(x)


def regularised(m: Any, x: Tensor) -> Tensor:
    m.last = -(m.alphas.softmax(0) * m.alphas.log_softmax(0)).sum()
    return m.mix(x)


def scored(m: Any, x: Tensor) -> Any:
    m.last = Pair(x.mean(), (m.alphas.max(),))
    return m.mix(x), m.last


def eval_only(m: Any, x: Tensor) -> Tensor:
    if not m.training:
        m.last = m.mix(x).argmax(1)
    return m.mix(x)


def rebound_state(m: Any, x: Tensor) -> Tensor:
    m.seen = x.mean((0, 2, 3)) if m.seen is None else 0.9 * m.seen + 0.1 * x.mean((0, 2, 3))
    return m.mix(x) - m.seen.view(1, -1, 1, 1)  # type: ignore[no-any-return]


def shape_kept(m: Any, x: Tensor) -> Tensor:
    m.last = x.shape
    m.seen = x.size(0) * 2 + 1
    return m.mix(x).view(m.last)


def no_gradient(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.last = m.mix(x)
    return m.mix(x) * 2


COMPILED: dict[str, Callable[[Any, Tensor], Any]] = {
    "outputs of candidates, a list (GAEA)": outputs_kept,
    "a list filled later": filled_later,
    "architecture weights (SNAS)": weights_kept,
    "handed down and taken back": handed_down,
    "the last features are read in the next step": with_the_last,
    "sizes at the first call (SNAS)": measured_once,
    "made at the first call": missing_before,
    "a dict of all kinds": two_levels,
    "one takes what the other had": swapped,
    "written twice": written_twice,
    "the output itself": the_output,
    "the input itself": the_input,
    "a number that decays": moved,
    "an ordered dict": ordered,
    "views": layout,
    "of layers within": deeper,
    "a regulariser": regularised,
    "a named tuple, returned as well": scored,
    "in evaluation only": eval_only,
    "a moving mean": rebound_state,
    "a shape and a size": shape_kept,
    "without gradients": no_gradient,
}


def aliased(m: Any, x: Tensor) -> Tensor:
    m.last = m.seen = [x.mean()]
    return m.mix(x)


def of_the_model(m: Any, x: Tensor) -> Tensor:
    m.last = m.table
    return m.mix(x)


def given(m: Any, x: Any) -> Tensor:
    m.last = x
    return m.mix(x[0])


def returned(m: Any, x: Tensor) -> Any:
    m.last = [m.mix(x)]
    return m.last


def an_object(m: Any, x: Tensor) -> Tensor:
    m.last = {x.size(0), "a"}
    return m.mix(x)


def a_module(m: Any, x: Tensor) -> Tensor:
    m.newest = m.ops[0]
    return m.mix(x)


def a_parameter(m: Any, x: Tensor) -> Tensor:
    m.last = m.alphas
    return m.mix(x)


def a_buffer(m: Any, x: Tensor) -> Tensor:
    m.ops[0][2].running_mean = m.ops[0][2].running_mean * 0.5
    return m.mix(x)


def deleted(m: Any, x: Tensor) -> Tensor:
    m.last = x
    del m.last
    m.last = None
    return m.mix(x)


def through_the_table(m: Any, x: Tensor) -> Tensor:
    m.last = x.mean()
    return m.mix(x) * vars(m)["last"]  # type: ignore[no-any-return]


def counted(m: Any, x: Tensor) -> Tensor:
    m.calls += 1
    return m.mix(x) * m.calls


def appended(m: Any, x: Tensor) -> Tensor:
    m.table.append(1)
    return m.mix(x) * len(m.table)


def text_kept(m: Any, x: Tensor) -> Tensor:
    m.last = f"{x.mean():.3f}"
    return m.mix(x)


def item_kept(m: Any, x: Tensor) -> Tensor:
    m.last = x.mean().item()
    return m.mix(x)


ANYHOW: dict[str, Callable[[Any, Any], Any]] = {
    "one list under two names": aliased,
    "a list of the model": of_the_model,
    "a list that is given": given,
    "the list that is returned": returned,
    "a set": an_object,
    "a module": a_module,
    "a parameter": a_parameter,
    "a buffer": a_buffer,
    "deleted": deleted,
    "read through the table": through_the_table,
    "counted": counted,
    "appended": appended,
    "a text": text_kept,
    "a number from data": item_kept,
}
