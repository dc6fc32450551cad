"""The functions that rewritten graphs call; plain torch code, differentiable twice.

A graph may call what is exported here, and what the other modules of this room export under their own names:
``custom_autograd`` (sums and depthwise convolutions whose backward passes cost less than autograd's),
``merged_kernels``, ``average_pooling``, ``batched`` (the arithmetic of many edges at once), ``layouts``
(channels-last inside a graph, the original's layout at its border) and ``recomputing`` (cheap operations that keep a
recipe in place of their result).

A new operation is a function in a file of its own or beside its kin, with ``@operation(...)`` above it, which says what
passes and analyses are to know of it (``registry``): its family, its name for people, whether it may be removed or
merged, what it keeps. It takes tensors, modules and plain numbers, is right under ``torch.func``, autocast and second
derivatives, and states shapes and the source of its formula.

May use: ``errors``.
"""

from toponas_fx.ops import (  # all of them, so that all operations are entered
    average_pooling,
    batched,
    choices,
    custom_autograd,
    layouts,
    merged_kernels,
    recomputing,
)
from toponas_fx.ops.group_weights import ZERO_WEIGHT, group_shares, group_weight, signs_of
from toponas_fx.ops.kernels import embed_kernel, kernel_scale, merge_biases, merge_kernels, scale_bias
from toponas_fx.ops.mixed_sums import mixed_sum, sum_of, zeros_of
from toponas_fx.ops.norms import copy_statistics, scaled_norm
from toponas_fx.ops.recorded import ApplyFunction, guard

__all__ = [
    "ZERO_WEIGHT",
    "ApplyFunction",
    "average_pooling",
    "batched",
    "choices",
    "copy_statistics",
    "custom_autograd",
    "embed_kernel",
    "group_shares",
    "group_weight",
    "guard",
    "kernel_scale",
    "layouts",
    "merge_biases",
    "merge_kernels",
    "merged_kernels",
    "mixed_sum",
    "recomputing",
    "scale_bias",
    "scaled_norm",
    "signs_of",
    "sum_of",
    "zeros_of",
]
