"""ENAS on the NAS-Bench-201 space: each forward pass computes the architecture that was set on the supernet before it.

Pham et al., "Efficient Neural Architecture Search via Parameter Sharing" (arXiv 1802.03268), section 2: one supernet
has the weights of all architectures, and a controller, an LSTM that chooses one edge's candidate after the other,
samples which to train or to judge. Drawn uniformly instead it is the random search with weight sharing of Li and
Talwalkar, "Random Search and Reproducibility for Neural Architecture Search" (arXiv 1902.07638), section 3.2. The
space is that of NAS-Bench-201, not ENAS' own.

Shapes: as in `supernets.nasbench201`; H units of the controller's LSTM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from supernets.nasbench201 import CANDIDATES, EDGES, NODES, NASBench201Supernet, SearchCell, cell_of

Architecture = tuple[int, ...]
"""The position of each edge's candidate in `CANDIDATES`, in the order of `EDGES`."""


def random_architecture() -> Architecture:
    """Draw an architecture by torch's generator: the candidates of an edge are equally likely."""
    return tuple(torch.randint(len(CANDIDATES), (len(EDGES),)).tolist())


class ChosenCell(SearchCell):
    """A cell that computes one candidate an edge, unweighted; made as `SearchCell` is."""

    def forward(self, x: Tensor, architecture: Sequence[int]) -> Tensor:
        """Map f32[N,C,H,W] to the same shape by the candidates of an architecture."""
        nodes = [x]
        for i in range(1, NODES):
            terms = []
            for j in range(i):
                edge = f"{i}<-{j}"
                terms.append(self.edges[edge]._ops[architecture[EDGES.index(edge)]](nodes[j]))
            nodes.append(sum(terms))
        return nodes[-1]  # f32[N,C,H,W]


class ENASSupernet(NASBench201Supernet):
    """The whole supernet, without architecture weights; arguments and other methods are those of its base.

    Attributes:
        architecture: what forward computes, the same in all cells; a random one until `set_architecture` was called.
    """

    cell = ChosenCell

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        del self.alphas  # the controller is trained instead, and is no part of the network
        self.architecture = random_architecture()

    def set_architecture(self, architecture: Architecture) -> None:
        """Choose what the next forward passes compute."""
        self.architecture = architecture

    def forward(self, x: Tensor) -> Tensor:
        """Map images f32[N,in_channels,H,W], H and W multiples of 4, to logits f32[N,num_classes]."""
        x = self.stem(x)  # f32[N,C,H,W]
        for cell in self.cells:
            x = cell(x, self.architecture) if isinstance(cell, SearchCell) else cell(x)
        x = self.global_pooling(self.lastact(x))  # f32[N,4C,1,1]
        return self.classifier(x.view(x.size(0), -1))

    def arch_parameters(self) -> list[Tensor]:
        """Return nothing: an architecture is set, not trained."""
        return []

    def new(self) -> ENASSupernet:
        """Return a network of the same configuration and architecture with fresh weights."""
        network = ENASSupernet(**self.config).to(self.classifier.weight)
        network.set_architecture(self.architecture)
        return network

    def genotype(self) -> str:
        """Return the cell that is set, as the benchmark writes it; see `cell_of`."""
        return cell_of(self.architecture)


class Controller(nn.Module):
    """An LSTM that chooses the candidates of the edges in turn, each with the earlier ones in view.

    Section 2.2 of the paper; its section 3.2 has the 100 units, the temperature and the tanh constant.
    """

    def __init__(self, units: int = 100, temperature: float = 5.0, tanh_constant: float = 2.5) -> None:
        """Make a controller whose architectures are nearly equally likely.

        Args:
            units: of the LSTM, H.
            temperature: divides the logits.
            tanh_constant: bounds them.
        """
        super().__init__()
        self.temperature = temperature
        self.tanh_constant = tanh_constant
        self.start = nn.Parameter(torch.empty(units))
        self.embedding = nn.Embedding(len(CANDIDATES), units)
        self.lstm = nn.LSTMCell(units, units)
        self.logits = nn.Linear(units, len(CANDIDATES), bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def forward(self, *, greedy: bool = False) -> tuple[Architecture, Tensor, Tensor]:
        """Choose an architecture.

        Args:
            greedy: whether to choose each edge's most likely candidate instead of sampling.

        Returns:
            The architecture, the logarithm of its probability, f32[], and the entropy of all choices, f32[].
        """
        x, state = self.start.unsqueeze(0), None  # f32[1,H]
        chosen, log_probabilities, entropies = [], [], []
        for _ in EDGES:
            state = self.lstm(x, state)
            logits = self.tanh_constant * torch.tanh(self.logits(state[0]) / self.temperature)  # f32[1,O]
            choices = Categorical(logits=logits)
            candidate = logits.argmax(dim=-1) if greedy else choices.sample()  # i64[1]
            chosen.append(int(candidate))
            log_probabilities.append(choices.log_prob(candidate))
            entropies.append(choices.entropy())
            x = self.embedding(candidate)  # f32[1,H]
        return tuple(chosen), torch.cat(log_probabilities).sum(), torch.cat(entropies).sum()
