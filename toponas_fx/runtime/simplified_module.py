"""The simplified model: a GraphModule that is also an instance of the user's class."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import networkx as nx
from torch import Tensor, fx, nn

from toponas_fx.module_tree.index import walk_modules
from toponas_fx.report.report import Report
from toponas_fx.runtime.inspection import inspection, submodule
from toponas_fx.runtime.normalized_layers import watch_layers
from toponas_fx.runtime.state import State
from toponas_fx.runtime.state_dict import fit_checkpoint, own_names


class SimplifiedModule(fx.GraphModule):
    """What ``simplify`` returns; a class made on the fly joins it with the user's own.

    ``forward`` runs the rewritten graph, ``reference`` the user's forward on the shared tree. Parameters, buffers and
    plain tensors are the very objects of the model that was simplified. What the user's class or model calls by one of
    the names of this class stays the user's; ``toponas_fx.inspection(fast)`` has what is hidden then.
    """

    _toponas_class: ClassVar[type[nn.Module]]
    _toponas_taken: ClassVar[frozenset[str]]
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
        return inspection(self).reference(*args, **kwargs)

    # -- inspection --------------------------------------------------------------------------------------------------

    @property
    def report(self) -> Report:
        """What was merged, what was refused and why, and what it saves; the first look measures that."""
        return inspection(self).report

    def get_submodule(self, target: str) -> nn.Module:
        """Return the submodule at a path, as every module does, many times faster."""
        return submodule(self, target)

    def topology(self) -> nx.MultiDiGraph:
        """Return the graph of values and candidates, as it is after the rewriting, in the present mode."""
        found: nx.MultiDiGraph = inspection(self).topology()
        return found

    @property
    def graph(self) -> fx.Graph:
        """The rewritten graph of the present mode, ``train()`` or ``eval()``; call ``recompile`` after editing it."""
        return inspection(self).graph

    @graph.setter
    def graph(self, graph: fx.Graph) -> None:
        inspection(self).graph = graph

    @property
    def _graph(self) -> fx.Graph:  # type: ignore[override]
        return inspection(self).graph

    @property
    def code(self) -> str:
        """The Python code of the present mode's graph."""
        return inspection(self).code

    @property
    def _code(self) -> str:
        return inspection(self)._code

    def recompile(self) -> fx.graph.PythonCode:
        """Compile the graph of the present mode after it was edited."""
        found: fx.graph.PythonCode = inspection(self).recompile()
        return found

    def print_readable(self, *args: Any, **kwargs: Any) -> str:
        """Print the code, each part below the line of the user's that it stems from."""
        text: str = inspection(self).print_readable(*args, **kwargs)
        return text

    def __str__(self) -> str:
        """Say what is shared and where the report is, then show modules and code as every GraphModule does."""
        return f"{_headline(self)}\n{fx.GraphModule.__str__(inspection(self))}"

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
        """Return the state under the user's names, every tensor once, under its first name.

        Where it was decided only after ``simplify`` what is shared, all names stay, as torch has it for tied modules.
        """
        found = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        ties = self._toponas_ties()
        own_names(found, prefix, {} if self._toponas.sharing.is_late else ties)
        return found

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Accept a checkpoint of the original model too: names that were removed take the kept module's value."""
        fit_checkpoint(state_dict, prefix, self._toponas_ties(), self._toponas.removed)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._toponas.audits.is_asked = True

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Copy the model; the copy has tensors of its own and runs the same programs."""
        twin: Any = object.__new__(type(self))
        memo[id(self)] = twin
        for name, value in _uncompiled(self).items():
            vars(twin)[name] = value.copy() if name == "_toponas" else copy.deepcopy(value, memo)
        vars(twin)["_toponas"].removed = _removed_of(twin, self._toponas)
        tell_sharing(twin)
        twin._toponas.tree(twin)
        return twin

    def __copy__(self) -> Any:
        """Return a shallow copy, as ``copy.copy`` of any module: the same modules and tensors."""
        twin: Any = object.__new__(type(self))
        vars(twin).update(_uncompiled(self))
        vars(twin)["_toponas"] = self._toponas.copy()
        tell_sharing(twin)
        vars(twin)["_toponas"].removed = dict(self._toponas.removed)
        twin._toponas.tree(twin)
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by the user's class and the attributes."""
        return self._toponas_unpickle, (self._toponas.user_class, self._toponas_taken), _uncompiled(self)

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


def tell_sharing(fast: SimplifiedModule) -> None:
    """Let the ``meta`` of a GraphModule tell what was decided about a model, unless that name is the user's."""
    if "meta" not in fast._toponas_taken:
        vars(fast)["meta"] = {**vars(fast).get("meta", {}), "sharing": fast._toponas.sharing}


def _uncompiled(model: SimplifiedModule) -> dict[str, Any]:
    """Return a model's attributes without what ``model.compile()`` made: it is bound to this one, as torch has it."""
    model._toponas.tree(model)  # forgets what was decided about modules that were replaced
    return {name: value for name, value in vars(model).items() if name != "_compiled_call_impl"}


def _removed_of(root: nn.Module, state: State) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in state.removed:
        owner, _, name = path.rpartition(".")
        found[path] = vars(root.get_submodule(owner))[name]
    return found


def _headline(fast: SimplifiedModule) -> str:
    state = fast._toponas
    ties = list(fast._toponas_ties().items())
    shared = f"; {len(ties)} modules are tied to others, `{ties[0][0]}` to `{ties[0][1]}`" if ties else ""
    report = "toponas_fx.inspection(model).report" if "report" in fast._toponas_taken else "model.report"
    return f"# {state.user_class.__name__}, simplified in mode {state.mode}{shared}; print({report}) says what was done"
