"""Test passes and models: what the tests of this project use, for the tests of one's own passes.

::

    check_pass(MyPass(), module, x)  # the rewrite, and that it keeps its promise
    assert_exact(model, x, passes=[*DEFAULT_PASSES, MyPass()])
    assert_one_hot(model, x, passes=[*DEFAULT_PASSES, MyPass()])

``python -m toponas_fx.testing mypackage:MyPass`` runs all of it. What needs hypothesis (``random_supernets``, the
command) comes with ``pip install "toponas-fx[testing]"``.
"""

from toponas_fx.testing.models import assert_exact, assert_one_hot
from toponas_fx.testing.rewrites import Rewritten, check_keeps, check_pass, graph_of
from toponas_fx.testing.supernets import RandomSupernet, Spec, random_supernets

__all__ = [
    "RandomSupernet",
    "Rewritten",
    "Spec",
    "assert_exact",
    "assert_one_hot",
    "check_keeps",
    "check_pass",
    "graph_of",
    "random_supernets",
]
