"""Between Hydra's configuration and the engine: the only place that knows the layout of conf/."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from tmsgd_bench.data.catalog import Combined, Dataset, data_root, find_all
from tmsgd_bench.data.sources import file_digest
from tmsgd_bench.engine.spec import RunOptions, RunSpec, SharpnessLog, check_whole, names_weights_file, validate
from tmsgd_bench.errors import BenchError, ConfigError, DataError
from tmsgd_bench.version import PROTOCOLS

if TYPE_CHECKING:  # importing torch takes seconds, which looking at the settings should not cost
    import torch

    from tmsgd_bench.task import Task, TaskSettings

log = logging.getLogger(__name__)

GROUPS = ("task", "model", "optimizer", "data")
NOT_OF_THE_TASK = ("_target_", "datasets", "reading", *PROTOCOLS)
"""Keys of a task's YAML that do not determine a result."""
EXTRAS = {"joblib": "parallel", "ray": "ray", "submitit": "slurm"}
"""The extra that a launcher comes with, by the first word of its name."""
BuildTask = Callable[[str, "TaskSettings", Mapping[str, Any]], "Task"]


def run_spec(config: DictConfig, fetch: bool = False) -> RunSpec:
    """The run a composed configuration describes.

    Args:
        fetch: download data that are missing and whose contents are part of the identity (see ``Dataset.pinned``).

    Raises:
        DataError: such data are missing, and ``fetch`` is off or does not help.
        ConfigError: a value is of the wrong type, out of range, or refers to something that is not there.
    """
    values = _plain(config)
    _check_flags("data", values["data"], ("verify",))
    _check_flags("", values, ("tf32",))
    _check_keys("optimizer.warmup", values["optimizer"].get("warmup"), ("updates", "start_factor"))
    _check_keys("schedule", values["schedule"], ("_target_",))
    dataset = dataset_of(values)
    task = {key: value for key, value in values["task"].items() if key not in NOT_OF_THE_TASK}
    task["dataset"] = dataset.name
    data, model = values["data"], values["model"]
    if fetch and data["kind"] == "real" and data["verify"] and not dataset.pinned:
        ready_folder(values, dataset)
    fingerprint = dataset.fingerprint(_data_folder(values, dataset), data["kind"], data["verify"])
    return validate(
        RunSpec(
            task=task,
            model={**model, **_weights_identity(model)},
            data={"kind": data["kind"], "limit": data["limit"], "fingerprint": fingerprint},
            optimizer=values["optimizer"],
            epochs=values["epochs"],
            batch_size=values["batch_size"],
            schedule=values["schedule"],
            seed=values["seed"],
            tf32=values["tf32"],
        )
    )


def run_options(config: DictConfig, in_sweep: bool) -> RunOptions:
    """Where and how to run it. Jobs of a sweep write log lines: bars of parallel jobs would overwrite each other."""
    values = _plain(config)
    progress = values["progress"]
    if progress not in ("auto", "bar", "log"):
        raise ConfigError(f"progress must be auto, bar or log, not {progress!r}.")
    _check_flags("", values, ("force", "save_weights", "save_predictions", "deterministic"))
    _check_keys("tracker", values["tracker"], ("_target_",))
    if values["workers"] != "auto":
        check_whole("workers", values["workers"], 0)
    if values["threads"] is not None:
        check_whole("threads", values["threads"], 1)
    if not isinstance(values["checkpoint_seconds"], int | float) or not values["checkpoint_seconds"] >= 0:
        raise ConfigError(f"checkpoint_seconds must be a number >= 0, not {values['checkpoint_seconds']!r}.")
    return RunOptions(
        wait=in_sweep,
        sharpness=_sharpness_log(values),
        share_prefix=_shares(values["prefix"], in_sweep),
        keep_trunks=values["prefix"]["keep"],
        save_predictions=values["save_predictions"],
        tracker=values["tracker"],
        verified_data=values["data"]["kind"] == "synthetic" or values["data"]["verify"],
        results_root=Path(str(values["results"]["root"])).expanduser(),
        progress="log" if in_sweep and progress == "auto" else progress,
        **{
            key: values[key]
            for key in ("device", "threads", "deterministic", "checkpoint_seconds", "force", "save_weights")
        },
    )


def _sharpness_log(values: Mapping[str, Any]) -> SharpnessLog | None:
    every, examples = values["log_sharpness"], values["sharpness_examples"]
    check_whole("sharpness_examples", examples, 1)
    if every is None:
        return None
    check_whole("log_sharpness", every, 1)
    return SharpnessLog(every, examples)


def _shares(prefix: Mapping[str, Any] | None, in_sweep: bool) -> bool:
    if not isinstance(prefix, Mapping):
        raise ConfigError(f"prefix must be auto, on or off, not {prefix!r}.")
    _check_flags("prefix", prefix, ("keep",))
    if prefix["share"] not in ("auto", True, False):
        raise ConfigError(f"prefix.share must be auto, true or false, not {prefix['share']!r}.")
    return in_sweep if prefix["share"] == "auto" else bool(prefix["share"])


def followed_protocols(config: DictConfig, spec: RunSpec, choices: Mapping[str, str | None]) -> tuple[str, ...]:
    """The protocols whose own values, untouched and on verified data, describe this very run.

    Args:
        config: the run's configuration.
        choices: the option chosen in each of Hydra's groups.
    """
    chosen = [f"{group}={choices[group]}" for group in GROUPS]
    chosen += [f"data.name={spec.task['dataset']}", override("data.root", config.data.root)]
    if GlobalHydra.instance().config_loader().get_group_options("local"):
        chosen.append("~local")  # a private overlay is no part of a protocol
    followed = []
    for protocol in PROTOCOLS:
        if protocol not in config.task:
            continue  # a task need not have them all
        canonical = compose("config", overrides=[*chosen, f"protocol={protocol}", f"seed={spec.seed}"])
        try:
            follows = run_spec(canonical).identity == spec.identity
        except DataError:  # data.verify=false, on data that are not the published ones
            follows = False
        followed += [protocol] if follows else []
    return tuple(followed)


def override(key: str, value: str | None) -> str:
    """A setting as Hydra's command line takes it, whatever letters its value has.

    Example:
        >>> print(override("results.root", "o'brien"))
        results.root='o\\'brien'
    """
    if value is None:
        return f"{key}=null"
    # Before a quote a backslash has to be doubled, and elsewhere it must not be.
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), str(value))
    return f"{key}='{escaped}'"


def make_task(config: DictConfig, device: torch.device, build: BuildTask) -> Task:
    """Prepare the data set and build the task on a device.

    Raises:
        DataError: the data set is missing, damaged, or cannot be downloaded.
        ConfigError: the task refuses its options.
    """
    from tmsgd_bench.engine.environment import workers
    from tmsgd_bench.task import TaskSettings

    values = _plain(config)
    dataset, data = dataset_of(values), values["data"]
    folder = ready_folder(values, dataset)
    settings = TaskSettings(
        data_folder=folder,
        data_limit=data["limit"],
        batch_size=values["batch_size"],
        seed=values["seed"],
        device=device,
        model={key: value for key, value in values["model"].items() if key != "name"},
        fingerprint=dataset.fingerprint(folder, data["kind"], data["verify"]),
        weights_folder=data_root(data["root"]) / "weights",
        workers=workers(values["workers"], device),
        save_predictions=values["save_predictions"],
    )
    own = ("name", "dataset", *NOT_OF_THE_TASK)
    options = {key: value for key, value in values["task"].items() if key not in own}
    return build(values["task"]["_target_"], settings, options)


def explain(error: BaseException, conf: Path) -> str | None:
    """One sentence for an error the user can mend; None for one that needs a traceback."""
    if isinstance(error, BenchError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        known = sorted({*(error.options or ()), *(path.stem for path in (conf / group).glob("*.yaml"))})
        if group == "hydra/launcher" and (extra := EXTRAS.get(name.partition("_")[0])):
            return f"{group}={name} is not installed: pip install -e '.[{extra}]'."
        return f"unknown {group} {name!r}: choose one of {', '.join(known)}."
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_override(error, conf)
    if isinstance(error, OSError) and error.filename:
        return (
            f"cannot use {error.filename} ({error.strerror}): mend it, or choose another folder with results.root=PATH "
            "or data.root=PATH."
        )
    return None


def _explain_override(error: BaseException, conf: Path) -> str:
    """Hydra's own words on one line, with the likeliest key if one was misspelt."""
    cause = error.__cause__ or error
    key = getattr(cause, "full_key", None) or getattr(cause, "key", None)
    text = " ".join(f"{error} {error.__cause__ or ''}".split()) or type(error).__name__
    if key is None or "not in struct" not in f"{error} {cause}":
        return text
    guesses = difflib.get_close_matches(str(key), _keys(conf), n=1)
    hint = f"did you mean {guesses[0]!r}?" if guesses else "see them all with 'python run.py --cfg job'."
    return f"unknown setting {str(key)!r}: {hint}"


def _keys(conf: Path) -> list[str]:
    """Every setting of the default run, with dots between its parts."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf)):
        return _flatten(OmegaConf.to_container(compose("config"), resolve=False))


def _flatten(values: Any, prefix: str = "") -> list[str]:
    if not isinstance(values, dict):
        return []
    found = []
    for key, value in values.items():
        found += [f"{prefix}{key}", *_flatten(value, f"{prefix}{key}.")]
    return found


def _plain(config: DictConfig) -> dict[str, Any]:
    own = OmegaConf.masked_copy(
        config, [str(key) for key in config if key != "hydra"]
    )  # some of Hydra's has no value yet
    try:
        values = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    except InterpolationKeyError as error:
        if str(error.full_key).startswith("model."):  # models look up what the task's protocol says of them
            raise ConfigError(
                f"model={config.model.name} is of another task than task={config.task.name}: leave model= away, or "
                "choose one that docs/tasks.md names for that task."
            ) from error
        raise ConfigError(" ".join(str(error).split())) from error
    except OmegaConfBaseException as error:
        raise ConfigError(" ".join(str(error).split())) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _check_flags(section: str, values: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Hydra reads yes and no as words, and a word counts as true: better refused than misread."""
    for name in names:
        if not isinstance(values[name], bool):
            full = ".".join(filter(None, (section, name)))
            raise ConfigError(f"{full} must be true or false, not {values[name]!r}.")


def _check_keys(name: str, value: Any, keys: tuple[str, ...]) -> None:
    if value is not None and not (isinstance(value, Mapping) and all(key in value for key in keys)):
        raise ConfigError(f"{name} must be null or have the keys {', '.join(keys)}, not {value!r}.")


def dataset_of(values: dict[str, Any]) -> Dataset | Combined:
    """The data set that the run needs: verified, without what serves testing alone if it tests on training data.

    Of unverified data whatever is there makes up the contents.
    """
    chosen = _chosen_dataset(values)
    needs_test = values["task"].get("splits") != "train/val"
    return chosen if needs_test or not values["data"]["verify"] else chosen.without_test()


def _chosen_dataset(values: dict[str, Any]) -> Dataset | Combined:
    """The task's data set, or the one of those it can use that ``data.name`` or ``data.years`` names."""
    own, chosen = values["task"]["dataset"], values["data"]["name"]
    usable = values["task"].get("datasets", [own])
    if (years := values["data"]["years"]) is not None:
        return find_all(_of_years(years, chosen, usable))
    if chosen is not None and chosen not in usable:
        raise ConfigError(f"data.name must be one of {', '.join(usable)} for this task, not {chosen!r}.")
    return find_all(own if chosen is None else chosen)


def _of_years(years: Any, chosen: str | None, usable: Sequence[str]) -> str:
    """The name of the VOC data set of a year, or of several with "+" between them."""
    of_years = {name.replace("voc", ""): name for name in usable if name.startswith("voc")}
    if str(years) not in of_years:
        known = f"one of {', '.join(of_years)}" if of_years else "null, for this task's data set has none"
        raise ConfigError(f"data.years must be {known}, not {years!r}.")
    if chosen not in (None, of_years[str(years)]):
        raise ConfigError(f"data.name={chosen} and data.years={years} name two data sets: leave one of them away.")
    return of_years[str(years)]


def _weights_identity(model: Mapping[str, Any]) -> dict[str, Any]:
    """In place of the path of a model's initial weights, what the file holds."""
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


def _data_folder(values: dict[str, Any], dataset: Dataset | Combined) -> Path:
    data = values["data"]
    if data["kind"] not in ("real", "synthetic"):
        raise ConfigError(f"data.kind must be real or synthetic, not {data['kind']!r}.")
    return dataset.folder(data_root(data["root"]), data["kind"])


def ready_folder(values: dict[str, Any], dataset: Dataset | Combined) -> Path:
    """The data set's folder, verified or written, unless verification was turned off."""
    data = values["data"]
    if data["kind"] == "real" and not data["verify"]:
        log.warning("data.verify=false: the files of %s are used without checking them", dataset.name)
        return _data_folder(values, dataset)
    return dataset.prepare(data_root(data["root"]), data["kind"], log.info)
