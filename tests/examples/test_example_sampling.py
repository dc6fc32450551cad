"""The example supernets that compute a sampled path: DARTS cells by GDAS, SPOS, ProxylessNAS and ENAS."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from supernets.darts import Cell
from supernets.enas import ENASSupernet, random_architecture
from supernets.gdas_darts import GDASDARTSSupernet
from supernets.nasbench201 import CANDIDATES, SearchCell, cell_of
from supernets.primitives import PRIMITIVES
from supernets.proxyless import GatedBlock, ProxylessSupernet
from supernets.spos_mobile import CHOICES, SPOSSupernet

SUPERNETS = {
    "gdas-darts": lambda: GDASDARTSSupernet(C=4, layers=3, num_classes=3, steps=2, multiplier=2, tau=2.0),
    "spos": lambda: SPOSSupernet(C=4, layers=2, num_classes=3),
    "proxyless": lambda: ProxylessSupernet(C=4, layers=2, num_classes=3),
    "enas": lambda: ENASSupernet(C=4, N=1, num_classes=3),
}


@pytest.fixture(params=SUPERNETS)
def supernet(request: pytest.FixtureRequest) -> Any:
    return SUPERNETS[request.param]()


def images() -> torch.Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def path_of(supernet: nn.Module) -> tuple[Any, ...]:
    """Return what forward takes behind the images."""
    return (supernet.uniform_choice(),) if isinstance(supernet, SPOSSupernet) else ()


def test_loss_is_the_cross_entropy_and_trains_a_path(supernet):
    targets, path = torch.arange(6) % 3, path_of(supernet)
    torch.manual_seed(3)
    logits = supernet(images(), *path)
    assert logits.shape == (6, 3)
    torch.manual_seed(3)
    loss = supernet._loss(images(), targets, *path)
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets))
    loss.backward()
    trained = [weight.grad is not None for weight in supernet.weight_parameters()]
    assert any(trained)
    assert not all(trained)
    weights = {id(weight) for weight in supernet.weight_parameters()}
    assert not weights & {id(tensor) for tensor in supernet.arch_parameters()}
    assert {id(parameter) for parameter in supernet.parameters()} <= weights | {
        id(tensor) for tensor in supernet.arch_parameters()
    }


def test_a_seed_decides_the_path(supernet):
    def outputs(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        if isinstance(supernet, ProxylessSupernet):
            supernet.draw_paths(1)
        if isinstance(supernet, ENASSupernet):
            supernet.set_architecture(random_architecture())
        return supernet(images(), *path_of(supernet))

    assert torch.equal(outputs(1), outputs(1))
    assert not torch.equal(outputs(1), outputs(2))


def test_new_network_is_independent(supernet):
    new = supernet.new()
    assert type(new) is type(supernet)
    assert new.config == supernet.config
    for fresh, ours in zip(new.arch_parameters(), supernet.arch_parameters(), strict=True):
        assert fresh.requires_grad
        torch.testing.assert_close(fresh, ours, rtol=0, atol=0)
    assert not torch.equal(new.classifier.weight, supernet.classifier.weight)
    ours, theirs = (
        {tensor.data_ptr() for tensor in [*s.parameters(), *s.buffers(), *s.arch_parameters()]} for s in (supernet, new)
    )
    assert not ours & theirs
    assert supernet.double().new().classifier.weight.dtype == torch.float64
    assert new.load_state_dict(supernet.state_dict())


def test_gdas_cells_compute_the_sampled_candidates():
    network = GDASDARTSSupernet(C=4, layers=3, steps=2, multiplier=1).double().eval()
    cell = network.cells[1]
    assert cell.reduction
    index = torch.tensor([[4], [3], [1], [0], [7]])
    weights = F.one_hot(index.squeeze(-1), len(PRIMITIVES)).double()
    s0, s1 = torch.randn(2, 12, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    found = cell(s0, s1, 2 * weights, index)
    torch.testing.assert_close(found, Cell.forward(cell, s0, s1, 2 * weights), rtol=0, atol=1e-12)


def test_gdas_cells_of_a_kind_take_the_same_candidates():
    network = GDASDARTSSupernet(C=4, layers=5, steps=1, multiplier=1, reductions=(2, 3))
    taken: dict[int, list[int]] = {}
    for number, cell in enumerate(network.cells):
        for position, op in enumerate(op for edge in cell._ops for op in edge._ops):
            op.register_forward_hook(lambda *_, n=number, p=position: taken.setdefault(n, []).append(p))
    torch.manual_seed(1)
    network(images())
    assert taken[0] == taken[1] == taken[4]
    assert taken[2] == taken[3]
    assert taken[0] != taken[2]


def test_gdas_alphas_learn_of_candidates_not_taken():
    network = SUPERNETS["gdas-darts"]()
    for alphas in network.arch_parameters():
        alphas.data[:, 0] = -100.0  # so that no edge of the sample is cut
    network._loss(images(), torch.arange(6) % 3).backward()
    for alphas in network.arch_parameters():
        assert (alphas.grad[:, 1:] != 0).all()
    network.set_tau(0.5)
    assert network.new().tau == 0.5


def test_spos_runs_the_path_that_is_named():
    network = SPOSSupernet(C=4, layers=2).eval()
    choice = (5, 6, 0, 3, 2, 6)
    assert network.genotype(choice) == ["k7_e6", "skip", "k3_e3", "k5_e6", "k5_e3", "skip"]
    x = network.stem(images())
    for block, taken in zip(network.blocks, choice, strict=True):
        x = block.ops[taken](x)
    expected = network.classifier(x.mean(dim=(2, 3)))
    torch.testing.assert_close(network(images(), choice), expected)
    with pytest.raises(ValueError, match="shorter"):
        network(images(), choice[:-1])


def test_mobile_choices_are_named_in_their_order():
    for block in (*SPOSSupernet(C=4, layers=2).blocks, *ProxylessSupernet(C=4, layers=2).blocks):
        names = []
        for op in block.ops:
            if isinstance(op, nn.Identity):
                names.append("skip")
                continue
            depthwise = op.depthwise[0]
            names.append(f"k{depthwise.kernel_size[0]}_e{depthwise.in_channels // op.expand[0].in_channels}")
        assert names == list(CHOICES[: len(names)])
    assert [len(block.ops) for block in SPOSSupernet(C=4, layers=2).blocks] == [7, 7, 6, 7, 6, 7]


def test_spos_paths_are_uniform():
    network = SPOSSupernet(C=4, layers=1)
    draws = [network.uniform_choice() for _ in range(3000)]
    for block, column in zip(network.blocks, zip(*draws, strict=True), strict=True):
        counts = Counter(column)
        assert set(counts) == set(range(len(block.ops)))
        expected = len(draws) / len(block.ops)
        assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in counts.values())


def test_proxyless_opens_one_of_two_paths():
    block = GatedBlock(4, 4, 1).double().eval()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    for _ in range(5):
        block.draw(2)
        assert len(set(block.active)) == 2
        opened = block.ops[block.active[block.opened]]
        torch.testing.assert_close(block(x), opened(x), rtol=0, atol=1e-12)
    block.draw(1)
    assert torch.equal(block(x), block.ops[block.active[0]](x))


def test_proxyless_alphas_have_the_gradient_of_equation_4():
    block = GatedBlock(4, 4, 1).double().eval()
    block.alphas.data.normal_()
    block.draw(2)
    x, direction = torch.randn(2, 2, 4, 8, 8, dtype=torch.float64)
    (block(x) * direction).sum().backward()
    p = F.softmax(block.alphas.detach()[block.active], dim=-1)
    of_gates = torch.stack([(block.ops[i](x) * direction).sum() for i in block.active]).detach()
    expected = torch.zeros(len(block.ops), dtype=torch.float64)
    for i, position in enumerate(block.active):
        expected[position] = sum(of_gates[j] * p[j] * (float(i == j) - p[i]) for j in range(2))
    torch.testing.assert_close(block.alphas.grad, expected)


def test_proxyless_paths_follow_the_alphas():
    network = ProxylessSupernet(C=4, layers=1)
    with torch.no_grad():
        for block in network.blocks:
            block.alphas[3] = 50.0
    network.draw_paths(1)
    assert [block.active for block in network.blocks] == [[3]] * 3
    network.draw_paths(2)
    assert all(block.active[block.opened] == 3 for block in network.blocks)
    assert network.genotype() == ["k5_e6"] * 3


def test_proxyless_takes_the_path_that_it_names():
    network = ProxylessSupernet(C=4, layers=1)
    with torch.no_grad():
        for block, strongest in zip(network.blocks, (6, 0, 5), strict=True):
            block.alphas[strongest] = 1.0
    network.draw_paths(2)
    network.take_strongest()
    assert [block.active for block in network.blocks] == [[6], [0], [5]]
    assert network.genotype() == ["skip", "k3_e3", "k7_e6"]
    network(images())


def test_enas_runs_the_architecture_that_was_set():
    network = ENASSupernet(C=4, N=1).double().eval()
    chosen = (3, 3, 4, 1, 0, 2)
    network.set_architecture(chosen)
    assert network.genotype() == network.new().genotype() == cell_of(chosen)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    weights = F.one_hot(torch.tensor(chosen), len(CANDIDATES)).double()
    cell = network.cells[0]
    torch.testing.assert_close(cell(x, chosen), SearchCell.forward(cell, x, weights), rtol=0, atol=1e-12)
    assert "alphas" not in network.state_dict()


def test_random_architectures_have_all_candidates():
    drawn = [random_architecture() for _ in range(100)]
    assert all(set(column) == set(range(len(CANDIDATES))) for column in zip(*drawn, strict=True))
