"""Search with DARTS and its variants, on the supernet as it is and on the one that toponas_fx makes of it.

Run it without arguments: both searches start from the same weights and take their steps in turn on the same batches,
so that the seconds a step compare fairly on a busy machine. The images are scikit-learn's digits, enlarged, somewhere
among noise; real images and the size of the papers are options.

    python examples/search_darts.py --plot search.png
    python examples/search_darts.py --method pc-darts --order 2 --C 16 --layers 8 --nodes 4 --data path/to/images

Methods: darts and beta-darts search normal and reduction cells of the DARTS space; pc-darts does so with partial
channels; gdas-darts samples cells of the DARTS space, gdas and enas cells of NAS-Bench-201, enas by a controller.
fbnet, proxyless and spos choose the blocks of a mobile network: by a Gumbel softmax, by binary gates, and by evolution
over a supernet whose paths are drawn uniformly.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from torch import Tensor

import enas_controller
import proxyless_gates
import spos_evolution
from beta_darts import STRENGTH, BetaArchitect
from image_data import SearchData
from search_loop import Method, Search, run_searches
from search_nasbench201 import node_lines
from search_options import add_arguments, add_plot_arguments, check_arguments, check_plot_arguments, positive
from search_results import draw, introduce, make_console, show, write_json
from supernets.darts import DARTSSupernet, Genotype
from supernets.gdas import GDASSupernet
from supernets.gdas_darts import GDASDARTSSupernet
from supernets.mobile import MobileSupernet
from supernets.nasbench201 import CANDIDATES
from supernets.pcdarts import K, PCDARTSSupernet
from supernets.primitives import PRIMITIVES

TAU, TAU_MIN = 10.0, 0.1
TEMPERATURE, TEMPERATURE_MIN = 5.0, 0.1
CELLS, CELLS_A_STAGE = 3, 1


def _darts(args: argparse.Namespace, data: SearchData) -> DARTSSupernet:
    return _of_darts_space(DARTSSupernet, args, data)


def _pcdarts(args: argparse.Namespace, data: SearchData) -> PCDARTSSupernet:
    return _of_darts_space(PCDARTSSupernet, args, data)


def _of_darts_space(supernet: type[DARTSSupernet], args: argparse.Namespace, data: SearchData) -> DARTSSupernet:
    sizes = {"layers": args.layers or CELLS, "steps": args.nodes, "multiplier": args.nodes}
    return supernet(args.C, num_classes=data.num_classes, in_channels=data.in_channels, **sizes)


def _gdas_darts(args: argparse.Namespace, data: SearchData) -> GDASDARTSSupernet:
    return _of_darts_space(GDASDARTSSupernet, args, data)


def _gdas(args: argparse.Namespace, data: SearchData) -> GDASSupernet:
    return GDASSupernet(args.C, args.layers or CELLS_A_STAGE, data.num_classes, data.in_channels, tau=TAU)


def _mobile(args: argparse.Namespace, data: SearchData) -> MobileSupernet:
    layers = args.layers or CELLS_A_STAGE
    return MobileSupernet(args.C, layers, data.num_classes, data.in_channels, temperature=TEMPERATURE)


def _cell_lines(genotype: Genotype) -> str:
    lines = []
    for name, edges in (("normal", genotype.normal), ("reduce", genotype.reduce)):
        nodes = zip(edges[::2], edges[1::2], strict=True)
        lines += [f"{name} {2 + node}: {a} {i}, {b} {j}" for node, ((a, i), (b, j)) in enumerate(nodes)]
    return "\n".join(lines)


def strengthen(search: Search, progress: float) -> None:
    """Let beta-decay grow linearly."""
    search.architect.strength = STRENGTH * progress


def cool(search: Search, progress: float) -> None:
    """Lower GDAS' temperature linearly."""
    search.model.set_tau(TAU + (TAU_MIN - TAU) * progress)


def _anneal_temperature(search: Search, progress: float) -> None:
    search.model.set_temperature(TEMPERATURE * (TEMPERATURE_MIN / TEMPERATURE) ** progress)


def _alphas(search: Search) -> list[Tensor]:
    """Leave out the betas, which weigh edges."""
    return [search.model.alphas_normal, search.model.alphas_reduce]


BLOCKS = (*(f"k{k}_e{e}" for k in (3, 5, 7) for e in (1, 3, 6)), "skip")
METHODS = {
    "darts": Method("DARTS", _darts, _cell_lines, PRIMITIVES),
    "beta-darts": Method("β-DARTS", _darts, _cell_lines, PRIMITIVES, BetaArchitect, strengthen),
    "pc-darts": Method("PC-DARTS", _pcdarts, _cell_lines, PRIMITIVES, weighing=_alphas),
    "gdas": Method("GDAS on NAS-Bench-201", _gdas, node_lines, CANDIDATES, anneal=cool),
    "gdas-darts": Method("GDAS on DARTS cells", _gdas_darts, _cell_lines, PRIMITIVES, anneal=cool),
    "enas": enas_controller.METHOD,
    "proxyless": proxyless_gates.METHOD,
    "spos": spos_evolution.METHOD,
    "fbnet": Method("FBNet's method on mobile blocks", _mobile, "\n".join, BLOCKS, anneal=_anneal_temperature),
}
DARTS_SPACE = ("darts", "beta-darts", "pc-darts", "gdas-darts")
SECOND_ORDER = ("darts", "beta-darts", "pc-darts")


def parse(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, SearchData]:
    """Read the command line and the images; a mistake in either ends the program with one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--method", choices=METHODS, default="darts", help="what to search with (%(default)s)")
    add_arguments(parser, C=8, epochs=2, batch=32, threads=1)  # a small supernet, which threads only slow down
    add_plot_arguments(parser)
    layers = f"cells of the DARTS space ({CELLS}), or else cells or blocks a stage ({CELLS_A_STAGE})"
    parser.add_argument("--layers", type=positive, help=layers)
    parser.add_argument("--nodes", type=positive, default=2, help="of a DARTS cell; the papers have 4 (%(default)s)")
    args = parser.parse_args(argv)
    if args.order == 2 and args.method not in SECOND_ORDER:
        parser.error(
            f"--order 2: {args.method} draws candidates in each run, so it has no difference of two runs to take"
        )
    if args.method in DARTS_SPACE and args.layers and args.layers < CELLS:
        parser.error(
            f"--layers must be at least {CELLS} for {args.method}, of which one is normal, found {args.layers}"
        )
    if args.method == "pc-darts" and args.C % K:
        parser.error(f"--C must be a multiple of {K} for pc-darts, found {args.C}")
    check_plot_arguments(parser, args)
    return args, check_arguments(parser, args)


def main(argv: Sequence[str] | None = None) -> None:
    """Search, print, and write the JSON."""
    args, data = parse(argv)
    method = METHODS[args.method]
    console = make_console()
    introduce(method, args, console)
    results, notes = run_searches(method, args, data, console)
    show(method, results, notes, console)
    draw(method, args, results, console)
    write_json(args, results, notes)


if __name__ == "__main__":
    main()
