"""Random modules of any kind, as the text of a class that a seed decides; the text is what a failure prints."""

from __future__ import annotations

import functools
import linecache
import random
import sys
import textwrap
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from exactness import image
from random_statements import LOOKS, MIXTURES, PLAIN, REFUSED

_CANDIDATES = (
    "nn.Identity()",
    "Zero()",
    "nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, affine=False))",
    "nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))",
    "nn.Sequential(nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))",
    "nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))",
    "nn.Conv2d(4, 4, 3, padding=1)",
    "nn.Conv2d(4, 4, 1)",
    "nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(4))",
    "nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(inplace=True))",
    "nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4))",
)
_OUTPUTS = (
    "{x}",
    "({x}, {a})",
    "{{'first': {x}, 'none': None, 'rest': [{a}, 2, 'text']}}",
    "[{x}, ({a}, 0.5)]",
    "{x}.mean()",
    "[{x}, {x}, {a}[0]]",
)
_INPUTS = {
    "x": "x, x.tanh()",
    "x, y": "x, y",
    "x, y=None, *, scale=1.0": "x, x * scale if y is None else y * scale",
    "batch": "batch['x'], batch['y'][0]",
    "x, index": "x, x + self.embedding(index).mean(1)[:, :, None, None]",
    "*args": "args[0], args[-1] + 1",
    "pair": "pair",
}
_TEMPLATE = """
class RandomModule(Base):
    FACTOR = 1.5

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
{constructor}

    def helper(self, x, k=1):
        return x * k + self.scale

    def forward(self, {inputs}):
        v0, v1 = {given}
{body}
        return {output}
"""


class Zero(nn.Module):
    """The candidate "none"."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0)


class Doubled(torch.autograd.Function):
    """Twice its input, with a gradient of its own."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * 3


class Base(nn.Module):
    """What all random modules have: plain state that statements read, and rows of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.flag, self.table = 0.5, True, {"k": [1.0, 2.0], "l": [0.5, 3.0]}
        self.rows: list[tuple[str, str]] = []

    def add_row(self, name: str, kind: str, count: int) -> None:
        """Add a row of architecture weights."""
        self.rows.append((name, kind))
        setattr(self, name, nn.Parameter(torch.rand(count) + 0.1))

    def set_vertex(self, chosen: int) -> None:
        """Make each row one-hot."""
        for name, kind in self.rows:
            row = getattr(self, name)
            row.data.fill_(0.0 if kind == "raw" else -1e5)
            row.data[chosen % len(row)] = 1.0 if kind == "raw" else 0.0


@dataclass(frozen=True)
class Source:
    """A random module's text and what its forward takes."""

    seed: int
    text: str
    inputs: str

    @property
    def rows(self) -> int:
        return self.text.count("self.add_row(")

    def build(self) -> Any:
        """Return the module, float64, the same one each time."""
        torch.manual_seed(self.seed)
        return _class_of(self).double()

    def arguments(self, batch: int, seed: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what forward takes."""
        x, y = image(batch, seed=seed), image(batch, seed=seed + 1)
        index = torch.arange(batch * 5).reshape(batch, 5) % 7
        return {
            "x": ((x,), {}),
            "x, y": ((x, y), {}),
            "x, y=None, *, scale=1.0": ((x,), {"y": y, "scale": 2.0} if seed % 2 else {"scale": 0.5}),
            "batch": (({"x": x, "y": [y]},), {}),
            "x, index": ((x, index), {}),
            "*args": ((x, y, x), {}),
            "pair": (((x, y),), {}),
        }[self.inputs]


@functools.cache
def _made(source: Source) -> Any:
    name = f"random_module_{source.seed}"
    module = ModuleType(name)
    vars(module).update(
        {kind.__name__: kind for kind in (Zero, Doubled, Base)}, torch=torch, nn=nn, F=F, functools=functools,
        random=random, numpy=numpy, checkpoint=checkpoint, parametrizations=parametrizations, SCALE=0.75,
        CLOSED=torch.full((6,), 2.0, dtype=torch.float64),
    )  # fmt: skip
    sys.modules[name] = module
    filename = f"{name}.py"
    linecache.cache[filename] = (len(source.text), None, source.text.splitlines(keepends=True), filename)
    exec(compile(source.text, filename, "exec"), vars(module))
    return vars(module)["RandomModule"]


def _class_of(source: Source) -> Any:
    return _made(source)()


def random_source(seed: int) -> Source:
    """Return the module of a seed; every other one holds no mixed operation, every eighth what cannot be compiled."""
    draw = random.Random(seed)
    inputs = draw.choice(list(_INPUTS))
    images, constructor, body = ["v0", "v1"], [], []
    pools = [PLAIN] * 6 + [LOOKS] + ([MIXTURES] * 4 if seed % 2 else []) + ([REFUSED] * 2 if seed % 8 == 0 else [])
    for number in range(draw.randint(1, 7) + seed % 2):
        pool = MIXTURES if seed % 2 and number == 0 else draw.choice(pools)
        values = {"n": number, "i": draw.randrange(4), "o": f"v{number + 2}"}
        values["x"], values["a"] = draw.choice(images[-3:]), draw.choice(images)
        before, _, after = (part.strip() for part in draw.choice(pool).rpartition("---"))
        constructor.append(_mixed(before, number, draw) if before.startswith("row") else before.format(**values))
        body.append(after.format(**values))
        images.append(values["o"])
    output = draw.choice(_OUTPUTS).format(x=images[-1], a=draw.choice(images))
    text = _TEMPLATE.format(
        constructor=textwrap.indent("\n".join(filter(None, constructor)), " " * 8),
        inputs=inputs, given=_INPUTS[inputs], output=output,
        body=textwrap.indent("\n".join(body), " " * 8),
    )  # fmt: skip
    return Source(seed, text, inputs)


def _mixed(row: str, number: int, draw: random.Random) -> str:
    """Return what the constructor makes for a mixed operation: a row of weights and as many candidates."""
    _, kind, count = row.split()
    chosen = ", ".join(draw.choice(_CANDIDATES) for _ in range(int(count)))
    return f"self.add_row('r{number}', '{kind}', {count})\nself.c{number} = nn.ModuleList([{chosen}])"
