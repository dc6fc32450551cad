"""What a step of a model costs, simplified and as its user wrote it, in both memory layouts of images."""

from __future__ import annotations

import copy
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from toponas_fx.analysis.costs import saved_bytes
from toponas_fx.api import simplify
from toponas_fx.capture.inputs import Inputs, inputs_of
from toponas_fx.errors import ArgumentError
from toponas_fx.module_tree.tensor_paths import model_tensors
from toponas_fx.progress import progress, step
from toponas_fx.runtime.inspection import inspection
from toponas_fx.tuning.steps import Step, peak_bytes

ROUNDS = 11
WARM_UP = 2


@dataclass(frozen=True)
class Contestant:
    """One way to compute a model.

    Attributes:
        name: ``"original"``, ``"channels-last"`` (the original in that layout) or ``"simplified"``.
        seconds: of its steps, one a round.
        saved_bytes: that its forward pass keeps for backward.
        peak_bytes: by which a step lets memory grow; None where the system does not tell.
    """

    name: str
    seconds: tuple[float, ...]
    saved_bytes: int
    peak_bytes: int | None


@dataclass(frozen=True)
class Comparison:
    """A model simplified beside the original; ``print`` it.

    Attributes:
        title: model, mode, device and inputs.
        contestants: those that were measured, the simplified model last.
        notes: what else to know.
    """

    title: str
    contestants: tuple[Contestant, ...]
    notes: tuple[str, ...]

    def ratios(self, other: Contestant) -> dict[str, float | None]:
        """Return what the simplified model takes of another contestant; for time the median over the rounds."""
        own = self.contestants[-1]
        pairs = zip(own.seconds, other.seconds, strict=True)
        return {
            "time": statistics.median(mine / theirs for mine, theirs in pairs),
            "saved_bytes": _ratio(own.saved_bytes, other.saved_bytes),
            "peak_bytes": _ratio(own.peak_bytes, other.peak_bytes),
        }

    def __str__(self) -> str:
        """Write a table: costs, and what the simplified model takes of each original."""
        names = [each.name for each in self.contestants] + [f"of {each.name}" for each in self.contestants[:-1]]
        lines = [self.title, "", f"{'':<24}" + "".join(f"{name:>{len(name) + 3}}" for name in names)]
        ratios = [self.ratios(other) for other in self.contestants[:-1]]
        rows = (
            ("step", "time", [f"{1e3 * statistics.median(each.seconds):.1f} ms" for each in self.contestants]),
            ("saved for backward", "saved_bytes", [_size(each.saved_bytes) for each in self.contestants]),
            ("peak of a step", "peak_bytes", [_size(each.peak_bytes) for each in self.contestants]),
        )
        for title, key, cells in rows:
            found = [ratio[key] for ratio in ratios]
            cells += ["-" if value is None else f"{value:.2f}" for value in found]
            aligned = (f"{cell:>{len(name) + 3}}" for name, cell in zip(names, cells, strict=True))
            lines.append(f"{title:<24}{''.join(aligned)}")
        lines += ["", *(f"note: {note}" for note in self.notes)] if self.notes else []
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain dicts, lists, strings and numbers."""
        found = {**asdict(self), "ratios": {each.name: self.ratios(each) for each in self.contestants[:-1]}}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def bench(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    example_kwargs: dict[str, Any] | None = None,
    mode: str = "share",
    rounds: int = ROUNDS,
) -> Comparison:
    """Let a model, the same in channels-last layout and the simplified one take steps in turn, and compare them.

    A step is a forward and a backward pass in training mode over the sum of squares of what forward returns, as
    ``tune=True`` takes it. Ratios of times are medians over the rounds: they hold on a busy machine.

    Args:
        model: the supernet; it is left in training mode, and its norms count what they see.
        example_inputs: as for ``simplify``, of the size that the search has.
        example_kwargs: likewise.
        mode: of ``simplify``.
        rounds: of one step each.

    Raises:
        ArgumentError: ``rounds`` is not positive, or ``simplify`` refuses the model.
        InputError: none could be inferred.
    """
    if rounds < 1:
        raise ArgumentError(f"rounds must be at least 1, not {rounds}")
    inputs = inputs_of(model, example_inputs, example_kwargs)
    with progress(f"measuring {type(model).__name__}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what simplify warns of is in the report's notes
        step("simplify")
        fast = simplify(model, inputs.args, example_kwargs=inputs.kwargs, mode=mode)
        steps, notes = _steps(model, fast, inputs)
        for each in steps:
            each.owner.train()
        for each in steps * WARM_UP:
            step(f"warming up, {each.text}")
            each.run()
        seconds: list[list[float]] = [[] for _ in steps]
        for number in range(rounds):
            step(f"round {number + 1} of {rounds}")
            order = [*enumerate(steps)][:: 1 if number % 2 == 0 else -1]  # backwards every other round: caches, heap
            for place, each in order:
                seconds[place].append(each.run())
        device = next((tensor.device for _, tensor in model_tensors(model)), torch.device("cpu"))
        found = [_contestant(each, times, device) for each, times in zip(steps, seconds, strict=True)]
    notes += inspection(fast)._toponas.report.notes
    return Comparison(_title(model, mode, device, inputs), tuple(found), tuple(notes))


def _steps(model: nn.Module, fast: nn.Module, inputs: Inputs) -> tuple[list[Step], list[str]]:
    """Return the steps that are compared, and why there may be fewer of them."""
    steps, notes = [_step("original", model, inputs)], list[str]()
    images = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim() == 4]
    if images:
        try:
            other = copy.deepcopy(model).to(memory_format=torch.channels_last)
        except Exception as error:  # whatever the user's objects raise
            notes.append(f"not measured in channels-last layout: the model cannot be copied ({error})")
        else:
            steps.append(_step("channels-last", other, pytree.tree_map_only(Tensor, _channels_last, inputs)))
    return [*steps, _step("simplified", fast, inputs)], notes


def _step(name: str, model: nn.Module, inputs: Inputs) -> Step:
    return Step(name, lambda: model(*inputs.args, **inputs.kwargs), model)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _contestant(each: Step, seconds: Sequence[float], device: torch.device) -> Contestant:
    step(f"memory, {each.text}")
    kept = [tensor for _, tensor in model_tensors(each.owner)]
    saved = saved_bytes(each.call, exclude=kept)
    return Contestant(each.text, tuple(seconds), saved, peak_bytes(each, device))


def _title(model: nn.Module, mode: str, device: torch.device, inputs: Inputs) -> str:
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    shapes = ", ".join(f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}" for tensor in tensors)
    count = torch.get_num_threads()
    threads = f", {count} thread{'s' if count > 1 else ''}" if device.type == "cpu" else ""
    return f"{type(model).__name__}, mode {mode}, {device}{threads}, {shapes}"


def _ratio(own: int | None, other: int | None) -> float | None:
    return None if own is None or not other else own / other


def _size(number: int | None) -> str:
    if number is None:
        return "-"
    return f"{number / 2**20:.1f} MiB" if number < 2**30 else f"{number / 2**30:.2f} GiB"
