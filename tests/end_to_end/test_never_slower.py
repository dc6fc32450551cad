"""Where calls outweigh arithmetic, a simplified step is no slower than the step as its user wrote it."""

from __future__ import annotations

import pytest

import toponas_fx.ops.custom_autograd
import toponas_fx.passes.fold_weights
from benchmarks.ratios import measure_place
from benchmarks.size_grid import MODES, SPACES, Place

NOISE = 0.1
"""What a median of so few pairs of steps may be off; in quiet all are below 1. Beside other programs a median may be
off by more, in one measurement of several, so that one is enough; what is slower is so in each."""

SMALL, LARGE = toponas_fx.ops.custom_autograd.SMALL, toponas_fx.passes.fold_weights.LARGE
"""What users have; other tests let small tensors take the ways of large ones."""


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("channels", "side", "batch"), [(8, 16, 8), (4, 8, 2)])
def test_small_steps_are_not_slower(
    space: str, mode: str, channels: int, side: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toponas_fx.ops.custom_autograd.SMALL", SMALL)
    monkeypatch.setattr("toponas_fx.passes.fold_weights.LARGE", LARGE)
    place = Place(space, mode, channels, side, batch, depth=1)
    found = []
    while len(found) < 4 and (not found or found[-1] >= 1 + NOISE):
        found.append(measure_place(place, 21))
    assert found[-1] < 1 + NOISE, f"slower in each of {len(found)} measurements: {found}"
