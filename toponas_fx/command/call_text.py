"""The arguments of a call as one writes them, ``16, layers=8, criterion=torch.nn.CrossEntropyLoss()``, made values.

Literals, dotted names, and calls of dotted names with the same are all there is: nothing is handed to ``eval``.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from toponas_fx.errors import ArgumentError


def parse_arguments(texts: Sequence[str]) -> ast.Call:
    """Return a call with the arguments of several texts, before any name is looked up.

    Raises:
        ArgumentError: a text is written otherwise, has something else in it, or an argument comes twice.
    """
    calls = [_call(text) for text in texts]
    args = [value for call in calls for value in call.args]
    joined = ast.Call(ast.Name("_"), args, [keyword for call in calls for keyword in call.keywords])
    try:
        evaluate_arguments(joined, lambda name: lambda *args, **kwargs: None)
    except TypeError as error:  # a dict with a list as a key
        raise ArgumentError(f"{', '.join(texts)!r}: {error}") from error
    return joined


def evaluate_arguments(call: ast.Call, find: Callable[[str], Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional arguments of a call, and those by name.

    Args:
        call: what ``parse_arguments`` returned.
        find: returns what a dotted name stands for.

    Raises:
        ArgumentError: a value is none of what is allowed, or an argument comes twice.
        Exception: whatever a function that is called raises.
    """
    kwargs: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            _refuse(keyword.value)
        if keyword.arg in kwargs:
            raise ArgumentError(f"the argument {keyword.arg} is given twice")
        kwargs[keyword.arg] = _value(keyword.value, find)
    return [_value(value, find) for value in call.args], kwargs


def _call(text: str) -> ast.Call:
    try:
        call = ast.parse(f"_({text}\n)", mode="eval").body
    except (SyntaxError, ValueError):
        call = None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):  # else a bracket was closed in the text
        return call
    raise ArgumentError(f"{text!r} is not what stands between the brackets of a call, such as 16, layers=8")


def _value(node: ast.expr, find: Callable[[str], Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Tuple():
            return tuple(_value(part, find) for part in node.elts)
        case ast.List():
            return [_value(part, find) for part in node.elts]
        case ast.Dict():
            keys = [_refuse(node) if key is None else _value(key, find) for key in node.keys]
            return dict(zip(keys, [_value(value, find) for value in node.values], strict=True))
        case ast.Call():
            args, kwargs = evaluate_arguments(node, find)
            return find(_dotted(node.func))(*args, **kwargs)
    return find(_dotted(node))


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else _refuse(node)


def _refuse(node: ast.expr) -> NoReturn:
    raise ArgumentError(f"`{ast.unparse(node)}` is no literal, no dotted name and no call of one")
