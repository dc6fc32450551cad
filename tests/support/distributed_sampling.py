"""What each of two processes runs under ``torchrun`` for test_distributed.py: GDAS, its paths drawn alike or apart."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn, optim
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))  # before the tests' own folder of supernets
import toponas_fx
from supernets.gdas import GDASSupernet
from toponas_fx.analysis.arms import selects

BATCH, STEPS = 4, 6


def step(ddp: DistributedDataParallel, optimizer: optim.Optimizer, x: Tensor, seed: int) -> list[Tensor | None]:
    optimizer.zero_grad()
    torch.manual_seed(seed)
    ddp(x).square().mean().backward()
    gradients = [parameter.grad for parameter in ddp.parameters()]
    optimizer.step()
    return gradients


def trains_as_the_original(apart: int) -> None:
    torch.manual_seed(0)
    model = GDASSupernet(C=4, N=1).double()
    model.alphas = nn.Parameter(model.alphas.detach().double())
    fast = toponas_fx.simplify(copy.deepcopy(model), torch.randn(BATCH, 3, 8, 8, dtype=torch.float64))
    assert selects(fast._toponas.programs[0].graph)
    both = [DistributedDataParallel(one, find_unused_parameters=True) for one in (model, fast)]
    optimizers = [optim.SGD(one.parameters(), 0.01) for one in both]
    for number in range(STEPS):
        x = torch.randn(BATCH, 3, 8, 8, dtype=torch.float64)[dist.get_rank() :: 2]
        seed = number + apart * dist.get_rank()
        expected, found = (step(one, own, x, seed) for one, own in zip(both, optimizers, strict=True))
        assert [gradient is None for gradient in found] == [gradient is None for gradient in expected]
        for one, two in zip(found, expected, strict=True):
            if one is not None:
                torch.testing.assert_close(one, two, rtol=0, atol=1e-10)


def main() -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    trains_as_the_original(apart=0)
    trains_as_the_original(apart=100)
    if dist.get_rank() == 0:
        print("both agree")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
