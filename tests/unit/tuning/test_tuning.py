"""Tuning: measured choices among exact alternatives, remembered, printed, and never of what is shared."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import toponas_fx
from exactness import assert_runs_like, image
from toponas_fx.errors import ArgumentError
from toponas_fx.passes import DEFAULT_PASSES, BatchKernels, ConvertLayout, MergeKernels
from toponas_fx.tuning import autotune
from toponas_fx.tuning.cache import cache_file

USUAL = "images in the usual layout"
APART = "no kernels merged"


class Edges(nn.Module):
    """Two edges in a row, of a pooling and two convolutions each, after a stem."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 3, padding=1)
        self.alphas = nn.Parameter(torch.rand(2, 4))
        self.edges = nn.ModuleList(nn.ModuleList(candidate(size) for size in (1, 3)) for _ in range(2))
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)

    def forward(self, x):
        x = self.stem(x)
        for row, edge in zip(F.softmax(self.alphas, -1), self.edges, strict=True):
            terms = [x, self.pool(x), *(op(x) for op in edge)]
            x = sum(weight * term for weight, term in zip(row, terms, strict=True))
        return x


def candidate(size):
    return nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, size, padding=size // 2, bias=False), nn.BatchNorm2d(4))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPONAS_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Edges().double()


def measuring(monkeypatch, of_original=0.5, **given):
    """Let answers take what is said of the step without them, others twice as much; return a list of what is asked."""
    asked = []

    def ratios(step, other):
        asked.append(step.text)
        assert step.run() > 0
        assert other.run() > 0
        return [of_original if other.text == "the original" else given.get(step.text, 2.0)] * 3

    monkeypatch.setattr(autotune, "_ratios", ratios)
    return asked


def options(fast, kind):
    (found,) = (entry for entry in fast._toponas.passes if isinstance(entry, kind))
    return found


def test_keeps_what_is_faster(model, monkeypatch, capsys):
    asked = measuring(monkeypatch, of_original=0.4, **{USUAL: 0.9, APART: 0.98})
    fast = toponas_fx.simplify(model, image(), tune=True)
    assert APART in asked
    assert options(fast, ConvertLayout).layout is False
    assert options(fast, MergeKernels).slack == 1.0  # two per cent are noise
    assert not any("channels_last" in program.code for program in fast._toponas.programs)
    printed = capsys.readouterr().out.splitlines()
    assert f"toponas_fx: {USUAL}: 0.90 of the step without, chosen" in printed
    assert f"toponas_fx: {APART}: 0.98 of the step without" in printed
    assert printed[-1].startswith("toponas_fx: a step takes 0.40 of the original's, measured on ")
    assert [line.removeprefix("toponas_fx: ") for line in printed] == list(fast.report.notes)


def test_computes_the_same_and_shares_the_same(model, monkeypatch):
    plain = toponas_fx.simplify(copy.deepcopy(model), image())
    every = {answer.text: 0.5 for answer in autotune.ANSWERS}
    measuring(monkeypatch, **every)
    fast = toponas_fx.simplify(copy.deepcopy(model), image(), tune=True)
    assert options(fast, BatchKernels) != BatchKernels()
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert fast._toponas.sharing == plain._toponas.sharing
    for mode in (True, False):
        fast.train(mode), plain.train(mode)
        assert torch.allclose(fast(image()), plain(image()), rtol=1e-12)
    exact = toponas_fx.simplify(model, image(), mode="exact", tune=True)
    assert_runs_like(exact, model, image())
    exact.eval(), model.eval()
    assert_runs_like(exact, model, image())


def test_measures_really(model, capsys):
    fast = toponas_fx.simplify(model, image(), tune=True)
    assert "of the original's" in fast.report.notes[-1]
    assert len(capsys.readouterr().out.splitlines()) == len(fast.report.notes) > 2


def test_leaves_no_trace(model, monkeypatch):
    measuring(monkeypatch)
    model.edges[0][0][2].eval()
    before = copy.deepcopy(model.state_dict())
    generator = torch.get_rng_state()
    toponas_fx.simplify(model, image(), tune=True)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert not model.edges[0][0][2].training


def test_remembers_by_sizes_device_and_passes(model, monkeypatch, capsys):
    asked = measuring(monkeypatch, **{USUAL: 0.9})
    first = toponas_fx.simplify(copy.deepcopy(model), image(), tune=True)
    count = len(asked)
    capsys.readouterr()
    again = toponas_fx.simplify(copy.deepcopy(model), image(), tune=True)
    assert len(asked) == count
    assert "measured before on" in capsys.readouterr().out
    assert again._toponas.passes == first._toponas.passes
    assert again._toponas.programs[-1].code == first._toponas.programs[-1].code
    assert torch.equal(again(image()), first(image()))
    toponas_fx.simplify(copy.deepcopy(model), image(batch=4), tune=True)
    assert len(asked) == 2 * count
    toponas_fx.simplify(copy.deepcopy(model), image(), passes=DEFAULT_PASSES[:-1], tune=True)
    assert len(asked) > 2 * count
    count = len(asked)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    toponas_fx.simplify(copy.deepcopy(model), image(), tune=True)
    assert len(asked) > count


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"x": 1}', None])
def test_a_file_that_cannot_be_read_is_measured_anew(model, monkeypatch, text):
    asked = measuring(monkeypatch)
    toponas_fx.simplify(copy.deepcopy(model), image(), tune=True)
    if text is None:
        found = json.loads(cache_file().read_text())
        text = json.dumps({key: {"chosen": 3} for key in found})
    cache_file().write_text(text)
    count = len(asked)
    toponas_fx.simplify(copy.deepcopy(model), image(), tune=True)
    assert len(asked) == 2 * count


def test_a_folder_that_cannot_be_written_is_no_error(model, monkeypatch, folder, caplog):
    (folder / "file").write_text("")
    monkeypatch.setenv("TOPONAS_CACHE", str(folder / "file" / "below"))
    measuring(monkeypatch)
    toponas_fx.simplify(model, image(), tune=True)
    assert "tuning is not remembered" in caplog.text


def test_the_file_lies_in_the_users_cache_folder(monkeypatch, tmp_path):
    assert cache_file() == tmp_path / "tuning.json"
    monkeypatch.delenv("TOPONAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file() == tmp_path / "toponas_fx" / "tuning.json"


def test_an_exact_model_that_the_original_outruns_runs_as_written(model, monkeypatch):
    measuring(monkeypatch, of_original=1.1)
    fast = toponas_fx.simplify(model, image(), mode="exact", tune=True)
    assert not fast._toponas.programs
    assert "a step takes 1.10 of the original's" in fast.report.notes[0]
    assert_runs_like(fast, model, image())
    assert {name for name, _ in fast.named_parameters()} == {name for name, _ in model.named_parameters()}
    fast.eval(), model.eval()
    assert_runs_like(fast, model, image())
    assert not fast._toponas.programs


@pytest.mark.parametrize("options", [{"mode": "share"}, {"mode": "exact", "recompute": True}], ids=["share", "memory"])
def test_what_is_shared_and_what_saves_memory_stays(model, monkeypatch, options):
    measuring(monkeypatch, of_original=1.1)
    fast = toponas_fx.simplify(model, image(), tune=True, **options)
    assert fast._toponas.programs
    assert "1.10 of the original's" in fast.report.notes[-1]


def test_needs_inputs(model):
    with pytest.raises(ArgumentError, match="pass example_inputs"):
        toponas_fx.simplify(model, tune=True)


def test_noise_is_not_chosen():
    class Noisy(autotune.Step):
        def run(self):
            return next(self.call)

    step = Noisy("one", iter([9.0, 0.9, 0.9, 0.9, 1.0, 1.0, 1.0, 0.9]), None)
    ratios = autotune._ratios(step, Noisy("other", iter([9.0] + [1.0] * 7), None))
    assert ratios == [0.9, 0.9, 0.9, 1.0, 1.0, 1.0, 0.9]
    assert not sorted(ratios)[len(ratios) * 3 // 4] < autotune.WORTH
    lost = autotune._ratios(Noisy("one", iter([1.0] * 4), None), Noisy("other", iter([0.5] * 4), None))
    assert lost == [2.0] * 3


class Counting(Edges):
    """Reads how often a norm has counted."""

    def forward(self, x):
        factor = 2.0 if self.edges[0][0][2].num_batches_tracked > 1 else 1.0
        return factor * super().forward(x)


def test_a_model_whose_runs_differ_is_not_tuned(capsys):
    torch.manual_seed(0)
    model = Counting().double()
    fast = toponas_fx.simplify(model, image(), tune=True)
    assert fast.report.notes[-1].startswith("not tuned: two runs of the example inputs differ: the recorded run read")
    assert not capsys.readouterr().out
    assert fast(image()).shape == image().shape


def test_writes_to_no_input(monkeypatch):
    class Writing(Edges):
        def forward(self, x):
            x += 1
            return super().forward(x)

    measuring(monkeypatch)
    x = image()
    toponas_fx.simplify(Writing().double(), x, tune=True)
    assert torch.equal(x, image())
