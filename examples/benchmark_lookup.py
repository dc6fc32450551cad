"""Look cells up in NAS-Bench-201: their index and the accuracies that training from scratch reached.

Either in the benchmark's own file through the package `nas-bench-201`, or in a small table made from it. Cells are
strings as the benchmark writes them, `|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|`.
"""

from __future__ import annotations

import csv
import gzip
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

DATASETS = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16_120": "ImageNet16-120"}
"""Column of the table: name in the benchmark."""


@dataclass(frozen=True)
class BenchmarkEntry:
    """One cell: its index, and its test accuracies in percent after 200 epochs, mean over the trained seeds."""

    index: int
    arch: str
    cifar10: float
    cifar100: float
    imagenet16_120: float

    def __str__(self) -> str:
        """Say it in one line."""
        accuracies = ", ".join(f"{name} {getattr(self, column):.2f} %" for column, name in DATASETS.items())
        return f"index {self.index} of NAS-Bench-201: {accuracies}"


class Benchmark(Protocol):
    """What answers for a cell."""

    def look_up(self, arch: str) -> BenchmarkEntry | None:
        """Return the entry of a cell, None where there is none."""


class BenchmarkTable:
    """A CSV file, perhaps compressed with gzip, with the columns index, arch, cifar10, cifar100, imagenet16_120."""

    def __init__(self, path: Path) -> None:
        """Read the whole table.

        Raises:
            ValueError: there is no such file, or it is not such a table.
        """
        _require_file(path, "the table")
        opener = gzip.open if path.suffix == ".gz" else open
        self._entries: dict[str, BenchmarkEntry] = {}
        try:
            with opener(path, "rt", newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    accuracies = {column: float(row[column]) for column in DATASETS}
                    self._entries[row["arch"]] = BenchmarkEntry(int(row["index"]), row["arch"], **accuracies)
        except KeyError as error:
            raise ValueError(
                f"the table {path} has no column {error}; it needs index, arch, {', '.join(DATASETS)}"
            ) from error
        except (OSError, EOFError, TypeError, ValueError, csv.Error) as error:
            raise ValueError(f"the table {path} cannot be read: {error}") from error

    def look_up(self, arch: str) -> BenchmarkEntry | None:
        """Return the row of a cell, None where there is none."""
        return self._entries.get(arch)

    def entries(self) -> Iterable[BenchmarkEntry]:
        """Return all rows."""
        return self._entries.values()


class BenchmarkApi:
    """The benchmark's own file, such as `NAS-Bench-201-v1_1-096897.pth`, read through `nas_201_api`."""

    def __init__(self, path: Path) -> None:
        """Load the file, some gigabytes of pickle: loading runs what it says, so it must be one that you trust.

        Raises:
            ValueError: there is no such file, it is not the benchmark, or the package is not installed.
        """
        _require_file(path, "the benchmark")
        try:  # only those who have the file need the package
            from nas_201_api import NASBench201API
        except ImportError as error:
            raise ValueError("reading the benchmark needs its package: pip install nas-bench-201") from error
        try:
            # The package leaves `weights_only` at its default, which refuses this file: load here, hand the dict over.
            contents = torch.load(path, map_location="cpu", weights_only=False)
        except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise ValueError(f"the benchmark {path} cannot be read: {error}") from error
        if not isinstance(contents, dict) or not {"meta_archs", "arch2infos", "evaluated_indexes"} <= contents.keys():
            raise ValueError(
                f"{path} is not a NAS-Bench-201 file: it lacks meta_archs, arch2infos or evaluated_indexes"
            )
        self._contents = contents
        self._api_class = NASBench201API

    def look_up(self, arch: str) -> BenchmarkEntry | None:
        """Return the results of a cell, None where it was not trained."""
        archs = self._contents["meta_archs"]
        infos = self._contents["arch2infos"]
        index = archs.index(arch) if arch in archs else -1
        if index not in infos:
            return None
        # The constructor copies all it is given, twice: give it one cell of the 15,625.
        one_cell = {"meta_archs": archs, "arch2infos": {index: infos[index]}, "evaluated_indexes": [index]}
        api = self._api_class(one_cell, verbose=False)
        accuracies = {
            column: float(api.get_more_info(index, name, hp="200", is_random=False)["test-accuracy"])
            for column, name in DATASETS.items()
        }
        return BenchmarkEntry(index, arch, **accuracies)


def _require_file(path: Path, what: str) -> None:
    if not path.is_file():
        raise ValueError(f"{what} {path} is not a file")
