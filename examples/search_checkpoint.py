"""The checkpoint of a search: all that its next step depends on, so that a search that was killed goes on as it would.

It has the supernet's `state_dict`, the architecture weights (which are not in there where they are plain tensors), both
optimizers, the learning rate's schedule, the random generators of every process, and where the search is: the epoch and
the step, from which the batches follow. It is written beside its place and then moved there, so that there is always a
whole one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from search_loop import Search

Position = tuple[int, int]
"""The epoch and the step in it that come next, from 0."""


def save_checkpoint(path: Path, search: Search, position: Position, settings: dict[str, Any]) -> None:
    """Write a search's checkpoint; every process of the search calls this, and the first one writes.

    Args:
        path: where to.
        search: the search, between two steps.
        position: the epoch and step that come next.
        settings: what must be alike in the search that goes on; plain values.
    """
    generators: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(generators, _random_state())
    if dist.get_rank() == 0:
        contents = {
            "settings": settings,
            "position": position,
            "model": search.model.state_dict(),
            "alphas": [alphas.detach() for alphas in search.model.arch_parameters()],
            "optimizer": search.optimizer.state_dict(),
            "architect": search.architect.optimizer.state_dict(),
            "schedule": search.schedule.state_dict(),
            "generators": generators,
            "seconds": search.seconds,
        }
        beside = path.with_name(f"{path.name}.part")
        with beside.open("wb") as file:
            torch.save(contents, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    dist.barrier()  # nobody goes on, and may be killed, before it is there


def load_checkpoint(path: Path, search: Search, settings: dict[str, Any]) -> Position:
    """Bring a search to where its checkpoint was written; every process calls this.

    Returns:
        The epoch and step that come next; (0, 0) where there is no checkpoint yet.

    Raises:
        ValueError: the checkpoint is of a search with other settings.
    """
    if not path.exists():
        return 0, 0
    contents = torch.load(path, map_location="cpu", weights_only=True)
    for name, value in settings.items():
        if contents["settings"].get(name) != value:
            found = contents["settings"].get(name)
            raise ValueError(f"{path} is of a search with {name} {found!r}, not {value!r}; name another checkpoint")
    search.model.load_state_dict(contents["model"])
    with torch.no_grad():
        for alphas, value in zip(search.model.arch_parameters(), contents["alphas"], strict=True):
            alphas.copy_(value)
    search.optimizer.load_state_dict(contents["optimizer"])
    search.architect.optimizer.load_state_dict(contents["architect"])
    search.schedule.load_state_dict(contents["schedule"])
    _set_random_state(contents["generators"][dist.get_rank()])
    search.seconds[:] = contents["seconds"]
    epoch, step = contents["position"]
    return epoch, step


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
