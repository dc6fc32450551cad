"""ProxylessNAS on mobile blocks: binary gates open one of the paths that were sampled in each block.

Cai, Zhu and Han, "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware" (arXiv 1812.00332),
section 3.2: the weights are trained by one path, drawn by the softmax p of a block's alphas (equation 2). The
architecture is trained by two paths, drawn without replacement and weighed as if there were no others. Of the two a
gate opens one, g = one-hot, and the alphas learn by (equation 4)

    dL/da_i = sum_j dL/dg_j * p_j * (delta_ij - p_i),

for which both paths are computed. The blocks' choices are those of `supernets.spos_mobile`.

Shapes: N images, C_in and C_out channels of a block, H and W the image's sides, S the stride of a block, O = 6 or 7
candidates, A = 1 or 2 active ones.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.spos_mobile import CHOICES, candidates


class GatedBlock(nn.Module):
    """One block of the chain, of which a forward pass computes the active candidates.

    Attributes:
        alphas: its architecture weights before the softmax, f32[O].
        active: the positions of the candidates that are computed, A numbers.
        opened: which of the active ones passes its gate, a position in `active`, i64[]: a buffer, so that a draw of
            another gate changes a value, no code.
    """

    def __init__(self, C_in: int, C_out: int, stride: int) -> None:
        super().__init__()
        self.ops = candidates(C_in, C_out, stride)
        self.alphas = nn.Parameter(1e-3 * torch.randn(len(self.ops)))
        self.register_buffer("opened", torch.zeros((), dtype=torch.long))
        self.draw(1)

    @torch.no_grad()
    def draw(self, paths: int) -> None:
        """Draw the active candidates, as many as there are to be paths, and the gate that opens."""
        active = torch.multinomial(F.softmax(self.alphas, dim=-1), paths)  # i64[A]
        self.opened.copy_(torch.multinomial(F.softmax(self.alphas[active], dim=-1), 1).squeeze())
        self.active = active.tolist()

    def take_strongest(self) -> None:
        """Make the strongest candidate the only active one."""
        self.active = [int(self.alphas.argmax())]
        self.opened.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map f32[N,C_in,H,W] to f32[N,C_out,H/S,W/S]."""
        if len(self.active) == 1:
            return self.ops[self.active[0]](x)
        soft = F.softmax(torch.stack([self.alphas[i] for i in self.active]), dim=-1)  # f32[A]
        hard = F.one_hot(self.opened, len(self.active))  # i64[A]
        gates = hard - soft.detach() + soft  # f32[A]: binary, with the gradient of equation 4
        return sum(gates[k] * self.ops[i](x) for k, i in enumerate(self.active))


class ProxylessSupernet(nn.Module):
    """The whole supernet, with the methods that search loops call; `draw_paths` comes before each forward pass.

    Three stages of blocks with C, 2C and 4C channels; the first block of the second and the third halves the image.

    Attributes:
        config: the constructor's arguments, from which `new` makes another network.
    """

    def __init__(self, C: int = 16, layers: int = 4, num_classes: int = 10, in_channels: int = 3) -> None:
        """Make a supernet with random weights and nearly equal architecture weights, and draw one path.

        Args:
            C: channels of the first stage.
            layers: blocks a stage.
            num_classes: outputs of the classifier.
            in_channels: channels of the images.
        """
        super().__init__()
        self.config: dict[str, Any] = {
            "C": C,
            "layers": layers,
            "num_classes": num_classes,
            "in_channels": in_channels,
        }
        stem = nn.Conv2d(in_channels, C, 3, padding=1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(C), nn.ReLU6())
        self.blocks = nn.ModuleList()
        C_in = C
        for stage, layer in product(range(3), range(layers)):
            C_out = C * 2**stage
            self.blocks.append(GatedBlock(C_in, C_out, stride=2 if stage > 0 and layer == 0 else 1))
            C_in = C_out
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(C_in, num_classes)

    def draw_paths(self, paths: int) -> None:
        """Draw what the forward passes until the next draw compute: one path to train weights, two for the alphas."""
        for block in self.blocks:
            block.draw(paths)

    def take_strongest(self) -> None:
        """Let the forward passes until the next draw compute the path that `genotype` names."""
        for block in self.blocks:
            block.take_strongest()

    def forward(self, x: Tensor) -> Tensor:
        """Map images f32[N,in_channels,H,W], H and W multiples of 4, to logits f32[N,num_classes]."""
        x = self.stem(x)  # f32[N,C,H,W]
        for block in self.blocks:
            x = block(x)
        x = self.global_pooling(x)  # f32[N,4C,1,1]
        return self.classifier(x.view(x.size(0), -1))

    def _loss(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self(input), target)

    def arch_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the architecture's optimizer trains, one a block."""
        return [block.alphas for block in self.blocks]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the weights' optimizer trains: all but the architecture's."""
        architecture = {id(alphas) for alphas in self.arch_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in architecture]

    def new(self) -> ProxylessSupernet:
        """Return a network of the same configuration with fresh weights and a copy of the alphas."""
        network = ProxylessSupernet(**self.config).to(self.classifier.weight)
        for fresh, ours in zip(network.arch_parameters(), self.arch_parameters(), strict=True):
            fresh.data.copy_(ours)
        return network

    def genotype(self) -> list[str]:
        """Return the name of the strongest candidate of each block, such as `k5_e3`."""
        return [CHOICES[int(block.alphas.argmax())] for block in self.blocks]
