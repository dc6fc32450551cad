"""What a simplification decided about a model: which modules are tied, which kernels are normalized.

It belongs to the model, not to one graph: decided once from the training capture, it binds every later one.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class NormalizedKernel:
    """One kernel that is normalized wherever it is read.

    Attributes:
        bias: the parameter path of the bias that scales with it, or None.
        per: ``"kernel"`` or ``"filter"``.
    """

    bias: str | None
    per: str


@dataclass
class Sharing:
    """The decisions about one model.

    Attributes:
        is_decided: True once a training capture that has mixed operations is through; later captures add nothing.
        is_late: True where that was not the one of ``simplify``: checkpoints then keep the names of replaced modules.
        ties: path of a replaced module to the path of the module that took its place.
        kernels: path of a kernel parameter to how it is normalized.
    """

    is_decided: bool = False
    ties: dict[str, str] = field(default_factory=dict)
    kernels: dict[str, NormalizedKernel] = field(default_factory=dict)
    is_late: bool = False

    def copy(self) -> Sharing:
        """Return an independent copy."""
        return Sharing(self.is_decided, dict(self.ties), dict(self.kernels), self.is_late)


def sharing_of(gm: object) -> Sharing:
    """Return the decisions of a model in the pipeline, kept in its ``meta``."""
    found: Sharing = gm.meta.setdefault("sharing", Sharing())  # type: ignore[attr-defined]
    return found
