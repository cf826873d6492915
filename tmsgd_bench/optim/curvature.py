"""The sharpness of a loss: the largest eigenvalue of its Hessian, which decides which learning rates are stable.

On a quadratic of curvature λ, SGD is stable for ε λ < 2, and TM-SGD after its switch only for ε λ < 1. On other losses
the sharpness takes the place of λ. Training with a large learning rate tends to raise it until ε λ is near SGD's limit
(Cohen et al. 2021, arXiv 2103.00065), which is beyond TM-SGD's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tmsgd_bench.optim.schemes import MultistepScheme

Loss = Callable[[], Tensor]
Rewind = Callable[[], None]
LEAST_PRODUCTS, SETTLED = 5, 2
"""Lanczos' method takes at least so many products, and stops after so many small residuals in a row. A random start
vector in many dimensions is nearly an eigenvector if most eigenvalues are similar, so an early small residual may
belong to them."""
CHUNK = 1 << 22  # elements of a dot product that are converted to float64 at a time


class NotFinite(ValueError):
    """The loss, or a product with its Hessian, is infinite or NaN, so there is no sharpness to measure."""


class NotConverged(RuntimeWarning):
    """The sharpness was not found within its tolerance."""


@dataclass(frozen=True)
class Sharpness:
    """A measured sharpness; ``float`` of it is its value.

    Args:
        value: estimate of the largest eigenvalue, in units of loss / weight². It is a Rayleigh quotient, so except for
            rounding it never exceeds the eigenvalue.
        residual: bound on the distance from ``value`` to the nearest eigenvalue, in the same units.
        products: Hessian-vector products that were computed.
        converged: whether ``residual`` came, and stayed, below the tolerance. It bounds the distance to *an*
            eigenvalue; that this is the largest is certain only if the random start vector has a component along it.
    """

    value: float
    residual: float
    products: int
    converged: bool

    def __float__(self) -> float:
        return self.value


@torch.enable_grad()
def sharpness(
    loss: Loss | Iterable[Loss],
    params: Iterable[Tensor],
    *,
    buffers: Iterable[Tensor] = (),
    tolerance: float = 1e-2,
    max_products: int = 100,
    seed: int = 0,
) -> Sharpness:
    """The largest (algebraic) eigenvalue of the Hessian of a loss, by Lanczos' method.

    The method (Lanczos 1950) builds a tridiagonal matrix from products H v, each of which takes two backward passes
    (Pearlmutter 1994). Its three-term recurrence keeps three vectors of the parameters' size, for any number of
    products. The vectors lose their orthogonality, which repeats eigenvalues but adds no false ones (Paige 1980). They
    are float32 or finer, dot products and the tridiagonal matrix float64.

    The measurement changes neither weights, ``grad``, the given buffers, nor torch's random generators. The loss is the
    same function at every product: dropout draws the same mask each time.

    Args:
        loss: a function without arguments that returns the loss, a scalar; or several functions, one for each batch of
            a large sample, whose mean is the loss. A single function is evaluated once, and its graph is kept; several
            are evaluated again for each product.
        params: parameters; those that require no gradient are ignored. A parameter that the loss does not use adds a
            zero row and column.
        buffers: tensors that the loss changes in place, such as ``model.buffers()`` with BatchNorm; they are restored.
        tolerance: stop when the bound |β s| of the relative error is below this; the error itself is usually much
            smaller, of the order of the bound's square.
        max_products: Hessian-vector products at which to give up.
        seed: of the start vector and of the loss's dropout.

    Warns:
        NotConverged: ``max_products`` did not suffice; ``converged`` is False then.

    Raises:
        NotFinite: the loss or a product is not finite.
        ValueError: an argument is out of its range, there is nothing to differentiate, the loss is not a scalar or
            does not depend on the parameters, or one of its operations cannot be differentiated twice.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> curvatures = torch.tensor([3.0, -5.0])
        >>> round(float(sharpness(lambda: 0.5 * (curvatures * weight**2).sum(), [weight])), 4)
        3.0
    """
    losses = [] if isinstance(loss, Tensor) else [loss] if callable(loss) else list(loss)
    trainable = _trainable(params)
    _check_arguments(losses, tolerance, max_products)
    with _same_function(trainable, list(buffers), seed) as rewind, _twice_differentiable_kernels():
        hessian, start = _Hessian(losses, trainable, rewind), _start(trainable, seed)
        measured = _lanczos(hessian, start, tolerance, max_products)
    if not measured.converged:
        warnings.warn(
            f"the sharpness {measured.value:.4g} is uncertain by {measured.residual:.2g} after {measured.products} "
            "products: raise max_products or tolerance.",
            NotConverged,
            stacklevel=2,
        )
    return measured


def largest_stable_lr(
    sharpness: float | Sharpness, scheme: str | MultistepScheme | Iterable[float] = "taylor3", momentum: float = 0.0
) -> float:
    """The learning rate below which a method is stable on a quadratic of this sharpness: its limit of ε λ, over λ.

    Args:
        sharpness: the largest curvature λ, in units of loss / weight².
        scheme: as :class:`TMSGD` takes it; "euler" for SGD.
        momentum: μ of the heavy ball.

    Returns:
        A learning rate; infinite if λ ≤ 0, because then no direction curves upwards, and the quadratic sets no limit.
        (It has no minimum either.)

    Raises:
        ValueError: the sharpness is NaN, or :class:`MultistepScheme` refuses the scheme or the momentum.

    Example:
        >>> largest_stable_lr(50.0), largest_stable_lr(50.0, "euler"), largest_stable_lr(-1.0)
        (0.02, 0.04, inf)
    """
    curvature = float(sharpness)
    if math.isnan(curvature):
        raise ValueError("the sharpness is NaN: there is no learning rate to derive from it.")
    limit = MultistepScheme.resolve(scheme).stability_limit(momentum)
    return limit / curvature if curvature > 0.0 else math.inf


class _Hessian:
    """v ↦ H v, for the mean of some losses.

    Args:
        losses: see :func:`sharpness`.
        params: the parameters by which they are differentiated.
        rewind: restores buffers and generators, so that the next evaluation is of the same function.
    """

    def __init__(self, losses: list[Loss], params: list[Tensor], rewind: Rewind) -> None:
        self.losses, self.params, self.rewind = losses, params, rewind
        self.single_gradient: list[Tensor | None] | None = None  # with its graph
        self.checked = False

    def __call__(self, vector: list[Tensor]) -> list[Tensor]:
        """H v, as new tensors of v's shapes and dtypes."""
        total = [torch.zeros_like(tensor) for tensor in vector]
        if self.single_gradient is None:
            self.rewind()
        for loss in self.losses:
            self._add_product(self._gradient(loss), vector, total)
        self.checked = True
        return total

    def _gradient(self, loss: Loss) -> list[Tensor | None]:
        """The gradient with its graph. That of a single loss is kept; the graphs of many would not fit into memory."""
        if self.single_gradient is not None:
            return self.single_gradient
        value = _scalar(loss())
        # The output gradient requires a gradient itself, so that an operation that is only once differentiable adds an
        # error node to the graph; otherwise its gradient would count as a constant.
        output_gradient = torch.ones_like(value, requires_grad=True)
        gradient: list[Tensor | None] = list(
            torch.autograd.grad(value, self.params, output_gradient, create_graph=True, allow_unused=True)
        )
        if all(tensor is None for tensor in gradient):
            raise ValueError("the loss does not depend on the parameters: pass those it was computed from.")
        if not self.checked:
            _refuse_once_differentiable(gradient)
        if len(self.losses) == 1:
            self.single_gradient = gradient
        return gradient

    def _add_product(self, gradient: list[Tensor | None], vector: list[Tensor], total: list[Tensor]) -> None:
        rows = [(g, v.to(g.dtype)) for g, v in zip(gradient, vector, strict=True) if g is not None]
        outputs, directions = zip(*rows, strict=True)
        try:
            products = torch.autograd.grad(
                outputs, self.params, directions, retain_graph=self.single_gradient is not None, allow_unused=True
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise _not_twice((str(error).splitlines() or ["no reason given"])[0]) from error
        for tensor, product in zip(total, products, strict=True):
            if product is not None:
                tensor.add_(product, alpha=1.0 / len(self.losses))


def _refuse_once_differentiable(gradient: list[Tensor | None]) -> None:
    """Raise if a graph has an error node of a once-differentiable operation; torch itself never visits these nodes."""
    waiting = [tensor.grad_fn for tensor in gradient if tensor is not None]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise _not_twice("an operation is marked @once_differentiable")
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]


def _not_twice(reason: str) -> ValueError:
    return ValueError(f"the loss cannot be differentiated twice ({reason}): replace that operation by one that can.")


def _lanczos(
    product: Callable[[list[Tensor]], list[Tensor]], start: list[Tensor], tolerance: float, max_products: int
) -> Sharpness:
    """The recurrence β₊ v₊ = H v − α v − β v₋ with α = v·(H v − β v₋), in Paige's stable order."""
    floor = max(torch.finfo(tensor.dtype).eps for tensor in start)
    alphas: list[float] = []
    betas: list[float] = []
    current, previous = _scaled(start, 1.0 / _norm(start)), None
    value = residual = math.nan
    settled, least = 0, min(LEAST_PRODUCTS, sum(tensor.numel() for tensor in start))
    for count in range(1, max_products + 1):
        following = product(current)
        if previous is not None:
            _subtract(following, betas[-1], previous)
        alphas.append(_dot(following, current))
        _subtract(following, alphas[-1], current)
        beta = _norm(following)
        if not math.isfinite(alphas[-1] + beta):
            raise NotFinite("a product with the loss's Hessian is not finite: the weights may have diverged.")
        value, last, scale = _largest(alphas, betas)
        residual = beta * abs(last)
        # If the largest eigenvalue is near zero, the rounding of H v sets the limit of what can be reached.
        if beta <= floor * scale:  # the products span no more directions
            return Sharpness(value, residual, count, True)
        settled = settled + 1 if residual <= max(tolerance * abs(value), floor * scale) else 0
        if settled >= SETTLED and count >= least:
            return Sharpness(value, residual, count, True)
        betas.append(beta)
        previous, current = current, _scaled(following, 1.0 / beta)
    return Sharpness(value, residual, max_products, False)


def _largest(alphas: list[float], betas: list[float]) -> tuple[float, float, float]:
    """Largest eigenvalue of the tridiagonal matrix, the last entry of its vector, and the largest modulus."""
    matrix = torch.diag(torch.tensor(alphas, dtype=torch.float64, device="cpu"))
    if betas:
        off_diagonal = torch.tensor(betas, dtype=torch.float64, device="cpu")
        matrix += torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return float(values[-1]), float(vectors[-1, -1]), float(values.abs().max())


def _start(params: list[Tensor], seed: int) -> list[Tensor]:
    """A normal random vector, drawn in one piece so that it does not depend on how the parameters are cut."""
    flat = torch.randn(sum(p.numel() for p in params), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    pieces = flat.split([p.numel() for p in params])
    # In lower precision the vectors would lose their orthogonality within a few products.
    return [
        piece.view(p.shape).to(p.device, torch.promote_types(p.dtype, torch.float32), copy=True)
        for piece, p in zip(pieces, params, strict=True)
    ]


def _dot(left: list[Tensor], right: list[Tensor]) -> float:
    """The dot product in float64, a chunk at a time."""
    return math.fsum(
        float(torch.dot(x.double(), y.double()))
        for a, b in zip(left, right, strict=True)
        for x, y in zip(a.reshape(-1).split(CHUNK), b.reshape(-1).split(CHUNK), strict=True)
    )


def _norm(vector: list[Tensor]) -> float:
    return math.sqrt(_dot(vector, vector))


def _scaled(vector: list[Tensor], factor: float) -> list[Tensor]:
    return [tensor.mul_(factor) for tensor in vector]


def _subtract(vector: list[Tensor], factor: float, other: list[Tensor]) -> None:
    for tensor, direction in zip(vector, other, strict=True):
        tensor.sub_(direction, alpha=factor)


def _trainable(params: Iterable[Tensor]) -> list[Tensor]:
    if isinstance(params, Tensor):
        raise ValueError("params must be a list of parameters, not one tensor: put it into a list.")
    tensors: list[Any] = list(params)
    if not all(isinstance(p, Tensor) for p in tensors):
        raise ValueError("params must be tensors: use model.parameters(), without names or groups.")
    trainable = list({id(p): p for p in tensors if p.requires_grad}.values())  # a shared one counts once
    if not trainable:
        raise ValueError("no parameter requires a gradient: there is no Hessian to measure.")
    if not all(p.is_floating_point() for p in trainable):
        raise ValueError("the parameters must be real floating-point tensors.")
    return trainable


def _check_arguments(losses: list[Loss], tolerance: float, max_products: int) -> None:
    if not losses or not all(callable(loss) for loss in losses):
        raise ValueError("loss must be a function that returns the loss, or a list of at least one such function.")
    if not (tolerance > 0.0 and math.isfinite(tolerance)):
        raise ValueError(f"Invalid tolerance: {tolerance}, must be a number > 0")
    if isinstance(max_products, bool) or not isinstance(max_products, int) or max_products < 1:
        raise ValueError(f"Invalid max_products: {max_products}, must be an integer >= 1")


def _scalar(value: Any) -> Tensor:
    """The value of a loss, if it is one that can be differentiated."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        kind = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ValueError(f"the loss must be a scalar tensor, not {kind}.")
    if not value.requires_grad:
        raise ValueError("the loss has no graph: compute it from the parameters, with gradients enabled.")
    if not bool(torch.isfinite(value)):
        raise NotFinite(f"the loss is {value.item()}: there is no sharpness to measure.")
    return value


@contextmanager
def _same_function(params: list[Tensor], buffers: list[Tensor], seed: int) -> Iterator[Rewind]:
    """Yields a function that resets buffers and random generators to the same state; restores both at the end."""
    saved = [buffer.detach().clone() for buffer in buffers]
    devices = {p.device for p in params if p.device.type != "cpu"}
    kind = next(iter(devices)).type if devices else "cuda"  # if there is none, no generator is used
    indices = sorted({device.index or 0 for device in devices})

    def restore() -> None:
        with torch.no_grad():
            for buffer, copy in zip(buffers, saved, strict=True):
                buffer.copy_(copy)

    def rewind() -> None:
        restore()
        torch.default_generator.manual_seed(seed)
        for index in indices:
            torch.get_device_module(kind).default_generators[index].manual_seed(seed)

    with torch.random.fork_rng(indices, device_type=kind):
        try:
            yield rewind
        finally:
            restore()


@contextmanager
def _twice_differentiable_kernels() -> Iterator[None]:
    """Turns off cuDNN's recurrent layers and fused attention, which have no second derivative."""
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cudnn.enabled = before
