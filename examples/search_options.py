"""The options that the example searches share."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch

from image_data import SearchData, load_digits, load_folder, load_scattered_digits

DIGITS = Path("digits")
"""What `--data` has for the digits as they are."""


def add_arguments(
    parser: argparse.ArgumentParser, *, C: int, epochs: int, batch: int = 64, threads: int | None = None
) -> None:
    """Add the options that all searches have, with defaults for some."""
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--original", action="store_true", help="search on the supernet as it is, only")
    models.add_argument("--simplified", action="store_true", help="search on the simplified supernet, only")
    parser.add_argument("--order", type=int, choices=(1, 2), default=1, help="of the architecture's gradient")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="a folder of images for each class, or 'digits' for scikit-learn's as they are, which any network learns "
        "within seconds; or else those, enlarged, somewhere among noise",
    )
    parser.add_argument(
        "--image-size", type=positive, help="a multiple of 4; 8 for plain digits, 32 for a folder, or else 24"
    )
    parser.add_argument("--C", type=positive, default=C, help="channels of the first stage (%(default)s)")
    parser.add_argument("--epochs", type=positive, default=epochs, help="through the search's images (%(default)s)")
    parser.add_argument("--batch", type=positive, default=batch, help="images a batch (%(default)s)")
    parser.add_argument("--limit-batches", type=positive, metavar="N", help="at most N batches an epoch")
    parser.add_argument(
        "--arch-lr", type=float, default=0.01, metavar="LR", help="of the architecture (%(default)s; papers have 3e-4)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, split and batches (%(default)s)")
    parser.add_argument(
        "--threads", type=positive, default=threads, help=f"of torch on the CPU ({threads or 'torch decides'})"
    )
    parser.add_argument("--device", default="cpu", help="where to search, such as cuda (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the settings and results there")
    parser.add_argument("--report", action="store_true", help="print what toponas_fx merged, and what not and why")


def add_plot_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that make the course of a search visible."""
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw loss, accuracy and architecture over time there")
    parser.add_argument("--logdir", type=Path, metavar="DIR", help="write the same for TensorBoard, as it goes on")


def check_plot_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the program with one sentence if there is no place for the plot, or no TensorBoard."""
    if args.plot and not args.plot.parent.is_dir():
        parser.error(f"--plot: there is no folder {args.plot.parent} to write to")
    if args.plot and args.plot.suffix not in (".png", ".svg", ".pdf"):
        parser.error(f"--plot: name a .png, .svg or .pdf, found {args.plot}")
    if args.logdir and importlib.util.find_spec("tensorboard") is None:
        parser.error("--logdir needs TensorBoard: pip install tensorboard")


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> SearchData:
    """Complete the options in place and load the images; a mistake in any ends the program with one sentence."""
    args.models = ["original"] * (not args.simplified) + ["simplified"] * (not args.original)
    args.image_size = args.image_size or {DIGITS: 8, None: 24}.get(args.data, 32)
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
        return load_scattered_digits(args.image_size, args.seed)
    if args.data == DIGITS and not args.data.is_dir():
        return load_digits(args.image_size, args.seed)
    return load_folder(args.data, args.image_size, args.seed)
