"""Where modules were before they had rooms: pickles of that time, and code that names them, find what they name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_ROOT = "toponas_fx."
FORMER = {
    "agreement": "runtime.equal_statistics",
    "assembly": "facade.assembly",
    "batched_ops": "ops.batched",
    "calibration": "analysis.norm_inputs",
    "capture.code_state": "capture.python_state",
    "capture.frozen": "module_tree.snapshots",
    "capture.functions": "capture.torch_calls",
    "capture.layers": "module_tree.layers",
    "capture.leaves": "capture.module_patches",
    "capture.numbers": "capture.symbolic_numbers",
    "capture.owners": "module_tree.tensor_paths",
    "capture.quiet": "module_tree.isolation",
    "capture.sizes": "capture.symbolic_sizes",
    "capture.tree_index": "module_tree.index",
    "check": "checking.check",
    "cli": "command.cli",
    "checkpoint": "runtime.state_dict",
    "comparison": "checking.comparison",
    "compiler": "compiling.compiler",
    "costs": "analysis.costs",
    "deciding": "compiling.decide_sharing",
    "graph_pickle": "ir.serialization",
    "graph_text": "ir.printer",
    "image_layouts": "analysis.image_layouts",
    "inspection": "runtime.inspection",
    "kernel_grid": "analysis.merge_cost",
    "kernels": "runtime.normalized_layers",
    "labels": "analysis.labels",
    "layouts": "ops.layouts",
    "lean_kernels": "ops.merged_kernels",
    "lean_ops": "ops.custom_autograd",
    "lean_pools": "ops.average_pooling",
    "linear_ops": "analysis.linear_ops",
    "measure": "runtime.measure",
    "memory": "analysis.memory",
    "mixtures": "analysis.mixed_ops",
    "model": "runtime.simplified_module",
    "model_reads": "analysis.model_reads",
    "ops.stacked_norm": "rewriting.retired",
    "passes.fold_scales": "rewriting.retired",
    "passes.fuse_siblings": "rewriting.retired",
    "passes.lower_for_device": "rewriting.retired",
    "pass_contract": "rewriting.pass_base",
    "pipeline": "rewriting.pipeline",
    "pools": "analysis.pooling_ops",
    "precision": "checking.precision",
    "program": "runtime.program",
    "purity": "analysis.effects",
    "recomputing": "ops.recomputing",
    "recording": "capture.small_batches",
    "refusals": "runtime.refusals",
    "remembered": "ir.known_facts",
    "rewriter": "rewriting.rewriter",
    "running": "facade.dispatch",
    "sampling": "capture.path_sampling",
    "shareable": "analysis.module_calls",
    "sharing": "ir.decisions",
    "signatures": "analysis.module_signature",
    "simplify": "api",
    "stacked_norm": "rewriting.retired",
    "stacks": "analysis.stacked_terms",
    "stages": "analysis.stages",
    "state": "runtime.state",
    "tensor_type": "ir.tensor_type",
    "topology": "analysis.topology",
    "tree": "module_tree.copying",
    "tuning_cache": "tuning.cache",
    "unmixed": "facade.unmixed",
    "unread": "facade.unused_parameters",
    "verdict": "checking.verdict",
    "verifier": "rewriting.verifier",
    "vertices": "checking.one_hot",
    "weight_rows": "analysis.weight_elements",
    "weight_values": "checking.weight_values",
}
"""The former name of a module, and its present one."""


class FormerNames(MetaPathFinder, Loader):
    """Imports a module under its former name: a stand-in whose attributes are those of the module that it became."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a former name."""
        is_former = fullname.startswith(_ROOT) and fullname.removeprefix(_ROOT) in FORMER
        return importlib.util.spec_from_loader(fullname, self) if is_former else None

    def exec_module(self, module: ModuleType) -> None:
        """Let a stand-in look everything up in the module that it became."""
        present = importlib.import_module(_ROOT + FORMER[module.__name__.removeprefix(_ROOT)])
        vars(module)["__getattr__"] = lambda name: getattr(present, name)
