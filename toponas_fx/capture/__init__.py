"""Capture: record one real forward pass as an ``fx.Graph``, and all that it depended on.

A run is recorded, not traced symbolically: architecture parameters that are plain tensors stay reads of these. The
``recorder`` sees every torch call and writes it down (``torch_calls``, ``values``); torch's own layers stay whole
(``module_patches``). Sizes and numbers that differ from call to call stay symbolic (``symbolic_sizes``,
``symbolic_numbers``, ``expressions``). ``small_batches`` records a call at two small batches, which tell whether the
batch decides anything.

Whatever Python state a run reads is guarded (``guards``, ``attribute_reads``), through functions, closures, globals
and the environment too (``python_state``, ``outside``); what it leaves in attributes becomes an output
(``attribute_writes``). What no graph can repeat is a ``CaptureError`` with the user's line: other generators
(``draws``, ``path_sampling``), state that is not there yet (``not_ready``), writes from outside.

May use: ``module_tree``, ``analysis``, ``ops``, ``ir``, ``errors``, ``progress``; not ``report``, not ``passes``.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from traceback import clear_frames
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from toponas_fx.analysis.effects import global_hooks, is_random
from toponas_fx.capture.advice import GLOBAL_HOOK, REGISTER, RETURN, WRITE
from toponas_fx.capture.alone import alone
from toponas_fx.capture.attribute_writes import settled
from toponas_fx.capture.draws import DrawFinder
from toponas_fx.capture.expressions import NO_NUMBERS, Numbers
from toponas_fx.capture.fingerprint import Fingerprint
from toponas_fx.capture.forcing import Forcing
from toponas_fx.capture.guards import StateGuards
from toponas_fx.capture.inputs import check_signature, input_leaves
from toponas_fx.capture.kept_choices import Kept
from toponas_fx.capture.module_patches import watched
from toponas_fx.capture.not_ready import telling_state
from toponas_fx.capture.python_state import CodeWatcher
from toponas_fx.capture.recorder import Recorder
from toponas_fx.errors import CaptureError, CountError, ForeignDrawError
from toponas_fx.module_tree.index import TreeIndex
from toponas_fx.module_tree.isolation import collector_off, no_trace, own_saved_tensors
from toponas_fx.module_tree.snapshots import freeze
from toponas_fx.module_tree.tensor_paths import model_tensors

__all__ = ["Capture", "capture", "no_trace"]


@dataclass(frozen=True)
class Capture:
    """One recorded run.

    Attributes:
        graph: the nodes; its placeholders are the input's tensors in order.
        guards: the Python state that the run depended on.
        entered: paths of the modules that ran.
        fingerprint: its structure.
        sizes_used: what was done with sizes besides arithmetic.
        any_grad_mode: True where gradients were on, and nothing in the code asks whether they are.
        draws: whether it drew at random.
        asks_identity: whether forward's code asks if two values are one object, which no choice can see.
        numbers: those that were to stay symbolic, with the values that it saw.
        writes: path of the module and name of each attribute that it wrote; where there are any, the graph returns what
            forward returns and a tuple of what it left in these.
        chooses: whether the integers that forward is given are choices, and inputs of the graph.
        kept: the integers and names of modules that are, in order, after all other inputs.
        seconds: what recording it took.
        turns: of the merged paths of a run that samples, the fingerprints of those that took one candidate everywhere.
        domains: of such a run, the values of the choices that are not drawn (``domains.Domains``).
    """

    graph: fx.Graph
    guards: StateGuards
    entered: tuple[str, ...]
    fingerprint: Fingerprint
    sizes_used: tuple[tuple[Any, ...], ...]
    any_grad_mode: bool
    draws: bool
    numbers: Numbers = field(default_factory=dict)
    writes: tuple[tuple[str, str], ...] = ()
    chooses: bool = False
    kept: tuple[Kept, ...] = ()
    seconds: float = 0.0
    turns: tuple[Fingerprint, ...] = ()
    domains: Any = None
    asks_identity: bool = False

    @property
    def keeps_numbers(self) -> bool:
        """True where nothing in it holds for the values of these numbers only, as far as it shows in one run."""
        return not self.guards.fixed_numbers


@alone
def capture(
    root: nn.Module,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    numbers: Numbers = NO_NUMBERS,
    forcing: Forcing | None = None,
) -> Capture:
    """Run ``forward`` once and record it; nothing of the run is left behind.

    Args:
        root: the model whose tree the graph refers to.
        forward: its forward as the user wrote it, bound to ``root``.
        args: positional inputs: tensors, or containers and plain values with tensors in them.
        kwargs: keyword inputs, likewise.
        numbers: those that stay symbolic, with the values that forward is to see.
        forcing: what draws are, if they are not to be drawn.

    Returns:
        The recorded run, for the model's present training mode.

    Raises:
        CaptureError: the run did something that a graph cannot repeat; the sentence names the user's file and line.
    """
    labels, start = check_signature(forward, args, kwargs), time.thread_time()

    def run(**options: bool) -> Capture:
        options = {"finds_draws": False, "may_count": False, **options}
        try:
            return _capture(root, forward, args, kwargs, labels, numbers, forcing, **options)
        except ForeignDrawError:
            return _capture(root, forward, args, kwargs, labels, numbers, forcing, **{**options, "finds_draws": True})

    with collector_off(), own_saved_tensors():
        try:
            found = run()
        except CountError as error:
            if not _settles(run, error):
                raise
            found = run(may_count=True)
    return replace(found, seconds=time.thread_time() - start)


def _settles(run: Callable[[], Capture], error: CountError) -> bool:
    """Return whether a run of forward that finds what the last one left in attributes counts no further."""
    with settled(error.left):
        try:
            run()
        except Exception:  # forward's own too: what is told is why it was tried
            return False
    return True


def _capture(
    root: nn.Module,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    labels: list[str],
    numbers: Numbers,
    forcing: Forcing | None,
    *,
    finds_draws: bool,
    may_count: bool,
) -> Capture:
    tree = TreeIndex.of(root)
    with torch.inference_mode(False):  # as forward will run
        recorder = Recorder(root, tree, finds_draws, numbers, forcing)
    try:
        return _recorded(recorder, tree, root, forward, args, kwargs, labels, may_count=may_count)
    finally:
        recorder.is_live = False


def _recorded(
    recorder: Recorder,
    tree: TreeIndex,
    root: nn.Module,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    labels: list[str],
    *,
    may_count: bool,
) -> Capture:
    finds_draws, numbers = recorder.finds_draws, recorder.numbers
    code = CodeWatcher(recorder, tree, DrawFinder() if finds_draws else None)
    has_gradients = torch.is_grad_enabled()
    with (
        telling_state(recorder.guards),
        no_trace(root) as changed,
        torch.inference_mode(False),
        torch.set_grad_enabled(has_gradients),
    ):
        _check_hooks(recorder.guards)
        own_args, own_kwargs = pytree.tree_map_only(Tensor, _copy, (args, kwargs))
        own_args, own_kwargs = recorder.with_numbers((own_args, own_kwargs))
        given = pytree.tree_flatten((own_args, own_kwargs))
        for name, value in input_leaves(labels, own_args, own_kwargs):
            recorder.add_input(name, value)
        recorder.add_kept()
        with watched(root, forward, recorder) as run, code.watching(), recorder.recording(), recorder.writes.undone():
            try:
                value = run(*own_args, **own_kwargs)
            except CaptureError as error:
                clear_frames(error.__traceback__)  # old torch ties the hooks of checkpoint() to its frame
                raise code.failure or error from None
        if code.failure is not None:
            raise code.failure
        recorder.add_output(root, (own_args, own_kwargs), value, may_count=may_count)
        if not _holds_same(pytree.tree_flatten((own_args, own_kwargs)), given):
            raise CaptureError(f"forward changes a list or dict that it is given; {RETURN}", _location(forward))
        if (where := recorder.changed_kept(tree)) is not None:
            raise CaptureError(f"forward changes state in place: {where} holds choices; {WRITE}", _location(forward))
        guards = recorder.guards
        change = guards.first_constant(tree) or guards.first_option(tree) or guards.patched_since(tree)
        if change is not None:
            guards.forget_changed(tree)
            raise CaptureError(
                f"forward changes state in place: {change.sentence} when it was first read; {WRITE}",
                change.where,
            )
        if any(id(tensor) not in recorder.known_tensors for _, tensor in model_tensors(root)):
            raise CaptureError(f"forward puts a new tensor into the model; {REGISTER}", _location(forward))
        if (where := changed()) is not None:
            raise CaptureError(
                f"forward changes state in place: {where} holds other items; {WRITE}", _location(forward)
            )
    fingerprint = Fingerprint.of(recorder.graph, recorder.decisions)
    return Capture(
        recorder.graph,
        recorder.guards,
        tuple(recorder.entered),
        fingerprint,
        tuple(recorder.sizes_used),
        any_grad_mode=has_gradients and not recorder.looks_at_grad_mode,
        draws=any(is_random(root, node) for node in recorder.graph.nodes),
        numbers=numbers,
        writes=tuple(recorder.writes.left),
        asks_identity=recorder.asks_identity,
    )


def _check_hooks(guards: StateGuards) -> None:
    """Refuse a run around whose modules hooks of the user's run; a graph calls modules, or what they compute."""
    for name, hook in global_hooks():
        guards.note_reference(nn.modules.module, name, freeze(getattr(nn.modules.module, name)), "")
        told = getattr(hook, "__qualname__", type(hook).__qualname__)
        raise CaptureError(f"the hook `{told}` runs around every module's call; {GLOBAL_HOOK}")


def _copy(tensor: Tensor) -> Tensor:
    """Return an input of its own, in the same strides: forward may write into it, be given it twice, or own it."""
    with torch.set_grad_enabled(tensor.requires_grad):
        own = tensor.clone()
        is_plain = type(tensor) is Tensor and tensor.layout is torch.strided and tensor.numel() > 0
        if not is_plain or own.stride() == tensor.stride():
            return own
        span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        memory = tensor.as_strided((span,), (1,), tensor.storage_offset()).clone()  # with its gaps
        return memory.as_strided(tensor.shape, tensor.stride())


def _holds_same(found: tuple[list[Any], Any], given: tuple[list[Any], Any]) -> bool:
    leaves, others = found[0], given[0]
    return found[1] == given[1] and all(leaf is other for leaf, other in zip(leaves, others, strict=True))


def _location(forward: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(forward), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""
