"""How an edge's algebra is written: subscripts, signs, and what is too long."""

from __future__ import annotations

import pytest

from toponas_fx.analysis.algebra_text import SHORT, Expression, Weight, subscript, written


@pytest.mark.parametrize(
    ("who", "text"), [([4], "₄"), ([6, 5], "₅,₆"), ([1, 2, 3], "₁₋₃"), ([1, 3, 4, 5, 10, 11], "₁,₃₋₅,₁₀,₁₁")]
)
def test_subscripts(who: list[int], text: str) -> None:
    assert subscript(who) == text


def leaf() -> Expression:
    return Expression("x")


def test_signs_and_numbers() -> None:
    weights = (Weight("w", frozenset({1}), -1.0), Weight("1", number=-1.0), Weight("1", number=0.5), Weight("?"))
    line = written(Expression("+", tuple(leaf() for _ in weights), weights), 4)
    assert line == "-w₁·x - x + 0.5·x + …·x"


def test_a_line_that_gets_too_long_is_cut_at_a_depth() -> None:
    part = leaf()
    for _ in range(80):
        part = Expression("tanh", (part,))
    line = written(Expression("+", (part,), (Weight("w", frozenset({1})),)), 1)
    assert line.startswith("w₁·tanh(tanh(")
    assert "…" in line
    assert len(line) <= SHORT


def test_a_graph_of_far_more_paths_than_nodes_is_cut_too() -> None:
    part = leaf()
    for _ in range(60):
        part = Expression("·", (part, Expression("tanh", (part,))))
    line = written(Expression("+", (part,), (Weight("w", frozenset({1})),)), 1)
    assert "…" in line
    assert len(line) <= SHORT
