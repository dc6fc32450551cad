"""The benchmark of a search step in the spaces that sample a path: pairs of the same path, sums, means over paths."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import search_step
from benchmarks.peak_memory import growth
from benchmarks.results import PATHS, Result, Results
from benchmarks.rows import Prepared, prepare, without_gradient
from benchmarks.spaces import CHANNELS_LAST, SPACES, UNTOUCHED, Row, Size
from benchmarks.steps import Batch, Counts, seeded_saved_bytes, step_seconds

SAMPLED = [name for name, space in SPACES.items() if space.sampled]
TINY = ["--C", "4", "--cells", "1", "--nodes", "1", "--batch", "2", "--image-size", "8", "--threads", "1"]
SIZES = {space: Size(space, 4, 1, 1, len(SPACES[space].costliest), 2, 8, "cpu") for space in SAMPLED}


def row_of(space: str, name: str) -> Row:
    return next(row for row in SPACES[space].rows() if row.name == name)


def paths_of(ready: Prepared, seeds: Sequence[int]) -> list[tuple[str, ...]]:
    """Return which modules compute in the forward passes of some seeds."""
    names: list[str] = []
    for name, module in ready.model.named_modules():
        if isinstance(module, nn.Conv2d | nn.AvgPool2d | nn.MaxPool2d):
            module.register_forward_hook(lambda *_, name=name: names.append(name))
    paths = []
    for seed in seeds:
        names.clear()
        ready.model(*ready.batch.inputs(seed))
        paths.append(tuple(names))
    return paths


@pytest.mark.parametrize("space", SAMPLED)
def test_script(space: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "steps.json"
    rows = [UNTOUCHED, CHANNELS_LAST, "share"]
    search_step.main([*TINY, "--space", space, "--rows", *rows, "--repeats", "3", "--json", str(path), "--markdown"])
    written = json.loads(path.read_text())
    assert [row["name"] for row in written["rows"]] == rows
    for row in written["rows"]:
        assert row["error"] is None, row
        assert len(row["seconds"]) == written["repeats"] == 3
        assert min(row["saved_bytes"], row["flops"], row["dispatcher_calls"], row["parameters"]) > 0
        assert set(row["time_ratios"]) == {UNTOUCHED, CHANNELS_LAST}
        for baseline in (0, 1):
            other = written["rows"][baseline]
            expected = sum(row["seconds"]) / sum(other["seconds"])
            assert row["summed_time_ratios"][other["name"]] == pytest.approx(expected)
    printed = capsys.readouterr().out
    assert PATHS in printed
    assert "all steps' time / untouched-channels-last" in printed


@pytest.mark.parametrize("space", SAMPLED)
def test_rows_compute_the_same_on_a_path_of_the_same_seed(space: str) -> None:
    """No opponent is weakened: weights, images and paths are equal, and so are loss and gradients."""
    expected = prepare(row_of(space, UNTOUCHED), SIZES[space])
    others = {name: prepare(row_of(space, name), SIZES[space]) for name in (CHANNELS_LAST, "exact")}
    for seed in range(3):
        step_seconds(expected.model, expected.batch, seed)
        for ready in others.values():
            step_seconds(ready.model, ready.batch, seed)
            torch.testing.assert_close(
                ready.model.classifier.weight.grad, expected.model.classifier.weight.grad, rtol=1e-3, atol=1e-5
            )
            for found, other in zip(ready.model.arch_parameters(), expected.model.arch_parameters(), strict=True):
                torch.testing.assert_close(found.grad, other.grad, rtol=1e-3, atol=1e-5)
    assert others[CHANNELS_LAST].batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("space", SAMPLED)
def test_a_seed_decides_the_path(space: str) -> None:
    plain, other = (prepare(row_of(space, name), SIZES[space]) for name in (UNTOUCHED, CHANNELS_LAST))
    paths = paths_of(plain, range(6))
    assert paths_of(other, range(6)) == paths
    assert len(set(paths)) > 1


def test_counts_are_means_over_paths() -> None:
    ready = prepare(row_of("spos-mobile", UNTOUCHED), SIZES["spos-mobile"])
    seeds = range(1, 5)
    saved = [seeded_saved_bytes(ready.model, ready.batch, seed) for seed in seeds]
    assert len(set(saved)) > 1
    counts = Counts.of(ready.model, ready.batch, seeds)
    assert counts.saved_bytes == statistics.mean(saved)
    assert counts.flops == statistics.mean(Counts.of(ready.model, ready.batch, [seed]).flops for seed in seeds)


class Seeds(nn.Module):
    """A network that notes at which random numbers it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 10)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(torch.initial_seed())
        return self.linear(x.mean(dim=(2, 3)))

    def arch_parameters(self) -> list[Tensor]:
        return []


def test_rounds_warm_up_and_are_counted_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Seeds] = []

    def make(size: Size) -> Seeds:
        made.append(Seeds())
        return made[-1]

    space = SPACES["gdas-darts"]
    monkeypatch.setitem(space.networks, "supernet", make)
    results = search_step.measure([row_of("gdas-darts", UNTOUCHED)], SIZES["gdas-darts"], repeats=2)
    timed = [space.warm_up, space.warm_up + 1]
    assert results.rows[0].error is None
    assert len(results.rows[0].seconds) == 2
    (model,) = made
    rounds = space.warm_up + 2
    assert model.seen[: 1 + rounds] == [0, *range(rounds)]  # the first step, then the rounds
    assert model.seen[1 + rounds :] == timed * 3  # saved bytes, FLOPs, dispatcher calls


def test_sampled_rows_are_told_apart_from_rows_that_skip_work() -> None:
    ready = prepare(row_of("gdas-nasbench201", UNTOUCHED), SIZES["gdas-nasbench201"])
    step_seconds(ready.model, ready.batch, 0)
    assert without_gradient(ready.model, sampled=True) is None
    assert "_ops" in without_gradient(ready.model)
    ready.model.alphas.grad = None
    assert without_gradient(ready.model, sampled=True) == "the architecture weights"


def test_a_row_that_fails_to_be_counted_says_why() -> None:
    runner = search_step.Runner(Result(row_of("spos-mobile", UNTOUCHED)))
    runner.start(SIZES["spos-mobile"])
    runner.step(0)
    runner.ready.batch = Batch(runner.ready.batch.images, runner.ready.batch.targets)  # and no path
    runner.count([0])
    assert "missing 1 required positional argument: 'choice'" in runner.result.error
    assert Results(SIZES["spos-mobile"], [runner.result]).summed_time_ratio(runner.result, UNTOUCHED) is None
    runner.count([0])
    runner.step(1)
    assert runner.result.seconds == []


def test_candidates_are_the_costliest() -> None:
    size = Size("spos-mobile", 4, 2, 1, 2, 2, 8, "cpu")
    ready = prepare(row_of("spos-mobile", UNTOUCHED), size)
    kernels = [[op.depthwise[0].kernel_size[0] for op in block.ops] for block in ready.model.blocks]
    assert kernels == [[5, 7]] * 6
    ready.model(*ready.batch.inputs(0))
    most = prepare(row_of("spos-mobile", UNTOUCHED), replace(size, candidates=6)).model
    assert [len(block.ops) for block in most.blocks] == [6] * 6
    whole = prepare(row_of("spos-mobile", UNTOUCHED), SIZES["spos-mobile"]).model
    assert [len(block.ops) for block in whole.blocks] == [7, 6, 6]


def test_memory_is_that_of_many_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr("benchmarks.peak_memory.step_seconds", lambda model, batch, seed: seeds.append(seed))
    growth(row_of("spos-mobile", UNTOUCHED), SIZES["spos-mobile"])
    assert seeds == [0, *range(2 * SPACES["spos-mobile"].warm_up)]
