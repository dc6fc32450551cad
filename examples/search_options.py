"""The options that the example searches share."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from image_data import SearchData, load_digits, load_folder


def add_arguments(parser: argparse.ArgumentParser, *, C: int, epochs: int, threads: int | None = None) -> None:
    """Add the options that all searches have, with defaults for some."""
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--original", action="store_true", help="search on the supernet as it is, only")
    models.add_argument("--simplified", action="store_true", help="search on the simplified supernet, only")
    parser.add_argument("--order", type=int, choices=(1, 2), default=1, help="of the architecture's gradient")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder of images for each class; or else digits")
    parser.add_argument("--image-size", type=positive, help="a multiple of 4; 8 for the digits, 32 for a folder")
    parser.add_argument("--C", type=positive, default=C, help="channels of the first stage (%(default)s)")
    parser.add_argument("--epochs", type=positive, default=epochs, help="through the search's images (%(default)s)")
    parser.add_argument("--batch", type=positive, default=64, help="images a batch (%(default)s)")
    parser.add_argument("--limit-batches", type=positive, metavar="N", help="at most N batches an epoch")
    parser.add_argument("--seed", type=int, default=0, help="of weights, split and batches (%(default)s)")
    parser.add_argument(
        "--threads", type=positive, default=threads, help=f"of torch on the CPU ({threads or 'torch decides'})"
    )
    parser.add_argument("--device", default="cpu", help="where to search, such as cuda (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the settings and results there")
    parser.add_argument("--report", action="store_true", help="print what toponas_fx merged, and what not and why")


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> SearchData:
    """Complete the options in place and load the images; a mistake in any ends the program with one sentence."""
    args.models = ["original"] * (not args.simplified) + ["simplified"] * (not args.original)
    args.image_size = args.image_size or (8 if args.data is None else 32)
    if args.image_size % 4:
        parser.error(f"--image-size must be a multiple of 4, for two halvings, found {args.image_size}")
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json: there is no folder {args.json.parent} to write to")
    try:
        args.device = torch.device(args.device)
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device: torch cannot use {str(args.device)!r}: {str(error).splitlines()[0]}")
    try:
        data = _load_data(args)
        data.search_loader(data.weights, args.batch, args.seed)  # so that a batch too large is said now
    except ValueError as error:
        parser.error(str(error))
    return data


def positive(text: str) -> int:
    """Read a whole number from 1, for `argparse`."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, found {text!r}")
    return int(text)


def _load_data(args: argparse.Namespace) -> SearchData:
    if args.data is None:
        return load_digits(args.image_size, args.seed)
    return load_folder(args.data, args.image_size, args.seed)
