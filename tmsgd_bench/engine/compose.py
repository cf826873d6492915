"""Between Hydra's configuration and the engine: the only place that knows the layout of conf/."""

from __future__ import annotations

import difflib
import logging
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tmsgd_bench.checks import names_weights_file, shown
from tmsgd_bench.data.sources import file_digest
from tmsgd_bench.engine import schema
from tmsgd_bench.engine.signatures import one_line
from tmsgd_bench.engine.spec import RunOptions, RunSpec, SharpnessLog, validate, without
from tmsgd_bench.engine.task_data import TaskData
from tmsgd_bench.errors import BenchError, ConfigError, DataError
from tmsgd_bench.version import PROTOCOLS

if TYPE_CHECKING:  # importing torch takes seconds, which looking at the settings should not cost
    import torch

    from tmsgd_bench.task import Task, TaskSettings

log = logging.getLogger(__name__)

GROUPS = ("task", "model", "optimizer", "data")
DETAIL = re.compile(r"\s*(full_key|object_type|reference_type)[:=]")
"""What OmegaConf adds to its messages, which says nothing to a user."""
OPTION = re.compile(r"\w[\w.+/-]*")
"""The name of a file of a group, without .yaml."""
GROUPS_OF_FILES = (*GROUPS, "protocol", "prefix", "tracker", "experiment")
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
    values = checked(config)
    data, model = data_of(values), values["model"]
    task = {**without(values["task"], *schema.NOT_OF_THE_TASK), "dataset": data.name}
    if fetch and data.kind == "real" and data.verify and not data.dataset.pinned:
        data.ready()
    return validate(
        RunSpec(
            task=task,
            model={**schema.model_identity(model), **_weights_identity(model)},
            data={"kind": data.kind, "limit": values["data"]["limit"], "fingerprint": data.fingerprint()},
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
    values = checked(config)
    progress, share = values["progress"], values["prefix"]["share"]
    every = values["log_sharpness"]
    return RunOptions(
        wait=in_sweep,
        sharpness=None if every is None else SharpnessLog(every, values["sharpness_examples"]),
        share_prefix=in_sweep if share == "auto" else share,
        keep_trunks=values["prefix"]["keep"],
        save_predictions=values["save_predictions"],
        tracker=values["tracker"],
        verified_data=values["data"]["kind"] == "synthetic" or values["data"]["verify"],
        results_root=Path(values["results"]["root"]).expanduser(),
        progress="log" if in_sweep and progress == "auto" else progress,
        **{
            key: values[key]
            for key in ("device", "threads", "deterministic", "checkpoint_seconds", "force", "save_weights")
        },
    )


def followed_protocols(config: DictConfig, spec: RunSpec, choices: Mapping[str, str | None]) -> tuple[str, ...]:
    """The protocols whose own values, untouched and on verified data, describe this very run.

    Args:
        config: the run's configuration.
        choices: the option chosen in each of Hydra's groups.
    """
    chosen = [
        *search_path(HydraConfig.get() if HydraConfig.initialized() else None),
        *(f"{group}={choices[group]}" for group in GROUPS),
    ]
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


def search_path(hydra: Any) -> list[str]:
    """The override that lets a configuration be composed again out of the same folders.

    Hydra keeps those of ``--config-dir``, and forgets those of ``hydra.searchpath``.

    Args:
        hydra: Hydra's own section of the configuration; None for a configuration that no command line asked for.
    """
    sources = hydra.runtime.config_sources if hydra else ()
    folders = [f"{one.schema}://{one.path}" for one in sources if one.provider.startswith("hydra.searchpath")]
    return [f"hydra.searchpath=[{','.join(_quoted(folder) for folder in folders)}]"] if folders else []


def override(key: str, value: str | None) -> str:
    """A setting as Hydra's command line takes it, whatever letters its value has.

    Example:
        >>> print(override("results.root", "o'brien"))
        results.root='o\\'brien'
    """
    return f"{key}=null" if value is None else f"{key}={_quoted(value)}"


def _quoted(value: str) -> str:
    # Before a quote a backslash has to be doubled, and elsewhere it must not be.
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def make_task(config: DictConfig, device: torch.device, build: BuildTask) -> Task:
    """Prepare the data set and build the task on a device.

    Raises:
        DataError: the data set is missing, damaged, or cannot be downloaded.
        ConfigError: the task refuses its options.
    """
    from tmsgd_bench.engine.environment import workers

    values = checked(config)
    data = data_of(values)
    settings = replace(
        data.settings(data.ready(), data.fingerprint(), device),
        data_limit=values["data"]["limit"],
        batch_size=values["batch_size"],
        seed=values["seed"],
        model=without(values["model"], "name"),
        workers=workers(values["workers"], device),
        save_predictions=values["save_predictions"],
    )
    options = without(values["task"], "name", "dataset", *schema.NOT_OF_THE_TASK)
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
        return f"unknown {group or 'configuration'} {name!r}: choose one of {', '.join(known)}."
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_override(error, conf)
    if _is_hydras(error):
        return f"Hydra cannot use these settings ({one_line(error)}): 'python run.py --cfg job' shows what there is."
    if isinstance(error, OSError) and error.filename:
        return (
            f"cannot use {error.filename} ({error.strerror}): mend it, or choose another folder with results.root=PATH "
            "or data.root=PATH."
        )
    return None


def _is_hydras(error: BaseException) -> bool:
    """Whether Hydra itself raised it: of what it is given it reads some before any check of ours."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [frame.f_globals.get("__name__", "").partition(".")[0] for frame in frames]
    sets_up_logging = any(frame.f_code.co_name == "configure_log" for frame in frames)
    return bool(modules) and (modules[-1] in ("hydra", "omegaconf", "antlr4") or sets_up_logging)


def check_verbose(verbose: Any) -> None:
    """Raise ConfigError unless ``hydra.verbose`` is true, false, or the names of modules that there are."""
    names = [verbose] if isinstance(verbose, str) else verbose
    for name in names if isinstance(names, Sequence) else ():
        if not _is_module(str(name)):
            raise ConfigError(
                f"hydra.verbose must be true, false, or a list of modules whose log to show, not {shown(name)}: set it "
                "with hydra.verbose=true, say."
            )


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def check_groups(overrides: Iterable[str], conf: Path) -> None:
    """Raise ConfigError for a group, such as optimizer, that is given anything but the name of one of its files.

    Args:
        overrides: as on the command line; what cannot be parsed is left to Hydra's own error.
        conf: the folder of the groups.
    """
    for text in overrides:
        group = text.partition("=")[0]
        if "=" in text and group in GROUPS_OF_FILES:
            with suppress(HydraException):
                _check_group(group, OverridesParser.create().parse_overrides([text])[0], conf)


def _check_group(group: str, override: Override, conf: Path) -> None:
    value = None if override.is_sweep_override() else override.value()
    if override.is_sweep_override() or (isinstance(value, str) and OPTION.fullmatch(value)):
        return
    known = ", ".join(sorted(path.stem for path in (conf / group).glob("*.yaml")))
    raise ConfigError(f"{group} must be the name of a file in conf/{group}, not {shown(value)}: choose one of {known}.")


def _explain_override(error: BaseException, conf: Path) -> str:
    """Hydra's own words on one line, with the likeliest key if one was misspelt."""
    cause = error.__cause__ or error
    key = getattr(cause, "full_key", None) or getattr(cause, "key", None)
    lines = f"{error}\n{error.__cause__ or ''}".splitlines()
    text = " ".join(" ".join(line for line in lines if not DETAIL.match(line)).split()) or type(error).__name__
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


def checked(config: DictConfig) -> dict[str, Any]:
    """Everything but Hydra's own section of a composed configuration, as plain values that can be used.

    Raises:
        ConfigError: a setting refers to one that there is not, or cannot be used; see
            :mod:`tmsgd_bench.engine.schema`.
    """
    schema.check_present({str(key): None for key in config})
    own = OmegaConf.masked_copy(
        config, [str(key) for key in config if key != "hydra"]
    )  # some of Hydra's has no value yet
    try:
        values = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise unusable(error, config) from error
    assert isinstance(values, dict)
    plain = {str(key): value for key, value in values.items()}
    schema.check(plain)
    return plain


def unusable(error: OmegaConfBaseException, config: DictConfig) -> ConfigError:
    """The error for a setting whose value refers to another one that there is not, or cannot be computed."""
    raw: Any = OmegaConf.to_container(config, resolve=False)
    task, model = ({} if not isinstance(raw.get(group), dict) else raw[group] for group in ("task", "model"))
    missing = re.search(r"'task\.\w+\.(\w+)'", str(error))
    # Models look up what the task's protocol says of them: another task's protocols do not.
    if missing and not any(missing[1] in (task.get(name) or ()) for name in PROTOCOLS):
        return schema.other_model(model.get("name"), task.get("name"))
    return ConfigError(
        f"setting {str(error.full_key)!r} cannot be used ({one_line(error).rstrip('.')}): correct what it refers to."
    )


def data_of(values: dict[str, Any]) -> TaskData:
    """The data that the run needs.

    ``data.name`` or ``data.years`` choose one of the task's ``datasets``. The files for testing may be missing if the
    task's options are those of its ``without_test``.

    Raises:
        ConfigError: the task has no such data set.
    """
    task, data = values["task"], values["data"]
    spared = task.get("without_test")
    needs_test = not spared or any(task[key] != value for key, value in spared.items())
    return TaskData(_chosen_dataset(values), data["kind"], data["root"], data["verify"], needs_test)


def _chosen_dataset(values: dict[str, Any]) -> str:
    """The name of the task's data set, or of the one of those it can use that is asked for."""
    own, chosen = values["task"]["dataset"], values["data"]["name"]
    usable = values["task"].get("datasets", [own])
    of_years = {str(key): name for key, name in usable.items()} if isinstance(usable, Mapping) else {}
    if (years := values["data"]["years"]) is not None:
        return _of_years(years, chosen, of_years)
    names = list(of_years.values()) or usable
    if chosen is not None and chosen not in names:
        raise ConfigError(f"data.name must be one of {', '.join(names)} for this task, not {chosen!r}.")
    return own if chosen is None else chosen


def _of_years(years: Any, chosen: str | None, of_years: Mapping[str, str]) -> str:
    """The name of the data set that ``data.years`` stands for."""
    if str(years) not in of_years:
        known = f"one of {', '.join(of_years)}" if of_years else "null, for this task's data set has none"
        raise ConfigError(f"data.years must be {known}, not {shown(years)}.")
    name = of_years[str(years)]
    if chosen not in (None, name):
        raise ConfigError(f"data.name={chosen} and data.years={years} name two data sets: leave one of them away.")
    return name


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
