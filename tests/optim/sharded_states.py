"""What two processes do in test_distributed.py with states that travel by name.

Kept apart because importing ``torch.distributed.checkpoint.state_dict`` changes what ``TMSGD.state_dict`` holds.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from tmsgd_bench.optim import TMSGD

SWITCH, STEPS = 4, 9
MOMENTS = {"before": 2, "at": SWITCH, "one after": SWITCH + 1, "after": 7}
STEPPED = {"fresh": 0, "before its switch": 2, "after its switch": 7}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9, "weight_decay": 0.01},
    "restarting": {"momentum": 0.9, "scheme": "nine_eighths", "restart_every": 3, "foreach": True},
}


def flat(model: nn.Module) -> nn.Module:
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=False)


def original(model: nn.Module) -> nn.Module:
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DDP": DistributedDataParallel,
    "FSDP2": fully_shard,
    "FSDP1": flat,
    "FSDP1, original parameters": original,
}
WAYS: dict[str, dict[str, Any]] = {
    "in shards": {},
    "flattened": {"flatten_optimizer_state_dict": True},
    "whole": {"full_state_dict": True},
    "from the first process": {"full_state_dict": True, "cpu_offload": True, "broadcast_from_rank0": True},
    "FSDP1's own": {},
}


def make(wrap: str, **options: Any) -> tuple[nn.Module, TMSGD]:
    torch.manual_seed(0)
    model = WRAPS[wrap](nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)).double())
    return model, TMSGD(model.parameters(), **{"lr": 0.2, "switch_step": 0, **options})


def train(model: nn.Module, optimizer: TMSGD, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(2 * step + dist.get_rank())
        inputs = torch.randn(8, 3, dtype=torch.float64, generator=generator)
        (model(inputs) - inputs.prod(dim=1, keepdim=True)).square().mean().backward()
        optimizer.step()


def whole(model: nn.Module) -> list[Tensor]:
    """The weights, gathered."""
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model):
            return [p.detach().clone().flatten() for p in model.parameters()]
    weights = [p.detach() for p in model.parameters()]
    return [(p.full_tensor() if hasattr(p, "full_tensor") else p.clone()).flatten() for p in weights]


def carry(way: str, folder: str, source: tuple[nn.Module, TMSGD], target: tuple[nn.Module, TMSGD]) -> None:
    """Bring weights and state from one model and optimizer into others."""
    if way == "FSDP1's own":
        target[0].load_state_dict(source[0].state_dict())
        state = FullyShardedDataParallel.optim_state_dict(*source)
        target[1].load_state_dict(FullyShardedDataParallel.optim_state_dict_to_load(*target, state))
        return
    options = StateDictOptions(**{**WAYS[way], "broadcast_from_rank0": False})
    weights, state = get_state_dict(*source, options=options)
    if "full_state_dict" not in WAYS[way]:
        dcp.save({"weights": weights, "state": state}, checkpoint_id=folder)
        weights, state = get_state_dict(*target, options=options)
        places = {"weights": weights, "state": state}
        dcp.load(places, checkpoint_id=folder)
        weights, state = places["weights"], places["state"]
    options = StateDictOptions(**{**WAYS[way], "cpu_offload": False})
    set_model_state_dict(target[0], weights, options=options)
    set_optimizer_state_dict(*target, state, options=options)


def undisturbed(wrap: str, variant: str) -> list[Tensor]:
    model, optimizer = make(wrap, switch_step=SWITCH, **VARIANTS[variant])
    train(model, optimizer, range(STEPS))
    return whole(model)


def resumed(wrap: str, way: str, moment: int, stepped: int, variant: str, folder: str) -> list[Tensor]:
    """The weights of a run that another model and optimizer went on with."""
    options = VARIANTS[variant]
    source = make(wrap, switch_step=SWITCH, **options)
    train(*source, range(moment))
    target = make(wrap, lr=0.05, switch_step=SWITCH, **options)
    train(*target, range(100, 100 + stepped))
    carry(way, folder, source, target)
    train(*target, range(moment, STEPS))
    return whole(target[0])


def ways_of(wrap: str) -> list[str]:
    """The ways that torch's own Adam goes on exactly by, on the CPU.

    Of FSDP1's shards the second process asks for empty groups, which no checkpoint has. Its whole states of original
    parameters hold one and the same memory under all names.
    """
    if not wrap.startswith("FSDP1"):
        return ["in shards", "flattened", "whole", "from the first process"]
    if WRAPS[wrap] is original:
        return ["flattened", "whole"]
    return ["flattened", "whole", "from the first process", "FSDP1's own"]


def cases(wrap: str) -> list[tuple[str, str, str, str]]:
    """Every way at every other moment, with variants and receivers in turn: all of them together take minutes."""
    pairs = [pair for n, pair in enumerate(itertools.product(ways_of(wrap), MOMENTS)) if (n + n // 4) % 2 == 0]
    stepped, variants = [*STEPPED], [*VARIANTS]
    return [(*pair, stepped[n % 3], variants[(n + n // 3) % 3]) for n, pair in enumerate(pairs)]


def travelled(folder: str) -> dict[str, Any]:
    """Of each wrap: the weights of undisturbed runs, and of each case what went otherwise, if anything."""
    seen: dict[str, Any] = {"fresh": fresh()}
    for wrap in WRAPS:
        expected = {variant: undisturbed(wrap, variant) for variant in VARIANTS}
        seen[wrap] = {"weights": expected, "cases": {}}
        for number, (way, moment, stepped, variant) in enumerate(cases(wrap)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = resumed(wrap, way, MOMENTS[moment], STEPPED[stepped], variant, f"{folder}/{wrap}-{number}")
            wrong = [str(w.message) for w in caught if "TMSGD" in str(w.message)]
            if not all(torch.equal(one, other) for one, other in zip(found, expected[variant], strict=True)):
                wrong.append("other bits")
            seen[wrap]["cases"][f"{way}, {moment}, {stepped}, {variant}"] = wrong
    return seen


def fresh() -> dict[str, Any]:
    """What asking for the state leaves of a new optimizer, one that goes on, and a state that lost its history."""
    model, optimizer = make("DDP", momentum=0.9, weight_decay=0.01, switch_step=SWITCH)
    before = whole(model)
    state = get_optimizer_state_dict(model, optimizer)["state"]
    asked = {
        "step": optimizer.param_groups[0]["step"],
        "weights moved": not all(map(torch.equal, whole(model), before)),
        "places": sorted({name for places in state.values() for name in places}),
    }
    train(model, optimizer, range(2))
    asked["kept before the switch"] = sorted({name for state in optimizer.state.values() for name in state})
    train(model, optimizer, range(2, STEPS))
    return {**asked, "went on": whole(model)}
