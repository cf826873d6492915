"""TM-SGD: plain SGD up to a switch, then a Taylor multistep method.

Source: "Enhancing Deep Learning with Optimized Gradient Descent: Bridging Numerical Methods and Neural
Network Training" (arXiv 2409.04707), eq. (8): W⁺ = 1.5 W − W₋₁ + 0.5 W₋₂ − ε g.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterable
from itertools import compress
from numbers import Integral
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from tmsgd_bench.optim import fused as one_pass
from tmsgd_bench.optim import portable
from tmsgd_bench.optim.kernels import (
    DIRECTION,
    NEWEST,
    OLDER,
    Phase,
    Rule,
    State,
    foreach_step,
    foreach_suits,
    foreach_unavailable,
    loop_step,
)
from tmsgd_bench.optim.schemes import MultistepScheme

INSTANTS = 3  # W, W₋₁ and W₋₂
AUTO = "auto"
LARGE = 1 << 24
"""A group with at least so many weights uses the fused step by default on a GPU; for fewer, ``foreach`` is as fast."""
_LOST = (
    "The loaded state of TMSGD is that of step {step}, but holds no {lost}, so training does not go on exactly as it "
    "would have: load into what get_optimizer_state_dict gives for an optimizer with the same momentum."
)
_AT_ONCE = (
    "TMSGD starts with the multistep method, because no switch_step was given. That is the phase in which it is least "
    "stable: give the number of steps of plain SGD before it, or switch_step=0 to start with it and silence this."
)
COUNTS = ("switch_step", "restart_every", "step")
REALS = ("lr", "momentum", "weight_decay")
OF_OTHERS = frozenset({"betas", "eps", "etas", "lambd"})
"""Options that neither TMSGD nor SGD has, and one of which each of torch's other optimizers has, but for LBFGS."""


class TMSGD(Optimizer):
    r"""SGD for ``switch_step`` steps, then the multistep method, in difference form.

    With d the descent direction (the gradient, plus weight decay, or its heavy-ball average):

    - before the switch   W⁺ = W − ε d, bit for bit what :class:`torch.optim.SGD` computes;
    - at the switch       two such steps, whose displacements u and u₋₁ become the history;
    - afterwards          u⁺ = α u + β u₋₁ − b ε d,  W⁺ = W + u⁺.

    ``taylor3``, the paper's eq. (8), has α = 0.5, β = −0.5, b = 1. The difference form halves the rounding error of
    eq. (8) and needs no copies of old weights. On a quadratic of curvature λ the method is stable only for ε λ < 1,
    and SGD for ε λ < 2. So switch late, when ε λ has fallen.

    State: nothing before the switch (a momentum buffer with ``momentum``), and two tensors of the parameter's shape and
    dtype for each parameter after it. For ``torch.distributed.checkpoint``, missing tensors are filled with zeros until
    the next step. The step count is in the parameter groups, so training loops, schedulers and ``state_dict`` need
    nothing special.

    Args:
        params: parameters, or groups with their own options (all except ``step``).
        lr: ε > 0 or 0; a float or a one-element tensor.
        momentum: μ of the heavy ball v⁺ = μ v + g, used in place of g (TM-SGD-M); 0 for none.
        weight_decay: adds weight_decay · W to the gradient.
        switch_step: optimizer steps of plain SGD before the multistep method; 0 starts with it at once, and "auto"
            (experimental) waits for :meth:`switch`. None is 0 with a warning, unless every group has a later one.
        scheme: a name from :data:`SCHEMES`, a :class:`MultistepScheme`, or coefficients (a₀, a₁, a₂, b).
        restart_every: forget the history at every multiple of so many steps; None never does.
        foreach: one call for many tensors, instead of a loop. None uses it for plain tensors on GPUs, as torch does.
        fused: one pass over memory for all tensors. None uses it on the CPU, and on a GPU with Triton for groups of 2²⁴
            weights and more; True uses it for all. On the CPU, step.c is compiled once for each machine, at the first
            step, in about half a second. If the fused step is not available, a warning says why, and the loop or
            ``foreach`` is used. On processors with a fused multiply-add, the CPU's fused step gives the loop's bits in
            float32 and float64.
        maximize: ascend instead of descend.

    Raises:
        ValueError: an option is out of its range, or the scheme does not converge.
        RuntimeError: torch lacks what ``foreach=True`` needs; at ``step``, if a gradient is sparse.

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
        params: ParamsT,
        lr: float | Tensor,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        switch_step: int | Literal["auto"] | None = None,
        *,
        scheme: str | MultistepScheme | Iterable[float] = "taylor3",
        restart_every: int | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "switch_step": 0 if switch_step is None else switch_step,
            "scheme": _coefficients(scheme),
            "restart_every": restart_every,
            "foreach": foreach,
            "fused": fused,
            "maximize": maximize,
            "differentiable": False,  # torch adds it to every state that is loaded
        }
        _check_options(defaults)
        super().__init__(params, _plain(defaults))
        if switch_step is None and any(group["switch_step"] == 0 for group in self.param_groups):
            warnings.warn(_AT_ONCE, UserWarning, stacklevel=2)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group. Its options are checked, and it starts at the step count of the other groups."""
        if "scheme" in param_group:
            param_group["scheme"] = _coefficients(param_group["scheme"])
        _check_options({**self.defaults, **param_group})
        param_group.update(_plain(param_group))
        if self.param_groups:
            first = self.param_groups[0]
            param_group.setdefault("step", first["step"])
            if self.defaults["switch_step"] == AUTO:  # switch() may have been called already
                param_group.setdefault("switch_step", first["switch_step"])
        param_group.setdefault("step", 0)
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load a state, also one of ``torch.optim.SGD`` or of an older version.

        Options that the state lacks keep their values. A state of SGD has no step count, so ``switch_step`` then counts
        from this optimizer's own.

        Raises:
            ValueError: the state is of SGD with Nesterov momentum or dampening, or of another optimizer, or an option
                is out of its range; nothing is changed then.
        """
        _check_loaded(state, getattr(self, "defaults", None) or state["defaults"])
        old_groups = [dict(group) for group in getattr(self, "param_groups", ())]
        super().__setstate__(state)
        self._settle([*self.state])
        for index, group in enumerate(self.param_groups):
            old = old_groups[index] if index < len(old_groups) else self.defaults
            for name in (*self.defaults, "step"):
                group.setdefault(name, old.get(name, 0))

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """The state, in the form of torch's optimizers.

        If the program has imported ``torch.distributed.checkpoint.state_dict``, the state always has the same tensors,
        and missing ones are zero; see :mod:`tmsgd_bench.optim.portable`.
        """
        if portable.in_use():
            self._complete()
        return super().state_dict()

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; a warning names tensors that it should have and lacks.

        Raises:
            ValueError: see :meth:`__setstate__`, or its groups are not of the sizes of this optimizer's.
        """
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            self._drop_unmarked(group)
        present = {name for state in self.state.values() for name in state}
        for group in self.param_groups:
            if lost := [name for name in _expected(group) if name not in present]:
                warnings.warn(
                    _LOST.format(step=group["step"], lost=" and no ".join(lost)), RuntimeWarning, stacklevel=2
                )
                return

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; returns the value of ``closure``, if there is one.

        Raises:
            RuntimeError: a gradient is sparse, or torch lacks what a group's ``foreach=True`` needs.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grads = [[p.grad for p in group["params"]] for group in self.param_groups]
        if {grad.layout for group_grads in grads for grad in group_grads if grad is not None} - {torch.strided}:
            raise RuntimeError(
                "TMSGD does not support sparse gradients, because its history moves every weight: "
                "build the embedding with sparse=False."
            )
        if closure is None and not self.state and not _recording() and portable.initialises(self.param_groups):
            self._complete()
            return loss
        for group, group_grads in zip(self.param_groups, grads, strict=True):
            self._step_group(group, group_grads)
        return loss

    def switch(self) -> None:
        """Start the multistep method with the next step, in every group that has not switched yet."""
        for group in self.param_groups:
            if not _switched(group):
                group["switch_step"] = group["step"]

    def _step_group(self, group: dict[str, Any], grads: list[Tensor | None]) -> None:
        if _restarts(group):
            self._forget(group["params"])
        for phase, (params, states) in self._by_phase(group, grads).items():
            rule = _rule(group, phase)
            if _wants_fused(group, params) and not rule.in_place:
                params, states = one_pass.step(params, states, rule, lambda device: not _reported(device))
            if params:
                kernel = foreach_step if _uses_foreach(group, params) else loop_step
                kernel(params, states, rule)
        group["step"] += 1

    def _by_phase(
        self, group: dict[str, Any], grads: list[Tensor | None]
    ) -> dict[Phase, tuple[list[Tensor], list[State]]]:
        """Parameters with a gradient and their states, by phase: one that joins after the switch starts its history."""
        params = [p for p, grad in zip(group["params"], grads, strict=True) if grad is not None]
        if not params:
            return {}
        switched = _switched(group)
        states = self._states(params, group)
        if any([portable.PRESENT in state for state in states]):  # noqa: C419 - a list is faster
            self._settle(group["params"])
            states = self._states(params, group)
        if not switched:
            if any([NEWEST in state for state in states]):  # noqa: C419
                self._forget(params)  # switch_step was raised after the switch: the history is out of date
                states = self._states(params, group)
            return {Phase.PLAIN: (params, states)}
        complete = [OLDER in state for state in states]
        if all(complete):
            return {Phase.HISTORY: (params, states)}
        batches = {Phase.START: [not done for done in complete], Phase.HISTORY: complete}
        return {
            phase: (list(compress(params, chosen)), list(compress(states, chosen)))
            for phase, chosen in batches.items()
            if any(chosen)
        }

    def _states(self, params: list[Tensor], group: dict[str, Any]) -> list[State]:
        """Their states. A state that stays empty is not added to ``self.state``, as in SGD; FSDP relies on this."""
        all_states = self.state
        if _switched(group) or group["momentum"] != 0:
            return [all_states[p] for p in params]
        return [all_states.get(p) or {} for p in params]

    def _forget(self, params: list[Tensor]) -> None:
        self._keep(params, lambda state: {name: state[name] for name in state if name not in (NEWEST, OLDER)})

    def _settle(self, params: list[Tensor]) -> None:
        self._keep(params, portable.settled)

    def _keep(self, params: list[Tensor], chosen: Callable[[State], State]) -> None:
        for p in params:
            if state := chosen(self.state.get(p, {})):
                self.state[p] = state
            else:
                self.state.pop(p, None)

    def _drop_unmarked(self, group: dict[str, Any]) -> None:
        """Drop zeros in place of a history that cannot exist yet.

        torch loses ``present``, which would tell them from a history, from some states that it has flattened.
        """
        early = {NEWEST, OLDER}.difference(_expected(group))
        for p in group["params"]:
            state = self.state.get(p, {})
            for name in early.intersection(state):
                if not portable.is_nonzero(state[name]):
                    del state[name]
        self._settle(group["params"])

    def _complete(self) -> None:
        """Fill every state with zeros for the tensors that it lacks; the next step removes those it does not need."""
        for group in self.param_groups:
            for p in group["params"]:
                if p in self.state or p.requires_grad:
                    self.state[p] = portable.completed(p, self.state[p], group["momentum"])


def _coefficients(scheme: Any) -> tuple[float, ...]:
    return MultistepScheme.resolve(scheme).coefficients(INSTANTS)


def _rule(group: dict[str, Any], phase: Phase) -> Rule:
    if not isinstance(group["scheme"], tuple) or len(group["scheme"]) != INSTANTS + 1:  # the user changed the group
        group["scheme"] = _coefficients(group["scheme"])
    a0, _, a2, gain = group["scheme"]
    recorded, lr = _recorded(group, phase), group["lr"]
    return Rule(
        phase=phase,
        lr=lr if recorded and isinstance(lr, Tensor) else float(lr),
        momentum=group["momentum"],
        weight_decay=group["weight_decay"],
        maximize=group["maximize"],
        alpha=a0 - 1.0,
        beta=-a2,
        gain=gain,
        in_place=recorded,
    )


def _recorded(group: dict[str, Any], phase: Phase) -> bool:
    """Whether torch.compile or a CUDA graph records this step, to replay it on the same tensors."""
    if not _recording():
        return False
    if torch.compiler.is_compiling():
        return True
    if phase is Phase.START or (phase is Phase.HISTORY and group["restart_every"] is not None):
        raise RuntimeError(
            "a CUDA graph repeats one step, so capture TMSGD before its switch, or from the third step after it, "
            "with restart_every=None, and again after the switch."
        )
    return True


def _recording() -> bool:
    if torch.compiler.is_compiling():
        return True
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _uses_foreach(group: dict[str, Any], params: list[Tensor]) -> bool:
    foreach = group["foreach"]
    if foreach:
        _require_foreach()
        return True
    if foreach is False or not foreach_suits(params):
        return False
    if reason := foreach_unavailable():
        _warn_of_the_loop(reason)
    return not reason


def _require_foreach() -> None:
    if reason := foreach_unavailable():
        raise RuntimeError(f"TMSGD cannot step with foreach=True: {reason}. Say foreach=False, or leave it out.")


@functools.cache
def _warn_of_the_loop(reason: str) -> None:
    """Warn once in a process; the result is cached."""
    warnings.warn(
        f"TMSGD steps with a loop, more slowly: {reason}. foreach=False asks for that and silences this.",
        RuntimeWarning,
        stacklevel=2,
    )


def _wants_fused(group: dict[str, Any], params: list[Tensor]) -> bool:
    """Whether to use the fused step if it is available. By default this depends on the first parameter's device."""
    if group["fused"] is None and group["foreach"] is None:
        return _fused_by_default(params[0].device.type, params)
    return bool(group["fused"])


def _fused_by_default(device: str, params: list[Tensor]) -> bool:
    return device == "cpu" or (device == "cuda" and sum([p.numel() for p in params]) >= LARGE)


@functools.cache
def _reported(device: str) -> str:
    """Why a device type has no fused step, with a warning once in a process; empty if it has one."""
    if reason := one_pass.unavailable(device):
        warnings.warn(
            f"TMSGD takes its step on {device} without the fused implementation, more slowly: {reason}. "
            "fused=False asks for that and silences this.",
            RuntimeWarning,
            stacklevel=2,
        )
    return reason


def _switched(group: dict[str, Any]) -> bool:
    return group["switch_step"] != AUTO and bool(group["step"] >= group["switch_step"])


def _restarts(group: dict[str, Any]) -> bool:
    every = group["restart_every"]
    return every is not None and _switched(group) and bool(group["step"] % every == 0)


def _expected(group: dict[str, Any]) -> list[str]:
    """The tensors that a group's parameters have in their states now, if they always had a gradient."""
    step, momentum = group["step"], [DIRECTION] if group["momentum"] != 0 and group["step"] > 0 else []
    if not _switched(group):
        return momentum
    restarted = (step - 1) // group["restart_every"] * group["restart_every"] if group["restart_every"] else 0
    return momentum + [NEWEST, OLDER][: step - max(group["switch_step"], restarted)]


def _check_options(options: dict[str, Any]) -> None:
    """Raise ValueError if an option is out of its range, and RuntimeError if torch lacks what it needs."""
    lr = options["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    for name, label in (
        ("lr", "learning rate"),
        ("momentum", "momentum value"),
        ("weight_decay", "weight_decay value"),
    ):
        _check_number(label, options[name])
    if options["switch_step"] != AUTO:
        _check_count("switch_step", options["switch_step"], least=0, other='or "auto"')
    if options["restart_every"] is not None:
        _check_count("restart_every", options["restart_every"], least=1, other="or None")
    _check_count("step", options.get("step", 0), least=0)
    _check_flags(options)


def _check_flags(options: dict[str, Any]) -> None:
    for name, known in (("maximize", (True, False)), ("foreach", (True, False, None)), ("fused", (True, False, None))):
        if not any(options[name] is value for value in known):
            raise ValueError(f"Invalid {name} value: {options[name]!r}, must be one of {', '.join(map(str, known))}")
    if options["fused"] and options["foreach"]:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    if options["foreach"]:
        _require_foreach()


def _check_loaded(state: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raise ValueError if a state is of another optimizer, or has options that the constructor would refuse."""
    known = {*portable.TENSORS, portable.PRESENT}
    if foreign := {key for entry in state.get("state", {}).values() for key in entry} - known:
        raise ValueError(
            f"TMSGD cannot go on from a state that holds {', '.join(sorted(map(str, foreign)))}: it takes over its own "
            "and those of torch.optim.SGD."
        )
    for group in state.get("param_groups", ()):
        if others := OF_OTHERS & group.keys():  # before its first step a state has no tensors
            raise ValueError(f"TMSGD cannot go on from a state with {min(others)}: it is of another optimizer.")
        if group.get("nesterov") or group.get("dampening"):
            raise ValueError("TMSGD cannot go on from a state of SGD with nesterov or dampening: it has neither.")
        if "scheme" in group:
            group["scheme"] = _coefficients(group["scheme"])
        _check_options({**defaults, **group})


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options with Python's numbers: a checkpoint with NumPy's cannot be loaded with ``weights_only=True``."""
    counts = {name: int(value) for name, value in options.items() if name in COUNTS and isinstance(value, Integral)}
    reals = {name: float(value) for name, value in options.items() if name in REALS and not isinstance(value, Tensor)}
    return {**options, **counts, **reals}


def _check_number(label: str, value: Any) -> None:
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # also a tensor of several values, a huge integer
        number = math.nan
    # A NaN fails every comparison, so it is refused here together with negative values.
    if not (number >= 0.0 and math.isfinite(number)):
        raise ValueError(f"Invalid {label}: {value!r}, must be a finite number >= 0")


def _check_count(name: str, value: Any, least: int, other: str = "") -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise ValueError(f"Invalid {name} value: {value}, must be an integer >= {least} {other}".rstrip())
