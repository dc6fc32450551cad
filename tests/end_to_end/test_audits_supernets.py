"""Audits at every call change nothing: the supernets of the tests in search loops, with and without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_search_loops import assert_alike, through
from test_supernets import build, quietly, simplified

from audited import assert_equal, audit_always
from collected import IDIOMS
from exactness import observe
from idiom import Idiom
from sampled.collected import SAMPLED
from sampled.parts import Sampled
from sampled.side_by_side import EVENTS, Side, built, reasons_are_sentences, run_alike
from sampled.side_by_side import simplified as sampled_simplified
from search_loops import LOOPS


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Audit every call that a program runs, and return the list of what audits find."""
    return audit_always(monkeypatch)


def assert_same_journal(found: Any, expected: Any) -> None:
    found.tolerance = 1e-10
    assert_alike(found, expected)


IN_TURN = [(kind, [*LOOPS][i % len(LOOPS)]) for i, kind in enumerate(IDIOMS)]
"""The loops in turn: each idiom runs in one, for audits do not ask what a loop does."""


@pytest.mark.parametrize(("kind", "loop"), IN_TURN, ids=[f"{kind.__name__}-{loop}" for kind, loop in IN_TURN])
def test_loops_see_the_same(kind: type[Idiom], loop: str, always: list[Any]) -> None:
    with quietly(kind):
        for mode in ("exact", "share"):
            expected = through(loop, simplified(build(kind), mode=mode, audit=False))
            assert not always
            audited = simplified(build(kind), mode=mode)
            assert_same_journal(through(loop, audited), expected)
            assert set(always) <= {None}
            assert always or audited._toponas.as_written or patched(audited) or loop != "first_order"
            always.clear()


def patched(fast: Any) -> bool:
    return any(program.guards.patched for program in fast._toponas.programs)


@pytest.mark.parametrize("kind", IDIOMS, ids=lambda kind: kind.__name__)
def test_runs_leave_the_same_behind(kind: type[Idiom], always: list[Any]) -> None:
    """Outputs, gradients and those that are None, buffers, draws: bit for bit, for it is the same program."""
    with quietly(kind):
        plain, audited = (simplified(build(kind), audit=audit) for audit in (False, True))
        for training in (True, False, True):
            for grad in (True, False):
                runs = []
                for fast in (plain, audited):
                    with torch.set_grad_enabled(grad):
                        run = observe(fast.train(training), fast, *fast.inputs(3), **fast.keywords())
                    runs.append([run.gradients, run.tensors, run.drawn, run.output])
                assert_equal(*runs)
    assert set(always) <= {None}


@pytest.mark.parametrize("kind", SAMPLED, ids=lambda kind: kind.__name__)
def test_sampled_paths_stay_the_same(kind: type[Sampled], always: list[Any]) -> None:
    """Twelve steps, evaluation, copies, pickles and checkpoints beside the untouched original, from the same seeds."""
    with reasons_are_sentences():
        run_alike((Side(built(kind)), Side(sampled_simplified(built(kind)))), 12, EVENTS)
    assert set(always) <= {None}
