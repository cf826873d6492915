"""What determines a run's result, and the identity that follows from it.

Paths, device, threads and logging are not in here: they say where a run happens, not what it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from tmsgd_bench import identity
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.version import BENCHMARK_VERSION

AUTO = "auto"
"""In place of a switch epoch: the run chooses it itself, as its optimizer's ``auto_switch`` says."""


@dataclass(frozen=True)
class AutoSwitchPlan:
    """How a run chooses its switch epoch.

    Args:
        every_epochs: the sharpness is measured at the end of every so many epochs.
        margin: share of the stability limit that lr × sharpness must stay below, in (0, 1].
        patience: measurements below in a row that make it switch.
        examples: training examples of a measurement.
    """

    every_epochs: int
    margin: float
    patience: int
    examples: int


@dataclass(frozen=True)
class SharpnessLog:
    """A record of the sharpness in the history: every so many epochs, on so many training examples."""

    every_epochs: int
    examples: int


@dataclass(frozen=True)
class RunSpec:
    """The settings of one run, resolved to plain values.

    Args:
        task: name and options of the task.
        model: name and options of the model.
        data: ``kind`` ("real" or "synthetic"), ``limit`` and the ``fingerprint`` of the data set.
        optimizer: name, class and options; holds ``lr`` and, where it applies, ``switch_epoch``.
        epochs: passes over the training split.
        batch_size: examples of one step.
        schedule: learning-rate schedule stepped each epoch (``_target_`` and options), or None for a constant.
        seed: of initial weights, order and augmentation.
        protocols: the protocols this run follows to the letter. A label: it follows from the rest.
        tf32: a GPU may round the factors of convolutions and products to 10 bits of mantissa, which is faster.
    """

    task: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    optimizer: dict[str, Any]
    epochs: int
    batch_size: int
    schedule: dict[str, Any] | None
    seed: int
    protocols: tuple[str, ...] = ()
    tf32: bool = False

    @property
    def determinants(self) -> dict[str, Any]:
        """Everything the identity is a hash of."""
        return identity.determinants({"benchmark_version": BENCHMARK_VERSION, **asdict(self)})

    @property
    def identity(self) -> str:
        """SHA-256 (hexadecimal) of the determinants."""
        return identity.identity(self.determinants)

    @property
    def setting(self) -> str:
        """The identity without the seed: runs that differ in their seed alone share it."""
        return identity.setting(self.determinants)

    @property
    def run_id(self) -> str:
        """The run's folder name: readable, and unique through the identity's first ten digits."""
        parts = [self.task["name"], self.model["name"], self.optimizer["name"]]
        if self.switch_epoch is not None:
            parts.append(f"switch{self.switch_epoch}")
        return "-".join([*parts, f"seed{self.seed}", self.identity[: identity.DIGITS]])

    @property
    def switch_epoch(self) -> int | Literal["auto"] | None:
        """First epoch trained with the multi-step rule; None for an optimizer that has no switch."""
        return self.optimizer.get("switch_epoch")

    @property
    def switches(self) -> bool | None:
        """Whether the run ever reaches its switch epoch; None if it chooses that epoch itself."""
        epoch = self.switch_epoch
        return None if epoch == AUTO else isinstance(epoch, int) and epoch < self.epochs

    @property
    def auto_switch(self) -> AutoSwitchPlan | None:
        """How the run chooses its switch epoch; None for one that does not."""
        plan = self.optimizer.get("auto_switch")
        return None if plan is None else AutoSwitchPlan(**plan)

    def following(self, protocols: tuple[str, ...]) -> RunSpec:
        """The same run with the names of the protocols it follows."""
        return replace(self, protocols=protocols)


@dataclass(frozen=True)
class RunOptions:
    """Where and how a run happens; nothing here changes its result.

    Args:
        results_root: folder that holds one folder for each run.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads of a run; None leaves torch's choice.
        deterministic: ask torch for deterministic algorithms (always the case on the CPU).
        checkpoint_seconds: least time between two checkpoints; 0 writes one after each epoch.
        force: train again although the result is there; the old one is replaced once the new one is complete.
        save_weights: keep the final weights as ``weights.pt``.
        save_predictions: keep what they predict on the test split, where the task can.
        sharpness: what of the sharpness to record in the history; None records nothing.
        share_prefix: share the epochs before the switch with other runs of the store.
        keep_trunks: keep the shared states when no run needs them any more.
        wait: wait for another process that trains the same run, in place of leaving it alone.
        progress: "bar", "log" or "auto" (a bar on a terminal).
        verified_data: the data were checked to be the published ones (or are a stand-in).
        tracker: class and options of a live tracker (see tmsgd_bench/engine/trackers.py); None for none.
    """

    results_root: Path
    device: str = "auto"
    threads: int | None = 1
    deterministic: bool = False
    checkpoint_seconds: float = 30.0
    force: bool = False
    save_weights: bool = False
    save_predictions: bool = False
    sharpness: SharpnessLog | None = None
    share_prefix: bool = False
    keep_trunks: bool = False
    wait: bool = False
    progress: str = "auto"
    verified_data: bool = True
    tracker: dict[str, Any] | None = None


def validate(spec: RunSpec) -> RunSpec:
    """Return the spec, or raise.

    Raises:
        ConfigError: a number is of the wrong type or out of its range.
    """
    check_whole("epochs", spec.epochs, 1)
    check_whole("batch_size", spec.batch_size, 1)
    check_whole("seed", spec.seed, 0)
    _check_switch(spec)
    if spec.data["limit"] is not None:
        check_whole("data.limit", spec.data["limit"], 1)
    _positive("lr", spec.optimizer.get("lr"))
    return spec


def _check_switch(spec: RunSpec) -> None:
    plan, epoch = spec.optimizer.get("auto_switch"), spec.switch_epoch
    if plan is not None:
        _check_plan(plan)
        if epoch != AUTO:
            raise ConfigError(
                f"optimizer {spec.optimizer['name']!r} chooses its switch epoch itself: leave its switch_epoch at "
                "auto, or use optimizer=tmsgd with a switch_epoch."
            )
    elif epoch == AUTO:
        raise ConfigError(
            "switch_epoch=auto is for an optimizer that measures when to switch: use optimizer=tmsgd_auto, or set "
            "switch_epoch to a whole number >= 0."
        )
    elif epoch is not None:
        check_whole("switch_epoch", epoch, 0)


def _check_plan(plan: Any) -> None:
    keys = [field.name for field in fields(AutoSwitchPlan)]
    if not isinstance(plan, Mapping) or set(plan) != set(keys):
        raise ConfigError(f"optimizer.auto_switch must have the keys {', '.join(keys)} and no others, not {plan!r}.")
    for key in ("every_epochs", "patience", "examples"):
        check_whole(f"optimizer.auto_switch.{key}", plan[key], 1)
    margin = plan["margin"]
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0.0 < margin <= 1.0:
        raise ConfigError(
            f"optimizer.auto_switch.margin must be a number in (0, 1], not {margin!r}: set it with "
            "optimizer.auto_switch.margin=0.5, say."
        )


def names_weights_file(value: Any) -> bool:
    """Whether a model's ``weights`` name a file, and are not one of its own words for published ones."""
    return isinstance(value, str) and ("/" in value or value.endswith((".pth", ".pt")))


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise ConfigError unless a setting is one of a few."""
    if not any(value is choice or (value == choice and type(value) is type(choice)) for choice in choices):
        words = ", ".join(str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in choices)
        raise ConfigError(f"{name} must be one of {words}, not {value!r}: set it with {name}={choices[0]}, say.")


def is_whole(value: object, least: int) -> bool:
    """Whether a setting is a whole number of at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise ConfigError unless a setting is a whole number of at least ``least``."""
    if not is_whole(value, least):
        raise ConfigError(
            f"{name} must be a whole number >= {least}, not {value!r}: set it with {name}={max(least, 1)}, say."
        )


def _positive(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{name} must be a finite number > 0, not {value!r}: set it with {name}=0.01, say.")
