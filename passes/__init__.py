"""The rewrite rules, one file each, and the order in which they run."""

from __future__ import annotations

from toponas_fx.pass_contract import Pass, Repeat
from toponas_fx.passes.deduplicate import Deduplicate
from toponas_fx.passes.detect_mixed_ops import DetectMixedOps
from toponas_fx.passes.drop_zero_candidates import DropZeroCandidates
from toponas_fx.passes.eliminate_dead_code import EliminateDeadCode
from toponas_fx.passes.merge_kernels import MergeKernels
from toponas_fx.passes.normalize_kernels import NormalizeKernels
from toponas_fx.passes.share_modules import ShareModules

__all__ = [
    "DEFAULT_PASSES",
    "Deduplicate",
    "DetectMixedOps",
    "DropZeroCandidates",
    "EliminateDeadCode",
    "MergeKernels",
    "NormalizeKernels",
    "ShareModules",
]

DEFAULT_PASSES: tuple[Pass | Repeat, ...] = (
    DetectMixedOps(),  # everything below reads mixtures in their normal form
    DropZeroCandidates(),  # before sharing, which would count a zero as a candidate
    Repeat(Deduplicate(), ShareModules()),  # one value for all candidates' ReLUs first; sharing exposes further equals
    NormalizeKernels(),  # once it is known which norms are shared, and while each kernel is still its own
    MergeKernels(),  # last of the rules: it needs the normalized kernels
    EliminateDeadCode(),  # what the rules left unread
)
