"""From an optimizer's YAML to optimizers and schedulers.

The YAML names a class (``_target_``) and its options. The engine itself uses ``name``, ``label``, ``warmup`` (a number
of updates) and ``auto_switch`` (see tmsgd_bench/engine/monitor.py), and turns options counted in epochs into steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler

from tmsgd_bench.engine.schema import EVERY
from tmsgd_bench.engine.signatures import check_made, one_line, resolve
from tmsgd_bench.engine.spec import AUTO, ENGINE_KEYS, EPOCH_KEYS, without
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.garbage import uncollected


def build_optimizer(spec: Mapping[str, Any], parameters: Iterable[nn.Parameter], steps_per_epoch: int) -> Optimizer:
    """The optimizer a YAML describes.

    Args:
        spec: the resolved ``optimizer`` section.
        steps_per_epoch: turns options counted in epochs into optimizer steps.

    Raises:
        ConfigError: the class cannot be found, or it refuses its options.
    """
    options = without(spec, *ENGINE_KEYS)
    for in_epochs, in_steps in EPOCH_KEYS.items():
        if in_epochs in options:
            epochs = options.pop(in_epochs)
            options[in_steps] = epochs if epochs in (None, AUTO) else epochs * steps_per_epoch
    kind = resolve("optimizer", spec["_target_"])
    try:
        with uncollected():  # torch imports its compiler here
            optimizer = kind(parameters, **options)
    except Exception as error:  # a class of the user's own may raise anything
        raise ConfigError(f"optimizer {spec['name']!r} refuses its options: {one_line(error)}") from error
    return check_made("optimizer", spec["_target_"], optimizer, Optimizer)


def build_schedulers(
    spec: Mapping[str, Any], schedule: Mapping[str, Any] | None, optimizer: Optimizer, steps_per_epoch: int
) -> tuple[list[LRScheduler], list[LRScheduler]]:
    """The schedulers of one optimizer: those stepped after each update, and those stepped after each epoch.

    A schedule is stepped after each epoch. With ``every: update`` it is stepped after each update, and its class gets
    ``steps_per_epoch`` (see tmsgd_bench/engine/schedules.py).

    Raises:
        ConfigError: the schedule's class cannot be found, or it refuses its options.
    """
    per_update: list[LRScheduler] = []
    per_epoch: list[LRScheduler] = []
    if warmup := spec.get("warmup"):
        per_update.append(LinearLR(optimizer, warmup["start_factor"], total_iters=warmup["updates"]))
    if schedule:
        options = without(schedule, "_target_", "every")
        every = schedule.get("every", "epoch")
        EVERY("schedule.every", every)
        options |= {"steps_per_epoch": steps_per_epoch} if every == "update" else {}
        stepped = per_update if every == "update" else per_epoch
        kind = resolve("schedule", schedule["_target_"])
        try:
            stepped.append(kind(optimizer, **options))
        except Exception as error:  # a class of the user's own may raise anything
            raise ConfigError(f"the learning-rate schedule refuses its options: {one_line(error)}") from error
    return per_update, per_epoch


def advance(schedulers: Iterable[LRScheduler]) -> None:
    """Step the schedulers.

    Raises:
        ConfigError: one cannot be stepped.
    """
    for scheduler in schedulers:
        try:
            scheduler.step()
        except Exception as error:  # a class of the user's own may raise anything
            raise ConfigError(
                f"the learning-rate schedule {type(scheduler).__name__} cannot go on ({one_line(error)}): correct its "
                "options, or choose another one."
            ) from error
