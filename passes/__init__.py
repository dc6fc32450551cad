"""The rewrite rules, one file each, and the order in which they run."""

from __future__ import annotations

from toponas_fx.passes.batch_kernels import BatchKernels
from toponas_fx.passes.combine_terms import CombineTerms
from toponas_fx.passes.convert_layout import ConvertLayout
from toponas_fx.passes.deduplicate import Deduplicate
from toponas_fx.passes.detect_mixed_ops import DetectMixedOps
from toponas_fx.passes.drop_neutral import DropNeutral
from toponas_fx.passes.drop_zero_candidates import DropZeroCandidates
from toponas_fx.passes.eliminate_dead_code import EliminateDeadCode
from toponas_fx.passes.float_modules import FloatModules
from toponas_fx.passes.fold_weights import FoldWeights
from toponas_fx.passes.gather_bare_weights import GatherBareWeights
from toponas_fx.passes.lower_depthwise import LowerDepthwise
from toponas_fx.passes.lower_pooling import LowerPooling
from toponas_fx.passes.merge_kernels import MergeKernels
from toponas_fx.passes.normalize_kernels import NormalizeKernels
from toponas_fx.passes.recompute import Recompute
from toponas_fx.passes.share_drawn import ShareDrawn
from toponas_fx.passes.share_modules import ShareModules
from toponas_fx.passes.share_prefixes import SharePrefixes
from toponas_fx.passes.unstack_sums import UnstackSums
from toponas_fx.rewriting.pass_base import Pass, Repeat

__all__ = [
    "DEFAULT_PASSES",
    "BatchKernels",
    "CombineTerms",
    "ConvertLayout",
    "Deduplicate",
    "DetectMixedOps",
    "DropNeutral",
    "DropZeroCandidates",
    "EliminateDeadCode",
    "FloatModules",
    "FoldWeights",
    "GatherBareWeights",
    "LowerDepthwise",
    "LowerPooling",
    "MergeKernels",
    "NormalizeKernels",
    "Recompute",
    "ShareDrawn",
    "ShareModules",
    "SharePrefixes",
    "UnstackSums",
]

DEFAULT_PASSES: tuple[Pass | Repeat, ...] = (
    UnstackSums(),  # so that every weighted sum is written with additions
    DetectMixedOps(),  # everything below reads mixed operations in their normal form
    DropZeroCandidates(),  # before sharing, which would count a zero as a candidate
    Repeat(
        Deduplicate(),  # one value for all candidates' ReLUs first; sharing exposes further equals
        FloatModules(),  # stages of unlike depth, before their ends are taken as all there is to share
        ShareModules(),  # alike ends, and then what the shared end reads
        SharePrefixes(),  # alike starts that no norm follows
        CombineTerms(),  # a stage that ends several candidates is one term
    ),
    NormalizeKernels(),  # once it is known which norms are shared, and while each kernel is still its own
    MergeKernels(),  # last of the rules: it needs the normalized kernels
    DropNeutral(),  # what sums begin with, and zeros that had to stay
    GatherBareWeights(),  # before norms take the sum of those of one row
    FoldWeights(),  # into what merging left
    BatchKernels(),  # once no pass looks for the arithmetic of one edge
    LowerDepthwise(),  # the operations are what they will be
    LowerPooling(),
    ConvertLayout(),  # once they are what will read the images
    EliminateDeadCode(),  # what the rules left unread
)
"""What ``simplify`` runs unless told otherwise, in the order of its passes' stages."""
