"""The experiments: each runs the optimizer, in float64 with analytic gradients, and returns tidy tables.

The column ``rule`` has the name of a method in :data:`METHODS`.

Everything is deterministic; noise is seeded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tmsgd_bench.numerics.problems import DESCENTS, FLOWS, Descent, Field, Flow
from tmsgd_bench.optim import SCHEMES, TMSGD, MultistepScheme

Tables = dict[str, pd.DataFrame]

METHODS: dict[str, MultistepScheme] = {
    **SCHEMES,
    "c=1/3": MultistepScheme.family(1 / 3),  # the member with the widest stability interval, that of Euler
    "c=1/8": MultistepScheme.family(1 / 8),
}
"""The methods of all experiments: the named ones (c = 1/2 and 3/8 of the family) and two more of the family."""

FITTED = 4
"""How many of the smallest step sizes an order is fitted to."""
SEED = 0


def descend(start: Tensor, gradient: Field, lr: float, steps: int, **options: Any) -> Iterator[Tensor]:
    """The parameter after each step of TMSGD: one tensor, which the next step changes.

    Args:
        start: float64 starting point.
        gradient: x ↦ gradient, of x's shape.
        lr: learning rate ε.
        steps: how many to take.
        options: for :class:`tmsgd_bench.TMSGD`; without ``switch_step`` it starts with the method at once.
    """
    param = torch.nn.Parameter(start.clone())
    optimizer = TMSGD([param], lr, **({"switch_step": 0} | options))
    for _ in range(steps):
        param.grad = gradient(param.detach())
        optimizer.step()
        yield param.detach()


def last(states: Iterator[Tensor]) -> Tensor:
    """The state after the last step."""
    state = next(states)
    for state in states:  # noqa: B007 — every state is the same tensor
        pass
    return state


# ---------------------------------------------------------------- order


def order(flows: tuple[Flow, ...] = FLOWS) -> Tables:
    """Error at the end time against the step size, and the order fitted to it.

    Returns:
        ``order``: problem, rule, steps, tau, error (largest component of x − reference); ``order_fitted``:
        problem, rule, expected (order of the method), fitted (see :func:`fit_orders`).
    """
    rows = []
    for flow in flows:
        reference = flow.reference()
        for name, scheme in METHODS.items():
            rows += [
                (flow.name, name, steps, flow.end / steps, end_error(flow, scheme, steps, reference))
                for steps in flow.steps
            ]
    errors = pd.DataFrame(rows, columns=["problem", "rule", "steps", "tau", "error"])
    return {"order": errors, "order_fitted": fit_orders(errors)}


def end_error(flow: Flow, scheme: MultistepScheme, steps: int, reference: np.ndarray) -> float:
    """Largest component of x − reference after ``steps`` steps to the end time; inf if x overflows."""
    start = torch.tensor(flow.start, dtype=torch.float64)
    state = last(descend(start, flow.gradient, flow.end / steps, steps, scheme=scheme)).numpy()
    return float(np.abs(state - reference).max()) if np.isfinite(state).all() else math.inf


def fit_orders(errors: pd.DataFrame) -> pd.DataFrame:
    """Least-squares slope of log error against log τ over the four smallest step sizes of each problem and method.

    With these step sizes every method is stable, and its error is well above rounding. Larger steps are in the
    asymptotic range only on the smooth problems.
    """
    rows = []
    for (problem, name), group in errors.groupby(["problem", "rule"], sort=False):
        finest = group.nsmallest(FITTED, "tau")
        slope = float(np.polyfit(np.log(finest["tau"]), np.log(finest["error"]), 1)[0])
        rows.append((problem, name, METHODS[str(name)].order, slope))
    return pd.DataFrame(rows, columns=["problem", "rule", "expected", "fitted"])


# ---------------------------------------------------------------- stability regions


def regions(angles: int = 720, momenta: tuple[float, ...] = (0.0, 0.9)) -> Tables:
    """Boundary of the stability region in the plane of h = ε λ, on points of the boundary locus.

    Returns:
        ``regions``: rule, momentum, theta (radians), re, im (of h), boundary (no root lies outside the unit circle
        there; the rest of the locus lies in the unstable region).
    """
    theta = np.linspace(0.0, 2.0 * np.pi, angles + 1)
    frames = []
    for momentum in momenta:
        for name, scheme in METHODS.items():
            steps = scheme.stability_boundary(theta, momentum).numpy()
            largest = np.array([max(map(abs, scheme.roots(step, momentum))) for step in steps])
            values = {"rule": name, "momentum": momentum, "theta": theta, "re": steps.real, "im": steps.imag}
            # The root on the circle itself is found up to rounding.
            frames.append(pd.DataFrame({**values, "boundary": largest <= 1.0 + 1e-9}))
    return {"regions": pd.concat(frames, ignore_index=True)}


# ---------------------------------------------------------------- the early phase

STARTS: dict[str, Callable[[Descent], dict[str, Any]]] = {
    "SGD": lambda problem: {"scheme": "euler"},
    "TM-SGD from the start": lambda problem: {"scheme": "taylor3"},
    "TM-SGD after the switch": lambda problem: {"scheme": "taylor3", "switch_step": problem.switch_step},
    "c = 1/3 from the start": lambda problem: {"scheme": METHODS["c=1/3"]},
}
SWITCH_STEPS = (0, 2, 5, 10, 20, 40, 80)


def early(problems: tuple[Descent, ...] = DESCENTS) -> Tables:
    """The paper's method from the first step and after a switch, on problems whose curvature is large at first.

    Returns:
        ``early``: problem, start, lr, h_first and h_last (ε λ at the first and last point), h_later (largest ε λ from
        the third point on, where the method has its history), rises (steps that raised the loss), total_rise (sum of
        these rises over the first loss), first_loss, last_loss. ``early_paths``: problem, start, step, loss, h; every
        step up to 200, then every tenth. ``early_switch``: problem, switch_step, h (ε λ at the switch), rises,
        total_rise.
    """
    summaries, paths, switches = [], [], []
    for problem in problems:
        for name, options in STARTS.items():
            path = follow(problem, **options(problem))
            summaries.append({"problem": problem.name, "start": name, "lr": problem.lr, **fluctuation(path)})
            thinned = path[(path["step"] <= 200) | (path["step"] % 10 == 0)]
            paths.append(thinned.assign(problem=problem.name, start=name))
        switches += [switched(problem, step) for step in SWITCH_STEPS if step < problem.steps]
    columns = ["problem", "start", "step", "loss", "h"]
    return {
        "early": pd.DataFrame(summaries),
        "early_paths": pd.concat(paths, ignore_index=True)[columns],
        "early_switch": pd.DataFrame(switches),
    }


def follow(problem: Descent, **options: Any) -> pd.DataFrame:
    """Step, loss and h = ε λ from the starting point on; every call sees the same noise."""
    start = torch.tensor(problem.start, dtype=torch.float64)
    generator = torch.Generator().manual_seed(SEED)

    def gradient(x: Tensor) -> Tensor:
        return problem.gradient(x) + problem.noise * torch.randn(x.shape, generator=generator, dtype=x.dtype)

    states = descend(start, gradient, problem.lr, problem.steps, **options)
    path = torch.stack([start, *(state.clone() for state in states)])
    loss, curvature = problem.loss(path).numpy(), problem.curvature(path).numpy()
    return pd.DataFrame({"step": np.arange(len(path)), "loss": loss, "h": problem.lr * curvature})


def switched(problem: Descent, step: int) -> dict[str, Any]:
    """The row of ``early_switch`` for a switch after ``step`` steps of SGD; see :func:`early`."""
    path = follow(problem, switch_step=step)
    rises = {key: value for key, value in fluctuation(path).items() if key in ("rises", "total_rise")}
    return {"problem": problem.name, "switch_step": step, "h": float(path["h"].iloc[step]), **rises}


def fluctuation(path: pd.DataFrame) -> dict[str, float]:
    """How much the loss rises along a path, and ε λ; see :func:`early`."""
    loss = path["loss"].to_numpy()
    rises = np.maximum(np.diff(loss), 0.0)
    return {
        "h_first": float(path["h"].iloc[0]),
        "h_later": float(path["h"].iloc[2:].max()),
        "h_last": float(path["h"].iloc[-1]),
        "rises": int(np.count_nonzero(rises)),
        "total_rise": float(rises.sum() / loss[0]),
        "first_loss": float(loss[0]),
        "last_loss": float(loss[-1]),
    }


# ---------------------------------------------------------------- frequency response


def frequency(length: int = 512, momenta: tuple[float, ...] = (0.0, 0.9)) -> Tables:
    """Gain and phase from −ε·gradient to displacement: by the formula, and of the optimizer's impulse response.

    Returns:
        ``frequency``: rule, momentum, omega (radians per step), gain, phase (radians, unwrapped), deviation (modulus
        of measured minus predicted response).
    """
    omega = 2.0 * np.pi * np.fft.rfftfreq(length)
    frames = []
    for momentum in momenta:
        for name, scheme in METHODS.items():
            predicted = scheme.frequency_response(omega, momentum).numpy()
            measured = np.fft.rfft(impulse_response(scheme, momentum, length))
            values = {"rule": name, "momentum": momentum, "omega": omega, "gain": np.abs(predicted)}
            phase = np.unwrap(np.angle(predicted))
            frames.append(pd.DataFrame({**values, "phase": phase, "deviation": np.abs(measured - predicted)}))
    return {"frequency": pd.concat(frames, ignore_index=True)}


def impulse_response(scheme: MultistepScheme, momentum: float, length: int) -> np.ndarray:
    """Displacements of the optimizer after a gradient of −1 at learning rate 1, once its history is filled."""
    gradients = iter([0.0, 0.0, -1.0] + [0.0] * (length - 1))
    start = torch.zeros(1, dtype=torch.float64)
    states = descend(
        start, lambda x: torch.full_like(x, next(gradients)), 1.0, length + 2, scheme=scheme, momentum=momentum
    )
    positions = np.array([state.item() for state in states])
    return np.diff(positions[1:])


# ---------------------------------------------------------------- stability limits


def limits(momenta: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9), tolerance: float = 1e-3) -> Tables:
    """The learning rate at which the optimizer begins to diverge on ½ x², by bisection, against the theory.

    Returns:
        ``limits``: rule, c (a₂, which in the family is c), momentum, predicted, observed, tolerance (half-width of
        the last bracket, whose centre is ``observed``).
    """
    methods = {**METHODS, "c=3/4": MultistepScheme.family(3 / 4)}
    rows = []
    for name, scheme in methods.items():
        for momentum in momenta:
            predicted, observed = scheme.stability_limit(momentum), observed_limit(scheme, momentum, tolerance)
            rows.append((name, scheme.weights[2], momentum, predicted, observed, tolerance))
    return {"limits": pd.DataFrame(rows, columns=["rule", "c", "momentum", "predicted", "observed", "tolerance"])}


def observed_limit(scheme: MultistepScheme, momentum: float, tolerance: float) -> float:
    """Bisect learning rates in (0, 8), which holds every limit 2 (1 + μ) and below, down to ± ``tolerance``."""
    low, high = 0.0, 8.0
    while high - low > 2.0 * tolerance:
        middle = (low + high) / 2.0
        low, high = (low, middle) if diverges(scheme, momentum, middle) else (middle, high)
    return (low + high) / 2.0


def diverges(scheme: MultistepScheme, momentum: float, lr: float, steps: int = 600, window: int = 50) -> bool:
    """Whether the oscillations of x on ½ x² grow: the largest |x| of the last window exceeds that of the third.

    In the first two windows the stable modes die out. As soon as |x| reaches 1e6, x is taken to diverge.
    """
    sizes = []
    start = torch.ones(1, dtype=torch.float64)
    for state in descend(start, lambda x: x, lr, steps, scheme=scheme, momentum=momentum):
        sizes.append(abs(state.item()))
        if not sizes[-1] < 1e6:
            return True
    return max(sizes[-window:]) > max(sizes[2 * window : 3 * window])


# ---------------------------------------------------------------- stationary noise


def noise(chains: int = 2000, length: int = 1500) -> Tables:
    """Variance of x on ½ x² with gradient noise of variance 1, over independent chains, against the theory.

    Returns:
        ``noise``: rule, momentum, h, predicted, measured, standard_error (over chains), to_euler (predicted, over
        Euler's at the same h and momentum).
    """
    settings = [(0.0, h) for h in (0.05, 0.2, 0.5, 0.9)] + [(0.9, h) for h in (0.05, 0.2, 0.45)]
    rows = []
    for momentum, h in settings:
        euler = METHODS["euler"].stationary_variance(h, momentum)
        for name, scheme in METHODS.items():
            if h < scheme.stability_limit(momentum):
                predicted = scheme.stationary_variance(h, momentum)
                measured = measure_variance(scheme, h, momentum, chains, length)
                rows.append((name, momentum, h, predicted, *measured, predicted / euler))
    columns = ["rule", "momentum", "h", "predicted", "measured", "standard_error", "to_euler"]
    return {"noise": pd.DataFrame(rows, columns=columns)}


def measure_variance(
    scheme: MultistepScheme, h: float, momentum: float, chains: int, length: int
) -> tuple[float, float]:
    """Mean of x² over ``length`` steps and all chains, after the start is forgotten to 1e-4, and its standard error.

    The mean of x is 0. Chains are independent, so the error is that of the mean of their time averages. Every call
    draws the same noise.
    """
    generator = torch.Generator().manual_seed(SEED)
    slowest = max(abs(root) for root in scheme.roots(h, momentum))
    burn_in = math.ceil(math.log(1e-4) / math.log(slowest))
    start = torch.zeros(chains, dtype=torch.float64)
    squares = torch.zeros_like(start)

    def gradient(x: Tensor) -> Tensor:
        return x + torch.randn(chains, generator=generator, dtype=torch.float64)

    for n, state in enumerate(descend(start, gradient, h, burn_in + length, scheme=scheme, momentum=momentum)):
        if n >= burn_in:
            squares += state.square()
    averages = squares / length
    return float(averages.mean()), float(averages.std(correction=1)) / math.sqrt(chains)


MEASURE: dict[str, Callable[[], Tables]] = {
    "order": order,
    "regions": regions,
    "early": early,
    "frequency": frequency,
    "limits": limits,
    "noise": noise,
}
