"""The example supernets of the DARTS family and of mobile blocks; `test_search_darts` searches on them."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from supernets.darts import Cell, DARTSSupernet, Genotype, MixedOp
from supernets.gdas import GDASSupernet, sampled_cell
from supernets.mobile import InvertedResidual, MobileSupernet
from supernets.nasbench201 import CANDIDATES, EDGES
from supernets.pcdarts import PartialMixedOp, PCDARTSSupernet, channel_shuffle
from supernets.primitives import PRIMITIVES, primitive

NB201_CELL = re.compile(r"\|{0}~0\|\+\|{0}~0\|{0}~1\|\+\|{0}~0\|{0}~1\|{0}~2\|".format(f"(?:{'|'.join(CANDIDATES)})"))

SUPERNETS = {
    "darts": lambda: DARTSSupernet(C=4, layers=3, num_classes=3, steps=2, multiplier=2),
    "pcdarts": lambda: PCDARTSSupernet(C=4, layers=3, num_classes=3, steps=2, multiplier=2),
    "gdas": lambda: GDASSupernet(C=4, N=1, num_classes=3, tau=2.0),
    "mobile": lambda: MobileSupernet(C=4, layers=2, num_classes=3),
    "mobile-softmax": lambda: MobileSupernet(C=4, layers=2, num_classes=3, sampling="softmax", temperature=0.5),
}


@pytest.fixture(params=SUPERNETS)
def supernet(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return SUPERNETS[request.param]()


def batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, 8, 8, dtype=dtype, generator=generator), torch.arange(6) % (2 + seed % 2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitive(name, stride):
    candidate = primitive(name, 6, stride)
    assert candidate(torch.randn(2, 6, 8, 8)).shape == (2, 6, 8 // stride, 8 // stride)
    kinds = Counter(type(module).__name__ for module in candidate.modules())
    convolutions = {"sep": 4, "dil": 2, "ski": 0 if stride == 1 else 2}.get(name[:3], 0)
    norms = {"sep": 2, "dil": 1, "max": 1, "avg": 1, "ski": 0 if stride == 1 else 1}.get(name[:3], 0)
    assert (kinds["Conv2d"], kinds["BatchNorm2d"]) == (convolutions, norms)
    assert all(tensor.dim() == 4 for tensor in candidate.parameters()), "no biases, and norms are not affine"


def test_primitive_refuses_another_name():
    with pytest.raises(ValueError, match=r"a primitive is one of .*, found 'conv_9x9'"):
        primitive("conv_9x9", 4, 1)


def test_factorized_reduce_reads_every_pixel():
    reduce = primitive("skip_connect", 4, 2).eval()
    x = torch.rand(1, 4, 4, 4, requires_grad=True)
    reduce(x).sum().backward()
    offsets = x.grad.abs().sum(dim=(0, 1)) > 0
    assert offsets[0::2, 0::2].all()
    assert offsets[1::2, 1::2].all()


@pytest.mark.parametrize("kind", [DARTSSupernet, PCDARTSSupernet])
def test_darts_shapes(kind):
    network = kind(C=8, layers=3, steps=4)
    shapes = []
    for cell in network.cells:
        cell.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape)))
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    assert shapes == [(2, 32, 8, 8), (2, 64, 4, 4), (2, 128, 2, 2)]
    assert [cell.reduction for cell in network.cells] == [False, True, True]
    assert [len(cell._ops) for cell in network.cells] == [14] * 3
    assert network.alphas_normal.shape == (14, 8)
    assert [cell.reduction for cell in kind(C=8, layers=4, steps=1, multiplier=1, reductions=(3,)).cells].index(
        True
    ) == 3
    assert sum(cell.reduction for cell in kind(C=8, layers=8, steps=1, multiplier=1).cells) == 2


def test_darts_refuses_an_output_of_more_nodes_than_there_are():
    with pytest.raises(ValueError, match="multiplier 4 exceeds steps 2"):
        DARTSSupernet(steps=2)


def test_darts_cell_computes_the_chosen_candidates_at_a_vertex():
    """With all weight on one candidate an edge is that candidate: the sums written out by hand agree."""
    torch.manual_seed(0)
    cell = Cell(2, 2, (6, 8), 4, reduction=True, reduction_prev=False).double().eval()
    chosen = [4, 3, 1, 0, 7]  # five edges: 0 and 1 to the first node; 0, 1 and the first node to the second
    weights = F.one_hot(torch.tensor(chosen), len(PRIMITIVES)).double()
    s0, s1 = (torch.randn(2, C, 8, 8, dtype=torch.float64) for C in (6, 8))
    ops = [edge._ops[index] for edge, index in zip(cell._ops, chosen, strict=True)]
    a, b = cell.preprocess0(s0), cell.preprocess1(s1)
    first = ops[0](a) + ops[1](b)
    second = ops[2](a) + ops[4](first)
    torch.testing.assert_close(cell(s0, s1, weights), torch.cat([first, second], dim=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [DARTSSupernet, PCDARTSSupernet])
def test_darts_genotype(kind):
    network = kind(C=4, layers=2, steps=2, multiplier=1)
    with torch.no_grad():
        for alphas in network.arch_parameters():
            alphas.zero_()
        for edge, candidate, strength in [(0, 5, 1), (1, 2, 2), (2, 0, 9), (2, 1, 3), (3, 3, 4), (4, 6, 5)]:
            network.alphas_reduce[edge, candidate] = strength
    genotype = network.genotype()
    assert type(genotype) is Genotype
    assert genotype.reduce == [("sep_conv_5x5", 0), ("avg_pool_3x3", 1), ("skip_connect", 1), ("dil_conv_3x3", 2)]
    assert genotype.normal_concat == genotype.reduce_concat == range(3, 4)
    assert len(genotype.normal) == 4
    assert eval(str(genotype), {"Genotype": Genotype}) == genotype


def test_pcdarts_edge_weights_decide_which_edges_stay():
    network = PCDARTSSupernet(C=4, layers=2, steps=2, multiplier=2)
    weights = network._edge_weights(reduction=False)
    torch.testing.assert_close(torch.stack([weights[:2].sum(), weights[2:].sum()]), torch.ones(2))
    with torch.no_grad():
        network.betas_normal.copy_(torch.tensor([0.0, 0.0, 5.0, -5.0, 5.0]))
    assert [state for _, state in network.genotype().normal] == [0, 1, 0, 2]


def test_pcdarts_passes_the_other_channels_by():
    edge = PartialMixedOp(8, 1)
    x = torch.randn(2, 8, 4, 4)
    out = edge(x, F.one_hot(torch.tensor(3), len(PRIMITIVES)).float())  # the skip connection
    torch.testing.assert_close(out, channel_shuffle(x, 4), rtol=0, atol=0)
    assert channel_shuffle(torch.arange(8.0).view(1, 8, 1, 1), 4).flatten().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert PartialMixedOp(8, 2)(x, torch.ones(8)).shape == (2, 8, 2, 2)
    with pytest.raises(ValueError, match="C must be a multiple, found 6"):
        PartialMixedOp(6, 1)


def test_gdas_computes_the_sampled_candidates():
    torch.manual_seed(0)
    network = GDASSupernet(C=4, N=1, num_classes=3).double().eval()
    weights, index = network._sample()
    torch.testing.assert_close(weights, F.one_hot(index.squeeze(-1), len(CANDIDATES)).double())
    a = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(sampled_cell(network.cells[0], a, weights, index), network.cells[0](a, weights))


def test_gdas_samples_by_temperature():
    torch.manual_seed(0)
    network = GDASSupernet(C=4, N=1)
    with torch.no_grad():
        network.alphas.copy_(F.one_hot(torch.arange(len(EDGES)) % len(CANDIDATES), len(CANDIDATES)) * 100)
    strongest = network.alphas.argmax(dim=-1, keepdim=True)
    assert torch.equal(network._sample()[1], strongest)
    network.set_tau(1e3)
    soft = torch.autograd.grad(network._sample()[0][:, 0].sum(), network.alphas)[0]
    assert 0 < soft.abs().max() < 1e-3
    assert network.new().tau == 1e3
    assert NB201_CELL.fullmatch(network.genotype())


def test_mobile_candidates():
    network = MobileSupernet(C=4, layers=2)
    with_skip = [f"k{k}_e{e}" for k in (3, 5, 7) for e in (1, 3, 6)] + ["skip"]
    assert [block.names for block in network.blocks] == [with_skip, with_skip] + [with_skip[:-1], with_skip] * 2
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    with torch.no_grad():
        network.blocks[1].theta[9] = network.blocks[2].theta[5] = 1.0
    assert network.genotype()[1:3] == ["skip", "k5_e6"]
    with pytest.raises(ValueError, match="sampling must be one of"):
        MobileSupernet(sampling="argmax")


@pytest.mark.parametrize(("C_out", "stride"), [(4, 1), (4, 2), (6, 1)])
def test_inverted_residual_adds_its_input_where_shapes_agree(C_out, stride):
    block = InvertedResidual(4, C_out, 3, 3, stride).eval()
    nn.init.zeros_(block.project[1].weight)
    x = torch.randn(2, 4, 8, 8)
    expected = x if (C_out, stride) == (4, 1) else torch.zeros(2, C_out, 8 // stride, 8 // stride)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=0)


def test_mobile_temperature_sharpens():
    network = MobileSupernet(C=4, layers=1, sampling="softmax")
    theta = torch.tensor([0.0, 1.0])
    for temperature, expected in [(5.0, 0.55), (0.1, 1.0)]:
        network.set_temperature(temperature)
        assert float(network._weights(theta)[1]) == pytest.approx(expected, abs=1e-3)
    noisy = MobileSupernet(C=4, layers=1)
    assert not torch.equal(noisy._weights(theta), noisy._weights(theta))


def test_new_network_is_independent(supernet):
    new = supernet.new()
    assert type(new) is type(supernet)
    assert new.config == supernet.config
    for fresh, ours in zip(new.arch_parameters(), supernet.arch_parameters(), strict=True):
        assert fresh.requires_grad
        assert type(fresh) is type(ours)
        torch.testing.assert_close(fresh, ours, rtol=0, atol=0)
    assert not torch.equal(new.classifier.weight, supernet.classifier.weight)
    ours, theirs = (
        {tensor.data_ptr() for tensor in [*s.parameters(), *s.buffers(), *s.arch_parameters()]} for s in (supernet, new)
    )
    assert not ours & theirs
    assert supernet.double().new().classifier.weight.dtype == torch.float64
    assert new.load_state_dict(supernet.state_dict())


def test_architecture_gets_gradients_and_is_no_weight(supernet):
    if isinstance(supernet, GDASSupernet):
        supernet.alphas.data[:, CANDIDATES.index("none")] = -100.0  # so that no edge of the sample is cut
    supernet._loss(*batch()).backward()
    assert all(alphas.grad.abs().max() > 0 for alphas in supernet.arch_parameters())
    weights = {id(weight) for weight in supernet.weight_parameters()}
    assert not weights & {id(alphas) for alphas in supernet.arch_parameters()}
    if not isinstance(supernet, GDASSupernet):  # which trains what it sampled
        assert all(weight.grad is not None for weight in supernet.weight_parameters())


def test_criterion_is_the_users():
    network = DARTSSupernet(C=4, layers=1, steps=1, multiplier=1, criterion=nn.CrossEntropyLoss(reduction="sum"))
    images, targets = batch()
    torch.testing.assert_close(network._loss(images, targets), F.cross_entropy(network(images), targets) * 6)


def test_mixed_op_is_one_of_eight():
    kinds = Counter(type(module).__name__ for module in MixedOp(4, 1).modules())
    assert (kinds["Conv2d"], kinds["BatchNorm2d"]) == (12, 8)
