"""What was measured before: choices by device, versions, model and sizes, in one file of the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

_log = logging.getLogger("toponas_fx")


@dataclass(frozen=True)
class Tuned:
    """What measuring chose.

    Attributes:
        chosen: the answers that differ from the static model's and were faster.
        told: what each answer took of the step without it.
        of_original: what a step takes of the original's.
        device: what steps ran on.
        remembered: whether it was measured by another call, maybe of another process.
    """

    chosen: tuple[str, ...]
    told: tuple[str, ...]
    of_original: float
    device: str
    remembered: bool = False

    def lines(self) -> Iterator[str]:
        """Yield sentences without a full stop."""
        yield from self.told
        how = "measured before" if self.remembered else "measured"
        yield f"a step takes {self.of_original:.2f} of the original's, {how} on {self.device}"


def cache_file() -> Path:
    """Return where choices are kept: below ``TOPONAS_CACHE``, or the user's cache folder."""
    folder = os.environ.get("TOPONAS_CACHE")
    if folder:
        return Path(folder) / "tuning.json"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "toponas_fx" / "tuning.json"


def load_tuned(key: tuple[str, ...]) -> Tuned | None:
    """Return what was chosen for a key, or None; a file that cannot be read holds nothing."""
    try:
        found = _read()[_digest(key)]
        found = {**found, "chosen": tuple(found["chosen"]), "told": tuple(found["told"])}
        return Tuned(**found, remembered=True)
    except (KeyError, TypeError, ValueError):
        return None


def save_tuned(key: tuple[str, ...], tuned: Tuned) -> None:
    """Remember a choice; where the file cannot be written, the next call measures again."""
    path = cache_file()
    entry = {name: value for name, value in asdict(tuned).items() if name != "remembered"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump({**_read(), _digest(key): entry}, file, indent=1)
        os.replace(file.name, path)  # at once: another process may be reading
    except OSError as error:
        _log.warning("tuning is not remembered: %s", error)


def _read() -> dict[str, Any]:
    try:
        found = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(key: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join((*key, torch.__version__)).encode()).hexdigest()


def device_name(device: torch.device) -> str:
    """Name a device as far as its speed depends on it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type != "cpu":
        return str(device)
    return f"{processor_name()}, {torch.get_num_threads()} threads"


def processor_name() -> str:
    """Name the processor, where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or platform.machine()
