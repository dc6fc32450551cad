"""What a check of a model found, as text and as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from toponas_fx.report.report import Report

ONE_HOT = "one-hot architecture"


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        mode: ``"exact"`` or ``"share"``, the mode of ``simplify``.
        what: what was compared: outputs, gradients, buffers, finite values, or what forward is recorded as.
        at: the weights that it was compared at.
        training: whether the models were in training mode.
        error: the largest error of a tensor, relative to its size; infinite where a value is missing or not finite.
        tolerance: the error that passes.
        where: the tensor with the largest error.
        message: what the simplified model raised instead; empty where it ran.
    """

    mode: str
    what: str
    at: str
    training: bool
    error: float
    tolerance: float
    where: str = ""
    message: str = ""

    @property
    def passed(self) -> bool:
        """Return whether the error is within the tolerance."""
        return not self.message and self.error <= self.tolerance

    def __str__(self) -> str:
        """Write what was compared, and how far it is off."""
        place = f"{self.mode}, {self.what} at {self.at}, {'training' if self.training else 'evaluation'}"
        if self.message:
            return f"{place}: {self.message}"
        return f"{place}: off by {self.error:.2g} at `{self.where}`, allowed {self.tolerance:.0e}"


@dataclass(frozen=True)
class OneHotCoverage:
    """Which mixed operations were put at which one-hot weights.

    Attributes:
        mixtures: how many mixed operations have more than one candidate.
        complete: how many of them were put at each of their candidates.
        rounds: how many one-hot architectures of the whole model were visited.
        matters: False where nothing is shared: the model is then compared at any weights.
        missed: for the other mixed operations a sentence each.
    """

    mixtures: int
    complete: int
    rounds: int
    matters: bool
    missed: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Return whether every architecture's candidates were seen, or none had to be."""
        return not self.matters or (self.complete == self.mixtures > 0 and not self.missed)

    def __str__(self) -> str:
        """Write the numbers."""
        if not self.matters:
            return "one-hot architectures: nothing is shared, so the model was compared at any weights"
        text = f"one-hot architectures: {self.complete} of {self.mixtures} mixed operations were put at each candidate"
        return f"{text}, in {self.rounds} rounds"


@dataclass(frozen=True)
class Verdict:
    """What a check found; ``print`` it.

    Attributes:
        model: the class of the model.
        inputs: type and shape of each input tensor.
        dtype: the type that was computed in.
        tolerance: the relative error that passes for equal.
        reason: why that is not float64, or not as exact; empty where it is.
        checks: all comparisons.
        one_hot: which one-hot weights were visited.
        report: what ``simplify`` does to the model as it is, in mode ``"share"``; None where it fails.
        as_written: in each mode, why forward runs as the user wrote it; empty where it was compiled.
        notes: what else to know.
        watched: the Python state that programs read, and that is compared at each call.
    """

    model: str
    inputs: tuple[str, ...]
    dtype: str
    tolerance: float
    reason: str
    checks: tuple[Check, ...]
    one_hot: OneHotCoverage
    report: Report | None
    as_written: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    watched: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass; first those that tell a line of forward which has changed."""
        return tuple(sorted((c for c in self.checks if not c.passed), key=lambda check: check.what != "recording"))

    @property
    def passed(self) -> bool:
        """Return whether something was compared and nothing was wrong."""
        return bool(self.checks) and not self.failures

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        if not self.passed:
            more = len(self.failures) - 1
            first = str(self.failures[0]) if self.failures else "nothing could be compared"
            return f"FAIL: {first}" + (f" (and {more} more)" if more > 0 else "")
        reasons = [reason for found in self.as_written.values() for reason in found]
        if reasons and not self.one_hot.matters:
            return f"PASS, runs as written: {reasons[0]}"
        if not self.one_hot.is_complete:
            return f"PASS, but incomplete: {_incomplete(self.one_hot)}"
        return f"PASS: {self.model}, simplified, computes what it did"

    def __str__(self) -> str:
        """Write the report, the checks and the verdict."""
        lines = [] if self.report is None else [str(self.report), ""]
        lines += [f"checked with {', '.join(self.inputs)}, computed in {self.dtype}"]
        lines += [f"note: {self.reason}; errors up to {self.tolerance:.0e} pass"] if self.reason else []
        lines += [*self._check_lines(), str(self.one_hot)]
        lines += [f"    {sentence}" for sentence in self.one_hot.missed[:_SHOWN]]
        if len(self.one_hot.missed) > _SHOWN:
            lines.append(f"    and {len(self.one_hot.missed) - _SHOWN} more")
        if self.watched:
            more = f" and {len(self.watched) - _SHOWN} more" if len(self.watched) > _SHOWN else ""
            lines.append(f"watched at each call: {', '.join(self.watched[:_SHOWN])}{more}")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"wrong: {check}" for check in self.failures[:_SHOWN]]
        return "\n".join([*lines, "", f"verdict: {self.sentence}"])

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain dicts, lists, strings and numbers; an infinite error is None."""
        return {
            "verdict": "pass" if self.passed else "fail",
            "complete": self.one_hot.is_complete,
            "sentence": self.sentence,
            "model": self.model,
            "inputs": list(self.inputs),
            "dtype": self.dtype,
            "tolerance": self.tolerance,
            "reason": self.reason,
            "checks": [_check_dict(check) for check in self.checks],
            "one_hot": {**vars(self.one_hot), "missed": list(self.one_hot.missed)},
            "as_written": {mode: list(reasons) for mode, reasons in self.as_written.items()},
            "notes": list(self.notes),
            "watched": list(self.watched),
            "report": None if self.report is None else self.report.as_dict(),
        }

    def _check_lines(self) -> Iterator[str]:
        """Yield one line for each kind of comparison, with its largest error."""
        groups: dict[tuple[str, str, str], list[Check]] = {}
        for check in self.checks:
            kind = "one-hot weights" if check.at.startswith(ONE_HOT) else check.at
            groups.setdefault((check.mode, check.what, kind), []).append(check)
        yield f"{'mode':<7}{'compared':<11}{'at':<17}{'runs':>5}{'largest error':>15}{'allowed':>9}"
        for (mode, what, kind), checks in groups.items():
            worst = max(checks, key=lambda check: (not check.passed, check.error))
            size = "-" if what in _UNSIZED and worst.passed else f"{worst.error:.1e}"
            allowed = "-" if what in _UNSIZED else f"{worst.tolerance:.0e}"
            mark = "ok" if worst.passed else "WRONG"
            yield f"{mode:<7}{what:<11}{kind:<17}{len(checks):>5}{size:>15}{allowed:>9}  {mark}"


_SHOWN = 5
_UNSIZED = ("finite", "recording")


def _incomplete(one_hot: OneHotCoverage) -> str:
    rest = one_hot.mixtures - one_hot.complete
    if one_hot.mixtures == 0:
        return "modules are shared, but no mixed operation was found to put at one-hot weights"
    return f"{rest} of {one_hot.mixtures} mixed operations could not be put at one-hot weights"


def _check_dict(check: Check) -> dict[str, Any]:
    error = check.error if math.isfinite(check.error) else None
    return {**vars(check), "error": error, "passed": check.passed}
