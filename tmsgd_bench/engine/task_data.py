"""The data of a task: which data set, where it is, and whether its files are verified."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from tmsgd_bench import splits
from tmsgd_bench.checks import shown
from tmsgd_bench.data.catalog import OWN, Combined, Dataset, data_root, find_all
from tmsgd_bench.errors import ConfigError

if TYPE_CHECKING:  # importing torch takes seconds, which looking at the settings should not cost
    import torch

    from tmsgd_bench.task import TaskSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskData:
    """A data set for a task.

    Args:
        name: of an entry of the catalog, or of several with "+" between them.
        kind: "real" or "synthetic".
        root: the folder of all data sets; None for the usual one.
        verify: whether real files must be the published ones.
        needs_test: whether the files that only the test split uses are needed.
        entries: the folders of the user's own entries.
    """

    name: str
    kind: str = "real"
    root: str | None = None
    verify: bool = True
    needs_test: bool = True
    entries: tuple[Path, ...] = ()

    @property
    def dataset(self) -> Dataset | Combined:
        """The entry of the catalog, without the files that are not needed.

        Raises:
            ConfigError: there is none of that name.
        """
        dataset = find_all(self.name, self.entries)
        return dataset if self.needs_test else dataset.without_test()

    @property
    def folder(self) -> Path:
        """Where the files are, or will be."""
        return self.dataset.folder(data_root(self.root), self.kind)

    def fingerprint(self) -> str:
        """The data set's fingerprint; see :meth:`Dataset.fingerprint`."""
        return self.dataset.fingerprint(self.folder, self.kind, self.verify)

    def lacking(self) -> dict[str, str]:
        """What will happen about real files that are not there; see :meth:`Dataset.lacking`."""
        return self.dataset.lacking(data_root(self.root)) if self.kind == "real" and self.verify else {}

    def ready(self) -> Path:
        """Verify, download or write the files; returns their folder. Without ``verify``, real files are not checked.

        Raises:
            DataError: the data set is missing, damaged, or cannot be downloaded.
        """
        if self.kind == "real" and not self.verify:
            log.warning("data.verify=false: the files of %s are used without checking them", self.name)
            return self.folder
        return self.dataset.prepare(data_root(self.root), self.kind, log.info)

    def settings(self, folder: Path, fingerprint: str, device: torch.device) -> TaskSettings:
        """Settings of a task with these data, batch size 1, seed 0 and a model without options.

        Args:
            folder: of the files, as :meth:`ready` returns it.
            fingerprint: as :meth:`fingerprint` returns it.
            device: for modules and data.
        """
        from tmsgd_bench.task import TaskSettings

        return TaskSettings(
            data_folder=folder,
            data_limit=None,
            batch_size=1,
            seed=0,
            device=device,
            model={},
            fingerprint=fingerprint,
            weights_folder=data_root(self.root) / "weights",
        )


def chosen(values: dict[str, Any]) -> TaskData:
    """The data that a run needs.

    ``data.name`` or ``data.years`` choose one of the task's ``datasets``. The test split's files are not needed if the
    task is evaluated on a validation split, or if its options have the values in its ``without_test``.

    Raises:
        ConfigError: the task has no such data set.
    """
    task, data = values["task"], values["data"]
    return TaskData(
        _chosen_dataset(values),
        data["kind"],
        data["root"],
        data["verify"],
        _needs_test(task, data),
        entry_folders(),
    )


def entry_folders() -> tuple[Path, ...]:
    """The folders of the user's own entries: ``data_entries`` in each folder that Hydra reads settings from.

    Like Hydra's compose(), this always sees the folder of ``--config-dir``, and those of ``hydra.searchpath`` in a run.
    """
    places = []
    if HydraConfig.initialized():
        places += [(source.schema, source.path) for source in HydraConfig.get().runtime.config_sources]
    if GlobalHydra.instance().is_initialized():
        sources = GlobalHydra.instance().config_loader().get_sources()
        places += [(source.scheme(), source.path) for source in sources]
    folders = dict.fromkeys(Path(path) / OWN for scheme, path in places if scheme == "file")
    return tuple(folder for folder in folders if folder.is_dir())


def _needs_test(task: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Whether the files that only the test split uses are needed.

    Of unverified data they are, even with the options of ``without_test``: the fingerprint is of all files there.
    """
    if not evaluates_on_test(task):
        return False
    without_test = task.get("without_test")
    return not without_test or not data["verify"] or any(task[key] != value for key, value in without_test.items())


def evaluates_on_test(task: Mapping[str, Any]) -> bool:
    """Whether a task's settings ask for the test split, as they do unless they say otherwise."""
    return splits.evaluated(task) == splits.TEST


def _chosen_dataset(values: dict[str, Any]) -> str:
    """The name of the data set that is asked for, or of the task's default."""
    default, chosen = values["task"]["dataset"], values["data"]["name"]
    usable = values["task"].get("datasets", [default])
    of_years = {str(key): name for key, name in usable.items()} if isinstance(usable, Mapping) else {}
    if (years := values["data"]["years"]) is not None:
        return _of_years(years, chosen, of_years)
    names = list(of_years.values()) or usable
    if chosen is not None and chosen not in names:
        raise ConfigError(f"data.name must be one of {', '.join(names)} for this task, not {chosen!r}.")
    return default if chosen is None else chosen


def _of_years(years: Any, chosen: str | None, of_years: Mapping[str, str]) -> str:
    """The name of the data set that ``data.years`` stands for."""
    if str(years) not in of_years:
        known = f"one of {', '.join(of_years)}" if of_years else "null, for this task's data set has none"
        raise ConfigError(f"data.years must be {known}, not {shown(years)}.")
    name = of_years[str(years)]
    if chosen not in (None, name):
        raise ConfigError(f"data.name={chosen} and data.years={years} name two data sets: leave one of them away.")
    return name
