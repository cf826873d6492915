"""From the configuration that Hydra composes to a run's settings, options and task."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tmsgd_bench import splits, tuning
from tmsgd_bench.checks import names_weights_file
from tmsgd_bench.engine import command_line, explanations, schema, task_data
from tmsgd_bench.engine.spec import RunOptions, RunSpec, validate, without
from tmsgd_bench.errors import ConfigError, DataError
from tmsgd_bench.files import file_digest
from tmsgd_bench.results import packed
from tmsgd_bench.version import OWN_SETTINGS, PROTOCOLS

if TYPE_CHECKING:  # importing torch takes seconds, which looking at the settings should not cost
    import torch

    from tmsgd_bench.task import Task, TaskSettings

GROUPS = ("task", "model", "optimizer", "data")
BuildTask = Callable[[str, "TaskSettings", Mapping[str, Any]], "Task"]


def ignore_version_warning() -> None:
    """Ignore the warning of Hydra 1.3 that version_base is not set.

    Earlier versions of Hydra have no such argument, so conf/config.yaml sets what it would change.
    """
    warnings.filterwarnings("ignore", message=r"\s*The version_base parameter")


def planned(config: DictConfig, in_sweep: bool) -> tuple[RunSpec, RunOptions, task_data.TaskData]:
    """The run a composed configuration describes, where and how to train it, and its data; nothing is downloaded.

    The settings are resolved once for all three, which takes half as long as composing them.

    Raises:
        DataError, ConfigError: as :func:`run_spec` and :func:`run_options`.
    """
    values = checked(config)
    return _spec(config, values, fetch=False), _options(values, in_sweep), task_data.chosen(values)


def run_spec(config: DictConfig, fetch: bool = False) -> RunSpec:
    """The run a composed configuration describes.

    Args:
        fetch: download missing data whose files must be read for the fingerprint (see ``Dataset.pinned``).

    Raises:
        DataError: such data are missing, and ``fetch`` is off or does not help.
        ConfigError: a value is of the wrong type, out of range, or refers to a setting that does not exist; or of
            tuned learning rates, the seed is kept for the other half, or the optimizer's rate is fixed.
    """
    return _spec(config, checked(config), fetch)


def _spec(config: DictConfig, values: dict[str, Any], fetch: bool) -> RunSpec:
    if values["protocol"] == tuning.PROTOCOL:
        _check_rate_is_used(config)
        tuning.check_seed(values["seed"], splits.evaluated(values["task"]))
    data, model = task_data.chosen(values), values["model"]
    task = {**schema.task_identity(values["task"]), "dataset": data.name}
    if fetch and data.kind == "real" and data.verify and not data.dataset.pinned:
        data.ready()
    return validate(
        RunSpec(
            task=task,
            model={**schema.model_identity(model), **_weights_identity(model)},
            data=_data_identity(data, values["data"]),
            optimizer=values["optimizer"],
            epochs=values["epochs"],
            batch_size=values["batch_size"],
            schedule=values["schedule"],
            seed=values["seed"],
            tf32=values["tf32"],
        )
    )


def _check_rate_is_used(config: DictConfig) -> None:
    """Refuse an optimizer that would be trained with one rate again and again, and called tuned.

    Raises:
        ConfigError: its learning rate does not come from the setting ``lr``, which the search changes.
    """
    if not _rate_is_used(config):
        raise ConfigError(
            f"protocol={tuning.PROTOCOL} changes the setting lr, which optimizer={config.optimizer.name} does not use: "
            "write 'lr: ${lr}' in its YAML, and lr=NUMBER in place of optimizer.lr=NUMBER."
        )


def _rate_is_used(config: DictConfig) -> bool:
    return OmegaConf.is_interpolation(config.optimizer, "lr")


def _data_identity(data: task_data.TaskData, values: Mapping[str, Any]) -> dict[str, Any]:
    """What of the data belongs to a run's identity; the limit of the evaluation only where there is one."""
    known = {"kind": data.kind, "limit": values["limit"], "fingerprint": data.fingerprint()}
    if values["evaluation_limit"] is not None:
        known["evaluation_limit"] = values["evaluation_limit"]
    return known


def run_options(config: DictConfig, in_sweep: bool) -> RunOptions:
    """Where and how to train the run.

    Raises:
        ConfigError: a setting cannot be used, or the store holds packed runs, which training would not find.
    """
    return _options(checked(config), in_sweep)


def _options(values: dict[str, Any], in_sweep: bool) -> RunOptions:
    options = RunOptions.of(values, in_sweep)
    if packed.file_at(options.results_root):
        raise ConfigError(
            f"results.root={options.results_root} holds packed runs, and a run is trained in a folder: choose another "
            "folder, and put the runs there with 'python -m tmsgd_bench unpack'."
        )
    return options


def make_task(config: DictConfig, device: torch.device, build: BuildTask) -> Task:
    """Prepare the data set and build the task on a device.

    Raises:
        DataError: the data set is missing, damaged, or cannot be downloaded.
        ConfigError: the task refuses its options.
    """
    from tmsgd_bench.engine.environment import workers

    values = checked(config)
    data = task_data.chosen(values)
    settings = replace(
        data.settings(data.ready(), data.fingerprint(), device),
        data_limit=values["data"]["limit"],
        evaluation_limit=values["data"]["evaluation_limit"],
        batch_size=values["batch_size"],
        seed=values["seed"],
        model=without(values["model"], "name"),
        workers=workers(values["workers"], device),
        save_predictions=values["save_predictions"],
    )
    options = without(values["task"], "name", "dataset", *schema.NOT_OF_THE_TASK)
    return build(values["task"]["_target_"], settings, options)


def followed_protocols(config: DictConfig, spec: RunSpec, choices: Mapping[str, str | None]) -> tuple[str, ...]:
    """The protocols that a run follows exactly: with the protocol's values it has the same identity.

    For a protocol of ``OWN_SETTINGS`` the data may be unverified, and training may start from a file's weights. Both
    are marked wherever the numbers stand. A run of ``tuned`` has a learning rate of its grid, and a seed that is kept
    for it. It does not follow ``reduced`` as well, whose numbers it would be mixed with.

    Args:
        config: the run's configuration.
        choices: the option chosen in each of Hydra's groups.
    """
    overrides = _canonical_overrides(config, spec, choices)
    followed = []
    for protocol in _candidates(config, spec, choices, overrides):
        weights = _weights_file(config) if protocol in OWN_SETTINGS else ()
        canonical = _composed((*overrides, *weights, f"protocol={protocol}"))
        canonical.seed = spec.seed
        canonical.data.verify = config.data.verify or protocol not in OWN_SETTINGS
        if protocol == tuning.PROTOCOL:
            if not _rate_is_used(canonical):
                continue
            _take_choices(canonical, spec)
        try:
            follows = run_spec(canonical).identity == spec.identity
        except DataError:  # the run has data.verify=false, and its data are not the published ones
            follows = False
        followed += [protocol] if follows else []
    return (tuning.PROTOCOL,) if tuning.PROTOCOL in followed else tuple(followed)


def _take_choices(canonical: DictConfig, spec: RunSpec) -> None:
    """Give a configuration of ``tuned`` what its runs may choose: the split, and a learning rate of the grid."""
    canonical.task.evaluate_on = splits.evaluated(spec.task)
    rate = spec.optimizer["lr"]
    canonical.lr = rate if rate in tuning.grid(canonical.reduced_lr) else canonical.reduced_lr


def _canonical_overrides(config: DictConfig, spec: RunSpec, choices: Mapping[str, str | None]) -> tuple[str, ...]:
    """The overrides that choose what a run chooses, and leave all values to a protocol."""
    overrides = [
        *command_line.search_path(HydraConfig.get() if HydraConfig.initialized() else None),
        *(f"{group}={choices[group]}" for group in GROUPS),
        f"data.name={spec.task['dataset']}",
        command_line.override("data.root", config.data.root),
    ]
    sources = GlobalHydra.instance().config_loader().get_sources()
    if any(source.is_group("local") and source.list("local", ObjectType.CONFIG) for source in sources):
        overrides.append("~local")  # conf/local/ is not part of a protocol
    return tuple(overrides)


def _candidates(
    config: DictConfig, spec: RunSpec, choices: Mapping[str, str | None], overrides: tuple[str, ...]
) -> list[str]:
    """The protocols whose epochs and batch size are the run's: to compose one takes a tenth of a second.

    A task need not have all protocols. The seed tells whether a run can follow ``tuned``.
    """
    protocols = [protocol for protocol in PROTOCOLS if protocol in config.task]
    if spec.seed not in tuning.seeds_of(splits.evaluated(spec.task)):
        protocols = [protocol for protocol in protocols if protocol != tuning.PROTOCOL]
    if not protocols:
        return []
    chosen = choices.get("protocol")
    first = chosen if chosen in protocols else protocols[0]
    task = _composed((*overrides, f"protocol={first}")).task  # with all protocols, as they stand in the task's YAML
    needed = {"epochs": spec.epochs, "batch_size": spec.batch_size}
    return [name for name in protocols if _agrees(task[name], name, config.model.name, needed)]


def _agrees(block: DictConfig, protocol: str, model: str, needed: Mapping[str, int]) -> bool:
    """Whether a protocol has these values; in those of ``OWN_SETTINGS`` a model's own block comes first."""
    of_model = block.get(model) if protocol in OWN_SETTINGS else None
    first = of_model if isinstance(of_model, DictConfig) else {}
    return all(first.get(key, block.get(key, value)) == value for key, value in needed.items())


def _composed(overrides: tuple[str, ...]) -> DictConfig:
    """What Hydra composes, once for all runs of a sweep: it takes a tenth of a second."""
    known = _compositions.setdefault(GlobalHydra.instance().config_loader(), {})
    if overrides not in known:
        known[overrides] = compose("config", overrides=list(overrides))
    return known[overrides]


_compositions: WeakKeyDictionary[ConfigLoader, dict[tuple[str, ...], DictConfig]] = WeakKeyDictionary()


def checked(config: DictConfig) -> dict[str, Any]:
    """All settings of a composed configuration except Hydra's own section, as plain values that were checked.

    Raises:
        ConfigError: a setting refers to one that does not exist, or is not allowed; see
            :mod:`tmsgd_bench.engine.schema`.
    """
    schema.check_present({str(key): None for key in config})
    # Hydra's own section is left out first: some of its settings have no value yet.
    settings = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        values = OmegaConf.to_container(settings, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise explanations.unusable(error, config) from error
    assert isinstance(values, dict)
    plain = {str(key): value for key, value in values.items()}
    schema.check(plain)
    return plain


def _weights_file(config: DictConfig) -> tuple[str, ...]:
    """The command line's setting of the file that a run's model begins with, if it names one."""
    weights = config.model.get("weights")
    return (command_line.override("model.weights", str(weights)),) if names_weights_file(weights) else ()


def _weights_identity(model: Mapping[str, Any]) -> dict[str, Any]:
    """The SHA-256 of the file of a model's initial weights, which is in the identity in place of its path."""
    weights = model.get("weights")
    if not names_weights_file(weights):
        return {}
    try:
        return {"weights": f"sha256:{file_digest(Path(str(weights)).expanduser())}"}
    except OSError as error:
        raise DataError(
            f"model.weights names {weights}, which cannot be read ({error.strerror}): correct the path, or choose "
            "model.weights=none."
        ) from error
