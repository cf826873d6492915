"""The settings of a run: those that determine its result and its identity, and those that say where and how it runs.

Paths, device, threads and logging are not part of the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from tmsgd_bench import identity
from tmsgd_bench.checks import LARGEST, Check, Section, choice, flag, number, optional, path, whole
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.version import BENCHMARK_VERSION

ENGINE_KEYS = ("_target_", "name", "label", "warmup", "auto_switch")
"""The settings of an optimizer's YAML that the engine uses; the others are passed to the optimizer's class."""
EPOCH_KEYS = {"switch_epoch": "switch_step", "restart_every_epochs": "restart_every"}
"""The settings counted in epochs, and the class's options counted in steps that the engine makes of them."""

EPOCHS = whole(1, 10_000_000)
BATCH_SIZE = whole(1, 1 << 24)
SEED = whole(0, LARGEST)
LR = number(0, 1e6, 0.01, above=True)
LIMIT = optional(whole(1))
MOST_THREADS = 4096
SWITCH_EPOCH = whole(0)
AUTO_SWITCH = Section(
    {"every_epochs": whole(1), "margin": number(0, 1, 0.5, above=True), "patience": whole(1), "examples": whole(1)},
    null=True,
)
"""What ``optimizer.auto_switch`` may be; see :class:`AutoSwitchPlan`."""

AUTO = "auto"
"""The value of ``switch_epoch`` with which the run chooses the epoch itself, as ``auto_switch`` says."""


@dataclass(frozen=True)
class AutoSwitchPlan:
    """How a run chooses its switch epoch.

    Args:
        every_epochs: the sharpness is measured at the end of every so many epochs.
        margin: lr × sharpness must be below this share, in (0, 1], of the stability limit.
        patience: the run switches after so many measurements below that share in a row.
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
        data: ``kind`` ("real" or "synthetic"), ``limit`` and the data set's ``fingerprint``; ``evaluation_limit`` if
            there is one.
        optimizer: name, class and options; holds ``lr`` and, where it applies, ``switch_epoch``.
        epochs: passes over the training split.
        batch_size: examples of one step.
        schedule: learning-rate schedule stepped each epoch (``_target_`` and options), or None for a constant.
        seed: of initial weights, order and augmentation.
        protocols: the protocols whose settings the run has exactly. A label, which follows from the other settings.
        tf32: whether a GPU may round the factors of convolutions and products to 10 bits of mantissa, to be faster.
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
    def described(self) -> dict[str, Any]:
        """What ``config.yaml`` of the run's folder holds: the determinants and the labels."""
        return {**self.determinants, "optimizer": asdict(self)["optimizer"], identity.LABEL: list(self.protocols)}

    @property
    def run_id(self) -> str:
        """The run's folder name: readable, and unique through the identity's first ten digits."""
        return identity.run_id(self.determinants)

    @property
    def switch_epoch(self) -> int | Literal["auto"] | None:
        """First epoch trained with the multistep method; None for an optimizer that has no switch."""
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


def setting(check: Check | None, name: str = "", read: Callable[[Any, bool], Any] | None = None) -> dict[str, Any]:
    """Metadata of a field of :class:`RunOptions`: which setting it comes from.

    Args:
        check: checks the setting; None if tmsgd_bench/engine/schema.py checks its whole group.
        name: the setting's name in conf/config.yaml, such as "results.root"; by default the field's name.
        read: called with the setting's value and whether the run is in a sweep, returns the field's value; by default
            the value itself.
    """
    return {"check": check, "name": name, "read": read}


@dataclass(frozen=True)
class RunOptions:
    """Where and how a run is trained; nothing here changes its result. Each field is one setting of conf/config.yaml.

    Args:
        results_root: folder that holds one folder for each run.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads of a run; None leaves torch's choice.
        deterministic: ask torch for deterministic algorithms (always the case on the CPU).
        checkpoint_seconds: least time between two checkpoints; 0 writes one after each epoch.
        force: train again although there is a result; the new result replaces the old one when it is complete.
        save_weights: save the final weights as ``weights.pt``.
        save_predictions: save the trained modules' predictions on the test split, where the task can.
        log_sharpness: record the sharpness in the history after every so many epochs; None records nothing.
        sharpness_examples: training examples that it is measured on.
        share_prefix: share the epochs before the switch with other runs of the store.
        keep_trunks: keep the shared states when no run needs them any more.
        progress: "bar", "log" or "auto" (a bar on a terminal). In a sweep "auto" is "log", because the bars of parallel
            runs would overwrite each other.
        verified_data: the data are synthetic, or were verified to be the published ones.
        tracker: class and options of a live tracker (see tmsgd_bench/engine/trackers.py); None for none.
        wait: if another process trains the same run, wait for it; without this, RunIsBusy is raised. Not a setting:
            runs of a sweep wait.
    """

    results_root: Path = field(
        metadata=setting(path(), "results.root", read=lambda root, _: Path(root).expanduser()),
    )
    device: str = field(default="auto", metadata=setting(choice("auto", "cpu", "cuda")))
    threads: int | None = field(default=1, metadata=setting(optional(whole(1, MOST_THREADS))))
    deterministic: bool = field(default=False, metadata=setting(flag()))
    checkpoint_seconds: float = field(default=30.0, metadata=setting(number(0, 1e9, 30)))
    force: bool = field(default=False, metadata=setting(flag()))
    save_weights: bool = field(default=False, metadata=setting(flag()))
    save_predictions: bool = field(default=False, metadata=setting(flag()))
    log_sharpness: int | None = field(default=None, metadata=setting(optional(whole(1))))
    sharpness_examples: int = field(default=1000, metadata=setting(whole(1)))
    share_prefix: bool = field(
        default=False,
        metadata=setting(
            choice("auto", True, False),
            "prefix.share",
            read=lambda share, in_sweep: in_sweep if share == "auto" else share,
        ),
    )
    keep_trunks: bool = field(default=False, metadata=setting(flag(), "prefix.keep"))
    progress: str = field(
        default="auto",
        metadata=setting(
            choice("auto", "bar", "log"),
            read=lambda progress, in_sweep: "log" if in_sweep and progress == "auto" else progress,
        ),
    )
    verified_data: bool = field(
        default=True,
        metadata=setting(None, "data", read=lambda data, _: data["kind"] == "synthetic" or data["verify"]),
    )
    tracker: dict[str, Any] | None = field(default=None, metadata=setting(None))
    wait: bool = False

    @property
    def sharpness(self) -> SharpnessLog | None:
        """How to record the sharpness in the history; None to record nothing."""
        return None if self.log_sharpness is None else SharpnessLog(self.log_sharpness, self.sharpness_examples)

    @classmethod
    def of(cls, values: Mapping[str, Any], in_sweep: bool) -> RunOptions:
        """The options from checked settings.

        Args:
            values: all settings of conf/config.yaml.
            in_sweep: whether the run is in a sweep.
        """
        options = {option.name: _read(option, values, in_sweep) for option in fields(cls) if option.metadata}
        return cls(wait=in_sweep, **options)

    @classmethod
    def checks(cls) -> dict[str, Check]:
        """The check of each setting that a field comes from, by its name, and of each group of such settings."""
        settings: dict[str, Check] = {}
        groups: dict[str, dict[str, Check]] = {}
        for option in fields(cls):
            if check := option.metadata.get("check"):
                group, _, key = _setting_name(option).rpartition(".")
                (groups.setdefault(group, {}) if group else settings)[key] = check
        return {**settings, **{group: Section(checks) for group, checks in groups.items()}}


def _setting_name(option: Field[Any]) -> str:
    return option.metadata["name"] or option.name


def _read(option: Field[Any], values: Mapping[str, Any], in_sweep: bool) -> Any:
    value: Any = values
    for key in _setting_name(option).split("."):
        value = value[key]
    read = option.metadata["read"]
    return value if read is None else read(value, in_sweep)


def without(section: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A section of a run's settings without some of its keys."""
    return {key: value for key, value in section.items() if key not in keys}


def validate(spec: RunSpec) -> RunSpec:
    """Check the numbers of a run's settings; returns the same settings.

    Raises:
        ConfigError: a number is of the wrong type or out of its range.
    """
    EPOCHS("epochs", spec.epochs)
    BATCH_SIZE("batch_size", spec.batch_size)
    SEED("seed", spec.seed)
    LIMIT("data.limit", spec.data["limit"])
    LIMIT("data.evaluation_limit", spec.data.get("evaluation_limit"))
    LR("lr", spec.optimizer.get("lr"))
    check_switch("optimizer", spec.optimizer)
    return spec


def check_switch(name: str, optimizer: Mapping[str, Any]) -> None:
    """Raise ConfigError unless ``switch_epoch`` is a whole number, null, or auto for an optimizer with ``auto_switch``.

    Args:
        name: of the section, for messages.
        optimizer: the optimizer's settings.
    """
    plan, epoch = optimizer.get("auto_switch"), optimizer.get("switch_epoch")
    AUTO_SWITCH(f"{name}.auto_switch", plan)
    if plan is not None and epoch != AUTO:
        raise ConfigError(
            f"optimizer {optimizer['name']!r} chooses its switch epoch itself: leave its switch_epoch at auto, or use "
            "optimizer=tmsgd with a switch_epoch."
        )
    if plan is None and epoch == AUTO:
        raise ConfigError(
            "switch_epoch=auto needs an optimizer with auto_switch: use optimizer=tmsgd_auto, or set switch_epoch to a "
            "whole number >= 0."
        )
    if plan is None and epoch is not None:
        SWITCH_EPOCH("switch_epoch", epoch)
