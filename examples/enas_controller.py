"""ENAS: a controller learns by REINFORCE which architectures of a shared supernet classify well.

Pham et al., "Efficient Neural Architecture Search via Parameter Sharing" (arXiv 1802.03268), sections 2.2 and 3.2. In
turn, the shared weights w take a step at one architecture m that the controller samples, and the controller's theta
take one along

    (R(m, w) - b) * d_theta log pi(m; theta) + strength * d_theta entropy(pi(theta)),

where the reward R is the accuracy on a held-out batch and b the moving average of earlier rewards.

Shapes: E edges of a cell, O candidates of an edge, U units of the LSTM.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader

from architect import Batch
from image_data import SearchData
from search_loop import Method, Search
from search_nasbench201 import node_lines
from supernets.enas import Architecture, ENASSupernet
from supernets.nasbench201 import CANDIDATES, EDGES

ENTROPY = 1e-4
"""What the entropy counts in the controller's loss."""
DECAY = 0.95
"""What an earlier reward's share in the baseline is multiplied by at each step."""


class Controller(nn.Module):
    """An LSTM that chooses the candidates of the edges in turn, each with the earlier ones in view."""

    def __init__(self, units: int = 100, temperature: float = 5.0, tanh_constant: float = 2.5) -> None:
        """Make a controller whose architectures are nearly equally likely.

        Args:
            units: of the LSTM, U.
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

    def forward(self, *, greedy: bool = False) -> tuple[Architecture, Categorical]:
        """Choose an architecture.

        Args:
            greedy: whether to choose each edge's most likely candidate instead of sampling.

        Returns:
            The architecture, and the distributions from which its edges' candidates came, of logits f32[E,O].
        """
        x, state, chosen, all_logits = self.start.unsqueeze(0), None, [], []  # f32[1,U]
        for _ in EDGES:
            state = self.lstm(x, state)
            logits = self.tanh_constant * torch.tanh(self.logits(state[0]) / self.temperature)  # f32[1,O]
            candidate = logits.argmax(dim=-1) if greedy else Categorical(logits=logits).sample()  # i64[1]
            chosen.append(int(candidate))
            all_logits.append(logits)
            x = self.embedding(candidate)  # f32[1,U]
        return tuple(chosen), Categorical(logits=torch.cat(all_logits))


class ControllerArchitect:
    """Trains a controller on held-out batches.

    Attributes:
        baseline: the moving average of the rewards, from 0 to 1; None before the first.
    """

    def __init__(self, model: ENASSupernet, *, lr: float, **options: Any) -> None:
        """Make a controller and its Adam optimizer; other options of `Architect` are of gradients it does not take."""
        self.model = model
        self.controller = Controller().to(model.classifier.weight.device)
        self.optimizer = Adam(self.controller.parameters(), lr=lr, betas=(0.0, 0.999))
        self.baseline: float | None = None

    def step(self, train: Batch, valid: Batch, eta: float, network_optimizer: SGD, unrolled: bool) -> None:
        """Take one step of the controller by one architecture; arguments as in `Architect.step`."""
        architecture, choices = self.controller()
        self.model.set_architecture(architecture)
        images, targets = valid
        with torch.no_grad():
            reward = float((self.model(images).argmax(dim=-1) == targets).float().mean())
        self.baseline = reward if self.baseline is None else DECAY * self.baseline + (1 - DECAY) * reward
        taken = torch.tensor(architecture, device=images.device)
        log_probability = choices.log_prob(taken).sum()
        self.optimizer.zero_grad()
        (-(reward - self.baseline) * log_probability - ENTROPY * choices.entropy().sum()).backward()
        self.optimizer.step()


class ENASSearch(Search):
    """A search whose weights are trained at the controller's samples, and validated at its most likely candidates."""

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of the weights at a sampled architecture."""
        with torch.no_grad():
            architecture, _ = self.architect.controller()
        self.model.set_architecture(architecture)
        return super().loss(images, targets)

    def accuracy(self, loader: DataLoader, limit: int | None, device: torch.device) -> float:
        """Set the architecture of the most likely candidates, and return its accuracy in percent."""
        architecture, _ = self.architect.controller(greedy=True)
        self.model.set_architecture(architecture)
        return super().accuracy(loader, limit, device)


def _supernet(args: argparse.Namespace, data: SearchData) -> ENASSupernet:
    return ENASSupernet(args.C, args.layers or 1, data.num_classes, data.in_channels)


def _logits(search: Search) -> list[Tensor]:
    """Return those of the most likely candidates, f32[E,O]."""
    with torch.no_grad():
        return [search.architect.controller(greedy=True)[1].logits]


METHOD = Method(
    "ENAS on NAS-Bench-201",
    _supernet,
    node_lines,
    CANDIDATES,
    ControllerArchitect,
    weighing=_logits,
    search=ENASSearch,
)
