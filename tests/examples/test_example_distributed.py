"""The distributed example: alone, under torchrun, killed and run again, in the very state it would have reached."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

from processes import ROOT, TIMEOUT, command, environment, run_script

sys.path.insert(0, str(ROOT / "examples"))  # where the script's own folder is when users run it

from search_distributed import parse

SCRIPT = "examples/search_distributed.py"
EPOCHS = 2
TINY = ["--C", "2", "--N", "1", "--batch", "8", "--threads", "1"]

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo"
)


def search(path: Path, *arguments: str, processes: int | None) -> dict[str, Any]:
    """Run a search to its end and return its checkpoint."""
    done = run_script(SCRIPT, "--checkpoint", str(path), *TINY, *arguments, processes=processes)
    assert done.returncode == 0, done.stderr[-4000:]
    assert re.search(r"simplified: \|\w+~0\|", done.stdout)
    assert done.stderr == "" or processes, "torchrun has words of its own"
    return read(path)


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


def kill_search(path: Path, *arguments: str, processes: int | None, behind: tuple[int, int]) -> None:
    """Start a search, and kill it without warning once its checkpoint is behind an epoch and step."""
    started = subprocess.Popen(
        command(SCRIPT, "--checkpoint", str(path), *TINY, *arguments, processes=processes),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        limit = time.monotonic() + TIMEOUT
        while not (path.exists() and tuple(read(path)["position"]) >= behind):
            assert started.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.01)
    finally:
        for pid in (*(workers_of(started.pid) if processes else ()), started.pid):
            os.kill(pid, signal.SIGKILL)
        started.wait()
    assert behind <= tuple(read(path)["position"]) < (EPOCHS, 0)


def workers_of(pid: int) -> list[int]:
    """Return the processes that torchrun started."""
    return [int(worker) for worker in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Assert that two checkpoints agree bit for bit in all but the time that steps took."""
    left, left_spec = pytree.tree_flatten({**found, "seconds": None})
    right, right_spec = pytree.tree_flatten({**expected, "seconds": None})
    assert left_spec == right_spec
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def goes_on(folder: Path, *arguments: str, processes: int | None, kills: tuple[tuple[int, int], ...]) -> None:
    whole, path = folder / "whole.pt", folder / "killed.pt"
    arguments = ("--epochs", str(EPOCHS), "--save-every", "7", *arguments)
    expected = search(whole, *arguments, processes=processes)
    assert tuple(expected["position"]) == (EPOCHS, 0)
    for behind in kills:
        kill_search(path, *arguments, processes=processes, behind=behind)
    assert_equal(search(path, *arguments, processes=processes), expected)
    assert not list(folder.glob("*.part"))


@pytest.mark.slow
def test_killed_and_run_again_it_ends_where_it_would_have(tmp_path: Path) -> None:
    goes_on(tmp_path, "--limit-batches", "32", processes=None, kills=((1, 14),))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes to kill in /proc")
@pytest.mark.parametrize("alphas", ["tensor", "parameter"])
def test_so_it_does_on_two_processes(tmp_path: Path, alphas: str) -> None:
    goes_on(tmp_path, "--limit-batches", "32", "--alphas", alphas, processes=2, kills=((0, 14), (1, 7)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--order", "2"], "--order 2: the unrolled step is not distributed here"),
        (["--batch", "7"], "--batch must be a multiple of the 2 processes, found 7"),
        (["--checkpoint", "{tmp}/nowhere/search.pt"], "--checkpoint: there is no folder .*nowhere to write to"),
    ],
)
def test_bad_arguments_get_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as stopped:
        parse([argument.replace("{tmp}", str(tmp_path)) for argument in arguments])
    assert stopped.value.code == 2
    assert re.search(f"error: .*{sentence}", capsys.readouterr().err)


@pytest.mark.slow
def test_the_checkpoint_of_another_search_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.pt"
    few = ("--checkpoint", str(path), "--epochs", "1", "--limit-batches", "1")
    assert run_script(SCRIPT, *few, *TINY, processes=None).returncode == 0
    done = run_script(SCRIPT, *few, *TINY, "--seed", "1", processes=None)
    assert done.returncode == 1
    assert done.stderr == f"error: {path} is of a search with seed 0, not 1; name another checkpoint\n"
