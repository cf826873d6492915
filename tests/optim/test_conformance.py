"""TMSGD in PyTorch's own table of optimizers: what every optimizer of torch must do, with every combination of options.

The table is ``torch.testing._internal.common_optimizers``, which ships with torch; the rows of SGD that apply are taken
from it. Every row crosses the switch within the steps taken here.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from optim_helpers import (
    DEVICES,
    IMPLEMENTATIONS,
    assert_agree,
    assert_same_bits,
    copies,
    each_device,
    each_implementation,
    give_gradients,
    held,
    recursion,
    saved_and_loaded,
    skip_without,
    train,
    use,
    weights,
)
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tmsgd_bench.optim import TMSGD


def torchs_table() -> Any:
    """The module with the table. Its import would forbid the other tests of this process to set torch's flags."""
    with mock.patch.object(torch.backends, "disable_global_flags", lambda: None):
        return pytest.importorskip(
            "torch.testing._internal.common_optimizers", reason="torch's tests of optimizers need expecttest"
        )


table = torchs_table()

SWITCH = 3
STEPS = 9  # the history is full after SWITCH + 2
SHAPES = [(4, 3), (5,), (2, 3, 4, 4), (), (0, 2), (300,)]
EVERYTHING = {"momentum": 0.9, "weight_decay": 0.1, "maximize": True, "restart_every": 4, "scheme": "nine_eighths"}
OWN_ROWS: dict[str, dict[str, Any]] = {
    "multi-step from the start": {"switch_step": 0},
    "waits to be switched": {"switch_step": "auto"},
    "named scheme": {"scheme": "nine_eighths"},
    "coefficients": {"scheme": (0.75, 0.0, 0.25, 1.5)},
    "restarts": {"restart_every": 4},
    "vector lr": {"lr": torch.tensor([0.01])},
    "everything": EVERYTHING,
}
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a negative rate": ({"lr": -0.5}, ValueError, "Invalid learning rate: -0.5"),
    "a negative momentum": ({"momentum": -0.5}, ValueError, "Invalid momentum value: -0.5"),
    "a negative decay": ({"weight_decay": -0.5}, ValueError, "Invalid weight_decay value: -0.5"),
    "a negative switch": ({"switch_step": -1}, ValueError, "Invalid switch_step value: -1"),
    "an unknown word for the switch": ({"switch_step": "later"}, ValueError, 'integer >= 0 or "auto"'),
    "no restart interval": ({"restart_every": 0}, ValueError, "Invalid restart_every value: 0"),
    "an unknown scheme": ({"scheme": "leapfrog"}, ValueError, "unknown scheme 'leapfrog'"),
    "two implementations": ({"foreach": True, "fused": True}, RuntimeError, "cannot be `True` together"),
    "nesterov": ({"nesterov": True}, TypeError, "nesterov"),
    "capturable": ({"capturable": True}, TypeError, "capturable"),
    "differentiable": ({"differentiable": True}, TypeError, "differentiable"),
}


def optim_inputs(device: str, dtype: torch.dtype | None = None) -> list[Any]:
    rows = [row for row in table.optim_inputs_func_sgd(device, dtype) if not {"nesterov", "dampening"} & {*row.kwargs}]
    rows += [table.OptimizerInput(None, options, name) for name, options in OWN_ROWS.items()]
    base = {"lr": 0.01, "switch_step": SWITCH}
    return [table.OptimizerInput(None, base | row.kwargs, row.desc) for row in rows]


def optim_error_inputs(device: str, dtype: torch.dtype) -> list[Any]:
    general = table.get_error_inputs_for_all_optims(device, dtype)
    own = [
        table.ErrorOptimizerInput(
            table.OptimizerInput(None, options, name), error_type=error, error_regex=message.replace("`", ".")
        )
        for name, (options, error, message) in REFUSED.items()
    ]
    return [*general, *own]


INFO = table.OptimizerInfo(
    TMSGD,
    optim_inputs_func=optim_inputs,
    optim_error_inputs_func=optim_error_inputs,
    scheduler_inputs=next(info for info in table.optim_db if info.optim_cls is torch.optim.SGD).scheduler_inputs,
    supported_impls=("foreach", "fused"),
    not_og_supported_flags=("foreach", "fused", "maximize", "restart_every"),
    supports_fused_on=("cpu", "cuda"),
)
CONFIGS = [
    pytest.param(device, row.kwargs | flags, id=f"{device}-{implementation}-{row.desc}")
    for device in DEVICES
    for implementation, flags in IMPLEMENTATIONS.items()
    for row in optim_inputs(device)
]
each_config = pytest.mark.parametrize(("device", "options"), CONFIGS)
each_row = pytest.mark.parametrize("row", [pytest.param(row.kwargs, id=row.desc) for row in optim_inputs("cpu")])


def build(
    options: dict[str, Any],
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    shapes: list[tuple[int, ...]] = SHAPES,
) -> tuple[list[Parameter], TMSGD]:
    """Fresh parameters and their optimizer; a tensor among the options is copied, because schedulers write to it."""
    skip_without("fused" if options.get("fused") else "other", device)
    params = weights(shapes, dtype, device)
    return params, TMSGD(params, **copy.deepcopy(options))


def assert_equal_states(one: Any, other: Any) -> None:
    """Two state_dicts, values and types alike."""
    assert one.keys() == other.keys()
    assert list(one["state"]) == list(other["state"])
    for index, kept in one["state"].items():
        assert list(kept) == list(other["state"][index])
        assert_same_bits(list(kept.values()), list(other["state"][index].values()))
    for group, twin in zip(one["param_groups"], other["param_groups"], strict=True):
        assert group == twin
        assert {name: type(value) for name, value in group.items()} == {
            name: type(value) for name, value in twin.items()
        }


def test_importing_torchs_table_leaves_the_flags_of_torch_free_to_be_set() -> None:
    assert not torch.backends.flags_frozen()


# ---------------------------------------------------------------- refused inputs


@pytest.mark.parametrize(
    "refused",
    [pytest.param(row, id=row.optimizer_error_input.desc) for row in optim_error_inputs("cpu", torch.float32)],
)
def test_what_torch_refuses_or_warns_of_is_refused_or_warned_of_alike(refused: Any) -> None:
    given = refused.optimizer_error_input
    params = [Parameter(torch.randn(2, 3))] if given.params is None else given.params
    expecting = pytest.warns if issubclass(refused.error_type, Warning) else pytest.raises
    with expecting(refused.error_type, match=refused.error_regex):
        TMSGD(params, **({"lr": 0.1} | given.kwargs))


# ---------------------------------------------------------------- three implementations


@each_row
@pytest.mark.parametrize("implementation", ["foreach", "fused"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_device
def test_foreach_and_fused_match_the_loop(
    device: str, dtype: torch.dtype, implementation: str, row: dict[str, Any]
) -> None:
    """Bit for bit on the CPU, weights and state, at every step; within rounding on a GPU."""
    params, optimizer = build(row | IMPLEMENTATIONS[implementation], device, dtype)
    expected, loop = build(row | IMPLEMENTATIONS["loop"], device, dtype)
    for step in range(STEPS):
        train(optimizer, params, range(step, step + 1))
        train(loop, expected, range(step, step + 1))
        assert_agree(held(optimizer, params), held(loop, expected), device)


def roundings(param: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """How far two implementations may lie apart after one step, in the parameter, the history and the heavy ball.

    Each makes at most 8 roundings, each of at most half an eps of terms no larger than these sums of magnitudes.
    """
    a0, _, a2, gain = group["scheme"]
    u, before, ball = (
        state.get(name, torch.zeros_like(param)).double().abs()
        for name in ("displacement", "previous_displacement", "momentum_buffer")
    )
    assert param.grad is not None
    size = param.detach().double().abs()
    direction = param.grad.double().abs() + group["weight_decay"] * size + group["momentum"] * ball
    history = abs(a0 - 1) * u + abs(a2) * before + float(group["lr"]) * max(gain, 1.0) * direction
    eps = 8 * torch.finfo(param.dtype).eps
    return eps * (size + history), eps * history, eps * direction


@each_row
@pytest.mark.parametrize("implementation", ["foreach", "fused"])
@each_device
def test_in_bfloat16_one_step_differs_from_the_loops_by_its_roundings(
    device: str, implementation: str, row: dict[str, Any]
) -> None:
    """From equal weights and state at every step, so that no error is carried on."""
    skip_without(implementation, device)
    params, loop = build(row | IMPLEMENTATIONS["loop"], device, torch.bfloat16)
    for step in range(STEPS):
        give_gradients(params, step)
        bounds = [roundings(p, loop.state[p], loop.param_groups[0]) for p in params]
        twins, other = copy.deepcopy((params, loop))
        use(other, implementation)
        for optimizer, own in ((loop, params), (other, twins)):
            give_gradients(own, step)
            optimizer.step()
        for p, q, (of_param, of_history, of_ball) in zip(params, twins, bounds, strict=True):
            assert bool(((p.double() - q.double()).abs() <= of_param).all())
            for name, one in loop.state[p].items():
                bound = of_ball if name == "momentum_buffer" else of_history
                assert bool(((one.double() - other.state[q][name].double()).abs() <= bound).all())


@each_row
@each_implementation
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_maximizing_is_minimizing_with_the_opposite_gradient(
    dtype: torch.dtype, implementation: str, row: dict[str, Any]
) -> None:
    params, up = build(row | IMPLEMENTATIONS[implementation] | {"maximize": True}, dtype=dtype)
    mirrored, down = build(row | IMPLEMENTATIONS[implementation] | {"maximize": False}, dtype=dtype)
    for step in range(STEPS):
        give_gradients(params, step)
        for p, q in zip(params, mirrored, strict=True):
            assert p.grad is not None
            q.grad = -p.grad
        up.step()
        down.step()
    assert_same_bits(held(up, params), held(down, mirrored))


# ---------------------------------------------------------------- state


@each_config
@pytest.mark.parametrize("moment", [1, STEPS], ids=["before the switch", "after the switch"])
def test_a_state_read_by_the_safe_loader_is_equal_and_goes_on_with_the_same_bits(
    moment: int, device: str, options: dict[str, Any]
) -> None:
    params, optimizer = build(options, device)
    train(optimizer, params, range(moment))
    saved = saved_and_loaded(optimizer.state_dict())
    assert_equal_states(saved, optimizer.state_dict())
    twins, other = build(options, device)
    other.load_state_dict(saved)
    assert_equal_states(other.state_dict(), optimizer.state_dict())
    with torch.no_grad():
        for p, q in zip(params, twins, strict=True):
            q.copy_(p)
    train(optimizer, params, range(moment, moment + STEPS))
    train(other, twins, range(moment, moment + STEPS))
    assert_same_bits(held(optimizer, params), held(other, twins))


@each_config
def test_a_state_of_a_version_without_the_newer_options_goes_on_with_the_same_bits(
    device: str, options: dict[str, Any]
) -> None:
    params, optimizer = build(options, device)
    train(optimizer, params, range(STEPS))
    older = copy.deepcopy(optimizer.state_dict())
    for flag in INFO.not_og_supported_flags:
        del older["param_groups"][0][flag]
    twins, other = copy.deepcopy((params, optimizer))
    other.load_state_dict(older)
    assert_equal_states(other.state_dict(), optimizer.state_dict())
    train(optimizer, params, range(STEPS, 2 * STEPS))
    train(other, twins, range(STEPS, 2 * STEPS))
    assert_same_bits(params, twins)


@each_config
def test_a_deep_copy_has_equal_attributes_and_shares_no_tensor(device: str, options: dict[str, Any]) -> None:
    params, optimizer = build(options, device)
    train(optimizer, params, range(STEPS))
    twins, other = copy.deepcopy((params, optimizer))
    public = {name for name in vars(optimizer) if not name.startswith("_")}
    assert public == {name for name in vars(other) if not name.startswith("_")}
    assert other.defaults == optimizer.defaults
    assert_equal_states(other.state_dict(), optimizer.state_dict())
    addresses = {t.data_ptr() for t in held(optimizer, params) if t.numel()}
    assert not addresses & {t.data_ptr() for t in held(other, twins) if t.numel()}


@each_config
def test_a_parameter_keeps_no_tensor_before_the_switch_and_two_of_its_size_after_it(
    device: str, options: dict[str, Any]
) -> None:
    params, optimizer = build(options | {"restart_every": None}, device)
    switch = math.inf if options["switch_step"] == "auto" else options["switch_step"]
    balls = ["momentum_buffer"] if options.get("momentum") else []
    history = ["displacement", "previous_displacement"]
    for step in range(STEPS):
        train(optimizer, params, range(step, step + 1))
        names = balls + history[: int(max(0, min(2, step + 1 - switch)))]
        for p in params:
            assert sorted(optimizer.state[p]) == sorted(names)
            assert all(
                (t.shape, t.dtype, t.device) == (p.shape, p.dtype, p.device) for t in optimizer.state[p].values()
            )


@each_config
@pytest.mark.parametrize("moment", [1, STEPS], ids=["before the switch", "after the switch"])
def test_a_step_without_gradients_changes_nothing_but_the_count(
    moment: int, device: str, options: dict[str, Any]
) -> None:
    params, optimizer = build(options | {"restart_every": None}, device)
    train(optimizer, params, range(moment))
    before = copies(held(optimizer, params))
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)
    optimizer.step()
    assert_same_bits(held(optimizer, params), before)
    assert optimizer.param_groups[0]["step"] == moment + 1


def test_names_of_parameters_are_kept_in_the_state_and_need_not_be_there_to_load_it() -> None:
    named, unnamed = weights(SHAPES, torch.float32), weights(SHAPES, torch.float32)
    optimizer = TMSGD([(f"layer {k}", p) for k, p in enumerate(named)], lr=0.1)
    other = TMSGD(unnamed, lr=0.1)
    train(optimizer, named, range(4))
    train(other, unnamed, range(4))
    assert_same_bits(named, unnamed)
    state = optimizer.state_dict()
    assert state["param_groups"][0]["param_names"] == [f"layer {k}" for k in range(len(named))]
    other.load_state_dict(copy.deepcopy(state))
    train(optimizer, named, range(4, 8))
    train(other, unnamed, range(4, 8))
    assert_same_bits(named, unnamed)


def test_a_printed_optimizer_shows_its_options() -> None:
    shown = repr(TMSGD([Parameter(torch.ones(1))], lr=0.25, switch_step=7, scheme="nine_eighths"))
    assert shown.startswith("TMSGD (")
    for line in ("lr: 0.25", "switch_step: 7", "scheme: (1.125, -0.5, 0.375, 1.25)", "step: 0"):
        assert line in shown


# ---------------------------------------------------------------- hooks


def test_hooks_of_one_optimizer_and_of_all_run_around_each_step_in_torchs_order() -> None:
    params, optimizer = build({"lr": 0.1})
    calls: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: calls.append(f"{name} {optimizer.param_groups[0]['step']}")

    handles = [
        optimizer.register_step_pre_hook(note("own before")),
        optimizer.register_step_post_hook(note("own after")),
        register_optimizer_step_pre_hook(note("all before")),
        register_optimizer_step_post_hook(note("all after")),
    ]
    train(optimizer, params, range(1))
    for handle in handles:
        handle.remove()
    train(optimizer, params, range(1, 2))
    assert calls == ["all before 0", "own before 0", "own after 1", "all after 1"]


def test_a_hook_may_give_the_step_its_closure() -> None:
    _, optimizer = build({"lr": 0.1})
    optimizer.register_step_pre_hook(lambda own, *_: ((own, lambda: 3.5), {}))
    assert optimizer.step() == 3.5


def with_half_the_rate(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "param_groups": [{**group, "lr": group["lr"] / 2} for group in state["param_groups"]]}


def test_hooks_on_saving_and_loading_see_and_may_change_the_state() -> None:
    _, optimizer = build({"lr": 0.1})
    calls: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda *_: calls.append("before saving"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "epoch": 4})
    optimizer.register_load_state_dict_pre_hook(with_half_the_rate)
    optimizer.register_load_state_dict_post_hook(lambda own: calls.append(f"loaded {own.param_groups[0]['lr']}"))
    state = optimizer.state_dict()
    assert state["epoch"] == 4
    optimizer.load_state_dict(state)
    assert calls == ["before saving", "loaded 0.05"]


# ---------------------------------------------------------------- unusual parameters and rates


@each_implementation
@each_device
def test_parameters_of_several_dtypes_in_one_group_move_as_each_would_alone(device: str, implementation: str) -> None:
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.float32]
    options: dict[str, Any] = {"lr": 0.05, "switch_step": SWITCH, "momentum": 0.9, **IMPLEMENTATIONS[implementation]}
    skip_without(implementation, device)
    together = [weights([(3, 7)], dtype, device, seed=k)[0] for k, dtype in enumerate(dtypes)]
    apart = copy.deepcopy(together)
    joint, single = TMSGD(together, **options), [TMSGD([p], **options) for p in apart]
    for step in range(STEPS):
        give_gradients(together, step)
        for p, q, optimizer in zip(together, apart, single, strict=True):
            assert p.grad is not None
            q.grad = p.grad.clone()
            optimizer.step()
        joint.step()
    assert_same_bits(together, apart)


@each_device
def test_strides_change_nothing_under_fused_and_are_kept_by_parameters_and_history(device: str) -> None:
    """Channels last is stepped in one pass, the others by the loop; the last one's gradients lie unlike itself."""
    skip_without("fused", device)
    shapes = [(4, 6), (2, 3, 4, 4), (8, 1, 3, 3), (5, 6), (2, 3, 2, 2)]
    packed = weights(shapes, torch.float32, device)
    flat, image, one_channel, rows, mixed = (p.detach().clone() for p in packed)
    strided = [
        Parameter(flat.t().contiguous().t()),
        Parameter(image.to(memory_format=torch.channels_last)),
        Parameter(one_channel.to(memory_format=torch.channels_last)),
        Parameter(torch.stack([rows, rows], dim=2)[:, :, 0]),
        Parameter(mixed.to(memory_format=torch.channels_last)),
    ]
    one, other = (TMSGD(params, 0.1, 0.9, 0.01, SWITCH, fused=True) for params in (strided, packed))
    for step in range(STEPS):
        give_gradients(packed, step)
        give_gradients(strided, step)
        strided[-1].grad = packed[-1].grad  # contiguous, unlike its parameter
        one.step()
        other.step()
    assert_agree(strided, packed, device)
    image_state = one.state[strided[1]]
    assert all(tensor.stride() == strided[1].stride() for tensor in image_state.values())


@each_implementation
@each_device
def test_a_group_of_empty_parameters_steps(device: str, implementation: str) -> None:
    params, optimizer = build(
        {"lr": 0.1, "momentum": 0.9, **IMPLEMENTATIONS[implementation]}, device, shapes=[(0,), (3, 0)]
    )
    train(optimizer, params, range(STEPS))
    assert [p.shape for p in params] == [(0,), (3, 0)]
    assert [t.shape for t in optimizer.state[params[1]].values()] == [(3, 0)] * 3


@each_implementation
@each_device
@pytest.mark.parametrize("shape", [(), (1,)], ids=["0 dimensions", "1 dimension"])
def test_a_rate_in_a_tensor_gives_the_bits_of_the_number_and_is_left_alone(
    shape: tuple[int, ...], device: str, implementation: str
) -> None:
    options: dict[str, Any] = {"momentum": 0.9, "switch_step": SWITCH, **IMPLEMENTATIONS[implementation]}
    rate = torch.full(shape, 0.1, dtype=torch.float64)
    skip_without(implementation, device)
    params, twins = weights(SHAPES, torch.float32, device), weights(SHAPES, torch.float32, device)
    by_tensor, by_number = TMSGD(params, rate, **options), TMSGD(twins, 0.1, **options)
    train(by_tensor, params, range(STEPS))
    train(by_number, twins, range(STEPS))
    assert_same_bits(held(by_tensor, params), held(by_number, twins))
    assert by_tensor.param_groups[0]["lr"] is rate
    assert torch.equal(rate, torch.full(shape, 0.1, dtype=torch.float64))


@each_implementation
def test_the_default_dtype_of_torch_does_not_matter(implementation: str) -> None:
    options: dict[str, Any] = {"lr": 0.05, **EVERYTHING, **IMPLEMENTATIONS[implementation]}
    params, optimizer = build(options)
    train(optimizer, params, range(STEPS))
    torch.set_default_dtype(torch.float64)
    try:
        twins, other = build(options)
        train(other, twins, range(STEPS))
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_bits(held(optimizer, params), held(other, twins))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU beside the CPU")
@each_implementation
def test_parameters_on_two_devices_in_one_group_move_as_each_would_alone(implementation: str) -> None:
    skip_without(implementation, "cuda")
    options: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, **IMPLEMENTATIONS[implementation]}
    together = [weights([(70,)], torch.float32, device)[0] for device in ("cpu", "cuda", "cpu")]
    apart = copy.deepcopy(together)
    joint, single = TMSGD(together, **options), [TMSGD([p], **options) for p in apart]
    for step in range(STEPS):
        give_gradients(together, step)
        give_gradients(apart, step)
        for optimizer in (joint, *single):
            optimizer.step()
    assert_same_bits(together, apart)


# ---------------------------------------------------------------- memory


class Allocations(TorchDispatchMode):
    """Counts the new tensors that operations return, by their number of elements."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = function(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in given:
                self.sizes.append(t.numel())
        return result


@each_device
@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9, "weight_decay": 0.1, "maximize": True}], ids=["plain", "all"]
)
def test_a_fused_step_allocates_its_state_once_and_nothing_of_a_parameters_size_afterwards(
    device: str, options: dict[str, Any]
) -> None:
    sizes = [100, 3000, 70_000]
    params, optimizer = build(
        {"lr": 0.1, "switch_step": 2, "fused": True, **options}, device, shapes=[(n,) for n in sizes]
    )
    large: list[list[int]] = []
    for step in range(7):
        give_gradients(params, step)
        with Allocations() as seen:
            optimizer.step()
        large.append([size for size in seen.sizes if size >= min(sizes)])
    balls = len(sizes) if options else 0
    assert [len(step) for step in large] == [balls, 0, len(sizes), len(sizes), 0, 0, 0]
    assert all(max(step, default=0) <= 1.02 * max(sizes) for step in large)


@each_implementation
def test_no_temporary_outlives_the_step(implementation: str) -> None:
    """After the switch a step leaves exactly the tensors that were there before it."""
    params, optimizer = build({"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, **IMPLEMENTATIONS[implementation]})
    train(optimizer, params, range(STEPS))
    before = {t.data_ptr() for t in held(optimizer, params)}
    train(optimizer, params, range(STEPS, STEPS + 2))
    assert {t.data_ptr() for t in held(optimizer, params)} == before


# ---------------------------------------------------------------- schedulers of torch's table


def advance(scheduler: LRScheduler | ReduceLROnPlateau) -> None:
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(1.0)
    else:
        scheduler.step()


def visited_with(optimizer: Optimizer, param: Tensor, constructors: Any, steps: int) -> tuple[Tensor, list[float]]:
    """The weights and the rate of each step, with several schedulers at once."""
    schedulers = [make(optimizer) for make in constructors]
    seen, rates = [], []
    for step in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        train(optimizer, [param], range(step, step + 1))
        seen.append(param.detach().clone())
        for scheduler in schedulers:
            advance(scheduler)
    return torch.stack(seen), rates


@each_implementation
@pytest.mark.parametrize("tensor", [False, True], ids=["float lr", "tensor lr"])
@pytest.mark.parametrize("constructors", INFO.scheduler_inputs, ids=lambda made: f"{len(made)} schedulers")
def test_schedulers_of_torchs_table_enter_each_step_at_once(
    constructors: Any, tensor: bool, implementation: str
) -> None:
    """Across the switch, which falls on a step where some of them change the rate, against a recursion in float64."""
    skip_without(implementation)
    [param] = weights([(20,)], torch.float64)
    start, steps, switch = param.detach().clone(), 40, 10
    rate = torch.tensor(0.1, dtype=torch.float64) if tensor else 0.1
    optimizer = TMSGD([param], rate, switch_step=switch, **IMPLEMENTATIONS[implementation])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        visited, rates = visited_with(optimizer, param, constructors, steps)
    assert len(set(rates)) > 1

    def gradient(step: int) -> Tensor:
        twin = Parameter(start.clone())
        give_gradients([twin], step)
        assert twin.grad is not None
        return twin.grad

    torch.testing.assert_close(visited, recursion(start, gradient, rates, switch=switch), rtol=1e-12, atol=1e-12)
