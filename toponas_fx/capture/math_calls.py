"""Python's ``math`` on numbers that stay symbolic: while a run is recorded, its functions tell what they compute.

C's functions read the value of a float at once, unseen. Those that code takes of the module when it runs,
``math.log(self.tau)``, are functions of ours meanwhile. Those that it took before, ``from math import log``, are not,
and code that names one keeps all numbers constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any

from toponas_fx.capture.symbolic_numbers import RecordedFloat, compute

_OF_NUMBERS = (
    "acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh degrees erf erfc exp exp2 expm1 fabs floor "
    "fmod gamma hypot isfinite isinf isnan lgamma log log10 log1p log2 pow radians remainder sin sinh sqrt tan tanh "
    "trunc"
).split()
"""Names of functions that take numbers alone; some are not there in every version of Python."""


def math_stand_ins() -> Iterator[tuple[ModuleType, str, Any]]:
    """Yield where to put what stands in for a function of ``math``, under which name, and what that is."""
    for name in _OF_NUMBERS:
        function = vars(math).get(name)
        if function is not None and getattr(function, "__module__", None) == "math":
            yield math, name, _telling(function)


@cache
def _telling(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*numbers: Any) -> Any:
        if any(type(number) is RecordedFloat for number in numbers):
            value = compute(function, *numbers)
            if value is not NotImplemented:
                return value
        return function(*numbers)

    return call
