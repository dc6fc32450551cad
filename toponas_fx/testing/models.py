"""Assertions about whole models: the same function, or the same at every one-hot architecture."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from toponas_fx.api import restore, simplify
from toponas_fx.capture.inputs import Inputs, inputs_of
from toponas_fx.checking.comparison import run_from, seed_all
from toponas_fx.checking.one_hot import OneHotArchitectures
from toponas_fx.checking.precision import Subject, copied, default_dtype, subject_of
from toponas_fx.errors import ArgumentError
from toponas_fx.module_tree.copying import copy_tree
from toponas_fx.module_tree.isolation import restored_generators
from toponas_fx.options import checked_passes
from toponas_fx.passes import DetectMixedOps, UnstackSums
from toponas_fx.rewriting.pass_base import Pass, Repeat
from toponas_fx.runtime.normalized_layers import leave_layer
from toponas_fx.runtime.simplified_module import SimplifiedModule
from toponas_fx.testing.differences import (
    EXACT,
    PATHS,
    differences,
    differences_from,
    differences_here,
    double_plain_tensors,
    draws_its_path,
    fail,
    mode_text,
    scatter_statistics,
)

ONE_HOT = 1e-9
"""The same at one-hot architectures, where a norm undoes the scale of a kernel."""
DETECTION = (UnstackSums(), DetectMixedOps())
"""The passes that write every weighted sum as a mixed sum, and do no more."""

Passes = Sequence[Pass | Repeat]


def assert_exact(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    example_kwargs: dict[str, Any] | None = None,
    passes: Passes | None = None,
    tolerance: float = EXACT,
    seed: int = 0,
) -> None:
    """Assert that a model, simplified in mode ``"exact"``, computes what it did.

    Compared are outputs, the gradients of a loss by all parameters, the architecture's too, and by floating inputs (one
    that is None is not one of zeros), buffers after a step and how much is drawn at random, in training and in
    evaluation, on copies in float64. Where forward cannot run in float64, the tolerance is what ``toponas_fx.check``
    allows. A model that runs as it was written passes, since it is what it was.

    Args:
        model: a model; or what ``simplify`` returned for one and shares nothing: then it is compared with the original
            that ``restore`` returns.
        example_inputs: as for ``simplify``.
        example_kwargs: likewise.
        passes: likewise, for a model that is not simplified yet.
        tolerance: the error that passes, relative to the largest value of a tensor.
        seed: of all draws.

    Raises:
        AssertionError: something differs; the text says what, where, by how much, and after which pass.
        ArgumentError: the model shares modules, which changes the function between one-hot architectures.
    """
    with quietly(seed):
        subject, fast = _subject(model, Inputs(*inputs_of(model, example_inputs, example_kwargs)), "exact", passes)
        if fast._toponas.sharing.ties or fast._toponas.sharing.kernels:
            raise ArgumentError("the model shares modules between candidates: use assert_one_hot, or mode='exact'")
        allowed = max(tolerance, subject.tolerance if subject.reason else 0.0)
        with default_dtype(subject.dtype):
            lines = differences_from(subject.model, fast, subject.inputs, allowed, seed)
            if lines:

                def is_wrong(some: Passes) -> bool:
                    other = _simplified(copied(subject.model), subject.inputs, mode="exact", passes=some)
                    return bool(differences_from(subject.model, other, subject.inputs, allowed, seed))

                advice = _culprit(fast._toponas.passes, is_wrong)
                fail(f"{_name(fast)}, simplified, is not what it was", lines, allowed, advice)


def assert_one_hot(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    example_kwargs: dict[str, Any] | None = None,
    passes: Passes | None = None,
    tolerance: float = ONE_HOT,
    seed: int = 0,
) -> None:
    """Assert that a simplified model equals ``fast.reference``, and what ``restore`` returns, at one-hot architectures.

    Every candidate of every mixed operation has its turn, beside other candidates of the others, twice. Compared are
    outputs and the gradients of all parameters but the architecture's, in training and in evaluation, on copies in
    float64; the architecture's gradients are finite. How forward makes its weights need not be known.

    Args:
        model: what ``simplify`` returned; or a model, which is simplified first.
        example_inputs: as for ``simplify``.
        example_kwargs: likewise.
        passes: likewise, for a model that is not simplified yet.
        tolerance: the error that passes, relative to the largest value of a tensor.
        seed: of all draws.

    Raises:
        AssertionError: something differs, or a mixed operation could not be put at each of its candidates.
    """
    with quietly(seed):
        subject, fast = _subject(model, Inputs(*inputs_of(model, example_inputs, example_kwargs)), "share", passes)
        allowed = max(tolerance, subject.tolerance if subject.reason else 0.0)
        with default_dtype(subject.dtype):
            lines = list(differences_at_vertices(fast, subject.inputs, allowed, seed))
            if lines:

                def is_wrong(some: Passes) -> bool:
                    other = _simplified(copied(subject.model), subject.inputs, passes=some)
                    return any(differences_at_vertices(other, subject.inputs, allowed, seed))

                advice = _culprit(fast._toponas.passes, is_wrong)
                fail(f"{_name(fast)}, simplified, is another function", lines, allowed, advice)


# -- what is compared ----------------------------------------------------------------------------------------------


def _subject(model: nn.Module, inputs: Inputs, mode: str, passes: Passes | None) -> tuple[Subject, Any]:
    """Return a float64 copy of the original with its inputs, and the simplified model over tensors of its own."""
    if not isinstance(model, SimplifiedModule):
        checked_passes(model, mode, passes, "kernel")
        subject = subject_of(model, inputs)
        scatter_statistics(subject.model)
        return subject, _simplified(copied(subject.model), subject.inputs, mode=mode, passes=passes)
    if passes is not None:
        raise ArgumentError("the model is simplified already: passes are for one that is not")
    subject = subject_of(restore(model), inputs)
    twin = copy.deepcopy(model)
    twin._toponas.is_strict = True
    if subject.dtype is torch.float64:
        double_plain_tensors(twin.double())
    scatter_statistics(twin)
    plain = restore(twin)
    return Subject(plain, subject.inputs, subject.dtype, subject.tolerance, subject.reason), twin


def _simplified(model: nn.Module, inputs: Inputs, **options: Any) -> Any:
    return simplify(model, inputs.args, example_kwargs=inputs.kwargs, strict=True, **options)


def differences_at_vertices(
    fast: Any,
    inputs: Inputs,
    tolerance: float,
    seed: int,
    also: Callable[[Any, Inputs], list[str]] = lambda fast, inputs: [],
) -> Iterator[str]:
    """Yield what differs at the first one-hot architecture where something does, or why not all could be visited.

    Args:
        fast: the simplified model.
        inputs: forward's arguments.
        tolerance: the error that passes.
        seed: of all draws.
        also: returns what else is wrong at a one-hot architecture.
    """
    one_hot = _one_hot(fast, inputs)
    sharing = fast._toponas.sharing
    is_exact = not (sharing.ties or sharing.kernels)
    is_drawn = draws_its_path(fast) and not one_hot.states
    for path in range(PATHS if is_drawn else is_exact):
        lines = differences_here(fast, inputs, tolerance, seed + path, {})
        lines += _wrong_restored(fast, inputs, tolerance, seed + path) if is_drawn else []
        if lines:
            yield from (f"on the path of seed {seed + path}, in {line}" if is_drawn else line for line in lines)
            return
    missing: dict[str, None] = {}
    for number, missed in enumerate(one_hot.visit(), start=1):
        missing.update(dict.fromkeys(missed))
        if missed:
            continue
        lines = differences_here(fast, inputs, tolerance, seed, one_hot.leaves)
        lines += [*_wrong_restored(fast, inputs, tolerance, seed), *also(fast, inputs)]
        if lines:
            yield from (f"one-hot architecture {number} of {one_hot.rounds}, in {line}" for line in lines)
            return
    for state in one_hot.states:
        if len(state.reached) < state.size:
            missing[f"{state.name}: alone were {len(state.reached)} of its {state.size} candidates"] = None
    if sharing.ties and not (one_hot.states or is_drawn):
        missing["modules are shared, and no mixed operation was found"] = None
    yield from (f"could not be put at one-hot architectures: {line}" for line in missing)


def _one_hot(fast: Any, inputs: Inputs) -> OneHotArchitectures:
    """Find the architecture weights in the user's own forward over the simplified model's tensors."""
    plain = copy_tree(fast, fast._toponas.user_class)
    if "meta" not in fast._toponas_taken:
        vars(plain).pop("meta", None)
    for module in plain.modules():
        leave_layer(module)
    return OneHotArchitectures(_simplified(plain, inputs, passes=DETECTION).train(), inputs)


def _wrong_restored(fast: Any, inputs: Inputs, tolerance: float, seed: int) -> Iterator[str]:
    plain = restore(fast)
    for training in (True, False):
        found, expected = (run_from(seed, m.train(training), m, inputs, {}) for m in (plain, fast))
        yield from (f"{mode_text(training)}, restored: {line}" for line in differences(found, expected, tolerance))


def _culprit(passes: Passes, is_wrong: Callable[[Passes], bool]) -> str:
    """Say which pass of a list makes a model wrong: the last of the shortest list that does."""
    if not is_wrong(passes):
        return "simplified anew it agrees: a tensor or a module of this model was changed since"
    low, high = 0, len(passes)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_wrong(passes[:middle]) else (middle + 1, high)
    if low == 0:
        return "it is wrong without any pass: capture recorded something else than forward computes"
    entry = passes[low - 1]
    names = ", ".join(p.name for p in (entry.passes if isinstance(entry, Repeat) else (entry,)))
    return f"it is wrong from '{names}' on: test that with toponas_fx.testing.check_pass"


def _name(fast: Any) -> str:
    return str(fast._toponas.user_class.__name__)


@contextmanager
def quietly(seed: int = 0) -> Iterator[None]:
    """Seed generators and leave them as they were; keep simplify's warnings back: what is compared tells it."""
    with warnings.catch_warnings(), restored_generators():
        warnings.simplefilter("ignore")
        seed_all(seed)
        yield
