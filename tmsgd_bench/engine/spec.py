"""What determines a run's result, and the identity that follows from it; and apart from that, where and how it happens.

Paths, device, threads and logging are no part of the identity.
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

OWN_KEYS = ("_target_", "name", "label", "warmup", "auto_switch")
"""The settings in an optimizer's YAML that do not go to its class."""
EPOCH_KEYS = {"switch_epoch": "switch_step", "restart_every_epochs": "restart_every"}
"""Those that are counted in epochs, and the options counted in steps that become of them."""

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
    def described(self) -> dict[str, Any]:
        """What ``config.yaml`` of the run's folder holds: the determinants and the labels."""
        return {**self.determinants, "optimizer": asdict(self)["optimizer"], identity.LABEL: list(self.protocols)}

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


def setting(check: Check | None, name: str = "", read: Callable[[Any, bool], Any] | None = None) -> dict[str, Any]:
    """What a field of :class:`RunOptions` has as metadata.

    Args:
        check: of the setting; None if tmsgd_bench/engine/schema.py has one for its whole group.
        name: in conf/config.yaml, with a dot within a group; by default the field's.
        read: from the setting's value, and whether the run is of a sweep, to the field's; by default the same value.
    """
    return {"check": check, "name": name, "read": read}


@dataclass(frozen=True)
class RunOptions:
    """Where and how a run happens; nothing here changes its result. Each is one setting of conf/config.yaml.

    Args:
        results_root: folder that holds one folder for each run.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads of a run; None leaves torch's choice.
        deterministic: ask torch for deterministic algorithms (always the case on the CPU).
        checkpoint_seconds: least time between two checkpoints; 0 writes one after each epoch.
        force: train again although the result is there; the old one is replaced once the new one is complete.
        save_weights: keep the final weights as ``weights.pt``.
        save_predictions: keep what they predict on the test split, where the task can.
        log_sharpness: record the sharpness in the history after every so many epochs; None records nothing.
        sharpness_examples: training examples that it is measured on.
        share_prefix: share the epochs before the switch with other runs of the store.
        keep_trunks: keep the shared states when no run needs them any more.
        progress: "bar", "log" or "auto" (a bar on a terminal). Bars of a sweep's parallel runs would overwrite each
            other, so those write log lines.
        verified_data: the data were checked to be the published ones (or are a stand-in).
        tracker: class and options of a live tracker (see tmsgd_bench/engine/trackers.py); None for none.
        wait: wait for another process that trains the same run, in place of leaving it alone. No setting: it is so in
            sweeps.
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
        """What of the sharpness to record in the history; None for nothing."""
        return None if self.log_sharpness is None else SharpnessLog(self.log_sharpness, self.sharpness_examples)

    @classmethod
    def of(cls, values: Mapping[str, Any], in_sweep: bool) -> RunOptions:
        """The options that checked settings describe.

        Args:
            in_sweep: whether the run is one of a sweep.
        """
        read = {own.name: _read(own, values, in_sweep) for own in fields(cls) if own.metadata}
        return cls(wait=in_sweep, **read)

    @classmethod
    def checks(cls) -> dict[str, Check]:
        """The check of every setting that is an option, by its name; of settings in a group the group's."""
        alone: dict[str, Check] = {}
        groups: dict[str, dict[str, Check]] = {}
        for own in fields(cls):
            if check := own.metadata.get("check"):
                group, _, key = _name(own).rpartition(".")
                (groups.setdefault(group, {}) if group else alone)[key] = check
        return {**alone, **{group: Section(checks) for group, checks in groups.items()}}


def _name(own: Field[Any]) -> str:
    return own.metadata["name"] or own.name


def _read(own: Field[Any], values: Mapping[str, Any], in_sweep: bool) -> Any:
    value: Any = values
    for key in _name(own).split("."):
        value = value[key]
    read = own.metadata["read"]
    return value if read is None else read(value, in_sweep)


def without(section: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A section of a run's settings without some of its keys."""
    return {key: value for key, value in section.items() if key not in keys}


def validate(spec: RunSpec) -> RunSpec:
    """Return the spec, or raise.

    Raises:
        ConfigError: a number is of the wrong type or out of its range.
    """
    EPOCHS("epochs", spec.epochs)
    BATCH_SIZE("batch_size", spec.batch_size)
    SEED("seed", spec.seed)
    LIMIT("data.limit", spec.data["limit"])
    LR("lr", spec.optimizer.get("lr"))
    check_switch("optimizer", spec.optimizer)
    return spec


def check_switch(name: str, optimizer: Mapping[str, Any]) -> None:
    """Raise ConfigError unless an optimizer's ``switch_epoch`` is a count, or auto together with ``auto_switch``.

    Args:
        name: of the section, for messages.
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
            "switch_epoch=auto is for one whose auto_switch says when to measure: use optimizer=tmsgd_auto, or "
            "set switch_epoch to a whole number >= 0."
        )
    if plan is None and epoch is not None:
        SWITCH_EPOCH("switch_epoch", epoch)
