"""One thread at a time: captures patch torch's classes and put tensors back, and kernels are swapped in for a call.

Programs run outside of this, side by side. Where a thread captures, others that need to know which program holds wait.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])

ALONE = threading.RLock()
"""What a thread holds meanwhile; it may take it again."""


def alone(function: _Function) -> _Function:
    """Let one thread at a time run a function, or others that are alone."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with ALONE:
            return function(*args, **kwargs)

    return run  # type: ignore[return-value]


if hasattr(os, "register_at_fork"):  # a worker that is forked while another thread captures waits for nobody
    os.register_at_fork(after_in_child=ALONE._at_fork_reinit)  # type: ignore[attr-defined]
