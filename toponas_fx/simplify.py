"""The public functions: ``simplify``, ``explain``, ``restore`` and ``topology``."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Sequence
from types import MethodType
from typing import Any

import networkx as nx
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from toponas_fx.assembly import assemble, retire
from toponas_fx.capture import capture
from toponas_fx.capture.inputs import as_inputs, infer_inputs
from toponas_fx.compiler import build_program
from toponas_fx.costs import Costs, graph_costs
from toponas_fx.errors import ArgumentError, CaptureError, GuardFailure, InputError, ToponasError
from toponas_fx.kernels import leave_layer, normalized_values, watch_layers
from toponas_fx.mixtures import mixtures
from toponas_fx.model import SimplifiedModule
from toponas_fx.pass_contract import Pass, Repeat, Semantics
from toponas_fx.passes import DEFAULT_PASSES, DetectMixedOps, NormalizeKernels, Recompute
from toponas_fx.pipeline import PassRecord
from toponas_fx.program import Call
from toponas_fx.report import Report, build_report, unused_notes
from toponas_fx.sampling import why_sampled
from toponas_fx.topology import build_topology
from toponas_fx.tree import copy_tree
from toponas_fx.tuning import tune as measure_alternatives
from toponas_fx.unread import unread_parameters

MODES = ("share", "exact")
NORMALIZE = ("kernel", "filter")
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def simplify(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    mode: str = "share",
    passes: Sequence[Pass | Repeat] | None = None,
    normalize: str = "kernel",
    recompute: bool = False,
    tune: bool = False,
) -> Any:
    """Return a model that computes a supernet with the work that its candidates repeat removed.

    The result is an instance of the model's own class and a ``torch.fx.GraphModule``. It owns a copy of the module
    tree over the very same parameters and tensors; the model itself is not changed. Train one of the two.

    Args:
        model: the supernet, on the device and with the dtype it is to run with.
        example_inputs: one tensor, ``f32[N,C,H,W]`` say, or a tuple of forward's positional arguments; inferred from
            the first layer where it is None. Nothing of the run with it is left behind.
        mode: ``"share"`` shares modules between candidates (TopoNAS, arXiv 2408.01311): every architecture computes
            what it did, with the shared modules tied. ``"exact"`` keeps the function for all weights and inputs.
        passes: rewrite rules in order instead of ``toponas_fx.passes.DEFAULT_PASSES``; mode ``"exact"`` leaves out
            those that share.
        normalize: ``"kernel"`` normalizes each differing kernel as a whole, ``"filter"`` each of its filters where
            a norm follows at once.
        recompute: whether ReLU and poolings are computed again in the backward pass where that saves memory; the
            function stays the same, no norm runs twice.
        tune: whether exact alternatives (which kernels merge, the layout of images, what is fused, batched and
            lowered; never what is shared) are measured with ``example_inputs``, in steps of this model on its device.
            The fastest are kept, remembered by device, sizes and model, and printed. In mode ``"exact"`` a model that
            the original outruns is left as written. Without it, sizes decide.

    Returns:
        The simplified model; ``fast.report`` says what was done and why not more.

    Raises:
        ArgumentError: ``model`` is no Module, is wrapped for parallel use or simplified already, uses a reserved
            attribute name, or an option is unknown; ``tune`` without example inputs.
        InputError: the example inputs do not fit forward, or none could be inferred.
        Exception: whatever the model's own forward raises, untouched.
    """
    chosen = _checked_passes(model, mode, passes, normalize) + ((Recompute(),) if recompute else ())
    if tune and example_inputs is None:
        raise ArgumentError("tune=True measures steps: pass example_inputs of the size that the search has")
    inputs = _inputs(model, example_inputs)
    fast = assemble(model, mode, chosen)
    fast._toponas.simplify_like = simplify_like
    fast._toponas.example = pytree.tree_map_only(Tensor, _without_memory, inputs)
    training = {module: module.training for module in fast.modules()}
    before = after = Costs(0, 0, 0, 0, 0, 0)
    records: list[PassRecord] = []
    notes: list[str] = []
    try:
        fast.train()
        raw, records = _compile_first(fast, inputs, example_inputs is None)
        before = raw or before
        fast._toponas.sharing.is_decided = True
        watch_layers(fast, fast._toponas.sharing)
        told = _tune(fast, model, inputs) if tune and raw is not None else []
        if fast._toponas.programs or not tune:
            fast.eval()
            _compile_first(fast, inputs, example_inputs is None)
            fast.train()
        else:
            raw, after = None, before
        reasons = fast._toponas.as_written.values()
        notes = [*(f"runs as its user wrote it: {reason}" for reason in reasons), *fast._toponas.notes, *told]
        if raw is not None:
            retire(fast, unread_parameters(fast, inputs))
            after = graph_costs(fast)
            fast._toponas.unmeasured = inputs if example_inputs is not None else None
    finally:
        for module in fast.modules():
            module.training = training.get(module, fast.training)
    fast._toponas.tree(fast)
    fast._toponas.report = build_report(
        type(model).__name__, mode, fast._toponas.topology or nx.MultiDiGraph(), records, before, after, notes
    )
    return fast


def _tune(fast: SimplifiedModule, model: nn.Module, inputs: tuple[Any, ...]) -> list[str]:
    """Choose among exact alternatives, and print what was chosen; leave no program that the original outruns."""
    try:
        tuned = measure_alternatives(fast, model, inputs)
    except (CaptureError, GuardFailure) as error:
        return [f"not tuned: two runs of the example inputs differ: {error}"]
    told = list(tuned.lines())
    for line in told:
        print(f"toponas_fx: {line}")
    state = fast._toponas
    saves_memory = any(isinstance(entry, Recompute) for entry in state.passes)
    if tuned.of_original > 1 and state.mode == "exact" and not saves_memory:
        state.programs.clear()
        for training in (True, False):
            state.as_written[Call.of(inputs, {}, training).fixed] = told[-1]
    return told


def _compile_first(
    fast: SimplifiedModule, inputs: tuple[Any, ...], inferred: bool
) -> tuple[Costs | None, list[PassRecord]]:
    """Capture and compile the present mode; leave the user's forward as written where that cannot be."""
    state = fast._toponas
    call = Call.of(inputs, {}, fast.training)
    forward = MethodType(state.user_forward, fast)
    try:
        captured = capture(fast, forward, inputs, {})
        reason = why_sampled(fast, forward, inputs, captured)
        if reason is not None:
            raise CaptureError(reason)
    except CaptureError as error:
        state.as_written[call.fixed] = str(error)
        warnings.warn(f"{state.user_class.__name__} runs as its user wrote it: {error}", stacklevel=3)
        return None, []
    except ToponasError:
        raise
    except Exception as error:
        if inferred:
            shape = tuple(inputs[0].shape)
            raise InputError(
                f"forward fails on an inferred input of shape {shape} ({type(error).__name__}: {error}); "
                "pass example_inputs"
            ) from error
        raise
    state.captures[call.fixed] = 1
    state.working = captured.graph
    raw = graph_costs(fast)
    state.working = None

    def keep_detected(pass_: Pass, gm: fx.GraphModule) -> None:
        """Look at the mixtures as the user wrote them, before anything is dropped or shared."""
        if isinstance(pass_, DetectMixedOps):
            state.topology = build_topology(gm)
            state.notes = unused_notes(fast, captured.entered, gm) if any(mixtures(gm.graph)) else []

    program, records = build_program(fast, state, captured, call, keep_detected if fast.training else None)
    state.programs.append(program)
    return raw, records


def _checked_passes(
    model: nn.Module, mode: str, passes: Sequence[Pass | Repeat] | None, normalize: str
) -> tuple[Pass | Repeat, ...]:
    if isinstance(model, _WRAPPERS):
        raise ArgumentError(f"the model is wrapped in {type(model).__name__}: simplify before wrapping")
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"simplify takes a torch.nn.Module, not {type(model).__name__}")
    compiled = [path for path, module in model.named_modules() if _is_compiled(module)]
    if compiled:
        raise ArgumentError(f"`{compiled[0] or 'the model'}` went through torch.compile: simplify before compiling")
    if isinstance(model, SimplifiedModule):
        raise ArgumentError("the model is simplified already")
    if mode not in MODES:
        raise ArgumentError(f"mode must be one of {', '.join(map(repr, MODES))}, not {mode!r}")
    if normalize not in NORMALIZE:
        raise ArgumentError(f"normalize must be one of {', '.join(map(repr, NORMALIZE))}, not {normalize!r}")
    chosen = list(DEFAULT_PASSES if passes is None else passes)
    for entry in chosen:
        for pass_ in entry.passes if isinstance(entry, Repeat) else (entry,):
            if not isinstance(pass_, Pass):
                raise ArgumentError(f"passes must be instances from toponas_fx.passes, not {pass_!r}")
    kept = [_for_mode(entry, mode, normalize) for entry in chosen]
    return tuple(entry for entry in kept if entry is not None)


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


def _without_memory(tensor: Tensor) -> Tensor:
    return tensor.new_zeros(()).expand(tensor.shape)


def _inputs(model: nn.Module, example_inputs: Any) -> tuple[Any, ...]:
    return infer_inputs(model) if example_inputs is None else as_inputs(example_inputs)


def simplify_like(template: SimplifiedModule, model: nn.Module) -> Any:
    """Simplify a model of another structure with the options of ``template``."""
    state = template._toponas
    return simplify(model, state.example, mode=state.mode, passes=state.passes)


def explain(model: nn.Module, example_inputs: Any = None, **options: Any) -> Report:
    """Return the report that ``simplify`` with the same arguments would give; the model is not changed."""
    report: Report = simplify(model, example_inputs, **options).report
    return report


def topology(model: nn.Module, example_inputs: Any = None) -> nx.MultiDiGraph:
    """Return a supernet's graph of values and candidates, as its user wrote it.

    Args:
        model: the supernet; not changed.
        example_inputs: as for ``simplify``.

    Returns:
        A multigraph whose nodes are values and whose edges are candidates; see ``toponas_fx.topology``.
    """
    found: nx.MultiDiGraph = simplify(model, example_inputs, passes=(DetectMixedOps(),)).topology()
    return found


def restore(fast: SimplifiedModule) -> Any:
    """Return an untied model of the user's class with the searched weights, normalized kernels written out.

    It computes what ``fast`` computes at every one-hot weight vector. Its tensors are copies.

    Raises:
        ArgumentError: the argument is no simplified model.
    """
    if not isinstance(fast, SimplifiedModule):
        raise ArgumentError(f"restore takes what simplify returned, not {type(fast).__name__}")
    state = fast._toponas
    twin: Any = copy.deepcopy(fast)
    with torch.no_grad():
        for module, name, value in list(normalized_values(twin, state.sharing)):
            module._parameters[name].copy_(value)  # type: ignore[union-attr]
            leave_layer(module)
    for path, tensor in twin._toponas.removed.items():
        owner, _, name = path.rpartition(".")
        module = twin.get_submodule(owner)
        vars(module).pop(name)
        module._parameters[name] = tensor
    for removed, kept in state.sharing.ties.items():
        owner, _, name = removed.rpartition(".")
        twin.get_submodule(owner)._modules[name] = copy.deepcopy(twin.get_submodule(kept))
    plain = copy_tree(twin, state.user_class)
    vars(plain).pop("meta", None)
    return plain
