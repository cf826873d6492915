"""TMSGD on two processes: data parallel training, and its state divided between them.

The two processes are started once for all tests, because that takes seconds; each writes down what it has seen.
"""

from __future__ import annotations

import copy
import datetime
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from commands import FORKS
from optim_helpers import assert_same_bits, train, weights
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR

from tmsgd_bench.optim import TMSGD

if not (dist.is_available() and dist.is_gloo_available()):
    pytest.skip("torch is built without gloo", allow_module_level=True)

from torch.distributed.optim import ZeroRedundancyOptimizer

WORLD = 2
SECONDS = 120.0  # until a hanging run has failed
SWITCH = 4
STEPS = 14
SHAPES: list[tuple[int, ...]] = [(40, 3), (7,), (11, 2), (), (300,)]
CONSOLIDATED = {"before the switch": 2, "one after": SWITCH + 1, "after the switch": 9}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9, "weight_decay": 0.01},
    "named scheme": {"scheme": "nine_eighths", "restart_every": 5},
    "foreach": {"foreach": True},
}


# ---------------------------------------------------------------- what each process does


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)).double()


def loss_of(model: nn.Module, step: int, part: slice = slice(None)) -> Tensor:
    """The mean over 8 examples, or over a part of them."""
    inputs = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
    return (model(inputs[part]) - inputs[part].prod(dim=1, keepdim=True)).square().mean()


def fit(model: nn.Module, optimizer: Optimizer, part: slice = slice(None)) -> list[list[Tensor]]:
    """The weights after each step, with a rate that halves at the switch and after it."""
    scheduler, visited = StepLR(optimizer, SWITCH, 0.5), []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, step, part).backward()
        optimizer.step()
        scheduler.step()
        visited.append([p.detach().clone() for p in model.parameters()])
    return visited


def data_parallel(rank: int, options: dict[str, Any], views: bool, sharded: bool = False) -> list[list[Tensor]]:
    """Training in which each process sees its half of every batch."""
    model = DistributedDataParallel(network(), gradient_as_bucket_view=views)
    numbers = {"lr": 0.2, "switch_step": SWITCH, **options}
    if sharded:
        optimizer: Optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=TMSGD, **numbers)
    else:
        optimizer = TMSGD(model.parameters(), **numbers)
    return fit(model, optimizer, slice(4 * rank, 4 * rank + 4))


def divided(options: dict[str, Any]) -> dict[str, Any]:
    """Training with a divided state: weights after each step, how many states are kept here, and consolidated ones."""
    params = weights(SHAPES, torch.float32)
    zero = ZeroRedundancyOptimizer(params, optimizer_class=TMSGD, lr=0.1, switch_step=SWITCH, **options)
    seen: dict[str, Any] = {"visited": [], "states": {}}
    for step in range(STEPS):
        if step in CONSOLIDATED.values():
            zero.consolidate_state_dict(to=0)
            seen["states"][step] = copy.deepcopy(zero.state_dict()) if dist.get_rank() == 0 else None
        train(zero, params, range(step, step + 1))
        seen["visited"].append([p.detach().clone() for p in params])
    seen["own"] = [index for index, p in enumerate(params) if zero.optim.state.get(p)]
    return seen


def resumed(states: dict[int, Any]) -> list[Tensor]:
    """A divided optimizer that goes on from the consolidated state of another."""
    step = CONSOLIDATED["after the switch"]
    params = weights(SHAPES, torch.float32)
    first = TMSGD(params, 0.1, switch_step=SWITCH)
    train(first, params, range(step))
    zero = ZeroRedundancyOptimizer(params, optimizer_class=TMSGD, lr=5.0)
    carrier = [copy.deepcopy(states.get(step))]  # loading a state takes over its tensors
    dist.broadcast_object_list(carrier, src=0)
    zero.load_state_dict(carrier[0])  # type: ignore[arg-type]
    train(zero, params, range(step, STEPS))
    return [p.detach().clone() for p in params]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    if "lo" in (name for _, name in socket.if_nameindex()):
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # a machine without a network has no other
    wait = datetime.timedelta(seconds=SECONDS / 2)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD, timeout=wait)
    seen: dict[str, Any] = {
        "data parallel": {
            name: [data_parallel(rank, options, views) for views in (False, True)] for name, options in VARIANTS.items()
        },
        "both": data_parallel(rank, VARIANTS["momentum"], views=True, sharded=True),
        "divided": {name: divided(options) for name, options in VARIANTS.items()},
    }
    seen["resumed"] = resumed(seen["divided"]["plain"]["states"])
    from sharded_states import travelled

    seen["travelled"] = travelled(folder)
    seen["divided, with places"] = {name: divided(options) for name, options in VARIANTS.items()}
    seen["resumed, with places"] = resumed(seen["divided, with places"]["plain"]["states"])
    torch.save(seen, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


# ---------------------------------------------------------------- starting them


def until_done(context: Any) -> None:
    """Wait for the processes; fail with their error, or when they hang."""
    end = time.monotonic() + SECONDS
    try:
        while not context.join(timeout=5.0):
            if time.monotonic() > end:
                pytest.fail(f"two processes did not finish within {SECONDS:.0f} s")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
                process.join()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes has seen."""
    folder: Path = tmp_path_factory.mktemp("two-processes")
    until_done(start_processes(work, (str(folder),), WORLD, join=False, start_method=FORKS.get_start_method()))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


# ---------------------------------------------------------------- data parallel

variants = pytest.mark.parametrize("variant", VARIANTS)


@variants
@pytest.mark.parametrize("views", [0, 1], ids=["own gradients", "gradients in buckets"])
def test_two_processes_on_half_a_batch_each_train_as_one_on_the_whole(
    variant: str, views: int, seen: list[dict[str, Any]]
) -> None:
    """At every step, across the switch and changes of the rate; up to the rounding of a mean of two means."""
    model = network()
    expected = fit(model, TMSGD(model.parameters(), 0.2, switch_step=SWITCH, **VARIANTS[variant]))
    visited = seen[0]["data parallel"][variant][views]
    torch.testing.assert_close(visited, expected, rtol=1e-12, atol=1e-12)
    assert not torch.equal(expected[-1][0], expected[SWITCH][0])


@variants
@pytest.mark.parametrize("views", [0, 1], ids=["own gradients", "gradients in buckets"])
def test_both_processes_keep_the_same_bits(variant: str, views: int, seen: list[dict[str, Any]]) -> None:
    one, other = (process["data parallel"][variant][views] for process in seen)
    for ours, theirs in zip(one, other, strict=True):
        assert_same_bits(ours, theirs)


def test_whether_gradients_lie_in_buckets_does_not_matter(seen: list[dict[str, Any]]) -> None:
    for own, buckets in seen[0]["data parallel"].values():
        for ours, theirs in zip(own, buckets, strict=True):
            assert_same_bits(ours, theirs)


def test_a_divided_state_under_data_parallel_training_changes_no_bit(seen: list[dict[str, Any]]) -> None:
    for process in seen:
        for ours, theirs in zip(process["both"], process["data parallel"]["momentum"][1], strict=True):
            assert_same_bits(ours, theirs)


# ---------------------------------------------------------------- a divided state


@variants
def test_an_optimizer_whose_state_is_divided_gives_the_bits_of_a_whole_one_at_every_step(
    variant: str, seen: list[dict[str, Any]]
) -> None:
    params = weights(SHAPES, torch.float32)
    optimizer = TMSGD(params, 0.1, switch_step=SWITCH, **VARIANTS[variant])
    for step in range(STEPS):
        train(optimizer, params, range(step, step + 1))
        for process in seen:
            assert_same_bits(process["divided"][variant]["visited"][step], [p.detach() for p in params])


def test_each_process_keeps_the_history_of_its_own_parameters_alone(seen: list[dict[str, Any]]) -> None:
    ours, theirs = (set(process["divided"]["plain"]["own"]) for process in seen)
    assert ours
    assert theirs
    assert ours | theirs == set(range(len(SHAPES)))
    assert not ours & theirs


@variants
@pytest.mark.parametrize("moment", CONSOLIDATED.values(), ids=CONSOLIDATED)
def test_a_consolidated_state_goes_on_in_a_whole_optimizer_with_the_same_bits(
    variant: str, moment: int, seen: list[dict[str, Any]]
) -> None:
    visited, state = (seen[0]["divided"][variant][name] for name in ("visited", "states"))
    params = [Parameter(w.clone()) for w in visited[moment - 1]]
    optimizer = TMSGD(params, lr=5.0)
    optimizer.load_state_dict(copy.deepcopy(state[moment]))
    train(optimizer, params, range(moment, STEPS))
    assert_same_bits(params, [Parameter(w) for w in visited[-1]])


def test_a_divided_optimizer_goes_on_from_a_consolidated_state_with_the_same_bits(seen: list[dict[str, Any]]) -> None:
    for process in seen:
        assert_same_bits(process["resumed"], process["divided"]["plain"]["visited"][-1])


def test_a_consolidated_state_is_what_a_whole_optimizer_saves(
    seen: list[dict[str, Any]],
) -> None:
    moment = CONSOLIDATED["after the switch"]
    params = weights(SHAPES, torch.float32)
    optimizer = TMSGD(params, 0.1, 0.9, 0.01, SWITCH)
    train(optimizer, params, range(moment))
    alone, together = optimizer.state_dict(), seen[0]["divided"]["momentum"]["states"][moment]
    assert together["param_groups"] == alone["param_groups"]
    assert sorted(together["state"]) == sorted(alone["state"])
    for index, kept in alone["state"].items():
        assert sorted(together["state"][index]) == sorted(kept)
        assert_same_bits([together["state"][index][name] for name in kept], list(kept.values()))


# ---------------------------------------------------------------- states that travel by name

WRAPS = ("DDP", "FSDP2", "FSDP1", "FSDP1, original parameters")


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_run_goes_on_with_the_same_bits_from_a_state_that_travelled(wrap: str, seen: list[dict[str, Any]]) -> None:
    """Before, at and after the switch, into a new optimizer and into one that has stepped, without a warning."""
    for process in seen:
        cases = process["travelled"][wrap]["cases"]
        assert len(cases) >= 4
        assert not {name: wrong for name, wrong in cases.items() if wrong}


@pytest.mark.parametrize("wrap", WRAPS[1:])
def test_sharding_changes_no_more_than_the_rounding_of_a_mean(wrap: str, seen: list[dict[str, Any]]) -> None:
    """Gradients are averaged in another order than under DDP."""
    for variant, expected in seen[0]["travelled"]["DDP"]["weights"].items():
        found = seen[0]["travelled"][wrap]["weights"][variant]
        torch.testing.assert_close(torch.cat(found), torch.cat(expected), rtol=1e-12, atol=1e-12)


def test_asking_a_new_optimizer_for_its_state_takes_no_step_and_keeps_nothing(seen: list[dict[str, Any]]) -> None:
    fresh = seen[0]["travelled"]["fresh"]
    assert (fresh["step"], fresh["weights moved"]) == (0, False)
    assert fresh["places"] == ["displacement", "momentum_buffer", "present", "previous_displacement"]
    assert fresh["kept before the switch"] == ["momentum_buffer"]
    assert_same_bits(fresh["went on"], seen[0]["travelled"]["DDP"]["weights"]["momentum"])


def test_a_divided_state_with_places_for_what_is_not_there_goes_on_with_the_same_bits(
    seen: list[dict[str, Any]],
) -> None:
    for process in seen:
        for variant in VARIANTS:
            without, places = (process[name][variant]["visited"] for name in ("divided", "divided, with places"))
            for ours, theirs in zip(places, without, strict=True):
                assert_same_bits(ours, theirs)
        assert_same_bits(process["resumed, with places"], process["resumed"])
