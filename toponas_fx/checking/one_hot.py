"""Put the mixed operations of a model at one-hot weights without knowing how its forward makes them.

The weights of a mixed operation are nodes of the captured graph. The derivative of a candidate's share, ``w_i / sum_j
|w_j|``, by the tensors that they are computed from tells which numbers speak for the candidate, which for the others,
whatever lies between (a softmax, a sigmoid, nothing, Gumbel noise). Those are set to the values of each of ``CODES`` in
turn until the weights, computed again, say that one candidate alone counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from toponas_fx.analysis.mixed_ops import mixed_ops
from toponas_fx.checking.comparison import seed_all
from toponas_fx.checking.weight_values import WeightReader, candidate_weights, counts_at_all, mixture_names, needed_for
from toponas_fx.module_tree.isolation import no_trace
from toponas_fx.module_tree.tensor_paths import model_tensors
from toponas_fx.runtime.inspection import inspection

CODES = ((0.0, -1e5), (1e5, -1e5), (1.0, 0.0))
"""What to write for and against a candidate: logits of a softmax, of a sigmoid, and plain weights."""
PROBES = 4
"""At how many points the weights are differentiated."""
DRAWS = 3
"""Seeds under which weights must be one-hot: noise may not decide."""
SWEEPS = 2
"""How often every candidate's turn comes: what is beside it may hide it, as a zero on the edge below does."""
_TINY = 1e-9


@dataclass
class MixtureState:
    """One mixed operation and what is known about its weights.

    Attributes:
        name: where its candidates are in the model, or the name of its sum.
        node: the sum that it is part of.
        candidates: its weights, each once: a candidate may end in several terms, ``w * (x + f(x))`` has two.
        reached: the candidates that were alone at some one-hot architecture.
        reason: why it cannot be put at a one-hot architecture, as far as that is known beforehand.
        group: the number of the set of numbers that its weights depend on; alike mixed operations are moved together.
        derivatives: for each candidate, the derivative of its share by each tensor.
    """

    name: str
    node: fx.Node
    candidates: tuple[Any, ...]
    reached: set[int] = field(default_factory=set)
    reason: str = ""
    group: int = -1
    derivatives: list[dict[int, Tensor]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many candidates it has."""
        return len(self.candidates)


class OneHotArchitectures:
    """The mixed operations of one captured graph, and the tensors that their weights are computed from.

    Attributes:
        states: the mixed operations that have a choice to make.
        leaves: the architecture weights, by identity; an input where forward is given them.
    """

    def __init__(self, detected: fx.GraphModule, inputs: tuple[Any, ...]) -> None:
        """Look at the present mode's graph of a model in which mixed operations were detected, and no more."""
        self._model, self._inputs, self._graph = detected, inputs, inspection(detected).graph
        names = mixture_names(inspection(detected))
        found = [
            MixtureState(names.get((m.node.name, m.edge)) or m.node.name, m.node, candidate_weights(m))
            for m in mixed_ops(self._graph)
        ]
        self.states = [state for state in found if state.size > 1]
        self._needed = needed_for(
            self._graph, {w for state in self.states for w in state.candidates if isinstance(w, fx.Node)}
        )
        given = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        known = [*given, *(tensor for _, tensor in model_tensors(detected))]
        self._tensors = {id(tensor): tensor for tensor in known if tensor.is_floating_point()}
        self._code = 0
        self.leaves: dict[int, Tensor] = {}
        if self.states:
            self._look()

    @property
    def rounds(self) -> int:
        """How many of them show every candidate of every mixed operation, beside other candidates in each sweep."""
        sweeps = SWEEPS if len({state.group for state in self.states if not state.reason}) > 1 else 1
        return sweeps * self._turns

    @property
    def _turns(self) -> int:
        return max((state.size for state in self.states if not state.reason), default=0)

    def visit(self) -> Iterator[list[str]]:
        """Put the model at one architecture after another, every candidate's turn comes; then put the weights back.

        Yields:
            The mixed operations that are at no one-hot architecture, each with its reason.
        """
        saved = [(tensor, tensor.detach().clone()) for tensor in self.leaves.values()]
        try:
            for number in range(self.rounds):
                sweep, shift = divmod(number, self._turns)
                generator = torch.Generator().manual_seed(sweep)
                starts = torch.randint(1 << 16, (len(self.states),), generator=generator).tolist()
                movable = [state for state in self.states if not state.reason]
                chosen = {id(state): (starts[state.group] + shift) % state.size for state in movable}
                yield self._move(chosen, saved)
        finally:
            _write(saved)

    def scatter(self, seed: int) -> None:
        """Draw other architecture weights, between the one-hot architectures."""
        generator = torch.Generator().manual_seed(seed)
        for tensor in self.leaves.values():
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)

    # -- which numbers decide ----------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Find what each candidate's share depends on, at nearly equal weights: no softmax is flat, no gate shut.

        A candidate that hard sampling or a top-k leaves out shows nothing in one probe; another may take it in.
        """
        counts: dict[tuple[int, int], bool] = {}
        for state in self.states:
            state.derivatives = [{} for _ in state.candidates]
        for seed in range(PROBES):
            twins = self._twins(seed)
            with self._untouched():
                reader = self._weights(twins, seed)
            for number, state in enumerate(self.states):
                own = [reader.env.get(weight, weight) for weight in state.candidates]
                for place, derivative in enumerate(state.derivatives):
                    _merge(derivative, _derivative(own, place, reader.read))
                    counts[number, place] = counts.get((number, place), False) or counts_at_all(own[place])
                if not reader.fed.isdisjoint(state.candidates):
                    state.reason = "a module computes its weights from the input"
        for number, state in enumerate(self.states):
            self._choose_leaves(state, [counts[number, place] for place in range(state.size)])
        self.states = [state for state in self.states if state.size > 1]
        ways: dict[Any, int] = {}
        for state in self.states:
            state.group = ways.setdefault(_way(state.derivatives), len(ways))

    def _choose_leaves(self, state: MixtureState, counts: list[bool]) -> None:
        """Keep, of the tensors that move a mixed operation's weights, those that are its architecture weights.

        Candidates that these do not move and that never count are none: a mask leaves them out for good.
        """
        moved = {key for derivative in state.derivatives for key in derivative}
        is_trained = {key for key in moved if self._tensors[key].requires_grad}
        is_row = {key for key in is_trained or moved if self._tensors[key].numel() > 1}  # no temperature
        kept = is_row or is_trained or moved
        state.derivatives = [
            {key: g for key, g in derivative.items() if key in kept} for derivative in state.derivatives
        ]
        alive = [place for place, derivative in enumerate(state.derivatives) if derivative or counts[place]]
        state.candidates = tuple(state.candidates[place] for place in alive)
        state.derivatives = [state.derivatives[place] for place in alive]
        if not moved:
            state.reason = state.reason or "its weights depend on no tensor of the model that can be set"
        if not state.reason:
            self.leaves.update((key, self._tensors[key]) for key in kept)

    def _twins(self, seed: int) -> dict[int, Tensor]:
        """Return a stand-in for each tensor of the model that the weights' nodes may read."""
        generator = torch.Generator().manual_seed(seed)
        twins: dict[int, Tensor] = {}
        for key, tensor in self._tensors.items():
            noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            twins[key] = (0.1 * noise + 0.95).to(tensor) if tensor.requires_grad else tensor.detach().clone()
            twins[key].requires_grad_()
        return twins

    def _weights(self, twins: dict[int, Tensor], seed: int) -> WeightReader:
        """Compute all weights with stand-ins for the model's tensors."""
        seed_all(seed)
        reader = WeightReader(self._model, self._graph, twins)
        reader.feed(self._inputs, self._needed)
        return reader

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        with no_trace(self._model), torch.enable_grad():
            yield

    # -- going there -------------------------------------------------------------------------------------------------

    def _move(self, chosen: dict[int, int], saved: list[tuple[Tensor, Tensor]]) -> list[str]:
        """Write each code in turn until all edges are at the chosen candidates; return those that are not."""
        best: tuple[int, int] | None = None
        last = self._code
        for code in sorted(range(len(CODES)), key=lambda code: code != last):
            alone, last = self._try(code, chosen, saved), code
            missing = sum(alone[id(state)] is None for state in self.states)
            wrong = sum(alone[key] != place for key, place in chosen.items())
            if best is None or (missing, wrong) < best:
                best, self._code = (missing, wrong), code
            if best == (0, 0):
                break
        if self._code != last:
            alone = self._try(self._code, chosen, saved)
        missed = []
        for state in self.states:
            place = alone[id(state)]
            if place is not None and place >= 0:
                state.reached.add(place)
            if place is None:
                missed.append(f"{state.name}: {state.reason or 'no value of its tensors makes its weights one-hot'}")
        return missed

    def _try(self, code: int, chosen: dict[int, int], saved: list[tuple[Tensor, Tensor]]) -> dict[int, int | None]:
        _write(saved)
        derivatives: dict[int, Tensor] = {}
        for state in self.states:
            for key, gradient in (state.derivatives[chosen[id(state)]] if id(state) in chosen else {}).items():
                derivatives[key] = derivatives[key] + gradient if key in derivatives else gradient
        for key, derivative in derivatives.items():
            tensor, (high, low) = self.leaves[key], CODES[code]
            value = torch.where(derivative > 0, high, torch.where(derivative < 0, low, tensor.detach().to(derivative)))
            tensor.data.copy_(value)
        alone: dict[int, int | None] = {}
        with self._untouched():
            for seed in range(DRAWS):
                reader = self._weights({}, seed)
                for state in self.states:
                    place = _alone([reader.env.get(weight, weight) for weight in state.candidates])
                    alone[id(state)] = place if alone.get(id(state), place) == place else None
        return alone


def _derivative(weights: list[Any], place: int, twins: dict[int, Tensor]) -> dict[int, Tensor]:
    """Return the derivative of one candidate's share of a mixed operation, where it is not zero."""
    sizes = [_magnitude(w) for w in weights]
    total: Any = sum(sizes)
    share = sizes[place] / torch.where(total == 0, torch.ones_like(total), total)
    if not share.requires_grad:
        return {}
    keys = list(twins)
    found = torch.autograd.grad(share, [twins[key] for key in keys], retain_graph=True, allow_unused=True)
    derivatives = {key: gradient.double() for key, gradient in zip(keys, found, strict=True) if gradient is not None}
    largest = max(
        (float(derivative.abs().max()) for derivative in derivatives.values() if derivative.numel()), default=0.0
    )
    clean = {
        key: torch.where(derivative.abs() > _TINY * largest, derivative, 0.0) for key, derivative in derivatives.items()
    }
    return (
        {key: derivative for key, derivative in clean.items() if bool((derivative != 0).any())}
        if largest > _TINY
        else {}
    )


def _magnitude(weight: Any) -> Tensor:
    """Return the absolute value; at zero, where hard weights are, it has a derivative too."""
    value = torch.as_tensor(weight).double()
    return torch.where(value < 0, -value, value).mean()


def _merge(derivative: dict[int, Tensor], other: dict[int, Tensor]) -> None:
    """Add what another probe tells of numbers of which nothing was known."""
    for key, gradient in other.items():
        derivative[key] = (
            torch.where(derivative[key] == 0, gradient, derivative[key]) if key in derivative else gradient
        )


def _alone(weights: list[Any]) -> int | None:
    """Return the candidate whose weight alone is not zero, -1 where all are zero, None where several count."""
    counting = [place for place, w in enumerate(weights) if counts_at_all(w)]
    return None if len(counting) > 1 else counting[0] if counting else -1


def _way(derivatives: list[dict[int, Tensor]]) -> Any:
    """Return which numbers move a mixed operation's weights."""
    masks: dict[int, Tensor] = {}
    for derivative in derivatives:
        for key, gradient in derivative.items():
            masks[key] = masks[key] | (gradient != 0) if key in masks else gradient != 0
    return tuple((key, tuple(masks[key].reshape(-1).nonzero().view(-1).tolist())) for key in sorted(masks))


def _write(values: list[tuple[Tensor, Tensor]]) -> None:
    for tensor, value in values:
        tensor.data.copy_(value)
