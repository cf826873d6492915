"""The sharpness against dense Hessians in float64, and that measuring it leaves no trace."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrizations import spectral_norm

from tmsgd_bench.optim import TMSGD, Sharpness, curvature, largest_stable_lr, sharpness

TIGHT = 1e-9
Batch = tuple[Tensor, Tensor]
F64 = torch.float64


def quadratic(eigenvalues: list[float], seed: int = 0) -> tuple[Callable[[Tensor], Tensor], nn.Parameter]:
    """½ wᵀ Q Λ Qᵀ w + Σ w as a function of w, with a random rotation Q, and a w to start from."""
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    rotation = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=F64)).Q
    matrix = rotation @ torch.diag(torch.tensor(eigenvalues, dtype=F64)) @ rotation.T
    weight = nn.Parameter(torch.randn(size, generator=generator, dtype=F64))
    return lambda w: 0.5 * w @ matrix @ w + w.sum(), weight


def dense_largest(model: nn.Module, batches: list[Batch], seed: int = 0) -> float:
    """The largest eigenvalue of the whole Hessian matrix, for the mean over batches, each with its dropout."""
    names, sizes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def loss(flat: Tensor) -> Tensor:
        torch.manual_seed(seed)
        pieces = flat.split([size.numel() for size in sizes])
        weights = {name: piece.view(size) for name, piece, size in zip(names, pieces, sizes, strict=True)}
        fresh = {name: buffer.clone() for name, buffer in buffers.items()}
        values = [loss_of(functional_call(model, {**weights, **fresh}, x), y) for x, y in batches]
        return torch.stack(values).mean()

    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    with torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH):
        matrix = torch.autograd.functional.hessian(loss, flat)
    return float(torch.linalg.eigvalsh(matrix)[-1])


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.double(), target)


def losses_of(model: nn.Module, batches: list[Batch]) -> list[Callable[[], Tensor]]:
    return [lambda x=x, y=y: loss_of(model(x), y) for x, y in batches]  # type: ignore[misc]


class LastStep(nn.Module):
    """Embedding → LSTM → linear on the last step; some rows of the embedding are never looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(12, 3), nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, words: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(self.embedding(words))[0][:, -1])
        return logits


class Attention(nn.Module):
    """One head of fused attention, whose fast kernels have no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x.view(-1, 1, 2, 4)).chunk(3, dim=-1)
        logits: Tensor = self.head(F.scaled_dot_product_attention(query, key, value).mean(dim=(1, 2)))
        return logits


def build(name: str) -> tuple[nn.Module, list[Batch]]:
    """A small model in float64, in training mode, and two batches of different examples."""
    torch.manual_seed(3)
    models: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)),
        "dropout": lambda: nn.Sequential(nn.Linear(8, 9), nn.Tanh(), nn.Dropout(0.5), nn.Linear(9, 3)),
        "cnn": lambda: nn.Sequential(
            nn.Unflatten(1, (2, 2, 2)),
            nn.Conv2d(2, 4, 2, padding=1),
            nn.BatchNorm2d(4),
            nn.GELU(),
            nn.AvgPool2d(3),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        "spectral norm": lambda: nn.Sequential(spectral_norm(nn.Linear(8, 6)), nn.Tanh(), nn.Linear(6, 3)),
        "lstm": LastStep,
        "attention": Attention,
    }
    model = models[name]().double().train()
    x = torch.randint(0, 9, (10, 5)) if name == "lstm" else torch.randn(10, 8, dtype=F64)
    y = torch.randint(0, 3, (10,))
    return model, [(x[:5], y[:5]), (x[5:], y[5:])]


MODELS = ("mlp", "dropout", "cnn", "lstm", "attention")


# --- the value -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "eigenvalues",
    [
        [5.0, 4.0, 1.0, 0.0],
        [-1.0, -2.0, -50.0],  # the largest, not the one of largest modulus
        [3.0, 3.0, 3.0, -9.0],
        [2.0],
        [0.0, 0.0, -1.0],
        [1e-8, -1e-9],
        [*(1.0 + k / 100 for k in range(60)), 1e4],
    ],
)
def test_the_largest_eigenvalue_of_a_quadratic(eigenvalues: list[float]) -> None:
    loss, weight = quadratic(eigenvalues)
    found = sharpness(lambda: loss(weight), [weight], tolerance=TIGHT)
    scale = max(abs(value) for value in eigenvalues)
    assert float(found) == pytest.approx(max(eigenvalues), rel=1e-8, abs=1e-13 * scale)
    assert found.converged and found.products <= len(eigenvalues) + 1


@settings(deadline=None)
@given(
    eigenvalues=st.lists(st.floats(-100.0, 100.0), min_size=2, max_size=30),
    seed=st.integers(0, 1000),
    products=st.integers(1, 20),
)
def test_the_residual_bounds_the_distance_to_an_eigenvalue_from_below_the_largest(
    eigenvalues: list[float], seed: int, products: int
) -> None:
    """Whether it converged or not."""
    loss, weight = quadratic(eigenvalues, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curvature.warnings, "warn", lambda *_, **__: None)
        found = sharpness(lambda: loss(weight), [weight], max_products=products, seed=seed)
    rounding = 1e-12 * (1.0 + max(abs(value) for value in eigenvalues))
    assert min(abs(value - float(found)) for value in eigenvalues) <= found.residual + rounding
    assert float(found) <= max(eigenvalues) + rounding


def test_a_loss_without_curvature_has_sharpness_zero() -> None:
    weight = nn.Parameter(torch.ones(3))
    assert sharpness(lambda: weight.sum(), [weight]) == Sharpness(0.0, 0.0, 1, True)


@pytest.mark.parametrize("name", MODELS)
def test_the_dense_hessians_largest_eigenvalue(name: str) -> None:
    model, batches = build(name)
    both = [(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))]
    for sample in (batches[:1], batches, both):
        found = sharpness(losses_of(model, sample), model.parameters(), buffers=model.buffers(), tolerance=TIGHT)
        assert float(found) == pytest.approx(dense_largest(model, sample), rel=1e-8)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_coarser_types_agree_within_their_rounding(name: str, dtype: torch.dtype, tolerance: float) -> None:
    model, batches = build(name)
    model = model.to(dtype)
    inputs = [(x.to(dtype) if x.is_floating_point() else x, y) for x, y in batches]
    found = sharpness(losses_of(model, inputs), model.parameters(), tolerance=tolerance / 10)
    exact = [(x.double() if x.is_floating_point() else x, y) for x, y in inputs]
    assert float(found) == pytest.approx(dense_largest(model.double(), exact), rel=tolerance)


def test_how_parameters_are_cut_into_tensors_does_not_matter() -> None:
    loss, whole = quadratic([float(k) for k in range(40)])
    pieces = [nn.Parameter(piece.clone()) for piece in whole.detach().split([1, 17, 2, 20])]
    one = sharpness(lambda: loss(whole), [whole])
    many = sharpness(lambda: loss(torch.cat(pieces)), pieces)
    assert one.products == many.products
    assert float(one) == pytest.approx(float(many), rel=1e-12)
    assert one.residual == pytest.approx(many.residual, rel=1e-9)


@pytest.mark.parametrize("unused", [0, 3])
def test_unused_and_frozen_parameters(unused: int) -> None:
    """An unused one adds a zero row, which is the largest eigenvalue of a negative definite rest; a frozen one is
    none of the variables."""
    loss, weight = quadratic([-1.0, -2.0])
    frozen = nn.Parameter(torch.tensor(100.0, dtype=F64), requires_grad=False)
    spare = [nn.Parameter(torch.ones(unused, dtype=F64))] if unused else []
    found = sharpness(lambda: loss(weight) + frozen**2, [weight, frozen, *spare], tolerance=TIGHT)
    assert float(found) == pytest.approx(0.0 if unused else -1.0, abs=1e-12)


def test_a_parameter_named_twice_counts_once() -> None:
    loss, weight = quadratic([2.0, 1.0])
    assert sharpness(lambda: loss(weight), [weight, weight]) == sharpness(lambda: loss(weight), [weight])


def test_too_few_products_are_said_in_the_result_and_in_a_warning() -> None:
    loss, weight = quadratic([1.0 + k / 1000 for k in range(500)])
    with pytest.warns(curvature.NotConverged, match="uncertain by .* after 3 products: raise max_products"):
        found = sharpness(lambda: loss(weight), [weight], max_products=3, tolerance=1e-6)
    assert (found.converged, found.products) == (False, 3)
    assert found.residual > 1e-6 * found.value


# --- no trace ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*MODELS, "spectral norm"])
@pytest.mark.parametrize("count", [1, 2])
def test_measuring_leaves_no_trace(name: str, count: int) -> None:
    """Weights, gradients, buffers, random streams and backend flags stay, so training goes on with the same bits."""
    model, batches = build(name)
    for p in list(model.parameters())[1:]:
        p.grad = torch.full_like(p, 7.0)
    gradients = [p.grad for p in model.parameters()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    stream, cudnn = torch.get_rng_state(), torch.backends.cudnn.enabled
    sharpness(losses_of(model, batches[:count]), model.parameters(), buffers=model.buffers())
    assert torch.equal(torch.get_rng_state(), stream) and torch.backends.cudnn.enabled is cudnn
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(p.grad is grad for p, grad in zip(model.parameters(), gradients, strict=True))
    assert all(bool((grad == 7.0).all()) for grad in gradients if grad is not None)


@pytest.mark.parametrize("name", [*MODELS, "spectral norm"])
def test_the_value_is_a_function_of_its_arguments_alone(name: str) -> None:
    """Neither the global random stream nor an earlier measurement plays a part."""
    model, batches = build(name)
    measure = lambda: sharpness(losses_of(model, batches), model.parameters(), buffers=model.buffers())  # noqa: E731
    first = measure()
    torch.rand(3)
    assert measure() == first


def test_an_error_leaves_no_trace_either() -> None:
    model, batches = build("cnn")
    stream, before = torch.get_rng_state(), [b.clone() for b in model.buffers()]

    def fail() -> Tensor:
        torch.rand(1)
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        sharpness([*losses_of(model, batches), fail], model.parameters(), buffers=model.buffers())
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before, strict=True))


def test_it_can_be_measured_where_gradients_are_off() -> None:
    loss, weight = quadratic([2.0, 1.0])
    with torch.no_grad():
        assert float(sharpness(lambda: loss(weight), [weight])) == pytest.approx(2.0)
        assert not torch.is_grad_enabled()


def test_one_loss_is_evaluated_once_and_several_for_each_product() -> None:
    loss, weight = quadratic([float(k) for k in range(30)])
    calls = []

    def counted() -> Tensor:
        calls.append(1)
        return loss(weight)

    sharpness(counted, [weight])
    assert len(calls) == 1
    calls.clear()
    found = sharpness([counted, counted, counted], [weight])
    assert len(calls) == 3 * found.products > 3


def test_memory_does_not_grow_with_the_number_of_products() -> None:
    """Tensors of the weight's size that are alive at each evaluation of the loss: no basis is stored."""
    loss, weight = quadratic([1.0 + k / 1000 for k in range(300)])
    alive: list[int] = []

    def counting() -> Tensor:
        alive.append(sum(type(o) is Tensor and o.shape == weight.shape for o in gc.get_objects()))
        return loss(weight)

    gc.collect()
    gc.freeze()  # the objects of all other tests need not be looked at
    with pytest.warns(curvature.NotConverged):
        sharpness([counting, counting], [weight], max_products=20, tolerance=1e-12)
    assert len(alive) == 40 and max(alive[4:]) == max(alive[4:8]) <= min(alive) + 4


# --- what cannot be measured ---------------------------------------------------------------------------------------


class Once(torch.autograd.Function):
    """An operation with a first derivative alone."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return x.square().sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 2.0 * gradient * x


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda w: w.square(), r"must be a scalar tensor, not of shape \(2,\)"),
        (lambda w: 3.0, "must be a scalar tensor, not a float"),
        (lambda w: w.detach().sum(), "has no graph"),
        (lambda w: nn.Parameter(torch.ones(2)).sum(), "does not depend on the parameters"),
        (Once.apply, "cannot be differentiated twice .*once_differentiable"),
        (lambda w: (w * math.inf).sum(), "the loss is inf"),
        (lambda w: (0.0 * w).sum().sqrt(), "product with the loss's Hessian is not finite"),
    ],
)
def test_a_loss_without_a_sharpness_is_refused_with_the_reason(loss: Callable[[Tensor], Tensor], message: str) -> None:
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=message):
        sharpness(lambda: loss(weight), [weight])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": []}, "no parameter requires a gradient"),
        ({"params": [torch.ones(2)]}, "no parameter requires a gradient"),
        ({"params": torch.ones(2, requires_grad=True)}, "put it into a list"),
        ({"params": [("name", torch.ones(2))]}, "use model.parameters"),
        ({"params": [torch.ones(2, dtype=torch.complex64, requires_grad=True)]}, "real floating-point"),
        ({"loss": []}, "at least one such function"),
        ({"loss": [torch.ones(())]}, "must be a function"),
        ({"loss": torch.ones(())}, "must be a function"),
        ({"tolerance": 0.0}, "Invalid tolerance: 0.0"),
        ({"tolerance": math.nan}, "Invalid tolerance: nan"),
        ({"max_products": 0}, "Invalid max_products: 0"),
        ({"max_products": True}, "Invalid max_products: True"),
    ],
)
def test_arguments_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    loss, weight = quadratic([1.0, 2.0])
    arguments = {"loss": lambda: loss(weight), "params": [weight], **changes}
    with pytest.raises(ValueError, match=message):
        sharpness(**arguments)  # type: ignore[arg-type]


# --- the learning rate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("scheme", ["euler", "taylor3", "nine_eighths"])
def test_the_rule_is_stable_below_the_largest_stable_rate_and_not_above(scheme: str, momentum: float) -> None:
    loss, start = quadratic([4.0, 1.0, 0.5])
    limit = largest_stable_lr(sharpness(lambda: loss(start), [start], tolerance=TIGHT), scheme, momentum)

    def distance(lr: float) -> float:
        """|∇L| after many steps."""
        weight = nn.Parameter(start.detach().clone())
        optimizer = TMSGD([weight], lr=lr, momentum=momentum, scheme=scheme)
        for _ in range(3000):
            optimizer.zero_grad()
            loss(weight).backward()
            optimizer.step()
        assert weight.grad is not None
        return float(weight.grad.norm())

    assert distance(0.97 * limit) < 1e-6
    assert not distance(1.03 * limit) < 1e6


@pytest.mark.parametrize("curved", [0.0, -3.0])
def test_without_upward_curvature_no_rate_is_too_large(curved: float) -> None:
    assert largest_stable_lr(curved) == math.inf


def test_a_sharpness_that_is_not_a_number_gives_no_rate() -> None:
    with pytest.raises(ValueError, match="the sharpness is NaN"):
        largest_stable_lr(math.nan)
