"""The benchmark of a search step, and the one of its growth, at sizes that take seconds."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import cost_growth, search_step
from benchmarks.results import Result, Results
from benchmarks.rows import _flat, _passes_without, ablation_rows, prepare, without_gradient
from benchmarks.spaces import SPACES, UNTOUCHED, Row, Size
from benchmarks.steps import Quartiles, step_seconds
from benchmarks.tables import NOTHING, Table

TINY = ["--C", "4", "--cells", "1", "--nodes", "1", "--batch", "2", "--image-size", "8", "--threads", "1"]
MIXED = [name for name, space in SPACES.items() if not space.sampled]
SIZES = {space: Size(space, 4, 1, 1, len(SPACES[space].costliest), 2, 8, "cpu") for space in SPACES}


def row_of(space: str, name: str) -> Row:
    return next(row for row in SPACES[space].rows() if row.name == name)


@functools.cache
def run(space: str) -> dict[str, Any]:
    """Run the script over the uncompiled rows and return the JSON that it writes, the printed table beside it."""
    rows = [row for row in SPACES[space].rows() if not row.compiled]
    results = search_step.measure(rows, SIZES[space], repeats=3)
    return {**json.loads(json.dumps(results.contents())), "markdown": results.table().markdown()}


@pytest.mark.parametrize("space", MIXED)
def test_every_uncompiled_row_has_its_numbers(space: str) -> None:
    found = run(space)
    names = [row.name for row in SPACES[space].rows() if not row.compiled]
    assert [row["name"] for row in found["rows"]] == names
    for row in found["rows"]:
        assert row["error"] is None, row
        assert len(row["seconds"]) == 3
        assert all(ratio["lower"] <= ratio["median"] <= ratio["upper"] for ratio in row["time_ratios"].values())
        assert set(row["time_ratios"]) >= {UNTOUCHED, "untouched-channels-last", *SPACES[space].single_paths}
        assert min(row["saved_bytes"], row["flops"], row["dispatcher_calls"], row["parameters"]) > 0
        assert (row["simplify_seconds"] is None) == (row["mode"] is None)
        assert row["compile_seconds"] is None
    assert all(row["label"] in found["markdown"] for row in found["rows"])
    assert "peak" not in found["markdown"]  # not measured, so not a column
    assert "all steps" not in found["markdown"]  # alike, so that a median tells it


@pytest.mark.parametrize("space", MIXED)
def test_rows_are_what_they_say(space: str) -> None:
    rows = {row["name"]: row for row in run(space)["rows"]}
    untouched = rows[UNTOUCHED]
    assert untouched["time_ratios"][UNTOUCHED] == {"lower": 1.0, "median": 1.0, "upper": 1.0}
    assert rows["checkpointed"]["saved_ratio"] < 0.2
    assert rows["checkpointed"]["dispatcher_calls"] > untouched["dispatcher_calls"]
    assert rows["partial"]["flops"] < untouched["flops"]
    assert rows["exact"]["parameters"] == untouched["parameters"]
    assert rows["share"]["parameters"] <= untouched["parameters"]
    for name in SPACES[space].single_paths:
        assert rows[name]["dispatcher_calls"] < untouched["dispatcher_calls"]
        assert rows[name]["parameters"] < untouched["parameters"]


@pytest.mark.parametrize("space", MIXED)
def test_rows_of_one_network_compute_the_same(space: str) -> None:
    """No opponent is weakened: weights and images are equal, and so are loss and gradients."""
    expected = prepare(row_of(space, UNTOUCHED), SIZES[space])
    step_seconds(expected.model, expected.batch, 0)
    gradient = expected.model.classifier.weight.grad
    for name in ("untouched-channels-last", "checkpointed", "exact"):
        ready = prepare(row_of(space, name), SIZES[space])
        torch.testing.assert_close(ready.batch.images, expected.batch.images)
        step_seconds(ready.model, ready.batch, 0)
        torch.testing.assert_close(ready.model.classifier.weight.grad, gradient, rtol=1e-3, atol=1e-5)
        assert without_gradient(ready.model) is None
    assert prepare(row_of(space, "untouched-channels-last"), SIZES[space]).batch.images.stride()[1] == 1


@pytest.mark.parametrize("space", MIXED)
def test_single_paths_run_the_wiring_of_the_supernet(space: str) -> None:
    """One term an edge, less where the supernet has all candidates: as many convolutions as the graph says."""
    supernet = prepare(row_of(space, UNTOUCHED), SIZES[space]).model
    for name in SPACES[space].single_paths:
        single = prepare(row_of(space, name), SIZES[space]).model
        shapes = {key: value.shape for key, value in supernet.state_dict().items() if "edges" not in key}
        shapes = {key: shape for key, shape in shapes.items() if "_ops" not in key and "alphas" not in key}
        own = {key: value.shape for key, value in single.state_dict().items()}
        assert {key: own.get(key) for key in shapes} == shapes
        edges = [edge for cell in supernet.cells for edge in _edges(cell)]
        assert len(edges) == sum(len(_edges(cell)) for cell in single.cells)


def _edges(cell: nn.Module) -> list[nn.Module]:
    return [*getattr(cell, "edges", {}).values(), *getattr(cell, "_ops", ())]


def test_an_ablation_leaves_out_one_pass_at_a_time() -> None:
    rows = ablation_rows()
    assert [row.name for row in rows[:2]] == ["untouched", "share"]
    names = {pass_.name for row in rows for pass_ in _flat(_passes_without(row.without))}
    assert {row.without for row in rows[2:]} == names - {"detect-mixed-ops"}
    for row in rows[2:]:
        assert {pass_.name for pass_ in _flat(_passes_without(row.without))} == names - {row.without}


def test_candidates_are_the_costliest() -> None:
    size = Size("darts", 4, 1, 1, 2, 2, 8, "cpu")
    model = prepare(row_of("darts", UNTOUCHED), size).model
    assert model.alphas_normal.shape == (2, 2)
    assert [op[0][1].kernel_size for op in model.cells[0]._ops[0]._ops] == [(3, 3), (5, 5)]


def test_a_failing_row_says_why(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Partial channels cannot be had of two; the other rows are measured all the same."""
    path = tmp_path / "steps.json"
    options = ["--C", "2", "--repeats", "2", "--json", str(path), "--markdown", "--rows", "partial", UNTOUCHED]
    search_step.main([*TINY, *options])
    assert "(failed: ValueError: one in 4 channels" in capsys.readouterr().out
    untouched, partial = json.loads(path.read_text())["rows"]
    assert len(untouched["seconds"]) == 2
    assert partial["seconds"] == []
    assert "must be a multiple, found 2" in partial["error"]


def test_a_row_that_fails_in_a_round_is_left_out_from_there() -> None:
    runners = search_step.Runner(Result(row_of("darts", UNTOUCHED))), search_step.Runner(Result(Row("odd", "odd")))
    for runner in runners:
        runner.start(SIZES["darts"])
        runner.step(0)
    runners[1].ready.model.forward = None
    for runner in runners:
        runner.step(1)
    results = Results(SIZES["darts"], [runner.result for runner in runners])
    assert results.rows[1].error.startswith("TypeError")
    assert results.time_ratio(results.rows[1], UNTOUCHED) is None
    assert len(results.rows[0].seconds) == 2


def test_memory_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    search_step.main([*TINY, "--rows", "single-3x3", "--repeats", "1", "--memory", "--json", str(path)])
    (row,) = json.loads(path.read_text())["rows"]
    assert row["notes"] == []
    assert row["whole_bytes"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "nope"], "nasbench201 has no nope; it has untouched"),
        (["--candidates", "6"], "an edge of nasbench201 has 5, found 6"),
        (["--image-size", "6"], "multiple of 4"),
        (["--device", "nowhere"], "torch cannot use 'nowhere'"),
    ],
)
def test_mistakes_are_said_at_once(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        search_step.main([*TINY, *options])
    assert message in capsys.readouterr().err


def test_quartiles() -> None:
    assert Quartiles.of([3.0]) == Quartiles(3.0, 3.0, 3.0)
    assert Quartiles.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Quartiles(2.0, 3.0, 4.0)


def test_tables_leave_out_empty_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("title", ["row", "a\nb", "c"], [["[x]", "1", NOTHING], ["y|z", "22", NOTHING]], ["note"])
    table = table.without_empty_columns()
    assert table.plain().splitlines() == ["title", "", "row  a b", "[x]    1", "y|z   22", "note"]
    assert table.markdown().splitlines()[2:6] == ["| row | a b |", "| --- | ---: |", "| [x] | 1 |", "| y\\|z | 22 |"]
    table.show()
    assert "[x]" in capsys.readouterr().out
    monkeypatch.setitem(__import__("sys").modules, "rich.console", None)
    table.show()
    assert capsys.readouterr().out == table.plain() + "\n"


def test_growth_is_drawn(tmp_path: Path) -> None:
    figure, path = tmp_path / "growth.svg", tmp_path / "growth.json"
    options = ["--vary", "batch=2,3", "candidates=1,2", "--rows", UNTOUCHED, "share", "--repeats", "1"]
    cost_growth.main([*TINY, *options, "--output", str(figure), "--json", str(path)])
    assert "<svg" in figure.read_text()
    batch, candidates = json.loads(path.read_text())
    assert [results["size"]["batch"] for results in batch["results"]] == [2, 3]
    saved = [results["rows"][0]["saved_bytes"] for results in candidates["results"]]
    assert saved[0] < saved[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_a_compiled_row_is_compiled_and_timed_apart() -> None:
    rows = [row_of("darts", "single-sep-3x3"), row_of("darts", "single-sep-3x3-compiled")]
    results = search_step.measure(rows, SIZES["darts"], repeats=2)
    plain, compiled = results.rows
    assert compiled.error is None, compiled.error
    assert compiled.compile_seconds > 10 * max(compiled.seconds)
    assert compiled.dispatcher_calls < plain.dispatcher_calls  # fused, and not run uncompiled
    assert compiled.flops == plain.flops
    assert math.isfinite(results.time_ratio(compiled, "single-sep-3x3").median)
