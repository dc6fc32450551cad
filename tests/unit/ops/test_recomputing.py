"""Recomputed activations and poolings: bytes, gradients, second derivatives, and what else looks at kept tensors."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import toponas_fx
from exactness import assert_close, image
from toponas_fx.analysis.costs import saved_bytes
from toponas_fx.ops import recomputing


class Cell(nn.Module):
    """Three readers of one value, all cheap, and what keeps each of them."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        active = F.relu(x)
        total = self.norms[0](self.a(active)) + self.norms[1](self.b(active))
        return total + self.norms[2](F.max_pool2d(x, 3, 1, 1)) + F.avg_pool2d(x, 3, 1, 1).exp()


@pytest.fixture
def pair():
    torch.manual_seed(0)
    model = Cell().double()
    twin = copy.deepcopy(model)
    fast = toponas_fx.simplify(twin, image(), mode="exact", recompute=True)
    assert sum(record.name == "recompute" and len(record.changes) for record in fast.report.records) == 3
    return model, fast


def gradients(call, owner, x, create_graph=False):
    x = x.clone().requires_grad_()
    loss = (call(x) * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)).sum()
    return torch.autograd.grad(loss, [x, *owner.parameters()], create_graph=create_graph)


def assert_alike(fast, model, call=None):
    for found, expected in zip(gradients(call or fast, fast, image()), gradients(model, model, image()), strict=True):
        assert_close(found, expected)
    for found, expected in zip(fast.buffers(), model.buffers(), strict=True):
        assert_close(found, expected)


def test_computes_the_same_and_counts_once(pair):
    model, fast = pair
    for _ in range(2):
        assert_alike(fast, model)
    assert fast.norms[0].num_batches_tracked == 2


def test_keeps_one_tensor_for_all_that_is_made_of_it(pair):
    model, fast = pair
    size = image().nbytes
    # besides: the input of the stem, what two norms read, and the exponential
    assert saved_bytes(model, image()) - saved_bytes(fast, image()) == size + 2 * size  # relu; pooled, and where (i64)
    plain = toponas_fx.simplify(copy.deepcopy(model), image(), mode="exact")
    assert saved_bytes(plain, image()) > saved_bytes(fast, image())


def test_second_derivatives(pair):
    model, fast = pair
    results = []
    for call in (fast, model):
        first = gradients(call, call, image(), create_graph=True)
        norm = sum(gradient.square().sum() for gradient in first)
        results.append(torch.autograd.grad(norm, list(call.parameters()), allow_unused=True))
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected)


def test_backward_twice_and_in_parts(pair):
    model, fast = pair
    x = image().requires_grad_()
    loss = fast(x).square().sum()
    part = torch.autograd.grad(loss, fast.a.weight, retain_graph=True)
    once = torch.autograd.grad(loss, list(fast.parameters()), retain_graph=True)
    twice = torch.autograd.grad(loss, list(fast.parameters()))
    for found, expected in zip(once, twice, strict=True):
        assert torch.equal(found, expected)
    expected = torch.autograd.grad(model(image()).square().sum(), list(model.parameters()))
    for found, other in zip(once, expected, strict=True):
        assert_close(found, other)
    assert_close(part[0], expected[1])


def test_what_is_made_again_goes_with_its_last_reader(pair):
    _, fast = pair
    loss = fast(image()).sum()
    kept = _kept_below(loss)
    loss.backward(retain_graph=True)
    recipes = {part.recipe for part in kept if part.recipe is not None}
    assert len(recipes) == 2  # the exponential keeps its own result, and the mean is not kept
    assert all(recipe.found is None for recipe in recipes)


def _kept_below(loss):
    """Return what is kept below a loss."""
    if not hasattr(torch._C._autograd.SavedTensor, "data"):
        pytest.skip("this torch does not show what hooks packed")
    found, queue, seen = [], [loss.grad_fn], set()
    while queue:
        function = queue.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        queue += [following for following, _ in function.next_functions]
        for name in dir(function):
            if name.startswith("_raw_saved"):
                raw = getattr(function, name)
                found += [part for part in (raw if isinstance(raw, tuple) else [raw]) if part is not None]
    return [part.data for part in found if hasattr(getattr(part, "data", None), "recipe")]


def test_a_write_between_the_passes_is_an_error(pair):
    _, fast = pair
    for tensor in (fast.a.weight, fast.stem.weight):
        loss = fast(image().requires_grad_()).sum()
        with torch.no_grad():
            tensor.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    x = image().requires_grad_()
    doubled = x * 2
    loss = fast(doubled).sum()
    doubled.detach().add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_write_to_the_input_of_what_is_made_again_is_an_error():
    """A hook may write to what no node of the graph writes to."""
    model = Cell().double()
    fast = toponas_fx.simplify(model, image(), mode="exact", recompute=True)
    output = fast(image())
    kept = [part for part in _kept_below(output) if part.recipe is not None]
    kept[0].recipe.value.value.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_under_an_activation_checkpoint(pair, reentrant):
    model, fast = pair
    plain = copy.deepcopy(model)
    found = gradients_under(lambda x: checkpoint(fast, x, use_reentrant=reentrant), fast)
    for one, other in zip(found, gradients_under(plain, plain), strict=True):
        assert_close(one, other)


def gradients_under(call, owner):
    x = image().requires_grad_()
    owner.zero_grad()
    (call(x) * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)).sum().backward()
    return [x.grad, *(parameter.grad for parameter in owner.parameters())]


def test_hooks_of_the_caller_get_what_is_kept(pair):
    model, fast = pair
    packed = []

    def pack(tensor):
        packed.append(tensor.shape)
        return tensor.clone()

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = fast(image())
    plain = []
    with saved_tensors_hooks(lambda tensor: plain.append(tensor.shape) or tensor, lambda tensor: tensor):
        expected = model(image())
    assert 0 < len(packed) < len(plain)
    for one, other in zip(
        torch.autograd.grad(output.sum(), list(fast.parameters())),
        torch.autograd.grad(expected.sum(), list(model.parameters())),
        strict=True,
    ):
        assert_close(one, other)
    with save_on_cpu():
        assert_alike(fast, model)


def test_where_torch_forbids_hooks(pair):
    model, fast = pair
    with torch.autograd.graph.disable_saved_tensors_hooks("not here"):
        assert_alike(fast, model)
    batch = torch.stack([image(seed=1), image(seed=2)])
    fast.eval(), model.eval()
    parameters = dict(fast.named_parameters())

    def loss(values, x):
        return torch.func.functional_call(fast, values, (x,)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, batch)
    for index, x in enumerate(batch):
        expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
        for one, other in zip(found.values(), expected, strict=True):
            assert_close(one[index], other)


def test_without_gradients_and_in_evaluation(pair):
    model, fast = pair
    with torch.no_grad():
        assert_close(fast(image()), model(image()))
    fast.eval(), model.eval()
    assert_alike(fast, model)
    with torch.inference_mode():
        assert_close(fast(image()), model(image()))


def test_copies_and_files_keep_the_option(pair):
    model, fast = pair
    size = saved_bytes(fast, image())
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert saved_bytes(twin, image()) == size
        assert_alike(twin, copy.deepcopy(model))


def test_another_batch_size(pair):
    model, fast = pair
    x = image(batch=5)
    assert_close(fast(x), model(x))
    assert saved_bytes(fast, x) < saved_bytes(model, x)


def test_small_tensors_and_automatic_casting_are_left(pair, monkeypatch):
    _, fast = pair
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = fast(image())
    assert not [part for part in _kept_below(output) if part.recipe is not None]
    output.sum().backward()
    monkeypatch.setattr("toponas_fx.ops.custom_autograd.SMALL", 10**9)
    assert_alike(fast, toponas_fx.restore(fast))


@pytest.mark.slow
def test_under_torch_compile(pair):
    model, fast = pair
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=False)
    for found, expected in zip(gradients(compiled, fast, image()), gradients(model, model, image()), strict=True):
        assert_close(found, expected)


WINDOW = ((3, 3), (1, 1), (1, 1), True)


@pytest.mark.parametrize("write", ["input", "result", None])
def test_what_is_written_before_it_is_kept_is_kept_as_it_is(write):
    """The pooling keeps nothing itself; its result is kept by the product."""

    def forward(x, pool):
        doubled = x * 2
        pooled = pool(doubled)
        if write == "input":
            doubled.detach().add_(1)
        elif write == "result":
            pooled += 1
        return pooled * pooled

    x = image().float().requires_grad_()
    run = recomputing.keeping_inputs(lambda x: forward(x, lambda y: recomputing.avg_pool2d(y, *WINDOW)))
    found = run(x)
    recipes = [part for part in _kept_below(found) if part.recipe is not None]
    assert bool(recipes) == (write is None)
    expected = forward(x, lambda y: F.avg_pool2d(y.clone(), *WINDOW[:3]))
    for one, other in zip(*(torch.autograd.grad(y.sum(), x) for y in (found, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
