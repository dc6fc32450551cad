"""Cells that a search found, trained on from the weights of the supernet: what `search_quality.py --finish` does."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from test_search_quality import _script

import toponas_fx
from benchmarks.quality_finish import Chosen, derived, finish
from benchmarks.quality_tables import tables
from supernets.nasbench201 import CANDIDATES, EDGES, NASBench201Supernet

CHOICES = (3, 1, 2, 4, 0, 3)
X = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def supernet(float64: None) -> NASBench201Supernet:
    model = NASBench201Supernet(C=4, N=1)
    for training in (True, False):
        model.train(training)(X)  # statistics of their own
    with torch.no_grad():
        model.alphas.zero_()[range(len(EDGES)), CHOICES] = 1e4
    return model


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("simplifies", [True, False])
def test_one_candidate_an_edge_computes_what_the_supernet_does_at_its_vertex(
    supernet: NASBench201Supernet, simplifies: bool, training: bool
) -> None:
    model = toponas_fx.simplify(copy.deepcopy(supernet), X) if simplifies else copy.deepcopy(supernet)
    network = derived(toponas_fx.restore(model) if simplifies else copy.deepcopy(model), CHOICES).train(training)
    expected = model.train(training)(X)
    assert torch.allclose(network(X), expected, rtol=0, atol=1e-9 * float(expected.detach().abs().max()))
    edges = [module for module in network.modules() if isinstance(module, Chosen)]
    assert len(edges) == 3 * len(EDGES)
    kept = [type(edge.candidate) for edge in edges[: len(EDGES)]]
    assert kept == [type(supernet.cells[0].edges[e]._ops[i]) for e, i in zip(EDGES, CHOICES, strict=True)]


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        targets = torch.randint(0, 2, (16,), generator=generator)
        found.append((torch.randn(16, 3, 8, 8, generator=generator) + 3 * targets.view(-1, 1, 1, 1) - 1.5, targets))
    return found


@pytest.mark.parametrize("simplifies", [True, False])
def test_it_starts_where_the_search_ended_and_learns(supernet: NASBench201Supernet, simplifies: bool) -> None:
    train, validation = ([(x.double(), y) for x, y in batches(count)] for count in (6, 3))
    model = toponas_fx.simplify(copy.deepcopy(supernet), X) if simplifies else supernet
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = finish(model, NASBench201Supernet(C=4, N=1), train, validation, epochs=3, limit=None)
    assert [len(found[name]) for name in ("inherited", "scratch")] == [4, 4]
    with torch.no_grad():
        right = sum(int((model.eval()(x).argmax(1) == y).sum()) for x, y in validation)
    assert found["inherited"][0] == pytest.approx(100 * right / 48, abs=1e-3)
    assert min(found["inherited"][-1], found["scratch"][-1]) > 90  # from a half
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_table_pairs_them() -> None:
    settings = {"method": "darts", "C": 8, "N": 1, "affine": False, "epochs": 1, "batch": 2, "image_size": 8}
    settings |= {"arch_lr": 0.1, "limit_batches": None, "budget": "steps", "length": 1}
    metrics = {"cifar10": 1.0, "imagenet16_120": 1.0}
    log = {"expected": metrics, "found": metrics, "seconds": 1.0, "accuracy": 1.0, "entropy": 1.0, "none": 0, "skip": 0}
    runs = [
        {**settings, "variant": variant, "seed": seed, "log": [log], "finish": {"inherited": own, "scratch": [10, 40]}}
        for variant, seed, own in (("original", 0, [20, 50]), ("original", 1, [20, 54]), ("share", 1, [30, 60]))
    ]
    (table,) = [table for table in tables(runs) if "trained on" in table.title]
    assert table.rows == [
        ["original", "2", "1", "20.0", "52.0", "40.0", "+12.00 [+10.00, +14.00], 2 of 2, p 0.5", "—"],
        ["share", "1", "1", "30.0", "60.0", "40.0", "+20.00, 1 of 1, p 1", "+6.00, 1 of 1, p 1"],
    ]


def test_methods_with_other_candidates_are_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "runs.jsonl")
    done = _script("--table", out, "--out", out, "--method", "darts", "gdas", "--finish", "1")
    assert done.returncode == 2
    assert "--finish: the networks of beta-darts and darts and darts-2nd alone are trained on" in done.stderr


@pytest.mark.slow
def test_the_script_trains_on(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    cells = "\n".join(f"{i},cell,{50 + i % 40},40,{20 + i % 20}" for i in range(len(CANDIDATES) ** len(EDGES)))
    table.write_text(f"index,arch,cifar10,cifar100,imagenet16_120\n{cells}\n")
    out = tmp_path / "runs.jsonl"
    sizes = ["--C", "4", "--epochs", "1", "--image-size", "8", "--batch", "16", "--limit-batches", "2"]
    done = _script("--table", str(table), "--out", str(out), *sizes, "--finish", "2")
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert {len(run["finish"]["inherited"]) for run in runs} == {3}
    assert (
        runs[0]["finish"]["scratch"][0] == runs[1]["finish"]["scratch"][0]
        or len({r["log"][-1]["cell"] for r in runs}) == 2
    )
    assert "trained on" in done.stdout
