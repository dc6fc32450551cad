"""Check that a model, simplified, computes what it did: ``check`` and the comparisons it makes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from toponas_fx.api import explain, simplify
from toponas_fx.capture.inputs import inputs_of
from toponas_fx.checking.comparison import (
    Difference,
    Run,
    another,
    changed_weights,
    difference,
    finiteness,
    run_from,
    trained_tensors,
)
from toponas_fx.checking.one_hot import OneHotArchitectures
from toponas_fx.checking.precision import Subject, copied, default_dtype, describe, subject_of, tolerance_of
from toponas_fx.checking.verdict import ONE_HOT, Check, OneHotCoverage, Verdict
from toponas_fx.errors import ArgumentError
from toponas_fx.module_tree.isolation import restored_generators
from toponas_fx.options import MODES
from toponas_fx.passes import DEFAULT_PASSES, DetectMixedOps
from toponas_fx.report.report import Report
from toponas_fx.runtime.auditing import audited, watched
from toponas_fx.runtime.inspection import inspection

OWN, CHANGED = "its own weights", "other weights"
_MODES = tuple(sorted(MODES))
_WARM_UP = 2
_DETECTION = DEFAULT_PASSES[: 1 + [type(entry) for entry in DEFAULT_PASSES].index(DetectMixedOps)]


def check(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    example_kwargs: dict[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Verdict:
    """Simplify copies of a model in both modes and compare what they compute with the model's own forward.

    All is computed in float64 where forward can do that. Mode ``"exact"`` must agree in outputs, in every gradient and
    in the buffers after a step; mode ``"share"`` must be finite, and agree with ``fast.reference`` in outputs and
    gradients where each mixed operation is at one-hot weights, candidate by candidate; in training and in evaluation.
    What a model draws at random is drawn from one seed on both sides. Recorded once more, forward must be what it was.

    Args:
        model: the supernet; not changed.
        example_inputs: as for ``simplify``.
        example_kwargs: likewise.
        seed: of all draws.
        progress: called with a few words before each part.

    Returns:
        The verdict; ``passed`` tells the outcome, ``print`` shows all.

    Raises:
        ArgumentError: the model cannot be simplified for how it is made, or cannot be copied.
        InputError: the inputs do not fit forward, or none could be inferred.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"check takes a torch.nn.Module, not {type(model).__name__}")
    tell = progress or (lambda text: None)
    inputs = inputs_of(model, example_inputs, example_kwargs)
    with warnings.catch_warnings(), restored_generators():
        warnings.simplefilter("ignore")  # what simplify warns of is in the verdict
        subject = subject_of(model, inputs)
        with default_dtype(subject.dtype):
            session = _Session(subject, seed)
            for mode in _MODES:
                tell(f"simplify, mode {mode}")
                session.simplify(mode)
            session.detect()
            tell("compare")
            session.compare_everywhere()
            session.audit()
            for number in session.visit():
                tell(f"one-hot architecture {number} of {session.rounds}")
        tell("measure")
        report = explain(copied(model), inputs.args, example_kwargs=inputs.kwargs) if "share" in session.fasts else None
    return session.verdict(type(model).__name__, report)


@dataclass
class _Session:
    """One check on its way: the models over one set of tensors, and what was found so far."""

    subject: Subject
    seed: int
    fasts: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missed: dict[str, None] = field(default_factory=dict)
    one_hot: OneHotArchitectures | None = None
    tolerance: float = 0.0
    reason: str = ""

    def __post_init__(self) -> None:
        self.tolerance, self.reason = self.subject.tolerance, self.subject.reason

    @property
    def rounds(self) -> int:
        return self.one_hot.rounds if self.one_hot is not None else 0

    def simplify(self, mode: str) -> None:
        """Simplify; a failure is a finding, for the model's own forward is known to run."""
        try:
            self.fasts[mode] = self._simplified(mode=mode)
        except ArgumentError:
            raise
        except Exception as error:
            self._add(mode, "simplify", OWN, True, Difference(math.inf, ""), describe(error))

    def _simplified(self, **options: Any) -> Any:
        args, kwargs = self.subject.inputs
        return simplify(self.subject.model, args, example_kwargs=kwargs, audit=False, **options)

    def detect(self) -> None:
        """Find the mixed operations as the user wrote them, and whether forward computes in less than float64."""
        if not self.fasts:
            return
        detected = self._simplified(passes=_DETECTION)
        coarse = [node for program in detected._toponas.programs for node in _coarse(program.graph)]
        if coarse and self.subject.dtype is torch.float64:
            found = {node.meta["type"].dtype for node in coarse}
            self.tolerance = max(map(tolerance_of, found))
            names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
            where = coarse[0].meta.get("where") or "forward"
            self.reason = f"{where}: forward computes in {names} there, even in a float64 copy"
        if any(program.fixed[2] for program in detected._toponas.programs):
            detected.train()
            self.one_hot = OneHotArchitectures(detected, self.subject.inputs)

    def audit(self) -> None:
        """Look whether forward still is what the programs were made of: unlike weights and modes ran since."""
        for mode, fast in self.fasts.items():
            for training in (True, False):
                fast.train(training)
                found = audited(fast, *self.subject.inputs)
                message = f"forward has changed at {found[0]}, unseen by any guard: {found[1]}" if found else ""
                self._add(mode, "recording", CHANGED, training, Difference(math.inf if found else 0.0, ""), message)

    # -- comparing ---------------------------------------------------------------------------------------------------

    def compare_everywhere(self) -> None:
        """Compare what is promised at any weights: at the model's own, and after all of them were changed."""
        self._compare_at(OWN)
        self._warm_up()
        with changed_weights(self.subject.model, self.one_hot, self.seed):
            self._compare_at(CHANGED)

    def visit(self) -> Iterator[int]:
        """Compare at one one-hot architecture after the other."""
        if self.one_hot is None or "share" not in self.fasts:
            return
        for number, missed in enumerate(self.one_hot.visit(), start=1):
            yield number
            self.missed.update(dict.fromkeys(missed))
            if number == 1 and not missed and "exact" in self.fasts:
                self._compare_with_original("exact", f"{ONE_HOT} {number}")
            self._compare_with_reference(f"{ONE_HOT} {number}", is_vertex=not missed)

    def _compare_at(self, at: str) -> None:
        for mode, fast in self.fasts.items():
            if mode == "exact" or not _shares(fast):
                self._compare_with_original(mode, at)
            else:
                self._look_for_infinities(mode, at)

    def _compare_with_original(self, mode: str, at: str) -> None:
        model, fast = self.subject.model, self.fasts[mode]
        wanted = trained_tensors(model)
        for training in (True, False):
            for found, expected in self._runs(mode, at, training, model, fast, wanted):
                self._add_all(mode, at, training, found, expected)
                self._add(mode, "buffers", at, training, difference(found.buffers, expected.buffers))

    def _compare_with_reference(self, at: str, is_vertex: bool) -> None:
        fast, architecture = self.fasts["share"], self.one_hot.leaves if self.one_hot else {}
        wanted = {name: tensor for name, tensor in trained_tensors(fast).items() if id(tensor) not in architecture}
        for training in (True, False):
            for found, expected in self._runs(
                "share", at, training, inspection(fast).reference, fast, wanted, is_vertex
            ):
                if is_vertex or not _shares(fast) or self._agree(found, expected):
                    self._add_all("share", at, training, found, expected)

    def _look_for_infinities(self, mode: str, at: str) -> None:
        """Look at the gradients of the architecture weights too: they are compared at no one-hot architecture."""
        model, fast = self.subject.model, self.fasts[mode]
        for training in (True, False):
            for found, expected in self._runs(mode, at, training, model, fast, trained_tensors(fast)):
                values = finiteness({**found.outputs, **found.gradients}, {**expected.outputs, **expected.gradients})
                self._add(mode, "finite", at, training, values)

    def _runs(
        self,
        mode: str,
        at: str,
        training: bool,
        oracle: Callable[..., Any],
        fast: Any,
        wanted: dict[str, Tensor],
        must_run: bool = True,
    ) -> Iterator[tuple[Run, Run]]:
        """Yield what the simplified model and its oracle compute, unless one of them raises."""
        self.subject.model.train(training)
        fast.train(training)
        owner = self.subject.model if oracle is self.subject.model else fast
        try:
            expected = run_from(self.seed, oracle, owner, self.subject.inputs, wanted)
        except Exception as error:
            if must_run:
                self.notes.append(f"at {at} the model's own forward fails, nothing was compared: {describe(error)}")
            return
        try:
            found = run_from(self.seed, fast, fast, self.subject.inputs, wanted)
        except Exception as error:
            self._add(mode, "outputs", at, training, Difference(math.inf, ""), describe(error))
            return
        yield found, expected

    def _agree(self, found: Run, expected: Run) -> bool:
        outputs = difference(found.outputs, expected.outputs)
        gradients = difference(found.gradients, expected.gradients)
        return max(outputs.error, gradients.error) <= self.tolerance

    def _add_all(self, mode: str, at: str, training: bool, found: Run, expected: Run) -> None:
        outputs = difference(found.outputs, expected.outputs)
        if found.structure != expected.structure:
            outputs = Difference(math.inf, "what forward returns besides tensors")
        self._add(mode, "outputs", at, training, outputs)
        self._add(mode, "gradients", at, training, difference(found.gradients, expected.gradients))

    def _add(self, mode: str, what: str, at: str, training: bool, found: Difference, message: str = "") -> None:
        self.checks.append(Check(mode, what, at, training, found.error, self.tolerance, found.where, message))

    def _warm_up(self) -> None:
        """Take steps in training mode, so that the norms' running statistics differ from each other."""
        generator = torch.Generator().manual_seed(self.seed)
        for model in (self.subject.model, *self.fasts.values()):
            model.train()
            for _ in range(_WARM_UP):
                try:
                    inputs = pytree.tree_map_only(Tensor, lambda x: another(x, generator), self.subject.inputs)
                    model(*inputs.args, **inputs.kwargs)
                except Exception:  # other numbers than the given ones need not suit forward
                    break

    # -- the end -----------------------------------------------------------------------------------------------------

    def verdict(self, name: str, report: Report | None) -> Verdict:
        """Sum up."""
        states = self.one_hot.states if self.one_hot is not None else []
        complete = [state for state in states if len(state.reached) == state.size]
        missed = dict(self.missed)
        for state in states:
            if len(state.reached) < state.size and not any(line.startswith(f"{state.name}: ") for line in missed):
                reason = state.reason or f"{len(state.reached)} of {state.size} candidates were alone at some {ONE_HOT}"
                missed[f"{state.name}: {reason}"] = None
        matters = "share" in self.fasts and _shares(self.fasts["share"])
        inputs = [leaf for leaf in pytree.tree_leaves(self.subject.inputs) if isinstance(leaf, Tensor)]
        return Verdict(
            model=name,
            inputs=tuple(f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}" for x in inputs),
            dtype=str(self.subject.dtype).removeprefix("torch."),
            tolerance=self.tolerance,
            reason=self.reason,
            checks=tuple(self.checks),
            one_hot=OneHotCoverage(len(states), len(complete), self.rounds, matters, tuple(missed) if matters else ()),
            report=report,
            as_written={m: tuple(dict.fromkeys(f._toponas.as_written.values())) for m, f in self.fasts.items()},
            notes=tuple(dict.fromkeys(self.notes)),
            watched=tuple(dict.fromkeys(name for fast in self.fasts.values() for name in watched(fast))),
        )


def _shares(fast: Any) -> bool:
    """Return whether anything was decided that changes the function between one-hot weights."""
    return bool(fast._toponas.sharing.ties or fast._toponas.sharing.kernels)


def _coarse(graph: fx.Graph) -> Iterator[fx.Node]:
    """Yield the nodes that compute in a floating type below float64."""
    for node in graph.nodes:
        dtype = node.meta["type"].dtype if "type" in node.meta else torch.float64
        if dtype.is_floating_point and dtype is not torch.float64:
            yield node
