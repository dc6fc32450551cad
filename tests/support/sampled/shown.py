"""Sampled supernets as the tests of what is shown of them look at them: simplified once, and only read."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor, nn

import toponas_fx
from sampled.gdas import TinyNetworkGDAS
from sampled.parts import C
from sampled.readings import IndexOfAList

FEW = ("skip_connect", "max_pool_3x3", "nor_conv_3x3")
"""The names of ``parts.few()``."""


def images() -> Tensor:
    """Return images of the size that all of them take."""
    return torch.randn(2, C, 8, 8)


def simplified(model: nn.Module) -> Any:
    """Simplify a model; that it draws a path is nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return toponas_fx.simplify(model, images())


@functools.cache
def gdas() -> Any:
    """Return GDAS on NAS-Bench-201."""
    torch.manual_seed(0)
    return simplified(TinyNetworkGDAS())


@functools.cache
def chain() -> Any:
    """Return edges in a row, each the candidate that is drawn times its weight."""
    torch.manual_seed(0)
    return simplified(IndexOfAList())
