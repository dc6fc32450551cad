"""Graphs as Python code: to be read, and to be run."""

from __future__ import annotations

import functools
import keyword
import linecache
import re
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import fx
from torch.fx.graph import _format_target

from toponas_fx.runtime.outlining import Outlined, outlined_parts


def code_of(graph: fx.Graph) -> str:
    """Return the code of an outlined graph as a reader wants it: forward, then the arms of choices that it runs."""
    texts = [_code_of(graph)]
    texts += [as_function(_code_of(part), name) for name, part in outlined_parts(graph)]
    return "\n".join(texts)


def _code_of(graph: fx.Graph) -> str:
    return _respelt(graph.python_code("self").src, graph, _as_read).replace(OUTLINED, "")


OUTLINED = Outlined.__module__.replace(".", "_") + "_"
"""What fx puts before the names of outlined functions."""


def as_function(code: str, name: str) -> str:
    """Return the code of a graph as that of a function of some name."""
    return code.replace("def forward(", f"def {name}(", 1)


def function_of(graph: fx.Graph, entered: Iterable[str], owner: object) -> Callable[..., Any]:
    """Compile a graph, and the parts that it has outlined, to a function of the model and its inputs.

    Args:
        graph: an outlined one.
        entered: paths of the modules that ran.
        owner: its source can be looked up while this lives.
    """
    return _function_of(graph, _fast(entered), owner, "")


def _function_of(graph: fx.Graph, spell: Callable[[list[str]], str], owner: object, name: str) -> Callable[..., Any]:
    python = graph.python_code("self")
    scope = dict(python.globals)
    source = python.src
    for key, target in python.globals.items():
        if isinstance(target, Outlined):
            source = source.replace(f" {key}(", f" {key}(self, ")
            target.functions = [_function_of(p, spell, owner, f"{key}_{i}") for i, p in enumerate(target.parts)]
    run = _respelt(source, graph, spell)
    filename = f"<toponas_fx program {id(owner)}{name and f' {name}'}>"
    linecache.cache[filename] = (len(run), None, run.splitlines(keepends=True), filename)
    weakref.finalize(owner, linecache.cache.pop, filename, None)
    exec(compile(run, filename, "exec"), scope)
    return scope["forward"]  # type: ignore[no-any-return]


_PATH = re.compile(r'(?:getattr\()*self(?:\.\w+|, "[^"]*"\))+')


def _respelt(code: str, graph: fx.Graph, spell: Callable[[list[str]], str]) -> str:
    """Return the code of a graph with the path of each module and attribute in other words."""
    targets = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    spelt = {_format_target("self", target): spell(target.split(".")) for target in targets}
    return _PATH.sub(lambda found: spelt.get(found[0], found[0]), code)


def _as_read(names: list[str]) -> str:
    """Return a path as fx writes it; names that are no identifiers, or keywords (a candidate "None"), with getattr."""
    return functools.reduce(_step, names, "self")


def _fast(entered: Iterable[str]) -> Callable[[list[str]], str]:
    """Return how to write paths so that modules, of which those entered are known, are read from the dicts they are in.

    ``Module.__getattr__`` is Python: a supernet of small tensors spends a twentieth of its forward there.
    """
    modules = {tuple(names[:end]) for names in (p.split(".") for p in entered) for end in range(1, len(names) + 1)}

    def spell(names: list[str]) -> str:
        known = next((end for end in range(len(names), 0, -1) if tuple(names[:end]) in modules), 0)
        path = "".join(["self", *(f'._modules["{name}"]' for name in names[:known])])
        return functools.reduce(_step, names[known:], path)

    return spell


def _step(path: str, name: str) -> str:
    is_plain = name.isidentifier() and not keyword.iskeyword(name)
    return f"{path}.{name}" if is_plain else f'getattr({path}, "{name}")'
