"""Fixtures of all tests."""

import os
import random
from collections import Counter

import pytest
import torch

os.environ.setdefault("TOPONAS_STRICT", "1")  # a pass that fails is an error, in child processes as well
torch.set_num_threads(1)  # the models are small, and two threads that spin for one core take ten times as long


QUICK = ("architecture", "chains", "fail_open", "graph_text", "ops", "ops_merging", "package", "pipeline", "report")
QUICK += ("program", "purity", "rewriter", "signatures", "topology", "verifier", "writes")
"""Of ``tests/passes`` all, and of the others those of these names: what a minute can tell, ``pytest -m quick``."""


SAMPLED = {
    **dict.fromkeys(("supernets", "search_loops", "audits_supernets"), 61),
    **dict.fromkeys(("candidate_names", "fail_open", "package", "sampled_steps"), 12),
    **dict.fromkeys(("darts_space", "example_search", "search_loops_field", "search_step", "search_step_sampled"), 8),
    **dict.fromkeys(("algebra_counts", "layouts", "leaf_options", "numbers", "numbers_given", "supernets_float32"), 8),
    **dict.fromkeys(("choices_read", "search_darts"), 6),
    **dict.fromkeys(("bare_weights", "check", "integers_given", "nasbench201"), 5),
    **dict.fromkeys(("compile", "copies_captured", "deduplicate", "example_inputs", "float_modules", "tuning"), 3),
    **dict.fromkeys(("chains", "docs_code", "drop_neutral", "example_sampling", "late_sharing", "lean_ops"), 3),
    **dict.fromkeys(("gather_bare_weights", "search_sampling", "structures_kept", "structures_read"), 3),
    **dict.fromkeys(("classes_patched", "integers_ignored", "unstack_sums", "user_names"), 3),
    **dict.fromkeys(("capture_indexing", "capture_odd", "cli", "command_bench", "draw", "draw_cells", "guards"), 2),
    **dict.fromkeys(("guards_outside", "never_stale", "second_order"), 2),
    **dict.fromkeys(("integers_of_mixtures", "layers_copied", "layouts_of_stacks", "math_calls", "picked_first"), 3),
    "input_strides": 9,
    **dict.fromkeys(("global_hooks", "mixed_and_drawn", "rows_read", "settled_attributes"), 2),
    **dict.fromkeys(("audits_neutral", "guards_data", "share_sampled", "state_seen", "state_set_later"), 2),
    **dict.fromkeys(("testing_kit", "writes"), 2),
}
"""Of these files' cases, grids over idioms, options and modes, plain pytest runs one in so many; the rest is slow."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what plain pytest leaves to the slow lane, and of what it runs what is quick."""
    counts = Counter()
    for item in items:
        name = item.path.stem.removeprefix("test_")
        is_slow = item.get_closest_marker("slow") is not None
        if not is_slow and name in SAMPLED:
            counts[name] += 1
            is_slow = counts[name] % SAMPLED[name] != 1
            if is_slow:
                item.add_marker("slow")
        if not is_slow and (name in QUICK or item.path.parent.name == "passes"):
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
