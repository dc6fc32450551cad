"""Random supernets that sample a path: simplified, they train as the original does, number for number."""

from __future__ import annotations

import pytest

from random_sampled import Source, random_sampled
from sampled.side_by_side import Side, deepcopy, evaluate, pickled, reasons_are_sentences, run_alike, simplified, train
from sampled_statements import BETWEEN, CANDIDATES, DRAWS, KEPT, KEPT_USES, OUTPUTS, USES

PLAIN, ALL = 40, 300
PLAIN_KEPT, ALL_KEPT = 10, 150


@pytest.mark.parametrize(
    "seed", [*range(PLAIN), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(PLAIN, ALL))]
)
def test_it_trains_as_the_original_does(seed: int) -> None:
    run(random_sampled(seed), is_long=seed >= PLAIN)


@pytest.mark.parametrize(
    "seed", [*range(PLAIN_KEPT), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(PLAIN_KEPT, ALL_KEPT))]
)
def test_with_structures_set_between_the_steps(seed: int) -> None:
    run(random_sampled(seed, is_kept=True), is_long=seed >= PLAIN_KEPT)


def run(source: Source, *, is_long: bool) -> None:
    steps, events = 10, {5: evaluate, 6: train, 7: deepcopy}
    if is_long:
        steps, events = (16 if source.is_kept else 30), events | {12: pickled}  # a norm of zeros amplifies rounding
    try:
        with reasons_are_sentences():
            model = source.build()
            run_alike((Side(model), Side(simplified(model))), steps, events)
    except Exception as error:
        raise AssertionError(f"{error}\n{source.text}") from error


def test_the_seeds_reach_every_statement() -> None:
    texts = [random_sampled(seed, is_kept=kept).text for kept in (False, True) for seed in range(ALL)]
    assert texts == [random_sampled(seed, is_kept=kept).text for kept in (False, True) for seed in range(ALL)]
    for statement in (*DRAWS, *USES, *KEPT, *KEPT_USES, *BETWEEN, *CANDIDATES, *OUTPUTS):
        lines = statement.splitlines()
        wanted = max((part for line in lines for part in line.replace("{", "}").split("}")), key=len)
        assert any(wanted.strip() in text for text in texts), statement
