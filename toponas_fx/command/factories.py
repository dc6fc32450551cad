"""The model that a text names: a module or a script, what makes the model in it, and the arguments of that."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from toponas_fx.checking.comparison import seed_all
from toponas_fx.checking.precision import describe
from toponas_fx.command.call_text import evaluate_arguments
from toponas_fx.errors import ArgumentError, ToponasError


def load_model(place: str, path: str, arguments: ast.Call, seed: int) -> nn.Module:
    """Import a module, or run a script as far as an import does, and make a model by what is in it.

    Args:
        place: a module, ``package.module``, or a file whose name ends with ``.py``.
        path: a dotted path in it to a model or to what returns one.
        arguments: what that is called with; names mean what they mean in the module, others are imported.
        seed: of the generators when the model is made.

    Raises:
        ArgumentError: there is no such thing, it takes other arguments, it fails, or what it makes is no ``nn.Module``.
    """
    seed_all(seed)
    with _no_arguments_of_ours(place):
        module, found = _found(place, path)
        target = f"{place}:{path}"
        if isinstance(found, nn.Module):
            if arguments.args or arguments.keywords:
                raise ArgumentError(f"{target} is a model already: it takes no arguments")
            return found
        model = _made_by(found, target, *_evaluated(arguments, module))
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"{target} gives a {type(model).__name__}, not a torch.nn.Module")
    return model


def load(place: str, path: str) -> Any:
    """Import a module, or run a script as far as an import does, and return what a dotted path in it leads to.

    Raises:
        ArgumentError: there is no such thing, or importing it fails.
    """
    with _no_arguments_of_ours(place):
        return _found(place, path)[1]


def _found(place: str, path: str) -> tuple[ModuleType, Any]:
    """Return a module, and what a dotted path in it leads to."""
    module = _imported(place)
    found: Any = module
    for name in path.split("."):
        if not hasattr(found, name):
            raise ArgumentError(f"{place} has no attribute {path!r}")
        found = getattr(found, name)
    return module, found


@contextmanager
def _no_arguments_of_ours(place: str) -> Iterator[None]:
    """Show code that reads the command line its own name alone: many a script parses it when it is imported."""
    before, sys.argv = sys.argv, [place]
    try:
        yield
    finally:
        sys.argv = before


def _imported(place: str) -> ModuleType:
    try:
        return _script(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ToponasError:
        raise
    except ModuleNotFoundError as error:
        if error.name and f"{place}.".startswith(f"{error.name}."):
            raise ArgumentError(f"there is no module {error.name!r} here or among the installed ones") from error
        raise ArgumentError(f"importing {place} fails: {describe(error)}") from error
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        raise ArgumentError(f"importing {place} fails: {describe(error)}") from error


def _script(path: Path) -> ModuleType:
    """Import a file by its place: what lies beside it is found, as ``python file.py`` has it."""
    name = path.stem
    while name in sys.modules:
        name += "_"
    spec = importlib.util.spec_from_file_location(name, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ArgumentError(f"there is no file {str(path)!r} here")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _evaluated(arguments: ast.Call, module: ModuleType) -> tuple[list[Any], dict[str, Any]]:
    try:
        return evaluate_arguments(arguments, lambda name: _named(name, module))
    except ToponasError:
        raise
    except (Exception, SystemExit) as error:  # whatever a function in them raises
        raise ArgumentError(f"the arguments {ast.unparse(arguments)[1:]} fail: {describe(error)}") from error


def _named(dotted: str, module: ModuleType) -> Any:
    """Return what a dotted name stands for in a module; what the module does not have is imported."""
    first, *rest = dotted.split(".")
    try:
        found: Any = getattr(module, first) if hasattr(module, first) else importlib.import_module(first)
        for name in rest:
            if isinstance(found, ModuleType) and not hasattr(found, name):
                importlib.import_module(f"{found.__name__}.{name}")
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise ArgumentError(f"`{dotted}` is neither in {module.__name__} nor to be imported: {error}") from error
    return found


def _made_by(factory: Any, target: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if not callable(factory):
        raise ArgumentError(f"{target} is of type {type(factory).__name__}: neither a torch.nn.Module nor callable")
    try:
        signature: inspect.Signature | None = inspect.signature(factory)
    except (TypeError, ValueError):  # builtins have none
        signature = None
    if signature is not None:
        _check_arguments(signature, target, args, kwargs)
    try:
        return factory(*args, **kwargs)
    except (Exception, SystemExit) as error:  # whatever the user's constructor raises
        raise ArgumentError(f"{target}() fails: {describe(error)}") from error


def _check_arguments(signature: inspect.Signature, target: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    try:
        given = signature.bind_partial(*args, **kwargs).arguments
    except TypeError as error:
        raise ArgumentError(f"{target}{signature} takes other arguments: {error}") from error
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    rest = [p for p in signature.parameters.values() if p.name not in given and p.kind not in variadic]
    needed = [p.name for p in rest if p.default is p.empty]
    if needed:
        example = ", ".join(f"{name}=..." for name in needed)
        raise ArgumentError(f"{target} needs {', '.join(needed)}: add --args '{example}'")
