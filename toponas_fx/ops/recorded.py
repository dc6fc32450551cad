"""What only a recording writes into a graph: guards on answers read from data, and the user's autograd functions."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.autograd import Function

from toponas_fx.errors import GuardFailure
from toponas_fx.ops.registry import operation


@operation(has_effect=True, gives_data=False)
def guard(value: Any, expected: Any) -> None:
    """Hold a run to the answer that the recorded run got from its data.

    Args:
        value: what this run's data say; a tensor stands for its truth value.
        expected: what the recorded run read.

    Raises:
        GuardFailure: the answers differ.
    """
    found = bool(value) if isinstance(value, Tensor) else value
    both_nan = isinstance(found, float) and isinstance(expected, float) and math.isnan(found) and math.isnan(expected)
    if not (found == expected or both_nan):
        raise GuardFailure(f"the recorded run read {expected!r} where this run reads {found!r}")


class ApplyFunction:
    """A ``torch.autograd.Function`` as the target of a node: calling it calls ``function.apply``."""

    def __init__(self, function: type[Function]) -> None:
        """Take the Function's class; name and module are its own, for the graph text and for pickle."""
        self.function = function
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = __name__

    def __call__(self, *args: Any) -> Any:
        """Apply the function."""
        return self.function.apply(*args)

    def __eq__(self, other: object) -> bool:
        """Two wrappers of one Function are the same target."""
        return isinstance(other, ApplyFunction) and other.function is self.function

    def __hash__(self) -> int:
        """Hash by the wrapped class."""
        return hash(self.function)
