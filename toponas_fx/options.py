"""What ``simplify`` is asked for, checked: the model, and the passes of a mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn

from toponas_fx.capture.inputs import check_tensors
from toponas_fx.errors import ArgumentError
from toponas_fx.passes import DEFAULT_PASSES, NormalizeKernels, ShareDrawn
from toponas_fx.rewriting.pass_base import Pass, Repeat, Semantics, broken_contract, in_stages
from toponas_fx.runtime.simplified_module import SimplifiedModule

MODES = ("share", "exact")
NORMALIZE = ("kernel", "filter")
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def checked_passes(
    model: nn.Module, mode: str, passes: Sequence[Pass | Repeat] | None, normalize: str, share_sampled: bool = False
) -> tuple[Pass | Repeat, ...]:
    """Return the passes to run.

    Args:
        model: what is to be simplified.
        mode: of ``MODES``.
        passes: each is put in its stage; ``DEFAULT_PASSES`` where None.
        normalize: of ``NORMALIZE``.
        share_sampled: whether candidates share modules also where one is drawn.

    Raises:
        ArgumentError: the model is none that can be simplified, or an option is unknown.
    """
    if isinstance(model, _WRAPPERS):
        raise ArgumentError(f"the model is wrapped in {type(model).__name__}: simplify before wrapping")
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"simplify takes a torch.nn.Module, not {type(model).__name__}")
    compiled = [path for path, module in model.named_modules() if _is_compiled(module)]
    if compiled:
        raise ArgumentError(f"`{compiled[0] or 'the model'}` went through torch.compile: simplify before compiling")
    if isinstance(model, SimplifiedModule):
        raise ArgumentError("the model is simplified already")
    check_tensors(model)
    if mode not in MODES:
        raise ArgumentError(f"mode must be one of {', '.join(map(repr, MODES))}, not {mode!r}")
    if normalize not in NORMALIZE:
        raise ArgumentError(f"normalize must be one of {', '.join(map(repr, NORMALIZE))}, not {normalize!r}")
    if share_sampled and mode != "share":
        raise ArgumentError(f"share_sampled=True shares modules, which mode {mode!r} does not")
    chosen = [*(DEFAULT_PASSES if passes is None else passes), *([ShareDrawn()] if share_sampled else [])]
    for entry in chosen:
        for pass_ in entry.passes if isinstance(entry, Repeat) else (entry,):
            broken = broken_contract(pass_)
            if broken is not None:
                raise ArgumentError(broken)
    kept = [_for_mode(entry, mode, normalize) for entry in chosen]
    return in_stages([entry for entry in kept if entry is not None])


def _is_compiled(module: nn.Module) -> bool:
    in_place = getattr(module, "_compiled_call_impl", None) is not None  # what module.compile() leaves behind
    return in_place or type(module).__name__ == "OptimizedModule"


def _for_mode(entry: Pass | Repeat, mode: str, normalize: str) -> Pass | Repeat | None:
    if isinstance(entry, Repeat):
        inner = [_for_mode(pass_, mode, normalize) for pass_ in entry.passes]
        kept = [pass_ for pass_ in inner if isinstance(pass_, Pass)]
        return Repeat(*kept) if kept else None
    if mode == "exact" and entry.semantics is Semantics.SHARES:
        return None
    if isinstance(entry, NormalizeKernels) and normalize != "kernel":
        return dataclasses.replace(entry, per=normalize)
    return entry
