"""The public functions: ``simplify``, ``explain``, ``restore`` and ``topology``."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from types import MethodType
from typing import Any

import networkx as nx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from toponas_fx.analysis.arms import selects
from toponas_fx.analysis.costs import Costs, graph_costs
from toponas_fx.capture.inputs import Inputs, inputs_of, is_given
from toponas_fx.capture.path_sampling import record_call
from toponas_fx.compiling.compiler import build_program
from toponas_fx.compiling.decide_sharing import detection, shares_drawn
from toponas_fx.errors import ArgumentError, CaptureError, GuardFailure, InputError, PassError, ToponasError
from toponas_fx.facade.assembly import assemble
from toponas_fx.facade.notes import note_on_names, note_on_writes
from toponas_fx.facade.unmixed import GIVEN, why_unmixed
from toponas_fx.facade.unused_parameters import note_on_unread
from toponas_fx.ir.serialization import dump_graph
from toponas_fx.module_tree.copying import copy_tree
from toponas_fx.module_tree.isolation import collector_off
from toponas_fx.options import checked_passes
from toponas_fx.passes import DetectMixedOps, Recompute
from toponas_fx.progress import progress
from toponas_fx.report.building import build_report
from toponas_fx.report.report import Report
from toponas_fx.rewriting.pass_base import Pass, Repeat
from toponas_fx.rewriting.pipeline import PassRecord, is_strict_here
from toponas_fx.runtime.call import Call
from toponas_fx.runtime.inspection import at_work, inspection
from toponas_fx.runtime.normalized_layers import leave_layer, normalized_values, watch_layers
from toponas_fx.runtime.refusals import refuse
from toponas_fx.runtime.simplified_module import SimplifiedModule
from toponas_fx.tuning.autotune import tune as measure_alternatives


def simplify(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    example_kwargs: dict[str, Any] | None = None,
    mode: str = "share",
    passes: Sequence[Pass | Repeat] | None = None,
    normalize: str = "kernel",
    share_sampled: bool = False,
    recompute: bool = False,
    tune: bool = False,
    strict: bool = False,
    audit: bool = True,
) -> Any:
    """Return a model that computes a supernet with the work that its candidates repeat removed.

    The result is an instance of the model's own class and a ``torch.fx.GraphModule``. It owns a copy of the module
    tree over the very same parameters and tensors; the model itself is not changed. Train one of the two.

    Args:
        model: the supernet, on the device and with the dtype it is to run with.
        example_inputs: one tensor, ``f32[N,C,H,W]`` say, a tuple of forward's positional arguments, or one dict that
            forward takes; inferred from the first layer where nothing is given. Nothing of the run with it is left
            behind.
        example_kwargs: what forward takes by name, ``{"x": x}`` say; alone, or beside positional ones.
        mode: ``"share"`` shares modules between candidates (TopoNAS, arXiv 2408.01311): every architecture computes
            what it did, with the shared modules tied. ``"exact"`` keeps the function for all weights and inputs.
        passes: rewrite rules instead of ``toponas_fx.passes.DEFAULT_PASSES``; each runs in its ``Stage``, there in the
            order given. Mode ``"exact"`` leaves out those that share.
        normalize: ``"kernel"`` normalizes each differing kernel as a whole, ``"filter"`` each of its filters where
            a norm follows at once.
        share_sampled: whether candidates of which a step draws one share modules, too: fewer parameters, no less time.
        recompute: whether ReLU and poolings are computed again in the backward pass where that saves memory; the
            function stays the same, no norm runs twice.
        tune: whether exact alternatives (which kernels merge, the layout of images, what is fused, batched and
            lowered; never what is shared) are measured with ``example_inputs``, in steps of this model on its device.
            The fastest are kept, remembered by device, sizes and model, and printed. In mode ``"exact"`` a model that
            the original outruns is left as written. Without it, sizes decide.
        strict: whether a pass that fails is an error; or else it is undone, a warning and the report name it, and the
            search goes on. ``TOPONAS_STRICT=1`` or any ``TOPONAS_DEBUG`` in the environment asks for it too.
        audit: whether a call now and then records forward again, and the program is dropped where it is not what
            forward does any more. That takes a hundredth of the time that the model is in use, and half a second once.

    Returns:
        The simplified model; ``fast.report`` says what was done and why not more.

    Raises:
        ArgumentError: ``model`` is no Module, is wrapped for parallel use or simplified already, or an option is
            unknown; ``tune`` without example inputs.
        InputError: the example inputs do not fit forward, or none could be inferred.
        PassError: a pass failed, where ``strict``; PreconditionError: one of ``passes`` cannot run where it was put.
        Exception: whatever the model's own forward raises, untouched; above all what torch raises on shapes that do
            not fit. Only where forward fails for want of state that the search loop sets later, an architecture that
            is None or not there yet, a warning names the line instead: the model runs as written until a call works,
            and that is captured.

    Warns:
        UserWarning: once for each reason to leave forward as written, and once where no mixed operation was found. What
            is shared is then decided by the first later training call that mixes candidates; parameters leave with that
            call, are named in a warning, and checkpoints keep all names.
    """
    chosen = checked_passes(model, mode, passes, normalize, share_sampled) + ((Recompute(),) if recompute else ())
    inferred = not is_given(example_inputs, example_kwargs)
    if tune and inferred:
        raise ArgumentError("tune=True measures steps: pass example_inputs of the size that the search has")
    inputs = inputs_of(model, example_inputs, example_kwargs)
    with progress(f"simplifying {type(model).__name__}"):
        with collector_off():
            fast = assemble(model, mode, chosen, is_strict=strict or is_strict_here())
        fast._toponas.audits.is_on = audit
        return _simplified(model, fast, inputs, mode, inferred, tune)


def _simplified(model: nn.Module, fast: Any, inputs: Inputs, mode: str, inferred: bool, tune: bool) -> Any:
    if fast._toponas_taken:
        warnings.warn(note_on_names(fast), stacklevel=3)
    fast._toponas.simplify_like = simplify_like
    fast._toponas.example = pytree.tree_map_only(Tensor, _without_memory, inputs)
    training = {module: module.training for module in fast.modules()}
    before = after = Costs(0, 0, 0, 0, 0, 0)
    records, in_evaluation, notes = list[PassRecord](), list[PassRecord](), list[str]()
    try:
        fast.train()
        with collector_off():
            raw, records = _compile_first(fast, inputs, inferred)
        before = raw or before
        first = None if raw is None else fast._toponas.programs[0]
        samples = first is not None and bool(selects(first.graph))
        found = None if first is None else first.has_mixtures
        mixes = bool(found) or (shares_drawn(fast._toponas.passes) if samples else first is not None and found is None)
        fast._toponas.sharing.is_decided = mode == "exact" or mixes
        watch_layers(fast, fast._toponas.sharing)
        told = []
        if tune and raw is not None:
            told = _tune(fast, model, inputs)
            fast._toponas.programs = [program for program in fast._toponas.programs if program.fixed[2]]
        if fast._toponas.programs or not tune:
            fast.eval()
            # the paths of a model that samples are recorded for evaluation when that asks
            if not samples and all(program.fixed[2] for program in fast._toponas.programs):
                with collector_off():
                    in_evaluation = _compile_first(fast, inputs, inferred)[1]
            fast.train()
        else:
            raw, after = None, before
        reasons = dict.fromkeys(fast._toponas.as_written.values())
        if first is not None and first.has_mixtures is False:
            fast._toponas.notes = [why_unmixed(inspection(fast), first.entered)]
            if fast._toponas.chosen:
                fast._toponas.notes = [GIVEN]
            else:
                warnings.warn(f"{type(model).__name__}: {fast._toponas.notes[0]}", stacklevel=3)
        notes = [f"runs as its user wrote it: {reason}" for reason in reasons]
        notes += [*fast._toponas.left_out, *fast._toponas.notes, *told]
        notes += [note_on_names(fast)] if fast._toponas_taken else []
        if raw is not None:
            notes += note_on_unread(fast) + note_on_writes(fast)
            after = records[-1].after if records else before
            fast._toponas.unmeasured = None if inferred else inputs
    finally:
        for module in fast.modules():
            module.training = training.get(module, fast.training)
    fast._toponas.tree(fast)
    state, name = fast._toponas, type(model).__name__
    found = state.topology or nx.MultiDiGraph()
    state.report = build_report(name, mode, found, records, before, after, notes, state.edges, in_evaluation or None)
    return fast


def _tune(fast: SimplifiedModule, model: nn.Module, inputs: Inputs) -> list[str]:
    """Choose among exact alternatives, and print what was chosen; leave no program that the original outruns."""
    try:
        tuned = measure_alternatives(fast, model, inputs)
    except (CaptureError, GuardFailure) as error:
        return [f"not tuned: two runs of the example inputs differ: {error}"]
    except PassError as error:
        if fast._toponas.is_strict:
            raise
        return [f"not tuned: {error.short}"]
    told = list(tuned.lines())
    for line in told:
        print(f"toponas_fx: {line}")
    state = fast._toponas
    saves_memory = any(isinstance(entry, Recompute) for entry in state.passes)
    if tuned.of_original > 1 and state.mode == "exact" and not saves_memory:
        state.programs.clear()
        for training in (True, False):
            refuse(state, Call.of(*inputs, training), told[-1], None)
    return told


def _compile_first(fast: SimplifiedModule, inputs: Inputs, inferred: bool) -> tuple[Costs | None, list[PassRecord]]:
    """Capture and compile the present mode; leave the user's forward as written where that cannot be."""
    state = fast._toponas
    call = Call.of(*inputs, fast.training)
    forward = MethodType(state.user_forward, fast)
    try:
        recorded = record_call(fast, forward, inputs, other_mode=fast.training)
        captured = recorded.capture
    except CaptureError as error:
        if str(error) not in state.as_written.values():  # training and evaluation may meet the same
            warnings.warn(f"{state.user_class.__name__} runs as its user wrote it: {error}", stacklevel=4)
        refuse(state, call, str(error), error.guards)
        return None, []
    except ToponasError:
        raise
    except Exception as error:
        if not fast.training:
            return None, []  # of a supernet that cannot be evaluated: the call that asks for that says so
        if not inferred:
            raise
        told = f"an inferred input of shape {tuple(inputs.args[0].shape)} ({type(error).__name__}: {error})"
        raise InputError(f"forward fails on {told}; pass example_inputs") from error
    state.captures[call.kind] = 1
    if call.integers:
        state.chosen.setdefault(call.open.fixed, call.integers)
    if recorded.is_whole:
        state.batch_decides.add(call.fixed)
    raw = graph_costs(at_work(fast, captured.graph))
    paths = dump_graph(captured.graph) if fast.training and selects(captured.graph) else None
    observe = detection(fast, state, captured) if fast.training else None
    program, records = build_program(fast, recorded, call, state.passes, observe)
    if program is None:
        return None, []
    state.programs.append(program)
    state.paths = (paths, program) if paths is not None else state.paths
    if recorded.evaluation is not None:
        evaluation = Call.of(*inputs, training=False)
        state.programs.append(program.for_evaluation(evaluation, recorded.evaluation.guards, any_batch=True))
        state.shares_graphs = True
    return raw, records


def _without_memory(tensor: Tensor) -> Tensor:
    return tensor.new_zeros(()).expand(tensor.shape)


def simplify_like(template: SimplifiedModule, model: nn.Module) -> Any:
    """Simplify a model of another structure with the options of ``template``."""
    state = template._toponas
    args, kwargs = state.example_inputs()
    options: dict[str, Any] = {"mode": state.mode, "passes": state.passes, "strict": state.is_strict}
    return simplify(model, args, example_kwargs=kwargs, audit=state.audits.is_on, **options)


def explain(model: nn.Module, example_inputs: Any = None, **options: Any) -> Report:
    """Return the report that ``simplify`` with the same arguments would give; the model is not changed."""
    return inspection(simplify(model, example_inputs, **options)).report


def topology(
    model: nn.Module, example_inputs: Any = None, *, example_kwargs: dict[str, Any] | None = None
) -> nx.MultiDiGraph:
    """Return a supernet's graph of values and candidates, as its user wrote it.

    Args:
        model: the supernet; not changed.
        example_inputs: as for ``simplify``.
        example_kwargs: likewise.

    Returns:
        A multigraph whose nodes are values and whose edges are candidates; see ``toponas_fx.topology``.
    """
    detected = simplify(model, example_inputs, example_kwargs=example_kwargs, passes=(DetectMixedOps(),))
    found: nx.MultiDiGraph = inspection(detected).topology()
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
    if "meta" not in twin._toponas_taken:
        vars(plain).pop("meta", None)
    return plain
