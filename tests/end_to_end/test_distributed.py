"""DistributedDataParallel over a simplified model: two processes on gloo do what one does on the whole batch."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from processes import run_script


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_train_as_one() -> None:
    done = run_script("tests/support/distributed_worker.py")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "both agree" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_sample_their_paths() -> None:
    done = run_script("tests/support/distributed_sampling.py")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "both agree" in done.stdout
