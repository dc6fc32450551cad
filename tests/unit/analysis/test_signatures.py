"""When two modules are alike."""

import pytest
import torch
from torch import nn

from toponas_fx.analysis.module_signature import is_norm, signature

ALIKE = {
    "relu": (nn.ReLU(), nn.ReLU()),
    "values": (nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)),
    "list or tuple": (nn.AvgPool2d([3, 3]), nn.AvgPool2d((3, 3))),
    "norm": (nn.BatchNorm2d(4), nn.BatchNorm2d(4)),
}
UNLIKE = {
    "class": (nn.ReLU(), nn.Tanh()),
    "option": (nn.BatchNorm2d(4), nn.BatchNorm2d(4, eps=1e-3)),
    "in place": (nn.ReLU(), nn.ReLU(inplace=True)),
    "list": (nn.AvgPool2d([3, 3]), nn.AvgPool2d([5, 5])),
    "nested list": (nn.LayerNorm([4, 4]), nn.LayerNorm([4, 5])),
    "shape": (nn.Linear(4, 4), nn.Linear(4, 5)),
    "bias": (nn.Linear(4, 4), nn.Linear(4, 4, bias=False)),
    "statistics": (nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)),
    "mode": (nn.Dropout(0.5), nn.Dropout(0.5).eval()),
    "frozen": (nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)),
    "dtype": (nn.Linear(4, 4), nn.Linear(4, 4).double()),
}


@pytest.mark.parametrize("modules", ALIKE.values(), ids=ALIKE)
def test_modules_of_one_configuration_are_alike(modules):
    assert signature(modules[0]) == signature(modules[1])
    hash(signature(modules[0]))


@pytest.mark.parametrize("modules", UNLIKE.values(), ids=UNLIKE)
def test_modules_of_another_configuration_are_not(modules):
    assert signature(modules[0]) != signature(modules[1])


def test_an_option_that_cannot_be_compared_is_equal_to_itself_only():
    one, two = nn.ReLU(), nn.ReLU()
    one.mask = two.mask = torch.ones(2)
    assert signature(one) == signature(two)
    two.mask = torch.ones(2)
    assert signature(one) != signature(two)


def test_names_of_norms():
    norms = [nn.BatchNorm1d(2), nn.SyncBatchNorm(2), nn.InstanceNorm2d(2), nn.GroupNorm(1, 2), nn.LayerNorm(2)]
    assert all(map(is_norm, norms))
    assert not any(map(is_norm, [nn.ReLU(), nn.Conv2d(2, 2, 1), nn.Dropout()]))
