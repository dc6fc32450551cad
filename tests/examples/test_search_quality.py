"""The benchmark of search quality: its metrics against slow ones, its statistics, and the script as users run it."""

from __future__ import annotations

import gzip
import json
import math
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))  # where the script's own folder is when users run it

from benchmarks.quality_metrics import CellTable, choices_of, rank_correlation, spread  # noqa: E402
from benchmarks.quality_tables import GROUP, Difference, groups, passed  # noqa: E402
from benchmarks.search_quality import missing_runs, parse, seeds  # noqa: E402
from supernets.nasbench201 import CANDIDATES, EDGES, NASBench201Supernet, cell_of  # noqa: E402

CELL = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|"
WORTH = (0.0, 2.0, 3.0, 5.0, 1.0)
"""What each candidate adds, on each edge more, to the made-up accuracy of a cell."""


def accuracy_of(place: tuple[int, ...]) -> float:
    return 10 + sum(WORTH[choice] * (edge + 1) for edge, choice in enumerate(place)) / 2


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "table.csv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("index,arch,cifar10,cifar100,imagenet16_120\n")
        for index, place in enumerate(product(range(len(CANDIDATES)), repeat=len(EDGES))):
            accuracy = accuracy_of(place)
            file.write(f"{index},{cell_of(place)},{accuracy},{accuracy / 2},{accuracy / 3}\n")
    return path


def test_cells_are_written_as_the_supernet_writes_them() -> None:
    model = NASBench201Supernet(C=4, N=1)
    with torch.no_grad():
        model.alphas.copy_(torch.randn(len(EDGES), len(CANDIDATES)))
    place = tuple(model.alphas.argmax(dim=-1).tolist())
    assert cell_of(place) == model.genotype()
    assert choices_of(model.genotype()) == place
    assert cell_of(choices_of(CELL)) == CELL


def test_expected_accuracy_is_the_weighted_mean_over_all_cells(table: Path) -> None:
    cells = CellTable(table)
    alphas = 2 * torch.randn(len(EDGES), len(CANDIDATES), dtype=torch.float64)
    rows = F.softmax(alphas, dim=-1).tolist()
    slow = sum(
        accuracy_of(place) * math.prod(row[choice] for row, choice in zip(rows, place, strict=True))
        for place in product(range(len(CANDIDATES)), repeat=len(EDGES))
    )
    found = cells.expected(alphas)
    assert found["cifar10"] == pytest.approx(slow, abs=1e-4)
    assert found["imagenet16_120"] == pytest.approx(slow / 3, abs=1e-4)


def test_a_decided_search_is_expected_to_find_its_cell(table: Path) -> None:
    cells, alphas = CellTable(table), torch.zeros(len(EDGES), len(CANDIDATES))
    alphas[range(len(EDGES)), choices_of(CELL)] = 100
    assert cells.expected(alphas) == pytest.approx(cells.of_cell(CELL))


def test_a_table_that_lacks_cells_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"index,arch,cifar10,cifar100,imagenet16_120\n0,{CELL},90,70,40\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks 15624 of 15625 cells"):
        CellTable(path)


def test_spread_tells_undecided_and_collapsed_searches() -> None:
    assert spread(torch.zeros(6, 5))["entropy"] == pytest.approx(math.log(5), abs=1e-4)
    collapsed = torch.zeros(6, 5)
    collapsed[:, CANDIDATES.index("skip_connect")] = 50
    assert spread(collapsed) == {"entropy": 0.0, "skip": 1.0, "none": 0.0}


class Knowing(nn.Module):
    """A supernet whose accuracy is what its cell's is in the table, ``sign`` times; it has a norm as others do."""

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.sign = sign
        self.alphas = nn.Parameter(torch.randn(len(EDGES), len(CANDIDATES)))
        self.norm = nn.BatchNorm1d(1, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.norm(x)
        accuracy = accuracy_of(tuple(F.softmax(self.alphas, dim=-1).argmax(dim=-1).tolist()))
        right = torch.arange(len(x)) < self.sign * accuracy * len(x) / 100 + (len(x) if self.sign < 0 else 0)
        return torch.stack([right.float(), 1 - right.float()], dim=1)


@pytest.mark.parametrize("sign", [1, -1])
def test_rank_correlation_of_a_supernet_that_knows_the_table(table: Path, sign: int) -> None:
    model = Knowing(sign)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches = [(torch.randn(4000, 1), torch.zeros(4000, dtype=torch.long))]
    found = rank_correlation(model, CellTable(table), batches, cells=60, seed=0)
    for statistics in ("running", "batch"):
        assert found[statistics]["spearman"] == pytest.approx(sign, abs=1e-3)
        assert found[statistics]["kendall"] == pytest.approx(sign, abs=1e-2)
        assert found[statistics]["precision"] == (1 if sign > 0 else 0)
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} was changed"


def test_differences_are_paired() -> None:
    own, other = [3.0, 2.0, 4.0, 1.0], [1.0, 1.0, 1.0, 2.0]
    found = Difference.of(own, other)
    assert (found.mean, found.better, found.pairs) == (1.25, 3, 4)
    assert found.chance == pytest.approx(10 / 16)  # 3 or 4 of 4, or 0 or 1
    rng = np.random.default_rng(1)
    means = [rng.choice(np.subtract(own, other), 4).mean() for _ in range(4000)]
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [5, 95]), abs=0.26)  # steps of a quarter
    assert Difference.of([1.0], [1.0]).chance == 1
    assert str(Difference.of([3.0], [1.0])) == "+2.00, 1 of 1, p 1"


def test_seconds_to_a_level() -> None:
    log = [{"seconds": 5.0 * step, "expected": {"cifar10": level}} for step, level in enumerate((87, 91, 90, 92))]
    assert (passed({"log": log}, 91), passed({"log": log}, 93)) == (5.0, None)


def test_seeds_are_ranges() -> None:
    assert seeds("0-3") == [0, 1, 2, 3]
    assert seeds("7, 1-2,1") == [7, 1, 2]


def _known(variant: str, seconds: float, seed: int = 0) -> dict:
    args = parse(["--table", "t", "--out", "o", "--epochs", "10", "--variant", variant, "--seeds", str(seed)])
    ((run, length),) = missing_runs(args, [])
    return {**vars(run), "length": length, "log": [{"seconds": seconds}]}


def test_runs_that_are_there_are_not_run_again() -> None:
    args = parse(["--table", "t", "--out", "o", "--epochs", "10", "--seeds", "0-2"])
    missing = [(run.variant, run.seed) for run, _ in missing_runs(args, [_known("original", 1, seed=1)])]
    assert missing == [("original", 0), ("share", 0), ("share", 1), ("original", 2), ("share", 2)]
    other = parse(["--table", "t", "--out", "o", "--epochs", "11", "--seeds", "1"])
    assert len(list(missing_runs(other, [_known("original", 1, seed=1)]))) == 2, "of other settings"


def test_equal_seconds_are_those_of_the_original() -> None:
    args = parse(["--table", "t", "--out", "o", "--epochs", "10", "--seeds", "0", "--equal-seconds"])
    known = [_known("original", 100), _known("original", 140, seed=1), _known("share", 40)]
    assert [(run.variant, run.budget, length) for run, length in missing_runs(args, known)] == [
        ("share", "seconds", 30)
    ]
    with pytest.raises(ValueError, match="no run of darts, share, at equal steps"):
        list(missing_runs(args, known[:2]))


def test_a_run_of_equal_seconds_is_compared_with_an_original_of_its_length() -> None:
    original, longer, share = _known("original", 100), _known("original", 300), _known("share", 90)
    longer |= {"epochs": 30, "length": 30}
    share |= {"budget": "seconds", "length": 30}
    found = {key[GROUP.index("epochs")]: rows for key, rows in groups([original, share, longer]).items()}
    assert found[10] == {("original", "steps"): {0: original}, ("share", "seconds"): {0: share}}
    assert set(found[30]) == {("original", "steps"), ("share", "steps")}
    assert groups([original, share]).keys() == groups([original]).keys(), "without one there is nothing to compare"


def _rows(text: str, variant: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| {variant} |")]


@pytest.mark.slow
def test_the_script_searches_resumes_and_shows(tmp_path: Path, table: Path) -> None:
    out = tmp_path / "runs.jsonl"
    sizes = ["--C", "4", "--epochs", "2", "--image-size", "8", "--batch", "16", "--limit-batches", "2", "--rank", "5"]
    methods = ["darts", "darts-2nd", "beta-darts", "pc-darts", "gdas"]
    options = ["--table", str(table), "--out", str(out), *sizes, "--method", *methods, "--seeds", "0-1"]
    first = _script(*options, "--variant", "original", "exact")
    assert first.returncode == 0, first.stderr
    runs = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(runs) == len(methods) * 2 * 2
    logs = {(run["method"], run["variant"], run["seed"]): run["log"] for run in runs}
    for method in methods:
        for one, other in zip(logs[method, "original", 0], logs[method, "exact", 0], strict=True):
            assert one["expected"]["cifar10"] == pytest.approx(other["expected"]["cifar10"], abs=0.02)
        assert logs[method, "original", 0][-1]["expected"] != logs[method, "original", 1][-1]["expected"]
    assert "less the" in first.stdout
    again = _script(*options, "--variant", "original", "exact")
    assert again.returncode == 0, again.stderr
    assert out.read_text(encoding="utf-8").count("\n") == len(runs), "searched again"
    assert _script("--show", str(out)).stdout == again.stdout
    shown = _script("--show", str(out), "--markdown", "--plot", str(tmp_path / "runs.png"))
    assert shown.stdout.count("| original | 2 |") == 2 * len(methods)  # accuracies, and rankings
    other = _script("--show", str(out), "--markdown", "--against", "exact").stdout
    assert "less exact" in " ".join(other.split())
    assert "less the original" not in other
    (mean,) = {line.split("|")[4].split(",")[0].split("[")[0].strip() for line in _rows(shown.stdout, "exact")[:1]}
    (opposite,) = {line.split("|")[4].split(",")[0].split("[")[0].strip() for line in _rows(other, "original")[:1]}
    assert float(mean) == -float(opposite)
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")


def _script(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)])}
    command = [sys.executable, "examples/benchmarks/search_quality.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
