"""``python -m toponas_fx.testing``: what passes, each broken promise, what cannot be tested, and what it prints."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from toponas_fx import passes
from toponas_fx.rewriting.pass_base import Pass, Plan, Semantics
from toponas_fx.testing import battery
from toponas_fx.testing.__main__ import main
from wrong_passes import Tanh, Wrong

CLASSES = [value for value in vars(passes).values() if inspect.isclass(value) and issubclass(value, Pass)]
CLASSES.remove(Pass)
X = torch.rand(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
QUESTIONS = ("contract", "example", "supernets", "copies")


@dataclass(frozen=True)
class Idle(Pass):
    """A pass that finds nothing."""

    name: ClassVar[str] = "idle"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def plan(self, gm: Any) -> Plan:
        return Plan()

    def apply(self, match: Any, rewriter: Any) -> None:
        raise AssertionError("nothing to apply")


class NotFrozen(Idle):
    name: ClassVar[str] = "not-frozen"


@dataclass(frozen=True)
class Misnamed(Idle):
    name: ClassVar[str] = "other"


@dataclass(frozen=True)
class Stateful(Idle):
    name: ClassVar[str] = "stateful"

    def __post_init__(self) -> None:
        object.__setattr__(self, "seen", [])


@dataclass(frozen=True)
class Unequal(Idle):
    name: ClassVar[str] = "unequal"
    option: Any = float("nan")


class NoName(Idle):
    name: ClassVar[str] = ""


@dataclass(frozen=True)
class NeedsMore(Idle):
    name: ClassVar[str] = "needs-more"
    option: int = 0

    def __init__(self, option: int) -> None:
        object.__setattr__(self, "option", option)


ready = NeedsMore(3)


class Local:
    """No pass."""


def asked(capsys: pytest.CaptureFixture[str], target: str, *options: str) -> tuple[int, str, str]:
    code = main([target if ":" in target else f"test_testing_command:{target}", "--examples", "2", *options])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_built_in_pass_keeps_its_promises(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = asked(capsys, "toponas_fx.passes:Deduplicate")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [
        [q, "ok"] for q in ("contract", "example", "supernets", "copies")
    ]
    assert lines[0].endswith("deduplicate, EXACT, stage SHARE")
    assert "2 in the whole pipeline" in lines[2]
    assert lines[-1] == "verdict: PASS: deduplicate keeps its promises"


@pytest.mark.slow
@pytest.mark.parametrize("class_", CLASSES, ids=lambda class_: class_.name)
def test_every_built_in_pass_keeps_its_promises(class_: type[Pass]) -> None:
    findings = list(battery.battery(class_(), examples=5, seed=1))
    assert tuple(finding.question for finding in findings) == QUESTIONS
    assert all(finding.passed for finding in findings), findings


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("NotFrozen", "NotFrozen is no frozen dataclass: write @dataclass(frozen=True) above it"),
        ("Misnamed", "its name is 'other': a pass is named after its class, 'misnamed'"),
        ("Stateful", "it holds more than its fields"),
        ("Unequal", "a copy is not equal to it"),
        ("NoName", "NoName needs a class attribute `name`, a str, and has ''"),
    ],
)
def test_a_broken_contract(target: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = asked(capsys, target)
    assert code == 1
    first, *rest = out.splitlines()
    assert first.startswith("contract   WRONG")
    assert text in first
    assert rest[-1].startswith("verdict: FAIL: ")
    assert len(rest) == 2


def test_a_pass_that_is_wrong_on_random_supernets(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = asked(capsys, "wrong_passes:SwapWeights", "--examples", "6", "--seed", "3")
    assert code == 1
    assert "supernets  WRONG  on RandomSupernet(Spec(edges=" in out
    assert "it is wrong from 'swap-weights' on" in out
    assert out.splitlines()[-1] == "verdict: FAIL: swap-weights breaks a promise: supernets"


def test_a_pass_that_raises_is_told_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = asked(capsys, "wrong_passes:Fail")
    assert code == 1
    assert "PassError: pass 'fail'" in out
    assert "KeyError: 'lost'" in out


def test_a_wrong_example_and_one_without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "example", lambda: (Tanh(), X), raising=False)
    found = {finding.question: finding for finding in battery.battery(Idle(), examples=1)}
    assert "idle finds nothing to do in its own example()" in found["example"].text
    with pytest.raises(AssertionError, match="wrong breaks its promise"):
        battery.check_example(Wrong(lambda r, n: r.call_function(torch.neg, (n,))), Tanh(), X)


def test_copies_that_compute_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
    assert battery._copies(passes.Deduplicate(), net, X).startswith("deepcopy and pickle of")
    real = battery._pickled

    def spoiled(value: Any) -> Any:
        twin = real(value)
        next(twin.parameters()).data.add_(1)
        return twin

    monkeypatch.setattr(battery, "_pickled", spoiled)
    with pytest.raises(AssertionError, match="what pickle makes of the simplified model computes something else"):
        battery._copies(passes.Deduplicate(), net, X)


def test_nothing_to_do_is_not_tested(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = asked(capsys, "Idle")
    assert code == 2
    assert "it found nothing to do in 2 supernets: write an example() in its module" in out
    assert out.splitlines()[-1] == "verdict: NOT TESTED: idle found nothing to do"


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("nowhere_at_all:MyPass", "there is no module 'nowhere_at_all'"),
        ("wrong_passes:Missing", "wrong_passes has no attribute 'Missing'"),
        ("no_file.py:MyPass", "there is no file 'no_file.py' here"),
        ("Local", "test_testing_command:Local is no subclass of toponas_fx.rewriting.pass_base.Pass"),
        ("NeedsMore", "test_testing_command:NeedsMore() fails, name an instance instead: "),
        (":MyPass", "write package.module:MyPass or path/to/file.py:MyPass, not ':MyPass'"),
    ],
)
def test_what_cannot_be_tested_is_told_in_one_sentence(
    target: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = asked(capsys, target)
    assert (code, out) == (2, "")
    assert err.startswith("toponas_fx.testing: error: ")
    assert text in err
    assert len(err.splitlines()) == 1


def test_an_instance_may_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = asked(capsys, "ready")
    assert code == 2
    assert "needs-more, EXACT, stage REDUCE" in out


def test_without_hypothesis_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    code, out, err = asked(capsys, "Idle")
    assert (code, out) == (2, "")
    assert 'pip install "toponas-fx[testing]"' in err


@pytest.mark.parametrize("options", [("--examples", "0"), ("--examples", "many"), ("--seed", "x")])
def test_wrong_usage(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        asked(capsys, "Idle", *options)
    assert caught.value.code == 2


def test_help_has_an_example_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "python -m toponas_fx.testing my_pass.py:MyPass --examples 100 --seed 1" in out
    assert "exit codes:" in out
