"""Modules under the names that they had before there were rooms: pickles of that time load."""

from __future__ import annotations

import importlib
import pickle

import pytest

import toponas_fx
from toponas_fx.former_names import FORMER


@pytest.mark.parametrize(("former", "present"), FORMER.items())
def test_a_former_name_has_what_the_module_has_now(former: str, present: str) -> None:
    module, now = (importlib.import_module(f"toponas_fx.{name}") for name in (former, present))
    public = [name for name in vars(now) if not name.startswith("__")]
    assert public
    assert all(getattr(module, name) is getattr(now, name) for name in public)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        *(("program", "Program"), ("state", "State"), ("sharing", "Sharing"), ("refusals", "Refusals")),
        *(("report", "Report"), ("pipeline", "PassRecord"), ("costs", "Costs"), ("ops", "mixed_sum")),
        *(("capture.guards", "StateGuards"), ("capture.fingerprint", "Fingerprint"), ("lean_pools", "avg_pool2d")),
        *(("simplify", "simplify_like"), ("passes.fold_scales", "FoldScales"), ("stacked_norm", "stacked_norm")),
    ],
)
def test_what_a_pickle_names_is_found(place: str, name: str) -> None:
    found = pickle.loads(f"ctoponas_fx.{place}\n{name}\n.".encode())
    assert found.__name__ == name
    assert isinstance(toponas_fx.simplify, type(test_what_a_pickle_names_is_found)), "its module would hide it"


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("toponas_fx.nothing")
