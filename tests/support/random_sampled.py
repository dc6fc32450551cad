"""Random supernets that sample a path, as the text of a class that a seed decides; a failure prints the text."""

from __future__ import annotations

import functools
import linecache
import random
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.distributions import Categorical, OneHotCategorical
from torch.nn import functional as F

from idiom import Zero, conv, dilated, pool
from sampled.arms import Averaging
from sampled.parts import Head, Sampled, sample
from sampled.side_by_side import built
from sampled_statements import BETWEEN, CANDIDATES, DRAWS, KEPT, KEPT_USES, OUTPUTS, USES

_TEMPLATE = """
class RandomSampled(Sampled):
    def __init__(self):
        super().__init__()
        self.shared, self.norm, self.head = conv(3), nn.BatchNorm2d(4), Head()
        self.tau, self.decay = {tau}
{constructor}
    def arch(self):
        return [parameter for name, parameter in self.named_parameters() if name[0] == "a"]

    def prepare(self, step):
        self.tau -= self.decay
{prepare}
    def forward(self, x):
{body}
        return {output}
"""
_NAMES: dict[str, Any] = {
    **{thing.__name__: thing for thing in (Sampled, Head, Averaging, Zero, Categorical, OneHotCategorical)},
    **{thing.__name__: thing for thing in (sample, conv, dilated, pool)},
    **{"torch": torch, "nn": nn, "F": F, "random": random},
}


@dataclass(frozen=True)
class Source:
    """A random sampled supernet's text."""

    seed: int
    text: str
    is_kept: bool = False

    def build(self) -> Any:
        """Return the supernet, f64, the same one each time."""
        return built(_made(self), self.seed)


@functools.cache
def _made(source: Source) -> Any:
    """Return the class of a text, in a module that pickle and tracebacks find."""
    name = f"random_{'kept' if source.is_kept else 'sampled'}_{source.seed}"
    module = ModuleType(name)
    vars(module).update({**_NAMES, "Structure": Structure})
    sys.modules[name] = module
    filename = f"{name}.py"
    linecache.cache[filename] = (len(source.text), None, source.text.splitlines(keepends=True), filename)
    exec(compile(source.text, filename, "exec"), vars(module))
    return vars(module)["RandomSampled"]


class Structure:
    """What the model keeps of all choices, number and name each."""

    def __init__(self, nodes: list[tuple[int, str]]) -> None:
        self.nodes = nodes


def random_sampled(seed: int, *, is_kept: bool = False) -> Source:
    """Return the supernet of a seed: one to three choices, each drawn, read and used in ways of its own.

    Args:
        seed: decides all.
        is_kept: whether most choices are not drawn, but kept in attributes that are set before each step.
    """
    draw, keep = random.Random(seed), random.Random(seed)
    kept = list[tuple[int, int]]()
    count, is_early = draw.randint(1, 3), draw.random() < 0.4
    constructor, draws, body, states = list[str](), list[str](), list[str](), ["x"]
    read = set[str]()
    for number in range(count):
        size = draw.randint(2, 3)
        values = {"n": number, "c": size, "x": draw.choice(states[-2:]), "o": f"v{number}"}
        read.add(values["x"])
        constructor += _choice(number, [draw.choice(CANDIDATES) for _ in range(size)])
        draws.append(draw.choice(DRAWS).format(**values))
        use = draw.choice(USES).format(**values)
        kept.append((number, size))
        if is_kept and keep.random() < 0.7:
            own = keep.choice(KEPT).format(**values)
            draws[-1] = f"{own}\ni{number} = torch.tensor(k)\nw{number} = self.a{number}.softmax(0)"
            use = "\n".join((own, keep.choice(KEPT_USES).format(**values)))
        if number and is_early and draw.random() < 0.3:  # taken or not as the choice before says
            use = f"v{number} = {values['x']}\nif i{number - 1} == 0:\n{textwrap.indent(use, '    ')}"
        body += [use] if is_early else [draws[-1], use]
        states.append(values["o"])
        if draw.random() < 0.4:
            values |= {"x": states[-1], "a": draw.choice(states), "o": f"u{number}"}
            between = draw.choice(BETWEEN)
            read |= {values["x"], values["a"]} if "{a}" in between else {values["x"]}
            body.append(between.format(**values))
            states.append(values["o"])
    if draw.random() < 0.3:  # the first choice decides once more
        body.append(f"y = self.e0[i0.item()]({states[-1]})")
        read.add(states[-1])
        states.append("y")
    unread = [state for state in states[1:-1] if state not in read]
    if unread:  # a choice whose result nobody reads is left out
        body.append(f"z = {' + '.join([states[-1], *unread])}")
        states.append("z")
    output = draw.choice(OUTPUTS).format(x=states[-1], n=draw.randrange(count))
    body = draws * is_early + body
    text = _text(constructor, body, output, draw.choice(["5, 0", "4.0, 0.0", "6.0, 0.125"]), kept if is_kept else ())
    return Source(seed, text, is_kept)


def _choice(number: int, candidates: list[str]) -> list[str]:
    """Return what the constructor makes for one choice."""
    listed = ", ".join(candidates)
    return [
        f"self.a{number} = nn.Parameter(0.1 * torch.randn({len(candidates)}))",
        f"self.e{number} = nn.ModuleList([{listed}])",
        f"self.seen{number} = [0] * {len(candidates)}",
    ]


def _text(constructor: list[str], body: list[str], output: str, tau: str, kept: Sequence[tuple[int, int]]) -> str:
    prepare = list[str]()
    for number, size in kept:
        constructor = [*constructor, f"self.names{number} = ['first', 'second', 'third'][:{size}]"]
        prepare += [
            f"self.k{number} = random.randrange({size})",
            f"self.name{number} = random.choice(self.names{number})",
        ]
    if kept:
        prepare += [
            f"self.path = [random.randrange(size) for _, size in {kept}]",
            f"self.table = {{f'e{{number}}': random.randrange(size) for number, size in {kept}}}",
            f"drawn = [(random.randrange(size), random.randrange(size)) for _, size in {kept}]",
            "self.structure = Structure([(k, ['first', 'second', 'third'][j]) for k, j in drawn])",
        ]
        constructor = [*constructor, "self.prepare(0)"]
    parts = (textwrap.indent("\n".join(lines), " " * 8) for lines in (constructor, body, prepare))
    constructed, run, prepared = parts
    return _TEMPLATE.format(constructor=f"{constructed}\n", body=run, output=output, tau=tau, prepare=f"{prepared}\n")
