"""Wrong values for every setting, and what the benchmark says of each.

    python scripts/wrong_values.py [--every N] [--show]

Every setting of every task, model, optimizer, schedule and tracker is given each of a list of values that are mostly
wrong, and is removed once. What should be accepted stands in ``ACCEPTED``, written by hand and apart from the checks
themselves: all the rest must be refused with one sentence. What is accepted must also make a run: its settings, its
folder's name, and three steps of its optimizer and its schedule. Nothing is loaded and no process is started.
"""

from __future__ import annotations

import argparse
import copy
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from hydra import compose as compose_config
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tmsgd_bench.engine import command_line, explanations, plan
from tmsgd_bench.engine.optimizers import build_optimizer, build_schedulers

CONF = Path(__file__).resolve().parents[1] / "conf"
REMOVED = "removed"
SYNTHETIC = "data=synthetic"
VALUES = {
    "null": "null",
    "true": "true",
    "minus": "-1",
    "zero": "0",
    "fraction": "1.5",
    "nan": "nan",
    "inf": "inf",
    "billion": "1000000000",
    "float": "1e9",
    "huge": str(10**30),
    "empty": "''",
    "word": "abc",
    "list": "[]",
    "pair": "[1,2]",
    "mapping": "{a:1}",
    "up": "'../x'",
    "slash": "a/b",
    "dot": ".x",
    "nul": "'a\0b'",
    "tag": "'<script>'",
    "reference": "${x}",
    "long": "x" * 5000,
}
"""Each value by a name of its own, as the command line takes it."""

TEXT = "word up slash dot"
PATH = f"{TEXT} tag"
ACCEPTED = {
    # names and texts
    "*._target_": "",
    "optimizer.name": "word",
    "task.name": "word",
    "model.name": "word",
    "optimizer.label": TEXT,
    "task.reading": f"{PATH} removed",
    "task.datasets": "removed",
    "task.datasets.20*+20*": "",  # no command line can name it
    "task.datasets.20*": "word removed",
    "task.without_test": "removed",
    "task.without_test.splits": "removed",
    "results.root": PATH,
    "data.root": f"null {PATH}",
    "data.name": "null",
    "data.years": "null",
    "tracker.folder": PATH,
    "tracker.uri": f"null {TEXT}",
    "tracker.experiment": TEXT,
    "tracker.project": TEXT,
    # flags
    "deterministic": "true",
    "tf32": "true",
    "plan": "true",
    "force": "true",
    "save_weights": "true",
    "save_predictions": "true",
    "data.verify": "true",
    "prefix.*": "true",
    "task.channels_last": "true",
    "optimizer.fused": "null true removed",
    "optimizer.foreach": "null true removed",
    # counts
    "seed": "zero billion",
    "threads": "null",
    "workers": "zero",
    "checkpoint_seconds": "zero fraction billion float",
    "log_sharpness": "null billion",
    "sharpness_examples": "billion",
    "data.limit": "null billion",
    "task.*.limit": "null billion removed",
    "switch_epoch": "zero billion",
    "task.evaluate_every": "billion",
    "task.min_count": "billion",
    "task.sample_epochs": "list pair",
    "optimizer.switch_epoch": "zero billion removed",
    "tmsgd_auto/optimizer.switch_epoch": "",
    "optimizer.restart_every_epochs": "null billion removed",
    "optimizer.warmup_steps": "zero billion removed",
    "optimizer.warmup.updates": "billion",
    "optimizer.auto_switch.every_epochs": "billion",
    "optimizer.auto_switch.patience": "billion",
    "optimizer.auto_switch.examples": "billion",
    "ctr/model.hidden": "list pair",
    "model.proposals.min_side": "zero",
    "model.frozen_stages": "zero",
    # numbers
    "lr": "fraction",
    "optimizer.lr": "fraction",
    "optimizer.momentum": "zero removed",
    "optimizer.weight_decay": "zero fraction removed",
    "optimizer.eps": "zero fraction removed",
    "optimizer.beta": "zero removed",
    "optimizer.betas": "removed",
    "optimizer.scheme": "removed",
    "optimizer.rebound": "removed",
    "optimizer.warmup": "null removed",
    "model.proposals.sigma": "fraction",
    # schedules
    "schedule": "null",
    "schedule.every": "",
    "schedule.gamma": "fraction",
    "ic/schedule.gamma": "fraction removed",
    "schedule.start_lr": "fraction",
    "schedule.milestones": "list pair",
    "schedule.warmup_epochs": "zero fraction billion float",
    "schedule.epochs": "fraction billion float",
    "schedule.power": "fraction",
}
"""The names of the values that are fine, by the setting; those of a protocol are in ``accepted``."""


@dataclass(frozen=True)
class Case:
    """A value of a setting.

    Args:
        base: the settings it is given together with.
        key: the setting.
        value: the value's name, or "removed".
        accepted: whether it is fine.
    """

    base: tuple[str, ...]
    key: str
    value: str
    accepted: bool

    @property
    def override(self) -> str:
        """What is typed on the command line."""
        return f"~{self.key}" if self.value == REMOVED else f"{self.key}={VALUES[self.value]}"


@dataclass(frozen=True)
class Verdict:
    """What became of a case.

    Args:
        outcome: "refused", "accepted" or "traceback".
        said: the sentence, or the traceback.
    """

    outcome: str
    said: str = ""

    def fits(self, case: Case) -> bool:
        """Whether that is right: accepted if it is fine, or refused in one sentence about the setting or its value."""
        if self.outcome == "traceback" or (self.outcome == "accepted") != case.accepted:
            return False
        value = "'x'" if case.value == "reference" else VALUES.get(case.value, case.key)
        named = case.key.rpartition(".")[2] in self.said or value in self.said
        return self.outcome == "accepted" or (named and "\n" not in self.said)


def bases() -> Iterator[tuple[tuple[str, ...], str]]:
    """Settings to start from, and which of the settings are tried there: those that begin with a prefix."""
    for task in _names("task"):
        yield (f"task={task}",), ""
    for task, models in {"ic": ("resnet18",), "od": ("fast_rcnn",)}.items():
        for model in models:
            yield (f"task={task}", f"model={model}"), "model"
    for optimizer in _names("optimizer"):
        yield (f"optimizer={optimizer}",), "optimizer"
    yield ("task=ic", "protocol=corrected"), "schedule"
    for tracker in _names("tracker"):
        yield (f"tracker={tracker}",), "tracker"


def _names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def settings(config: DictConfig) -> list[str]:
    """Every setting and every group of settings, with dots between its parts; those in lists are no settings."""
    return _flat(OmegaConf.to_container(config, resolve=False), "")


def _flat(values: Any, prefix: str) -> list[str]:
    if not isinstance(values, dict):
        return []
    return [name for key, value in values.items() for name in (f"{prefix}{key}", *_flat(value, f"{prefix}{key}."))]


def accepted(config: DictConfig, key: str, value: str) -> bool:
    """Whether a value of a setting is fine, by ``ACCEPTED``."""
    head, _, rest = key.partition(".")
    protocol, _, inner = rest.partition(".")
    if key == "tracker._target_":  # none is what tracker=none has
        return value == "null" and config.tracker._target_ is None
    if head == "task" and protocol in ("table2", "corrected", "smoke"):
        return _accepted_of_protocol(config, protocol, inner, value)
    return value in _accepted(config, key)


def _accepted(config: DictConfig, key: str) -> list[str]:
    """The values of a setting by what stands for this task or optimizer, or for the setting, or for those like it."""
    patterns = (pattern for pattern in ACCEPTED if fnmatchcase(key, pattern))
    first = next(
        (
            name
            for name in (*(f"{one.name}/{key}" for one in (config.task, config.optimizer)), key, *patterns)
            if name in ACCEPTED
        ),
        None,
    )
    return ACCEPTED[first].split() if first else []


def _accepted_of_protocol(config: DictConfig, protocol: str, inner: str, value: str) -> bool:
    """A protocol that is not in use may be removed, and what the run does not look up in it."""
    in_use = config.protocol == protocol
    if not inner:
        return value == REMOVED and not in_use
    if inner in ("epochs", "lr", "batch_size", "switch_epoch", "schedule") or inner.startswith("schedule."):
        nullable = inner == "switch_epoch" and value == "null" and not in_use
        return nullable or value in _accepted(config, inner)
    looked_up = in_use and (inner in config.model or inner in config.task)
    if value == REMOVED or (inner == "weights" and value in ("up", "slash")):  # the path of a file
        return not looked_up
    return any(value in _accepted(config, key) for key in (f"data.{inner}", f"task.{inner}", f"model.{inner}"))


def cases() -> Iterator[Case]:
    """Every value of every setting."""
    with initialize_config_dir(str(CONF)):
        composed = [(*base, compose_config("config", overrides=[*base[0], SYNTHETIC])) for base in bases()]
    for base, prefix, config in composed:
        for key in settings(config):
            if key.startswith(prefix):
                for value in (*VALUES, REMOVED):
                    yield Case(base, key, value, accepted(config, key, value))


class Judge:
    """Composes configurations as Hydra does, and keeps those that cases start from: composing takes 0.1 seconds."""

    def __init__(self) -> None:
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._groups = {path.name for path in CONF.iterdir() if path.is_dir()}

    def __call__(self, case: Case) -> Verdict:
        """What the benchmark says of a case."""
        try:
            use(self._composed(case))
        except Exception as error:
            sentence = explanations.explain(error, CONF)
            if sentence is None:
                return Verdict("traceback", "".join(traceback.format_exception(error)))
            return Verdict("refused", sentence)
        return Verdict("accepted")

    def _composed(self, case: Case) -> DictConfig:
        base = [*case.base, SYNTHETIC]
        with initialize_config_dir(str(CONF)):
            if case.key in self._groups:
                command_line.check_groups([case.override], CONF)
                return compose_config("config", overrides=[*base, case.override])
            if case.base not in self._bases:
                self._bases[case.base] = compose_config("config", overrides=base)
            with suppress(OmegaConfBaseException):
                return _overridden(self._bases[case.base], case.override)
            return compose_config("config", overrides=[*base, case.override])  # for its error


def _overridden(config: DictConfig, text: str) -> DictConfig:
    """A copy with one setting changed as Hydra changes it; not for groups, which are composed anew."""
    changed = copy.deepcopy(config)
    (override,) = OverridesParser.create().parse_overrides([text])
    if not override.is_delete():
        OmegaConf.update(changed, override.key_or_group, override.value(), merge=True)
        return changed
    parent, _, key = override.key_or_group.rpartition(".")
    with open_dict(changed):
        del (OmegaConf.select(changed, parent) if parent else changed)[key]
    return changed


def use(config: DictConfig) -> None:
    """Go as far with a configuration as is possible without data: its run, its optimizer, its schedule, three steps."""
    plan.wanted(config)
    job = plan.of_config(config, in_sweep=False)
    root = job.options.results_root
    if job.folder.final.parent != root or job.spec.run_id.startswith("."):
        raise AssertionError(f"{job.folder.final} is not a run of {root}")
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = build_optimizer(job.spec.optimizer, [weight], steps_per_epoch=7)
    schedulers = [one for some in build_schedulers(job.spec.optimizer, job.spec.schedule, optimizer, 7) for one in some]
    for _ in range(3):
        optimizer.zero_grad()
        weight.square().sum().backward()
        for stepped in (optimizer, *schedulers):
            stepped.step()


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the values, print what went wrong and the sums; 1 if anything did."""
    # version_base exists in Hydra 1.3 alone; see run.py.
    warnings.filterwarnings("ignore", message=r"\s*The version_base parameter")
    parser = argparse.ArgumentParser(description="Try wrong values of every setting.")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one value in N")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="settings that match, such as optimizer.*")
    parser.add_argument("--show", action="store_true", help="print every sentence")
    options = parser.parse_args(arguments)
    judge, counts, wrong = Judge(), Counter[str](), 0
    chosen = (case for case in cases() if fnmatchcase(case.key, options.only))
    for case in islice(chosen, 0, None, options.every):
        verdict = judge(case)
        counts[verdict.outcome] += 1
        wrong += not verdict.fits(case)
        if options.show or not verdict.fits(case):
            should = "accepted" if case.accepted else "refused"
            given = f"{' '.join(case.base)} {case.override[:80]!r}"
            print(f"{given}: {verdict.outcome}, should be {should}: {verdict.said}")
    total = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
    print(f"{sum(counts.values())} values: {total}; {wrong} not as they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
