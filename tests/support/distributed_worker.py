"""What each of two processes runs under ``torchrun`` for test_distributed.py; a failed assertion ends both."""

from __future__ import annotations

import copy
import io
import itertools
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import toponas_fx

TOLERANCE = 1e-10
EDGES, BATCH, STEPS = 2, 8, 3


def candidate(C: int, kernel_size: int, norm: str) -> nn.Sequential:
    conv = nn.Conv2d(C, C, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.GroupNorm(2, C) if norm == "group" else nn.BatchNorm2d(C))


class Supernet(nn.Module):
    """Two edges in a row, a classifier, and a layer that forward never reads: DDP would wait for its gradient."""

    def __init__(self, norm: str, alphas: str, C: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, C, 3, padding=1)
        edges = [[nn.Identity(), nn.AvgPool2d(3, 1, 1), *(candidate(C, k, norm) for k in (1, 3))] for _ in range(EDGES)]
        self.edges = nn.ModuleList(map(nn.ModuleList, edges))
        self.auxiliary = nn.Linear(C, 3)
        self.classifier = nn.Linear(C, 3)
        self.double()
        values = torch.randn(EDGES, 4, dtype=torch.float64)
        self.alphas = nn.Parameter(values) if alphas == "parameter" else values.requires_grad_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for row, edge in zip(self.alphas.softmax(-1), self.edges, strict=True):
            x = sum(w * op(x) for w, op in zip(row, edge, strict=True))  # type: ignore[assignment]
        return self.classifier(x.mean((2, 3)))

    def genotype(self) -> list[int]:
        return self.alphas.argmax(-1).tolist()


def supernet(norm: str, alphas: str, seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    return Supernet(norm, alphas)


WEIGHTS = {name for name, _ in supernet("group", "tensor").named_parameters()}


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(STEPS, BATCH, 3, 6, 6, dtype=torch.float64, generator=generator)
    return list(zip(images, torch.randint(3, (STEPS, BATCH), generator=generator), strict=True))


def mine(tensor: Tensor) -> Tensor:
    """Return this process's half of a batch."""
    return tensor.chunk(dist.get_world_size())[dist.get_rank()]


def gathered(value: Any) -> list[Any]:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def assert_close(found: Tensor | None, expected: Tensor | None) -> None:
    assert found is not None
    assert expected is not None
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def average(tensor: Tensor) -> None:
    """Average the gradient of a tensor that is no Parameter, which DDP does not know."""
    assert tensor.grad is not None
    dist.all_reduce(tensor.grad)
    tensor.grad /= dist.get_world_size()


def retire_unread(fast: Any) -> None:
    """Take out what forward does not read: DDP would wait for its gradient."""
    used = dict(toponas_fx.used_parameters(fast))
    toponas_fx.retire(fast, [name for name, _ in fast.named_parameters() if name not in used])


def trains_as_one_process_on_the_whole_batch(mode: str, alphas: str) -> None:
    x = batches()[0][0]
    alone: Any = toponas_fx.simplify(supernet("group", alphas), x, mode=mode)
    # every process makes its own model, from other weights; DDP sends those of the first around
    fast: Any = toponas_fx.simplify(supernet("group", alphas, seed=dist.get_rank()), mine(x), mode=mode)
    dist.broadcast(fast.alphas.data, 0)
    for one in (alone, fast):
        assert "auxiliary.weight" in dict(one.named_parameters())
        retire_unread(one)
    kept = [name for name, _ in fast.named_parameters()]
    decided = gathered((kept, fast._toponas.sharing.ties, list(fast._toponas.sharing.kernels)))
    assert all(other == decided[0] for other in decided)
    assert "auxiliary.weight" not in kept
    ddp = DistributedDataParallel(fast)
    models = ((alone, alone), (ddp, fast))
    architecture = [fast.alphas]
    tensors = [[*one.parameters(), *([] if alphas == "parameter" else [one.alphas])] for one in (alone, fast)]
    optimizers = [optim.SGD(wanted, lr=0.1, momentum=0.9) for wanted in tensors]
    for images, targets in batches():
        for (call, _), optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            given = (images, targets) if call is alone else (mine(images), mine(targets))
            F.cross_entropy(call(given[0]), given[1]).backward()
        if alphas == "tensor":
            average(*architecture)
        for one, other in zip(*tensors, strict=True):
            assert_close(other.grad, one.grad)
            assert all(torch.equal(grad, other.grad) for grad in gathered(other.grad))
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(*tensors, strict=True):
        assert_close(other, one)
    assert ddp.module.genotype() == alone.genotype()
    if (mode, alphas) == ("share", "parameter"):
        keeps_its_state_under_ddp(ddp, alone, x)


def keeps_its_state_under_ddp(ddp: DistributedDataParallel, alone: Any, x: Tensor) -> None:
    state = ddp.state_dict()
    assert list(state) == [f"module.{name}" for name in alone.state_dict()]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    twin = copy.deepcopy(ddp.module)
    expected = twin(x)
    with torch.no_grad():
        for parameter in ddp.parameters():
            parameter.add_(1)
    assert_close(twin(x), expected)
    ddp.load_state_dict(torch.load(buffer, weights_only=True))
    assert_close(ddp(x), expected)
    with torch.no_grad():
        assert_close(torch.compile(ddp, backend="eager")(x), expected)
    plain = toponas_fx.restore(ddp.module)
    assert type(plain) is Supernet
    assert {name for name, _ in plain.named_parameters()} - {"alphas"} == WEIGHTS


def norms_with_buffers_do_what_they_did() -> None:
    """Running statistics are those of the first process's half, sent around before each forward, as with any model."""
    plain, other = (supernet("batch", "parameter") for _ in range(2))
    fast: Any = toponas_fx.simplify(other, mine(batches()[0][0]), mode="exact")
    del plain.auxiliary
    retire_unread(fast)
    models = [DistributedDataParallel(plain), DistributedDataParallel(fast)]
    for images, targets in batches():
        for ddp in models:
            ddp.zero_grad()
            F.cross_entropy(ddp(mine(images)), mine(targets)).backward()
        for one, two in zip(plain.parameters(), fast.parameters(), strict=True):
            assert_close(two.grad, one.grad)
    for one, two in zip(plain.buffers(), fast.buffers(), strict=True):
        assert_close(two.double(), one.double())
    shared: Any = toponas_fx.simplify(supernet("batch", "parameter"), mine(batches()[0][0]))
    assert len(list(shared.buffers())) < len(list(fast.buffers()))
    retire_unread(shared)
    ddp = DistributedDataParallel(shared)
    for images, targets in batches():
        ddp.zero_grad()
        F.cross_entropy(ddp(mine(images)), mine(targets)).backward()
        for parameter in shared.parameters():
            assert all(torch.equal(grad, parameter.grad) for grad in gathered(parameter.grad))


def main() -> None:
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    for mode, alphas in itertools.product(("share", "exact"), ("tensor", "parameter")):
        trains_as_one_process_on_the_whole_batch(mode, alphas)
    norms_with_buffers_do_what_they_did()
    dist.barrier()
    if dist.get_rank() == 0:
        print("both agree")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
