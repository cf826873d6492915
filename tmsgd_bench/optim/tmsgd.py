"""TM-SGD: plain SGD up to a switch, then a Taylor multi-step rule.

Source: "Enhancing Deep Learning with Optimized Gradient Descent: Bridging Numerical Methods and Neural
Network Training" (arXiv 2409.04707), eq. (8): W⁺ = 1.5 W − W₋₁ + 0.5 W₋₂ − ε g.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, _default_to_fused_or_foreach

from tmsgd_bench.optim.schemes import MultistepScheme

Coefficients = tuple[float, float, float, float]

DIRECTION = "momentum_buffer"
NEWEST = "displacement"  # u = W − W₋₁
OLDER = "previous_displacement"  # u₋₁ = W₋₁ − W₋₂


class TMSGD(Optimizer):
    r"""SGD for ``switch_step`` steps, then the multi-step rule, in difference form.

    With d the descent direction (the gradient, plus weight decay, or its heavy-ball average):

    - before the switch   W⁺ = W − ε d, bit for bit what :class:`torch.optim.SGD` computes;
    - at the switch       two such steps, whose displacements u and u₋₁ become the history;
    - afterwards          u⁺ = α u + β u₋₁ − b ε d,  W⁺ = W + u⁺.

    ``taylor3``, the paper's eq. (8), has α = 0.5, β = −0.5, b = 1. Writing eq. (8) with differences halves its
    rounding error and needs no copy of old weights. On a quadratic of curvature λ the rule is stable only
    for ε λ < 1, half of what SGD allows, which is why it is switched on late.

    State: nothing before the switch (a momentum buffer with ``momentum``), two tensors of the parameter's
    shape and dtype for each parameter after it. The step count lives in the parameter groups, so a training
    loop, a scheduler and ``state_dict`` need nothing special.

    Args:
        params: parameters, or groups with options of their own (all but ``step``).
        lr: ε > 0 or 0; a float or a one-element tensor.
        momentum: μ of the heavy ball v⁺ = μ v + g, used in place of g (TM-SGD-M); 0 for none.
        weight_decay: added to the gradient as weight_decay · W.
        switch_step: optimizer steps of plain SGD before the multi-step rule; 0 starts with it at once.
        scheme: a name from :data:`SCHEMES`, a :class:`MultistepScheme`, or coefficients (a₀, a₁, a₂, b).
        restart_every: forget the history at every multiple of this many steps; None never does.
        foreach: one call for many tensors, instead of a loop; None chooses as torch does.
        maximize: ascend instead of descend.

    Raises:
        ValueError: an option is out of its range, or the scheme does not converge.
        RuntimeError: at ``step``, if a gradient is sparse.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = TMSGD([weight], lr=0.1, switch_step=1)
        >>> for _ in range(4):
        ...     optimizer.zero_grad()
        ...     (0.5 * weight.square().sum()).backward()
        ...     optimizer.step()
        >>> round(weight[0].item(), 6)
        0.6606
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        switch_step: int = 0,
        *,
        scheme: str | MultistepScheme | Iterable[float] = "taylor3",
        restart_every: int | None = None,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "switch_step": switch_step,
            "scheme": _coefficients(scheme),
            "restart_every": restart_every,
            "foreach": foreach,
            "maximize": maximize,
        }
        _check_options(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its options are checked, and it joins at the step the others have reached."""
        if "scheme" in param_group:
            param_group["scheme"] = _coefficients(param_group["scheme"])
        _check_options({**self.defaults, **param_group})
        reached = self.param_groups[0]["step"] if self.param_groups else 0
        param_group.setdefault("step", reached)
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("restart_every", None)
            group.setdefault("foreach", None)
            group.setdefault("maximize", False)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; returns what ``closure`` returns, if one is given.

        Raises:
            RuntimeError: a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if any(p.grad.layout != torch.strided for p in params):
            raise RuntimeError(
                "TMSGD does not support sparse gradients, because its history moves every weight: "
                "build the embedding with sparse=False."
            )
        kernel = _foreach_kernel if _use_foreach(group, params) else _loop_kernel
        with_history = group["step"] >= group["switch_step"]
        if with_history and _restarts(group):
            self._forget(group["params"])
        for batch in self._by_history(params) if with_history else [params]:
            if batch:
                kernel(batch, [self.state[p] for p in batch], group, with_history)
        group["step"] += 1

    def _by_history(self, params: list[Tensor]) -> list[list[Tensor]]:
        """Split parameters by how much history they have: none, one displacement, or two."""
        split: list[list[Tensor]] = [[], [], []]
        for p in params:
            state = self.state[p]
            split[(NEWEST in state) + (OLDER in state)].append(p)
        return split

    def _forget(self, params: list[Tensor]) -> None:
        for p in params:
            self.state[p].pop(NEWEST, None)
            self.state[p].pop(OLDER, None)


def _coefficients(scheme: Any) -> Coefficients:
    resolved = MultistepScheme.resolve(scheme)
    return (*resolved.weights, resolved.gain)


def _restarts(group: dict[str, Any]) -> bool:
    every = group["restart_every"]
    return every is not None and group["step"] % every == 0


def _use_foreach(group: dict[str, Any], params: list[Tensor]) -> bool:
    if group["foreach"] is not None or not params:
        return bool(group["foreach"])
    return bool(_default_to_fused_or_foreach(params, differentiable=False, use_fused=False)[1])


def _check_options(options: dict[str, Any]) -> None:
    """Raise ValueError with the reason if an option is out of its range."""
    lr = options["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    # A NaN fails every comparison, so it is refused here together with negative values.
    for name, label in (
        ("lr", "learning rate"),
        ("momentum", "momentum value"),
        ("weight_decay", "weight_decay value"),
    ):
        if isinstance(options[name], str):
            raise ValueError(f"Invalid {label}: {options[name]!r}, must be a number")
        value = float(options[name])
        if not (value >= 0.0 and math.isfinite(value)):
            raise ValueError(f"Invalid {label}: {value}")
    if not _is_count(options["switch_step"], least=0):
        raise ValueError(f"Invalid switch_step value: {options['switch_step']}, must be an integer >= 0")
    if options["restart_every"] is not None and not _is_count(options["restart_every"], least=1):
        raise ValueError(f"Invalid restart_every value: {options['restart_every']}, must be None or an integer >= 1")


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _loop_kernel(
    params: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any], with_history: bool
) -> None:
    """One step of each tensor in turn: the implementation to read."""
    lr = float(group["lr"])
    a0, _, a2, gain = group["scheme"]
    for param, state in zip(params, states, strict=True):
        direction = _direction(param, state, group)
        if not with_history:
            param.add_(direction, alpha=-lr)
        elif OLDER not in state:  # self-starting: a plain SGD step that is remembered
            if NEWEST in state:
                state[OLDER] = state[NEWEST]
            state[NEWEST] = direction * -lr
            param.add_(state[NEWEST])
        else:  # u₋₁'s buffer receives u⁺, then the two names change places
            newest = state[OLDER].mul_(-a2).add_(state[NEWEST], alpha=a0 - 1.0).add_(direction, alpha=-lr * gain)
            state[OLDER], state[NEWEST] = state[NEWEST], newest
            param.add_(newest)


def _direction(param: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
    """The gradient with sign, weight decay and momentum, in the order of operations of torch.optim.SGD."""
    assert param.grad is not None  # step() passes over the others
    direction = -param.grad if group["maximize"] else param.grad
    if group["weight_decay"] != 0:
        direction = direction.add(param, alpha=group["weight_decay"])
    if group["momentum"] == 0:
        return direction
    if DIRECTION not in state:
        state[DIRECTION] = direction.detach().clone(memory_format=torch.preserve_format)
    else:
        state[DIRECTION].mul_(group["momentum"]).add_(direction)
    return state[DIRECTION]


def _foreach_kernel(
    params: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any], with_history: bool
) -> None:
    """The same step with one call for all tensors of a device and dtype: fewer launches on a GPU."""
    lr = float(group["lr"])
    a0, _, a2, gain = group["scheme"]
    for batch, held in _by_device_and_dtype(params, states):
        directions = _foreach_directions(batch, held, group)
        if not with_history:
            torch._foreach_add_(batch, directions, alpha=-lr)
        elif OLDER not in held[0]:
            _foreach_start(batch, held, directions, lr)
        else:
            newest, older = [s[NEWEST] for s in held], [s[OLDER] for s in held]
            torch._foreach_mul_(older, -a2)
            torch._foreach_add_(older, newest, alpha=a0 - 1.0)
            torch._foreach_add_(older, directions, alpha=-lr * gain)
            for state, now, before in zip(held, older, newest, strict=True):
                state[NEWEST], state[OLDER] = now, before
            torch._foreach_add_(batch, older)


def _foreach_start(params: list[Tensor], states: list[dict[str, Tensor]], directions: list[Tensor], lr: float) -> None:
    displacements = torch._foreach_mul(directions, -lr)
    for state, displacement in zip(states, displacements, strict=True):
        if NEWEST in state:
            state[OLDER] = state[NEWEST]
        state[NEWEST] = displacement
    torch._foreach_add_(params, displacements)


def _foreach_directions(params: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any]) -> list[Tensor]:
    grads: list[Any] = [p.grad for p in params]
    directions = list(torch._foreach_neg(grads)) if group["maximize"] else grads
    if group["weight_decay"] != 0:
        directions = list(torch._foreach_add(directions, params, alpha=group["weight_decay"]))
    if group["momentum"] == 0:
        return directions
    fresh = [DIRECTION not in state for state in states]
    for state, direction, new in zip(states, directions, fresh, strict=True):
        if new:
            state[DIRECTION] = direction.detach().clone(memory_format=torch.preserve_format)
    kept = [s[DIRECTION] for s, new in zip(states, fresh, strict=True) if not new]
    if kept:
        torch._foreach_mul_(kept, group["momentum"])
        torch._foreach_add_(kept, [d for d, new in zip(directions, fresh, strict=True) if not new])
    return [state[DIRECTION] for state in states]


def _by_device_and_dtype(
    params: list[Tensor], states: list[dict[str, Tensor]]
) -> Iterable[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    batches: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[dict[str, Tensor]]]] = {}
    for param, state in zip(params, states, strict=True):
        batch = batches.setdefault((param.device, param.dtype), ([], []))
        batch[0].append(param)
        batch[1].append(state)
    return batches.values()
