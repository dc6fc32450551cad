r"""Search NAS-Bench-201 cells on the original and on what simplify makes of it, over many seeds: are they as good?

Each search writes one JSON line to `--out`, with what it knew after each epoch; those that are there already are not
run again, so that a run that was stopped goes on. `--show` prints the tables of such a file, `--plot` draws it.

    python examples/benchmarks/search_quality.py --table nb201.csv.gz --data images --out runs.jsonl --seeds 0-9
    python examples/benchmarks/search_quality.py --table nb201.csv.gz --data images --out runs.jsonl --seeds 0-9 \
        --variant share --equal-seconds
    python examples/benchmarks/search_quality.py --show runs.jsonl --plot runs.png
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).parents[1]))  # the examples' folder, for the supernets in it
from benchmarks.quality_plots import plot
from benchmarks.quality_runs import METHODS, ORIGINAL, VARIANTS, Run, load, load_table, search
from benchmarks.quality_tables import read_runs, tables
from search_options import positive
from supernets.pcdarts import K

FINISHED = {"darts", "darts-2nd", "beta-darts"}
"""Methods whose cells ``--finish`` trains: of supernets with all channels in every candidate."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; a mistake in it ends the program with one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    told = "print the tables of files of runs, run nothing; a seed of one file is paired with that of the same file"
    parser.add_argument("--show", type=Path, nargs="+", metavar="JSONL", help=told)
    parser.add_argument("--method", nargs="+", choices=METHODS, default=["darts"], help="what to search with (darts)")
    parser.add_argument(
        "--variant", nargs="+", choices=VARIANTS, default=[ORIGINAL, "share"], help="of the supernet (original, share)"
    )
    parser.add_argument("--seeds", type=seeds, default=[0], metavar="LIST", help="such as 0-9 or 1,3,5-7 (0)")
    parser.add_argument("--table", type=Path, metavar="CSV", help="index,arch,cifar10,cifar100,imagenet16_120, or .gz")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder of images for each class; or else digits")
    parser.add_argument("--image-size", type=positive, default=16, help="a multiple of 4 (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="JSONL", help="file to append the runs to")
    parser.add_argument("--C", type=positive, default=8, help="channels of the first stage (%(default)s)")
    parser.add_argument("--N", type=positive, default=1, help="cells a stage (%(default)s)")
    parser.add_argument("--affine", action="store_true", help="let candidates' norms learn a scale and a shift")
    parser.add_argument("--epochs", type=positive, default=20, help="of the original (%(default)s)")
    parser.add_argument("--batch", type=positive, default=64, help="images a batch (%(default)s)")
    parser.add_argument("--arch-lr", type=float, default=0.01, help="of the architecture weights (%(default)s)")
    parser.add_argument(
        "--equal-seconds", action="store_true", help="as many epochs as fit into the seconds of the original's in --out"
    )
    parser.add_argument(
        "--rank", type=int, default=0, metavar="CELLS", help="to compare rankings by, in the end (none)"
    )
    parser.add_argument(
        "--finish",
        type=int,
        default=0,
        metavar="EPOCHS",
        help="to train the cell that was found, from its weights in the supernet and from scratch (none)",
    )
    parser.add_argument("--limit-batches", type=positive, metavar="N", help="at most N batches an epoch")
    parser.add_argument("--against", choices=VARIANTS, default=ORIGINAL, help="to compare with (%(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print the tables as markdown")
    parser.add_argument("--plot", type=Path, metavar="IMAGE", help="draw expected accuracy against steps and seconds")
    parser.add_argument("--jobs", type=positive, default=1, help="searches at once, a thread each (%(default)s)")
    args = parser.parse_args(argv)
    if args.show is None and (args.table is None or args.out is None):
        parser.error("--table and --out are needed to run searches, or --show to show some")
    for path in args.show or ():
        if not path.is_file():
            parser.error(f"--show: {path} is not a file")
    if args.out and not args.out.parent.is_dir():
        parser.error(f"--out: there is no folder {args.out.parent} to write to")
    if "pc-darts" in args.method and args.C % K:
        parser.error(f"--C must be a multiple of {K} for pc-darts, found {args.C}")
    if args.finish and not FINISHED.issuperset(args.method):
        parser.error(f"--finish: the networks of {' and '.join(sorted(FINISHED))} alone are trained on")
    if args.image_size % 4:
        parser.error(f"--image-size must be a multiple of 4, for two halvings, found {args.image_size}")
    return args


def seeds(text: str) -> list[int]:
    """Read a list of whole numbers and ranges, both ends included, for `argparse`."""
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if ends is None:
            raise argparse.ArgumentTypeError(f"must be such as 0-9 or 1,3,5-7, found {text!r}")
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    return list(dict.fromkeys(found))


def missing_runs(args: argparse.Namespace, known: Sequence[dict]) -> Iterator[tuple[Run, int]]:
    """Yield the searches that a file lacks, seed after seed, with the epochs of each.

    Raises:
        ValueError: equal seconds are asked for, but there are no runs of equal steps to tell how long a step takes.
    """
    done = {tuple(run[name] for name in asdict(_run(args, "", "", 0))) for run in known}
    for seed in args.seeds:
        for method in args.method:
            for variant in args.variant:
                run = _run(args, method, variant, seed)
                if run.budget == "seconds" and variant == ORIGINAL:
                    continue  # its own seconds are what others are given
                if tuple(asdict(run).values()) not in done:
                    yield run, _length(run, known)


def _run(args: argparse.Namespace, method: str, variant: str, seed: int) -> Run:
    names = ("C", "N", "affine", "epochs", "batch", "image_size", "arch_lr", "limit_batches")
    settings = {name: getattr(args, name) for name in names}
    return Run(method, variant, seed, **settings, budget="seconds" if args.equal_seconds else "steps")


def _length(run: Run, known: Sequence[dict]) -> int:
    """Return the epochs of a search: of equal seconds, those that take what the original's take on the average."""
    if run.budget == "steps":
        return run.epochs
    seconds = []
    for variant in (ORIGINAL, run.variant):
        like = asdict(replace(run, variant=variant, budget="steps"))
        alike = [other for other in known if all(other[name] == like[name] for name in like if name != "seed")]
        if not alike:
            raise ValueError(f"--equal-seconds: --out has no run of {run.method}, {variant}, at equal steps")
        seconds.append(statistics.mean(other["log"][-1]["seconds"] for other in alike))
    return max(1, round(run.epochs * seconds[0] / seconds[1]))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the searches that are missing, a line each, and print the tables of all that are there."""
    args = parse(argv)
    if args.show is None:
        _run_missing(args)
    files = args.show or [args.out]
    runs = [{**run, "seed": (number, run["seed"])} for number, path in enumerate(files) for run in read_runs(path)]
    for table in tables(runs, args.against):
        if args.markdown:
            print(table.markdown(), end="\n\n")
        else:
            table.show()
    if args.plot:
        plot(runs, args.plot)


def _run_missing(args: argparse.Namespace) -> None:
    try:
        load_table(args.table)
        load(args.data, args.image_size, 0)
        wanted = list(missing_runs(args, read_runs(args.out)))
    except ValueError as error:
        sys.exit(f"search_quality.py: error: {error}")
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("searches"), TimeElapsedColumn(), TimeRemainingColumn())
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with (
        ProcessPoolExecutor(args.jobs, context) as pool,
        Progress(
            TextColumn("{task.description}"), *columns, console=Console(stderr=True), speed_estimate_period=1e5
        ) as progress,
        args.out.open("a", encoding="utf-8") as out,
    ):
        task = progress.add_task("searching", total=len(wanted))
        options = {"data": args.data, "table": args.table, "rank": args.rank, "more": args.finish}
        futures = [pool.submit(search, run, length=length, **options) for run, length in wanted]
        try:
            for future in as_completed(futures):
                found = future.result()
                out.write(json.dumps(found) + "\n")
                out.flush()
                progress.update(task, advance=1, description=f"{found['method']}, {found['variant']}, {found['seed']}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # else Ctrl-C would wait for all that are still to come
            raise


if __name__ == "__main__":
    main()
