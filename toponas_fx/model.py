"""The simplified model: a GraphModule that is also an instance of the user's class."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import networkx as nx
from torch import Tensor, fx, nn

from toponas_fx.capture.quiet import restored_buffers, restored_generators
from toponas_fx.capture.tree_index import walk_modules
from toponas_fx.checkpoint import fit_checkpoint, own_names
from toponas_fx.errors import ToponasError
from toponas_fx.kernels import normalized_kernels, watch_layers
from toponas_fx.measure import measured_report
from toponas_fx.program import Program
from toponas_fx.report import Report
from toponas_fx.state import State
from toponas_fx.topology import build_topology


class SimplifiedModule(fx.GraphModule):
    """What ``simplify`` returns; a class made on the fly joins it with the user's own.

    ``forward`` runs the rewritten graph, ``reference`` the user's forward on the shared tree. Parameters, buffers and
    plain tensors are the very objects of the model that was simplified.
    """

    _toponas_class: ClassVar[type[nn.Module]]
    _toponas_unpickle: ClassVar[Any]
    _toponas: State

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Build a model of the user's class: what ``type(self)(...)`` means in the user's own code."""
        return cls._toponas_class(*args, **kwargs)

    # -- running -----------------------------------------------------------------------------------------------------

    def reference(self, *args: Any, **kwargs: Any) -> Any:
        """Run the user's own forward on the shared module tree, kernels normalized: the oracle of this model.

        Buffers and random generators are left as they were.

        Args:
            *args: what forward takes.
            **kwargs: likewise.

        Returns:
            What the user's forward returns.
        """
        self._toponas.tree(self)
        with restored_buffers(self), restored_generators(), normalized_kernels(self, self._toponas.sharing):
            return self._toponas.user_forward(self, *args, **kwargs)

    # -- inspection --------------------------------------------------------------------------------------------------

    @property
    def report(self) -> Report:
        """What was merged, what was refused and why, and what it saves; the first look measures that."""
        state = self._toponas
        if state.unmeasured is not None:
            state.report, state.unmeasured = measured_report(self, state, state.unmeasured), None
        found: Report = state.report
        return found

    def get_submodule(self, target: str) -> nn.Module:
        """Return the submodule at a path, as every module does, many times faster."""
        module: Any = self
        try:
            for name in target.split(".") if target else ():
                module = module._modules[name]
        except (KeyError, AttributeError):
            module = None
        found: nn.Module = super().get_submodule(target) if module is None else module
        return found

    def topology(self) -> nx.MultiDiGraph:
        """Return the graph of values and candidates, as it is after the rewriting, in the present mode."""
        return build_topology(self)

    @property
    def graph(self) -> fx.Graph:
        """The rewritten graph of the present mode, ``train()`` or ``eval()``; call ``recompile`` after editing it."""
        state = self._toponas
        if state.working is not None:
            return state.working
        if state.shares_graphs:
            state.programs = [program.copy() for program in state.programs]
            state.shares_graphs = False
        return _present_program(self).graph

    @graph.setter
    def graph(self, graph: fx.Graph) -> None:
        _ = self.graph
        _present_program(self).graph = graph
        self.recompile()

    @property
    def _graph(self) -> fx.Graph:  # type: ignore[override]
        return self.graph

    @property
    def code(self) -> str:
        """The Python code of the present mode's graph."""
        return _present_program(self).code

    @property
    def _code(self) -> str:
        return self.code

    def recompile(self) -> fx.graph.PythonCode:
        """Compile the graph of the present mode after it was edited."""
        graph = self.graph
        _present_program(self).compile()
        return graph.python_code("self")

    # -- checkpoints, copies -----------------------------------------------------------------------------------------

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield the modules under the names that checkpoints have: a shared one not under the paths it took over.

        Parameters and buffers get their names from here. ``torch.func.functional_call`` asks for every name of a
        tensor, and puts back the wrong one where a module has two.
        """
        memo = set() if memo is None else memo
        for path, module in walk_modules(self, self._toponas_ties() if "_toponas" in vars(self) else ()):
            if module not in memo or not remove_duplicate:
                memo.add(module)
                yield f"{prefix}{'.' if prefix and path else ''}{path}", module

    def _toponas_ties(self) -> dict[str, str]:
        """Return the paths that shared modules took over, but for those where another module was put since."""
        state = self._toponas
        if state.index is not None:
            state.tree(self)
        return state.sharing.ties

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state under the user's names, every tensor once, under its first name."""
        found = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        own_names(found, prefix, self._toponas_ties())
        return found

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Accept a checkpoint of the original model too: names that were removed take the kept module's value."""
        fit_checkpoint(state_dict, prefix, self._toponas_ties(), self._toponas.removed)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Copy the model; the copy has tensors of its own and runs the same programs."""
        twin: Any = object.__new__(type(self))
        memo[id(self)] = twin
        for name, value in _uncompiled(self).items():
            vars(twin)[name] = value.copy() if name == "_toponas" else copy.deepcopy(value, memo)
        vars(twin)["_toponas"].removed = _removed_of(twin, self._toponas)
        vars(twin)["meta"]["sharing"] = twin._toponas.sharing
        twin._toponas.tree(twin)
        return twin

    def __copy__(self) -> Any:
        """Return a shallow copy, as ``copy.copy`` of any module: the same modules and tensors."""
        twin: Any = object.__new__(type(self))
        vars(twin).update(_uncompiled(self))
        vars(twin)["_toponas"] = self._toponas.copy()
        vars(twin)["meta"] = {**self.meta, "sharing": twin._toponas.sharing}
        vars(twin)["_toponas"].removed = dict(self._toponas.removed)
        twin._toponas.tree(twin)
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by the user's class and the attributes."""
        return self._toponas_unpickle, (self._toponas.user_class,), _uncompiled(self)

    def __reduce__(self) -> Any:
        """Pickle by the user's class and the attributes."""
        return self.__reduce_ex__(2)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the attributes."""
        vars(self).update(state)
        watch_layers(self, self._toponas.sharing)
        self._toponas.tree(self)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move or convert the parameters that no run reads along with the others."""
        found = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for tensor in self._toponas.removed.values():
            tensor.data = fn(tensor.data)
        return found


def _uncompiled(model: SimplifiedModule) -> dict[str, Any]:
    """Return a model's attributes without what ``model.compile()`` made: it is bound to this one, as torch has it."""
    model._toponas.tree(model)  # forgets what was decided about modules that were replaced
    return {name: value for name, value in vars(model).items() if name != "_compiled_call_impl"}


def _present_program(model: SimplifiedModule) -> Program:
    state = model._toponas
    state.tree(model)
    for program in state.programs:
        if program.fixed[2] == model.training:
            return program
    reason = next(iter(state.as_written.values()), "it has not run in this mode yet")
    raise ToponasError(f"there is no graph in {'training' if model.training else 'evaluation'} mode: {reason}")


def _removed_of(root: nn.Module, state: State) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in state.removed:
        owner, _, name = path.rpartition(".")
        found[path] = vars(root.get_submodule(owner))[name]
    return found
