"""The course of the example searches: what is recorded, drawn, written for TensorBoard, and said about the table."""

from typing import Any

import pytest
import torch

from search_plots import History, plot
from search_results import meaning


class Events(list[Any]):
    """In the place of a TensorBoard writer."""

    closed = False

    def add_scalar(self, *event: Any, walltime: float) -> None:
        self.append((*event, walltime))

    def close(self) -> None:
        self.closed = True


def history(start=0.0, writer=None):
    one = History(["none", "skip", "conv"], start, writer)
    for step in range(4):
        rows = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])
        one.add_step(0.5, 2.0 - step / 4, [rows, torch.tensor([0.75, 0.25])])
        if step % 2:
            one.add_accuracy(10.0 * step)
    return one


def test_history_counts_steps_and_seconds():
    one = history(3.0)
    assert one.seconds == [3.5, 4.0, 4.5, 5.0]
    assert one.accuracies == [(2, 10.0), (4, 30.0)]
    assert one.strongest() == pytest.approx(((0.5 + 0.6 + 0.75) / 3, (1 / 3 + 1 / 3 + 1 / 2) / 3))


def test_history_keeps_the_weights_of_their_time():
    weights = torch.tensor([0.75, 0.25])
    one = History(["a", "b"])
    one.add_step(1.0, 1.0, [weights])
    weights.zero_()
    assert one.weights[0][0].tolist() == [0.75, 0.25]


def test_tensorboard_gets_all_of_it_at_the_search_s_own_time():
    events = Events()
    history(1.0, events).close()
    assert events.closed
    assert [event[1:] for event in events if event[0] == "loss"][:2] == [(2.0, 1, 1.5), (1.75, 2, 2.0)]
    assert [event[1:] for event in events if event[0] == "validation accuracy"] == [(10.0, 2, 2.0), (30.0, 4, 3.0)]
    tags = {event[0] for event in events if event[0].startswith("edge")}
    assert tags == {
        *(f"edge {i}/{name}" for i in (0, 1) for name in ("none", "skip", "conv")),
        "edge 2/none",
        "edge 2/skip",
    }


def test_plot_has_both_searches_against_steps_and_seconds(tmp_path, monkeypatch):
    from matplotlib import pyplot

    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    simplified = history(2.0)
    simplified.weights[-1][0] = torch.tensor([0.9, 0.05, 0.05])
    plot({"original": history(), "simplified": simplified}, "a title", tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text(encoding="utf-8")
    (figure,) = figures
    axes = figure.axes  # row by row
    assert len(axes) == 8
    for axis, (first, last) in zip(axes[:2], ([1, 1], [0.5, 2.5]), strict=True):
        assert [line.get_xdata()[0] for line in axis.lines] == [first, last]
        assert all(list(line.get_ydata()) == [2.0, 1.75, 1.5, 1.25] for line in axis.lines)
    assert len({axis.get_ylim() for axis in axes[4:]}) == 1, "weights compare"
    assert [list(line.get_xdata()) for line in axes[3].lines] == [[1.0, 2.0], [3.0, 4.0]]
    assert all(list(line.get_ydata()) == [10.0, 30.0] for line in axes[3].lines)
    means = {line.get_label(): line.get_ydata()[0] for line in axes[4].lines if not line.get_label().startswith("_")}
    assert means == {
        name: pytest.approx(mean) for name, mean in (("none", 1.45 / 3), ("skip", 0.7 / 3), ("conv", 0.425))
    }


@pytest.mark.parametrize(("cell", "word"), [("a", "the same"), ("b", "different ones")])
def test_what_the_table_means_is_said(cell, word):
    results = {
        name: {"cell": found, "history": history(), "simplify_seconds": 1.0, "seconds_a_step": 0.5}
        for name, found in (("original", "a"), ("simplified", cell))
    }
    text = " ".join(meaning(results))
    assert "as long as 2.0 steps of the original" in text
    assert f"({word} here)" in text
    assert meaning({"original": results["original"]}) == []
