"""Searches on the DARTS family: beta-decay, the second-order gradient, and the script as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.optim import SGD

import toponas_fx
from architect import Architect
from beta_darts import BetaArchitect, beta_decay
from search_darts import METHODS, parse
from supernets.darts import DARTSSupernet
from supernets.pcdarts import PCDARTSSupernet
from unrolled import unrolled_gradients

ROOT = Path(__file__).parents[2]
TINY = ["--C", "4", "--nodes", "1", "--epochs", "2", "--batch", "4", "--limit-batches", "2"]


def batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, 8, 8, dtype=dtype, generator=generator), torch.arange(6) % (2 + seed % 2)


def test_beta_decay():
    alphas = [torch.randn(5, 8, requires_grad=True), torch.zeros(3, 8, requires_grad=True)]
    loss = beta_decay(alphas)
    expected = (alphas[0].exp().sum(dim=-1).log().sum() + 3 * torch.log(torch.tensor(8.0))) / 8
    torch.testing.assert_close(loss, expected)
    loss.backward()
    torch.testing.assert_close(alphas[0].grad, F.softmax(alphas[0].detach(), dim=-1) / 8)


@pytest.mark.parametrize("unrolled", [False, True])
def test_beta_architect_adds_the_gradient_of_the_regulariser(unrolled):
    torch.manual_seed(0)
    network = DARTSSupernet(C=2, layers=2, num_classes=3, steps=1, multiplier=1, reductions=(1,))
    optimizer = SGD(network.weight_parameters(), lr=0.1)
    gradients = []
    for architect in (Architect(network, lr=0.0), BetaArchitect(network, lr=0.0)):
        if isinstance(architect, BetaArchitect):
            architect.strength = 3.0
        architect.step(batch(), batch(1), 0.1, optimizer, unrolled)
        gradients.append(network.alphas_reduce.grad.clone())
    edges = sum(len(alphas) for alphas in network.arch_parameters())
    expected = 3.0 * F.softmax(network.alphas_reduce.detach(), dim=-1) / edges
    torch.testing.assert_close(gradients[1] - gradients[0], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("simplified", [False, True], ids=["original", "simplified"])
@pytest.mark.parametrize("kind", [DARTSSupernet, PCDARTSSupernet])
def test_second_order_gradient_is_that_through_the_unrolled_step(kind, simplified):
    """Against autograd through the step, float64, two cells; see the like test of the first example's supernet."""
    torch.manual_seed(0)
    eta, momentum, decay = 0.1, 0.9, 3e-4
    network = kind(C=4, layers=2, num_classes=3, steps=2, multiplier=2, reductions=(1,)).double()
    for alphas in network.arch_parameters():
        alphas.data = 300 * alphas.data.double()  # off the symmetric point; a plain tensor stays float32
    train, valid = batch(0, torch.float64), batch(1, torch.float64)
    if simplified:
        network = toponas_fx.simplify(network, train[0])
    optimizer = SGD(network.weight_parameters(), lr=eta, momentum=momentum, weight_decay=decay)
    network._loss(*train).backward()
    optimizer.step()  # so that there is a momentum
    architect = Architect(network, network_momentum=momentum, network_weight_decay=decay, r=1e-5)
    architect.backward_unrolled(train, valid, eta, optimizer)
    found = [alphas.grad.clone() for alphas in network.arch_parameters()]
    expected, without_product = unrolled_gradients(network, train, valid, eta, optimizer)
    for one, other, incomplete in zip(found, expected, without_product, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8 * float(other.norm()))
        assert (incomplete - other).norm() > 0.01 * other.norm()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--method", "pnas"], "argument --method: invalid choice: 'pnas'"),
        (["--method", "gdas", "--order", "2"], "--order 2: gdas draws candidates in each run"),
        (["--method", "gdas-darts", "--order", "2"], "--order 2: gdas-darts draws candidates in each run"),
        (["--method", "fbnet", "--order", "2"], "--order 2: fbnet draws candidates in each run"),
        (["--method", "spos", "--order", "2"], "--order 2: spos draws candidates in each run"),
        (["--method", "pc-darts", "--C", "6"], "--C must be a multiple of 4 for pc-darts, found 6"),
        (["--method", "gdas-darts", "--layers", "2"], "--layers must be at least 3 for gdas-darts, of which one is"),
        (["--layers", "2"], "--layers must be at least 3 for darts, of which one is normal, found 2"),
        (["--nodes", "0"], "argument --nodes: must be a whole number from 1, found '0'"),
        (["--image-size", "9"], "--image-size must be a multiple of 4, for two halvings, found 9"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(arguments)
    assert stopped.value.code == 2
    assert f"error: {sentence}" in capsys.readouterr().err


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("method", "order"),
    [
        ("darts", "1"),
        ("gdas", "1"),
        slow("darts", "2"),
        slow("beta-darts", "2"),
        slow("pc-darts", "1"),
        slow("fbnet", "1"),
        slow("gdas-darts", "1"),
        slow("enas", "1"),
        slow("proxyless", "1"),
        slow("spos", "1"),
    ],
)
def test_script(method, order, tmp_path):
    path = tmp_path / "out.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)])}
    options = ["--method", method, "--order", order, "--threads", "1", "--json", str(path), *TINY]
    command = [sys.executable, "examples/search_darts.py", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    errors = [line for line in done.stderr.splitlines() if "was captured again" not in line]  # slow machines say so
    assert (done.returncode, errors) == (0, [])
    assert METHODS[method].title in done.stdout
    written = json.loads(path.read_text(encoding="utf-8"))
    assert list(written["results"]) == ["original", "simplified"]
    for name, result in written["results"].items():
        assert f"{name}: {result['cell']}" in done.stdout
        assert min(result["seconds_a_step"], result["saved_bytes"]) > 0
    assert written["ratios"]["saved_bytes"] > 0
    assert written["settings"]["method"] == method
