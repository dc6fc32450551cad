"""What a search went through: recorded step by step, drawn with matplotlib, written for TensorBoard as it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COLOURS = {"original": "tab:orange", "simplified": "tab:blue"}


class History:
    """The course of one search.

    Attributes:
        seconds: after each step, what all steps and `simplify` took so far.
        losses: of the weights, a number a step.
        weights: what each candidate counts in its mixed operation after each step; a tensor f32[O] an edge.
        accuracies: after each epoch, the steps until then and the validation accuracy in percent.
    """

    def __init__(self, candidates: Sequence[str], start: float = 0.0, writer: Any = None) -> None:
        """Begin with nothing.

        Args:
            candidates: names of the candidate operations; an edge may lack the last of them.
            start: seconds that were spent before the first step.
            writer: a TensorBoard `SummaryWriter`, which gets all of it too.
        """
        self.candidates = candidates
        self.start = start
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.weights: list[list[Tensor]] = []
        self.accuracies: list[tuple[int, float]] = []
        self._writer = writer

    def add_step(self, seconds: float, loss: float, weights: Sequence[Tensor]) -> None:
        """Add a step, by what it took, its loss, and the softmax of the architecture parameters behind it, f32[E,O]."""
        self.seconds.append((self.seconds[-1] if self.seconds else self.start) + seconds)
        self.losses.append(loss)
        self.weights.append([row.clone() for tensor in weights for row in tensor.view(-1, tensor.shape[-1])])
        self._write("loss", loss)

    def add_accuracy(self, accuracy: float) -> None:
        """Add the validation accuracy at the end of an epoch, in percent."""
        self.accuracies.append((len(self.seconds), accuracy))
        self._write("validation accuracy", accuracy)
        for edge, row in enumerate(self.weights[-1]):
            for name, weight in zip(self.candidates, row.tolist(), strict=False):
                self._write(f"edge {edge}/{name}", weight)

    def strongest(self) -> tuple[float, float]:
        """Return what an edge's strongest candidate counts, in the mean, and each one's where nothing is decided."""
        rows = self.weights[-1]
        return sum(float(row.max()) for row in rows) / len(rows), sum(1 / len(row) for row in rows) / len(rows)

    def close(self) -> None:
        """Let TensorBoard have all that was written."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, tag: str, value: float) -> None:
        if self._writer is not None:  # as if at that second, so that TensorBoard's relative time is the search's own
            self._writer.add_scalar(tag, value, len(self.seconds), walltime=self.seconds[-1])


def tensorboard_writer(folder: Path) -> Any:
    """Return a writer of TensorBoard events, for which the package `tensorboard` must be there."""
    from torch.utils.tensorboard import SummaryWriter  # only those who ask for it have it

    return SummaryWriter(str(folder))


def plot(histories: Mapping[str, History], title: str, path: Path) -> None:
    """Draw loss, accuracy and candidates' weights, one search beside the other, against steps and against seconds."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = 2 + len(histories)
    figure, axes = pyplot.subplots(rows, 2, sharex="col", sharey="row", figsize=(11, 2.6 * rows), layout="constrained")
    for column, unit in enumerate(("steps", "seconds")):
        for name, history in histories.items():
            _draw_course(axes[0][column], axes[1][column], name, history, unit)
        for row, (name, history) in enumerate(histories.items(), 2):
            _draw_weights(axes[row][column], history, unit)
            axes[row][0].set_ylabel(f"weights of\ncandidates,\n{name}")
        axes[-1][column].set_xlabel(unit if unit == "steps" else "seconds, with those of simplify")
    limits = [limit for row in axes[2:] for limit in row[0].get_ylim()]
    for row in axes[2:]:
        row[0].set_ylim(min(limits), max(limits))  # of one scale, to be compared
    axes[0][0].set_ylabel("loss")
    axes[1][0].set_ylabel("validation\naccuracy, %")
    axes[0][0].legend()
    axes[2][0].legend(fontsize="x-small", ncols=2, loc="upper left")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw_course(losses: Any, accuracies: Any, name: str, history: History, unit: str) -> None:
    losses.plot(_abscissa(history, unit), history.losses, color=COLOURS[name], label=name, linewidth=1)
    steps, percent = zip(*history.accuracies, strict=True)
    at = [_abscissa(history, unit)[step - 1] for step in steps]
    accuracies.plot(at, percent, color=COLOURS[name], marker="o", markersize=3)


def _draw_weights(axes: Any, history: History, unit: str) -> None:
    """Draw a thin line an edge and candidate, and a thick one a candidate for the mean over the edges."""
    at = _abscissa(history, unit)
    for candidate, name in enumerate(history.candidates):
        edges = [edge for edge, row in enumerate(history.weights[0]) if candidate < len(row)]
        lines = torch.tensor([[float(rows[edge][candidate]) for edge in edges] for rows in history.weights])  # [T,E]
        colour = f"C{candidate}"
        axes.plot(at, lines, color=colour, linewidth=0.5, alpha=0.5)
        axes.plot(at, lines.mean(dim=1), color=colour, linewidth=2, label=name)


def _abscissa(history: History, unit: str) -> Sequence[float]:
    return history.seconds if unit == "seconds" else range(1, len(history.seconds) + 1)
