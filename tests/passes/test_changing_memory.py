"""Memory that changes while forward runs: what reads it stays on its side of the change, whatever a pass does."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import toponas_fx
from exactness import assert_runs_like, compile_modes_apart, image
from nets import Net, lines_of, prepare
from toponas_fx.analysis.memory import Memory
from toponas_fx.passes import (
    BatchKernels,
    Deduplicate,
    DetectMixedOps,
    FoldWeights,
    MergeKernels,
    UnstackSums,
)


def supernet(forward):
    """Return a supernet with norms, convolutions, buffers and architecture weights for ``forward`` to use, float64."""
    torch.manual_seed(0)
    net = Net(
        forward,
        alphas=nn.Parameter(torch.rand(3, 2)),
        norm=nn.BatchNorm2d(4),
        twins=nn.ModuleList(nn.BatchNorm2d(4, affine=False) for _ in range(2)),
        convs=nn.ModuleList(nn.Conv2d(4, 4, size, padding=size // 2, bias=False) for size in (1, 3) * 3),
        embedding=nn.Embedding(3, 4, max_norm=0.1),
    )
    net.register_buffer("ema", torch.rand(4))
    net.register_buffer("mean", torch.rand(4))
    net = prepare(net)
    net.twins.load_state_dict({name: net.twins.state_dict()["0" + name[1:]] for name in net.twins.state_dict()})
    return net


def averaged(self, x):
    """Move the average of the user's own, as an optimizer would."""
    with torch.no_grad():
        self.ema.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))


# -- equal reads on either side of a change ----------------------------------------------------------------------------


def statistics_twice(self, x):
    before = self.norm.running_var.sqrt().sum() + self.norm.running_mean.sum() + self.norm.num_batches_tracked * 2
    x = self.norm(x)
    return (
        x * before
        + self.norm.running_var.sqrt().sum()
        + self.norm.running_mean.sum()
        + (self.norm.num_batches_tracked * 2)
    )


def between_two_runs(self, x):
    x = self.norm(x)
    before = self.norm.running_var.mean()
    x = self.norm(x * 2)
    return x * before + self.norm.running_var.mean()


def of_the_other_norm(self, x):
    one = self.twins[0](x)
    before = self.twins[1].running_var.mean()
    other = self.twins[1](x)
    return one * before + other * self.twins[1].running_var.mean()


def writes_one_of_two_equal_norms(self, x):
    one = self.twins[0](x)
    self.twins[1].running_var.mul_(0.5)
    return one + self.twins[1](x)


def views_of_statistics(self, x):
    view = self.norm.running_var[:2]
    before = view.exp().sum()
    x = self.norm(x)
    return x * before + view.exp().sum()


def functional(self, x):
    before = self.mean.sum()
    x = F.batch_norm(x, self.mean, self.ema, None, None, self.training)
    return x * before + self.mean.sum() * self.ema.mean()


def average_of_its_own(self, x):
    before = self.ema.sum()
    averaged(self, x)
    return torch.cat([x * before, x * self.ema.sum()])


def writes_what_modules_read(self, x):
    first = self.convs[0](x)
    self.convs[0].weight.data.mul_(0.5)
    return torch.cat([first, self.convs[0](x)])


def writes_statistics_of_an_evaluated_norm(self, x):
    first = self.norm(x)
    self.norm.running_mean.data.add_(1)
    return torch.cat([first, self.norm(x)])


def renormalizes(self, x):
    before = self.embedding.weight.sum()
    rows = self.embedding(torch.tensor([0, 2]))
    return x * before + rows.sum() * self.embedding.weight.sum()


# -- sums that are computed later than their parts ---------------------------------------------------------------------


def weighs_by_views(self, x):
    weights = self.norm.running_var
    first = weights[0] * torch.relu(x)
    return first + weights[1] * self.norm(x)


def weighs_by_an_average(self, x):
    first = self.ema[0] * torch.relu(x)
    averaged(self, x)
    return first + self.ema[1] * torch.tanh(x)


def stacks(self, x):
    product = torch.stack([x, x.sin(), x.cos(), x.tanh()]) * self.norm.running_var.view(-1, 1, 1, 1, 1)
    self.norm(x)
    return product.sum(0)


def asks_what_was_counted(self, x):
    y = self.norm(x)
    scale = self.norm.running_var.mean()
    return self.alphas[0, 0] * y + self.alphas[0, 1] * torch.tanh(x) * scale


def asks_what_was_not_counted(self, x):
    """The read is before the run in forward and would still be: nothing stands against the rewrite."""
    scale = self.norm.running_var.mean()
    y = self.norm(x)
    return self.alphas[0, 0] * y + self.alphas[0, 1] * torch.tanh(x) * scale


def counts_again(self, x):
    y = self.norm(x)
    z = self.norm(torch.tanh(x))
    return self.alphas[0, 0] * y + self.alphas[0, 1] * z


def clips_a_kernel_meanwhile(self, x):
    one, three = self.convs[0](x), self.convs[1](x)
    self.convs[1].weight.data.clamp_(-0.1, 0.1)
    return self.alphas[0, 0] * one + self.alphas[0, 1] * three


def writes_the_input_meanwhile(self, x):
    x = torch.tanh(x)
    one, three = self.convs[0](x), self.convs[1](x)
    x.data.mul_(0.5)
    return self.alphas[0, 0] * one + self.alphas[0, 1] * three


# -- arithmetic that is done at the head of the graph ------------------------------------------------------------------


def edges(self, x, weigh, after):
    for index, row in enumerate(self.alphas):
        one, three = self.convs[2 * index : 2 * index + 2]
        weights = weigh(row)
        x = after(index, weights[0] * one(x) + weights[1] * three(x))
    return x


def weighs_by_statistics(self, x):
    return edges(self, x, lambda row: row * self.norm.running_var.mean(), lambda index, x: self.norm(x))


def weighs_by_averages(self, x):
    def after(index, x):
        averaged(self, x)
        return x

    return edges(self, x, lambda row: row * self.ema.clone()[0], after)


def clips_the_next_kernel(self, x):
    def after(index, x):
        if index < 2:
            self.convs[2 * index + 3].weight.data.clamp_(-0.1, 0.1)
        return x

    return edges(self, x, lambda row: row, after)


FORWARDS = [
    *(statistics_twice, between_two_runs, of_the_other_norm, writes_one_of_two_equal_norms, views_of_statistics),
    *(functional, average_of_its_own, writes_what_modules_read, writes_statistics_of_an_evaluated_norm, renormalizes),
    *(weighs_by_views, weighs_by_an_average, stacks, asks_what_was_counted, asks_what_was_not_counted, counts_again),
    *(clips_a_kernel_meanwhile, writes_the_input_meanwhile),
    *(weighs_by_statistics, weighs_by_averages, clips_the_next_kernel),
]


@pytest.mark.parametrize("recompute", [False, True], ids=["", "recompute"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("forward", FORWARDS)
def test_runs_like_what_its_user_wrote(forward, training, recompute):
    model = supernet(forward).train(training)
    fast = toponas_fx.simplify(model, image(), mode="exact", recompute=recompute).train(training)
    assert not fast._toponas.as_written
    assert_runs_like(fast, model, image())


@pytest.mark.parametrize(
    ("forward", "passes", "reason"),
    [
        (statistics_twice, [Deduplicate()], "its memory, or what it reads, is written in place"),
        (functional, [Deduplicate()], "its memory, or what it reads, is written in place"),
        (writes_one_of_two_equal_norms, [Deduplicate()], "its memory, or what it reads, is written in place"),
        (weighs_by_views, [DetectMixedOps()], "a term is written in place before the last one is added"),
        (stacks, [UnstackSums()], "a term is written in place before the last one is added"),
        (asks_what_was_counted, [DetectMixedOps(), FoldWeights()], "the norm runs again before the sum, or something"),
        (clips_a_kernel_meanwhile, [DetectMixedOps(), FoldWeights()], "what the term reads is written in place"),
        (clips_a_kernel_meanwhile, [DetectMixedOps(), MergeKernels()], "what it reads is written in place before"),
        (writes_the_input_meanwhile, [DetectMixedOps(), MergeKernels()], "what it reads is written in place before"),
    ],
)
def test_says_why(forward, passes, reason):
    model = supernet(forward)
    fast = toponas_fx.simplify(model, image(), passes=passes).train()
    assert any(reason in refusal.sentence for refusal in fast.report.records[-1].refusals), fast.report.records[-1]
    for training in (True, False):
        assert_runs_like(fast.train(training), model.train(training), image())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_equal_reads_with_no_run_between_become_one_where_nothing_counts(training, monkeypatch):
    compile_modes_apart(monkeypatch)
    fast = toponas_fx.simplify(supernet(statistics_twice), image(), passes=(Deduplicate(),)).train(training)
    assert len(lines_of(fast, ".sqrt")) == (2 if training else 1)


def test_arithmetic_that_nothing_changes_is_still_batched():
    def forward(self, x):
        return edges(self, x, lambda row: row * self.mean[0], lambda index, x: self.norm(x))

    passes = (DetectMixedOps(), MergeKernels(), BatchKernels())
    fast = toponas_fx.simplify(supernet(forward), image(), passes=passes)
    assert len(lines_of(fast, "merge_all")) == 1
    for name in (weighs_by_statistics, weighs_by_averages, clips_the_next_kernel):
        fast = toponas_fx.simplify(supernet(name), image(), passes=passes).train()
        assert not lines_of(fast, "merge_all") or name is clips_the_next_kernel


# -- hooks -------------------------------------------------------------------------------------------------------------


def test_what_a_hook_writes_is_seen():
    def forward(self, x):
        before = self.ema.sum()
        x = self.convs[0](x)
        return x * before + self.ema.sum()

    model = supernet(forward)
    model.convs[0].register_forward_hook(lambda module, inputs, output: averaged(model, output.detach()))
    fast = toponas_fx.simplify(model, image(), mode="exact")
    assert not fast._toponas.as_written
    for training in (True, False):
        assert_runs_like(fast.train(training), model.train(training), image())


def test_a_norm_writes_what_it_counts_in_and_only_while_it_counts():
    fast = toponas_fx.simplify(supernet(statistics_twice), image(), passes=())
    for training, count in ((True, 3), (False, 0)):
        gm = fast.train(training)
        (run,) = (node for node in gm.graph.nodes if node.op == "call_module")
        assert len(Memory.of(gm).writes.get(run, ())) == count


def test_what_takes_the_place_of_a_value_lies_where_that_lay():
    fast = toponas_fx.simplify(
        supernet(lambda self, x: torch.relu(self.convs[0](x))), image(), passes=(MergeKernels(),)
    )
    assert all(Memory.of(fast).places[node] for node in fast.graph.nodes if "type" in node.meta)
