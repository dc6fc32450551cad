"""torchvision's classification networks, which nobody wrote for us: exact mode computes what they do, in both modes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchvision
from test_random_layers import flat, rms
from torch import Tensor, nn

import toponas_fx
from equality import run

TOO_LARGE = (
    "inception",
    "vit_",
    "maxvit",
    "vgg",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "wide_resnet",
    "resnext101",
)
TOO_LARGE += ("efficientnet_b2", "efficientnet_b3", "efficientnet_b4", "efficientnet_b5", "efficientnet_b6")
TOO_LARGE += (
    "efficientnet_b7",
    "efficientnet_v2",
    "regnet_x_1",
    "regnet_x_3",
    "regnet_x_8",
    "regnet_y_1",
    "regnet_y_3",
)
TOO_LARGE += (
    "regnet_y_8",
    "swin_b",
    "swin_s",
    "swin_v2_b",
    "swin_v2_s",
    "densenet16",
    "densenet20",
    "resnet101",
    "resnet152",
)
"""Larger ones of families that are tried, and images of 224x224 and 299x299: they would take minutes and gigabytes."""
NAMES = [name for name in torchvision.models.list_models(torchvision.models) if not name.startswith(TOO_LARGE)]
OPTIONS: dict[str, dict[str, Any]] = {"googlenet": {"init_weights": True}}


class Results(nn.Module):
    """A network whose outputs, some have auxiliary ones in training, are one tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        found = self.network(x)
        return found if isinstance(found, Tensor) else torch.cat([part for part in found if part is not None])


def observed(model: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    return flat(run(model, model, (x,), model.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_torchvision(name: str) -> None:
    model = Results(torchvision.models.get_model(name, weights=None, num_classes=10, **OPTIONS.get(name, {})))
    for module in model.modules():
        if isinstance(module, nn.Dropout | torchvision.ops.StochasticDepth):
            module.p = 0.0  # float32 and float64 draw other masks
    x = torch.randn(4, 3, 64, 64)
    fast = toponas_fx.simplify(model, x, mode="exact", strict=True)
    assert not fast._toponas.as_written
    wide = copy.deepcopy(model).double()
    for training in (True, False):
        found, plain, exact = (
            observed(network.train(training), image) for network, image in ((fast, x), (model, x), (wide, x.double()))
        )
        own = max(rms(other - true) for other, true in zip(plain, exact, strict=True))  # deep ones are chaotic
        scale = max(rms(true) for true in exact)
        for one, true in zip(found, exact, strict=True):
            assert rms(one - true) <= 10 * own + 1e-3 * scale
