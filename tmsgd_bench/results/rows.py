"""The rows of a comparison: what each optimizer is called, in which order they stand, and which is the reference.

A row is the runs of one optimizer with the same options. Rows of one optimizer may differ in learning rate, switch
epoch or any other setting of theirs.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tmsgd_bench import files
from tmsgd_bench.checks import is_number
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.results import store
from tmsgd_bench.results.outcomes import outcomes
from tmsgd_bench.results.status import FINISHED

SHOWN = 4
"""Settings at most by which groups, or an optimizer's rows, are told apart in words."""
MISSING = object()
OF_ITSELF = ("_target_", "name")
"""What an optimizer's options say besides its settings."""


@dataclass(frozen=True)
class Reference:
    """Which optimizer differences are taken to.

    Args:
        name: the optimizer's name.
        settings: values of its settings, as text, that its row must have; for one of several rows.
    """

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The reference that a text such as ``sgd`` or ``sgd,lr=0.1`` names.

        Raises:
            ConfigError: a part after the name has no "=".
        """
        name, *settings = (part.strip() for part in text.split(","))
        for setting in settings:
            if "=" not in setting:
                raise ConfigError(f"--reference {text}: write NAME or NAME,SETTING=VALUE, such as sgd,lr=0.1.")
        return cls(name, dict(setting.split("=", 1) for setting in settings))

    def __str__(self) -> str:
        return ",".join([self.name, *(f"{key}={value}" for key, value in self.settings.items())])

    def fits(self, run: pd.Series) -> bool:
        """Whether a run has this name and these settings; numbers are compared as numbers."""
        options = settings_of(run) if self.settings else {}
        return bool(run["optimizer"] == self.name) and all(
            key in options and _equal(options[key], value) for key, value in self.settings.items()
        )


def choices(run: pd.Series) -> dict[str, str]:
    """What a command sets besides protocol, optimizer and seed to train a run again; the reader names PATH."""
    chosen = {"task": run["task"], "model": run["model"], "data": run["data"]}
    chosen |= {} if pd.isna(run["dataset"]) else {"data.name": run["dataset"]}
    chosen |= {} if run["verified"] else {"data.verify": "false"}
    return chosen | ({} if pd.isna(run["weights_file"]) else {"model.weights": "PATH"})


def _equal(value: Any, text: str) -> bool:
    try:
        return float(text) == value if is_number(value) else shown(value) == text
    except ValueError:
        return False


def shown(value: Any) -> str:
    """A setting's value for a person: numbers in their shortest form, the other values as YAML has them.

    Example:
        >>> shown(0.1), shown(True), shown([0.9, 0.999])
        ('0.1', 'true', '[0.9, 0.999]')
    """
    if is_number(value):
        return short if float(short := f"{value:g}") == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value)


def settings_of(run: pd.Series) -> dict[str, Any]:
    """The settings of a run's optimizer by dotted key."""
    options = store.leaves(json.loads(run["options"]))
    return {key: value for key, value in options.items() if key not in OF_ITSELF}


def learning_rate(run: pd.Series) -> float | None:
    """Its learning rate, if its optimizer has one."""
    return None if pd.isna(run["lr"]) else float(run["lr"])


def labels(every: Sequence[pd.DataFrame]) -> list[str]:
    """What each optimizer's row is called.

    Optimizers of one label are told apart by their names, and rows of one name by the settings in which they differ,
    or by a digest of their options if these are many.

    Args:
        every: the runs of each row.
    """
    first = [of_options.iloc[0] for of_options in every]
    several = len({learning_rate(run) for run in first}) > 1
    shared = Counter(name for name, _ in {(run["label"], run["optimizer"]) for run in first})
    names = [label(of_options, several, with_name=shared[of_options["label"].iloc[0]] > 1) for of_options in every]
    return [
        name if names.count(name) == 1 else f"{name}{_distinction(run, name, first, names)}"
        for run, name in zip(first, names, strict=True)
    ]


def label(runs: pd.DataFrame, with_lr: bool = False, with_name: bool = False) -> str:
    """The label of runs that differ in their seeds only.

    It is their optimizer's label, its name and its learning rate if they are wanted, and its switch epoch if it has
    one. Runs that chose their switch epochs themselves can have several; then the first and the last one.
    """
    run = runs.iloc[0]
    name = f" ({run['optimizer']})" if with_name else ""
    lr = f", lr {shown(learning_rate(run))}" if with_lr else ""
    epochs = runs["switch_epoch"].astype(float)
    reached = epochs[epochs < math.inf]
    ends = sorted({reached.min(), reached.max()}) if len(reached) else []
    switch = f", switch {' to '.join(f'{end:g}' for end in ends)}" if ends else ""
    return f"{run['label']}{name}{lr}{switch}"


def _distinction(run: pd.Series, name: str, first: Sequence[pd.Series], names: Sequence[str]) -> str:
    """What tells a row from the others of its name."""
    alike = [other for other, its_name in zip(first, names, strict=True) if its_name == name]
    words = in_words([settings_of(other) for other in alike], " ")
    position = next(number for number, other in enumerate(alike) if other["options"] == run["options"])
    return f" #{_digest(run['options'])}" if words is None else f", {words[position]}"


def in_words(every: Sequence[Mapping[str, Any]], equals: str) -> list[str] | None:
    """The settings in which several groups or rows differ, in words for each; None if there are none, or many.

    Args:
        every: the settings of each, by dotted key.
        equals: between a setting and its value.
    """
    keys = sorted(set().union(*every))
    differing = [
        key for key in keys if any(settings.get(key, MISSING) != every[0].get(key, MISSING) for settings in every)
    ]
    if not 0 < len(differing) <= SHOWN:
        return None
    return [
        ", ".join(f"{key}{equals}{shown(settings[key])}" if key in settings else f"without {key}" for key in differing)
        for settings in every
    ]


def _digest(options: str) -> str:
    return files.digest(json.loads(options))[:4]


def order(runs: pd.DataFrame) -> tuple[str, float, float, str]:
    """The place of runs of one optimizer with the same options: by name, learning rate, and switch epoch."""
    first = runs.iloc[0]
    lr, switch = (-1.0 if pd.isna(first[key]) else float(first[key]) for key in ("lr", "switch_epoch"))
    return str(first["optimizer"]), lr, switch, str(first["options"])


def precedence(runs: pd.DataFrame) -> tuple[bool, int, float, tuple[str, float, float, str]]:
    """The first of the rows that may be the reference follows a protocol, then has the most runs, then does best.

    What it does counts on the validation split alone: on the test split such a choice would favour the reference.
    """
    follows = any(runs["protocols"].map(len))
    return not follows, -int(runs["status"].isin(FINISHED).sum()), _loss_on_validation(runs), order(runs)


def _loss_on_validation(runs: pd.DataFrame) -> float:
    """The mean of the metric, smaller is better, infinite if a run diverged; 0 for runs on the test split."""
    if not (runs["split"] == "validation").all():
        return 0.0
    direction = next(iter(runs["direction"].dropna()), "min")
    mean = float(outcomes(runs, direction).mean())
    return math.inf if math.isnan(mean) else -mean if direction == "max" else mean
