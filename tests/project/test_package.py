"""The package itself: it loads what it exports when that is asked for, in whatever order modules are imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import toponas_fx

ROOT = Path(__file__).parents[2]


def run(code: str) -> str:
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    command = [sys.executable, "-W", "error", "-c", code]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_importing_the_package_does_not_load_torch() -> None:
    assert run("import sys, toponas_fx; print('torch' in sys.modules, toponas_fx.__version__)").startswith("False 0.")


@pytest.mark.parametrize(
    "first",
    [
        "from toponas_fx import check, simplify, topology",
        "from toponas_fx.api import simplify",
        "import toponas_fx.topology, toponas_fx.check, toponas_fx.api",
        "import pickle; pickle.loads(b'ctoponas_fx.simplify\\nsimplify_like\\n.')",
        "from toponas_fx import *",
        "from toponas_fx import passes",
    ],
)
def test_names_that_are_modules_too_are_the_functions(first: str) -> None:
    """``toponas_fx.simplify`` is a module and its function; the import of a module binds its name in the package."""
    code = f"""{first}
import types, toponas_fx, toponas_fx.report.report
for name in toponas_fx.__all__:
    assert not isinstance(getattr(toponas_fx, name), types.ModuleType), name
assert toponas_fx.simplify.__module__ == toponas_fx.topology.__module__ == "toponas_fx.api"
assert toponas_fx.passes.DEFAULT_PASSES and toponas_fx.analysis.costs.Costs
assert toponas_fx.report.report.Report is toponas_fx.Report
assert set(toponas_fx.__all__) <= set(dir(toponas_fx))
"""
    run(code)


@pytest.mark.parametrize("name", ["nothing", "__nothing__", "_nothing"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match="has no attribute"):
        getattr(toponas_fx, name)


def test_what_fails_to_load_says_why() -> None:
    code = """import sys, toponas_fx
sys.modules["networkx"] = None
try:
    toponas_fx.simplify
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert run(code) == "networkx\n"


def test_what_type_checkers_see_is_what_is_loaded() -> None:
    """The names are written twice, for type checkers as imports."""
    tree = ast.parse((ROOT / "toponas_fx" / "__init__.py").read_text())
    imports = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "toponas_fx." in str(node.module)
    ]
    written = {alias.name: node.module for node in imports for alias in node.names if alias.name != "FormerNames"}
    assert written == {name: f"toponas_fx.{toponas_fx._HOMES.get(name, 'errors')}" for name in toponas_fx.__all__}
    assert toponas_fx.__all__ == sorted(written)


def test_a_name_may_be_replaced_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    real = toponas_fx.simplify
    with monkeypatch.context() as patch:
        patch.setattr(toponas_fx, "simplify", len)
        assert toponas_fx.simplify([1]) == 1
    assert toponas_fx.simplify is real
