"""Small tensors that operations need again and again, made once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_FAKE = torch._C._TorchDispatchModeKey.FAKE


def constant(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Remember the tensors that a function makes of hashable arguments.

    They may be kept for the backward passes of any later call, so they are no inference tensors. Under
    ``torch.compile``, and inside a ``FakeTensorMode``, they are made anew and not remembered: what is made there is no
    tensor for others.
    """

    @functools.lru_cache(maxsize=256)
    def known(*args: Any) -> Tensor:
        with torch.inference_mode(False):
            return make(*args)

    @functools.wraps(make)
    def tensor(*args: Any) -> Tensor:
        if torch.compiler.is_compiling() or torch._C._get_dispatch_mode(_FAKE) is not None:
            return make(*args)
        return known(*args)

    return tensor
