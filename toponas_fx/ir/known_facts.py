"""Facts that passes ask for again and again, remembered while a pipeline runs.

Within ``remembering`` a fact of a module is computed once: no code but the passes' runs meanwhile, and a pass changes
the tree through ``Rewriter.tie`` alone, which leaves modules without children as they are. A fact of a graph is
computed once for each state of it: whatever changes it goes through the rewriter, which says so. Elsewhere, in a test
of one pass say, each question is answered afresh.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

_Table = dict[Any, dict[int, tuple[Any, Any]]]
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass
class _Tables:
    """What is known: for each function, its results by the identity of the argument, which is kept alive.

    Attributes:
        childless: of modules without children.
        modules: of the other modules.
        graphs: of models, as to their graphs.
        paths: for each model, its modules by path.
        targets: for each model, what functions found at its targets.
    """

    childless: _Table = field(default_factory=dict)
    modules: _Table = field(default_factory=dict)
    graphs: _Table = field(default_factory=dict)
    paths: dict[int, dict[str, nn.Module]] = field(default_factory=dict)
    targets: dict[tuple[Any, int], dict[Any, Any]] = field(default_factory=dict)


_TABLES: ContextVar[_Tables | None] = ContextVar("toponas_fx_remembered", default=None)


@contextmanager
def remembering() -> Iterator[None]:
    """Remember facts inside, and forget them at the end."""
    token = _TABLES.set(_Tables())
    try:
        yield
    finally:
        _TABLES.reset(token)


def of_module(function: _Function) -> _Function:
    """Remember what a function says of a module, its only argument."""

    @functools.wraps(function)
    def answer(module: nn.Module) -> Any:
        tables = _TABLES.get()
        if tables is None:
            return function(module)
        return _answered(tables.modules if module._modules else tables.childless, function, module)

    return answer  # type: ignore[return-value]


def of_graph(function: _Function) -> _Function:
    """Remember what a function finds in the graph of a model, its only argument, until that changes."""

    @functools.wraps(function)
    def answer(gm: nn.Module) -> Any:
        tables = _TABLES.get()
        return function(gm) if tables is None else _answered(tables.graphs, function, gm)

    return answer  # type: ignore[return-value]


@of_module
def parameters_of(module: nn.Module) -> tuple[nn.Parameter, ...]:
    """Return the parameters of a module and of all inside."""
    return tuple(module.parameters())


def known_paths(root: nn.Module) -> dict[str, nn.Module] | None:
    """Return a table for the modules of a model by path, to be filled as they are found; None where none is kept."""
    tables = _TABLES.get()
    return None if tables is None else tables.paths.setdefault(id(root), {})


def by_target(asker: Any, root: nn.Module) -> dict[Any, Any]:
    """Return a table for what is asked of the targets of a model's nodes, to be filled; empty where none is kept."""
    tables = _TABLES.get()
    return {} if tables is None else tables.targets.setdefault((asker, id(root)), {})


def graph_changed() -> None:
    """Forget what was found in graphs."""
    tables = _TABLES.get()
    if tables is not None and tables.graphs:
        tables.graphs = {}


def tree_changed() -> None:
    """Forget what the place of a module tells: one was put in the place of another."""
    tables = _TABLES.get()
    if tables is not None:
        tables.graphs, tables.modules, tables.paths, tables.targets = {}, {}, {}, {}


def _answered(table: _Table, function: Callable[..., Any], subject: Any) -> Any:
    results = table.get(function)
    if results is None:
        results = table[function] = {}
    known = results.get(id(subject))
    if known is None:
        known = results[id(subject)] = (function(subject), subject)
    return known[0]
