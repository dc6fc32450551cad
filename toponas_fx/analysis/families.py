"""Which family an operation belongs to, whether a module, a function of torch or one that rewritten graphs call."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import batchnorm, conv, instancenorm, pooling

from toponas_fx.ops.registry import operations


@dataclass(frozen=True)
class Family:
    """The ways to write one kind of operation."""

    modules: tuple[type[nn.Module], ...]
    functions: frozenset[str]


CONVOLUTIONS = Family(
    modules=(conv._ConvNd,),
    functions=frozenset(
        "conv1d conv2d conv3d conv_tbc convolution conv_transpose1d conv_transpose2d conv_transpose3d".split()
    ),
)
NORMS = Family(
    modules=(batchnorm._BatchNorm, instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
    functions=frozenset(
        "batch_norm instance_norm group_norm layer_norm rms_norm "
        "native_batch_norm native_group_norm native_layer_norm".split()
    ),
)
ACTIVATIONS = Family(
    modules=(
        *(nn.ReLU, nn.Hardtanh, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.SiLU, nn.Mish, nn.GELU),
        *(nn.GLU, nn.Hardsigmoid, nn.Hardswish, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign),
        *(nn.Softshrink, nn.Hardshrink, nn.Tanhshrink, nn.Threshold),
    ),
    functions=frozenset(
        "relu relu6 hardtanh leaky_relu prelu rrelu elu selu celu silu mish gelu glu hardsigmoid hardswish sigmoid "
        "logsigmoid tanh softplus softsign softshrink hardshrink tanhshrink threshold".split()
    ),
)
POOLINGS = Family(
    modules=(
        *(pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._LPPoolNd),
        *(pooling._AdaptiveMaxPoolNd, pooling._AdaptiveAvgPoolNd),
        *(nn.FractionalMaxPool2d, nn.FractionalMaxPool3d),
    ),
    functions=frozenset(
        f"{kind}_pool{rank}d{suffix}"
        for kind in ("max", "avg", "lp", "adaptive_max", "adaptive_avg", "fractional_max")
        for rank in (1, 2, 3)
        for suffix in ("", "_with_indices")
    ),
)
FAMILIES = (CONVOLUTIONS, NORMS, ACTIVATIONS, POOLINGS)
_BY_NAME = dict(zip(("convolution", "norm", "activation", "pooling"), FAMILIES, strict=True))


def _find_functions() -> dict[Hashable, Family]:
    """Return the family of every function of torch that belongs to one, in-place forms included."""
    found: dict[Hashable, Family] = {}
    for family in FAMILIES:
        for name in sorted(family.functions):
            spellings = [
                getattr(space, spelling, None) for space in (F, torch, torch.Tensor) for spelling in (name, f"{name}_")
            ]
            found.update((function, family) for function in spellings if function is not None)
    return found | {function: _BY_NAME[known.family] for function, known in operations() if known.family}


FAMILY_OF_FUNCTION = _find_functions()
