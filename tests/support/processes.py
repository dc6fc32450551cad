"""Scripts run as users run them, alone or as several processes under ``torchrun``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT = 240  # s; several processes share what cores there are


def environment() -> dict[str, str]:
    """Return the environment, with this repository to import from and one thread a process."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(ROOT)]))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def command(script: str, *arguments: str, processes: int | None = 2) -> list[str]:
    """Return the command for a script; with processes None it runs without torchrun."""
    if processes is None:
        return [sys.executable, script, *arguments]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *launcher, script, *arguments]


def run_script(script: str, *arguments: str, processes: int | None = 2) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    return subprocess.run(
        command(script, *arguments, processes=processes),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
