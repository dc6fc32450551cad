"""Search a NAS-Bench-201 cell on several processes, with a checkpoint from which a killed search goes on.

The search is that of `search_nasbench201.py` on the simplified supernet: simplify first, then wrap in
`DistributedDataParallel`. Every process takes its share of each batch.

    torchrun --nproc-per-node 2 examples/search_distributed.py --checkpoint search.pt
    python examples/search_distributed.py

Run the same command again after a search was killed: it goes on behind the last step that is in the checkpoint, and
ends where it would have ended.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from architect import Architect, Batch
from image_data import SearchData
from search_checkpoint import load_checkpoint, save_checkpoint
from search_loop import Method, Search, make_search
from search_nasbench201 import node_lines
from search_options import DIGITS, add_arguments, check_arguments, positive
from search_results import make_console, show, write_json
from supernets.nasbench201 import ALPHAS, CANDIDATES, NASBench201Supernet

RESUMES = ("C", "N", "alphas", "batch", "epochs", "image_size", "limit_batches", "seed")
"""The options that must be alike when a search goes on."""


class DistributedArchitect(Architect):
    """Trains the architecture weights alike in all processes, plain tensors, which DDP does not know, or Parameters."""

    def step(self, train: Batch, valid: Batch, eta: float, network_optimizer: SGD, unrolled: bool) -> None:
        """Take one step with the mean of all processes' gradients; first order only."""
        alphas = self.model.arch_parameters()
        for tensor, gradient in zip(alphas, torch.autograd.grad(self.model._loss(*valid), alphas), strict=True):
            tensor.grad = _mean(gradient)
        self.optimizer.step()


class DistributedSearch(Search):
    """A search whose weights DDP trains."""

    def __init__(self, name: str, model: Any, architect: Architect, order: int, epochs: int) -> None:
        super().__init__(name, model, architect, order, epochs)
        for alphas in model.arch_parameters():
            dist.broadcast(alphas.data, 0)  # DDP does so for what is in `parameters()`
        self.parallel = DistributedDataParallel(model)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of this process's share; DDP averages its gradients with the others'."""
        return F.cross_entropy(self.parallel(images), targets)


def _mean(tensor: Tensor) -> Tensor:
    dist.all_reduce(tensor)
    return tensor / dist.get_world_size()


def _supernet(args: argparse.Namespace, data: SearchData) -> NASBench201Supernet:
    return NASBench201Supernet(args.C, args.N, data.num_classes, data.in_channels, alphas=args.alphas)


METHOD = Method("DARTS on NAS-Bench-201, distributed", _supernet, node_lines, CANDIDATES, DistributedArchitect)


def parse(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, SearchData]:
    """Read the command line and the images; a mistake in either ends the program with one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_arguments(parser, C=16, epochs=20, threads=1)
    parser.set_defaults(data=DIGITS)
    parser.add_argument("--N", type=positive, default=2, help="cells a stage (%(default)s)")
    parser.add_argument("--alphas", choices=ALPHAS, default="tensor", help="what they are kept as (%(default)s)")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="write it there, and go on from it if it exists"
    )
    parser.add_argument("--save-every", type=positive, default=50, metavar="N", help="steps (%(default)s) and epochs")
    args = parser.parse_args(argv)
    args.world = int(os.environ.get("WORLD_SIZE", 1))
    if args.order == 2:
        parser.error("--order 2: the unrolled step is not distributed here; run search_nasbench201.py for it")
    if args.batch % args.world:
        parser.error(f"--batch must be a multiple of the {args.world} processes, found {args.batch}")
    if args.checkpoint and not args.checkpoint.parent.is_dir():
        parser.error(f"--checkpoint: there is no folder {args.checkpoint.parent} to write to")
    if args.device == "cuda":
        args.device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    data = check_arguments(parser, args)
    args.models = ["original"] if args.original else ["simplified"]
    return args, data


def join(device: torch.device) -> None:
    """Join the processes that torchrun started; without it this process is the only one."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def batches(part: Dataset, args: argparse.Namespace, seed: int, epoch: int, step: int) -> Iterator[Batch]:
    """Yield this process's share of an epoch's batches, from a step on; epoch and seed decide what is in which."""
    sampler = DistributedSampler(part, shuffle=True, seed=seed, drop_last=True)
    sampler.set_epoch(epoch)
    mine, share = list(sampler), args.batch // args.world
    chosen = [mine[start : start + share] for start in range(step * share, len(mine) - share + 1, share)]
    loader = DataLoader(part, batch_sampler=chosen, generator=torch.Generator())  # or torch's own would move
    for images, targets in loader:
        yield images.to(args.device), targets.to(args.device)


def search_on(search: DistributedSearch, args: argparse.Namespace, data: SearchData, console: Console) -> float:
    """Run a search from where its checkpoint is to the end; return the last validation accuracy, in percent."""
    settings = {name: getattr(args, name) for name in (*RESUMES, "models", "world")}
    first, done = (0, 0) if args.checkpoint is None else load_checkpoint(args.checkpoint, search, settings)
    if first or done:
        console.print(f"goes on in epoch {first + 1} behind step {done}")

    def save(epoch: int, step: int) -> None:
        if args.checkpoint is not None:
            save_checkpoint(args.checkpoint, search, (epoch, step), settings)

    for epoch in range(first, args.epochs):
        start = done if epoch == first else 0
        train, valid = (
            batches(part, args, args.seed + i, epoch, start) for i, part in enumerate((data.weights, data.architecture))
        )
        pairs = islice(zip(train, valid, strict=True), args.limit_batches and args.limit_batches - start)
        for step, pair in enumerate(pairs, start + 1):
            search.step(*pair)
            if step % args.save_every == 0:
                save(epoch, step)
        search.schedule.step()
        save(epoch + 1, 0)
        console.print(f"epoch {epoch + 1}: {_accuracy(search, args, data):.1f} %")
    return _accuracy(search, args, data)


def _accuracy(search: DistributedSearch, args: argparse.Namespace, data: SearchData) -> float:
    """Return the accuracy with the first process's running statistics, which are the checkpoint's."""
    if dist.get_rank() > 0:
        return 0.0
    return search.accuracy(data.validation_loader(args.batch), args.limit_batches, args.device)


def main(argv: Sequence[str] | None = None) -> None:
    """Search, print, and write the JSON; the first process speaks for all."""
    args, data = parse(argv)
    torch.set_num_threads(args.threads)
    join(args.device)
    rank = dist.get_rank()
    console = make_console() if rank == 0 else Console(quiet=True)
    (name,) = args.models
    example = next(batches(data.weights, args, args.seed, epoch=0, step=0))[0]
    search = make_search(name, METHOD, args, data, example, DistributedSearch)
    torch.manual_seed(args.seed + rank)
    if args.report and rank == 0 and name == "simplified":
        print(search.model.report)
    try:
        accuracy = search_on(search, args, data, console)
        if rank == 0:
            results = {name: search.result(accuracy)}
            show(METHOD, results, [], console)
            write_json(args, results, [])
        dist.barrier()
    except ValueError as error:  # the checkpoint is another search's
        raise SystemExit(f"error: {error}" if rank == 0 else 2) from error
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
