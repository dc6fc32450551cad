"""Looking at what was made of a model, whatever names its class has taken: ``toponas_fx.inspection(fast)``."""

from __future__ import annotations

import copy
import linecache
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import networkx as nx
from torch import fx, nn

from toponas_fx.analysis.topology import build_topology
from toponas_fx.capture.alone import ALONE
from toponas_fx.errors import ArgumentError, ToponasError
from toponas_fx.ir import known_facts
from toponas_fx.module_tree.isolation import restored_buffers, restored_generators
from toponas_fx.report.report import Report
from toponas_fx.runtime.compiled import OUTLINED, as_function
from toponas_fx.runtime.measure import measured_report
from toponas_fx.runtime.normalized_layers import normalized_kernels
from toponas_fx.runtime.outlining import outlined, outlined_parts
from toponas_fx.runtime.program import Program
from toponas_fx.runtime.state import State


def inspection(fast: nn.Module) -> Inspection:
    """Return a view of a simplified model as a plain ``torch.fx.GraphModule``, with its report, graph and reference.

    A simplified model has them itself. But an attribute of the user's goes before one of its own: the ``graph`` of a
    supernet that is a networkx graph too, a ``report()`` of its class. Then this is where they are.

    Args:
        fast: what ``simplify`` returned.

    Returns:
        A view of the very same modules and tensors, without the user's class: ``report``, ``reference(...)``,
        ``topology()``, and ``graph``, ``code``, ``recompile()`` and ``print_readable()`` as of any GraphModule.

    Raises:
        ArgumentError: the argument is no simplified model.
    """
    return fast if isinstance(fast, Inspection) else _view(fast, None)


def at_work(fast: nn.Module, graph: fx.Graph) -> Inspection:
    """Return a view of a simplified model with a graph that belongs to no program yet: what passes rewrite."""
    return _view(fast, graph)


def _view(fast: nn.Module, graph: fx.Graph | None) -> Inspection:
    if not isinstance(vars(fast).get("_toponas"), State):
        raise ArgumentError(f"inspection takes what simplify returned, not {type(fast).__name__}")
    view = object.__new__(Inspection)
    object.__setattr__(view, "__dict__", vars(fast))
    object.__setattr__(view, "_toponas_model", getattr(fast, "_toponas_model", fast))
    object.__setattr__(view, "_toponas_graph", graph)
    return view


class _Method:
    """A method that no attribute of the user's hides: the view has the model's own table of attributes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, view: Any, owner: Any = None) -> Any:
        return self._function if view is None else MethodType(self._function, view)

    def __set__(self, view: Any, value: Any) -> None:
        raise AttributeError(f"an inspection's {self._function.__name__} cannot be set")


class Inspection(fx.GraphModule):
    """A view of a simplified model; see ``inspection``."""

    __slots__ = ("_toponas_graph", "_toponas_model")
    _toponas: State
    _toponas_model: Any
    _toponas_graph: fx.Graph | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse to be made otherwise."""
        raise ArgumentError("use toponas_fx.inspection(fast)")

    @property
    def report(self) -> Report:
        """What was merged, what was refused and why, and what it saves; the first look measures that."""
        state = self._toponas
        if state.unmeasured is not None:
            inputs, state.unmeasured = state.unmeasured, None
            state.report = measured_report(self._toponas_model, state, inputs)
        found: Report = state.report
        return found

    @_Method
    def reference(self, *args: Any, **kwargs: Any) -> Any:
        """Run the user's own forward on the shared module tree, kernels normalized; see ``SimplifiedModule``."""
        model, state = self._toponas_model, self._toponas
        state.tree(model)
        with ALONE, restored_buffers(model), restored_generators(), normalized_kernels(model, state.sharing):
            return state.user_forward(model, *args, **kwargs)

    @_Method
    def topology(self) -> nx.MultiDiGraph:
        """Return the graph of values and candidates, as it is after the rewriting, in the present mode."""
        return build_topology(self)

    @property
    def graph(self) -> fx.Graph:
        """The rewritten graph of the present mode, ``train()`` or ``eval()``; call ``recompile`` after editing it."""
        if self._toponas_graph is not None:
            return self._toponas_graph
        state = self._toponas
        if state.shares_graphs:
            state.programs = [program.copy() for program in state.programs]
            state.shares_graphs = False
        return self._program.graph

    @graph.setter
    def graph(self, graph: fx.Graph) -> None:
        _ = self.graph
        self._program.graph = graph
        self.recompile()

    @property
    def _graph(self) -> fx.Graph:  # type: ignore[override]
        return self.graph

    @property
    def code(self) -> str:
        """The Python code of the present mode's graph."""
        return self._program.code

    @property
    def _code(self) -> str:
        """What ``print(model)`` says of the graph: its code, or why there is none."""
        try:
            return self.code
        except ToponasError as absent:
            return f"# {absent}"

    @property
    def meta(self) -> dict[str, Any]:  # type: ignore[override]
        """What passes know of the model besides its graph."""
        return {"sharing": self._toponas.sharing}

    @_Method
    def recompile(self) -> fx.graph.PythonCode:
        """Compile the graph of the present mode after it was edited."""
        graph = self.graph
        self._program.compile()
        return graph.python_code("self")

    @_Method
    def print_readable(self, print_output: bool = True, *args: Any, **kwargs: Any) -> str:
        """Print the code, each part below the line of the user's that it stems from; at the end the arms of choices."""
        for node in self.graph.nodes:
            file, _, line = str(node.meta.get("where", "")).rpartition(":")
            if file and "stack_trace" not in node.meta:
                code = linecache.getline(file, int(line)).strip()
                node.meta["stack_trace"] = f'File "{file}", line {line}, in forward\n{code}'
        graph = outlined(self.graph)
        text: str = fx.GraphModule.print_readable(at_work(self._toponas_model, graph), False, *args, **kwargs)
        for name, part in outlined_parts(graph):
            code = fx.GraphModule.print_readable(at_work(self._toponas_model, part), False, *args, **kwargs)
            text += "\n" + as_function(code.partition("\n")[2], name)
        text = text.replace("No stacktrace found for following nodes", "Of no line of forward's: made by passes")
        text = text.replace(OUTLINED, "")
        if print_output:
            print(text)
        return text

    @property
    def _program(self) -> Program:
        state, training = self._toponas, self._toponas_model.training
        state.tree(self._toponas_model)
        for program in state.programs:
            if program.fixed[2] == training:
                return program
        reason = next(iter(state.as_written.values()), "it has not run in this mode yet")
        raise ToponasError(f"there is no graph in {'training' if training else 'evaluation'} mode: {reason}")

    @_Method
    def get_submodule(self, target: str) -> nn.Module:
        """Return the submodule at a path; at the empty one the model, whose attributes are what paths lead to."""
        return submodule(self._toponas_model, target)

    @_Method
    def get_parameter(self, target: str) -> nn.Parameter:
        """Return the parameter at a path."""
        found: nn.Parameter = self._toponas_model.get_parameter(target)
        return found

    @_Method
    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """Yield the model's modules; see ``SimplifiedModule``."""
        yield from self._toponas_model.named_modules(*args, **kwargs)

    def _get_name(self) -> str:
        return type(self._toponas_model).__name__

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return a view of a copy of the model."""
        return inspection(copy.deepcopy(self._toponas_model, memo))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as a view of the model."""
        return inspection, (self._toponas_model,)


def submodule(root: nn.Module, target: str) -> nn.Module:
    """Return the submodule at a path, many times faster than a module's own method, which has the error to raise."""
    known = known_facts.known_paths(root)
    if known is not None and target in known:
        return known[target]
    module: Any = root
    try:
        for name in target.split(".") if target else ():
            module = module._modules[name]
    except (KeyError, AttributeError):
        module = None
    found = nn.Module.get_submodule(root, target) if module is None else module
    if known is not None:
        known[target] = found
    return found
