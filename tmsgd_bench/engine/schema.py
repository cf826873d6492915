"""The allowed values of every setting of conf/, checked when a configuration is composed and before data are loaded.

The tables here are for the engine's settings and for the classes that its YAMLs name. Tasks and models may declare the
allowed values of their options (``Task.options``, :func:`tmsgd_bench.checks.takes`). The options of any other class are
checked against its signature.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from tmsgd_bench import splits
from tmsgd_bench.checks import (
    Check,
    Section,
    check_group,
    choice,
    class_name,
    declared,
    either,
    flag,
    items,
    keyed,
    name,
    number,
    optional,
    path,
    remark,
    text,
    unknown_setting,
    whole,
)
from tmsgd_bench.engine.signatures import check_signature, parameters, resolve
from tmsgd_bench.engine.spec import (
    AUTO,
    AUTO_SWITCH,
    BATCH_SIZE,
    EPOCH_KEYS,
    EPOCHS,
    LIMIT,
    LR,
    MOST_THREADS,
    SEED,
    SWITCH_EPOCH,
    RunOptions,
    check_switch,
    without,
)
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.version import PROTOCOLS

Table = TypeVar("Table")

NOT_OF_THE_TASK = ("_target_", "datasets", "without_test", "reading", *PROTOCOLS)
"""Keys of a task's YAML that do not determine a result."""
OF_THIS_PROJECT = "tasks."
"""The names of this project's model classes begin so."""

SPLIT_CHECKS: tuple[Check, ...] = (
    choice(splits.TEST, splits.VALIDATION),
    number(0, 1, 0.1, above=True, below=True),
)
"""What :data:`splits.SETTINGS` may be."""

FRACTION = number(0, 1, 0.9, below=True)
SHARE = number(0, 1, 0.5, above=True)
SMALL = number(0, 1000, 1e-8)
EPOCH_COUNT = number(0, 1e9, 1)
EVERY = choice("epoch", "update")
STEPPING = optional(flag())
"""``foreach`` and ``fused``: with null the optimizer chooses."""

N_SEEDS = whole(1, 100_000)

SIMPLE: dict[str, Check] = {
    "seed": SEED,
    "n_seeds": N_SEEDS,
    "workers": either(choice("auto"), whole(0, MOST_THREADS)),
    "tf32": flag(),
    "plan": flag(),
    **RunOptions.checks(),
    "data": Section(
        {
            "kind": choice("real", "synthetic"),
            "name": optional(name()),
            "years": lambda name, value: None,  # checked in task_data.chosen(), against the task's data sets
            "root": optional(path()),
            "limit": LIMIT,
            "evaluation_limit": LIMIT,
            "verify": flag(),
        }
    ),
    "protocol": name(),
    "epochs": EPOCHS,
    "batch_size": BATCH_SIZE,
    "lr": LR,
    "switch_epoch": either(SWITCH_EPOCH, optional(choice(AUTO))),
}
"""The settings that belong to no class."""

DESCRIPTION: dict[str, Check] = {
    "datasets": either(items(name(), 1), keyed(name(), 1)),
    "without_test": keyed(),
    "reading": remark(),
}
"""What a task's YAML may contain besides the task's options.

``datasets``: the names that ``data.name`` may have, as a list, or by the values that ``data.years`` may have.
``without_test``: the values of options with which the test split's files are not needed.
``reading``: why a protocol's values differ from the paper's."""
OF_A_PROTOCOL = ("epochs", "lr", "batch_size", "switch_epoch", "schedule")
LRS = keyed(LR)
"""``lrs`` of a protocol: the learning rates of the optimizers that do not have its ``lr``, by their names."""
GROUPS = (*SIMPLE, "schedule", "optimizer", "tracker", "task", "model")
VARIABLES = ("switch_epochs", "reduced_lr", "lr_step", "lrs")
"""Variables of the YAMLs in conf/experiment/ and conf/protocol/."""

EVERY_OPTIMIZER = Section(
    {"_target_": class_name(), "name": name(), "label": text(60), "lr": LR},
    {"warmup": Section({"updates": whole(1), "start_factor": SHARE}, null=True), "auto_switch": AUTO_SWITCH},
)
"""The settings that every optimizer's YAML has; the others are passed to its class."""

OF_A_MODEL = {"_target_": class_name(), "name": name()}
"""The settings that every model's YAML has; the others are passed to its class."""

TORCHS = {"maximize": flag(), "foreach": STEPPING, "fused": STEPPING, "weight_decay": SMALL}
SGD = {"momentum": FRACTION, "dampening": number(0, 1, 0), "nesterov": flag(), **TORCHS}
ADAM = {
    "betas": items(FRACTION, 2, 2),
    "eps": SMALL,
    "amsgrad": flag(),
    "capturable": flag(),
    "decoupled_weight_decay": flag(),
    **TORCHS,
}


def _scheme(setting: str, value: Any) -> None:
    """A name that is known, or coefficients of a method that converges."""
    either(name(), items(number(-1e6, 1e6, 0.5), 2, 64))(setting, value)
    if value == "taylor3":
        return
    from tmsgd_bench.optim.schemes import MultistepScheme  # with torch, which takes seconds: not for the paper's method

    try:
        MultistepScheme.resolve(value)
    except ValueError as error:
        raise ConfigError(f"{setting}: {error}") from None


TMSGD: dict[str, Check] = {
    "switch_epoch": either(SWITCH_EPOCH, choice(AUTO)),
    "restart_every_epochs": optional(whole(1)),
    "momentum": FRACTION,
    "weight_decay": SMALL,
    "scheme": _scheme,
    "restart_every": optional(whole(1)),
    "foreach": STEPPING,
    "fused": STEPPING,
    "maximize": flag(),
}
APOLLO = {
    "init_lr": optional(LR),
    "beta": FRACTION,
    "eps": SMALL,
    "rebound": choice("constant", "belief"),
    "weight_decay": SMALL,
    "weight_decay_type": choice("l2", "decoupled", "stable"),
    "warmup_steps": whole(0),
    "maximize": flag(),
    "foreach": STEPPING,
}
OPTIMIZERS: dict[str, Mapping[str, Check]] = {
    "torch.optim.SGD": SGD,
    "torch.optim.sgd.SGD": SGD,
    "torch.optim.Adam": ADAM,
    "torch.optim.adam.Adam": ADAM,
    "tmsgd_bench.optim.TMSGD": TMSGD,
    "tmsgd_bench.optim.tmsgd.TMSGD": TMSGD,
    "tmsgd_bench.optim.apollo.Apollo": APOLLO,
}
"""The options of each class, under the name that conf/ uses and under that of the module that defines the class."""

SCHEDULES: dict[str, Section] = {
    "torch.optim.lr_scheduler.MultiStepLR": Section(
        {"milestones": items(whole(0))},
        {"gamma": number(0, 1000, 0.1, above=True), "last_epoch": choice(-1), "every": EVERY},
    ),
    "tmsgd_bench.engine.schedules.WarmupSteps": Section(
        {
            "every": choice("update"),
            "warmup_epochs": EPOCH_COUNT,
            "start_lr": LR,
            "milestones": items(EPOCH_COUNT),
            "gamma": number(0, 1000, 0.1, above=True),
        }
    ),
    "tmsgd_bench.engine.schedules.WarmupPoly": Section(
        {
            "every": choice("update"),
            "epochs": number(0, 1e9, 30, above=True),
            "warmup_epochs": EPOCH_COUNT,
            "start_factor": SHARE,
            "power": number(0, 1000, 0.9, above=True),
        }
    ),
}

TRACKERS: dict[str, Section] = {
    "tmsgd_bench.engine.trackers.TensorBoard": Section({"folder": path()}),
    "tmsgd_bench.engine.trackers.MLflow": Section({"uri": optional(text(2000)), "experiment": text()}),
    "tmsgd_bench.engine.trackers.WandB": Section(
        {"project": text(), "mode": choice("online", "offline", "disabled"), "folder": path()}
    ),
}


def check(values: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first setting of a resolved configuration that cannot be used.

    Args:
        values: all settings except Hydra's own section.

    Raises:
        ConfigError: a setting is missing, misspelt, of the wrong type or out of its range, or names a class that cannot
            be imported.
    """
    check_present(values)
    for key, check_value in SIMPLE.items():
        check_value(key, values[key])
    check_optimizer(values["optimizer"])
    check_schedule("schedule", values["schedule"])
    check_tracker(values["tracker"])
    check_task(values["task"], values["model"])
    check_protocol(values["protocol"], values["task"])
    check_searched(values["protocol"], values["task"])


def check_protocol(protocol: Any, task: Mapping[str, Any]) -> None:
    """Raise ConfigError if a task is not among those whose learning rates are searched."""
    known = [name for name in PROTOCOLS if name in task]
    if known and protocol == "tuned" and protocol not in known:
        raise ConfigError(
            f"task={task.get('name')} has no protocol={protocol}: choose one of {', '.join(known)}, "
            "or add the blocks reduced and tuned to its YAML as docs/tuned.md says."
        )


def check_searched(protocol: Any, task: Mapping[str, Any]) -> None:
    """Raise ConfigError if the settings of a search are a task's own, and not those of reduced; both are resolved."""
    if protocol == "tuned" and task["tuned"] != task.get("reduced"):
        raise ConfigError(
            f"task={task.get('name')} has settings of its own for protocol=tuned: write a block reduced, and the line "
            "'tuned: ${.reduced}', because only the learning rate is searched."
        )


def check_present(values: Mapping[str, Any]) -> None:
    """Raise ConfigError if a setting of conf/config.yaml was removed, or a misspelt one was added.

    Other names may be added, because an experiment's YAML may define variables.
    """
    if "model" not in values and "task" in values:
        raise ConfigError(
            "the task has no model: add '- override /model@_global_.model: NAME' and '- _self_' under 'defaults:' at "
            "the top of its YAML, or choose one with model=NAME."
        )
    check_group("", values, GROUPS)
    for key in set(values) - {*GROUPS, *VARIABLES, "hydra"}:
        if difflib.get_close_matches(str(key), GROUPS, n=1):
            raise unknown_setting(str(key), key, GROUPS)


def check_optimizer(values: Any) -> None:
    """Raise ConfigError unless the settings are those of an optimizer."""
    check_group("optimizer", values, tuple(EVERY_OPTIMIZER.required))
    EVERY_OPTIMIZER("optimizer", {key: value for key, value in values.items() if key in EVERY_OPTIMIZER.checks})
    options = without(values, *EVERY_OPTIMIZER.checks)
    table, kind = _known("optimizer", values["_target_"], OPTIMIZERS)
    if table is not None:
        Section({}, table)("optimizer", options)
    else:
        renamed = {EPOCH_KEYS.get(key, key): value for key, value in options.items()}
        check_signature("optimizer", kind, {"lr": values["lr"], **renamed})
        _check_step(kind)
    check_switch("optimizer", values)


def _check_step(kind: Any) -> None:
    """Refuse an optimizer whose step needs a closure: the tasks call ``step()`` without one."""
    closure = inspect.signature(kind.step).parameters.get("closure") if hasattr(kind, "step") else None
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(
            f"optimizer._target_ names {kind.__qualname__}, whose step() needs a closure, and no task has one: choose "
            "an optimizer that needs only gradients."
        )


def check_schedule(section: str, values: Any) -> None:
    """Raise ConfigError unless the settings are those of a learning-rate schedule, or null."""
    if values is None:
        return
    options = _options(section, values, class_name())
    table, kind = _known(section, values["_target_"], SCHEDULES)
    if table is not None:
        table(section, options)
        return
    every = options.pop("every", "epoch")
    EVERY(f"{section}.every", every)
    check_signature(section, kind, options, arguments=("steps_per_epoch",) if every == "update" else ())
    _check_momentum(kind, options)


def _check_momentum(kind: Any, options: Mapping[str, Any]) -> None:
    """Refuse torch's default of cycling the momentum along with the learning rate: SGD would be SGD with momentum."""
    signature = parameters(kind, 1)
    if signature and "cycle_momentum" in signature.named and "cycle_momentum" not in options:
        raise ConfigError(
            f"{kind.__name__} changes the momentum as well by default: add cycle_momentum: false to the schedule, or "
            "cycle_momentum: true if that is wanted."
        )


def check_tracker(values: Any) -> None:
    """Raise ConfigError unless the settings are those of a tracker, or of none."""
    options = _options("tracker", values, optional(class_name()))
    if values["_target_"] is None:
        if options:
            raise ConfigError(
                "tracker._target_ must be the name of a class with its module, not null: use tracker=none."
            )
        return
    table, kind = _known("tracker", values["_target_"], TRACKERS)
    if table is not None:
        table("tracker", options)
    else:
        check_signature("tracker", kind, options, first=0)


def _options(section: str, values: Any, target: Check) -> dict[str, Any]:
    """The settings that are passed to a section's class."""
    check_group(section, values, ("_target_",), null=section != "tracker")
    target(f"{section}._target_", values["_target_"])
    return without(values, "_target_")


def _known(section: str, target: str, tables: Mapping[str, Table]) -> tuple[Table | None, Any]:
    """A class's entry in a table, or None; and the class, if it had to be imported to find that out."""
    if target in tables:
        return tables[target], None
    kind = resolve(section, target)
    return tables.get(f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"), kind


def check_task(task: Any, model: Any) -> None:
    """Raise ConfigError unless the settings are those of a task and of a model that it has."""
    required = {"_target_": class_name(), "name": name(), "dataset": name()}
    check_group("task", task, tuple(required))
    description = Section(required, DESCRIPTION)
    description("task", {key: value for key, value in task.items() if key in description.checks})
    check_group("model", model, tuple(OF_A_MODEL))
    for key, check_value in OF_A_MODEL.items():
        check_value(f"model.{key}", model[key])
    kind = resolve("task", task["_target_"])
    options = without(task, *required, *NOT_OF_THE_TASK)
    if getattr(kind, "splits_training", False):
        check_group("task", options, splits.SETTINGS)
        for key, check_split in zip(splits.SETTINGS, SPLIT_CHECKS, strict=True):
            check_split(f"task.{key}", options.pop(key))
    check_options = getattr(kind, "options", None)
    if check_options is not None:
        check_options("task", options)
    else:
        _check_has_validation_split(kind, task)
        check_signature("task", kind, options)
    _check_without_test(kind, task.get("without_test", {}), options)
    check_model(kind, task["name"], model)
    known = _known_options(kind, model)
    known = {model["name"]: _of_a_model(known), **known}
    for protocol in PROTOCOLS:
        if protocol in task:
            _check_protocol(f"task.{protocol}", task[protocol], known)


def _check_has_validation_split(kind: Any, task: Mapping[str, Any]) -> None:
    """Refuse ``evaluate_on`` for a task that neither divides its training split nor takes it as an option."""
    if "evaluate_on" not in task or getattr(kind, "splits_training", False):
        return
    taken = parameters(kind, first=1)
    if taken is not None and not (taken.open_ended or "evaluate_on" in taken.named):
        raise ConfigError(
            "task.evaluate_on is for tasks that have a validation split: set splits_training = True in "
            f"{task['_target_']}, and take the examples from settings.split (docs/extending.md), or leave it out."
        )


def _check_without_test(kind: Any, values: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Check that ``task.without_test`` names options of the task, with values that they may have."""
    check_group("task.without_test", values, (), options)
    known = _checks_of_task(kind)
    for key, value in values.items():
        if key in known:
            known[key](f"task.without_test.{key}", value)


def check_model(task_class: Any, task: str, model: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a task can call the model's class with its arguments and the model's options.

    Args:
        task: its name.
        model: all of the model's settings.
    """
    arguments = getattr(task_class, "model_arguments", None)
    if arguments is not None:
        check_handed_over(arguments, task, model)
        otherwise = (
            f"or choose a model of this task, which hands over {', '.join(arguments) or 'nothing'} (task={task})"
        )
        check_model_options(resolve("model", model["_target_"]), without(model, *OF_A_MODEL), arguments, otherwise)


def check_handed_over(arguments: Collection[str], task: str, model: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a model's class takes the task's arguments, and needs no others.

    Args:
        arguments: names of the arguments that the task hands over to the class.
        task: its name.
        model: all of the model's settings.
    """
    kind = resolve("model", model["_target_"])
    signature, options = parameters(kind), declared(kind)
    if signature is None:
        return
    refused = [] if signature.open_ended else [key for key in arguments if key not in signature.named]
    if options is not None:
        # Declared options say which parameters are settings; the task hands over the others.
        known = {*options.checks_for(model), *arguments}
        if refused or not {key for key, needed in signature.named.items() if needed} <= known:
            raise other_model(model["name"], task)
    if refused:
        raise ConfigError(
            f"model._target_ names {model['_target_']!r}, which does not take {', '.join(refused)}: task={task} hands "
            f"over {', '.join(arguments)}; add them to its parameters, or choose another model."
        )


def check_model_options(kind: Any, options: Mapping[str, Any], arguments: Iterable[str], otherwise: str = "") -> None:
    """Raise ConfigError unless the options are those of a model's class.

    Args:
        arguments: names of the arguments that the task hands over to the class.
        otherwise: see :func:`~tmsgd_bench.engine.signatures.check_signature`.
    """
    check = declared(kind)
    if check is not None:
        check("model", options)
    else:
        check_signature("model", kind, options, arguments, first=0, otherwise=otherwise)


def task_identity(task: Mapping[str, Any]) -> dict[str, Any]:
    """What of a task's settings determines a result; on the test split no validation split does."""
    divides = getattr(resolve("task", task["_target_"]), "splits_training", False)
    left_out = splits.SETTINGS if divides and splits.evaluated(task) == splits.TEST else ()
    return without(task, *NOT_OF_THE_TASK, *left_out)


def model_identity(model: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model that are part of a run's identity.

    A class of this project is left out, because the model's name stands for it. Any other class is included, because
    two users' models of one name may be different classes.
    """
    return without(model, "_target_") if model["_target_"].startswith(OF_THIS_PROJECT) else dict(model)


def other_model(model: Any, task: Any) -> ConfigError:
    """The error for a model that a task cannot use."""
    return ConfigError(
        f"model={model} is of another task than task={task}: leave model= away, or choose one that docs/tasks.md names "
        "for that task."
    )


def _of_a_model(known: Mapping[str, Check]) -> Check:
    """A check of the values that a protocol has for one model alone, in a block of its name."""

    def check_block(section: str, values: Any) -> None:
        check_group(section, values, (), {*known, "schedule"})
        if "schedule" in values:
            check_schedule(f"{section}.schedule", values["schedule"])
        _check_known(section, values, known)

    return check_block


def _check_protocol(section: str, values: Any, known: Mapping[str, Check]) -> None:
    """Check a protocol's values in a task's YAML; a value that an option refers to is checked like that option."""
    check_group(section, values, OF_A_PROTOCOL)
    check_schedule(f"{section}.schedule", values["schedule"])
    _check_known(section, values, known)


def _check_known(section: str, values: Mapping[str, Any], known: Mapping[str, Check]) -> None:
    for key, value in values.items():
        if key in known:
            known[key](f"{section}.{key}", value)


def _known_options(kind: Any, model: Mapping[str, Any]) -> dict[str, Check]:
    """The checks of all options of a task and of its model that have one, and of all other settings."""
    options = declared(resolve("model", model["_target_"]))
    of_model = {} if options is None else options.checks_for(model)
    by_data = {"weights_on_synthetic": of_model["weights"]} if "weights" in of_model else {}
    return {**_checks_of_task(kind), **of_model, **by_data, **SIMPLE, "limit": LIMIT, "lrs": LRS, "models": text()}


def _checks_of_task(kind: Any) -> dict[str, Check]:
    options = getattr(kind, "options", None)
    return {} if options is None else options.checks_for({})
