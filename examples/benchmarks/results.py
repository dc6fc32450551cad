"""What `search_step.py` found about its rows, and the table that says it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from benchmarks.spaces import CHANNELS_LAST, COMPILED, SPACES, UNTOUCHED, Row, Size
from benchmarks.steps import Quartiles
from benchmarks.tables import NOTHING, Table
from toponas_fx.tuning.cache import processor_name

PATHS = (
    "Each round draws a path, the same for all rows. All steps' time is the ratio of sums over the rounds, with what a "
    "path costs once, when it is new; what is saved for backward, FLOPs and dispatcher calls are means over the paths."
)
"""What is said below the table of a space whose steps sample."""


@dataclass
class Result:
    """The costs of one row; None stands for what was not measured.

    Attributes:
        row: it.
        seconds: of its steps, one a round.
        saved_bytes: kept by a forward pass for the backward pass; this and the next two are means over sampled paths.
        peak_bytes: by which a process of its own grows in a step.
        whole_bytes: by which it grows in all, capture, passes and compilation among it.
        flops: of a forward pass.
        dispatcher_calls: of a step.
        parameters: scalars that get gradients, architecture weights among them.
        simplify_seconds: of capture and passes.
        compile_seconds: of `torch.compile`: the first step less a later one.
        error: why the row failed; the numbers after it are missing.
        notes: what was warned of.
    """

    row: Row
    seconds: list[float] = field(default_factory=list)
    saved_bytes: float | None = None
    peak_bytes: int | None = None
    whole_bytes: int | None = None
    flops: float | None = None
    dispatcher_calls: float | None = None
    parameters: int | None = None
    simplify_seconds: float | None = None
    compile_seconds: float | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()

    def fail(self, error: BaseException) -> None:
        """Note why the row failed; the times of some of its rounds would pair with other rounds of the others."""
        lines = str(error).strip().splitlines() or [""]
        self.error = f"{type(error).__name__}: {lines[0]}".removesuffix(": ")
        self.seconds = []


class Results:
    """All rows of a run, and each compared with others."""

    def __init__(self, size: Size, rows: Sequence[Result]) -> None:
        self.size = size
        self.rows = list(rows)
        self._named = {result.row.name: result for result in self.rows}
        self.sampled = SPACES[size.space].sampled
        self.baselines = [UNTOUCHED, CHANNELS_LAST, *SPACES[size.space].single_paths, UNTOUCHED + COMPILED]

    def time_ratio(self, result: Result, baseline: str) -> Quartiles | None:
        """Return the quartiles of a row's step over the baseline's of the same round."""
        other = self._named.get(baseline)
        if other is None or not other.seconds or not result.seconds:
            return None
        return Quartiles.of([own / its for own, its in zip(result.seconds, other.seconds, strict=True)])

    def summed_time_ratio(self, result: Result, baseline: str) -> float | None:
        """Return what all of a row's steps took over what the baseline's took, along the same paths."""
        return self.ratio(result, baseline, lambda r: sum(r.seconds) or None)

    def ratio(self, result: Result, baseline: str, cost: Callable[[Result], float | None]) -> float | None:
        """Return a row's cost over the baseline's."""
        other = self._named.get(baseline)
        own, its = cost(result), other and cost(other)
        return own / its if own is not None and its else None

    def contents(self) -> dict[str, Any]:
        """Return all that was found, for JSON: settings, machine, rows with their ratios to each baseline."""
        return {"size": asdict(self.size), "machine": machine(), "rows": [self._row(result) for result in self.rows]}

    def _row(self, result: Result) -> dict[str, Any]:
        times = {baseline: self.time_ratio(result, baseline) for baseline in self.baselines}
        found = {**asdict(result), **asdict(result.row)}
        del found["row"]
        found["step_seconds"] = asdict(Quartiles.of(result.seconds)) if result.seconds else None
        found["time_ratios"] = {baseline: asdict(ratio) for baseline, ratio in times.items() if ratio}
        found["summed_time_ratios"] = {baseline: self.summed_time_ratio(result, baseline) for baseline in times}
        found["saved_ratio"] = self.ratio(result, UNTOUCHED, lambda r: r.saved_bytes)
        found["peak_ratio"] = self.ratio(result, UNTOUCHED, lambda r: r.peak_bytes)
        found["whole_ratio"] = self.ratio(result, UNTOUCHED, lambda r: r.whole_bytes)
        found["compile_seconds_ratio"] = self.ratio(result, UNTOUCHED + COMPILED, lambda r: r.compile_seconds)
        return found

    def table(self) -> Table:
        """Return the table, without the columns that no row has a number for."""
        titles = ["row", "step, ms"]
        titles += [f"step time /\n{baseline}" for baseline in self.baselines]
        titles += [f"all steps' time /\n{baseline}" for baseline in self.baselines]
        titles += ["saved for\nbackward, MB", "saved /\nuntouched", "step's peak\nmemory, MB", "peak /\nuntouched"]
        titles += ["whole peak\nmemory, MB", "whole peak /\nuntouched"]
        titles += ["forward\nGFLOPs", "dispatcher\ncalls", "parameters", "capture and\npasses, s", "compile, s"]
        titles += ["compile, s /\nuntouched"]
        size = ", ".join(f"{name} {value}" for name, value in asdict(self.size).items() if name != "space")
        table = Table(f"{self.size.space}: {size}", titles, [self._cells(result) for result in self.rows])
        rounds = max((len(result.seconds) for result in self.rows), default=0)
        table.notes = [
            f"Medians over {rounds} rounds; ratios of step times are medians of the ratios in each round [quartiles].",
            *[PATHS] * self.sampled,
            "Measured on: " + ", ".join(f"{name} {value}" for name, value in machine().items()),
            *(f"{result.row.name}: {note}" for result in self.rows for note in result.notes),
        ]
        return table.without_empty_columns()

    def _cells(self, result: Result) -> list[str]:
        label = result.row.label + (f" (failed: {result.error})" if result.error else "")
        milliseconds = 1e3 * Quartiles.of(result.seconds).median if result.seconds else None
        cells = [label, _number(milliseconds, ".4g")]
        cells += [_quartiles(self.time_ratio(result, baseline)) for baseline in self.baselines]
        sums = [self.summed_time_ratio(result, baseline) for baseline in self.baselines]
        cells += [_number(ratio if self.sampled else None, ".2f") for ratio in sums]
        for cost in (lambda r: r.saved_bytes, lambda r: r.peak_bytes, lambda r: r.whole_bytes):
            value = cost(result)
            cells.append(_number(None if value is None else value / 1e6, ".1f"))
            cells.append(_number(self.ratio(result, UNTOUCHED, cost), ".2f"))
        cells.append(_number(None if result.flops is None else result.flops / 1e9, ".3g"))
        cells += [_number(result.dispatcher_calls, ",.0f"), _number(result.parameters, ",")]
        cells += [_number(result.simplify_seconds, ".1f"), _number(result.compile_seconds, ".0f")]
        return [*cells, _number(self.ratio(result, UNTOUCHED + COMPILED, lambda r: r.compile_seconds), ".2f")]


def machine() -> dict[str, Any]:
    """Describe what the numbers were measured on."""
    found = {
        "processor": processor_name(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    return {**found, "gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else found


def _number(value: float | None, spec: str) -> str:
    return NOTHING if value is None else format(value, spec)


def _quartiles(ratio: Quartiles | None) -> str:
    return NOTHING if ratio is None else f"{ratio.median:.2f} [{ratio.lower:.2f}, {ratio.upper:.2f}]"
