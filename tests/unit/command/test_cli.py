"""The command ``toponas-fx check``: its output, its exit codes, its errors."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

import toponas_fx
from toponas_fx.command.call_text import parse_arguments
from toponas_fx.command.cli import main
from toponas_fx.command.factories import load_model
from wrong_passes import SwapWeights, add_pass

ROOT = Path(__file__).parents[3]


def run(*arguments: str, cwd: Path = ROOT / "tests" / "support") -> subprocess.CompletedProcess[str]:
    script = Path(sysconfig.get_path("scripts")) / "toponas-fx"
    command = [str(script)] if script.exists() else [sys.executable, "-m", "toponas_fx"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    return subprocess.run([*command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_command_in_a_process_of_its_own() -> None:
    found = run("check", "check_models:Names.make", "--input", "2,4,6,6", "--json")
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    verdict = json.loads(found.stdout)
    assert (verdict["verdict"], verdict["complete"], verdict["inputs"]) == ("pass", True, ["float64[2, 4, 6, 6]"])
    assert verdict["report"]["before"]["convolutions"] > verdict["report"]["after"]["convolutions"]
    assert all(check["passed"] and check["error"] <= check["tolerance"] for check in verdict["checks"])


def test_the_command_writes_report_checks_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "check_models:Names.ready", "--input", "2,4,6,6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Supernet, mode share: 2 edges, 8 candidate operations"
    assert "one-hot architectures: 2 of 2 mixed operations were put at each candidate, in 8 rounds" in lines
    assert lines[-1] == "verdict: PASS: Supernet, simplified, computes what it did"


def test_the_command_fails_for_a_wrong_compiler(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_pass(monkeypatch, SwapWeights())
    assert main(["check", "check_models:Supernet", "--input", "2,4,6,6"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("verdict: FAIL: exact, outputs at its own weights")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere:make"], "there is no module 'nowhere'"),
        (["check_models"], "write package.module:factory or path/to/file.py:factory, not 'check_models'"),
        (["check_models:Nobody"], "check_models has no attribute 'Nobody'"),
        (["check_models:Names.number"], "is of type int: neither a torch.nn.Module nor callable"),
        (["check_models:needs"], "check_models:needs needs channels: add --args 'channels=...'"),
        (["check_models:needs", "--args", "4, 5"], "(channels: 'int') -> 'nn.Module' takes other arguments: too many"),
        (["check_models:needs", "--args", "width=4"], "got an unexpected keyword argument 'width'"),
        (["check_models:needs", "--args", "'x'"], "check_models:needs() fails: "),
        (["check_models:Names.ready", "--args", "4"], "check_models:Names.ready is a model already"),
        (["check_models:leaves"], "check_models:leaves() fails: "),
        (["nowhere/train.py:model"], "there is no file 'nowhere/train.py' here"),
        (["nowhere.train:model"], "there is no module 'nowhere'"),
        (["check_models:breaks"], "OSError: no such checkpoint"),
        (["check_models:Zero"], "tells no input shape"),
        (["check_models:Supernet", "--input", "2,5,6,6"], "forward fails on inputs of shape (2, 5, 6, 6)"),
    ],
)
def test_what_cannot_be_checked_is_one_sentence(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *arguments]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("toponas-fx: error: ")
    assert text in found.err
    assert len(found.err.splitlines()) == 1


@pytest.mark.parametrize("shape", ["3x3", "2,0", "=2", "2 x=3", "x=", "x=y=3"])
def test_a_shape_is_sizes_with_commas(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["check", "check_models:Supernet", "--input", shape])
    assert f"{shape!r} is no shape; write positive sizes" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["check"], ["compare"]])
def test_wrong_usage_is_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: toponas-fx" in capsys.readouterr().err


# -- what needs no torch ---------------------------------------------------------------------------------------------


def test_usage_version_and_wrong_usage_are_told_without_torch() -> None:
    """To import torch takes seconds."""
    asked = [["--help"], ["check", "--help"], ["--version"], ["check"], ["check", "m:f", "--input", "3x3"]]
    asked += [["check", "m"], ["check", "m:f", "--args", "1 +"], ["inspect", "--help"], ["bench", "--help"], ["bench"]]
    code = f"""
import contextlib, os, sys
from toponas_fx.command.cli import main
codes = []
for arguments in {asked}:
    with contextlib.redirect_stderr(open(os.devnull, "w")), contextlib.redirect_stdout(open(os.devnull, "w")):
        try:
            codes.append(main(arguments))
        except SystemExit as error:
            codes.append(error.code)
print(codes, "torch" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert found.stdout == "[0, 0, 0, 2, 2, 2, 2, 0, 0, 2] False\n"


def test_help_has_an_example_of_each_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["check", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for example in ("train.py:model", "criterion=torch.nn.CrossEntropyLoss()", "x=2,3,32,32", "--seed 1", "--json >"):
        assert example in text


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"toponas-fx {toponas_fx.__version__}\n"
    assert toponas_fx.__version__ == metadata.version("toponas-fx")


# -- interrupting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["interrupts", "Interrupted"], ids=["making the model", "in its forward"])
def test_an_interrupt_is_one_line(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"check_models:{target}", "--input", "2,4,6,6"]) == 130
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "toponas-fx: interrupted\n")


# -- arguments of the factory ----------------------------------------------------------------------------------------

ARGUMENTS: dict[str, tuple[list[str], str]] = {
    "literals": (["-1, 2.5, 'a', None, (1, [True]), {'k': (3,)}"], "(-1, 2.5, 'a', None, (1, [True]), {'k': (3,)}) {}"),
    "by name": (["16, layers=8"], "(16,) {'layers': 8}"),
    "twice": (["16", "layers=8", "C=4"], "(16,) {'layers': 8, 'C': 4}"),
    "nothing": ([""], "() {}"),
    "a name of the file": (["C"], "(4,)"),
    "through a name of the file": (["nn.ReLU(), F.relu"], "(ReLU(), <function relu"),
    "imported": (["torch.nn.CrossEntropyLoss(label_smoothing=0.5)"], "(CrossEntropyLoss(),)"),
    "a module of a package": (["xml.dom.minidom.Node.TEXT_NODE"], "(3,)"),
    "a call of a call": (["collections.OrderedDict([('a', fractions.Fraction(1, 2))])"], "Fraction(1, 2)"),
}  # fmt: skip


@pytest.mark.parametrize("way", ARGUMENTS)
def test_arguments_mean_what_they_mean_in_the_factorys_file(way: str) -> None:
    texts, expected = ARGUMENTS[way]
    model = load_model("check_models", "Given", parse_arguments(texts), 0)
    assert expected in f"{model.args} {model.kwargs}"


NO_ARGUMENTS = {
    "1 +": "'1 +' is not what stands between the brackets of a call",
    "1) + f(2": "is not what stands between the brackets",
    "1)(2": "is not what stands between the brackets",
    "1; 2": "is not what stands between the brackets",
    "1 + 2": "`1 + 2` is no literal, no dotted name and no call of one",
    "[x for x in y]": "is no literal",
    "lambda: 1": "is no literal",
    "f'{x}'": "is no literal",
    "().__class__": "`()` is no literal",
    "f()()": "`f()` is no literal",
    "*x": "`*x` is no literal",
    "**x": "`x` is no literal",
    "{**x}": "is no literal",
    "{[1]: 2}": "unhashable",
    "C=1, C=2": "the argument C is given twice",
    "nothing.at.all": "`nothing.at.all` is neither in check_models nor to be imported: No module named 'nothing'",
    "torch.nn.Nothing": "`torch.nn.Nothing` is neither in check_models nor to be imported: ",
    "eval('1')": "`eval` is neither in check_models nor to be imported",
    "torch.ones(-1)": "the arguments (torch.ones(-1)) fail: RuntimeError: ",
    "sys.exit(3)": "fail: SystemExit: 3",
}


@pytest.mark.parametrize("text", NO_ARGUMENTS)
def test_what_are_no_arguments_is_one_sentence(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "check_models:Given", "--args", text]) == 2
    found = capsys.readouterr()
    assert NO_ARGUMENTS[text] in found.err
    assert len(found.err.splitlines()) == 1


def test_a_class_with_arguments_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--args", "2", "--kwargs", "norm=nn.BatchNorm2d", "--input", "x=2,4,6,6"]
    assert main(["check", "check_models:OfWidth", *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("verdict: PASS")


# -- scripts ---------------------------------------------------------------------------------------------------------

SCRIPT = """
import argparse, sys
from beside import width

model = __import__("check_models").Supernet()
parser = argparse.ArgumentParser()
parser.add_argument("--layers", type=int, default=8)
options = parser.parse_args()
found = [__name__, sys.argv, width, options.layers]


def make(layers):
    return __import__("torch").nn.Sequential(*[model] * layers)


if __name__ == "__main__":
    raise ValueError("it is not run as a script")
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["toponas-fx", "check", "--json"])
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    (tmp_path / "beside.py").write_text("width = 3\n")
    path = tmp_path / "train-search.py"
    path.write_text(SCRIPT)
    return path


def test_a_script_is_imported_by_its_path(script: Path) -> None:
    model = load_model(str(script), "model", parse_arguments([]), 0)
    assert type(model).__name__ == "Supernet"
    assert len(load_model(str(script), "make", parse_arguments(["layers=2"]), 0)) == 2
    assert sys.modules["train-search"].found == ["train-search", [str(script)], 3, 8]
    assert sys.argv == ["toponas-fx", "check", "--json"]


def test_a_script_may_be_called_as_a_module_that_is_loaded(script: Path) -> None:
    other = script.with_name("json.py")
    script.rename(other)
    assert type(load_model(str(other), "model", parse_arguments([]), 0)).__name__ == "Supernet"
    assert sys.modules["json"] is json
    assert load_model(str(other), "make", parse_arguments(["1"]), 0)


def test_what_a_script_raises_is_one_sentence(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.write_text("import sys\nsys.exit('no GPU')\n")
    before = set(sys.modules)
    assert main(["check", f"{script}:model"]) == 2
    assert f"importing {script} fails: {script}:2: SystemExit: no GPU" in capsys.readouterr().err
    assert not [name for name in set(sys.modules) - before if name.startswith("train-search")]
