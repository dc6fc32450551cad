"""Random programs of Python that a forward reads numbers through, and random changes of what they lead to.

A program is source text, so that what it defines is what a user's file defines: globals, functions, closures, classes.
A number lies somewhere (a *place*), is reached through a chain of *ways*, and is used by forward in some *use*.
"""

from __future__ import annotations

import random
import sys
import textwrap
import types
from dataclasses import dataclass, field
from typing import Any

VALUES = (0.5, 1.0, 1.5, 2.0, 3.0)

PLACES = {
    "global": ("G{n} = 1.0", "G{n}", "global G{n}; G{n} = v"),
    "dict": ("D{n} = {{'a': [{{'b': 1.0}}]}}", "D{n}['a'][0]['b']", "D{n}['a'][0]['b'] = v"),
    "deque": ("D{n} = collections.deque([0.0, 1.0])", "D{n}[1]", "D{n}[1] = v"),
    "chain map": ("D{n} = collections.ChainMap({{}}, {{'a': 1.0}})", "D{n}['a']", "D{n}['a'] = v"),
    "namespace": ("N{n} = types.SimpleNamespace(a=types.SimpleNamespace(b=1.0))", "N{n}.a.b", "N{n}.a.b = v"),
    "arguments": ("N{n} = argparse.Namespace(tau=1.0)", "N{n}.tau", "N{n}.tau = v"),
    "dataclass": (
        "@dataclasses.dataclass\nclass K{n}:\n    a: float = 1.0\n"
        "    b: list = dataclasses.field(default_factory=list)\n"
        "N{n} = K{n}()",
        "N{n}.a",
        "N{n}.a = v",
    ),
   "named tuple": (
        "T{n} = collections.namedtuple('T{n}', 'a b')(1.0, 2)",
        "T{n}.a",
        "global T{n}; T{n} = T{n}._replace(a=v)",
    ),
    "slots": ("class K{n}:\n    __slots__ = ('a',)\nN{n} = K{n}()\nN{n}.a = 1.0", "N{n}.a", "N{n}.a = v"),
    "class": ("class K{n}:\n    a = 1.0", "K{n}.a", "K{n}.a = v"),
    "inherited": ("class B{n}:\n    a = 1.0\nclass K{n}(B{n}):\n    pass", "K{n}().a", "B{n}.a = v"),
    "environment": ("os.environ['TOPONAS_FUZZ_{n}'] = '1.0'", "float(os.environ['TOPONAS_FUZZ_{n}'])",
                    "os.environ['TOPONAS_FUZZ_{n}'] = str(v)"),
    "getenv": ("os.environ['TOPONAS_FUZZ_{n}'] = '1.0'", "float(os.getenv('TOPONAS_FUZZ_{n}', '9'))",
               "os.environ['TOPONAS_FUZZ_{n}'] = str(v)"),
    "context": ("V{n} = contextvars.ContextVar('V{n}', default=1.0)", "V{n}.get()", "V{n}.set(v)"),
    "thread": ("L{n} = threading.local()\nL{n}.a = 1.0", "L{n}.a", "L{n}.a = v"),
    "python module": ("M{n} = types.ModuleType('m{n}')\nM{n}.a = 1.0", "M{n}.a", "M{n}.a = v"),
    "parser": ("C{n} = configparser.ConfigParser()\nC{n}['a'] = {{'b': '1.0'}}", "C{n}.getfloat('a', 'b')",
               "C{n}['a']['b'] = str(v)"),
    "json": ("J{n} = '[1.0]'", "json.loads(J{n})[0]", "global J{n}; J{n} = json.dumps([v])"),
    "cell": ("def make{n}():\n    held = 1.0\n    def read():\n        return held\n    def write(v):\n"
             "        nonlocal held\n"
             "        held = v\n    return read, write\nR{n}, W{n} = make{n}()", "R{n}()", "W{n}(v)"),
    "enclosed list": ("def make{n}():\n    held = [1.0]\n"
                      "    return (lambda: held[0]), (lambda v: held.__setitem__(0, v))\n"
                      "R{n}, W{n} = make{n}()", "R{n}()", "W{n}(v)"),
    "function attribute": ("def F{n}():\n    return F{n}.a\nF{n}.a = 1.0", "F{n}()", "F{n}.a = v"),
    "default": ("def F{n}(a=1.0):\n    return a", "F{n}()", "F{n}.__defaults__ = (v,)"),
    "enumeration": ("class E{n}(enum.Enum):\n    LOW = 1.0\n    HIGH = 2.0\nE{n}_now = E{n}.LOW", "E{n}_now.value",
                    "global E{n}_now; E{n}_now = E{n}.HIGH if v > 1 else E{n}.LOW"),
    "weak": ("class K{n}:\n    pass\nO{n} = K{n}()\nO{n}.a = 1.0\nW{n} = weakref.ref(O{n})", "W{n}().a", "O{n}.a = v"),
    "object": ("class K{n}:\n    def __init__(self):\n        self.a = 1.0\n    def get(self):\n        return self.a\n"
               "N{n} = K{n}()", "N{n}.get()", "N{n}.a = v"),
    "item": ("class K{n}:\n    a = 1.0\n    def __getitem__(self, key):\n        return getattr(self, key)\n"
             "N{n} = K{n}()",
             "N{n}['a']", "N{n}.a = v"),
    "any attribute": ("class K{n}:\n    def __init__(self):\n        self.held = {{'a': 1.0}}\n"
                      "    def __getattr__(self, name):\n"
                      "        return self.held[name]\nN{n} = K{n}()", "N{n}.a", "N{n}.held['a'] = v"),
    "own": ("", "self.s{n}", "for m in models: m.s{n} = v"),
    "own dict": ("", "self.d{n}['a']", "for m in models: m.d{n}['a'] = v"),
    "own table": ("", "vars(self)['s{n}']", "for m in models: m.s{n} = v"),
    "own settings": ("", "self.n{n}.a", "for m in models: m.n{n}.a = v"),
    "child": ("", "self.ops[1].s{n}", "for m in models: m.ops[1].s{n} = v"),
    "own by text": ("", "getattr(self, 's' + str({n}))", "for m in models: m.s{n} = v"),
}  # fmt: skip
"""Where a number lies: what sets it up, how it is read, and how it is changed to ``v``."""

WAYS = {
    "function": ("def f{k}({self}):\n    return {e}", "f{k}({self})"),
    "lambda": ("f{k} = lambda {self}: {e}", "f{k}({self})"),
    "nested": ("def f{k}({self}):\n    def inner():\n        return {e}\n    return inner()", "f{k}({self})"),
    "through a table": ("def f{k}({self}):\n    return {e}\nT{k} = {{'f': [f{k}]}}", "T{k}['f'][0]({self})"),
    "property": ("class P{k}:\n    def __init__(self, owner=None):\n        self.owner = owner\n    @property\n"
                 "    def v(this):\n        self = this.owner\n        return {e}", "P{k}({self}).v"),
    "descriptor": ("class D{k}:\n    def __get__(this, owner, kind=None):\n        self = owner.owner\n"
                   "        return {e}\n"
                   "class P{k}:\n    v = D{k}()\n    def __init__(self, owner=None):\n"
                   "        self.owner = owner", "P{k}({self}).v"),
    "static method": ("class P{k}:\n    @staticmethod\n    def v({self}):\n        return {e}", "P{k}.v({self})"),
    "class method": ("class P{k}:\n    @classmethod\n    def v(cls, {self}):\n        return {e}", "P{k}.v({self})"),
    "callable": ("class P{k}:\n    def __call__(this, {self}):\n        return {e}\np{k} = P{k}()", "p{k}({self})"),
    "partial": ("def f{k}(a, {self}):\n    return a + {e}\nq{k} = functools.partial(f{k}, 0.0)", "q{k}({self})"),
    "decorated": ("def deco{k}(f):\n    @functools.wraps(f)\n    def run(*args):\n        return f(*args)\n"
                  "    return run\n"
                  "@deco{k}\ndef f{k}({self}):\n    return {e}", "f{k}({self})"),
    "generator": ("def f{k}({self}):\n    yield {e}", "next(f{k}({self}))"),
    "context manager": ("@contextlib.contextmanager\ndef f{k}({self}):\n    yield {e}\ndef g{k}({self}):\n"
                        "    with f{k}({self}) as v:\n        return v", "g{k}({self})"),
    "caught": ("def f{k}({self}):\n    try:\n        return {e} if {e} < 2.5 else 1 / 0\n"
               "    except ZeroDivisionError:\n"
               "        return 0.25", "f{k}({self})"),
    "comprehension": ("", "[{e} for _ in range(2)][1]"),
    "if": ("", "(1.75 if {e} > 1.25 else 1.0)"),
    "between": ("", "(2.0 if 0.75 < {e} <= 1.5 else 1.0)"),
    "clamped": ("", "max(0.75, min({e}, 1.75))"),
    "integer": ("", "int({e} * 2)"),
    "rounded": ("", "round({e}, 0)"),
    "text": ("", "float('{{:.1f}}'.format({e}))"),
    "key": ("", "{{0.5: 3.0, 1.0: 1.25}}.get({e}, 2.25)"),
    "length": ("", "len([0] * int({e} * 2))"),
    "sum": ("", "sum([{e}, 0.5])"),
    "power": ("", "({e}) ** 2"),
    "boolean": ("", "(1.5 if bool({e} - 1.0) else 1.0)"),
    "mathematics": ("", "math.sqrt({e})"),
}  # fmt: skip
"""How what is read at ``e`` is reached from elsewhere: what to define, and the new expression."""

USES = (
    "out = out * ({e})",
    "out = out + ({e})",
    "weights = torch.softmax(self.alphas / ({e} + 0.5), 0)",
    "out = out * torch.tensor({e}, dtype=out.dtype)",
    "out = out if {e} > 1.25 else out * 2",
    "out = out + self.ops[int({e} * 2) % 3](x)",
    "out = torch.nn.functional.leaky_relu(out, {e} / 8)",
    "out = out.clamp(-({e}) - 0.1, 2)",
)
_PARTS = """
import argparse, collections, configparser, contextlib, contextvars, dataclasses, enum, functools, json, math, os
import threading, types, weakref
import torch
from torch import nn
"""
_NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.ops = nn.ModuleList(nn.Conv2d(3, 3, k, padding=k // 2, bias=False) for k in (1, 3, 5))
        self.alphas = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))
{own}
        self.double()

    def forward(self, x):
        weights = torch.softmax(self.alphas, 0)
        out = 0.0
{before}
        out = sum(w * op(x) for w, op in zip(weights, self.ops))
{after}
        return out


def change(models, n, v):
{changes}
"""


@dataclass
class RandomState:
    """A program, made of a seed.

    Attributes:
        seed: which.
        source: its text.
        names: for each number, where it lies, the ways to it, and its use.
    """

    seed: int
    source: str = field(init=False)
    names: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Write it."""
        rng = random.Random(self.seed)
        definitions, own, before, after, changes = [_PARTS], [], [], [], []
        for n in range(rng.randint(1, 3)):
            place = rng.choice(sorted(PLACES))
            setup, read, change = (text.format(n=n) for text in PLACES[place])
            chain = [place]
            definitions.append(setup)
            own += [f"self.s{n} = 1.0", f"self.d{n} = {{'a': 1.0}}", f"self.n{n} = types.SimpleNamespace(a=1.0)"]
            own.append(f"self.ops[1].s{n} = 1.0")
            for k in range(rng.randint(0, 3)):
                way = rng.choice(sorted(WAYS))
                define, read_so = WAYS[way]
                details = {"k": f"{n}_{k}", "e": read, "self": "self" if "self" in read else ""}
                definitions.append(define.format(**details))
                read = read_so.format(**details)
                chain.append(way)
            use = rng.choice(USES).format(e=read)
            (before if use.startswith("weights") else after).append(use)
            changes.append(f"if n == {n}:\n    {change}")
            self.names.append((*chain, use))
        net = _NET.format(
            own=textwrap.indent("\n".join(own), " " * 8),
            before=textwrap.indent("\n".join(before), " " * 8),
            after=textwrap.indent("\n".join(after), " " * 8),
            changes=textwrap.indent("\n".join(changes), "    "),
        )
        self.source = "\n".join(definitions) + net

    def module(self, name: str) -> Any:
        """Run it as a Python module of a name."""
        made = types.ModuleType(name)
        sys.modules[name] = made
        exec(compile(self.source, f"{name}.py", "exec"), vars(made))
        return made
