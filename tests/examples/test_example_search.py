"""The example search: its supernet, its second-order gradient, its data and lookups, and the script as users run it."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from nas_201_api.api_utils import ArchResults, ResultsCount
from PIL import Image
from torch.optim import SGD

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))  # where the script's own folder is when users run it

from architect import Architect  # noqa: E402
from benchmark_lookup import BenchmarkApi, BenchmarkTable  # noqa: E402
from image_data import load_folder  # noqa: E402
from search_nasbench201 import METHOD, parse  # noqa: E402
from supernets.nasbench201 import CANDIDATES, EDGES, NASBench201Supernet, SearchCell  # noqa: E402
from unrolled import unrolled_gradients  # noqa: E402

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
OTHER_CELL = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
GENOTYPE = re.compile(r"\|{0}~0\|\+\|{0}~0\|{0}~1\|\+\|{0}~0\|{0}~1\|{0}~2\|".format(f"(?:{'|'.join(CANDIDATES)})"))
TINY = ["--C", "2", "--N", "1", "--epochs", "1", "--batch", "4", "--limit-batches", "3", "--threads", "1"]


@pytest.fixture(params=["parameter", "tensor"])
def supernet(request: pytest.FixtureRequest) -> NASBench201Supernet:
    torch.manual_seed(0)
    return NASBench201Supernet(C=4, N=1, num_classes=3, alphas=request.param)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    for name, shade, index in product(("cat", "dog"), (0, 255), range(8)):
        (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 9), (shade, index, 0)).save(tmp_path / "images" / name / f"{shade}-{index}.png")
    return tmp_path / "images"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(f"index,arch,cifar10,cifar100,imagenet16_120\n1,{CELL},93.66,70.29,44.03\n", encoding="utf-8")
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)])}
    command = [sys.executable, "examples/search_nasbench201.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_supernet_shapes_and_parts(supernet):
    shapes = []
    for cell in supernet.cells:
        cell.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape)))
    assert supernet(torch.randn(5, 3, 16, 16)).shape == (5, 3)
    assert shapes == [(5, 4, 16, 16), (5, 8, 8, 8), (5, 8, 8, 8), (5, 16, 4, 4), (5, 16, 4, 4)]
    cells = [cell for cell in supernet.cells if isinstance(cell, SearchCell)]
    assert len(cells) == 3
    assert all(tuple(cell.edges) == EDGES and len(cell.edges["3<-1"]._ops) == 5 for cell in cells)


def test_supernet_computes_the_chosen_cell_at_a_vertex(supernet):
    """With all weight on one candidate an edge is that candidate: the sums written out by hand agree."""
    supernet.double().eval()
    chosen = [3, 3, 4, 1, 3, 1]  # CELL
    weights = F.one_hot(torch.tensor(chosen), len(CANDIDATES)).double()
    cell = supernet.cells[0]
    a = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    ops = [cell.edges[edge]._ops[index] for edge, index in zip(EDGES, chosen, strict=True)]
    b = ops[0](a)
    c = ops[1](a) + ops[2](b)
    d = ops[3](a) + ops[4](b) + ops[5](c)
    torch.testing.assert_close(cell(a, weights), d, rtol=0, atol=1e-12)


@pytest.mark.parametrize("on", [False, True])
def test_supernet_options(on):
    network = NASBench201Supernet(C=4, N=1, affine=on, track_running_stats=on, conv_bias=on)
    _relu, conv, norm = network.cells[0].edges["1<-0"]._ops[3]
    assert [tensor is not None for tensor in (conv.bias, norm.weight, norm.running_mean)] == [on] * 3


def test_supernet_refuses_another_kind_of_alphas():
    with pytest.raises(ValueError, match="alphas must be one of"):
        NASBench201Supernet(alphas="list")


def test_genotype_is_the_benchmarks_string(supernet):
    assert GENOTYPE.fullmatch(supernet.genotype())
    with torch.no_grad():
        supernet.alphas.copy_(F.one_hot(torch.tensor([3, 3, 4, 1, 3, 1]), 5))
    assert supernet.genotype() == CELL


def test_new_network_is_independent(supernet):
    new = supernet.new()
    assert new.config == supernet.config
    assert new.alphas.requires_grad
    assert type(new.alphas) is type(supernet.alphas)
    torch.testing.assert_close(new.alphas, supernet.alphas, rtol=0, atol=0)
    assert not torch.equal(new.classifier.weight, supernet.classifier.weight)
    ours, theirs = ({id(p) for p in [*s.parameters(), *s.buffers(), s.alphas]} for s in (supernet, new))
    assert not ours & theirs
    assert supernet.alphas.data_ptr() != new.alphas.data_ptr()
    assert supernet.double().new().classifier.weight.dtype == torch.float64


def test_alphas_get_gradients_and_are_no_weights(supernet):
    loss = supernet._loss(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert supernet.alphas.grad.abs().min() > 0
    assert all(parameter.grad is not None for parameter in supernet.parameters())
    assert supernet.arch_parameters()[0] is supernet.alphas
    assert not any(parameter is supernet.alphas for parameter in supernet.weight_parameters())


def test_second_order_gradient_is_that_through_the_unrolled_step(supernet):
    """Against autograd through the step, float64.

    The finite difference is wrong by O(R^2), 1e-8 relative at r = 1e-4 and 1e-10 at r = 1e-5, below which rounding
    takes over. The tolerance is 1e-8. The gradient of the unrolled loss alone, without the product, is off by 0.4.
    """
    eta, momentum, decay = 0.1, 0.9, 3e-4
    supernet.double()
    supernet.alphas.data = 300 * supernet.alphas.data.double()  # off the symmetric point; a plain tensor stays float32
    train, valid = ((torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.arange(6) % n) for n in (2, 3))
    optimizer = SGD(supernet.weight_parameters(), lr=eta, momentum=momentum, weight_decay=decay)
    supernet._loss(*train).backward()
    optimizer.step()  # so that there is a momentum
    architect = Architect(supernet, network_momentum=momentum, network_weight_decay=decay, r=1e-5)
    architect.backward_unrolled(train, valid, eta, optimizer)
    found = supernet.alphas.grad.clone()

    (expected,), (without_product,) = unrolled_gradients(supernet, train, valid, eta, optimizer)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8 * float(expected.norm()))
    assert (without_product - expected).norm() > 0.1 * expected.norm()


def test_architect_step_moves_alphas_only(supernet):
    architect = Architect(supernet)
    batch = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    optimizer = SGD(supernet.weight_parameters(), lr=0.1)
    for unrolled in (False, True):
        alphas = supernet.alphas.detach().clone()
        weights = [weight.detach().clone() for weight in supernet.weight_parameters()]
        architect.step(batch, batch, 0.1, optimizer, unrolled)
        assert not torch.equal(supernet.alphas, alphas)
        for weight, before in zip(supernet.weight_parameters(), weights, strict=True):
            torch.testing.assert_close(weight.detach(), before, rtol=0, atol=1e-6)


def test_folder_of_images(image_folder):
    data = load_folder(image_folder, image_size=16)
    assert (data.in_channels, data.num_classes) == (3, 2)
    assert [len(part) for part in (data.weights, data.architecture, data.validation)] == [13, 13, 6]
    images, targets = next(iter(data.search_loader(data.weights, 4, seed=0)))
    assert images.shape == (4, 3, 16, 16)
    assert targets.shape == (4,)
    assert -2 <= float(images.min()) <= float(images.max()) <= 2
    with pytest.raises(ValueError, match="a batch of 14 images is more than the 13"):
        data.search_loader(data.weights, 14, seed=0)


def test_folder_with_train_inside(image_folder):
    (image_folder / "cat").rename(image_folder / "train")
    assert load_folder(image_folder).num_classes == 2, "a class may be called train"
    (image_folder.parent / "dataset").mkdir()
    image_folder.rename(image_folder.parent / "dataset" / "train")
    assert load_folder(image_folder.parent / "dataset").num_classes == 2


@pytest.mark.parametrize("compressed", [False, True])
def test_table_lookup(table, compressed):
    if compressed:
        packed = table.with_suffix(".csv.gz")
        packed.write_bytes(gzip.compress(table.read_bytes()))
        table = packed
    entry = BenchmarkTable(table).look_up(CELL)
    assert (entry.index, entry.cifar10, entry.cifar100, entry.imagenet16_120) == (1, 93.66, 70.29, 44.03)
    assert str(entry) == "index 1 of NAS-Bench-201: cifar10 93.66 %, cifar100 70.29 %, ImageNet16-120 44.03 %"
    assert BenchmarkTable(table).look_up(OTHER_CELL) is None


def test_api_lookup(tmp_path):
    """A file with two cells, of which one was trained: on each data set with two seeds that are averaged."""
    results = ArchResults(1, CELL)
    tests = {"cifar10": "ori-test", "cifar100": "x-test", "ImageNet16-120": "x-test"}
    for (position, (dataset, test)), seed in product(enumerate(tests.items()), (777, 888)):
        result = ResultsCount(dataset, None, {0: 99.0}, {0: 0.1}, 1.0, 2.0, {}, seed, 1, None)
        accuracy = 90.0 - 20 * position + (seed == 888)
        result.update_eval({f"{test}@0": accuracy}, {f"{test}@0": 0.5}, {f"{test}@0": 1.0})
        results.update(dataset, seed, result)
    infos = {1: {"less": results.state_dict(), "full": results.state_dict()}}
    path = tmp_path / "tiny.pth"
    torch.save({"meta_archs": [OTHER_CELL, CELL], "arch2infos": infos, "evaluated_indexes": [1]}, path)
    api = BenchmarkApi(path)
    entry = api.look_up(CELL)
    assert (entry.index, entry.arch) == (1, CELL)
    assert (entry.cifar10, entry.cifar100, entry.imagenet16_120) == (90.5, 70.5, 50.5)
    assert api.look_up(OTHER_CELL) is None
    assert api.look_up("|no cell|") is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--original", "--simplified"], "not allowed with argument --original"),
        (["--data", "{tmp}/nowhere"], "there is no folder .*nowhere; give one that has a folder of images for each"),
        (["--data", "{tmp}"], "is not one folder of images for each class"),
        (["--table", "{tmp}/nowhere.csv"], "the table .*nowhere.csv is not a file"),
        (["--table", "{tmp}/text"], "the table .*text has no column 'cifar10'"),
        (["--table", "{tmp}/text.gz"], "the table .*text.gz cannot be read"),
        (["--api", "{tmp}/nowhere.pth"], "the benchmark .*nowhere.pth is not a file"),
        (["--api", "{tmp}/text"], "the benchmark .*text cannot be read"),
        (["--api", "{tmp}/list.pth"], "list.pth is not a NAS-Bench-201 file"),
        (["--json", "{tmp}/nowhere/out.json"], "--json: there is no folder .*nowhere to write to"),
        (["--device", "toaster"], "--device: torch cannot use 'toaster'"),
        (["--image-size", "9"], "--image-size must be a multiple of 4, for two halvings, found 9"),
        (["--C", "0"], "argument --C: must be a whole number from 1, found '0'"),
        (["--batch", "720"], "a batch of 720 images is more than the 719 that each half of the search has"),
        (["--image-size", "12"], "a scattered digit has 16 pixels a side, found images of 12"),
        (["--order", "3"], "argument --order: invalid choice"),
        (["--plot", "{tmp}/nowhere/out.png"], "--plot: there is no folder .*nowhere to write to"),
        (["--plot", "{tmp}/out.txt"], "--plot: name a .png, .svg or .pdf, found .*out.txt"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence, tmp_path, capsys):
    (tmp_path / "text").write_text("index,arch\n1,a cell\n", encoding="utf-8")
    (tmp_path / "text.gz").write_text("not compressed", encoding="utf-8")
    torch.save([], tmp_path / "list.pth")
    with pytest.raises(SystemExit) as stopped:
        parse([argument.replace("{tmp}", str(tmp_path)) for argument in arguments])
    assert stopped.value.code == 2
    assert re.search(f"error: .*{sentence}", capsys.readouterr().err)


def test_no_tensorboard_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        parse(["--logdir", "events"])
    assert "error: --logdir needs TensorBoard: pip install tensorboard\n" in capsys.readouterr().err


def test_plain_digits_and_the_default_are_what_data_says():
    assert parse(["--data", "digits"])[0].image_size == 8
    args, data, _ = parse([])
    assert (args.image_size, data.weights[0][0].shape) == (24, (1, 24, 24))


def test_script_on_the_original_supernet(tmp_path, image_folder):
    path = tmp_path / "out.json"
    done = run("--original", "--data", str(image_folder), "--image-size", "8", "--json", str(path), *TINY)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ratio" not in done.stdout
    written = json.loads(path.read_text(encoding="utf-8"))
    result = written["results"]["original"]
    assert GENOTYPE.fullmatch(result["cell"])
    assert result["cell"] in done.stdout
    assert min(result["seconds_a_step"], result["saved_bytes"]) > 0
    assert 0 <= result["validation_accuracy"] <= 100
    assert written["settings"]["C"] == 2
    assert written["ratios"] == {}


@pytest.mark.parametrize("order", ["1", "2"])
def test_script_on_both_supernets(tmp_path, table, order):
    path = tmp_path / "out.json"
    larger = ["--C", "4", "--batch", "64"]  # so that activations, not kernels, are what is saved for backward
    seen = ["--plot", str(tmp_path / "plot.png"), "--logdir", str(tmp_path / "events")]
    done = run("--order", order, "--table", str(table), "--json", str(path), "--report", *seen, *TINY, *larger)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{METHOD.title}, twice: on the supernet as it is")
    assert "ratio" in done.stdout
    assert "simplify itself took" in done.stdout
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert {each.parent.name for each in (tmp_path / "events").rglob("events*")} == {"original", "simplified"}
    written = json.loads(path.read_text(encoding="utf-8"))
    assert list(written["results"]) == ["original", "simplified"]
    assert all(GENOTYPE.fullmatch(result["cell"]) for result in written["results"].values())
    assert written["ratios"]["saved_bytes"] < 0.9
