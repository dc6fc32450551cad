"""Operations of sums to which candidates that were not taken add their bare weights, and of zeros that stay."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toponas_fx import ops
from toponas_fx.ops.custom_autograd import weighted_sum

LAST = torch.channels_last


@pytest.fixture(params=[0, 1 << 30], ids=["large", "small"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Take tensors for large ones, and for small ones: the stock operations run then."""
    monkeypatch.setattr("toponas_fx.ops.custom_autograd.SMALL", request.param)
    return request.param


def double(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def plain(terms: Sequence[Any], weights: Sequence[Any]) -> Any:
    """Return the formula, added from the left as torch does."""
    return sum(weight * term for term, weight in zip(terms, weights, strict=True))


def assert_like(call: Callable[..., Tensor], formula: Callable[..., Tensor], tensors: Sequence[Tensor]) -> None:
    """Compare values and first and second derivatives, None being no zero."""
    found, expected = call(*tensors), formula(*tensors)
    assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())
    tolerance = 1e-12 if found.dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    grads = [_derivatives(value, tensors) for value in (found, expected)]
    for one, other in zip(*grads, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def _derivatives(value: Tensor, tensors: Sequence[Tensor]) -> list[Tensor | None]:
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    ramp = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value)
    first = torch.autograd.grad((value * ramp).exp().mean(), wanted, create_graph=True, allow_unused=True)
    total = torch.stack([gradient.square().sum() for gradient in first if gradient is not None]).sum()
    second = torch.autograd.grad(total, wanted, allow_unused=True)
    return [*first, *second]


# -- mixed_sum and weighted_sum ----------------------------------------------------------------------------------------

MIXTURES: dict[str, tuple[str, tuple[Any, ...]]] = {  # t is a term; w is a weight
    "first": ("1t", ("w", "w")),
    "last": ("t1", ("w", "w")),
    "between": ("t1t", ("w", "w", "w")),
    "several": ("1t11t", ("w", "w", "w", "w", "w")),
    "a term as it is": ("t1", (1.0, "w")),
    "terms as they are": ("t1t", (1.0, "w", 1.0)),
    "the first as it is": ("t1tt", (1.0, "w", "w", 0.5)),
    "a number is the weight": ("t1", (0.5, "w")),
    "weights of zero": ("0t0", ("w", "w", "w")),
    "a zero and a number": ("0t1", ("w", 1.0, "w")),
    "bare numbers": ("t1t", ("w", 2.0, "w")),
    "a bare number alone": ("1t", (3.0, 1.0)),
}


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("name", MIXTURES)
def test_mixed_sums_with_bare_weights(name: str) -> None:
    kinds, pattern = MIXTURES[name]
    terms = [double(2, 3, 4, 4) for kind in kinds if kind == "t"]
    scalars = [double() for kind in pattern if kind == "w"]

    def given(of: Callable[..., Any]) -> Callable[..., Tensor]:
        def call(*tensors: Tensor) -> Tensor:
            own, weights = iter(tensors[: len(terms)]), iter(tensors[len(terms) :])
            all_terms = [next(own) if kind == "t" else float(kind) for kind in kinds]
            all_weights = [next(weights) if kind == "w" else kind for kind in pattern]
            result: Tensor = of(all_terms, all_weights)
            return result

        return call

    summed = given(lambda terms, weights: ops.mixed_sum(terms, weights, (0,) * len(kinds)))
    assert_like(summed, given(plain), [*terms, *scalars])


def test_a_sum_of_large_terms_takes_bare_weights_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("toponas_fx.ops.mixed_sums.weighted_sum", lambda *args: calls.append(args))
    x, weights = torch.randn(2, 3), [torch.tensor(value) for value in (0.5, 0.25, 2.0)]
    ops.mixed_sum([x, 1.0, 0.0], weights, (0, 0, 0))
    ((terms, own, shift),) = calls
    assert terms[0] is x
    assert own == [weights[0]]
    assert shift == 0.25


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("frozen", ["terms", "weights", "shift", "all but the shift"])
def test_what_needs_no_gradient_has_none(frozen: str) -> None:
    x, y, weight, bare = double(2, 3), double(2, 3), double(), double()
    for tensor, name in ((x, "terms"), (y, "terms"), (weight, "weights"), (bare, "shift")):
        tensor.requires_grad_(name != frozen and (frozen != "all but the shift" or name == "shift"))
    assert_like(
        lambda x, y, w, b: ops.mixed_sum([x, 1.0, y], [w, b, 1.0], (0, 0, 0)),
        lambda x, y, w, b: w * x + b + y,
        [x, y, weight, bare],
    )


@pytest.mark.parametrize(
    "pattern", [("w",), (1.0,), (0.5,), (0.0,), ("w", 1.0), (1.0, "w"), (1.0, 1.0), (0.5, 0.5, "w")], ids=str
)
def test_weighted_sums_with_a_shift(pattern: tuple[Any, ...]) -> None:
    terms, shift = [double(2, 3, 4, 4) for _ in pattern], double()
    scalars = [double() for kind in pattern if kind == "w"]

    def call(shift: Tensor, *tensors: Tensor) -> Tensor:
        given = iter(tensors[len(pattern) :])
        weights = [next(given) if kind == "w" else kind for kind in pattern]
        return weighted_sum(tensors[: len(pattern)], weights, shift)

    before = [term.detach().clone() for term in terms]
    assert torch.autograd.gradcheck(call, (shift, *terms, *scalars))
    assert torch.autograd.gradgradcheck(call, (shift, *terms, *scalars))
    assert all(torch.equal(term, one) for term, one in zip(terms, before, strict=True)), "a term was written to"


@pytest.mark.usefixtures("size")
def test_images_in_channels_last_layout_stay_so() -> None:
    x, y = (torch.randn(2, 3, 4, 4).to(memory_format=LAST).requires_grad_() for _ in range(2))
    weight, bare = torch.tensor(0.5, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    assert_like(
        lambda x, y, w, b: ops.mixed_sum([x, 1.0, y], [w, b, w], (0, 0, 0)),
        lambda x, y, w, b: w * x + b + w * y,
        [x, y, weight, bare],
    )
    assert_like(ops.zeros_of, lambda x: 0.0 * x, [x])


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("other", [torch.float32, torch.float64])
def test_a_bare_weight_of_another_dtype_does_not_promote(dtype: torch.dtype, other: torch.dtype) -> None:
    x, weight, bare = torch.randn(2, 3).to(dtype), torch.tensor(0.5).to(dtype), torch.tensor(2.0).to(other)
    found = ops.mixed_sum([x, 1.0], [weight, bare], (0, 0))
    assert found.dtype == dtype
    assert torch.equal(found, weight * x + bare)


@pytest.mark.usefixtures("size")
def test_under_autocast() -> None:
    layer, x = nn.Linear(4, 4), torch.randn(3, 4)
    weight, bare = torch.tensor(0.5, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        term = layer(x)
        found = ops.mixed_sum([term, 1.0, ops.zeros_of(term)], [weight, bare, 1.0], (0, 0, 0))
        expected = weight * term + bare
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)
    wanted = [weight, bare, layer.weight]
    left, right = (torch.autograd.grad(v.float().square().sum(), wanted, retain_graph=True) for v in (found, expected))
    torch.testing.assert_close(left, right, rtol=2e-2, atol=2e-2)


GROUPS = nn.GroupNorm(1, 3).double()


def _all_of_them(x: Tensor, weight: Tensor, bare: Tensor) -> Tensor:
    """Return one number of all that this file is about."""
    summed = ops.mixed_sum([x, 1.0, ops.zeros_of(x)], [weight, bare, 1.0], (0, 0, 0))
    return ops.scaled_norm(summed, GROUPS, weight, bare).exp().mean()


def _formula(x: Tensor, weight: Tensor, bare: Tensor) -> Tensor:
    summed = weight * x + bare + 0.0 * x
    return (weight * GROUPS(summed) + bare).exp().mean()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # what forward-mode derivatives import
def test_torch_func_takes_the_stock_operations() -> None:
    args = (double(2, 3, 4).detach(), torch.tensor(0.5).double(), torch.tensor(0.25).double())
    for of in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        found, expected = (of(function, argnums=(1, 2))(*args) for function in (_all_of_them, _formula))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    many = torch.func.vmap(torch.func.grad(_all_of_them))(*(torch.stack([arg, 2 * arg]) for arg in args))
    torch.testing.assert_close(many[0], torch.func.grad(_formula)(*args), rtol=1e-10, atol=1e-10)


def test_torch_compile_sees_one_graph() -> None:
    args = (double(2, 3, 4), double(), double())
    call = torch.compile(_all_of_them, backend="aot_eager", fullgraph=True)
    for function in (call, _all_of_them):
        found, expected = (torch.autograd.grad(of(*args), args) for of in (function, _formula))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


# -- zeros_of ----------------------------------------------------------------------------------------------------------


def test_zeros_lie_as_what_they_are_of() -> None:
    for x in (torch.randn(2, 3, 4, 4).to(memory_format=LAST), torch.randn(4, 3).t(), torch.randn(())):
        found = ops.zeros_of(x)
        assert found.stride() == (0.0 * x).stride()
        assert torch.equal(found, torch.zeros_like(x))


def test_zeros_have_both_derivatives_of_the_product() -> None:
    """Zeros, where the product has zeros, for what is read by way of them alone; and no gradient is none."""
    x, y = double(2, 3), double(2, 3)
    assert_like(lambda x, y: ops.zeros_of(x * y).exp() * y, lambda x, y: (0.0 * (x * y)).exp() * y, [x, y])
    assert_like(lambda x, y: ops.zeros_of(x).exp(), lambda x, y: (0.0 * x).exp(), [x, y])
    assert not ops.zeros_of(x.detach()).requires_grad


def test_zeros_keep_nothing() -> None:
    x, kept = double(2, 3), []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        ops.zeros_of(x)
    assert not kept


# -- scaled_norm -------------------------------------------------------------------------------------------------------

NORMS: dict[str, Callable[[], nn.Module]] = {
    "affine": lambda: nn.BatchNorm2d(4),
    "plain": lambda: nn.BatchNorm2d(4, affine=False),
    "no statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "neither": lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False),
    "cumulative": lambda: nn.BatchNorm2d(4, momentum=None),
    "group": lambda: nn.GroupNorm(2, 4),
    "group, plain": lambda: nn.GroupNorm(2, 4, affine=False),
}


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=["usual", "channels last"])
@pytest.mark.parametrize("kind", NORMS)
def test_scaled_norms_with_a_shift(kind: str, layout: torch.memory_format, training: bool) -> None:
    norm = NORMS[kind]().double()
    with torch.no_grad():
        for tensor in (*norm.parameters(), *norm.buffers()):
            tensor += torch.rand_like(tensor, dtype=torch.float64).to(tensor.dtype)
    own = copy.deepcopy(norm).train(training)
    norm.train(training)
    x = double(3, 4, 3, 3).detach().contiguous(memory_format=layout).requires_grad_()
    names = [name for name, _ in norm.named_parameters()]

    def call(x: Tensor, scale: Tensor, shift: Tensor, *parameters: Tensor) -> Tensor:
        given = {f"norm.{name}": parameter for name, parameter in zip(names, parameters, strict=True)}
        return torch.func.functional_call(Scaled(own), given, (x, scale, shift))

    def formula(x: Tensor, scale: Tensor, shift: Tensor, *parameters: Tensor) -> Tensor:
        return scale * torch.func.functional_call(norm, dict(zip(names, parameters, strict=True)), (x,)) + shift

    assert_like(call, formula, [x, double(), double(), *norm.parameters()])
    for one, other in zip(own.buffers(), norm.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


class Scaled(nn.Module):
    """A norm whose result carries a scale and a shift."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return ops.scaled_norm(x, self.norm, scale, shift)
