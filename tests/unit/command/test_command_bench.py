"""The command ``toponas-fx bench``, and the comparison that it prints."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from check_models import Supernet
from toponas_fx.checking.bench import Comparison, Contestant, bench
from toponas_fx.command.cli import main
from toponas_fx.errors import ArgumentError
from toponas_fx.tuning.steps import ResidentPeak, Step, peak_bytes

INPUT = ["--input", "2,4,6,6"]
CONTESTANTS = ["original", "channels-last", "simplified"]


def test_the_command_measures_three_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "check_models:Supernet", *INPUT, "--rounds", "2", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.err == ""
    assert [each["name"] for each in found["contestants"]] == CONTESTANTS
    assert all(len(each["seconds"]) == 2 and min(each["seconds"]) > 0 for each in found["contestants"])
    original, _, simplified = found["contestants"]
    ratios = found["ratios"]["original"]
    assert ratios["saved_bytes"] == pytest.approx(simplified["saved_bytes"] / original["saved_bytes"])
    assert ratios["saved_bytes"] < 1
    assert ratios["time"] > 0


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "check_models:Supernet", *INPUT, "--rounds", "1", "--mode", "exact"]) == 0
    title, empty, head, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith("Supernet, mode exact, cpu, ")
    assert title.endswith("2, 4, 6, 6]")
    assert empty == ""
    assert head.split() == [*CONTESTANTS, "of", "original", "of", "channels-last"]
    assert [row[:24].rstrip() for row in rows[:3]] == ["step", "saved for backward", "peak of a step"]
    assert len({len(row) for row in (head, *rows[:3])}) == 1


def comparison() -> Comparison:
    return Comparison(
        "A model",
        (
            Contestant("original", (2.0, 4.0, 9.0), 4 * 2**20, None),
            Contestant("channels-last", (1.0, 1.0, 1.0), 2**20, 2**31),
            Contestant("simplified", (1.0, 1.0, 3.0), 2**20, 2**30),
        ),
        ("careful",),
    )


def test_ratios_are_medians_over_the_rounds() -> None:
    found = comparison()
    original, other, _ = found.contestants
    assert found.ratios(original) == {"time": pytest.approx(1 / 3), "saved_bytes": 0.25, "peak_bytes": None}
    assert found.ratios(other) == {"time": 1.0, "saved_bytes": 1.0, "peak_bytes": 0.5}


def test_text_of_a_comparison() -> None:
    assert str(comparison()).splitlines() == [
        "A model",
        "",
        "                           original   channels-last   simplified   of original   of channels-last",
        "step                      4000.0 ms       1000.0 ms    1000.0 ms          0.33               1.00",
        "saved for backward          4.0 MiB         1.0 MiB      1.0 MiB          0.25               1.00",
        "peak of a step                    -        2.00 GiB     1.00 GiB             -               0.50",
        "",
        "note: careful",
    ]


def test_bench_takes_no_gradients_and_what_simplify_says() -> None:
    model = Supernet()
    found = bench(model, torch.randn(2, 4, 6, 6), rounds=1)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [each.name for each in found.contestants] == CONTESTANTS


class Rows(nn.Module):
    """Takes no images."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.alphas = nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        return sum(w * layer(x) for w, layer in zip(self.alphas, self.layers, strict=True))  # type: ignore[return-value]


class Uncopied(Supernet):
    """Cannot be copied."""

    def __deepcopy__(self, memo: object) -> object:
        raise TypeError("a lock")


def test_what_has_no_images_has_one_layout() -> None:
    found = bench(Rows(), torch.randn(2, 3), rounds=1)
    assert [each.name for each in found.contestants] == ["original", "simplified"]
    assert found.notes == ()


def test_what_cannot_be_copied_is_not_measured_in_the_other_layout() -> None:
    found = bench(Uncopied(), torch.randn(2, 4, 6, 6), rounds=1)
    assert [each.name for each in found.contestants] == ["original", "simplified"]
    assert found.notes[0] == "not measured in channels-last layout: the model cannot be copied (a lock)"


def test_rounds_are_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ArgumentError, match="rounds must be at least 1, not 0"):
        bench(Rows(), torch.randn(2, 3), rounds=0)
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "check_models:Supernet", "--rounds", "0"])
    assert "'0' is no positive number" in capsys.readouterr().err


def test_the_peak_of_a_step_is_what_it_takes() -> None:
    big = torch.zeros(8 * 2**20)  # 32 MiB
    step = Step("big", lambda: (big * 2).sum(), nn.Identity())
    found = peak_bytes(step, torch.device("cpu"))
    if found is None:
        assert not ResidentPeak().reset()
    else:
        assert 30 * 2**20 < found < 60 * 2**20


def test_where_no_peak_is_forgotten_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResidentPeak, "reset", lambda self: False)
    assert peak_bytes(Step("none", lambda: None, nn.Identity()), torch.device("cpu")) is None


def test_a_model_without_anything_to_train_takes_steps_too() -> None:
    assert Step("none", lambda: torch.ones(1, requires_grad=True), nn.Identity()).run() > 0
