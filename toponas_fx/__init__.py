"""toponas_fx: a graph-rewriting compiler on torch.fx for one-shot neural architecture search.

::

    model = Network(C=16, layers=8)  # your class, untouched
    model = toponas_fx.simplify(model)
    ...  # optimizers, architect, genotype(), checkpoints: unchanged
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from toponas_fx.former_names import FormerNames

if TYPE_CHECKING:
    from toponas_fx.api import explain, restore, simplify, topology
    from toponas_fx.checking.check import check
    from toponas_fx.checking.verdict import Verdict
    from toponas_fx.draw import draw
    from toponas_fx.errors import (
        ArgumentError,
        CaptureError,
        InputError,
        PassError,
        PreconditionError,
        ToponasError,
        VerificationError,
    )
    from toponas_fx.facade.unused_parameters import retire, used_parameters
    from toponas_fx.report.report import Report
    from toponas_fx.runtime.inspection import inspection
    from toponas_fx.runtime.simplified_module import SimplifiedModule

__all__ = [
    "ArgumentError",
    "CaptureError",
    "InputError",
    "PassError",
    "PreconditionError",
    "Report",
    "SimplifiedModule",
    "ToponasError",
    "Verdict",
    "VerificationError",
    "check",
    "draw",
    "explain",
    "inspection",
    "restore",
    "retire",
    "simplify",
    "topology",
    "used_parameters",
]
__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(("explain", "restore", "simplify", "topology"), "api"),
    "check": "checking.check",
    "Verdict": "checking.verdict",
    "draw": "draw",
    **dict.fromkeys(("retire", "used_parameters"), "facade.unused_parameters"),
    "Report": "report.report",
    "inspection": "runtime.inspection",
    "SimplifiedModule": "runtime.simplified_module",
}
"""The modules of the names that type checkers see imported above; the others are errors."""


class _Package(ModuleType):
    """This package, which loads what it exports when asked for it: a command that tells its usage needs no torch."""

    def __getattr__(self, name: str) -> Any:
        """Load a name, or a module of the package."""
        module = f"{__name__}.{_HOMES.get(name, 'errors' if name in __all__ else name)}"
        if name.startswith("_") or find_spec(module) is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = import_module(module)
        if name in __all__:
            found = vars(self)[name] = getattr(found, name)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep ``simplify`` for the function: to import the module ``toponas_fx.simplify`` would bind that."""
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        """Name what is not loaded yet too."""
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
sys.meta_path.insert(0, FormerNames())
