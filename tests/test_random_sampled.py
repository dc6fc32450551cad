"""Random supernets that sample a path: simplified, they train as the original does, number for number."""

from __future__ import annotations

import pytest

from random_sampled import random_sampled
from sampled.side_by_side import Side, deepcopy, evaluate, pickled, reasons_are_sentences, run_alike, simplified, train
from sampled_statements import BETWEEN, CANDIDATES, DRAWS, OUTPUTS, USES

PLAIN, ALL = 40, 300


@pytest.mark.parametrize(
    "seed", [*range(PLAIN), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(PLAIN, ALL))]
)
def test_it_trains_as_the_original_does(seed: int) -> None:
    source = random_sampled(seed)
    steps, events = 10, {5: evaluate, 6: train, 7: deepcopy}
    if seed >= PLAIN:
        steps, events = 30, events | {12: pickled}
    try:
        with reasons_are_sentences():
            model = source.build()
            run_alike((Side(model), Side(simplified(model))), steps, events)
    except Exception as error:
        raise AssertionError(f"{error}\n{source.text}") from error


def test_the_seeds_reach_every_statement() -> None:
    texts = [random_sampled(seed).text for seed in range(ALL)]
    assert texts == [random_sampled(seed).text for seed in range(ALL)]
    for statement in (*DRAWS, *USES, *BETWEEN, *CANDIDATES, *OUTPUTS):
        lines = statement.splitlines()
        wanted = max((part for line in lines for part in line.replace("{", "}").split("}")), key=len)
        assert any(wanted.strip() in text for text in texts), statement
