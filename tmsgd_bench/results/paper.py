"""The paper's printed numbers (``paper.yaml``), as they are printed and as numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from tmsgd_bench.errors import ConfigError

OWN_PROTOCOL = "table2"
"""The paper's own settings."""


@dataclass(frozen=True)
class Printed:
    """A printed number.

    Args:
        text: as printed, "61.77 ± 0.02", say.
        value: the number.
        tolerance: half a unit of its last digit, and the printed spread if there is one.
    """

    text: str
    value: float
    tolerance: float

    @classmethod
    def parse(cls, text: str) -> Printed:
        """Read a number, with or without a spread behind "±"."""
        number, _, spread = (word.strip() for word in text.partition("±"))
        decimals = len(number.partition(".")[2])
        return cls(text, float(number), 0.5 * 10.0**-decimals + float(spread or 0.0))


@dataclass(frozen=True)
class Experiment:
    """One model on one task, and the numbers that the paper prints of it.

    Args:
        key: its name in ``claims.yaml``: task/model, or task/model/dataset where its table has several data sets; empty
            if the paper does not have it.
        table: key of the table it stands in; empty without one.
        place: where that is in the paper; empty if nowhere.
        task, model: as their YAMLs name them.
        dataset: the data set that the paper used; None if the task has only one.
        label: of the model, as the paper names it.
        metric: the task's primary metric.
        metric_label: as the paper names it; its own name where it is not the paper's.
        unit, direction: of the metric.
        digits: decimals of the printed values.
        labels: of each optimizer, in the paper's order.
        printed: number of each optimizer that has one; empty if ``metric`` is not the paper's.
        stand_ins: metrics that a run reports where it cannot measure ``metric``; such a run is left out.
        last_epochs: long runs also report their mean over so many last epochs; None if they do not.
    """

    key: str
    table: str
    place: str
    task: str
    model: str
    dataset: str | None
    label: str
    metric: str
    metric_label: str
    unit: str
    direction: Literal["min", "max"]
    digits: int
    labels: Mapping[str, str]
    printed: Mapping[str, Printed]
    stand_ins: tuple[str, ...] = ()
    last_epochs: int | None = None

    @classmethod
    def own(
        cls,
        trained: tuple[str, str, str | None],
        metric: tuple[str, str, Literal["min", "max"]],
        digits: int,
        labels: Mapping[str, str],
    ) -> Experiment:
        """One that the paper does not have, and so prints no number of.

        Args:
            trained: task, model and data set.
            metric: name, unit and direction.
            digits: decimals of a mean, less one.
            labels: of each optimizer by name.
        """
        (task, model, dataset), (name, unit, direction) = trained, metric
        return cls(
            key="",
            table="",
            place="",
            task=task,
            model=model,
            dataset=dataset,
            label=model,
            metric=name,
            metric_label=name,
            unit=unit,
            direction=direction,
            digits=digits,
            labels=labels,
            printed={},
        )

    @property
    def better(self) -> str:
        """The metric's direction in words."""
        return "higher is better" if self.direction == "max" else "lower is better"


@cache
def paper() -> dict[str, Any]:
    """The contents of ``paper.yaml``."""
    return load("paper.yaml")


def load(name: str) -> dict[str, Any]:
    """A YAML of this package."""
    values: dict[str, Any] = yaml.safe_load((files("tmsgd_bench.results") / name).read_text(encoding="utf-8"))
    return values


def layout(number: str, protocol: str = OWN_PROTOCOL) -> dict[str, Any]:
    """A table's entry, with what a protocol has otherwise.

    Args:
        number: the table's key.
        protocol: that the table's runs follow; the paper's own by default.

    Raises:
        ConfigError: the paper has no such table here.
    """
    if number not in paper()["tables"]:
        raise ConfigError(f"there is no table {number!r} here: choose one of {', '.join(paper()['tables'])}.")
    entry: dict[str, Any] = paper()["tables"][number]
    return {**entry, **entry.get("protocols", {}).get(protocol, {})}


def experiments(number: str, protocol: str = OWN_PROTOCOL) -> list[Experiment]:
    """The experiments of a table under a protocol, one for each of its blocks.

    Raises:
        ConfigError: the paper has no such table here.
    """
    table = layout(number, protocol)
    return [_experiment(number, table, block) for block in table["blocks"]]


def every_experiment(protocol: str = OWN_PROTOCOL) -> Iterator[Experiment]:
    """All experiments under a protocol, table by table."""
    for number in paper()["tables"]:
        yield from experiments(number, protocol)


def _experiment(number: str, table: Mapping[str, Any], block: Mapping[str, Any]) -> Experiment:
    rows = block["rows"]
    comparable = table["metric"] == layout(number)["metric"]  # with what the paper prints
    return Experiment(
        key="/".join(filter(None, (table["task"], block["model"], block.get("dataset")))),
        table=number,
        model=block["model"],
        dataset=block.get("dataset", table.get("dataset")),
        label=block["label"],
        last_epochs=table.get("last_epochs"),
        metric_label=table["name"],
        labels={row["optimizer"]: row["label"] for row in rows},
        stand_ins=tuple(table.get("stand_ins", ())),
        printed={row["optimizer"]: Printed.parse(row["value"]) for row in rows if comparable and "value" in row},
        **{key: table[key] for key in ("place", "task", "metric", "unit", "direction", "digits")},
    )
