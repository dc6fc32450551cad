"""Fixtures of all tests."""

import os
import random

import pytest
import torch

os.environ.setdefault("TOPONAS_STRICT", "1")  # a pass that fails is an error, in child processes as well
torch.set_num_threads(1)  # the models are small, and two threads that spin for one core take ten times as long


QUICK = ("architecture", "chains", "fail_open", "graph_text", "ops", "ops_merging", "package", "pipeline", "report")
QUICK += ("program", "purity", "rewriter", "signatures", "topology", "verifier", "writes")
"""Of ``tests/passes`` all, and of the others those of these names: what a minute can tell, ``pytest -m quick``."""


def pytest_collection_modifyitems(items):
    """Mark what is quick, once it is known what is slow."""
    for item in items:
        is_named = item.path.stem.removeprefix("test_") in QUICK or item.path.parent.name == "passes"
        if is_named and item.get_closest_marker("slow") is None:
            item.add_marker("quick")


@pytest.fixture(autouse=True)
def _seeded():
    """Seed every generator before each test: a test that needs luck is not a test."""
    torch.manual_seed(0)
    random.seed(0)


@pytest.fixture
def float64():
    """Make float64 the default for one test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def _nothing_is_small(monkeypatch):
    """Let the tests' small tensors take the ways of large ones."""
    monkeypatch.setattr("toponas_fx.ops.custom_autograd.SMALL", 0)
    monkeypatch.setattr("toponas_fx.passes.fold_weights.LARGE", 0)
