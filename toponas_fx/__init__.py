"""toponas_fx: a graph-rewriting compiler on torch.fx for one-shot neural architecture search.

::

    model = Network(C=16, layers=8)  # your class, untouched
    model = toponas_fx.simplify(model)
    ...  # optimizers, architect, genotype(), checkpoints: unchanged
"""

from toponas_fx.check import check
from toponas_fx.errors import (
    ArgumentError,
    CaptureError,
    InputError,
    PassError,
    PreconditionError,
    ToponasError,
    VerificationError,
)
from toponas_fx.model import SimplifiedModule
from toponas_fx.report import Report
from toponas_fx.simplify import explain, restore, simplify, topology
from toponas_fx.verdict import Verdict

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
    "explain",
    "restore",
    "simplify",
    "topology",
]
__version__ = "0.1.0"
