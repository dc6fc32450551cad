"""The shape of the code: which way imports point, who may change a graph, how long files are, what they are called."""

import ast
import dataclasses
import graphlib
import re
from pathlib import Path

import pytest

from toponas_fx import passes
from toponas_fx.rewriting.pass_base import Pass, Semantics

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "toponas_fx"

FLOORS = (
    ("errors", "progress", "former_names"),
    ("ir",),
    ("ops",),
    ("analysis",),
    ("rewriting",),
    ("passes", "module_tree"),
    ("capture", "report"),
    ("runtime",),
    ("compiling",),
    ("facade",),
    ("tuning", "options"),
    ("api",),
    ("checking",),
    ("draw",),
    ("command",),
    ("testing",),
    ("__init__",),
    ("__main__",),
)
"""The rooms, folders of the package, from the ground up: each imports from itself and from those on floors below."""

FOR_PASSES = {"rewriting", "passes", "errors", "ir", "ops", "analysis"}
CHANGES_GRAPHS = {"rewriter.py", "serialization.py", "outlining.py", "capture"}
CHANGING_CALLS = {
    *("create_node", "call_function", "call_module", "call_method", "get_attr", "placeholder", "output"),
    *("erase_node", "replace_all_uses_with", "replace_input_with", "inserting_before", "inserting_after"),
    *("node_copy", "graph_copy", "eliminate_dead_code", "prepend", "insert_arg", "update_arg", "update_kwarg"),
}
CHANGING_ATTRIBUTES = {"args", "kwargs", "target", "op"}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}


def python_files(*folders):
    """Return the Python files below folders of the repository, each once, hidden and built ones left out."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted({path for path in found if not any(part.startswith((".", "build")) for part in path.parts[1:])})


OWN = [path for path in python_files("toponas_fx", "passes") if "toponas_fx/passes" not in path.as_posix()]
ALL = [*OWN, *python_files("examples", "tests", "docs")]


def short(path):
    return path.relative_to(ROOT).as_posix()


def room(path):
    """Return the room that a file belongs to."""
    first, *rest = path.relative_to(ROOT).with_suffix("").parts
    return "passes" if first == "passes" else rest[0]


def imported(path):
    """Return the modules of this package that a file imports, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{short(path)} imports relatively"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_module = node.module == "toponas_fx" or (ROOT / f"{name.replace('.', '/')}.py").exists()
                found.add(name if is_module else str(node.module))
    return {name.removeprefix("toponas_fx.") for name in found if name.startswith("toponas_fx.")}


@pytest.mark.parametrize("path", OWN, ids=short)
def test_a_room_imports_from_floors_below_alone(path):
    floor = {name: index for index, names in enumerate(FLOORS) for name in names}
    own = room(path)
    assert own in floor, f"{short(path)} is in no room that FLOORS knows"
    for name in imported(path):
        other = name.split(".")[0]
        assert other == own or floor[other] < floor[own], f"{short(path)} imports {name}, which is not below it"


def test_every_room_has_a_page():
    for folder in {path.parent for path in OWN if path.parent.name in {name for names in FLOORS for name in names}}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), short(folder)


def test_no_file_imports_itself_through_others():
    graph = {}
    for path in OWN:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("toponas_fx.")
        graph[name.removesuffix(".__init__")] = imported(path)
    known = {name: {other for other in others if other in graph and other != name} for name, others in graph.items()}
    tuple(graphlib.TopologicalSorter(known).static_order())


@pytest.mark.parametrize("path", python_files("passes"), ids=short)
def test_passes_see_the_contract_the_rewriter_and_analyses_only(path):
    found = {name.split(".")[0] for name in imported(path)}
    assert found <= FOR_PASSES


@pytest.mark.parametrize("path", ALL, ids=short)
def test_nobody_imports_passes_by_their_folder(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.split(".")[0] == "passes" for name in names)


def changes(path):
    """Yield line and name of whatever changes a graph in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING_CALLS:
            if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "rewriter"):
                yield node.lineno, node.func.attr
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [getattr(node, "target", None)]
        for target in targets if isinstance(node, ast.Assign | ast.Delete | ast.AugAssign) else ():
            if isinstance(target, ast.Attribute) and target.attr in CHANGING_ATTRIBUTES:
                yield node.lineno, target.attr


@pytest.mark.parametrize("path", OWN, ids=short)
def test_only_the_rewriter_changes_graphs(path):
    if CHANGES_GRAPHS & set(path.relative_to(ROOT).parts):
        assert path.name != "rewriter.py" or list(changes(path)), "the scan sees nothing"
        return
    assert list(changes(path)) == [], f"{short(path)} changes a graph by itself"


@pytest.mark.parametrize("path", ALL, ids=short)
def test_no_file_is_over_300_lines(path):
    count = len(path.read_text().splitlines())
    assert count <= 300, f"{short(path)} has {count} lines: split it by idea"


@pytest.mark.parametrize("path", ALL, ids=short)
def test_names_say_what_is_inside(path):
    words = {word for part in path.relative_to(ROOT).with_suffix("").parts for word in part.lower().split("_")}
    assert not words & FORBIDDEN_NAMES


@pytest.mark.parametrize("path", OWN, ids=short)
def test_every_file_says_what_it_is(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", "``"))


CLASSES = [value for value in vars(passes).values() if isinstance(value, type) and issubclass(value, Pass)]
CLASSES.remove(Pass)


@pytest.mark.parametrize("class_", CLASSES, ids=lambda class_: class_.__name__)
def test_a_pass_is_named_after_its_class_and_file(class_):
    kebab = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", class_.__name__).lower()
    assert class_.name == kebab
    assert class_.__module__ == f"toponas_fx.passes.{kebab.replace('-', '_')}"
    assert (ROOT / "tests" / "passes" / f"test_{kebab.replace('-', '_')}.py").exists()


@pytest.mark.parametrize("class_", CLASSES, ids=lambda class_: class_.__name__)
def test_a_pass_is_a_frozen_dataclass_with_a_promise(class_):
    assert isinstance(class_.semantics, Semantics)
    assert class_.__dataclass_params__.frozen
    assert class_() == class_()
    assert set(vars(class_())) == {field.name for field in dataclasses.fields(class_)}


def test_every_pass_file_is_exported():
    files = {path.stem for path in python_files("passes")} - {"__init__"}
    assert files == {class_.name.replace("-", "_") for class_ in CLASSES}
    assert set(passes.__all__) == {"DEFAULT_PASSES", *(class_.__name__ for class_ in CLASSES)}
    assert passes.__all__ == sorted(passes.__all__, key=lambda name: (name != "DEFAULT_PASSES", name))


def test_tests_mirror_the_rooms():
    rooms = {path.name for path in (ROOT / "toponas_fx").iterdir() if (path / "__init__.py").exists()}
    rooms |= {path.stem for path in (ROOT / "toponas_fx").glob("*.py")}
    assert {path.name for path in (ROOT / "tests" / "unit").iterdir() if path.is_dir()} <= rooms
    tests = [path for path in python_files("tests") if path.name.startswith("test_")]
    assert {path.parent.name for path in tests if path.parts[-3] != "unit"} == {
        *("passes", "end_to_end", "property", "examples", "project")
    }
    assert len({path.name for path in tests}) == len(tests)  # they are imported by name
