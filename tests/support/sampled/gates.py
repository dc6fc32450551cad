"""ProxylessNAS, NNI, SETN and DSNAS: an edge holds what was sampled, or the gradient of the draw comes by itself."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sampled.parts import Chain, Head, Sampled, few


class GatedEdge(nn.Module):
    """Two paths are active a step; only one runs, and both gates get a gradient (ProxylessNAS, mode "two")."""

    def __init__(self) -> None:
        super().__init__()
        self.candidate_ops = nn.ModuleList(few())
        self.AP_path_alpha = nn.Parameter(1e-1 * torch.randn(3))
        self.AP_path_wb = nn.Parameter(torch.zeros(3))
        self.active_index, self.inactive_index = [0], [1]

    def binarize(self) -> None:
        """Draw the active path and the one that is compared with it."""
        probs = self.AP_path_alpha.softmax(0)
        drawn = torch.multinomial(probs.data, 2, replacement=False)
        chosen = torch.multinomial(probs.data[drawn], 1)[0].item()
        self.active_index = [drawn[chosen].item()]
        self.inactive_index = [drawn[1 - chosen].item()]
        self.AP_path_wb.data.zero_()
        self.AP_path_wb.data[drawn[chosen]] = 1.0

    def set_arch_param_grad(self) -> None:
        """Hand the gradients of the gates on to the alphas."""
        gates = self.AP_path_wb.grad
        if gates is None:
            return
        involved = self.active_index + self.inactive_index
        probs = self.AP_path_alpha.detach()[involved].softmax(0)
        found = torch.zeros_like(self.AP_path_alpha)
        for i, row in enumerate(involved):
            found[row] = sum(gates[k] * probs[j] * (float(i == j) - probs[i]) for j, k in enumerate(involved))
        self.AP_path_alpha.grad = found

    def forward(self, x: Tensor) -> Tensor:
        output: Any = 0
        for k in self.active_index:
            output = output + self.AP_path_wb[k] * self.candidate_ops[k](x)
        for k in self.inactive_index:
            output = output + self.AP_path_wb[k] * self.candidate_ops[k](x).detach()
        return output


class ProxylessTwo(Sampled):
    """``binarize`` runs before each step, on every edge."""

    def __init__(self) -> None:
        super().__init__()
        self.edges, self.head = nn.ModuleList(GatedEdge() for _ in range(2)), Head()

    def prepare(self, step: int) -> None:
        for edge in self.edges:
            edge.binarize()

    def after_backward(self) -> None:
        for edge in self.edges:
            edge.set_arch_param_grad()

    def forward(self, x: Tensor) -> Tensor:
        for edge in self.edges:
            x = edge(x)
        return self.head(x)


class ArchGradient(torch.autograd.Function):
    """Runs one candidate forward and the others backward, where only the gates learn of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gates: Tensor, run: Any, back: Any) -> Tensor:
        ctx.run, ctx.back = run, back
        detached = x.detach().requires_grad_(x.requires_grad)
        with torch.enable_grad():
            output = run(detached)
        ctx.save_for_backward(detached, output)
        return output.data.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        detached, output = ctx.saved_tensors
        (of_x,) = torch.autograd.grad(output, detached, grad, only_inputs=True)
        return of_x, ctx.back(detached.data, output.data, grad.data), None, None


class GatedByFunction(GatedEdge):
    """ProxylessNAS's mode "full": a custom autograd Function around the active path."""

    def forward(self, x: Tensor) -> Tensor:
        active = self.active_index[0]

        def run(detached: Tensor) -> Tensor:
            return self.candidate_ops[active](detached)

        def back(data: Tensor, output: Tensor, grad: Tensor) -> Tensor:
            found = torch.zeros_like(self.AP_path_wb.data)
            with torch.no_grad():
                for k, op in enumerate(self.candidate_ops):
                    out = output if k == active else op(data)
                    found[k] = (out * grad).sum()
            return found

        return ArchGradient.apply(x, self.AP_path_wb, run, back)


class ProxylessFull(ProxylessTwo):
    """Candidates that are not taken run in backward, their statistics moving as well."""

    is_smooth = False

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList(GatedByFunction() for _ in range(2))


class LayerChoice(nn.Module):
    """Candidates by name, of which a mutator sets one as ``_sampled`` (NNI)."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.ops = nn.ModuleDict(dict(zip(("skip", "pool", "conv"), few(), strict=True)))
        self.op_names, self.label = list(self.ops), label
        self._sampled: str | list[str] | None = None

    def resample(self, memo: dict[str, str]) -> None:
        if self.label not in memo:
            memo[self.label] = random.choice(self.op_names)
        self._sampled = memo[self.label]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        if self._sampled is None:
            raise RuntimeError("at least one path needs to be sampled before forward")
        names = [self._sampled] if isinstance(self._sampled, str) else self._sampled
        return torch.stack([self.ops[name](*args, **kwargs) for name in names]).sum(0)


class NNILayerChoices(Sampled):
    """Choices with one label take the same candidate; one choice begins with two at once."""

    def __init__(self) -> None:
        super().__init__()
        self.choices = nn.ModuleList(LayerChoice(label) for label in ("a", "b", "a"))
        self.head = Head()
        self.choices[1]._sampled = ["skip", "conv"]
        self.choices[0]._sampled = self.choices[2]._sampled = "pool"

    def prepare(self, step: int) -> None:
        memo: dict[str, str] = {}
        for choice in self.choices:
            choice.resample(memo)

    def forward(self, x: Tensor) -> Tensor:
        for choice in self.choices:
            x = choice(x)
        return self.head(x)


class SETN(Chain):
    """A mode is set: one candidate an edge, drawn uniformly, for the weights; all mixed, for the alphas."""

    mode: ClassVar[str] = "exact"

    def __init__(self) -> None:
        super().__init__()
        self.way = "urs"

    def prepare(self, step: int) -> None:
        self.way = "joint" if step % 3 == 2 else "urs"

    def forward(self, x: Tensor) -> Tensor:
        probs = self.alphas.softmax(-1)
        for number, ops in self.each():
            if self.way == "joint":
                x = sum(op(x) * w for op, w in zip(ops, probs[number], strict=True))
            else:
                x = random.choice(list(ops))(x)
        return self.head(x)


class SETNByProbability(SETN):
    """The path is drawn by the softmax, and rejected while it is the last one, which the model keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.last: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        probs = self.alphas.softmax(-1)
        while True:
            picked = torch.multinomial(probs, 1).flatten().tolist()
            if picked != self.last:
                break
        self.last = picked
        for number, ops in self.each():
            x = ops[picked[number]](x)
        return self.head(x)


class DSNAS(Chain):
    """The gradient of the alphas is that of the path's log-probability, weighted by the gradient of ones (DSNAS)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_alpha = self.alphas.log_softmax(-1)
        weights = torch.zeros_like(log_alpha).scatter_(1, torch.multinomial(log_alpha.exp(), 1), 1.0)
        ones = torch.ones(self.count, dtype=x.dtype, requires_grad=True)
        for number, ops in self.each():
            for k, op in enumerate(ops):
                if weights[number, k] == 1:
                    x = op(x) * ones[number]
        return self.head(x), (weights * log_alpha).sum(-1), ones

    def loss(self, output: Any) -> Tensor:
        logits, log_prob, ones = output
        error = super().loss(logits)
        if not error.requires_grad:  # evaluated without gradients
            return error
        (reward,) = torch.autograd.grad(error, ones, retain_graph=True)
        return error + (log_prob * reward.detach()).sum()


class ReinforcedEarly(Chain):
    """REINFORCE: the loss is the log-probability times a detached reward, and a moving baseline in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("baseline", torch.zeros(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = self.alphas.log_softmax(-1)
        index = log_probs.exp().detach().multinomial(1)
        chosen = log_probs.gather(1, index).sum()
        for (_, ops), k in zip(self.each(), index.flatten().tolist(), strict=True):
            x = ops[k](x)
        return self.head(x), chosen

    def loss(self, output: Any) -> Tensor:
        logits, log_prob = output
        error = super().loss(logits)
        with torch.no_grad():
            self.baseline.mul_(0.9).add_(0.1 * error)
        return error + log_prob * (error.detach() - self.baseline)
