"""The options of benchmark scripts that say how large networks and images are."""

from __future__ import annotations

import argparse

import torch

from benchmarks.spaces import SPACES, Size
from search_options import positive


def add_size_options(parser: argparse.ArgumentParser) -> None:
    """Add them, and those that say what torch runs on."""
    parser.add_argument("--space", choices=SPACES, default="nasbench201", help="(%(default)s)")
    parser.add_argument("--C", type=positive, default=16, help="channels of the first stage (%(default)s)")
    parser.add_argument(
        "--cells", type=positive, help="a stage in nasbench201 (2), blocks a stage in mobile (4), in all in darts (3)"
    )
    parser.add_argument("--nodes", type=positive, default=4, help="of a cell in darts (%(default)s)")
    parser.add_argument("--candidates", type=positive, help="of an edge, the costliest first (all)")
    parser.add_argument("--batch", type=positive, help="images (64 in nasbench201, 32 in mobile, 16 in darts)")
    parser.add_argument("--image-size", type=positive, default=32, help="a multiple of 4 (%(default)s)")
    parser.add_argument("--device", default="cpu", help="such as cuda (%(default)s)")
    parser.add_argument("--threads", type=positive, help="of torch on the CPU; by default torch decides")


def size_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Size:
    """Return the size that was asked for; a mistake ends the program with one sentence."""
    space = SPACES[args.space]
    most = len(space.costliest)
    if args.image_size % 4:
        parser.error(f"--image-size must be a multiple of 4, for two halvings, found {args.image_size}")
    if args.candidates is not None and args.candidates > most:
        parser.error(f"--candidates: an edge of {args.space} has {most}, found {args.candidates}")
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device: torch cannot use {args.device!r}: {str(error).splitlines()[0]}")
    if args.threads:
        torch.set_num_threads(args.threads)
    return Size(
        space=args.space,
        C=args.C,
        cells=args.cells or space.cells,
        nodes=args.nodes,
        candidates=args.candidates or most,
        batch=args.batch or space.batch,
        image_size=args.image_size,
        device=args.device,
    )
